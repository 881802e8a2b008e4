"""Searching a space of designs: every design, in chunks, and the exact Pareto front of those that meet all constraints.

The numbers of the designs are cut into ranges. What one range gives depends on nothing but its limits, and parts are joined in the order of
their numbers: one process, a GPU, or many workers give the same result, bit for bit; a search that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from perfmodel.design.front import Front, Indices, Values, undominated
from perfmodel.design.grammar import GrammarError, Node, bind, evaluate, names_of, parse_condition, parse_number
from perfmodel.design.space import Space, SpaceError

CHUNK: Final = 1 << 13
"""Designs evaluated at a time: their intermediates fit a core's cache, and are small enough that the allocator keeps their memory."""
RANGE: Final = 1 << 20
"""Designs of a part of the work: what a worker gets, and what a state file is saved after, at most once a second."""
EXHAUSTIVE: Final = 2 * 10**9
"""Larger spaces are left to an optimiser unless a user insists."""
STATE_VERSION: Final = 1
_SAMPLE: Final = 1 << 14
_SAVE_EVERY_S: Final = 1.0
_DIAGNOSED: Final = 1 << 22
_OBJECTIVE: Final = re.compile(r"\s*(minimi[sz]e|maximi[sz]e|min|max)\s+(.*)", re.DOTALL)


