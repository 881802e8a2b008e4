"""What every kind of layer has: one symbolic formula, and how a concrete layer binds its symbols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

import sympy

from perfmodel.errors import PerfmodelError
from perfmodel.layers import dims
from perfmodel.layers.cost import Cost, Quantity
from perfmodel.layers.dims import Dim, Shape

Role = Literal["matrix", "norm", "elementwise", "reduction", "window", "copy", "view", "opaque", "input"]
"""How a layer behaves in a kernel.

matrix: convolution or matrix product; norm: inference-time affine map per channel, which a convolution can absorb; elementwise: each
output element needs the elements at its own place only; reduction: needs a whole row or image; window: pooling and resampling; copy:
moves data; view: names a part of a tensor and moves nothing; opaque: not understood, so that nothing
joins it; input: is there before the network starts.
"""


class ShapeError(PerfmodelError):
    """A layer that its input does not fit: names the layer, the dimensions and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A parameter tensor of a layer: its name, its elements, and whether training changes it (running statistics it does not)."""

    name: str
    elements: Dim
    trained: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A formula with its symbols bound: arithmetic, and elements moved (not bytes: types belong to tensors)."""

    macs: Quantity
    vector_ops: Quantity
    special_ops: Quantity
    reads: tuple[Quantity, ...]
    """Elements read of each input."""
    writes: Quantity
    """Elements written."""
    weights: tuple[Quantity, ...]
    """Elements of each weight."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Formula:
    """The cost of one kind of layer in the symbols of `dims`, written once.

    Numbers come from `bind`, which evaluates the expressions through one function that sympy generates from them (common subexpressions
    shared); it takes Python integers (exact, of any size) and NumPy or CuPy arrays alike.
    """

    macs: Dim = 0
    vector_ops: Dim = 0
    special_ops: Dim = 0
    inputs: tuple[Dim, ...]
    """Elements of each input tensor."""
    reads: tuple[Dim, ...]
    """Elements of each input that are read (fewer than it has where a stride skips some)."""
    writes: Dim
    """Elements of the output."""
    weights: tuple[Weight, ...] = ()

    @property
    def _expressions(self) -> list[Dim]:
        weights = [weight.elements for weight in self.weights]
        return [self.macs, self.vector_ops, self.special_ops, *self.reads, self.writes, *weights]

    @cached_property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """The free symbols, in alphabetical order."""
        free: set[sympy.Symbol] = set().union(*(dims.expression(x).free_symbols for x in self._expressions))
        return tuple(sorted(free, key=str))

    @cached_property
    def _function(self) -> Callable[..., list[Quantity]]:
        return sympy.lambdify(self.symbols, self._expressions, modules="math", cse=True)  # type: ignore[no-any-return]

    def bind(self, binding: Mapping[sympy.Symbol, Dim]) -> Count:
        """The counts for these dimensions: numbers or arrays through the generated function, expressions by substitution."""
        if dims.is_symbolic(*binding.values()):
            values = [sympy.expand(dims.expression(x).xreplace(dict(binding))) for x in self._expressions]
        else:
            values = self._function(*(binding[symbol] for symbol in self.symbols))
        inputs = len(self.reads)
        return Count(
            macs=values[0],
            vector_ops=values[1],
            special_ops=values[2],
            reads=tuple(values[3 : 3 + inputs]),
            writes=values[3 + inputs],
            weights=tuple(values[4 + inputs :]),
        )

    def cost(self, bytes_per_element: Dim = dims.b) -> Cost:
        """Cost of the layer alone, as one kernel: each input and weight read once, the output written once."""
        return Cost(
            macs=self.macs,
            vector_ops=self.vector_ops,
            special_ops=self.special_ops,
            read_activation_bytes=bytes_per_element * sum(self.reads),
            read_weight_bytes=bytes_per_element * sum(weight.elements for weight in self.weights),
            written_activation_bytes=bytes_per_element * self.writes,
        )

    def footprint_bytes(self, bytes_per_element: Dim = dims.b) -> Dim:
        """Bytes that exist: all inputs, weights and the output, whether read or not."""
        weights = sum(weight.elements for weight in self.weights)
        return bytes_per_element * (sum(self.inputs) + weights + self.writes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(ABC):
    """A layer with its hyper-parameters. Its kind's formula is shared by all layers of that kind."""

    kind: ClassVar[str]
    role: ClassVar[Role]

    @property
    @abstractmethod
    def formula(self) -> Formula:
        """The kind's cost in symbols."""

    @abstractmethod
    def output_shape(self, *inputs: Shape) -> Shape:
        """Shape of the output; raises ShapeError where the inputs do not fit."""

    @abstractmethod
    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        """What each symbol of the formula stands for in this layer."""

    def count(self, *inputs: Shape) -> Count:
        """Arithmetic and elements moved for these input shapes."""
        return self.formula.bind(self.binding(*inputs))

    def describe(self) -> str:
        """The hyper-parameters that its repr shows, for error messages and tables."""
        return ", ".join(f"{f.name}={_plain(getattr(self, f.name))}" for f in fields(self) if f.repr)


def _plain(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


def image(x: Shape) -> dict[sympy.Symbol, Dim]:
    """The binding of a formula in the dimensions of its one input."""
    return {dims.N: x.N, dims.C: x.C, dims.H: x.H, dims.W: x.W}


def same_shape(layer: Layer, *inputs: Shape) -> Shape:
    """The common shape of `inputs`, or ShapeError."""
    if any(shape != inputs[0] for shape in inputs[1:]):
        raise ShapeError(
            f"{layer.kind}: inputs of different shape ({' and '.join(map(str, inputs))}) cannot be combined; make them equal"
        )
    return inputs[0]


def require_channels(layer: Layer, expected: Dim, shape: Shape) -> None:
    """Raise ShapeError unless the input has `expected` channels."""
    if not dims.is_symbolic(expected, shape.C) and expected != shape.C:
        raise ShapeError(
            f"{layer.kind} expects {expected} input channels but its input {shape} has {shape.C}; fix in_channels or the layer before"
        )


def require_positive(layer: Layer, **values: Dim) -> None:
    """Raise ShapeError unless every value is a positive whole number (or an expression)."""
    for name, value in values.items():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, sympy.Basic):
                continue
            if isinstance(item, bool) or not isinstance(item, int) or item < 1:
                raise ShapeError(f"{layer.kind}: {name} must be a positive whole number, not {item!r}")
