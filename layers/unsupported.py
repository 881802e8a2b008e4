"""What is not understood: its tensors are counted, its arithmetic is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import sympy

from perfmodel.layers.dims import Dim, E, E_o, Shape, numbered
from perfmodel.layers.layer import Formula, Layer, Role


@cache
def unsupported_formula(inputs: int) -> Formula:
    """Every input read once, every output written once, in a kernel of its own; no arithmetic, which nobody here knows."""
    reads = numbered(E, inputs)
    return Formula(inputs=reads, reads=reads, writes=E_o)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported(Layer):
    """An operation that no rule knows, as one memory-bound kernel. `operation` is its name in the framework that it came from."""

    kind: ClassVar[str] = "unsupported"
    role: ClassVar[Role] = "opaque"

    operation: str
    inputs: int
    output: Shape

    @property
    def formula(self) -> Formula:
        return unsupported_formula(self.inputs)

    def output_shape(self, *inputs: Shape) -> Shape:
        del inputs
        return self.output

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        elements = dict(zip(numbered(E, self.inputs), (x.elements for x in inputs), strict=True))
        return {**elements, E_o: self.output.elements}
