"""The small language of constraints and objectives: tokens, a parser, a tree. Nothing in it is ever run as Python.

condition := conjunction ("or" conjunction)*          conjunction := negation ("and" negation)*
negation  := "not" negation | comparison              comparison  := sum (("<" | "<=" | ">" | ">=" | "==" | "!=") sum)*
sum       := product (("+" | "-") product)*           product     := factor (("*" | "/" | "//" | "%") factor)*
factor    := "-" factor | atom                        atom        := number | text | name | call | "(" condition ")"
call      := ("min" | "max") "(" sum ("," sum)* ")"   name        := word ["[" (word | whole number) "]"]
number    := digits ["." digits] [exponent] [unit]    unit        := s ms us µs ns | k M G T | B kB MB GB KiB MiB GiB
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np

from perfmodel.errors import PerfmodelError, UnknownNameError, shown

Array = Any
"""A number, or an array of NumPy or CuPy."""

MOST_CHARACTERS: Final = 400
MOST_DEPTH: Final = 40
UNITS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "s": 1.0,
        "ms": 1e-3,
        "us": 1e-6,
        "µs": 1e-6,
        "μs": 1e-6,
        "ns": 1e-9,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "T": 1e12,
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
    }
)


class GrammarError(PerfmodelError):
    """A condition or objective that cannot be read: says where and what was expected."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number, its unit applied."""

    value: float
    kind: str = field(default="", compare=False, repr=False)
    """What its unit measures: "a duration", "bytes", or nothing."""


@dataclass(frozen=True, slots=True)
class Text:
    """A category in quotes, such as a kind of block."""

    value: str


@dataclass(frozen=True, slots=True)
class Name:
    """A variable: `channels`, `channels[2]`, `latency[h200]`."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator or function on its operands."""

    function: str
    operands: tuple[Node, ...]


Node: TypeAlias = Number | Text | Name | Apply

_COMPARISONS: Final = ("<=", ">=", "==", "!=", "<", ">")
_LOGIC: Final = ("and", "or", "not")
_FUNCTIONS: Final = ("min", "max")
_DURATIONS: Final = ("s", "ms", "us", "µs", "μs", "ns")
_ALIKE: Final = (*_COMPARISONS, "+", "-", *_FUNCTIONS)
"""What stands between quantities of one kind."""
_QUANTITIES: Final[Mapping[str, str]] = MappingProxyType({"latency": "a duration", "bytes": "bytes"})
"""Names that do not count; all others do, or have no unit."""


def floor_divide(left: Array, right: Array) -> Array:
    """⌊left / right⌋, as the generated CUDA has it, too."""
    return np.floor(left / right)


def modulo(left: Array, right: Array) -> Array:
    """left − right·⌊left / right⌋: exact for whole numbers below 2⁵³."""
    return left - right * np.floor(left / right)


_APPLY: Final[Mapping[str, Callable[..., Array]]] = MappingProxyType(
    {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
        "//": floor_divide,
        "%": modulo,
        "negative": operator.neg,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "==": operator.eq,
        "!=": operator.ne,
        "and": np.logical_and,
        "or": np.logical_or,
        "not": np.logical_not,
        "min": lambda *of: reduce(np.minimum, of),
        "max": lambda *of: reduce(np.maximum, of),
    }
)
_IN_C: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{sign: f"({{0}} {sign} {{1}})" for sign in ("+", "-", "*", "/", *_COMPARISONS)},
        "//": "floor({0} / {1})",
        "%": "({0} - {1} * floor({0} / {1}))",
        "negative": "(-{0})",
        "and": "({0} && {1})",
        "or": "({0} || {1})",
        "not": "(!{0})",
        "min": "fmin({0}, {1})",
        "max": "fmax({0}, {1})",
    }
)

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?P<unit>[A-Za-zµμ]*)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?:\[\s*(?P<index>[A-Za-z0-9][A-Za-z0-9._+-]*)\s*\])?"
    r"|(?P<text>\"[^\"]*\"|'[^']*')"
    r"|(?P<sign><=|>=|==|!=|//|[-+*/%<>(),]))"
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int
    value: float = 0.0
    kind_of_unit: str = ""


