"""Reductions over any axes: sum, mean, maximum, minimum, product, variance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import ClassVar, Final

import sympy

from perfmodel.errors import UnknownNameError
from perfmodel.layers.dims import C, Dim, E_o, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError, image

REDUCE_OPS: Final = MappingProxyType(
    {
        "sum": (1, 0, 0),
        "max": (1, 0, 0),
        "min": (1, 0, 0),
        "product": (1, 0, 0),
        "mean": (1, 1, 0),
        "variance": (4, 2, 0),  # mean; subtract; multiply-add; divide by the number
        "norm": (2, 0, 1),  # multiply-add; square root
    }
)
"""(vector operations per element read, vector operations per result, special functions per result)."""


@cache
def reduce_formula(function: str) -> Formula:
    """Each element read once, each result written once."""
    try:
        element, result, special = REDUCE_OPS[function]
    except KeyError:
        raise UnknownNameError("reduction", function, REDUCE_OPS) from None
    elements = N * C * H * W
    return Formula(
        vector_ops=element * elements + result * E_o,
        special_ops=special * E_o,
        inputs=(elements,),
        reads=(elements,),
        writes=E_o,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Layer):
    """Reduces a tensor to one of shape `output`, which has an element for every so many of its own."""

    kind: ClassVar[str] = "reduce"
    role: ClassVar[Role] = "reduction"

    function: str
    output: Shape

    def __post_init__(self) -> None:
        reduce_formula(self.function)

    @property
    def formula(self) -> Formula:
        return reduce_formula(self.function)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if x.elements % self.output.elements:
            raise ShapeError(f"reduce: {x} cannot be reduced to {self.output}; its elements must divide")
        return self.output

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        return {**image(inputs[0]), E_o: self.output.elements}
