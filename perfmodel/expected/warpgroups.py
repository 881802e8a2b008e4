"""Fused kernels of warpgroups (Hopper's `wgmma`): what one of them does for a tile of 64 rows, as phases.

A warpgroup owns 64 rows of the matrix instructions and walks over chunks of hidden channels: expand, activate, project. Counted per
instruction m64nNk16: N/2 clocks of the matrix unit, but no fewer than its A operand takes; N/4 wavefronts of shared memory for B, 16 more
where A comes from there, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from perfmodel.expected.actors import Demand, Phase
from perfmodel.expected.fused import LOOKUPS, WARP, Figures, FusedKernel, Traffic
from perfmodel.expected.fused_work import ELEMENT_BYTES, FusedWork

ROWS: Final = 64
"""Of an instruction of a warpgroup."""
STEP: Final = 16
"""Depth of one instruction."""
GROUP: Final = 8
"""Channels of a group, or of a block of depthwise channels that are convolved together."""
LANES: Final = 128
ITEM_BYTES: Final = 16_384
"""Of weights that come in one go."""
WORD: Final = 2
"""Halves of a register."""

SILU_INSTRUCTIONS: Final = 7.0
"""Of a thread for two values: conversion, bias, tanh (three), product and sum; and moving the result to where the next product reads it."""
GELU_INSTRUCTIONS: Final = 8.0
"""The same with the two that make its argument, and nothing to move: the next product reads these registers."""
OUTPUT_INSTRUCTIONS: Final = 6.0
"""Of a thread for two channels of a result: conversion, bias, residual, and their addresses."""
OUTSIDE_INSTRUCTIONS: Final = 12.0
"""The same where the residual is read from outside after the last product: bounds and addresses of every 16 bytes, by division."""
NORM_INSTRUCTIONS: Final = MappingProxyType({"registers": 11.0, "matrix": 6.0, "in place": 19.0})
"""Of a thread for two channels of a layer norm: sum, difference, square, factor, with conversions, which values in registers need once
(18.8 in the machine code of the kernel that has them in shared memory); by products with ones and with themselves, what is left."""
NORM_PASSES: Final = MappingProxyType({"registers": 1, "matrix": 1, "in place": 4})
"""Of the tile through shared memory: in place it is read for the sum, for the squares and for the result, and written."""
NORM_AT_ONCE: Final = 64
"""Channels in place that are asked for together, and waited for."""
GATHER_INSTRUCTIONS: Final = 5.0
"""Of a thread for one value that a convolution of the hidden tensor adds up from three columns: shuffle, two sums, conversion."""
HANDED_ON: Final = frozenset({"activation", "rows handed on"})
"""Phases whose results another chunk's products come before, wherever two chunks are in flight."""
BAND_PRODUCTS: Final = 7 / 128
"""m16n8k16 per output and channel of a depthwise 7×7 by banded matrices: 7 rows of the filter for 128 outputs."""
BAND_SHARED_BYTES: Final = 46.0
"""Read per output and channel by them: inputs 28, bands 14, result 4."""
BAND_INSTRUCTIONS: Final = 18.0
"""Of a thread per output and channel, in the machine code: 7 byte permutations, 2 products, 3 loads; moves, bias and conversion."""
PLANE_CHANNELS: Final = 32
"""Of a halo tile that are in planes at a time."""
PLANE_CHAINS: Final = 8
"""Accumulators of a warp that are summed up side by side: channels times rows of outputs."""
PLANE_RESULT_INSTRUCTIONS: Final = 2.0
"""Of a thread for one sum: bias, conversion of two, store of two."""

Norm = Literal["registers", "matrix", "in place"]
"""How a layer norm runs: on A operands in registers, the same with sums by products, or over the tile in shared memory."""

