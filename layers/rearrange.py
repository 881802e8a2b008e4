"""Copies that change the order or the number of elements, and views that cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import Dim, E, E_o, Shape, numbered
from perfmodel.layers.layer import Formula, Layer, Role

REARRANGE = Formula(inputs=(E_o,), reads=(E_o,), writes=E_o)
"""Every element of the result is read once and written once."""

REPEAT = Formula(inputs=numbered(E, 1), reads=numbered(E, 1), writes=E_o)
"""Every element of the result is written once; those of the input are read once, however often they are repeated."""

VIEW = Formula(inputs=(E_o,), reads=(E_o,), writes=0)
"""Nothing is moved; who reads the view reads its elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rearrange(Layer):
    """A copy into another order (channel shuffle, window partition, transpose), of a part (gather), or repeated: `purpose` says which."""

    kind: ClassVar[str] = "rearrange"
    role: ClassVar[Role] = "copy"

    purpose: str
    output: Shape
    image: bool = False
    """The result is a batch of images, in the order of its axes: NCHW."""

    @property
    def formula(self) -> Formula:
        return REPEAT if self.purpose == "repeat" else REARRANGE

    def output_shape(self, *inputs: Shape) -> Shape:
        del inputs
        return self.output

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (source,) = numbered(E, 1)
        return {source: inputs[0].elements, E_o: self.output.elements}


@dataclass(frozen=True, slots=True, kw_only=True)
class View(Layer):
    """A part of a tensor, read where it lies: a slice or one result of a split."""

    kind: ClassVar[str] = "view"
    role: ClassVar[Role] = "view"

    output: Shape

    @property
    def formula(self) -> Formula:
        return VIEW

    def output_shape(self, *inputs: Shape) -> Shape:
        del inputs
        return self.output

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        del inputs
        return {E_o: self.output.elements}
