"""Which of the tiles that a kernel offers: the tensor machine's totals for each, at the rates of a multiprocessor.

The block's fused program is built once, with arrays for the sizes of all the tiles that are offered; its totals say what a tile
multiplies (recomputed halos included) and loads (halos, and weights for every tile). A kernel corrects them by what the machine does
not know: rows of a matrix instruction that no pixel fills, operands that its instructions read again from shared memory, blocks that
share a tile or fetch weights for each other, blocks that share a multiprocessor. Nothing measured of a kernel goes in; the three rates
only weigh the terms.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from perfmodel.layers.dims import Dim, Shape
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.totals import totals
from perfmodel.tiling import parallel_turns
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, Problem

L2_BYTES_PER_CLOCK: Final = 21.0
"""Read by one multiprocessor when all of them read: 5.5 TB/s over 132 at 1.98 GHz."""
MACS_PER_CLOCK: Final = 1270.0
"""Of one multiprocessor by mma.sync in fp16: 62 % of what wgmma reaches."""
WAVEFRONT_BYTES: Final = 128
"""Of shared memory or the L1 cache, in a clock."""
OVERLAP: Final = 0.75
"""Time of blocks that share a multiprocessor, over the sum of what each would take alone."""
NETWORK_BYTES_PER_CLOCK: Final = 32
"""Of shared memory of other blocks of a cluster, read by one of them. An estimate."""
BARRIER_CLOCKS: Final = 1000
"""Of a cluster, before something of another block may be read and after it has been. An estimate."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A tile that a kernel can take, and its corrections of the machine's count."""

    config: Config
    chunk: int
    """Hidden channels done at a time."""
    tile: tuple[int, int] | None = None
    """Rows and columns as the tensor machine sees them; None: the configuration's."""
    tiles: int | None = None
    """Of the whole batch, where they go on from one image to the next; None: the machine's, which end with an image."""
    filled: float = 1.0
    """Share of the rows of the matrix instructions that are pixels of the tile."""
    operand_bytes: float = 0.0
    """Read by a block from shared memory and the L1 cache for its matrix instructions."""
    blocks_per_tile: int = 1
    """Blocks that share a tile by output channels."""
    macs_share: float = 1.0
    """Of a tile's MACs, done by each of them."""
    loaded_share: float = 1.0
    """Of what a tile loads, loaded by each of them."""
    weights_share: float = 1.0
    """Of the weights in that, fetched by a block itself; its cluster's others fetch the rest and multicast it."""
    multiprocessors: int | None = None
    """That blocks in clusters of its size can fill; None: all."""


def best(problem: Problem, offers: Sequence[Offer], device: DeviceLimits) -> Config | str:
    """The offer with the least estimated clocks; among equals the one whose instructions are filled best, then the first.

    Where no offer's cluster has a place on the device, the sentence that refuses.
    """
    clocks = estimated_clocks(problem, offers, device)
    if not np.isfinite(clocks).any():
        return f"its clusters of blocks have no place on {device.multiprocessors} multiprocessors"
    filled = np.array([offer.filled for offer in offers])
    order = np.lexsort((-filled, clocks))  # stable: the first among equals
    return offers[int(order[0])].config


