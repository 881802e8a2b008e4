"""The least time in which layers can run fused, without choosing how: what a search over many ways to fuse asks for again and again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.layers.dims import Dim
from perfmodel.layers.graph import Graph
from perfmodel.machine.fused import Tiling, compiled
from perfmodel.machine.program import Program
from perfmodel.machine.steps import steps_of
from perfmodel.machine.totals import peak_local_bytes, totals
from perfmodel.tiling import CHUNKS, MODES, Machine, grid, group_width, movements, weights_fit

SAME: Final = 1e-12
"""Times that differ by less, relatively, are rounded differently and otherwise the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastTime:
    """The least waterline time in which layers can run fused: what `choose` would come to, without the choice."""

    time_s: float
    """Infinite where nothing fits."""
    dram_bytes: float
    """The least traffic in that time."""
    local_bytes: float
    """What the tiling with the least local memory needs, in the program that needs most."""
    beyond: Beyond
    """What more layers, all done before these, cannot do better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """Seconds that no program can be under which does these layers last, after any others: with more layers no tiling needs less memory.

    Without the input, which the others would make: the arithmetic of these layers, their DRAM traffic, and the longer of both tiling by
    tiling. All are 0 where nothing is known, and infinite where nothing fits or the layers cannot be fused in whatever company.
    """

    arithmetic_s: float = 0.0
    memory_s: float = 0.0
    time_s: float = 0.0


def least_time(
    graph: Graph,
    layers: Sequence[str],
    machine: Machine,
    *,
    element_bytes: int,
    stored_bytes: Mapping[str, int] | None = None,
    at_least: tuple[float, float] = (0.0, 0.0),
) -> LeastTime:
    """The least waterline time over the tilings of `choose` that fit, summed over programs; and the least traffic in that time.

    Weights that stay resident save nothing where the cache holds them all, and only take memory: such tilings are left out. The search
    ends with a tiling that needs no more than `at_least`, a time and traffic that none can be under. Raises FusionError.
    """
    steps = steps_of(graph, layers)
    best: list[_Least] = []
    programs: tuple[Program, ...] = ()
    closed = True
    for through in (True, False) if group_width(graph, layers) > CHUNKS[0] else (True,):
        rows, columns, chunk = grid(graph, layers, through=through)
        for resident, mode in product((False, True), reversed(MODES)):
            if resident and all(_not_resident(program, machine, element_bytes) for program in programs):
                break  # they have the same weights either way
            tiling = Tiling(mode=mode, rows=rows, columns=columns, chunk=chunk, resident_weights=resident, chunk_through=through)
            programs = compiled(graph, layers, steps, tiling, element_bytes=element_bytes, stored_bytes=stored_bytes)
            best = best or [_Least() for _ in programs]
            closed = closed and not programs[0].opening
            for least, program in zip(best, programs, strict=True):
                least.take(program, machine)
            if (
                sum(least.time_s for least in best) <= at_least[0] * (1 + SAME)
                and sum(least.moved for least in best) <= at_least[1]
            ):
                return _least_time(best, closed=False)
    return _least_time(best, closed=closed)


class _Least:
    """The least of one program's tilings so far."""

    def __init__(self) -> None:
        self.time_s = self.moved = self.local_bytes = math.inf
        self.arithmetic_s = self.memory_s = self.without_input_s = math.inf

    def take(self, program: Program, machine: Machine) -> None:
        """Consider the tilings of `program`."""
        needed = np.asarray(peak_local_bytes(program), dtype=np.float64)
        self.local_bytes = min(self.local_bytes, float(np.min(needed)))
        fits = needed <= machine.local_bytes
        if not fits.any():
            return
        total = totals(program)
        moved = movements(program, total, machine.cache_bytes)
        dram_bytes = sum(movement.bytes for movement in moved)
        input_bytes = sum(movement.bytes for movement in moved if movement.kind in ("input", "halo"))
        arithmetic_s = OPS_PER_MAC * total.macs / machine.peak_ops_per_s
        each = np.where(fits, np.maximum(arithmetic_s, dram_bytes / machine.bandwidth_bytes_per_s), np.inf)
        memory_s = (dram_bytes - input_bytes) / machine.bandwidth_bytes_per_s
        self.arithmetic_s = min(self.arithmetic_s, _least_of(arithmetic_s, fits))
        self.memory_s = min(self.memory_s, _least_of(memory_s, fits))
        self.without_input_s = min(self.without_input_s, _least_of(np.maximum(arithmetic_s, memory_s), fits))
        quickest = float(np.min(each))
        if quickest <= self.time_s * (1 + SAME):
            least = float(np.min(np.where(each <= quickest * (1 + SAME), dram_bytes, np.inf)))
            self.moved = least if quickest < self.time_s * (1 - SAME) else min(least, self.moved)
            self.time_s = min(quickest, self.time_s)


def _least_of(values: Dim, fits: npt.NDArray[np.bool_]) -> float:
    return float(np.min(np.where(fits, values, np.inf)))


def _least_time(best: Sequence[_Least], *, closed: bool) -> LeastTime:
    """`closed`: no chunk can come from what precedes, so with longer segments no tiling needs less memory than it does now."""
    first, *others = best
    later_s = sum(least.time_s for least in others)
    beyond = Beyond(
        arithmetic_s=first.arithmetic_s + later_s, memory_s=first.memory_s + later_s, time_s=first.without_input_s + later_s
    )
    return LeastTime(
        time_s=sum(least.time_s for least in best),
        dram_bytes=sum(least.moved for least in best),
        local_bytes=max(least.local_bytes for least in best),
        beyond=beyond if closed else Beyond(),
    )


def _not_resident(program: Program, machine: Machine, element_bytes: int) -> bool:
    """Whether resident weights save nothing, the cache holding them all, or leave no room in the local memory."""
    weights = sum(tensor.elements for tensor in program.tensors if tensor.role == "weight")
    return weights_fit(program, machine.cache_bytes) or weights * element_bytes > machine.local_bytes
