"""The terms of fused kernels' expected time, each with its switch: what the machine's figures are without it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from perfmodel.expected.fused import (
    AHEAD,
    APART,
    ASKED,
    CONFLICTS,
    DEPENDENCE,
    LAST,
    LOOKUPS,
    PLACES,
    QUEUE,
    SUMS,
    WAITS,
    WAVES,
    Figures,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTerm:
    """What it says, and the switch."""

    says: str
    without: Callable[[Figures], Figures]


def _switched(name: str) -> Callable[[Figures], Figures]:
    return lambda figures: replace(figures, switched_off=figures.switched_off | {name})


def _powered(figures: Figures) -> Figures:
    clock = figures.clock_hz
    return replace(
        figures,
        alone_clock_hz=clock,
        burst_clock_hz=clock,
        sustained_clock_hz=clock,
        burst_ops_per_s=math.inf,
        sustained_ops_per_s=math.inf,
    )


FUSED_TERMS: Final = MappingProxyType(
    {
        "queue": FusedTerm(
            says="serial actors wait for those who are at their pipe already; without, they never meet there",
            without=_switched(QUEUE),
        ),
        "waits": FusedTerm(
            says="waits at the pipes of instructions that follow each other add up; without, they pass together",
            without=_switched(WAITS),
        ),
        "apart": FusedTerm(
            says="between two barriers each warp goes on by itself; without, all of a tile read, and then all multiply",
            without=_switched(APART),
        ),
        "issue": FusedTerm(
            says="a warp alone cannot issue in every clock: addresses wait for each other, and many values at once a little",
            without=lambda figures: replace(figures, issue_chained=1.0, issue_alone=1.0),
        ),
        "slots": FusedTerm(
            says="a special function takes issue slots from multiply-adds beside it, and a multiply-add of three registers more than one",
            without=lambda figures: replace(figures, special_issue=1.0, issue_full=1.0),
        ),
        "places": FusedTerm(
            says="instructions of a tile, a slab and a chunk of hidden channels that belong to no product and no value",
            without=_switched(PLACES),
        ),
        "conflicts": FusedTerm(
            says="pixels of a tile whose rows are no eight columns wide meet banks that are taken", without=_switched(CONFLICTS)
        ),
        "latency": FusedTerm(
            says="latencies of products, functions, shared memory and barriers between phases",
            without=lambda figures: replace(
                figures,
                phase_latency=0.0,
                small_product_latency=0.0,
                special_latency=0.0,
                shared_latency=0.0,
                barrier_latency=0.0,
            ),
        ),
        "narrow": FusedTerm(
            says="a product of a warpgroup takes as long as its A operand, however few its columns",
            without=lambda figures: replace(figures, narrow_product_clocks=0.0),
        ),
        "power": FusedTerm(
            says="the clock falls while all multiply, and products keep to the rate that power allows", without=_powered
        ),
        "launch": FusedTerm(
            says="from the end of one kernel to the start of the next",
            without=lambda figures: replace(figures, launch_s=0.0, cluster_launch_s=0.0),
        ),
        "dependence": FusedTerm(
            says="weights are loaded while the kernel before runs, where a multiprocessor is free", without=_switched(DEPENDENCE)
        ),
        "first": FusedTerm(
            says="latency of L2 and DRAM: first tile, biases, second readings",
            without=lambda figures: replace(figures, cache_latency=0.0, dram_latency=0.0),
        ),
        "drain": FusedTerm(
            says="a kernel ends when its last stores have arrived in L2",
            without=lambda figures: replace(
                figures, drain_latency=0.0, store_bytes_per_clock=math.inf, store_bytes_per_clock_alone=math.inf
            ),
        ),
        "last": FusedTerm(
            says="a warpgroup that projects for the others begins the last row of a block when they are through",
            without=_switched(LAST),
        ),
        "asked": FusedTerm(
            says="a block that walks down rows is set up, and asks for several before it waits for the first, by instructions in a row",
            without=_switched(ASKED),
        ),
        "ahead": FusedTerm(
            says="pixels that are asked for while a group of warps works on others arrive meanwhile", without=_switched(AHEAD)
        ),
        "sums": FusedTerm(
            says="the first of the launches around a global mean only adds up, and projects nothing", without=_switched(SUMS)
        ),
        "waves": FusedTerm(
            says="blocks that do not stay for all tiles start anew: where clusters leave multiprocessors without one, a second time",
            without=_switched(WAVES),
        ),
        "same": FusedTerm(
            says="weights, the same for all, come from L2 faster than data of each multiprocessor's own",
            without=lambda figures: replace(figures, cache_bytes_per_clock_same=figures.cache_bytes_per_clock),
        ),
        "exchange": FusedTerm(
            says="blocks that share a tile meet, and hand each other their sums",
            without=lambda figures: replace(figures, meeting_latency=0.0, cluster_latency=0.0, exchange_bytes_per_clock=math.inf),
        ),
        "lookups": FusedTerm(
            says="copies of 4 bytes touch a line for each pixel, and L1 looks up one line in a clock", without=_switched(LOOKUPS)
        ),
    }
)
"""Every term by name."""
