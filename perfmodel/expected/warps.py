"""Fused kernels of single warps (`mma.sync`, compute capability 8.0 and later): what four of them do for their part of a tile, as phases.

A group of warps owns a tile of output pixels and walks over chunks of hidden channels. Its actors are sets of four warps, one for each
scheduler: a product's operands come from shared memory into registers first, so that reading and multiplying are phases of their own.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from perfmodel.expected.actors import PIPES, Demand, Phase, turn_clocks
from perfmodel.expected.fused import (
    AHEAD,
    APART,
    CONFLICTS,
    PLACES,
    QUEUE,
    SCHEDULERS,
    WAITS,
    WARP,
    Figures,
    FusedKernel,
    Traffic,
)
from perfmodel.expected.fused_work import ELEMENT_BYTES, FusedWork

STEP: Final = 16
M16: Final = 16
N8: Final = 8
A_BYTES: Final = M16 * STEP * ELEMENT_BYTES
B_BYTES: Final = STEP * N8 * ELEMENT_BYTES
BANKS: Final = 8
"""Of 16 bytes: what shared memory reads in one wavefront lies in each of them once."""
PIECE: Final = 16
"""Bytes that a thread copies at a time."""
SILU_INSTRUCTIONS: Final = 4.0
"""Of a thread for one value: factor, tanh, sum, half a conversion and a store."""
GELU_INSTRUCTIONS: Final = 15.0
"""The same with a polynomial of eight terms, clamped, and no special function."""
LOAD_INSTRUCTIONS: Final = 36.0
"""Of a thread for 16 bytes of the input, four of them unrolled: image, row and column by division, bounds, address, copy."""
STREAM_INSTRUCTIONS: Final = 27 / 4
"""Of a thread for 16 bytes of weights: a loop over four of them."""
ITEM_INSTRUCTIONS: Final = 70.0
"""Of a thread for an item of the ring: which one, where from, where to, how many bytes, and the last few of them."""
SUM_INSTRUCTIONS: Final = 16.0
"""Of a thread for two channels of a result: bias, residual, conversions, address, bounds, store to shared memory."""
ONE_BY_ONE: Final = 8
"""Blocks of eight output channels of a warp from which on the compiler has each sum wait for its own bias: no registers are left to read
the others' meanwhile."""
STORE_INSTRUCTIONS: Final = 66.0
"""Of a thread for 16 bytes of output: place in the image, read back, store."""
RESIDUAL_INSTRUCTIONS: Final = 26.0
"""The same for a residual that is read again: address, load, conversions, sums."""
TILE_INSTRUCTIONS: Final = 280.0
"""Of a warp for a tile: which image, row and column, of this one and of the next; loops and sums set up."""
SLAB_INSTRUCTIONS: Final = 240.0
"""The same for a slab of channels of the input."""
TAP_INSTRUCTIONS: Final = 12.0
"""Of a warp for a step of a product over taps: which tap and which channels it is, by division."""
CHUNK_INSTRUCTIONS: Final = 50.0
"""The same for a chunk of hidden channels."""
NORM_AT_ONCE: Final = 4
"""Pixels that a warp norms at a time, eight lanes each."""
NORM_INSTRUCTIONS: Final = 64.0
"""Of a warp for these and eight channels a lane: read three times, conversions, sum, squares, factor, written."""
NORM_SUMS_INSTRUCTIONS: Final = 45.0
"""The same beside: sums over eight lanes, twice, root, loops."""
NORM_WAITS: Final = 9
"""Of these, one after the other: three readings, and two sums of three steps."""
CONVOLUTION_INSTRUCTIONS: Final = 20.0
"""Of a warp beside products and loads, for 16 pixels × 8 channels: their place in the tile by division, conversions, stores."""
JOB_INSTRUCTIONS: Final = 8.0
"""Of a warp for a set of such pixels: which ones, start values, the filter's place."""
IN_FLIGHT: Final = 4
"""Loads of a loop that the compiler lets run ahead."""
L1_BYTES: Final = 20_000
"""What is left of a multiprocessor's L1 cache beside shared memory: filters that fit are read from L2 once."""


