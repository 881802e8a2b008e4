"""mbconv_tiles.cu: tiles of eight rows, a warp each, for channel counts whose rows of the hidden tensor do not fit."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.configuration import Config, Launch, pointers
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import MBConvParameters
from perfmodel.validation.fused.mbconv.rows import STRIP, group_pairs, lane_order, reciprocal, unserved
from perfmodel.validation.fused.packing import as_bytes, bits, core_matrices, lane_bias
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits
from perfmodel.validation.fused.tiles import reached

NAME: Final = "mbconv_tiles"
CHANNELS: Final = 256
CHUNK: Final = 64
"""Hidden channels at a time."""
WARPGROUPS: Final = 2
ROWS: Final = 4 * WARPGROUPS
"""Of a tile; the outermost only serve their neighbours, except at the image's edge."""
FILTER_BYTES: Final = CHUNK * 16 + CHUNK // 16 * 2688
"""Of a chunk: a row of the expansion for the bias, and the filters of pairs of groups."""


def shared_bytes(hidden: int) -> int:
    """Six halves of matrices, filters twice, rows handed on twice, a row of zeros, x, biases, barriers, as the source lays them out."""
    row = CHUNK * 32
    weights = 6 * CHANNELS * CHUNK + 2 * FILTER_BYTES
    return weights + (2 * ROWS + 1) * row + WARPGROUPS * CHANNELS * 128 + ELEMENT_BYTES * (hidden + CHANNELS) + 24


def down(problem: MBConvProblem) -> int:
    """Tiles of a strip."""
    return -(-max(problem.H - 2, 1) // (ROWS - 2))


def tiles(problem: MBConvProblem) -> int:
    """Of the batch."""
    return problem.N * -(-problem.W // STRIP) * down(problem)


def configure(problem: MBConvProblem, device: DeviceLimits) -> Config | str:
    """The one tile."""
    if why := unserved(problem, device, (CHANNELS,)):
        return why
    if 2 * tiles(problem) <= device.multiprocessors:
        return f"it has a block for each of {tiles(problem)} tiles, which are at most half of {device.multiprocessors} multiprocessors"
    needed = shared_bytes(problem.hidden)
    if needed > device.shared_bytes_per_block:
        return f"its weights and rows need {needed} of {device.shared_bytes_per_block} B of shared memory"
    return Config(
        kernel=NAME,
        tile_rows=ROWS - 2,
        tile_columns=STRIP,
        threads=128 * WARPGROUPS,
        shared_bytes=needed,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", CHANNELS),
            ("EXPANSION", problem.expansion),
            ("WARPGROUPS", WARPGROUPS),
            ("SHARED_BYTES", needed),
        ),
    )


def launches(problem: MBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over tiles."""
    N, H, W, _ = problem.input_shape
    return (
        Launch(
            grid=(min(device.multiprocessors, tiles(problem)), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=pointers(weights=2),
            arguments=(N, H, W, reciprocal(down(problem)), reciprocal(-(-W // STRIP))),
            dependent=True,
        ),
    )


def pack(problem: MBConvProblem, config: Config, parameters: MBConvParameters) -> Buffers:
    """The chunks (expansion, its bias, filters, projection); the other biases."""
    del config
    half, C, p = np.float32(0.5), problem.C, parameters
    bias = np.zeros((8, problem.hidden), np.float32)
    bias[0] = p.expand_b * half
    stream = [
        core_matrices(bits(p.expand_w * half, "fp16"), C, CHUNK),
        core_matrices(bits(bias, "fp16"), 8, CHUNK),
        group_pairs(bits(p.conv_w * half, "fp16")[:, (0, 2, 1), :, :]),
        core_matrices(bits(p.project_w, "fp16")[:, lane_order(C)], CHUNK, C),
    ]
    blob = as_bytes(lane_bias(p.conv_b * half, CHUNK), bits(p.project_b, "fp16"))
    return as_bytes(np.concatenate([part.reshape(problem.hidden // CHUNK, -1) for part in stream], 1)), blob


def moved_bytes(problem: MBConvProblem, config: Config) -> int:
    """A column on either side of every strip, a row above and below every tile. What is read again for the identity is in L2."""
    columns = reached(problem.W, STRIP, kernel=3)
    return ELEMENT_BYTES * problem.C * problem.N * columns * reached(problem.H, config.tile_rows, kernel=3) + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
