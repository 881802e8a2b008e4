"""Elementwise functions of one or more tensors of any broadcast shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import ClassVar, Final

import sympy

from perfmodel.errors import UnknownNameError
from perfmodel.layers.dims import Dim, E, E_o, Shape, numbered
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError

OPERAND_OPS: Final = MappingProxyType(
    {
        "add": (1, 0),
        "subtract": (1, 0),
        "multiply": (1, 0),
        "multiply_add": (2, 0),
        "maximum": (1, 0),
        "minimum": (1, 0),
        "compare": (1, 0),
        "select": (1, 0),
        "divide": (1, 1),  # reciprocal, multiplication
        "power": (1, 2),  # exp(y·log x)
    }
)
"""(vector operations, special functions) per element of the result."""


@cache
def pointwise_formula(function: str, operands: int) -> Formula:
    """Each operand's own elements are read once, however often they are broadcast."""
    try:
        vector, special = OPERAND_OPS[function]
    except KeyError:
        raise UnknownNameError("elementwise function", function, OPERAND_OPS) from None
    reads = numbered(E, operands)
    return Formula(vector_ops=vector * E_o, special_ops=special * E_o, inputs=reads, reads=reads, writes=E_o)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise(Layer):
    """An elementwise function whose operands are broadcast to `output`; an operand that is a plain number is not counted as one."""

    kind: ClassVar[str] = "pointwise"
    role: ClassVar[Role] = "elementwise"

    function: str
    operands: int
    output: Shape

    def __post_init__(self) -> None:
        pointwise_formula(self.function, self.operands)

    @property
    def formula(self) -> Formula:
        return pointwise_formula(self.function, self.operands)

    def output_shape(self, *inputs: Shape) -> Shape:
        if any(x.elements > self.output.elements for x in inputs):
            raise ShapeError(f"pointwise: {' and '.join(map(str, inputs))} have more elements than the result {self.output}")
        return self.output

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        elements = dict(zip(numbered(E, self.operands), (x.elements for x in inputs), strict=True))
        return {**elements, E_o: self.output.elements}
