"""fused_mbconv_few.cu: for few pixels, the blocks of a cluster share 64 of them, and a block's warpgroups share K."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best, estimated_clocks, exchange_bytes, flattened
from perfmodel.validation.fused.configuration import Config, Launch, Operand, TensorBox
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.fused_mbconv import stream
from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.fused_mbconv.reference import FusedMBConvParameters
from perfmodel.validation.fused.packing import as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import resident_blocks

NAME: Final = "fused_mbconv_few"
PIXELS: Final = 64
"""Of a tile: the rows of one matrix instruction."""
WARPGROUPS: Final = 2
"""That share K. Four would read every sum of the others again."""
CLUSTERS: Final = (2, 4, 8, 16)
"""Blocks that share a tile. Sixteen is more than every device of the architecture must grant; Hopper grants it when asked to."""
CHUNKS: Final = (128, 64)
"""Hidden channels at a time."""
ITEM_CHANNELS: Final = 64
"""Input channels of an item of the convolution."""
SMALLEST_RING: Final = 6
LARGEST_RING: Final = 40


def configure(problem: FusedMBConvProblem, device: DeviceLimits) -> Config | str:
    """Blocks of a cluster and hidden channels at a time by `choice.best`, where that beats the streamed kernel's best tile."""
    if why := hopper_only(problem, device, stream.WARPGROUPS):
        return why
    found = tuple(offers(problem, device))
    if not found:
        return (
            f"clusters of {CLUSTERS[0]} to {CLUSTERS[-1]} blocks with {' or '.join(map(str, CHUNKS))} hidden channels each do not "
            f"make {problem.hidden}, or tiles with the halo of {problem.W} columns leave no room for {SMALLEST_RING} items"
        )
    own = float(estimated_clocks(problem, found, device).min())
    if streamed := tuple(stream.offers(problem, device)):
        other = float(estimated_clocks(problem, streamed, device).min())
        if other <= own:
            return f"it is estimated at {own:.0f} clocks for {problem.pixels} pixels and {stream.NAME} at {other:.0f}"
    return best(problem, found, device)


def offers(problem: FusedMBConvProblem, device: DeviceLimits) -> Iterator[Offer]:
    """Clusters whose blocks have one chunk each: with several the assembler spills what it keeps of them."""
    for cluster in CLUSTERS:
        for chunk in CHUNKS:
            if problem.hidden == cluster * chunk and (config := arrange(problem, device, cluster=cluster, chunk=chunk)):
                yield _offer(problem, config, device)


