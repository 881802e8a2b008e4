"""Which tile a generic kernel gets: every offer that fits is counted, and the one with the least estimated time is taken.

The count is of one multiprocessor's pipes. What a tile loads and stores (halos, and weights for every tile) is the tensor machine's count
of that tile. The kernel's own corrections are what the machine does not know: matrix instructions with the rows and columns that nothing
fills, wavefronts of shared memory, the special functions, instructions issued, and the latencies between them. The constants only rank
offers; they are rates of an H200, and the ranking is used for every device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from perfmodel.expected.fused_work import Front
from perfmodel.layers.layer import ShapeError
from perfmodel.validation.fused.choice import machine_counts
from perfmodel.validation.fused.generic.layout import Layout, Work, blocks
from perfmodel.validation.fused.problem import DeviceLimits, Problem, too_much_shared

WARPS: Final = ((4, 1), (2, 2), (1, 4), (8, 1), (4, 2), (2, 4), (1, 8), (8, 2), (4, 4))
"""Along pixels, along channels, of a group."""
CHUNKS: Final = (64, 32, 16)
ITEM_BYTES: Final = 16384
"""Of the stream of weights: large enough that the barrier before each is a small part, small enough for a ring."""
FLAG_BYTES: Final = 16
"""Of shared memory that the compiler lays out itself."""
RESERVED_SHARED_BYTES: Final = 1024 + FLAG_BYTES
"""What the system keeps of a multiprocessor's shared memory for each block."""
REGISTERS: Final = 65536
LARGEST_REGISTERS: Final = 255
WORKING_REGISTERS: Final[dict[Front, int]] = {"input": 52, "taps": 52, "hidden": 72}
"""Of a thread beside accumulators and A operands, from the compiler's reports: a convolution between the products has its own."""
MMA_CLOCKS: Final = 1.61
"""Of a multiprocessor for each m16n8k16: 2048 multiply-adds at 62 % of what wgmma reaches."""
MMA_LATENCY: Final = 34.0
WAVEFRONT_BYTES: Final = 128
L2_BYTES_PER_CLOCK: Final = 21.0
"""Read by one multiprocessor when all of them read: 5.5 TB/s over 132 at 1.98 GHz."""
LARGEST_L2_BYTES_PER_CLOCK: Final = 60.0
"""By one multiprocessor when few read."""
TILE_CLOCKS: Final = 1500.0
"""Latencies of a tile that nothing of its own hides: first load, prologue, way out."""
BARRIER_CLOCKS: Final = 70.0
MERGE_CLOCKS: Final = 8000.0
"""Where blocks share a tile: sums to the L2 cache, a fence, an atomic, and the sums of all read back."""
APART: Final = 0.6
"""Of the work of the pipes beside the fullest, what one tile does not overlap with it; of several tiles each overlaps the others'."""
SHARING_LOSS: Final = 0.05
"""Of the time of a tile alone, for each other tile that a multiprocessor works on."""
SPLITS: Final = (1, 2, 4, 8, 16)
PARTS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
"""Into which the output channels of a tile are divided between blocks."""
SMALL: Final = ((1, 1), (1, 2), (2, 2), (2, 4))
"""Tiles that leave most rows of a matrix instruction idle: for inputs so wide that no other fits shared memory."""