def _measures(unit: str) -> str:
    """What a unit measures; prefixes alone measure nothing."""
    return "a duration" if unit in _DURATIONS else "bytes" if unit.endswith("B") else ""


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while at < len(source.rstrip()):
        match = _TOKEN.match(source, at)
        if match is None:
            raise GrammarError(f"'{shown(source)}': '{shown(source[at:].strip(), 12)}' at character {at + 1} cannot be read")
        start, at = match.start(match.lastgroup or 0), match.end()
        if match["number"]:
            unit = match["unit"]
            if unit and unit not in UNITS:
                raise GrammarError(f"'{shown(source)}': unknown unit '{shown(unit)}'; known: {', '.join(UNITS)}")
            value = float(match["number"]) * UNITS.get(unit, 1.0)
            if value == float("inf"):
                raise GrammarError(f"'{shown(source)}': the number at character {match.start('number') + 1} is too large")
            yield _Token("number", match[0].strip(), match.start("number"), value, _measures(unit))
        elif match["word"]:
            word = match["word"] if match["index"] is None else f"{match['word']}[{match['index']}]"
            yield _Token("sign" if word in _LOGIC else "word", word, match.start("word"))
        elif match["text"]:
            yield _Token("text", match["text"][1:-1], start)
        else:
            yield _Token("sign", match["sign"], start)


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = [*_tokens(source), _Token("end", "the end", len(source))]
        self._at = 0
        self._depth = 0

    def all(self) -> Node:
        node = self._condition()
        if self._here.kind != "end":
            self._wrong("an operator")
        return node

    @property
    def _here(self) -> _Token:
        return self._tokens[self._at]

    def _wrong(self, wanted: str) -> None:
        raise GrammarError(
            f"'{shown(self._source)}': {wanted} is expected at character {self._here.at + 1}, not '{shown(self._here.text, 20)}'"
        )

    def _next(self, *signs: str) -> str | None:
        if self._here.kind == "sign" and self._here.text in signs:
            self._at += 1
            return self._tokens[self._at - 1].text
        return None

    def _chain(self, inner: Callable[[], Node], *signs: str) -> Node:
        node = inner()
        while sign := self._next(*signs):
            node = Apply(sign, (node, inner()))
        return node

    def _condition(self) -> Node:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise GrammarError(f"'{shown(self._source)}' is nested more than {MOST_DEPTH} deep; write it flatter")
        node = self._chain(lambda: self._chain(self._negation, "and"), "or")
        self._depth -= 1
        return node

    def _negation(self) -> Node:
        negations = 0
        while self._next("not"):
            negations += 1
        node = self._comparison()
        return Apply("not", (node,)) if negations % 2 else node

    def _comparison(self) -> Node:
        first, found = self._sum(), []
        while sign := self._next(*_COMPARISONS):
            second = self._sum()
            found.append(Apply(sign, (first, second)))
            first = second
        return first if not found else reduce(lambda left, right: Apply("and", (left, right)), found)

    def _sum(self) -> Node:
        return self._chain(lambda: self._chain(self._factor, "*", "/", "//", "%"), "+", "-")

    def _factor(self) -> Node:
        negative = False
        while self._next("-"):
            negative = not negative
        node = self._atom()
        return Apply("negative", (node,)) if negative else node

    def _atom(self) -> Node:
        token = self._here
        if self._next("("):
            node = self._condition()
            if not self._next(")"):
                self._wrong("')'")
            return node
        if token.kind not in ("number", "text", "word"):
            self._wrong("a number or a name")
        self._at += 1
        if token.kind == "number":
            return Number(token.value, token.kind_of_unit)
        if token.kind == "text":
            return Text(token.text)
        if token.text in _FUNCTIONS and self._next("("):
            operands = [self._sum()]
            while self._next(","):
                operands.append(self._sum())
            if not self._next(")"):
                self._wrong("')'")
            return reduce(lambda left, right: Apply(token.text, (left, right)), operands)
        return Name(token.text)


def _is_condition(node: Node) -> bool:
    return isinstance(node, Apply) and node.function in (*_COMPARISONS, *_LOGIC)


def _check_types(source: str, node: Node) -> None:
    """Logic joins conditions, everything else numbers."""
    if not isinstance(node, Apply):
        return
    for operand in node.operands:
        if _is_condition(operand) != (node.function in _LOGIC):
            wanted = "conditions" if node.function in _LOGIC else "numbers"
            raise GrammarError(f"'{shown(source)}': '{node.function}' stands between {wanted}; put brackets around its operands")
        _check_types(source, operand)
    if node.function in _ALIKE:
        kinds = [_kind(operand) for operand in node.operands]
        if len({kind for kind in kinds if kind}) > 1 and any(map(_has_unit, node.operands)):
            raise GrammarError(
                f"'{shown(source)}': '{node.function}' stands between {' and '.join(kinds)}; give both the same unit"
            )


def _kind(node: Node) -> str:
    """What it measures, "" where a plain number or a product may be anything."""
    match node:
        case Number():
            return node.kind
        case Name(name):
            return _QUANTITIES.get(name.partition("[")[0], "a count")
        case Apply(function, operands) if function in ("+", "-", "negative", "min", "max"):
            return next(filter(None, map(_kind, operands)), "")
    return ""


def _has_unit(node: Node) -> bool:
    """Whether its kind is that of a number with a unit."""
    return (isinstance(node, Number) and bool(node.kind)) or (
        isinstance(node, Apply) and node.function in ("+", "-", "negative", "min", "max") and any(map(_has_unit, node.operands))
    )


