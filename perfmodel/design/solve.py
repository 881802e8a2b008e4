"""The largest value of a choice that a budget allows, exactly; and which budget holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from perfmodel.design.closed_form import ClosedForm, closed_form
from perfmodel.design.subject import Outcome, QuestionError, Subject
from perfmodel.layers.layer import ShapeError
from perfmodel.schedule import SCHEDULES
from perfmodel.units import si

BUDGETS: Final[Mapping[str, tuple[str, str]]] = {
    "latency": ("latency_s", "s"),
    "memory": ("memory_bytes", "B"),
    "traffic": ("traffic_bytes", "B"),
    "macs": ("macs", "MACs"),
    "params": ("params", "parameters"),
}
"""Field of an outcome and unit, by the name of the budget. memory: weights and live activations in DRAM; traffic: bytes moved."""
_LOOK_AHEAD: Final = 16


class TooSmallError(QuestionError):
    """A budget that even the smallest design exceeds."""

    exit_code = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One value of the unknown, and what it costs."""

    value: int
    outcome: Outcome
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A budget, and how far it alone would let the unknown go."""

    name: str
    allowed: float
    used: float
    largest: int | None
    """None: it would allow every value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The largest value that fits, what binds it, and what one step either way costs."""

    subject: Subject
    unknown: str
    value: int
    rows: tuple[Row, ...]
    """One step less, the value, one step more (where there are such)."""
    budgets: tuple[Held, ...]
    binding: tuple[str, ...]
    """Budgets that one step more would exceed; empty where the choice itself ends here."""
    closed_form: ClosedForm | None
    notes: tuple[str, ...]


def solve(subject: Subject, unknown: str, budgets: Mapping[str, float], *, step: int | None = None) -> Solution:
    """The largest `unknown` of `subject` that keeps all `budgets` (latency in seconds, memory and traffic in bytes, macs, params).

    Exact in whole numbers: it fits, and one step more does not, both evaluated as `predict` does. Raises TooSmallError (the smallest
    design exceeds a budget; says by how much), QuestionError (no budget, or one that no value reaches), UnknownNameError.
    """
    if not budgets:
        raise QuestionError(
            f"without a budget the largest {unknown} has no bound; give --latency, --memory, --traffic, --macs or --params"
        )
    for name, amount in budgets.items():
        if not amount > 0:
            raise QuestionError(f"the budget of {name} must be positive, not {amount:g}")
    values = subject.allowed(unknown, step)
    if not values:
        steps = "" if step is None else f" in steps of {step}"
        raise QuestionError(f"{subject.name} has no value of {unknown} to choose from{steps}")
    known: dict[int, Outcome | None] = {}
    reasons: dict[int, str] = {}

    def outcome(place: int) -> Outcome | None:
        """None where the design does not exist (an image too small for its kernel)."""
        if place not in known:
            try:
                known[place] = subject.at(unknown, values[place]).outcome()
            except ShapeError as error:
                known[place], reasons[place] = None, str(error)
        return known[place]

    def fits(place: int, *names: str) -> bool:
        found = outcome(place)
        return found is not None and all(_amount(found, name) <= budgets[name] for name in names)

    smallest = outcome(0)
    if smallest is None:
        raise QuestionError(f"with {unknown} {values[0]}, the smallest there is, {reasons[0]}")
    for name in budgets:
        if not fits(0, name):
            raise TooSmallError(
                f"no {unknown} of {subject.name} fits {shown_budget(name, budgets[name], of=True)}: the smallest, {values[0]}, needs "
                f"{shown_budget(name, _amount(smallest, name))}; allow at least that much"
            )
    alone = {name: _largest(len(values), lambda place, name=name: fits(place, name)) for name in budgets}  # type: ignore[misc]
    place = min(alone.values())
    notes = []
    if subject.schedule.lower() not in SCHEDULES:
        place = _look_ahead(place, len(values), lambda at: fits(at, *budgets))
        notes.append(
            f"fused programs are tiled anew for every {unknown}, so the latency may fall as it grows: the next {_LOOK_AHEAD} values do not "
            "fit, later ones were not tried"
        )
    last = len(values) - 1
    if place == last:
        if not _ends(unknown):
            highest = _amount(outcome(last) or smallest, next(iter(budgets)))
            raise QuestionError(
                f"the query is unbounded: {subject.name} with {unknown} {values[last]}, the largest that is tried, needs "
                f"{shown_budget(next(iter(budgets)), highest)} and still fits; give a smaller budget"
            )
        notes.append(f"{values[last]} is the largest {unknown} that this design can have: no budget binds")
    rows = []
    for at in (place - 1, place, place + 1):
        if 0 <= at <= last and (found := outcome(at)) is not None:
            rows.append(Row(value=values[at], outcome=found, fits=fits(at, *budgets)))
    here = outcome(place)
    beyond = outcome(place + 1) if place < last else None
    binding = tuple(name for name in budgets if beyond is not None and _amount(beyond, name) > budgets[name])
    held = tuple(
        Held(
            name=name,
            allowed=amount,
            used=_amount(here, name) if here is not None else 0.0,
            largest=None if alone[name] == last else values[alone[name]],
        )
        for name, amount in budgets.items()
    )
    formula = closed_form(subject, unknown, values[place], binding[0], budgets[binding[0]]) if binding else None
    return Solution(
        subject=subject,
        unknown=unknown,
        value=values[place],
        rows=tuple(rows),
        budgets=held,
        binding=binding,
        closed_form=formula,
        notes=tuple(notes),
    )


def _ends(unknown: str) -> bool:
    """Whether the choice has an end of its own, rather than one that we set."""
    return unknown in ("group_width", "kernel")


def _amount(outcome: Outcome, budget: str) -> float:
    return float(getattr(outcome, BUDGETS[budget][0]))


def shown_budget(budget: str, amount: float, *, of: bool = False) -> str:
    """An amount of a budget with its unit; with `of`, what it is an amount of, where the unit does not say that."""
    unit = BUDGETS[budget][1]
    if budget in ("macs", "params"):
        return f"{si(amount, '').strip()} {unit}"
    return si(amount, unit) + (f" of {budget}" if of else "")


def _largest(count: int, fits: Callable[[int], bool]) -> int:
    """The last place that fits, of places of which the first ones do: by doubling, then halving."""
    high = 1
    while high < count and fits(high):
        high *= 2
    low, high = high // 2, min(high, count)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _look_ahead(place: int, count: int, fits: Callable[[int], bool]) -> int:
    """The last place that fits within a few of another that does."""
    while ahead := [at for at in range(place + 1, min(place + 1 + _LOOK_AHEAD, count)) if fits(at)]:
        place = ahead[-1]
    return place


def neighbours(solution: Solution) -> Sequence[tuple[str, float]]:
    """(which way, change of the latency as a fraction) of one step less and one step more."""
    here = next(row for row in solution.rows if row.value == solution.value)
    return [
        (f"{row.value}", row.outcome.latency_s / here.outcome.latency_s - 1)
        for row in solution.rows
        if row.value != solution.value
    ]
