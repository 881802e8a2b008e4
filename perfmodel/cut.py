"""The planner: the cut of a network into segments whose kernels take the least time in all, by dynamic programming.

Every partition into segments is a sequence of choices: the last piece of what is left is the result of some segment; take that segment
away, and what is left is again closed under what it needs. So the least time of a set of pieces is, over the segments that end at its
last piece, that of the segment plus the least time of the rest. On a chain the sets are its beginnings; residual edges and branches add a
few. All sets that can arise are visited, so the cut is the best there is of kernels with one result and at most `longest` pieces, unless
the graph has so many branches that a limit is met; then the plan says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from perfmodel.kernel import Kernel
from perfmodel.least_time import Beyond
from perfmodel.segments import LONGEST, Floor, Pieces, SegmentTime

MOST_STATES: Final = 20_000
"""Sets of pieces that are visited; beyond, only segments of pieces that follow one another."""
TRAFFIC_WEIGHT: Final = 1e-9
"""Seconds of DRAM traffic count so much beside seconds: of cuts that are equally fast, the one with the least traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A partition of a network's pieces into segments."""

    pieces: Pieces
    segments: tuple[int, ...]
    """Bit sets of pieces, in an order in which they can run."""
    times: tuple[SegmentTime, ...]
    complete: bool
    """Whether every segment and every set of pieces was visited."""
    visited: int
    """Sets of pieces."""
    considered: int
    """Ways to take a segment away from one of them."""
    costed: int
    """Segments of several pieces that were costed, each shape once; the others could not have been better."""

    @property
    def time_s(self) -> float:
        """Σ over segments."""
        return math.fsum(time.time_s for time in self.times)

    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels, each with its best tiling."""
        return tuple(kernel for segment in self.segments for kernel in self.pieces.kernels(segment))


def best_cut(pieces: Pieces, *, longest: int = LONGEST) -> Cut:
    """The cut with the least waterline time, and among equals the least DRAM traffic."""
    ending = [pieces.ending_at(piece.index, longest) for piece in pieces.all]
    segments, complete = [found for found, _ in ending], all(whole for _, whole in ending)
    everything = (1 << len(pieces.all)) - 1
    states = _states(everything, segments)
    if states is None:
        complete = False
        segments = [[mask for mask in found if _is_run(mask)] for found in segments]
        states = _states(everything, segments) or []
    return _search(pieces, states, segments, complete)


def _is_run(mask: int) -> bool:
    """Whether the pieces of a set follow one another."""
    return (mask // (mask & -mask) + 1).bit_count() == 1


def _states(everything: int, segments: Sequence[Sequence[int]]) -> list[int] | None:
    """The sets of pieces that can be left, smallest first; None if there are too many."""
    seen = {everything}
    left = [everything]
    for state in left:  # grows while it runs
        for segment in segments[state.bit_length() - 1]:
            rest = state & ~segment
            if rest and rest not in seen:
                seen.add(rest)
                left.append(rest)
        if len(left) > MOST_STATES and not _only_runs(segments):
            return None
    return sorted(left)


def _only_runs(segments: Sequence[Sequence[int]]) -> bool:
    return all(_is_run(mask) for found in segments for mask in found)


def _search(pieces: Pieces, states: Sequence[int], segments: Sequence[Sequence[int]], complete: bool) -> Cut:
    """Costs a segment only where it could be better: `least` of it and the rest must undercut the best that is known."""
    per_byte_s = TRAFFIC_WEIGHT / pieces.costs.machine.bandwidth_bytes_per_s
    known_before = len(pieces.costs.times)
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    considered = 0
    floors: dict[int, float] = {}
    known: dict[int, _Known] = {}
    for state in states:
        value, taken = math.inf, 0
        for segment in segments[state.bit_length() - 1]:
            considered += 1
            rest = best[state & ~segment][0]
            if segment not in floors:
                known[segment] = _inherited(pieces, segment, known)
                floors[segment] = known[segment].least_s(per_byte_s)
            if rest + floors[segment] >= value:
                continue
            time = pieces.time(segment)
            known[segment] = known[segment].learnt(time.beyond)
            total = rest + time.time_s + per_byte_s * time.dram_bytes
            if total < value:
                value, taken = total, segment
        best[state] = (value, taken)
    cut: list[int] = []
    state = states[-1]
    while state:
        cut.append(best[state][1])
        state &= ~cut[-1]
    cut.reverse()
    return Cut(
        pieces=pieces,
        segments=tuple(cut),
        times=tuple(pieces.time(segment) for segment in cut),
        complete=complete,
        visited=len(states),
        considered=considered,
        costed=len(pieces.costs.times) - known_before,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known of a segment without costing it: its floor, and what shorter segments with the same result exceeded theirs by.

    A shorter segment is done last in a longer one, with the same tilings; each needs at least as much memory and does at least as much
    there, so the excess stays. It holds while both have the same chunks of channels to choose from, which depend on the width of groups.
    """

    floor: Floor
    group_width: int
    arithmetic_s: float = 0.0
    memory_s: float = 0.0
    time_s: float = 0.0
    """Not an excess: what the shorter ones take without their input."""

    def least_s(self, per_byte_s: float) -> float:
        """What the segment cannot be under."""
        floor = self.floor
        if not floor.dram_bytes:
            return 0.0
        return max(
            floor.arithmetic_s + self.arithmetic_s,
            floor.memory_s + self.memory_s,
            self.time_s,
            floor.time_s + per_byte_s * floor.dram_bytes,
        )

    def learnt(self, beyond: Beyond) -> _Known:
        """With what costing it showed."""
        return replace(
            self,
            arithmetic_s=max(self.arithmetic_s, beyond.arithmetic_s - self.floor.arithmetic_s),
            memory_s=max(self.memory_s, beyond.memory_s - self.floor.memory_without_input_s),
            time_s=max(self.time_s, beyond.time_s),
        )


def _inherited(pieces: Pieces, segment: int, known: dict[int, _Known]) -> _Known:
    """What is known of a segment from the one without its first piece."""
    floor, width = pieces.floor(segment), pieces.group_width(segment)
    shorter = known.get(segment & (segment - 1))
    if shorter is None or shorter.group_width != width or not floor.dram_bytes or not shorter.floor.dram_bytes:
        return _Known(floor=floor, group_width=width)
    return replace(shorter, floor=floor)
