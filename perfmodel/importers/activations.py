"""Activation functions written out of primitives, recognised by what they compute: a handful of sample points tells them apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from perfmodel.importers.program import Op, Program

MOST_PARTS: Final = 16
"""No spelling of an activation in use takes more operations."""
POINTS: Final = np.concatenate([np.linspace(-9.3, 9.1, 37), np.linspace(-1.9, 1.7, 13)])
TOLERANCE: Final = 1e-4
"""Spellings round their constants: 1/6 as 0.1667 is 2·10⁻⁴ away at most, the error function of some exporters 10⁻⁵."""

_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _clamp(x: Any, low: float | None, high: float | None) -> Any:
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


_FUNCTIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
}
"""What is looked for; the first that fits is taken."""

_UNARY: Final[Mapping[str, Callable[[Any], Any]]] = {
    **_FUNCTIONS,
    "exp": np.exp,
    "log": np.log,
    "erf": _erf,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "square": np.square,
    "abs": np.abs,
    "negate": np.negative,
}
_BINARY: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "power": np.power,
}
_VALUES: Final = {name: function(POINTS) for name, function in _FUNCTIONS.items()}


def _computes(op: Op) -> bool:
    """Whether an operation can be part of an activation: elementwise, of at most two operands, and its function is known here."""
    function = op.attributes.get("function")
    if op.kind == "convert":
        return True
    if op.kind == "activation":
        return function == "clamp" or function in _UNARY
    return op.kind == "pointwise" and function in _BINARY and len(op.inputs) == 2 and not op.attributes.get("rounded")


def _evaluated(op: Op, arguments: list[Any]) -> Any:
    if op.kind == "convert":
        return arguments[0]
    function = op.attributes["function"]
    if op.kind == "pointwise":
        return _BINARY[function](*arguments)
    if function == "clamp":
        return _clamp(arguments[0], op.attributes.get("low"), op.attributes.get("high"))
    if function == "hard_sigmoid" and "slope" in op.attributes:
        return np.clip(arguments[0] * op.attributes["slope"] + op.attributes["offset"], 0, 1)
    return _UNARY[function](arguments[0])


def recognise_activations(program: Program) -> None:
    """Replace what computes a known activation of one tensor by that activation, the longest spelling first."""
    makers, users = program.makers(), program.users()
    replaced: dict[str, Op] = {}
    absorbed: set[str] = set()
    for op in reversed(program.ops):
        if op.kind == "convert" or not _computes(op) or op.output in absorbed:
            continue
        found = _activation(op, makers, users, set(program.outputs))
        if found is None:
            continue
        function, source, parts = found
        absorbed |= parts - {op.output}
        replaced[op.output] = Op(
            kind="activation", name=op.name, inputs=(source,), outputs=op.outputs, attributes={"function": function}
        )
    program.ops = [replaced.get(op.output, op) for op in program.ops if op.output not in absorbed]


def _activation(
    root: Op, makers: Mapping[str, Op], users: Mapping[str, list[Op]], results: set[str]
) -> tuple[str, str, set[str]] | None:
    """(function, its argument, the values made on the way) of the longest activation that ends in `root`."""
    cone: list[str] = []
    queue = [root.output]
    while queue and len(cone) <= MOST_PARTS:
        name = queue.pop(0)
        if name in cone:
            continue
        cone.append(name)
        maker = makers.get(name)
        if maker is not None and _computes(maker):
            queue += maker.tensors
    best: tuple[str, str, set[str]] | None = None
    for source in cone[1:]:
        seen: dict[str, Any] = {source: POINTS}
        with np.errstate(all="ignore"):
            value = _value(root.output, makers, seen, MOST_PARTS)
        if value is None:
            continue
        parts = set(seen) - {source}
        function = next((name for name, known in _VALUES.items() if _same(value, known)), None)
        if function is None or (best is not None and len(parts) <= len(best[2])):
            continue
        inner = parts - {root.output}
        if inner & results or any(user.output not in parts for name in inner for user in users[name]):
            continue  # something else reads what would disappear
        if len(parts) == 1 and root.kind == "activation" and root.attributes["function"] == function:
            continue
        best = (function, source, parts)
    return best


def _value(name: str, makers: Mapping[str, Op], seen: dict[str, Any], depth: int) -> Any:
    """What `name` is at the sample points of the source, or None where it depends on anything else."""
    if name in seen:
        return seen[name]
    op = makers.get(name)
    if op is None or depth == 0 or not _computes(op):
        return None
    arguments: list[Any] = []
    for item in op.inputs:
        value = _value(item, makers, seen, depth - 1) if isinstance(item, str) else item
        if value is None:
            return None
        arguments.append(value)
    seen[name] = _evaluated(op, arguments)
    return seen[name]


def _same(value: Any, known: Any) -> bool:
    return np.shape(value) == np.shape(known) and bool(np.all(np.abs(value - known) <= TOLERANCE * (1 + np.abs(known))))
