"""Serial actors on shared pipes: how fast W warpgroups go that each do one phase after the other on the same multiprocessor.

A fused kernel is no single roofline. A warpgroup multiplies, then evaluates functions, then convolves; while it does one, the pipes of
the others wait for another warpgroup to need them. With W of them the multiprocessor is a closed queueing network: W customers, a
server for each pipe, and latencies that nobody queues for. Mean value analysis (Reiser and Lavenberg, JACM 27, 1980) gives its rate:

    R_f(w) = latency_f + max_p d_fp + Σ_p d_fp · Q_p(w − 1)                 a phase waits for those who are at its pipes already
    X(w)   = min(w / Σ_f R_f(w), 1 / max_p Σ_f d_fp, 1 / exclusive)         turns per clock
    Q_p(w) = X(w) · Σ_f d_fp · (1 + Q_p(w − 1))                            how many are at a pipe

With one actor this is the sum of its phases, with many the fullest pipe; between them nothing is fitted. Departures from the textbook: a
phase may use several pipes side by side, and alone takes as long as the slowest of them. Where these are pipes of instructions that follow
each other (addresses, then a load, then a product), what others hold up at each of them is waited for, and the waits add up, to no more
than one actor after the other would take. Where one instruction needs all of them at the same time (a product of a warpgroup reads an
operand from shared memory while it multiplies) they pass together: latency_f + max_p d_fp · (1 + Q_p(w − 1)). What runs in the background
(copies that were asked for long before) only takes part in the second bound. A server of all actors that works beside them (background
and exclusive: a warpgroup that projects for the others) stands in line at the pipes as they do, but they do not wait for it: its own chain
for a turn, waiting included, is one more bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

PIPES: Final = ("matrix", "special", "shared", "issue", "cache")
"""Of a multiprocessor: the matrix unit, the special-function unit, shared memory's data path, issue slots, the way to the L2 cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Clocks of each pipe of one multiprocessor."""

    matrix: float = 0.0
    special: float = 0.0
    shared: float = 0.0
    issue: float = 0.0
    cache: float = 0.0

    @property
    def clocks(self) -> tuple[float, ...]:
        """In the order of PIPES."""
        return astuple(self)

    def __mul__(self, factor: float) -> Demand:
        return Demand(**{name: value * factor for name, value in zip(PIPES, self.clocks, strict=True)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What an actor does in one go: all pipes at once, and a latency during which it needs none."""

    name: str
    demand: Demand = Demand()
    latency: float = 0.0
    background: bool = False
    """Whether somebody else does it meanwhile, so that the actor does not wait for it."""
    exclusive: bool = False
    """Whether one actor alone does it for all of them, so that two never do it at the same time; in the background: whether one does that
    is none of them."""
    times: float = 1.0
    """How often it comes in a turn."""
    chained: bool = False
    """Whether each instruction waits for what the one before it leaves (addresses by division, bounds, loops that are not unrolled), so
    that an actor alone issues at the pace of their latencies. Many values of a thread at once fill each other's waits."""
    paced: bool = False
    """Whether its latency has in it what an actor alone waits between instructions."""
    waited: float = 1.0
    """Share of its clocks that an actor waits for: it goes on with another part of its work meanwhile."""
    at_once: bool = False
    """Whether an instruction needs all of its pipes at the same time (a product that reads an operand while it multiplies), so that waits
    at them pass together. Else the pipes are those of instructions that follow each other, and each is waited for."""


def turn_clocks(
    phases: Sequence[Phase],
    actors: int,
    *,
    issue_alone: float = 1.0,
    issue_chained: float | None = None,
    queued: bool = True,
    added: bool = True,
) -> tuple[float, ...]:
    """Clocks of a turn of each of 1, 2, … `actors` actors that work side by side.

    `issue_alone`: clocks from one instruction of a warp to its next, however many may issue of others meanwhile; `issue_chained`: where
    the next one waits for what the first leaves (None: the same). `queued`: whether they stand in line, or never meet at a pipe. `added`:
    whether waits of a phase at several pipes add up, or pass together in every phase.
    Raises ValueError where nothing takes any time, or for fewer than one actor.

    >>> product = Phase(name="product", demand=Demand(matrix=100))
    >>> function = Phase(name="function", demand=Demand(special=100))
    >>> turn_clocks([product, function], 3)
    (200.0, 300.0, 400.0)
    """
    if actors < 1:
        raise ValueError(f"there are {actors} actors; at least one must work")
    total = [sum(phase.demand.clocks[pipe] * phase.times for phase in phases) for pipe in range(len(PIPES))]
    waited = [
        _waited(phase, issue_alone if issue_chained is None or not phase.chained else issue_chained)
        if phase.exclusive or not phase.background
        else 0.0
        for phase in phases
    ]
    alone = sum(wait * phase.times for wait, phase in zip(waited, phases, strict=True) if not phase.background)
    if max(total) <= 0 and alone <= 0:
        raise ValueError("no phase takes any time")
    apart = [(phase, wait) for phase, wait in zip(phases, waited, strict=True) if phase.exclusive]
    slowest = max(*total, sum(phase.times * (wait + max(phase.demand.clocks)) for phase, wait in apart))
    standing, served = [0.0] * len(PIPES), [0.0] * len(PIPES)  # actors at each pipe, and servers
    found: list[float] = []
    for present in range(1, actors + 1):
        response, chain, busy, serving = alone, 0.0, [0.0] * len(PIPES), [0.0] * len(PIPES)
        for phase, latency in zip(phases, waited, strict=True):
            if phase.background and not phase.exclusive:
                continue
            before = standing if phase.background else [own + other for own, other in zip(standing, served, strict=True)]
            waits = [clocks * (1 + queue) for clocks, queue in zip(phase.demand.clocks, before, strict=True)]
            if phase.background:
                chain += phase.times * (latency + _response(phase, before, added))
                serving = [held + phase.times * wait for held, wait in zip(serving, waits, strict=True)]
            else:
                response += phase.times * phase.waited * _response(phase, before, added)
                busy = [held + phase.times * wait for held, wait in zip(busy, waits, strict=True)]
        longest = max(slowest, chain)
        rate = min(present / response if response else math.inf, 1 / longest if longest else math.inf)
        if found:
            rate = max(rate, 1 / found[0])  # one after the other is what is left to them
        if queued:
            standing, served = [rate * held for held in busy], [rate * held for held in serving]
        found.append(present / rate)
    return tuple(found)


def _response(phase: Phase, standing: Sequence[float], added: bool) -> float:
    """Clocks of the phase's pipes with so many standing at each: all of them at once, and what others hold up at them."""
    clocks = phase.demand.clocks
    if phase.at_once or not added:
        return max(one * (1 + queue) for one, queue in zip(clocks, standing, strict=True))
    return max(clocks) + sum(one * queue for one, queue in zip(clocks, standing, strict=True))


def _waited(phase: Phase, issue_alone: float) -> float:
    """The latency of a phase: its own, and what an actor alone cannot issue in the time that its pipes take."""
    if phase.paced:
        return phase.latency
    return phase.latency + max(0.0, issue_alone * phase.demand.issue - max(phase.demand.clocks))