@functools.cache
def bank_conflicts(rows: int, columns: int, kernel: int, stride: int) -> float:
    """Wavefronts of a matrix of eight pixels × 16 bytes that is read from a tile's halo, over the one that rows in a row take.

    Pixels of the halo lie an odd multiple of 16 bytes apart, so that those whose numbers differ modulo 8 lie in different banks. The rows
    of an instruction are the tile's pixels one after the other: where a row of the tile ends within eight of them, the next one begins a
    halo's width further on, and may meet banks that are taken. A tap moves all of them alike.

    >>> bank_conflicts(8, 8, 3, 1), bank_conflicts(7, 7, 3, 1), bank_conflicts(14, 14, 3, 1)
    (1.0, 2.0, 1.0)
    """
    across = (columns - 1) * stride + kernel
    taps = [row * stride * across + column * stride for row in range(rows) for column in range(columns)]
    taps += [0] * (-len(taps) % N8)  # idle ones repeat the first
    worst = [max(Counter(tap % BANKS for tap in {*taps[first : first + N8]}).values()) for first in range(0, len(taps), N8)]
    return statistics.fmean(worst)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpForm:
    """How a kernel of warps cuts up its work."""

    kind: str
    tiles: int
    tile_rows: int
    tile_columns: int
    warps_m: int
    warps_n: int
    m16_per_warp: int
    chunk: int
    chunks: float
    """Of a block: the tile's, over the blocks that share it."""
    split: int
    parts: int
    """Of the output channels, one to a block."""
    groups: int
    """Tiles that a block works on side by side."""
    blocks: int = 1
    """Blocks that a multiprocessor holds."""
    input_buffers: int
    slabs: int
    """In which the input comes, one after the other."""
    slab_groups: int
    ring: bool
    """Whether weights pass through a ring; else they stay."""
    items: tuple[int, int] = (1, 1)
    """Of the ring in a chunk: expansion and projection."""
    steps: tuple[int, int]
    """Of depth 16 in an item of the expansion and of the projection, whether they pass through a ring or stay."""
    again_bytes: float = 0.0
    again_between_bytes: float = 0.0
    processors: int

    @property
    def warps(self) -> int:
        """Of a tile."""
        return self.warps_m * self.warps_n

    @property
    def rows(self) -> int:
        """Of a tile's instructions, idle ones included."""
        return M16 * self.warps_m * self.m16_per_warp

    @property
    def jobs(self) -> int:
        """Tiles, counted for every block that does a part."""
        return self.tiles * self.parts * self.split


def kernel_of(work: FusedWork, form: WarpForm, figures: Figures) -> FusedKernel:
    """The kernel's phases on a machine; of two passes around a global mean the one that projects, twice."""
    counted = _Count(work, form, figures)
    moved = work.input_bytes + work.output_bytes
    passes = 2 if work.squeeze else 1
    sums = 4.0 * work.hidden * form.tiles * 2 if work.squeeze else 0.0
    return FusedKernel(
        kind=form.kind,
        phases=tuple(counted.phases()),
        actors=form.groups * form.blocks,
        warps=max(1.0, form.warps / SCHEDULERS),
        turns=form.jobs,
        together=form.groups,
        processors=form.processors,
        lead_clocks=counted.lead(),
        trail_clocks=counted.trail(),
        exchange_clocks=counted.exchange(),
        matrix_macs=counted.macs() * form.jobs,
        traffic=Traffic(
            input_bytes=work.input_bytes * passes,
            output_bytes=work.output_bytes,
            weight_bytes=work.weight_bytes,
            weights_between_bytes=0.0 if form.ring else moved,
            again_bytes=form.again_bytes * passes,
            again_between_bytes=form.again_between_bytes,
            passed_bytes=sums,
        ),
        launches=passes,
    )


