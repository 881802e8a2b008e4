"""Padding as a step of its own, where no convolution does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, E_o, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError, image

PAD = Formula(inputs=(N * C * H * W,), reads=(N * C * H * W,), writes=E_o)
"""Every element read once; every element of the larger tensor written once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad(Layer):
    """Copies a tensor into a larger one of shape `output`.

    `sides` is (top, bottom, left, right) where only the image grows, and by zeros, so that a convolution could do it; None otherwise.
    """

    kind: ClassVar[str] = "pad"
    role: ClassVar[Role] = "copy"

    output: Shape
    sides: tuple[int, int, int, int] | None = None
    reflected: bool = False
    """The border repeats or mirrors the image, instead of holding one number."""

    @property
    def formula(self) -> Formula:
        return PAD

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if self.output.elements < x.elements:
            raise ShapeError(f"pad: {self.output} is smaller than its input {x}")
        return self.output

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        return {**image(inputs[0]), E_o: self.output.elements}
