"""Norms over groups of channels of a whole image: group norm, and instance norm where each channel is a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, G, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError, Weight, image, require_channels, require_positive

GROUP_NORM = Formula(
    # as a layer norm: per element an addition, a subtraction, a multiply-add, a multiplication and a multiply-add with γ and β;
    # per group the mean's multiplication, the variance's, + ε, and a reciprocal square root
    vector_ops=7 * N * C * H * W + 3 * N * G,
    special_ops=N * G,
    inputs=(N * C * H * W,),
    reads=(N * C * H * W,),
    writes=N * C * H * W,
    weights=(Weight(name="weight", elements=C), Weight(name="bias", elements=C)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNorm(Layer):
    """Normalises each of `groups` groups of channels over the whole image, then scales and shifts each channel."""

    kind: ClassVar[str] = "group_norm"
    role: ClassVar[Role] = "reduction"

    channels: Dim
    groups: Dim

    def __post_init__(self) -> None:
        require_positive(self, channels=self.channels, groups=self.groups)
        if isinstance(self.channels, int) and self.channels % self.groups:
            raise ShapeError(f"group_norm: {self.channels} channels do not divide into {self.groups} groups; choose a divisor")

    @property
    def formula(self) -> Formula:
        return GROUP_NORM

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.channels, x)
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return {**image(x), G: self.groups}