class _Count:
    """Of one tile, by all of its warps."""

    def __init__(self, work: FusedWork, form: WarpForm, figures: Figures) -> None:
        self.work, self.form, self.figures = work, form, figures
        self.rate = figures.cache_rate(form.jobs)
        reach = [(tile - 1) * work.stride + work.kernel for tile in (form.tile_rows, form.tile_columns)]
        self.halo_pixels = reach[0] * reach[1]
        self.steps_in = math.ceil(work.C / STEP)
        self.depth = self.steps_in * (work.taps if work.front == "taps" else 1)
        self.expanded_m16 = math.ceil(self.halo_pixels / (M16 * form.warps_m)) if work.front == "hidden" else form.m16_per_warp
        self.expand_n8 = form.chunk // N8 // form.warps_n
        self.project_n8 = math.ceil(work.outputs / N8 / (form.warps_n * form.parts))
        self.through_shared = form.warps_n > 1 or work.front == "hidden"
        self.mma = M16 * N8 * STEP / figures.small_macs_per_clock
        self.pairs = work.taps // 2 + 1 if work.front != "taps" else 0
        self.one_by_one = self.project_n8 >= ONE_BY_ONE
        conflicts = bank_conflicts(form.tile_rows, form.tile_columns, work.kernel, work.stride)
        self.conflicts = 1.0 if CONFLICTS in figures.switched_off else conflicts

    def phases(self) -> list[Phase]:
        """In the order of a turn."""
        work, form, figures = self.work, self.form, self.figures
        found = [*self._beginning(), *self._arrival()]
        if work.front == "input":
            found += self._convolution(work.C, 1.0)
        if work.norm:
            found.append(self._norm())
        expanded = M16 * self.expanded_m16 * form.warps_m
        found.extend(
            self._product(
                "expansion",
                self.depth,
                self.expanded_m16,
                self.expand_n8,
                reads_a=True,
                items=form.items[0],
                of_item=form.steps[0],
                conflicts=self.conflicts if work.front == "taps" else 1.0,
                over_taps=work.front == "taps",
            )
        )
        found += self._activation(expanded, work.activation)
        if work.front == "hidden":
            found += self._convolution(form.chunk, form.chunks)
            found += self._activation(form.rows, "silu")
        steps = form.chunk / STEP
        found.extend(
            self._product(
                "projection",
                steps,
                form.m16_per_warp,
                self.project_n8,
                reads_a=self.through_shared,
                items=form.items[1],
                of_item=form.steps[1],
            )
        )
        if form.ring:  # every warp asks for its part of the next item; the copies themselves pass meanwhile
            streamed = self._chunk_bytes()
            threads = WARP * form.warps
            items = sum(form.items) + (work.front == "hidden")
            asked = Demand(issue=figures.issue(streamed / PIECE * STREAM_INSTRUCTIONS + items * threads * ITEM_INSTRUCTIONS))
            copied = Demand(shared=figures.shared(streamed), cache=streamed / figures.cache_bytes_per_clock_same)
            found += [
                Phase(name="weights asked for", demand=asked, times=form.chunks),
                Phase(name="weights", demand=copied, background=True, times=form.chunks),
            ]
        return [*found, *self._result()]

    def _beginning(self) -> list[Phase]:
        """Of a tile, its slabs and its chunks: what no product and no value is in."""
        form, figures = self.form, self.figures
        if PLACES in figures.switched_off:
            return []
        slabs = form.slabs if self.work.front == "input" else 0
        return [
            Phase(
                name="places",
                demand=Demand(
                    issue=form.warps
                    * (TILE_INSTRUCTIONS + slabs * SLAB_INSTRUCTIONS + form.chunks * CHUNK_INSTRUCTIONS)
                    / SCHEDULERS
                ),
                chained=True,
            )
        ]

    def _norm(self) -> Phase:
        """Of four pixels by a warp at a time, each in three passes."""
        work, form, figures = self.work, self.form, self.figures
        rounds = math.ceil(form.rows / NORM_AT_ONCE / form.warps)
        of_lane = math.ceil(work.C / (N8 * WARP / NORM_AT_ONCE))
        return Phase(
            name="norm",
            demand=Demand(
                shared=figures.shared(4 * ELEMENT_BYTES * form.rows * work.C),
                issue=form.warps * rounds * (of_lane * NORM_INSTRUCTIONS + NORM_SUMS_INSTRUCTIONS) / SCHEDULERS,
            ),
            latency=rounds * (NORM_WAITS * figures.shared_latency + figures.special_latency) + figures.barrier_latency,
        )

    def _chunk_bytes(self) -> float:
        work, form = self.work, self.form
        filters = form.chunk / N8 * (work.taps // 2 * 256 + 128) if work.front == "hidden" else 0.0
        return (
            self.depth * STEP * form.chunk * ELEMENT_BYTES
            + filters
            + form.chunk * self.project_n8 * N8 * form.warps_n * ELEMENT_BYTES
        )

    def _arrival(self) -> list[Phase]:
        """Of the input: what is asked for while the group still works on what came before arrives in the background."""
        form, figures = self.form, self.figures
        pieces = self.halo_pixels * self.steps_in * STEP * ELEMENT_BYTES / PIECE
        later = 1 - 1 / math.ceil(form.jobs / (form.groups * form.blocks * form.processors))  # turns after the first of a group
        if self.work.front == "input":
            # a tile's first slab is asked for in the tile before, another one before or after its predecessor's convolution
            share = 1.0 if form.input_buffers == 1 else 0.5
            waits = (form.slabs - 1) * figures.dram_latency * share
            ahead = later / form.slabs + (1 - share) * (form.slabs - 1) / form.slabs
        else:
            # the first tile is there by its turn: asked for before the weights, which are waited for
            waits = figures.dram_latency * later if form.input_buffers == 1 else 0.0
            ahead = later if form.input_buffers > 1 else 0.0
        if AHEAD in figures.switched_off:
            ahead = 0.0
        arriving = pieces * PIECE / self.rate
        return [
            Phase(
                name="input",
                demand=Demand(shared=figures.shared(pieces * PIECE), issue=figures.issue(pieces * LOAD_INSTRUCTIONS)),
                latency=waits + figures.barrier_latency,
                chained=True,
            ),
            Phase(name="input from cache", demand=Demand(cache=(1 - ahead) * arriving)),
            Phase(name="input asked for ahead", demand=Demand(cache=ahead * arriving), background=True),
        ]

    def _product(
        self,
        name: str,
        steps: float,
        m16: int,
        n8: int,
        *,
        reads_a: bool,
        items: int,
        of_item: int,
        conflicts: float = 1.0,
        over_taps: bool = False,
    ) -> list[Phase]:
        """`steps` dependent rounds of m16 · n8 instructions of each warp; `over_taps`: which tap a step is of is found by division.

        Operands of the next steps are read while a step multiplies: the first of IN_FLIGHT steps, or of an item, waits for them.
        """
        form, figures, warps = self.form, self.figures, self.form.warps
        of_a, of_b = A_BYTES * m16 * int(reads_a), B_BYTES * n8
        read = of_a * conflicts + of_b
        multiplied = warps * steps * m16 * n8 * self.mma
        placed = figures.issue_chained * TAP_INSTRUCTIONS if over_taps else 0.0
        chain = steps * max(figures.small_product_latency, m16 * n8 * self.mma * SCHEDULERS, placed)
        waits = math.ceil(steps / of_item) * math.ceil(min(of_item, steps) / IN_FLIGHT)
        loads = warps * steps * (of_a + of_b) / A_BYTES
        return self._apart(
            [
                Phase(
                    name=f"{name}, operands",
                    demand=Demand(shared=figures.shared(warps * steps * read), issue=loads / SCHEDULERS),
                    latency=waits * figures.shared_latency,
                    times=form.chunks,
                ),
                Phase(
                    name=name,
                    demand=Demand(matrix=multiplied, issue=warps * steps * (m16 * n8 + 1) / SCHEDULERS),
                    latency=figures.barrier_latency * items,
                    times=form.chunks,
                ),
            ],
            chain,
        )

    def _apart(self, phases: list[Phase], chain: float) -> list[Phase]:
        """What warps do between two barriers: reading operands and multiplying, in which a warp is `chain` clocks at least.

        Every warp goes on by itself there: while one multiplies another reads. They are actors of their own, each with its share.
        """
        figures, warps = self.figures, self.form.warps
        at_once = 1 if APART in figures.switched_off else warps  # or all do the same thing
        alone = []
        for phase in phases:
            share = phase.demand * (1 / at_once)
            bound = max(0.0, chain - share.matrix) if phase.demand.matrix else 0.0
            alone.append(replace(phase, demand=share, latency=phase.latency + bound, times=1.0))
        if at_once == 1:
            return [replace(phase, times=phases[0].times) for phase in alone]
        together = turn_clocks(
            alone,
            warps,
            issue_alone=SCHEDULERS * figures.issue_alone,
            issue_chained=SCHEDULERS * figures.issue_chained,
            queued=QUEUE not in figures.switched_off,
            added=WAITS not in figures.switched_off,
        )[-1]
        demand = Demand(**{pipe: sum(phase.demand.clocks[index] for phase in phases) for index, pipe in enumerate(PIPES)})
        return [replace(phases[-1], demand=demand, latency=max(0.0, together - max(demand.clocks)), paced=True)]

    def _activation(self, rows: float, function: str) -> list[Phase]:
        form, figures = self.form, self.figures
        values = rows * form.chunk
        gelu = function == "gelu"
        found = [
            Phase(
                name="activation",
                demand=Demand(
                    special=0.0 if gelu else figures.special(values),
                    issue=figures.issue(
                        values * (GELU_INSTRUCTIONS if gelu else SILU_INSTRUCTIONS), evaluations=0.0 if gelu else values
                    ),
                ),
                latency=figures.special_latency,
                times=form.chunks,
            )
        ]
        if self.through_shared:
            found.append(
                Phase(
                    name="activated values to shared memory",
                    demand=Demand(shared=figures.shared(values * ELEMENT_BYTES)),
                    latency=figures.barrier_latency,
                    times=form.chunks,
                )
            )
        return found

    def _convolution(self, channels: float, times: float) -> list[Phase]:
        """k16 is two taps × 8 channels; sets of 16 pixels that a warp takes at once share the filter's operands."""
        form, figures, warps = self.form, self.figures, self.form.warps
        groups = form.slab_groups if self.work.front == "input" else form.chunk // N8
        together = next((t for t in (4, 2) if form.rows // M16 % t == 0 and groups * form.rows // M16 // t >= warps), 1)
        jobs = form.rows / M16 * channels / N8
        rounds = math.ceil(jobs / together / warps)
        multiplied = jobs * self.pairs * self.mma
        # a set alone has two sums, which do not wait for each other
        latency = figures.small_product_latency / (2 if together == 1 else 1)
        chain = rounds * self.pairs * max(latency, together * self.mma * SCHEDULERS)
        filter_bytes = self.work.taps // 2 * B_BYTES + B_BYTES / 2
        outside = self.work.front == "input" and channels / N8 * filter_bytes > L1_BYTES
        return self._apart(
            [
                Phase(
                    name="convolution, operands",
                    demand=Demand(
                        shared=figures.shared(jobs * self.pairs * (A_BYTES * self.conflicts + B_BYTES / together)),
                        cache=jobs / together * filter_bytes / self.rate if outside else 0.0,
                    ),
                    latency=rounds * (5 * figures.shared_latency + figures.cache_latency * int(outside)),
                    times=times,
                ),
                Phase(
                    name="convolution",
                    demand=Demand(matrix=multiplied, issue=jobs * self.pairs * (2 + 1 / together) / SCHEDULERS),
                    times=times,
                ),
                Phase(
                    name="convolution, places and results",
                    demand=Demand(issue=jobs * (CONVOLUTION_INSTRUCTIONS + JOB_INSTRUCTIONS / together) / SCHEDULERS),
                    latency=figures.barrier_latency,
                    times=times,
                    chained=True,
                ),
            ],
            chain,
        )

    def _result(self) -> list[Phase]:
        work, form, figures = self.work, self.form, self.figures
        pieces = form.tile_rows * form.tile_columns * work.outputs / N8 / form.parts
        again = work.residual and work.front == "input"
        passes = math.ceil(pieces / (WARP * form.warps))
        sums = 2 * form.m16_per_warp * self.project_n8
        return [
            Phase(
                name="result",
                demand=Demand(
                    shared=figures.shared(2 * ELEMENT_BYTES * pieces * N8),
                    issue=figures.issue(WARP * form.warps * sums * SUM_INSTRUCTIONS),
                ),
                latency=figures.barrier_latency + figures.shared_latency * (sums if self.one_by_one else 1),
                chained=True,
            ),
            Phase(
                name="result stored",
                demand=Demand(
                    shared=figures.shared(ELEMENT_BYTES * pieces * N8),
                    issue=figures.issue(WARP * form.warps * passes * (STORE_INSTRUCTIONS + RESIDUAL_INSTRUCTIONS * int(again))),
                ),
                latency=(sum(divmod(passes, IN_FLIGHT)) * figures.cache_latency if again else 0.0)
                + figures.barrier_latency
                + figures.shared_latency,
                chained=True,
            ),
            Phase(name="residual", demand=Demand(cache=pieces * PIECE * int(again) / self.rate)),
            Phase(name="output", demand=Demand(cache=pieces * PIECE / self.rate), background=True),
        ]

    def macs(self) -> float:
        """On the matrix unit for a tile's part."""
        work, form = self.work, self.form
        expanded = M16 * self.expanded_m16 * form.warps_m
        of_chunk = form.chunk * (expanded * self.depth * STEP + form.rows * self.project_n8 * N8 * form.warps_n)
        convolved = form.rows * STEP * N8 * self.pairs / N8 * (work.C if work.front == "input" else form.chunk * form.chunks)
        return form.chunks * of_chunk + convolved

    def lead(self) -> float:
        """The first tile's way from DRAM, and weights beside it: the first item of a ring, or all; biases, which later tiles find in L1."""
        form, figures = self.form, self.figures
        # the expansion's items are no smaller than others
        of_item = min(form.steps[0], self.depth) * STEP * form.chunk * ELEMENT_BYTES
        weights = of_item if form.ring else self._chunk_bytes() * form.chunks
        biases = self.project_n8 if self.one_by_one and self.work.front != "hidden" else 1
        asked = figures.cache_latency + weights / figures.cache_bytes_per_clock_same
        return max(figures.dram_latency, asked) + biases * figures.cache_latency

    def trail(self) -> float:
        """The last tiles of a multiprocessor on their way."""
        form = self.form
        pixels = form.tile_rows * form.tile_columns * form.groups * form.blocks
        return self.figures.drained(
            pixels * self.work.outputs / form.parts * ELEMENT_BYTES, form.tiles * form.parts / form.groups
        )

    def exchange(self) -> float:
        """Blocks that share a tile leave their sums in L2; the last to come reads them all, one block's after the other."""
        form, figures = self.form, self.figures
        if form.split == 1:
            return 0.0
        sums = form.rows * self.work.outputs / form.parts * 4.0
        moved = sums / figures.cache_rate(form.tiles * form.parts)
        # a warp waits for one block's before it asks for the next one's
        of_warp = form.split * (figures.cache_latency + moved / form.warps)
        return (
            figures.stored(sums, form.jobs) + figures.meeting_latency + max(of_warp, figures.cache_latency + form.split * moved)
        )
