"""Fused MBConv kernels with a depthwise convolution on threads: hidden channels stay with warpgroups, which walk down strips of an image.

Products are transposed: the rows of an instruction are 64 hidden channels, its columns the pixels of a row. A turn is a row of one
warpgroup: expand, activate, a multiply-add in fp32 for each tap it reaches, activate what is complete. One warpgroup more projects for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from perfmodel.expected.actors import Demand, Phase, turn_clocks
from perfmodel.expected.fused import ASKED, LAST, WARP, Figures, FusedKernel, Traffic
from perfmodel.expected.fused_work import ELEMENT_BYTES, FusedWork
from perfmodel.expected.warpgroups import LANES, ROWS, STEP

SILU_INSTRUCTIONS: Final = 2.0
"""Of a thread for one value: tanh and product; its half is in the weights, and it stays in fp32."""
PACKED_INSTRUCTIONS: Final = 2.5
"""The same of a value that goes to shared memory: half a conversion more."""
SUMMED_INSTRUCTIONS: Final = 3.0
"""The same of a value that is added to its channel's sum."""
BIAS_INSTRUCTIONS: Final = 1.0
"""The same where the bias is no step of the expansion."""
ROW_INSTRUCTIONS: Final = 42.0
"""Of a thread beside that, for a row: its place in the ring and its barrier, descriptors, loop. In the machine code 44 and 45 at stride 1
(3×3, 5×5), 39 and 36 at stride 2."""
NEIGHBOUR_INSTRUCTIONS: Final = 2.0
"""The same for a value of a neighbour lane: shuffle, and zero at the borders."""
COMPLETED_INSTRUCTIONS: Final = 27.0
"""The same for a row that is completed and handed on: its place and barrier, stores, fence, biases. 24 and 22 in the machine code at
stride 1, 20 and 19 at stride 2, and five loads."""
FETCH_INSTRUCTIONS: Final = 50.0
"""Of a thread of the warpgroup that fetches and projects, for a row of x: where it is, its barriers."""
PROJECT_INSTRUCTIONS: Final = 75.0
"""The same for a row of outputs: places and barriers."""
PRODUCT_INSTRUCTIONS: Final = 2.0
"""The same for each of its matrix instructions beside itself: descriptors."""
HANDED_INSTRUCTIONS: Final = 80.0
"""The same where blocks hand each other sums: places, stores and readings, waits, what is added."""
SETUP_INSTRUCTIONS: Final = 145.0
"""Of the warp that sets up a block before its rows: constants, barriers, weights asked for, ones beside x."""
FIRST_INSTRUCTIONS: Final = 95.0
"""Of a thread that fetches, before it asks for the first row: which strips and rows are the block's, by division."""
PIECE: Final = 16
PIECE_INSTRUCTIONS: Final = 17.5
"""Of a thread for 16 bytes that it fetches or stores: address, bounds, copy; sums to halves, residual."""
GATE_CHANNELS: Final = 16
"""Whose sums a warp of the launch of gates adds up at a time."""
GATE_SUMS: Final = 64
"""Blocks of an image whose sums it asks for together."""
GATE_AT_ONCE: Final = 8
"""Readings of a lane of its first matrix that are asked for together; of the second twice as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnForm:
    """How such a kernel cuts up its work."""

    kind: str
    actors: int
    """Warpgroups of a block that convolve, 64 hidden channels each."""
    split: int
    """Blocks of a cluster that share the hidden channels."""
    width: int
    """Columns of a strip, halo included."""
    places: int
    """Columns of the projection, which are as many as the strip's outputs or a few more."""
    rows: int
    """Of the hidden tensor that a block walks over."""
    completed: float
    """Share of them that complete a row of outputs: of strides one in so many, less the rows above and below a block's part."""
    blocks: int
    processors: int
    folded: bool
    """Whether biases are one more step of both products."""
    rotates: bool
    """Whether rows of sums change places by name where nothing is gated: then each row is activated, also those that nobody wants, above a
    block's part. Else the compiler leaves these out, with the last row of the filter."""
    first_asked: int
    """Rows that are asked for before the first is waited for."""
    again_bytes: float
    again_between_bytes: float


