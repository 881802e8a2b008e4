"""Concatenation along the channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, N, Shape, W, numbered
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError


@cache
def concat_formula(inputs: int) -> Formula:
    """No arithmetic: every element is read once and written once."""
    parts = tuple(N * channels * H * W for channels in numbered(C, inputs))
    return Formula(inputs=parts, reads=parts, writes=sum(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Layer):
    """Joins `inputs` tensors of one image size along their channels, by copying."""

    kind: ClassVar[str] = "concat"
    role: ClassVar[Role] = "copy"

    inputs: int = 2
    stacked: bool = False
    """The tensors are joined along a new axis, not along their channels: images lie in the order of their axes then."""

    def __post_init__(self) -> None:
        if self.inputs < 2:
            raise ShapeError(f"concat joins at least 2 tensors, not {self.inputs}")

    @property
    def formula(self) -> Formula:
        return concat_formula(self.inputs)

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != self.inputs:
            raise ShapeError(f"concat of {self.inputs} tensors was given {len(inputs)}")
        first = inputs[0]
        if any(x._replace(C=first.C) != first for x in inputs):
            raise ShapeError(f"concat: inputs {' and '.join(map(str, inputs))} differ in more than their channels")
        return first._replace(C=sum(x.C for x in inputs))

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        x = inputs[0]
        return {
            N: x.N,
            H: x.H,
            W: x.W,
            **{symbol: part.C for symbol, part in zip(numbered(C, self.inputs), inputs, strict=True)},
        }