def items(problem: FusedMBConvProblem) -> int:
    """Of a chunk's convolution: as many for each warpgroup, so that the last may be zeros."""
    return up(9 * problem.C // ITEM_CHANNELS, WARPGROUPS)


def arrange(problem: FusedMBConvProblem, device: DeviceLimits, *, cluster: int, chunk: int) -> Config | None:
    """The longest ring that fits beside the tile; None where it would be shorter than SMALLEST_RING."""
    C, hidden, lead = problem.C, problem.hidden, up(problem.W + 1, 8)
    needed_rows = lead + PIXELS + problem.W + 1
    boxes = -(-needed_rows // stream.LARGEST_BOX_ROWS)
    box = up(-(-needed_rows // boxes), 8)
    tile = C // 64 * up(box * boxes + 1, 8) * stream.ROW_BYTES  # at least one row of zeros
    sums = WARPGROUPS * PIXELS * chunk * 4
    item = ITEM_CHANNELS * chunk * ELEMENT_BYTES
    over = hidden == cluster * chunk and sums <= tile  # the tile is not needed any more
    fixed = tile + (0 if over else sums) + (hidden + C) * ELEMENT_BYTES + 8
    every = hidden // cluster // chunk * (items(problem) + C // ITEM_CHANNELS)
    ring = min(LARGEST_RING, every, (device.shared_bytes_per_block - fixed) // (item + 16))
    if ring < every:
        ring -= ring % WARPGROUPS  # a place is one warpgroup's within a chunk, or it would miss a round that the other waited for
    partial = PIXELS * C * 4
    if ring < SMALLEST_RING or partial > fixed + ring * item - 8 - (hidden + C) * ELEMENT_BYTES:
        return None
    shared = fixed + ring * (item + 16)
    return Config(
        kernel=NAME,
        tile_rows=1,
        tile_columns=PIXELS,
        threads=128 * WARPGROUPS + 32,
        shared_bytes=shared,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", C),
            ("EXPANSION", problem.expansion),
            ("WARPGROUPS", WARPGROUPS),
            ("CHUNK", chunk),
            ("LEAD", lead),
            ("BOX", box),
            ("BOXES", boxes),
            ("RING_SLOTS", ring),
            ("CLUSTER", cluster),
            ("SHARED_BYTES", shared),
        ),
    )


def _offer(problem: FusedMBConvProblem, config: Config, device: DeviceLimits) -> Offer:
    """Its operands: A once for each chunk, B once, the warpgroups' sums out and in, the blocks' sums."""
    v, C = config.defines, problem.C
    tile, tiles, filled = flattened(problem, PIXELS)
    chunks = problem.hidden // v["CLUSTER"] // v["CHUNK"]
    taps = 9 * C * PIXELS * ELEMENT_BYTES * chunks
    weights = 10 * C * problem.hidden * ELEMENT_BYTES / v["CLUSTER"]
    sums = 2 * WARPGROUPS * PIXELS * v["CHUNK"] * 4 * chunks
    return Offer(
        config=config,
        tile=tile,
        chunk=v["CHUNK"],
        tiles=tiles,
        filled=filled,
        operand_bytes=taps + weights + sums + exchange_bytes(PIXELS, C),
        blocks_per_tile=v["CLUSTER"],
        macs_share=1 / v["CLUSTER"],
        loaded_share=1 / v["CLUSTER"],
        multiprocessors=resident_blocks(device.multiprocessors, v["CLUSTER"]),
    )


def launches(problem: FusedMBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A cluster for each tile."""
    del device
    N, H, W, C = problem.input_shape
    cluster = config.defines["CLUSTER"]
    box = TensorBox(dims=(C, problem.pixels), strides_bytes=(ELEMENT_BYTES * C,), box=(64, config.defines["BOX"]))
    return (
        Launch(
            grid=(-(-problem.pixels // PIXELS) * cluster, 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=(
                Operand(buffer="x", box=box),
                Operand(buffer="weights", index=0),
                Operand(buffer="weights", index=1),
                Operand(buffer="x"),
                Operand(buffer="y"),
            ),
            arguments=(N, H, W),
            dependent=True,
            cluster=cluster,
        ),
    )


def pack(problem: FusedMBConvProblem, config: Config, parameters: FusedMBConvParameters) -> Buffers:
    """The items in the order of consumption: for each chunk, the taps' input channels and then the projection; the biases."""
    half, C, chunk = np.float32(0.5), problem.C, config.defines["CHUNK"]
    filters = np.zeros((items(problem) * ITEM_CHANNELS, problem.hidden), np.float32)
    filters[: 9 * C] = parameters.conv_w.transpose(1, 2, 3, 0).reshape(9 * C, problem.hidden) * half
    stream_items = []
    for start in range(0, problem.hidden, chunk):
        columns = slice(start, start + chunk)
        stream_items.append(core_matrices(bits(filters[:, columns], "fp16"), ITEM_CHANNELS, chunk))
        stream_items.append(core_matrices(bits(parameters.project_w[columns], "fp16"), ITEM_CHANNELS * chunk // C, C))
    return as_bytes(*stream_items), as_bytes(lane_bias(parameters.conv_b * half, chunk), lane_bias(parameters.project_b, C))


def moved_bytes(problem: FusedMBConvProblem, config: Config) -> int:
    """Each tile with what its boxes read around it, once for each block that shares it, the residual, and the output."""
    return stream.flat_moved_bytes(problem, config, config.defines["CLUSTER"]) + problem.input_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
