"""Elementwise arithmetic between tensors, and with one value per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, H_f, N, Shape, W, W_f, is_symbolic
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError, Weight, image, require_channels, require_positive, same_shape

_ELEMENTS = N * C * H * W

ADD = Formula(vector_ops=_ELEMENTS, inputs=(_ELEMENTS, _ELEMENTS), reads=(_ELEMENTS, _ELEMENTS), writes=_ELEMENTS)
"""One addition per element of two tensors of one shape."""

MULTIPLY = Formula(
    vector_ops=_ELEMENTS, inputs=(_ELEMENTS, N * C * H_f * W_f), reads=(_ELEMENTS, N * C * H_f * W_f), writes=_ELEMENTS
)
"""One multiplication per element; the second tensor is H_f × W_f (1 × 1: one factor per channel)."""

SCALE = Formula(
    vector_ops=_ELEMENTS,
    inputs=(_ELEMENTS,),
    reads=(_ELEMENTS,),
    writes=_ELEMENTS,
    weights=(Weight(name="weight", elements=C),),
)
"""One multiplication per element by a weight of its channel."""

BIAS_ADD = Formula(
    vector_ops=_ELEMENTS,
    inputs=(_ELEMENTS,),
    reads=(_ELEMENTS,),
    writes=_ELEMENTS,
    weights=(Weight(name="bias", elements=C),),
)
"""One addition per element of a weight of its channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Layer):
    """Sum of two tensors, as at the end of a residual block."""

    kind: ClassVar[str] = "add"
    role: ClassVar[Role] = "elementwise"

    @property
    def formula(self) -> Formula:
        return ADD

    def output_shape(self, *inputs: Shape) -> Shape:
        left, right = inputs
        return same_shape(self, left, right)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        return image(inputs[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiply(Layer):
    """Product of a tensor with another of the same shape, or with one factor per image and channel (N×C×1×1)."""

    kind: ClassVar[str] = "multiply"
    role: ClassVar[Role] = "elementwise"

    @property
    def formula(self) -> Formula:
        return MULTIPLY

    def output_shape(self, *inputs: Shape) -> Shape:
        x, factor = inputs
        if factor not in (x, Shape(x.N, x.C, 1, 1)) and not is_symbolic(*x, *factor):
            raise ShapeError(
                f"multiply: {x} cannot be multiplied by {factor}; the second must be of the same shape or {x.N}×{x.C}×1×1"
            )
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        x, factor = inputs
        return {**image(x), H_f: factor.H, W_f: factor.W}


@dataclass(frozen=True, slots=True, kw_only=True)
class _PerChannel(Layer):
    role: ClassVar[Role] = "elementwise"

    channels: Dim
    converted: bool = False
    """The weight is converted to the type of the activations first; otherwise the result takes the wider of both types."""

    def __post_init__(self) -> None:
        require_positive(self, channels=self.channels)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.channels, x)
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        return image(inputs[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale(_PerChannel):
    """Product with a trained factor per channel (ConvNeXt's layer scale)."""

    kind: ClassVar[str] = "scale"

    @property
    def formula(self) -> Formula:
        return SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasAdd(_PerChannel):
    """Sum with a trained bias per channel, as the kernel of its own that frameworks launch after a convolution."""

    kind: ClassVar[str] = "bias_add"

    @property
    def formula(self) -> Formula:
        return BIAS_ADD
