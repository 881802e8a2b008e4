"""Fused MBConv kernels with a depthwise convolution on threads: hidden channels stay with warpgroups, which walk down strips of an image.

Products are transposed: the rows of an instruction are 64 hidden channels, its columns the pixels of a row. A turn is a row of one
warpgroup: expand, activate, a multiply-add in fp32 for each tap it reaches, activate what is complete. One warpgroup more projects for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from perfmodel.expected.actors import Demand, Phase, turn_clocks
from perfmodel.expected.fused import LAST, Figures, FusedKernel, Traffic
from perfmodel.expected.fused_work import ELEMENT_BYTES, FusedWork
from perfmodel.expected.warpgroups import LANES, ROWS, STEP, WORD

SILU_INSTRUCTIONS: Final = 2.0
"""Of a thread for one value: tanh and product; its half is in the weights, and it stays in fp32."""
PACKED_INSTRUCTIONS: Final = 2.5
"""The same of a value that goes to shared memory: half a conversion more."""
ROW_INSTRUCTIONS: Final = 130.0
"""Of a thread beside that, for a row: places in the rings and their barriers, filters and neighbour columns, loop."""
FETCH_INSTRUCTIONS: Final = 100.0
"""Of a thread of the warpgroup that fetches and projects, for a row of x: where it is, its barriers."""
PROJECT_INSTRUCTIONS: Final = 250.0
"""The same for a row of outputs: places, barriers, matrix instructions and their descriptors."""
PIECE: Final = 16
PIECE_INSTRUCTIONS: Final = 21.0
"""Of a thread for 16 bytes that it fetches or stores: address, bounds, copy; sums to halves, residual."""
GATE_READINGS: Final = 4
"""That wait for each other in the launch of gates: sums, two matrices, and the way of the gates to the next launch."""


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
    again_bytes: float
    again_between_bytes: float


def kernel_of(work: FusedWork, form: ColumnForm, figures: Figures) -> FusedKernel:
    """The kernel's phases on a machine; with squeeze-and-excitation once for the sums and once with the gates."""
    passes = 2 if work.squeeze else 1
    processors = min(form.blocks, form.processors)
    turns = form.blocks * form.rows * form.actors
    expand, project = _steps(work, form)
    rate = figures.cache_rate(processors)
    row_bytes = ELEMENT_BYTES * work.C * form.width
    parts = -(-work.outputs // ROWS)
    weights = figures.cache_latency + work.weight_bytes / form.split / figures.cache_bytes_per_clock_same
    stored = form.places * work.outputs * ELEMENT_BYTES / form.split
    macs = ROWS * STEP * (form.width * expand + form.places * project * parts * form.completed)
    return FusedKernel(
        kind=form.kind,
        phases=tuple(_phases(work, form, figures, rate)),
        actors=form.actors,  # what projects counts as theirs: no more than these convolve at once
        turns=turns,
        together=form.rows * form.actors,
        processors=form.processors,
        lead_clocks=figures.dram_latency + row_bytes / rate,
        prologue_clocks=max(0.0, weights - figures.dram_latency),  # asked for with the first row, if not before
        dependent=True,
        trail_clocks=figures.drained(stored, processors)
        + _last_row(work, form, figures) / passes,  # the launch for sums has none
        clustered=form.split > 1,
        matrix_macs=turns * macs,
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


def _steps(work: FusedWork, form: ColumnForm) -> tuple[float, float]:
    """Instructions of a warpgroup's row: of its expansion, and its part of the projection of 64 outputs."""
    return -(-work.C // STEP) + form.folded, ROWS / STEP + form.folded / form.actors


def _product(figures: Figures, n: float, count: float) -> Demand:
    """`count` instructions m64nNk16, both operands from shared memory."""
    clocks = max(figures.narrow_product_clocks, ROWS * STEP * n / figures.matrix_macs_per_clock)
    read = STEP * (ROWS + n) * ELEMENT_BYTES
    return Demand(matrix=count * clocks, shared=count * figures.shared(read), issue=count)


def _phases(work: FusedWork, form: ColumnForm, figures: Figures, rate: float) -> list[Phase]:
    """Of a row of one warpgroup; where rows of outputs are fewer, its part of one."""
    expand, _ = _steps(work, form)
    values = ROWS * form.width
    complete = values / work.stride * form.completed
    beside = work.kernel // 2 * 2 * ROWS * WORD  # columns of the neighbour lanes, of four lanes and 64 channels
    row_bytes = ELEMENT_BYTES * work.C * form.width / form.actors
    share = form.completed / form.actors
    stored = ELEMENT_BYTES * form.width / work.stride * work.outputs / form.split * share
    # of the warpgroup that serves the others, a part for each of them
    projection = _projection(work, form, figures)
    fetched = LANES * FETCH_INSTRUCTIONS / form.actors + row_bytes / PIECE * PIECE_INSTRUCTIONS
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
        ),
        Phase(
            name="activation",
            demand=Demand(special=figures.special(values), issue=figures.issue(values * SILU_INSTRUCTIONS)),
            latency=figures.special_latency,
        ),
        Phase(
            name="convolution",
            demand=Demand(
                shared=figures.shared(4 * (work.taps * LANES + beside)),
                issue=figures.issue(values / work.stride**2 * work.taps + ROW_INSTRUCTIONS * LANES),
            ),
            latency=figures.shared_latency,
        ),
        Phase(
            name="second activation",
            demand=Demand(
                special=figures.special(complete),
                shared=figures.shared(complete * ELEMENT_BYTES),
                issue=figures.issue(complete * PACKED_INSTRUCTIONS),
            ),
            latency=(figures.special_latency + figures.barrier_latency + figures.shared_latency) * form.completed,
        ),
        replace(
            projection,
            demand=replace(projection.demand * share, issue=projection.demand.issue * share + figures.issue(fetched)),
            latency=projection.latency * share,
            background=True,
        ),
    ]


def _projection(work: FusedWork, form: ColumnForm, figures: Figures) -> Phase:
    """Of a row of outputs, by the warpgroup that serves the others."""
    _, project = _steps(work, form)
    out = form.width / work.stride * work.outputs / form.split
    projected = _product(figures, form.places, -(-work.outputs // ROWS) * project * form.actors)
    # sums for the other block's channels, there and back
    sums = 4.0 * ROWS * form.places
    handed = 2 * figures.cluster_latency + sums / figures.exchange_bytes_per_clock if form.split > 1 else 0.0
    instructions = LANES * PROJECT_INSTRUCTIONS + ELEMENT_BYTES * out / PIECE * PIECE_INSTRUCTIONS
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
    """A block for each image: sums of its blocks, two small products, their gates."""
    sums = 4.0 * work.hidden * max(1.0, form.blocks / form.split / work.N)
    matrices = 2.0 * ELEMENT_BYTES * work.hidden * work.squeeze
    return GATE_READINGS * (figures.cache_latency + figures.barrier_latency) + (sums + matrices) / figures.cache_rate(work.N)
