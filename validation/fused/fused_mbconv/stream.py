"""fused_mbconv_stream.cu: an implicit product over nine taps, weights streamed to a cluster, h in registers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best, exchange_bytes, flattened
from perfmodel.validation.fused.configuration import Config, Launch, Operand, TensorBox
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.fused_mbconv.reference import FusedMBConvParameters
from perfmodel.validation.fused.packing import as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import resident_blocks

NAME: Final = "fused_mbconv_stream"
ITEM_BYTES: Final = 16384
ROW_BYTES: Final = 128
LARGEST_BOX_ROWS: Final = 256
SMALLEST_RING: Final = 4
LARGEST_RING: Final = 10
WARPGROUPS: Final = {64: 3, 128: 2, 256: 2}
"""Consumers, by channels: as many 64-pixel accumulators as registers hold beside a chunk of the hidden channels."""
REGISTERS: Final = {2: 240, 3: 160}
"""Of a consumer's thread, by consumers: what 65,536 registers leave beside a producer."""
CHUNKS: Final = {64: (128,), 128: (256, 128), 256: (128,)}
"""Hidden channels at a time, by channels, widest first: the wider, the fewer reads of A."""
MULTICAST: Final = 2
"""Blocks that share every item of weights."""
SPLITS: Final = (2, 4, 8)


def configure(problem: FusedMBConvProblem, device: DeviceLimits) -> Config | str:
    """Blocks of a cluster share weights, or one tile where tiles are too few to fill the device: by `choice.best`."""
    if why := hopper_only(problem, device, WARPGROUPS):
        return why
    if not (chunks := [chunk for chunk in CHUNKS[problem.C] if problem.hidden % chunk == 0]):
        return f"its chunks of {CHUNKS[problem.C][-1]} hidden channels do not divide {problem.hidden}"
    if found := tuple(offers(problem, device)):
        return best(problem, found, device)
    return str(arrange(problem, device, split=1, chunk=chunks[0], buffers=_buffers(problem)))


def offers(problem: FusedMBConvProblem, device: DeviceLimits) -> Iterator[Offer]:
    """Tiles of all consumers, shared by none or by 2, 4 or 8 blocks, in the widest chunks that divide a block's hidden channels."""
    for split in (1, *SPLITS):
        for chunk in CHUNKS[problem.C]:
            if problem.hidden % (split * chunk) == 0:
                config = arrange(problem, device, split=split, chunk=chunk, buffers=_buffers(problem))
                if isinstance(config, Config):
                    yield _offer(problem, config, device, split)
                break


def _buffers(problem: FusedMBConvProblem) -> int:
    return 2 if problem.C < 256 else 1