def estimated_clocks(problem: Problem, offers: Sequence[Offer], device: DeviceLimits) -> Array:
    """Clocks of a multiprocessor for the whole block, for each offer: whole rounds of blocks, and in each what one does in turn.

    A block's MACs at MACS_PER_CLOCK over `filled`, its operands at WAVEFRONT_BYTES, what it loads and stores at L2_BYTES_PER_CLOCK.
    Infinite where no cluster of its size has a place on the device.
    """

    def column(values: Sequence[float]) -> Array:
        return np.array(values, dtype=np.float64)

    resident = column([offer.config.blocks_per_multiprocessor for offer in offers])
    sharing, share = column([o.blocks_per_tile for o in offers]), column([o.macs_share for o in offers])
    loaded, fetched = column([o.loaded_share for o in offers]), column([o.weights_share for o in offers])
    usable = column([device.multiprocessors if o.multiprocessors is None else o.multiprocessors for o in offers])
    filled, operands = column([offer.filled for offer in offers]), column([offer.operand_bytes for offer in offers])
    walks = [(*(offer.tile or (offer.config.tile_rows, offer.config.tile_columns)), offer.chunk) for offer in offers]
    found = np.zeros(len(offers))
    for counted in machine_counts(problem, walks):
        machine = counted.tiles + np.zeros(len(offers))
        tiles = np.array([offer.tiles or found for offer, found in zip(offers, machine, strict=True)])
        fewer = machine / tiles  # a kernel's tile that goes on in the next image does the work of more than one of the machine's
        alone = counted.macs * fewer * share / filled / MACS_PER_CLOCK + operands / WAVEFRONT_BYTES
        pixels = (counted.moved_bytes - counted.weight_bytes) * fewer
        alone = alone + (pixels + counted.weight_bytes * fetched) * loaded / L2_BYTES_PER_CLOCK
        rounds = np.ceil(tiles * sharing / (np.maximum(usable, 1) * resident))
        found += rounds * resident * alone * np.where(resident > 1, OVERLAP, 1.0)
    return np.where(usable > 0, found, np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCount:
    """What the tensor machine says of one program, for each of several tiles: arrays of one length, or one figure for all."""

    macs: Dim
    """Of a tile, recomputed halos included: the mean over the image, whose edge tiles do less."""
    moved_bytes: Dim
    """That a tile loads (halos, and weights for every tile) and stores."""
    weight_bytes: Dim
    """The weights in it."""
    tiles: Dim
    """Of the whole batch."""


def machine_counts(problem: Problem, walks: Sequence[tuple[int, int, int]]) -> tuple[MachineCount, ...]:
    """For each program of the block (two around a global mean): tiles of (rows, columns) done in chunks of hidden channels."""
    graph = graph_of(problem)
    rows, columns, chunk = np.array(walks, dtype=np.float64).T
    tiling = Tiling(mode="tiles", rows=rows, columns=columns, chunk=chunk, resident_weights=False)
    found = []
    for program in fused_programs(graph, block_layers(graph), tiling, element_bytes=ELEMENT_BYTES):
        total, turns = totals(program), parallel_turns(program)
        sizes = {tensor.name: tensor.element_bytes for tensor in program.tensors}
        weights = {tensor.name for tensor in program.tensors if tensor.role == "weight"}
        moved = sum(moved * sizes[name] for side in (total.loaded, total.stored) for name, moved in side.items())
        weight = sum(moved * sizes[name] for name, moved in total.loaded.items() if name in weights)
        found.append(MachineCount(macs=total.macs / turns, moved_bytes=moved / turns, weight_bytes=weight / turns, tiles=turns))
    return tuple(found)


def flattened(problem: Problem, pixels: int) -> tuple[tuple[int, int], int, float]:
    """Tiles of consecutive pixels of the flattened batch: one as the machine sees it (whole rows), how many, how full they are.

    >>> from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
    >>> flattened(ConvFirstProblem(N=1, H=28, W=28, C=64, expansion=4), 64)
    ((2, 28), 13, 0.9423076923076923)
    """
    columns = min(problem.W, pixels)
    tiles = -(-problem.pixels // pixels)
    return (max(1, pixels // columns), columns), tiles, problem.pixels / (tiles * pixels)


def exchange_bytes(pixels: int, C: int, element_bytes: int = 4) -> float:
    """What sums (or other values) of a cluster's blocks cost each of them, as bytes of its own shared memory: out, in, two barriers."""
    values = pixels * C * element_bytes
    return values + values * WAVEFRONT_BYTES / NETWORK_BYTES_PER_CLOCK + 2 * BARRIER_CLOCKS * WAVEFRONT_BYTES


@functools.cache
def graph_of(problem: Problem) -> Graph:
    """The block as the model sees it."""
    builder = GraphBuilder()
    x = builder.input(Shape(problem.N, problem.C, problem.H, problem.W))
    builder.block(problem.layers_block(), x, name="block")
    return builder.graph()


def block_layers(graph: Graph) -> list[str]:
    """The layers of the one block of a graph."""
    return [name for name, node in graph.nodes.items() if node.block == "block"]