def _parse(source: str, *, condition: bool) -> Node:
    if not source.strip():
        raise GrammarError("an empty text is neither a condition nor an objective; write one, as in channels >= 64")
    if len(source) > MOST_CHARACTERS:
        raise GrammarError(f"a text of {len(source)} characters is too long to be a condition; write several, each shorter")
    node = _Parser(source).all()
    _check_types(source, node)
    if _is_condition(node) != condition:
        wanted, example = ("a condition", "channels >= 64") if condition else ("a number", "latency + 2 * params")
        raise GrammarError(f"'{shown(source)}' is not {wanted}; write one, as in {example}")
    return node


def parse_condition(source: str) -> Node:
    """A condition: true or false of a design. Raises GrammarError.

    >>> sorted(names_of(parse_condition("16 <= channels <= 64 and latency[h200] < 0.1ms")))
    ['channels', 'latency[h200]']
    """
    return _parse(source, condition=True)


def parse_number(source: str) -> Node:
    """A number that depends on a design. Raises GrammarError."""
    return _parse(source, condition=False)


def names_of(node: Node) -> frozenset[str]:
    """The names of the variables in it."""
    if isinstance(node, Name):
        return frozenset({node.name})
    return frozenset().union(*map(names_of, node.operands)) if isinstance(node, Apply) else frozenset()


def bind(node: Node, known: Sequence[str], categories: Mapping[str, Sequence[str]]) -> Node:
    """The tree with every name checked and every category replaced by its place among those of the variable it is compared with.

    `categories` has the values of each variable that is not a number. Raises UnknownNameError and GrammarError.
    """
    if isinstance(node, Apply):
        if node.function in ("==", "!="):
            for mine, other in (node.operands, node.operands[::-1]):
                if isinstance(mine, Name) and mine.name in categories and isinstance(other, Text | Name):
                    word = other.value if isinstance(other, Text) else other.name
                    if word not in categories[mine.name]:
                        raise UnknownNameError(f"value of {mine.name}", word, categories[mine.name])
                    return Apply(node.function, (mine, Number(float(categories[mine.name].index(word)))))
        return Apply(node.function, tuple(bind(operand, known, categories) for operand in node.operands))
    if isinstance(node, Text):
        raise GrammarError(f"the text '{shown(node.value)}' is compared with no category; write, for example, block == 'mbconv'")
    if isinstance(node, Name):
        if node.name in categories:
            raise GrammarError(
                f"{node.name} is no number; compare it with == or != and one of {', '.join(categories[node.name])}"
            )
        if node.name not in known:
            raise UnknownNameError("name", node.name, [*known, *categories])
    return node


def evaluate(node: Node, values: Mapping[str, Array]) -> Array:
    """Its value for arrays of designs. Division by zero gives infinity or not-a-number, as in arrays."""
    match node:
        case Number(value):
            return value
        case Name(name):
            return values[name]
        case Apply(function, operands):
            return _APPLY[function](*(evaluate(operand, values) for operand in operands))
    raise GrammarError("a text has no value by itself")


def in_c(node: Node, variables: Mapping[str, str]) -> str:
    """The same as an expression of C, `variables` naming each variable's."""
    match node:
        case Number(value):
            return repr(float(value))
        case Name(name):
            return variables[name]
        case Apply(function, operands):
            return _IN_C[function].format(*(in_c(operand, variables) for operand in operands))
    raise GrammarError("a text has no value by itself")


_AMOUNT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-zµμ]*)\s*")


def amount(text: str, units: Sequence[str], what: str) -> float:
    """A positive number with the unit that `what` has: seconds need one ("s"), bytes may have one ("B"), others may have k, M, G, T.

    Raises GrammarError.

    >>> amount("0.1 ms", ("s",), "--latency"), amount("2GB", ("B",), "--memory"), amount("4.5G", (), "--macs")
    (0.0001, 2000000000.0, 4500000000.0)
    """
    match = _AMOUNT.fullmatch(text)
    known = _DURATIONS if "s" in units else tuple(unit for unit in UNITS if unit not in _DURATIONS and (units or "B" not in unit))
    if match is None or not (match[2] in known or (not match[2] and "s" not in units)):
        wanted = (
            "a number with ns, us, ms or s, as in 0.1ms"
            if "s" in units
            else f"a number, {'as in 2GB' if units else 'as in 4.5G'}"
        )
        raise GrammarError(f"{what} '{shown(text)}' is not an amount; write {wanted}")
    value = float(match[1]) * UNITS.get(match[2], 1.0)
    if not 0 < value < float("inf"):
        raise GrammarError(f"{what} '{shown(text)}' must be positive and finite")
    return value