Convolution = Literal["none", "shared", "registers", "rows", "bands", "planes", "threads"]
"""How a grouped or depthwise convolution runs: by threads, a multiply-add for each tap; on the matrix unit, A from shared memory, two
groups at a time (n16); A from registers, two taps at a time (n8); over rows of the hidden tensor handed from warp to warp (n24); as banded
matrices by products of single warps, A sorted by byte permutations, or read from planes of a channel, where a row of inputs serves
several rows of outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpgroupForm:
    """How a kernel of warpgroups cuts up its work."""

    kind: str
    actors: int
    """Warpgroups of a multiprocessor that expand, activate and project."""
    chunk: int
    """Hidden channels at a time."""
    convolution: Convolution
    turns: float
    """Tiles of 64 rows in all, idle ones included; a tile that blocks share counts for each of them."""
    processors: int
    split: int = 1
    """Blocks of a cluster that share the hidden channels of a tile."""
    sharing: int = 1
    """Warpgroups of a block that share a tile: each has a part of the expansion's depth and of the outputs, and activates everything."""
    norm: Norm = "registers"
    plane_rows: int = 1
    """Of a convolution from planes: rows of outputs that a row of inputs serves."""
    convolves_apart: bool = False
    """Whether one warpgroup more convolves for all others."""
    convolved_share: float = 1.0
    """Of a turn's convolution by banded matrices, done by itself: the blocks of its cluster and its other warpgroups do the rest."""
    flight: int = 1
    """Chunks that a warpgroup has in flight: while it waits for one it works on another."""
    products_ahead: bool = True
    """Of several chunks in flight: whether products of one run under functions of another. Else they are waited for behind the barrier that
    follows them, and only what is handed on is in flight."""
    last_row: bool = False
    """Whether a block ends with a row of outputs below which the hidden tensor has none: it is convolved and projected after the last
    turn, its chunks shared by the warpgroups."""
    resident: bool = False
    """Whether all weights stay in shared memory."""
    multicast: int = 1
    """Blocks that share every item of weights."""
    loaded_bytes: float
    """Of the input by one turn, halo included."""
    lookups: float = 0.0
    """Lines of 128 bytes that the instructions touch which load them, counted for each: L1 looks up one in a clock."""
    taps_from_shared: bool = False
    """Whether the rows of a product over taps are gathered from shared memory by each warp (ldmatrix), once for every chunk."""
    stored_share: float = 1.0
    """Of the rows of a turn that are pixels of the result."""
    again_bytes: float = 0.0
    again_between_bytes: float = 0.0
    outside: int = 0
    """Readings of the residual from outside after the last product, one after the other; 0: it is there by then."""
    together: float | None = None
    """Turns that fall on the same block at once; None: one for each actor."""
    blocks: float | None = None
    """That read at the same time; None: all multiprocessors' worth."""
    steps: float = 1.0
    """Turns of a warpgroup in its block, one after the other, where that is part of `together`; the last may be a part of one."""
    waves: int = 1
    """Blocks that a multiprocessor takes one after the other, of kernels whose blocks do not stay for all tiles."""


def kernel_of(work: FusedWork, form: WarpgroupForm, figures: Figures) -> FusedKernel:
    """The kernel's phases on a machine."""
    chunks = work.hidden / form.split / form.chunk
    phases = [*_arrival(form, figures), *_convolution(work, form, figures)]
    conv_of_chunk = work.front == "hidden"
    expand, project = _products(work, form, figures)
    if form.sharing > 1:
        phases.append(_shared_sums(form, figures, chunks))
    phases += [
        Phase(name="products", demand=_sum(expand, project), latency=figures.phase_latency, times=chunks, at_once=True),
        Phase(
            name="activation", demand=_activation(work, form.chunk, figures), latency=_activation_latency(figures), times=chunks
        ),
    ]
    if conv_of_chunk:
        hidden = _rows(form, figures) if form.convolution == "rows" else [_threads(work, form.chunk, figures)]
        phases += [replace(phase, times=phase.times * chunks) for phase in hidden]
        phases.append(
            Phase(
                name="second activation",
                demand=_activation(work, form.chunk, figures),
                latency=_activation_latency(figures) + figures.phase_latency,
                times=chunks,
            )
        )
    if form.flight > 1:
        phases = [
            replace(one, latency=one.latency / form.flight, waited=1 / form.flight if one.at_once else 1.0)
            if one.times == chunks and (form.products_ahead or one.name in HANDED_ON)
            else one
            for one in phases
        ]
    phases += _result(work, form, figures)
    streamed = 0.0 if form.resident else work.weight_bytes / form.split / form.actors / form.multicast
    if streamed:
        demand = Demand(shared=figures.shared(streamed * form.multicast), cache=streamed / figures.cache_bytes_per_clock_same)
        phases.append(Phase(name="weights", demand=demand, background=True))
    apart = form.actors + int(form.convolves_apart)
    macs = form.turns * ROWS * (work.hidden / form.split) * (work.depth + work.outputs) / form.sharing
    moved = work.input_bytes + work.output_bytes
    return FusedKernel(
        kind=form.kind,
        phases=tuple(phases),
        end_phases=tuple(_last_row(work, form, figures, chunks)) if form.last_row else (),
        actors=apart,
        turns=form.turns,
        together=form.together or form.actors,
        processors=form.processors,
        lead_clocks=_lead(form, figures),
        prologue_clocks=_prologue(work, form, figures),
        dependent=True,
        trail_clocks=_trail(work, form, figures),
        exchange_clocks=_exchange(work, form, figures),
        steps=form.steps,
        waves=form.waves,
        clustered=form.split > 1 or form.multicast > 1,
        matrix_macs=macs,
        traffic=Traffic(
            input_bytes=work.input_bytes,
            output_bytes=work.output_bytes,
            weight_bytes=work.weight_bytes,
            weights_between_bytes=moved if form.resident else 0.0,
            again_bytes=form.again_bytes,
            again_between_bytes=form.again_between_bytes,
        ),
    )