def _offer(problem: FusedMBConvProblem, config: Config, device: DeviceLimits, split: int) -> Offer:
    """Its operands: A once for each chunk, B once for each warpgroup, the blocks' sums where they share a tile."""
    v, C, pixels = config.defines, problem.C, config.tile_columns
    tile, tiles, filled = flattened(problem, pixels)
    taps = 9 * C * pixels * ELEMENT_BYTES * (problem.hidden // split // v["CHUNK"])
    weights = 10 * C * problem.hidden * ELEMENT_BYTES * v["WARPGROUPS"] / split
    return Offer(
        config=config,
        tile=tile,
        chunk=v["CHUNK"],
        tiles=tiles,
        filled=filled,
        operand_bytes=taps + weights + (exchange_bytes(pixels, C) if split > 1 else 0),
        blocks_per_tile=split,
        macs_share=1 / split,
        loaded_share=1 / split,
        weights_share=1 / MULTICAST if split == 1 else 1.0,
        multiprocessors=resident_blocks(device.multiprocessors, v["CLUSTER"]),
    )


def arrange(problem: FusedMBConvProblem, device: DeviceLimits, *, split: int, chunk: int, buffers: int) -> Config | str:
    """The longest ring that fits beside the tiles."""
    warpgroups = WARPGROUPS[problem.C]
    tile, lead = 64 * warpgroups, up(problem.W + 1, 8)
    needed_rows = lead + tile + problem.W + 1
    boxes = -(-needed_rows // LARGEST_BOX_ROWS)
    box = up(-(-needed_rows // boxes), 8)
    rows = up(box * boxes + 1, 8)  # at least one row of zeros
    fixed = buffers * (problem.C // 64 * rows * ROW_BYTES + 24) + problem.hidden * ELEMENT_BYTES + problem.C * ELEMENT_BYTES
    ring = min(LARGEST_RING, (device.shared_bytes_per_block - fixed) // (ITEM_BYTES + 16))
    if ring < SMALLEST_RING:
        return (
            f"tiles with the halo of {problem.W} columns and a ring of {SMALLEST_RING} slots need "
            f"{fixed + SMALLEST_RING * (ITEM_BYTES + 16)} of {device.shared_bytes_per_block} B of shared memory"
        )
    shared = fixed + ring * (ITEM_BYTES + 16)
    if split > 1 and tile * problem.C * 4 > shared - 4096:
        return f"the partial sums of {tile} pixels do not fit {shared} B of shared memory"
    channels = ITEM_BYTES // ELEMENT_BYTES // chunk
    return Config(
        kernel=NAME,
        tile_rows=1,
        tile_columns=tile,
        threads=128 * (warpgroups + 1),
        shared_bytes=shared,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", problem.C),
            ("EXPANSION", problem.expansion),
            ("WARPGROUPS", warpgroups),
            ("CHUNK", chunk),
            ("BATCH", min(channels, 32) if problem.C == 256 else channels),
            ("LEAD", lead),
            ("BOX", box),
            ("BOXES", boxes),
            ("BUFFERS", buffers),
            ("RING_SLOTS", ring),
            ("CLUSTER", split if split > 1 else MULTICAST),
            ("SPLIT", int(split > 1)),
            ("REGISTERS", REGISTERS[warpgroups]),
            ("SHARED_BYTES", shared),
        ),
    )


def launches(problem: FusedMBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over tiles of the flattened image; a cluster for each tile where its blocks share it."""
    N, H, W, C = problem.input_shape
    constants = config.defines
    tile, cluster = config.tile_columns, constants["CLUSTER"]
    tiles = -(-problem.pixels // tile)
    grid = tiles * cluster if constants["SPLIT"] else min(device.multiprocessors // cluster * cluster, up(tiles, cluster))
    flat, strides = (C, problem.pixels), (ELEMENT_BYTES * C,)
    return (
        Launch(
            grid=(grid, 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=(
                Operand(buffer="x", box=TensorBox(dims=flat, strides_bytes=strides, box=(64, constants["BOX"]))),
                Operand(buffer="y", box=TensorBox(dims=flat, strides_bytes=strides, box=(64, 64))),
                Operand(buffer="weights", index=0),
                Operand(buffer="weights", index=1),
                Operand(buffer="x"),
                Operand(buffer="y"),
            ),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: FusedMBConvProblem, config: Config, parameters: FusedMBConvParameters) -> Buffers:
    """The items in the order of consumption: for each chunk, the taps' input channels and then the projection; the biases."""
    half, C, chunk = np.float32(0.5), problem.C, config.defines["CHUNK"]
    elements = ITEM_BYTES // ELEMENT_BYTES
    filters = np.ascontiguousarray(parameters.conv_w.transpose(1, 2, 3, 0)).reshape(9 * C, problem.hidden) * half
    items = []
    for start in range(0, problem.hidden, chunk):
        columns = slice(start, start + chunk)
        items.append(core_matrices(bits(filters[:, columns], "fp16"), elements // chunk, chunk))
        items.append(core_matrices(bits(parameters.project_w[columns], "fp16"), elements // C, C))
    return as_bytes(*items), as_bytes(lane_bias(parameters.conv_b * half, chunk), lane_bias(parameters.project_b, C))


def moved_bytes(problem: FusedMBConvProblem, config: Config) -> int:
    """Each tile with what its boxes read around it, once for each block that shares it, and the output."""
    constants = config.defines
    return flat_moved_bytes(problem, config, constants["CLUSTER"] if constants["SPLIT"] else 1)


def flat_moved_bytes(problem: FusedMBConvProblem, config: Config, sharers: int) -> int:
    """Of tiles of the flattened image that so many blocks share, and the output."""
    constants, pixels = config.defines, problem.pixels
    lead, rows = constants["LEAD"], constants["BOX"] * constants["BOXES"]
    read = sum(min(pixels, start - lead + rows) - max(0, start - lead) for start in range(0, pixels, config.tile_columns))
    return sharers * ELEMENT_BYTES * problem.C * read + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