def shapes(work: Work, M: int) -> tuple[tuple[int, int], ...]:
    """Tiles of at most M output pixels: those with the least work for each kind of kernel."""
    found = set()
    for rows in range(1, min(work.rows, M) + 1):
        widest = min(work.columns, M // rows)
        even = blocks(work.columns, blocks(work.columns, widest))
        found |= {(rows, widest), (rows, even), (blocks(work.rows, blocks(work.rows, rows)), even)}

    def cost(halo_weight: float) -> list[tuple[int, int]]:
        def of(shape: tuple[int, int]) -> tuple[float, int]:
            halo = ((shape[0] - 1) * work.stride + work.kernel) * ((shape[1] - 1) * work.stride + work.kernel)
            tiles = blocks(work.rows, shape[0]) * blocks(work.columns, shape[1])
            return tiles * (M + halo_weight * halo), halo

        return sorted(found, key=of)[:3]

    small = [(rows, columns) for rows, columns in SMALL if M == 16 and rows <= work.rows and columns <= work.columns]
    return tuple(dict.fromkeys(cost(0.1) + cost(1.5) + small))


def offers(work: Work, device: DeviceLimits) -> Iterator[Layout]:
    """Every layout whose registers and tile make sense; whether it fits shared memory is not asked here."""
    groups = min(8, work.C // 8) if work.front == "input" else 1
    for warps_m, warps_n in WARPS:
        for m16 in (1, 2, 4):
            M = 16 * warps_m * m16
            if max(64, min(256, 32 * blocks(work.rows * work.columns, 16) - 1)) < M:
                continue
            tiles = shapes(work, M)
            for chunk in CHUNKS:
                if chunk % (8 * warps_n) or (chunk > 16 and chunk >= 2 * work.hidden):
                    continue
                for output_columns in PARTS:
                    if output_columns > 1 and 4 * m16 * blocks(work.outputs // 8, warps_n * max(1, output_columns // 2)) <= 64:
                        continue  # fewer parts would do
                    across = blocks(work.outputs // 8, warps_n * output_columns)
                    if blocks(work.outputs // 8, across * warps_n) != output_columns:
                        continue
                    expand_steps = blocks(work.depth_steps, blocks(work.depth_steps * chunk * 32, ITEM_BYTES))
                    project_steps = chunk // 16
                    while project_steps > 1 and project_steps * across * warps_n * 256 > ITEM_BYTES:
                        project_steps //= 2
                    for rows, columns in tiles:
                        base = Layout(
                            work=work, tile_rows=rows, tile_columns=columns, warps_m=warps_m, warps_n=warps_n, m16_per_warp=m16,
                            hidden_chunk=chunk, expand_steps=expand_steps, project_steps=project_steps, ring_slots=3, warp_groups=1,
                            hidden_splits=1, input_buffers=1, slab_groups=groups, blocks_per_multiprocessor=1,
                            output_columns=output_columns,
                        )  # fmt: skip
                        if base.m16_halo > 8 and work.front == "hidden":
                            continue
                        yield from _variants(base, device)


def registers(layout: Layout) -> int:
    """That a thread needs, by a count that the compiler's reports confirm."""
    return layout.accumulators + 4 * max(layout.m16_per_warp, layout.expanded_m16) + WORKING_REGISTERS[layout.work.front]


def _variants(base: Layout, device: DeviceLimits) -> Iterator[Layout]:
    """Weights resident or in a ring, groups and blocks that share a multiprocessor, one or two input buffers, split hidden channels."""
    room, whole = device.shared_bytes_per_block - FLAG_BYTES, device.shared_bytes_per_multiprocessor
    needed = registers(base)
    most_threads = min(1024 if needed <= 64 else REGISTERS // needed, 1024)
    single = 32 * base.warps
    if needed > LARGEST_REGISTERS or single > REGISTERS // needed:
        return
    resident = base.chunks * base.chunk_bytes
    if resident <= room and base.output_columns == 1:
        for groups in range(1, min(4, most_threads // single) + 1):
            for buffers in (1, 2):
                layout = replace(base, ring_slots=0, warp_groups=groups, input_buffers=buffers)
                if layout.shared_bytes <= room:
                    yield layout
    for slots in (3, 2):
        for buffers in (1, 2):
            layout = replace(base, ring_slots=slots, input_buffers=buffers)
            fit = whole // (layout.shared_bytes + RESERVED_SHARED_BYTES) if layout.shared_bytes <= room else 1
            for sharing in range(1, max(1, min(fit, most_threads // single, 4)) + 1):
                for splits in SPLITS:
                    if splits <= layout.chunks and (
                        splits == 1 or layout.tiles * layout.output_columns * splits <= 4 * device.multiprocessors
                    ):
                        yield replace(layout, blocks_per_multiprocessor=sharing, hidden_splits=splits)


def _product(steps: float, independent: int, warps: int) -> float:
    """Clocks of `steps` dependent rounds of `independent` mma of each warp."""
    return steps * max(MMA_LATENCY, independent * MMA_CLOCKS * warps)


def clocks(layout: Layout, device: DeviceLimits, moved_bytes: float) -> float:
    """Of the whole problem on a device, by the count of each pipe and the latencies between. `moved_bytes`: of a tile."""
    work, warps = layout.work, layout.warps
    chunks = layout.chunks / layout.hidden_splits
    m16, n_out, m16e, n_exp = layout.m16_per_warp, layout.blocks_per_warp, layout.expanded_m16, layout.expand_blocks
    pairs = work.kernel**2 // 2 + 1 if work.front != "taps" else 0
    conv_jobs = layout.M / 16 * (layout.hidden_chunk if work.front == "hidden" else work.C) / 8  # of a chunk, or of the tile
    convs = conv_jobs * (chunks if work.front == "hidden" else 1) if pairs else 0.0
    together = max(1, min(4, int(conv_jobs // warps)))
    mmas = warps * chunks * (work.depth_steps * m16e * n_exp + layout.hidden_chunk / 16 * m16 * n_out) + convs * pairs
    alone = chunks * (_product(work.depth_steps, m16e * n_exp, warps) + _product(layout.hidden_chunk / 16, m16 * n_out, warps))
    alone += math.ceil(convs / together / warps) * _product(pairs, together, warps) if convs else 0.0

    halo, outputs = layout.halo_pixels * work.input_steps * 32, layout.M * work.outputs * 2 / layout.output_columns
    rows = layout.hidden_chunk * (
        16 * m16e * layout.warps_m + (layout.M if work.front == "hidden" else 0)
    )  # activations of a chunk
    expand_reads = work.depth_steps * warps * (512 * m16e + 256 * n_exp)
    through_shared = layout.warps_n > 1 or work.front == "hidden"
    project_reads = layout.hidden_chunk / 16 * warps * ((512 * m16 if through_shared else 0) + 256 * n_out)
    streamed = chunks * layout.chunk_bytes if layout.ring_slots else 0.0
    shared = chunks * (expand_reads + project_reads + (2 * rows if through_shared else 0)) + convs * pairs * (
        512 + 256 / together
    )
    shared += halo + 3 * outputs + streamed
    issued = 1.5 * mmas + chunks * rows / 32 * 7 + (halo + 3 * outputs + streamed) / 16 / 32 * 8

    jobs = layout.tiles * layout.output_columns * layout.hidden_splits
    rate = min(LARGEST_L2_BYTES_PER_CLOCK, L2_BYTES_PER_CLOCK / min(1.0, jobs / device.multiprocessors))
    activations = moved_bytes - work.weight_bytes
    partial = 0.0 if layout.hidden_splits == 1 else 8.0 * layout.M * work.outputs / layout.output_columns
    moved = (activations + (work.weight_bytes / layout.hidden_splits if layout.ring_slots else 0.0) + partial) / rate
    pipes = (mmas * MMA_CLOCKS, shared / WAVEFRONT_BYTES, chunks * rows / 16, issued / 4, moved)

    items = chunks * ((layout.expand_items + layout.project_items + 1) if layout.ring_slots else 2)
    waits = (
        TILE_CLOCKS * (1.0 if layout.input_buffers == 1 else 0.75)
        + BARRIER_CLOCKS * items
        + (MERGE_CLOCKS if layout.hidden_splits > 1 else 0)
    )
    serial = max(alone, pipes[0]) + 0.5 * pipes[1] + 0.5 * max(pipes[2], pipes[3]) + waits
    serial = max(serial, moved + waits)
    present = min(layout.warp_groups * layout.blocks_per_multiprocessor, max(1, blocks(jobs, device.multiprocessors)))
    fullest = max(pipes)
    together_clocks = present * fullest + APART * (sum(pipes) - fullest)
    a_round = max(together_clocks, serial * (1 + SHARING_LOSS * (present - 1)))
    return blocks(jobs, device.multiprocessors * present) * a_round


def tile_bytes(problem: Problem, work: Work, walks: Sequence[tuple[int, int, int]]) -> list[float]:
    """What a tile of (rows, columns), done in chunks of hidden channels, loads and stores: the tensor machine's count.

    The mean of the two programs where there is a global mean. An image narrower than the stride is refused by the model's layers: then
    it is input, output and weights.
    """
    try:
        counted = machine_counts(problem, walks)
    except ShapeError:
        return [float(problem.input_bytes + problem.output_bytes) / problem.N + work.weight_bytes] * len(walks)
    whole = sum(np.asarray(one.moved_bytes * one.tiles, dtype=np.float64) for one in counted) / len(counted)  # of one launch
    return [float(one) for one in np.broadcast_to(whole / counted[0].tiles, (len(walks),))]


def estimates(problem: Problem, layouts: Sequence[Layout], device: DeviceLimits) -> list[float]:
    """Clocks of each layout."""
    walks = [(one.tile_rows, one.tile_columns, min(one.hidden_chunk, one.work.hidden)) for one in layouts]
    distinct = list(dict.fromkeys(walks))
    moved = dict(zip(distinct, tile_bytes(problem, layouts[0].work, distinct), strict=True))
    return [clocks(one, device, moved[walk]) for one, walk in zip(layouts, walks, strict=True)]


@functools.lru_cache(maxsize=512)
def choose(problem: Problem, work: Work, device: DeviceLimits) -> Layout | str:
    """The offer with the least estimated time among those that fit; else why none does, with the numbers."""
    fitting, least = [], math.inf
    for layout in offers(work, device):
        needed = layout.shared_bytes + FLAG_BYTES
        least = min(least, needed)
        if needed <= device.shared_bytes_per_block:
            fitting.append(layout)
    if not math.isfinite(least):
        return (
            f"the sums of {work.outputs} output channels do not fit the {LARGEST_REGISTERS} registers of a thread, even in {PARTS[-1]} "
            "parts; use fewer channels"
        )
    if not fitting:
        return too_much_shared(device, int(least), "the smallest tile")
    ranks = zip(estimates(problem, fitting, device), (one.shared_bytes for one in fitting), strict=True)
    return min(zip(ranks, range(len(fitting)), fitting, strict=True), key=lambda ranked: ranked[:2])[2]
