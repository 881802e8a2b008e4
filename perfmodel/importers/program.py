"""A program of primitive tensor operations: what every front end produces, and what meaning is recognised in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from perfmodel.errors import PerfmodelError, shown

Source = Literal["activation", "parameter", "constant"]
"""activation: depends on the input; parameter: stored with the model, or computed from what is; constant: made of numbers alone."""

Operand = str | float
"""A value by name, or a plain number."""

MOST_ELEMENTS: Final = 1 << 48
"""A tensor of more elements than this is refused: no machine holds it, and what is derived from it would be nonsense."""
MOST_OPERATIONS: Final = 1 << 17
LARGEST_SIZE: Final = 1 << 31


class ImportedModelError(PerfmodelError):
    """A model that cannot be imported: says which, where, and what to do."""


class MissingExtraError(PerfmodelError):
    """A library that an optional extra brings is not installed."""

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(f"{what} needs {library}, which is not installed; install it with: pip install 'perfmodel[{extra}]'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor."""

    name: str
    shape: tuple[int, ...]
    source: Source = "activation"
    floating: bool = True
    """Whether its elements are floating-point numbers (indices and masks are not)."""
    converted: bool = False
    """A parameter that the model converts to the type of its activations before it uses it."""
    computed: bool = False
    """Computed from parameters, at every step where nobody folds it."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation. `kind` is one of the kinds that `build` knows, or `unknown`, whose attribute `operation` names it."""

    kind: str
    name: str
    """Path of the module, or name of the node, that it comes from."""
    inputs: tuple[Operand, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Its first result."""
        return self.outputs[0]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The inputs that are tensors."""
        return tuple(item for item in self.inputs if isinstance(item, str))


@dataclass(kw_only=True)
class Program:
    """Operations in an order in which they can run."""

    name: str
    values: dict[str, Value]
    ops: list[Op]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    trained: int | None = None
    """Trained parameters, where the front end knows them; otherwise they follow from the weights of the layers."""

    def users(self) -> dict[str, list[Op]]:
        """The operations that read each value."""
        found: dict[str, list[Op]] = {name: [] for name in self.values}
        for op in self.ops:
            for name in dict.fromkeys(op.tensors):
                found[name].append(op)
        return found

    def makers(self) -> dict[str, Op]:
        """The operation that makes each value."""
        return {name: op for op in self.ops for name in op.outputs}

    def is_parameter(self, operand: Operand) -> bool:
        """Whether an operand is there before the network starts (a plain number is not a tensor at all)."""
        return isinstance(operand, str) and self.values[operand].source != "activation"

    def without_dead_operations(self) -> None:
        """Drop what no result depends on."""
        needed = set(self.outputs)
        kept: list[Op] = []
        for op in reversed(self.ops):
            if any(name in needed for name in op.outputs):
                kept.append(op)
                needed.update(op.tensors)
        self.ops = kept[::-1]


def checked(name: str, shape: Iterable[int]) -> tuple[int, ...]:
    """The shape of a tensor as plain integers; raises ImportedModelError for one that no tensor can have."""
    sizes = tuple(int(size) for size in shape)
    if any(not 0 <= size <= LARGEST_SIZE for size in sizes) or math.prod(sizes) > MOST_ELEMENTS:
        text = "×".join(map(str, sizes[:8]))
        raise ImportedModelError(
            f"tensor '{shown(name)}' has the shape {text}, which no machine holds; check the model's dimensions"
        )
    return sizes


def fold_constants(program: Program) -> None:
    """Drop operations that depend on parameters and constants alone: they are done once, not for every image.

    Their results are parameters (constants where no parameter went in).
    """
    kept: list[Op] = []
    for op in program.ops:
        sources = {program.values[name].source for name in op.tensors}
        if "activation" in sources or op.attributes.get("random"):
            kept.append(op)
            continue
        source: Source = "parameter" if "parameter" in sources else "constant"
        converted = op.kind == "convert" or any(program.values[name].converted for name in op.tensors)
        for name in op.outputs:
            old = program.values[name]
            program.values[name] = Value(
                name=name, shape=old.shape, source=source, floating=old.floating, converted=converted, computed=True
            )
    program.ops = kept


def einsum_sizes(equation: str, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int] | None:
    """(batch, rows, inner, columns) of an einsum of two operands, or None for one that is no product of matrices."""
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(shapes) != 2 or len(terms) != 2 or "." in equation or not result:
        return None
    size: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if len(term) != len(shape):
            return None
        size.update(zip(term, shape, strict=True))
    batch = [c for c in terms[0] if c in terms[1] and c in result]
    inner = [c for c in terms[0] if c in terms[1] and c not in result]
    rows = [c for c in terms[0] if c not in terms[1]]
    columns = [c for c in terms[1] if c not in terms[0]]
    return (
        math.prod(size[c] for c in batch),
        math.prod(size[c] for c in rows),
        math.prod(size[c] for c in inner),
        math.prod(size[c] for c in columns),
    )