class StateError(SpaceError):
    """A state file that cannot be read, or belongs to another search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A quantity to make small, or large."""

    text: str
    node: Node
    maximise: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What a design must meet."""

    text: str
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a range of designs gave."""

    stop: int
    """The first number after the range."""
    front: Front
    valid: int
    """Designs that exist."""
    feasible: int
    """Designs that exist and meet all constraints."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A space, what is wanted of its designs, and what they must meet."""

    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def of(cls, space: Space, objectives: Iterable[str], constraints: Iterable[str] = ()) -> Search:
        """From texts such as "min latency[h200]", "max params" and "macs <= 1G". Raises GrammarError and UnknownNameError."""
        wanted = []
        for text in objectives:
            match = _OBJECTIVE.fullmatch(text)
            inner, maximise = (match[2], match[1].startswith("max")) if match else (text, False)
            node = bind(parse_number(inner), space.names, space.categories)
            if not names_of(node):
                raise GrammarError(f"the objective '{text}' is the same for every design; name a quantity, as in latency")
            wanted.append(Objective(text=inner.strip(), node=node, maximise=maximise))
        if not wanted:
            raise GrammarError("a search needs an objective; give at least one, as in 'min latency'")
        if len({item.text for item in wanted}) < len(wanted):
            raise GrammarError("an objective is given twice; name each once")
        met = tuple(
            Constraint(text=text, node=bind(parse_condition(text), space.names, space.categories)) for text in constraints
        )
        return cls(space=space, objectives=tuple(wanted), constraints=met)

    @cached_property
    def wanted(self) -> frozenset[str]:
        """Names of all quantities that are needed."""
        nodes = [item.node for item in self.objectives] + [item.node for item in self.constraints]
        return frozenset().union(*map(names_of, nodes))

    @cached_property
    def checksum(self) -> str:
        """Of the space, the objectives and the constraints."""
        said = [[item.text, item.maximise] for item in self.objectives], [item.text for item in self.constraints]
        return hashlib.sha256(f"{self.space.checksum}{json.dumps(said)}".encode()).hexdigest()

    def costs(self, index: Indices) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], list[Any]]:
        """(designs that exist, designs that also meet all constraints, each objective with less as better) of these numbers."""
        found = self.space.evaluate(index, self.wanted)
        met = found.valid
        with np.errstate(divide="ignore", invalid="ignore"):
            for constraint in self.constraints:
                met = met & evaluate(constraint.node, found.values)
            columns = [evaluate(item.node, found.values) for item in self.objectives]
        columns = [-column if item.maximise else column for column, item in zip(columns, self.objectives, strict=True)]
        for column in columns:
            met = met & np.isfinite(column)
        return found.valid, met, columns

    def front_of(self, index: Indices) -> Front:
        """The front of the designs with these numbers."""
        _, met, columns = self.costs(index)
        places = np.flatnonzero(met)
        return Front.of(index[places], np.stack([column[places] for column in columns], axis=1))

    def sample(self) -> Front:
        """The front of some designs drawn evenly from the space: what the first designs are compared with, so that most go early."""
        count = min(self.space.size, _SAMPLE)
        drawn = np.random.default_rng(0).integers(0, self.space.size, count)
        return self.front_of(np.sort(drawn))

    def part(self, start: int, stop: int, probes: Values) -> Part:
        """The front of a range. `probes` are points that may be taken as reached by some design; they change no result."""
        front, valid, feasible = Front.empty(len(self.objectives)), 0, 0
        for low in range(start, stop, CHUNK):
            index = np.arange(low, min(low + CHUNK, stop))
            exists, met, columns = self.costs(index)
            valid += int(np.count_nonzero(exists))
            places = np.flatnonzero(met)
            feasible += len(places)
            columns = [column[places] for column in columns] if len(places) < len(met) else columns
            kept = undominated(columns, probes)
            if len(kept):
                values = np.stack([column[kept] for column in columns], axis=1)
                front = front.merged(Front.of(index[places[kept]], values))
        return Part(stop=stop, front=front, valid=valid, feasible=feasible)

    def conflict(self) -> str:
        """Why no design meets the constraints: which of them none meets, or which contradict each other."""
        nothing = "no design meets the constraints"
        count = min(self.space.size, _DIAGNOSED)
        every = count == self.space.size
        index = np.arange(count) if every else np.sort(np.random.default_rng(1).integers(0, self.space.size, count))
        meets: list[npt.NDArray[np.bool_]] = [np.zeros(count, dtype=bool) for _ in range(len(self.constraints) + 1)]
        for low in range(0, count, CHUNK):
            part = slice(low, low + CHUNK)
            found = self.space.evaluate(index[part], self.wanted)
            meets[0][part] = found.valid
            with np.errstate(divide="ignore", invalid="ignore"):
                for row, constraint in zip(meets[1:], self.constraints, strict=True):
                    row[part] = found.valid & evaluate(constraint.node, found.values)
        of = f"of {self.space.size} designs" if every else f"of {count} designs drawn from {self.space.size}"
        if not meets[0].any():
            return f"{nothing}: {of} none can be built (groups that do not divide channels, images too small); give the axes other values"
        for row, constraint in zip(meets[1:], self.constraints, strict=True):
            if not row.any():
                return f"{nothing}: {of} none meets '{constraint.text}' alone; loosen it"
        rows = list(zip(meets[1:], self.constraints, strict=True))
        for place, (row, constraint) in enumerate(rows):
            for other, second in rows[place + 1 :]:
                if not (row & other).any():
                    pair = f"'{constraint.text}' and '{second.text}' contradict each other"
                    return f"{nothing}: {pair}: {of} each is met by some, both by none"
        met = np.logical_and.reduce(meets)
        if met.any():
            names = "', '".join(objective.text for objective in self.objectives)
            some = "meet every constraint, but there" if self.constraints else "can be built, but there"
            return f"no design has a value to compare: {of} {np.count_nonzero(met)} {some} '{names}' is not finite; change the objective"
        for one in rows:  # leave out what the contradiction does not need
            fewer = [other for other in rows if other is not one]
            if not np.logical_and.reduce([row for row, _ in fewer]).any():
                rows = fewer
        names = "', '".join(constraint.text for _, constraint in rows)
        return f"{nothing}: '{names}' contradict each other: {of} any two are met by some, all by none"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The best designs, and how they were found."""

    search: Search
    front: Front
    evaluated: int
    valid: int
    feasible: int
    exhaustive: bool
    """Whether every design of the space was evaluated; otherwise the front is that of the designs seen."""
    seconds: float
    backend: str

    def rows(self, extra: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Each design of the front: its number, its choices, its objectives, and further quantities by name."""
        space, objectives = self.search.space, self.search.objectives
        names = tuple(dict.fromkeys(extra))
        found = space.evaluate(self.front.index, frozenset(names)).values if names and len(self.front.index) else {}
        rows = []
        for place, number in enumerate(self.front.index):
            values = self.front.values[place]
            row: dict[str, Any] = {"design": int(number), **space.design(int(number))}
            row |= {item.text: float(-value if item.maximise else value) for item, value in zip(objectives, values, strict=True)}
            row |= {name: float(found[name][place]) for name in names if name not in row}
            rows.append(row)
        return rows


