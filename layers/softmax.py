"""Softmax over the channels of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, image

SOFTMAX = Formula(
    # per pixel: C comparisons, C subtractions, C exponentials, C additions, one reciprocal, C multiplications
    vector_ops=4 * N * C * H * W,
    special_ops=N * H * W * (C + 1),
    inputs=(N * C * H * W,),
    reads=(N * C * H * W,),
    writes=N * C * H * W,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Layer):
    """exp(x − max x) / Σ exp(x − max x) over channels."""

    kind: ClassVar[str] = "softmax"
    role: ClassVar[Role] = "reduction"

    @property
    def formula(self) -> Formula:
        return SOFTMAX

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return image(x)
