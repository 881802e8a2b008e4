"""A layout as a configuration, its launches and its scratch: what the generic kernels share."""

from __future__ import annotations

from dataclasses import replace

from perfmodel.validation.fused.configuration import Config, Launch, Operand, Scratch
from perfmodel.validation.fused.generic.layout import Layout, Work
from perfmodel.validation.fused.generic.search import choose
from perfmodel.validation.fused.problem import DeviceLimits, Problem

PARTIAL, ARRIVED, SUMS, GATES = range(4)
"""Scratch buffers: fp32 sums of blocks that share a tile and how many came; of squeeze-and-excitation the sums of each tile and the
gates of each image. The counts are zero before the first launch, and every launch leaves them at zero."""


def configure(name: str, problem: Problem, work: Work, device: DeviceLimits) -> Config | str:
    """The layout that `choose` takes, as the configuration of a kernel."""
    layout = choose(problem, work, device)
    return layout if isinstance(layout, str) else config_of(name, layout)


def config_of(name: str, layout: Layout) -> Config:
    """As the configuration of a kernel."""
    return Config(
        kernel=name,
        tile_rows=layout.tile_rows,
        tile_columns=layout.tile_columns,
        threads=layout.threads,
        shared_bytes=layout.shared_bytes,
        blocks_per_multiprocessor=layout.blocks_per_multiprocessor,
        constants=layout.constants,
    )


def launches(work: Work, config: Config, device: DeviceLimits, *, weights: int) -> tuple[Launch, ...]:
    """Blocks that walk over tiles, for each part of the output channels and of the hidden ones; three launches around a global mean."""
    layout = Layout.of(work, config.defines)
    present = device.multiprocessors * layout.blocks_per_multiprocessor
    across = max(1, present // (layout.output_columns * layout.hidden_splits))
    tiles = -(-layout.tiles // layout.warp_groups)
    scratch = [Operand(buffer="scratch", index=index) for index in (PARTIAL, ARRIVED)]
    if work.squeeze:
        scratch = [*(Operand(buffer="scratch", index=index) for index in (SUMS, GATES)), *scratch]
    operands = (
        Operand(buffer="x"),
        Operand(buffer="y"),
        *(Operand(buffer="weights", index=index) for index in range(weights)),
        *scratch,
    )

    def launch(number: int, parts: int) -> Launch:
        return Launch(
            grid=(min(across, tiles), parts, layout.hidden_splits),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=operands,
            arguments=(work.N, work.H, work.W),
            constants=(("PASS", number),) if work.front == "hidden" else (),
        )

    if not work.squeeze:
        return (launch(0, layout.output_columns),)
    gates = replace(launch(2, 1), grid=(work.N, 1, 1), shared_bytes=layout.gates_bytes)
    return launch(1, 1), gates, launch(3, layout.output_columns)


def scratch(work: Work, config: Config) -> tuple[Scratch, ...]:
    """In the order of the constants above."""
    layout = Layout.of(work, config.defines)
    found = (Scratch(bytes=layout.partial_bytes), Scratch(bytes=4 * layout.tiles * layout.output_columns))
    if not work.squeeze:
        return found
    image = 4 * layout.chunks * layout.hidden_chunk
    return (*found, Scratch(bytes=image * layout.tiles), Scratch(bytes=image * work.N))
