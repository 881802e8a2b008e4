"""Upsampling by a whole factor, and resizing to any size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import ClassVar, Final

import sympy

from perfmodel.errors import UnknownNameError
from perfmodel.layers.dims import C, Dim, H, N, P, Q, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, require_positive

OUTPUT_OPS: Final = MappingProxyType({"nearest": 0, "bilinear": 9})
"""Vector operations per output: bilinear interpolates three times, a + t·(b − a) each time."""


@cache
def upsample_formula(mode: str) -> Formula:
    """Each input element read once, each output element written once."""
    try:
        ops = OUTPUT_OPS[mode]
    except KeyError:
        raise UnknownNameError("upsampling mode", mode, OUTPUT_OPS) from None
    return Formula(vector_ops=ops * N * C * P * Q, inputs=(N * C * H * W,), reads=(N * C * H * W,), writes=N * C * P * Q)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsample(Layer):
    """Enlarges the image by `factor` in both directions."""

    kind: ClassVar[str] = "upsample"
    role: ClassVar[Role] = "window"

    factor: int = 2
    mode: str = "nearest"

    def __post_init__(self) -> None:
        require_positive(self, factor=self.factor)
        upsample_formula(self.mode)

    @property
    def formula(self) -> Formula:
        return upsample_formula(self.mode)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        return Shape(x.N, x.C, x.H * self.factor, x.W * self.factor)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        out = self.output_shape(x)
        return {N: x.N, C: x.C, H: x.H, W: x.W, P: out.H, Q: out.W}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Layer):
    """Resamples the image to `size` (height, width)."""

    kind: ClassVar[str] = "resize"
    role: ClassVar[Role] = "window"

    size: tuple[int, int]
    mode: str = "nearest"

    def __post_init__(self) -> None:
        require_positive(self, size=self.size)
        upsample_formula(self.mode)

    @property
    def formula(self) -> Formula:
        return upsample_formula(self.mode)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        return Shape(x.N, x.C, *self.size)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return {N: x.N, C: x.C, H: x.H, W: x.W, P: self.size[0], Q: self.size[1]}