def _sum(left: Demand, right: Demand) -> Demand:
    return Demand(
        matrix=left.matrix + right.matrix,
        special=left.special + right.special,
        shared=left.shared + right.shared,
        issue=left.issue + right.issue,
        cache=left.cache + right.cache,
    )


def _wide(figures: Figures, n: float, count: float) -> Demand:
    """`count` instructions m64nNk16, A from registers: the matrix unit at what wide products attain of it, B from shared memory."""
    macs = ROWS * STEP * n
    clocks = max(figures.narrow_product_clocks, macs / figures.matrix_macs_per_clock)
    return Demand(matrix=count * clocks, shared=count * figures.shared(STEP * n * ELEMENT_BYTES), issue=count)


def _products(work: FusedWork, form: WarpgroupForm, figures: Figures) -> tuple[Demand, Demand]:
    """Expansion and projection of a chunk.

    Where the hidden tensor is handed on in rows, zero outside of the image, the bias is 16 more rows of the expansion's weights.
    """
    steps = -(-work.depth // STEP // form.sharing) + int(form.convolution == "rows")
    expand = _wide(figures, form.chunk, steps)
    if form.taps_from_shared:
        gathered = figures.shared(steps * ROWS * STEP * ELEMENT_BYTES)
        expand = _sum(expand, Demand(shared=gathered, issue=figures.issue(steps * 4 * LANES)))
    return expand, _wide(figures, work.outputs / form.sharing, form.chunk / STEP)


def _shared_sums(form: WarpgroupForm, figures: Figures, chunks: float) -> Phase:
    """A warpgroup's own sums of a chunk into shared memory, and those of all that share the tile out of it."""
    sums = ROWS * form.chunk
    return Phase(
        name="sums of warpgroups",
        demand=Demand(
            shared=figures.shared(4 * sums * (1 + form.sharing)), issue=figures.issue(sums * (1 + 2 * form.sharing) / WORD)
        ),
        latency=figures.phase_latency + figures.barrier_latency + figures.shared_latency,
        times=chunks,
    )


def _activation(work: FusedWork, channels: float, figures: Figures) -> Demand:
    """Of 64 rows: one evaluation and a few instructions for each value."""
    values = ROWS * channels
    instructions = SILU_INSTRUCTIONS if work.activation == "silu" else GELU_INSTRUCTIONS
    return Demand(special=figures.special(values), issue=figures.issue(values / WORD * instructions))


def _activation_latency(figures: Figures) -> float:
    """Sums into halves with their bias, the last function's way through its unit."""
    return figures.phase_latency


def _arrival(form: WarpgroupForm, figures: Figures) -> list[Phase]:
    demand = Demand(shared=figures.shared(form.loaded_bytes), cache=_loaded(form, figures))
    return [
        Phase(name="input", demand=demand, background=True),
        Phase(name="arrival", latency=figures.barrier_latency + figures.shared_latency),
    ]


def _loaded(form: WarpgroupForm, figures: Figures) -> float:
    """Clocks of the way from L2 for the input of a turn."""
    lookups = 0.0 if LOOKUPS in figures.switched_off else form.lookups
    return max(form.loaded_bytes / _rate(form, figures), lookups)


def _cached(demand: Demand, form: WarpgroupForm, figures: Figures) -> Demand:
    """Bytes of the cache pipe to clocks."""
    return Demand(shared=demand.shared, cache=demand.cache / _rate(form, figures))


def _rate(form: WarpgroupForm, figures: Figures) -> float:
    """Bytes per clock from L2 of one multiprocessor, with as many reading as there are blocks."""
    return figures.cache_rate(form.blocks or figures.multiprocessors)


def _convolution(work: FusedWork, form: WarpgroupForm, figures: Figures) -> list[Phase]:
    """On the input, before the products."""
    groups, taps = work.C / GROUP, work.taps
    a_bytes = ROWS * STEP * ELEMENT_BYTES
    if form.convolution == "shared":  # two groups to a depth of 16, block-diagonal filters of 16 columns
        count = groups / 2 * taps
        demand = Demand(
            matrix=count * 16 / 2,
            shared=count * figures.shared(a_bytes + STEP * 16 * ELEMENT_BYTES),
            issue=count + figures.issue(ROWS * work.C),
        )
        return [Phase(name="convolution", demand=demand, latency=figures.phase_latency + figures.barrier_latency, at_once=True)]
    if form.convolution == "registers":  # two taps to a depth of 16, 8 columns
        count = groups * -(-taps // 2)
        demand = _sum(
            _wide(figures, GROUP, count), Demand(shared=count * figures.shared(a_bytes), issue=figures.issue(count * LANES * 6))
        )
        # the first operands of every group are waited for
        return [Phase(name="convolution", demand=demand, latency=figures.phase_latency + groups * figures.shared_latency)]
    if form.convolution in ("bands", "planes"):
        outputs = ROWS * work.C
        products = outputs * BAND_PRODUCTS
        if form.convolution == "planes":
            return [_planes(work, form, figures), _norm(work, form, figures)]
        chain = (
            work.kernel * figures.small_product_latency * work.C / 2 / 4 / 2
        )  # pairs of channels among four warps, two patches at once
        share = form.convolved_share
        convolve = Phase(
            name="convolution",
            demand=Demand(
                matrix=share * products * 16 * 8 * STEP / figures.small_macs_per_clock,
                shared=share * figures.shared(outputs * BAND_SHARED_BYTES),
                issue=share * figures.issue(outputs * BAND_INSTRUCTIONS),
            ),
            latency=share * chain + figures.barrier_latency,
            exclusive=form.convolves_apart,
        )
        return [convolve, _norm(work, form, figures)]
    if form.convolution == "threads" and work.front == "input":
        return [_threads(work, work.C, figures)]
    return []


def _norm(work: FusedWork, form: WarpgroupForm, figures: Figures) -> Phase:
    """Of 64 pixels, a layer norm over their channels."""
    outputs, passes = ROWS * work.C, NORM_PASSES[form.norm]
    waits = 2.0 if passes == 1 else 2.0 + (passes - 1) * work.C / NORM_AT_ONCE
    return Phase(
        name="norm",
        demand=Demand(
            shared=figures.shared(outputs * passes * ELEMENT_BYTES),
            issue=figures.issue(outputs / WORD * NORM_INSTRUCTIONS[form.norm]),
        ),
        latency=waits * figures.shared_latency + 2 * figures.barrier_latency,
    )


def _planes(work: FusedWork, form: WarpgroupForm, figures: Figures) -> Phase:
    """A tile of 8 rows and 16 · `plane_rows` columns, for each of the patches of 64 pixels in it, channel by channel.

    The tile's pixels are turned into planes, four times 8×8 to an instruction; A is read for each row of inputs, B for each of the filter.
    """
    rows, kernel = form.plane_rows, work.kernel
    patches, halo = 2 * rows, kernel - 1
    turned = (GROUP + halo) * (2 * rows + 1)  # octets of a channel
    outputs = patches * ROWS / WARP  # of a lane and channel
    moved = 4 * turned * GROUP * ELEMENT_BYTES + (rows + halo) * 512 + kernel * 128 + patches * ROWS * ELEMENT_BYTES
    issued = 2 * turned / 4 / GROUP + (rows + halo) + kernel + kernel * rows + outputs * PLANE_RESULT_INSTRUCTIONS
    chain = kernel * figures.small_product_latency * work.C / 4 * rows / PLANE_CHAINS
    slabs = work.C / PLANE_CHANNELS * (2 * figures.barrier_latency + 2 * figures.shared_latency)
    return Phase(
        name="convolution",
        demand=Demand(
            matrix=work.C * kernel / 2 * 16 * 8 * STEP / figures.small_macs_per_clock,
            shared=figures.shared(work.C * moved / patches),
            issue=figures.issue(work.C * issued * WARP / patches),
        ),
        latency=(chain + slabs) / patches,
        exclusive=True,
    )


def _threads(work: FusedWork, channels: float, figures: Figures) -> Phase:
    """Multiply-adds in fp32 for each tap of 64 pixels, on values that stay with their threads."""
    values = ROWS * channels
    return Phase(
        name="convolution",
        demand=Demand(
            shared=figures.shared(values * 2 * ELEMENT_BYTES),
            issue=figures.issue(values * GATHER_INSTRUCTIONS, multiply_adds=values * work.taps),
        ),
        latency=figures.shared_latency + figures.barrier_latency,
    )


def _rows(form: WarpgroupForm, figures: Figures) -> list[Phase]:
    """Of a chunk of the hidden tensor: rows handed on, two products of 24 columns for each group, three columns added up."""
    values = ROWS * form.chunk
    groups = form.chunk / GROUP
    return [
        Phase(
            name="rows handed on",
            demand=Demand(shared=figures.shared(values * 3 * ELEMENT_BYTES), issue=figures.issue(values / 4 * 3)),
            latency=figures.barrier_latency + figures.shared_latency,
        ),
        Phase(name="convolution", demand=_wide(figures, 24, 2 * groups), latency=figures.phase_latency, at_once=True),
        Phase(
            name="columns added",
            demand=Demand(shared=figures.shared(values * 4), issue=figures.issue(values * GATHER_INSTRUCTIONS)),
            latency=figures.shared_latency,
        ),
    ]


def _last_row(work: FusedWork, form: WarpgroupForm, figures: Figures, chunks: float) -> list[Phase]:
    """Of a block, after its turns: two rows of the filter, no expansion, and the sums of all warpgroups added up by one of them."""
    values, groups, share = ROWS * form.chunk, form.chunk / GROUP, chunks / form.actors
    convolve = _sum(
        _wide(figures, 24, groups), Demand(shared=figures.shared(values * 2 * ELEMENT_BYTES), issue=figures.issue(values / 2))
    )
    _, _, columns = _rows(form, figures)
    result, _ = _result(work, form, figures)
    sums = Demand(shared=figures.shared(2 * 4 * ROWS * work.outputs))
    return [
        Phase(
            name="convolution",
            demand=convolve,
            latency=figures.phase_latency + figures.barrier_latency,
            times=share,
            at_once=True,
        ),
        replace(columns, times=share),
        Phase(
            name="second activation",
            demand=_activation(work, form.chunk, figures),
            latency=_activation_latency(figures) + figures.phase_latency,
            times=share,
        ),
        Phase(
            name="projection",
            demand=_wide(figures, work.outputs, form.chunk / STEP),
            latency=figures.phase_latency,
            times=share,
            at_once=True,
        ),
        Phase(name="sums", demand=sums, latency=2 * (figures.barrier_latency + figures.shared_latency)),
        replace(result, demand=result.demand * (1 / form.actors)),
    ]


def _result(work: FusedWork, form: WarpgroupForm, figures: Figures) -> list[Phase]:
    """Bias and residual, into shared memory, and out."""
    values = ROWS * work.outputs / form.sharing
    demand = Demand(
        shared=figures.shared(values * 3 * ELEMENT_BYTES) / form.split,
        issue=figures.issue(values / WORD * (OUTSIDE_INSTRUCTIONS if form.outside else OUTPUT_INSTRUCTIONS)) / form.split,
    )
    stored = Demand(cache=values * ELEMENT_BYTES * form.stored_share / form.split)
    waits = figures.phase_latency + 2 * figures.barrier_latency + figures.shared_latency + form.outside * figures.cache_latency
    return [
        Phase(name="result", demand=demand, latency=waits),
        Phase(name="output", demand=_cached(stored, form, figures), background=True),
    ]


def _side_by_side(form: WarpgroupForm) -> float:
    """Turns of a block that begin, and end, at the same time."""
    return min(form.actors, form.turns, max(form.together or form.actors, form.turns / form.processors))


def _lead(form: WarpgroupForm, figures: Figures) -> float:
    """The first tile from DRAM."""
    return figures.dram_latency + _loaded(form, figures) * _side_by_side(form)


def _prologue(work: FusedWork, form: WarpgroupForm, figures: Figures) -> float:
    """Weights that the first tile cannot begin without: all of them, or the first item of a ring."""
    return figures.cache_latency + (work.weight_bytes if form.resident else ITEM_BYTES) / figures.cache_bytes_per_clock_same


def _trail(work: FusedWork, form: WarpgroupForm, figures: Figures) -> float:
    """The last bytes on their way."""
    stored = ROWS * _side_by_side(form) / form.sharing * work.outputs * ELEMENT_BYTES * form.stored_share / form.split
    return figures.drained(stored, form.blocks or figures.multiprocessors)


def _exchange(work: FusedWork, form: WarpgroupForm, figures: Figures) -> float:
    """Blocks of a cluster meet, hand each other their parts of the sums, and meet again."""
    if form.split == 1:
        return 0.0
    sums = ROWS * form.actors / form.sharing * work.outputs * 4
    handed = sums * (form.split - 1) / form.split / figures.exchange_bytes_per_clock
    return figures.shared(2 * sums) + 2 * figures.cluster_latency + handed
