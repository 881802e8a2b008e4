"""Trained tensors that a network reads as it reads activations: position embeddings, class tokens, mixing weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import sympy

from perfmodel.layers.dims import Dim, E_o, Shape
from perfmodel.layers.layer import Formula, Layer, Role, Weight


@cache
def parameter_formula(*, trained: bool) -> Formula:
    """Nothing is done; it is there before the network starts, and its readers count the reading."""
    return Formula(inputs=(), reads=(), writes=E_o, weights=(Weight(name="value", elements=E_o, trained=trained),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter(Layer):
    """A tensor of parameters (or of constants: not trained) that is an operand of other layers."""

    kind: ClassVar[str] = "parameter"
    role: ClassVar[Role] = "input"

    shape: Shape
    trained: bool = True
    scalar: bool = False
    """Of no dimension: such a tensor does not widen the type of those it is combined with."""
    converted: bool = False
    """The network converts it to the type of its activations before it uses it."""

    @property
    def formula(self) -> Formula:
        return parameter_formula(trained=self.trained)

    def output_shape(self, *inputs: Shape) -> Shape:
        del inputs
        return self.shape

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        del inputs
        return {E_o: self.shape.elements}