class Backend(Protocol):
    """Something that evaluates ranges of designs."""

    name: str
    range_designs: int
    """How many designs it likes to get at a time."""

    def parts(self, ranges: Iterator[tuple[int, int]], probes: Callable[[], Front]) -> Iterator[Part]:
        """The part of each range, in the order of the ranges; `probes` gives the front as far as it is known."""


class HostBackend:
    """NumPy, in this process."""

    name = "numpy"
    range_designs = RANGE

    def __init__(self, search: Search) -> None:
        self._search = search

    def parts(self, ranges: Iterator[tuple[int, int]], probes: Callable[[], Front]) -> Iterator[Part]:
        """The part of each range."""
        for start, stop in ranges:
            yield self._search.part(start, stop, probes().probes())


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a search has come."""

    next: int
    front: Front
    valid: int
    feasible: int
    seconds: float

    def save(self, path: Path, search: Search) -> None:
        """Write it whole or not at all."""
        record = {
            "schema_version": STATE_VERSION,
            "checksum": search.checksum,
            "next": self.next,
            "index": self.front.index.tolist(),
            "valid": self.valid,
            "feasible": self.feasible,
            "seconds": self.seconds,
        }
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(record), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise StateError(f"cannot write the state file {path}: {error.strerror}; name another") from None

    @classmethod
    def load(cls, path: Path, search: Search) -> State:
        """What `save` wrote; objectives are evaluated anew. Raises StateError."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            numbers = np.array(record["index"], dtype=np.int64)
            version, checksum = record["schema_version"], record["checksum"]
            counts = {name: int(record[name]) for name in ("next", "valid", "feasible")}
            seconds = float(record["seconds"])
        except OSError as error:
            raise StateError(f"cannot read the state file {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise StateError(f"{path} is not the state of a search; remove it, or name another file") from None
        if version != STATE_VERSION or checksum != search.checksum:
            raise StateError(
                f"{path} is the state of another search (its space, objectives or constraints differ); name another file"
            )
        inside = numbers.ndim == 1 and bool(((numbers >= 0) & (numbers < search.space.size)).all())
        if not inside or not 0 <= counts["next"] <= search.space.size:
            raise StateError(f"{path} names designs that the space does not have; remove it, or name another file")
        front = search.front_of(numbers) if len(numbers) else Front.empty(len(search.objectives))
        return cls(front=front, seconds=seconds, **counts)


def run(
    search: Search,
    *,
    backend: Backend | None = None,
    state: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Evaluate every design of the space.

    `state` is a file that is read if it is there, and written as the search goes on; `progress` is called with how many designs are done,
    and how large the front is. Raises SpaceError, saying which constraints contradict each other, where no design meets them.
    """
    used = backend or HostBackend(search)
    size, began, saved_at = search.space.size, time.perf_counter(), 0.0
    now = State(next=0, front=Front.empty(len(search.objectives)), valid=0, feasible=0, seconds=0.0)
    if state is not None and state.exists():
        now = State.load(state, search)
    before_s = now.seconds
    sampled = search.sample() if now.next < size else now.front

    def ranges() -> Iterator[tuple[int, int]]:
        for start in range(now.next, size, used.range_designs):
            yield start, min(start + used.range_designs, size)

    def known() -> Front:
        return now.front if len(now.front.index) >= len(sampled.index) else sampled

    with contextlib.closing(_generator(used.parts(ranges(), known))) as parts:
        try:
            for part in parts:
                now = State(
                    next=part.stop,
                    front=now.front.merged(part.front),
                    valid=now.valid + part.valid,
                    feasible=now.feasible + part.feasible,
                    seconds=before_s + time.perf_counter() - began,
                )
                if progress is not None:
                    progress(now.next, len(now.front.index))
                if state is not None and time.perf_counter() - saved_at > _SAVE_EVERY_S:
                    now.save(state, search)
                    saved_at = time.perf_counter()
        finally:
            if state is not None:
                now.save(state, search)
    if not now.feasible:
        raise SpaceError(search.conflict())
    return SearchResult(
        search=search,
        front=now.front,
        evaluated=size,
        valid=now.valid,
        feasible=now.feasible,
        exhaustive=True,
        seconds=replace(now, seconds=before_s + time.perf_counter() - began).seconds,
        backend=used.name,
    )


def _generator(parts: Iterator[Part]) -> Any:
    """The parts as something that can be closed, so that a backend can give back what it holds."""
    yield from parts