def kernel_of(work: FusedWork, form: ColumnForm, figures: Figures) -> FusedKernel:
    """The kernel's phases on a machine; with squeeze-and-excitation once for the sums and once with the gates."""
    passes = 2 if work.squeeze else 1
    processors = min(form.blocks, form.processors)
    turns = form.blocks * form.rows * form.actors
    expand, project = _steps(work, form)
    rate = figures.cache_rate(processors)
    parts = -(-work.outputs // ROWS)
    setup, lead = _first_row(work, form, figures, rate)
    weights = figures.cache_latency + work.weight_bytes / form.split / figures.cache_bytes_per_clock_same
    stored = form.places * work.outputs * ELEMENT_BYTES / form.split
    expanded = ROWS * STEP * form.width * expand
    projected = ROWS * STEP * form.places * project * parts * form.completed
    return FusedKernel(
        kind=form.kind,
        phases=tuple(_phases(work, form, figures, rate)),
        sums_phases=tuple(_phases(work, form, figures, rate, projects=False)) if work.squeeze else None,
        actors=form.actors,  # what projects counts as theirs: no more than these convolve at once
        turns=turns,
        together=form.rows * form.actors,
        processors=form.processors,
        lead_clocks=lead,
        # weights are asked for then, and waited for beside the first row
        prologue_clocks=setup + max(0.0, weights - lead),
        dependent=True,
        trail_clocks=figures.drained(stored, processors)
        + _last_row(work, form, figures) / passes,  # the launch for sums has none
        clustered=form.split > 1,
        matrix_macs=turns * (expanded + projected),
        sums_matrix_macs=turns * expanded if work.squeeze else None,
        traffic=Traffic(
            input_bytes=work.input_bytes * passes,
            output_bytes=work.output_bytes,
            weight_bytes=work.weight_bytes,
            weights_between_bytes=work.input_bytes + work.output_bytes,
            again_bytes=form.again_bytes,
            again_between_bytes=form.again_between_bytes,
            passed_bytes=2 * 4.0 * work.hidden * form.blocks / form.split if work.squeeze else 0.0,
        ),
        launches=passes,
        between_clocks=_gates(work, form, figures) if work.squeeze else 0.0,
    )


def _first_row(work: FusedWork, form: ColumnForm, figures: Figures, rate: float) -> tuple[float, float]:
    """Clocks of a block until it looks for its rows, and from there until its first row of x is there.

    Several rows are asked for before the first is waited for, each by instructions that follow each other.
    """
    arrival = figures.dram_latency + ELEMENT_BYTES * work.C * form.width / rate
    if ASKED in figures.switched_off:
        return 0.0, arrival
    asked = figures.issue_chained * (FETCH_INSTRUCTIONS + _pieces(work, form) / LANES * PIECE_INSTRUCTIONS)
    found = figures.issue_chained * FIRST_INSTRUCTIONS
    return figures.issue_chained * SETUP_INSTRUCTIONS, found + max(min(form.first_asked, form.rows) * asked, asked + arrival)


def _steps(work: FusedWork, form: ColumnForm) -> tuple[float, float]:
    """Instructions of a warpgroup's row: of its expansion, and its part of the projection of 64 outputs."""
    return -(-work.C // STEP) + form.folded, ROWS / STEP + form.folded / form.actors


def _pieces(work: FusedWork, form: ColumnForm) -> float:
    """Of 16 bytes, of a row: lanes without a channel of the last 64 issue with the others."""
    return form.width * -(-work.C // ROWS) * ROWS * ELEMENT_BYTES / PIECE


def _product(figures: Figures, n: float, count: float) -> Demand:
    """`count` instructions m64nNk16, both operands from shared memory."""
    clocks = max(figures.narrow_product_clocks, ROWS * STEP * n / figures.matrix_macs_per_clock)
    read = STEP * (ROWS + n) * ELEMENT_BYTES
    return Demand(matrix=count * clocks, shared=count * figures.shared(read), issue=count)


def _phases(work: FusedWork, form: ColumnForm, figures: Figures, rate: float, *, projects: bool = True) -> list[Phase]:
    """Of a row of one warpgroup; where rows of outputs are fewer, its part of one. Without projection sums stay in registers."""
    expand, _ = _steps(work, form)
    values = ROWS * form.width
    # sums of rows above a block's part, which nobody wants: completed and activated, too, or without the last row of the filter
    activated = 1 / work.stride if form.rotates and not (work.squeeze and projects) else form.completed
    complete = values / work.stride * activated
    met = (work.kernel - 1) / work.stride + activated  # rows of the filter
    beside = 2 * (work.kernel - work.stride) * LANES  # values of the neighbour lanes, of two channels
    row_bytes = ELEMENT_BYTES * work.C * form.width / form.actors
    share = form.completed / form.actors
    stored = ELEMENT_BYTES * form.width / work.stride * work.outputs / form.split * share
    # of the warpgroup that serves the others, a part for each of them
    projection = _projection(work, form, figures)
    fetched = (LANES * FETCH_INSTRUCTIONS + _pieces(work, form) * PIECE_INSTRUCTIONS) / form.actors
    served = Demand(issue=figures.issue(fetched))
    if not projects:
        projection, stored = (
            Phase(name="fetching", demand=served, latency=figures.barrier_latency, exclusive=True, chained=True),
            0.0,
        )
    else:
        projection = replace(
            projection,
            demand=replace(projection.demand * share, issue=projection.demand.issue * share + served.issue),
            latency=projection.latency * share,
        )
    return [
        Phase(
            name="input and output",
            demand=Demand(shared=figures.shared(row_bytes), cache=(row_bytes + stored) / rate),
            background=True,
        ),
        Phase(
            name="expansion",
            demand=_product(figures, form.width, expand),
            latency=figures.phase_latency + figures.barrier_latency,
            at_once=True,
        ),
        Phase(
            name="activation",
            demand=Demand(
                special=figures.special(values),
                issue=figures.issue(values * (SILU_INSTRUCTIONS + BIAS_INSTRUCTIONS * (not form.folded)), evaluations=values),
            ),
            latency=figures.special_latency,
        ),
        Phase(
            name="convolution",
            demand=Demand(
                shared=figures.shared(4 * (work.kernel * met * LANES + beside)),
                issue=figures.issue(
                    (ROW_INSTRUCTIONS + work.kernel * met) * LANES + NEIGHBOUR_INSTRUCTIONS * beside,
                    multiply_adds=values / work.stride * work.kernel * met,
                ),
            ),
            latency=figures.shared_latency,
        ),
        Phase(
            name="second activation",
            demand=Demand(
                special=figures.special(complete),
                shared=figures.shared(complete * ELEMENT_BYTES * projects),
                issue=figures.issue(
                    complete * (PACKED_INSTRUCTIONS if projects else SUMMED_INSTRUCTIONS)
                    + COMPLETED_INSTRUCTIONS * LANES * form.completed * projects,
                    evaluations=complete,
                ),
            ),
            latency=(figures.special_latency + projects * (figures.barrier_latency + figures.shared_latency)) * form.completed,
        ),
        replace(projection, background=True),
    ]


def _projection(work: FusedWork, form: ColumnForm, figures: Figures) -> Phase:
    """Of a row of outputs, by the warpgroup that serves the others."""
    _, project = _steps(work, form)
    out = form.width / work.stride * work.outputs / form.split
    projected = _product(figures, form.places, -(-work.outputs // ROWS) * project * form.actors)
    # sums for the other block's channels, there and back
    sums = 4.0 * ROWS * form.places
    handed = 2 * figures.cluster_latency + sums / figures.exchange_bytes_per_clock if form.split > 1 else 0.0
    pieces = form.places * -(-work.outputs // (ROWS * form.split)) * ROWS * ELEMENT_BYTES / PIECE
    instructions = (
        LANES * (PROJECT_INSTRUCTIONS + PRODUCT_INSTRUCTIONS * projected.issue + HANDED_INSTRUCTIONS * (form.split > 1))
        + pieces * PIECE_INSTRUCTIONS
    )
    return Phase(
        name="projection",
        demand=Demand(
            matrix=projected.matrix,
            shared=projected.shared + figures.shared(out * 3 * ELEMENT_BYTES),
            issue=projected.issue + figures.issue(instructions),
        ),
        latency=figures.phase_latency + 2 * figures.barrier_latency + figures.shared_latency + handed,
        exclusive=True,
        chained=True,
    )


def _last_row(work: FusedWork, form: ColumnForm, figures: Figures) -> float:
    """Of the projection of a block's last row of outputs, which begins when nobody convolves any more."""
    if LAST in figures.switched_off:
        return 0.0
    return turn_clocks(
        [_projection(work, form, figures)], 1, issue_alone=figures.issue_alone, issue_chained=figures.issue_chained
    )[0]


def _gates(work: FusedWork, form: ColumnForm, figures: Figures) -> float:
    """A block for each image: sums of its blocks, two small products, their gates; readings that wait for each other."""
    warps = LANES // WARP * (form.actors + 1)
    of_image = max(1.0, form.blocks / form.split / work.N)
    readings = (
        math.ceil(work.hidden / GATE_CHANNELS / warps) * math.ceil(of_image / GATE_SUMS)
        + math.ceil(work.squeeze / warps) * math.ceil(work.hidden / WARP / GATE_AT_ONCE)
        + math.ceil(work.hidden / WARP / warps) * math.ceil(work.squeeze / (2 * GATE_AT_ONCE))
        + 1  # the gates, by the next launch
    )
    sums = 4.0 * work.hidden * of_image
    matrices = 2.0 * ELEMENT_BYTES * work.hidden * work.squeeze
    return readings * (figures.cache_latency + figures.barrier_latency) + (sums + matrices) / figures.cache_rate(work.N)
