"""What the model says about a fused block: the records a measurement is placed beside."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.tiling import Machine, choose
from perfmodel.validation.configuration import STREAM_TILE, Config
from perfmodel.validation.problem import ELEMENT_BYTES, Problem

REACHED_OPS_PER_S: Final = 790e12
"""Largest matrix product rate seen on an H200, fp16 and bf16: with the bandwidth beside it the floor that measurements are held to."""
REACHED_BYTES_PER_S: Final = 4.3e12
"""Copy rate seen on an H200, read and written bytes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """MACs and DRAM bytes of one launch, by the model, and the times that follow."""

    macs: int
    compulsory_bytes: int
    """Input and output once, weights once."""
    model_bytes: float
    """DRAM bytes of the model's own tiling: halos are charged for every tile that reads them."""
    kernel_bytes: float
    """The same rule for the kernel's tile: what DRAM would see if no halo were found in the L2 cache."""
    waterline_s: float
    """The model's time at the data sheet's peaks."""

    @property
    def floor_s(self) -> float:
        """max(2·MACs / 790 TFLOP/s, 2·tensor bytes / 4.3 TB/s) at rates that were reached on an H200."""
        return max(OPS_PER_MAC * self.macs / REACHED_OPS_PER_S, self.compulsory_bytes / REACHED_BYTES_PER_S)


def count(problem: Problem, config: Config, device: DeviceSpec) -> Count:
    """By `perfmodel.tiling`, on a device of the catalogue."""
    model_bytes, waterline_s = _model(problem, device)
    return Count(
        macs=problem.macs,
        compulsory_bytes=2 * problem.tensor_bytes + problem.weight_bytes,
        model_bytes=model_bytes,
        kernel_bytes=halo_elements(problem, config) * ELEMENT_BYTES + problem.tensor_bytes + problem.weight_bytes,
        waterline_s=waterline_s,
    )


def halo_elements(problem: Problem, config: Config) -> int:
    """Elements of the input that the kernel's tiles read inside of the image, halos for every tile.

    For tiles of R×S pixels: N·C·Σ rows·Σ columns, each tile reaching one pixel further on each side.
    """
    if config.kernel == "convfirst_stream":
        tiles = -(-problem.pixels // STREAM_TILE)
        lead, trail = config.defines["LEAD"], config.defines["TRAIL"]
        rows = sum(min(problem.pixels, (t + 1) * STREAM_TILE + trail) - max(0, t * STREAM_TILE - lead) for t in range(tiles))
        return rows * problem.C

    def reached(size: int, tile: int) -> int:
        return sum(min(size, start + tile + 1) - max(0, start - 1) for start in range(0, size, tile))

    return problem.N * problem.C * reached(problem.H, config.tile_rows) * reached(problem.W, config.tile_columns)


@functools.cache
def _model(problem: Problem, device: DeviceSpec) -> tuple[float, float]:
    builder = GraphBuilder()
    x = builder.input(Shape(problem.N, problem.C, problem.H, problem.W))
    builder.block(ConvFirst(in_channels=problem.C, out_channels=problem.C, hidden_channels=problem.hidden), x, name="block")
    graph = builder.graph()
    machine = Machine.of(device, problem.dtype)
    (choice,) = choose(
        graph, [name for name, node in graph.nodes.items() if node.block == "block"], machine, element_bytes=ELEMENT_BYTES
    )
    moved = float(sum(float(movement.bytes) for movement in choice.movements))
    ops = OPS_PER_MAC * float(choice.totals.macs)
    return moved, max(ops / machine.peak_ops_per_s, moved / machine.bandwidth_bytes_per_s)
