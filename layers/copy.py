"""Moving data without arithmetic: the start of a network, and the copies that frameworks make (to another type or layout)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import sympy

from perfmodel.layers.dims import C, Dim, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, image

COPY = Formula(inputs=(N * C * H * W,), reads=(N * C * H * W,), writes=N * C * H * W)
"""Every element read once and written once."""

NOTHING = Formula(inputs=(), reads=(), writes=N * C * H * W)
"""A tensor that is there before the network starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Layer):
    """A copy of a tensor: `cast` to another element type, `layout` between NCHW and NHWC, or `slice` of a part of its channels.

    As layers of a network, these are what it asks for itself: `layout` puts images in the order of their axes, NCHW; `cast` converts to
    fp32, and what is in fp32 already, back to the type of the activations. Where all tensors are of one order or type it is nothing.
    """

    kind: ClassVar[str] = "copy"
    role: ClassVar[Role] = "copy"

    purpose: Literal["cast", "layout", "slice"]

    @property
    def formula(self) -> Formula:
        return COPY

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return image(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Layer):
    """The network's input tensor."""

    kind: ClassVar[str] = "input"
    role: ClassVar[Role] = "input"

    shape: Shape

    @property
    def formula(self) -> Formula:
        return NOTHING

    def output_shape(self, *inputs: Shape) -> Shape:
        del inputs
        return self.shape

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        del inputs
        return image(self.shape)
