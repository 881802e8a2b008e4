"""Norm by the root of the mean square over the channels of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, Weight, image, require_channels, require_positive

RMS_NORM = Formula(
    # per pixel: C multiply-adds, the mean's multiplication, + ε, reciprocal square root, C multiplications, C with the weight
    vector_ops=N * H * W * (4 * C + 2),
    special_ops=N * H * W,
    inputs=(N * C * H * W,),
    reads=(N * C * H * W,),
    writes=N * C * H * W,
    weights=(Weight(name="weight", elements=C),),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNorm(Layer):
    """x·(mean(x²) + ε)^-½ times a weight per channel (Zhang and Sennrich, 2019)."""

    kind: ClassVar[str] = "rms_norm"
    role: ClassVar[Role] = "reduction"

    channels: Dim

    def __post_init__(self) -> None:
        require_positive(self, channels=self.channels)

    @property
    def formula(self) -> Formula:
        return RMS_NORM

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.channels, x)
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        return image(inputs[0])
