"""convfirst_c64.cu: all weights in shared memory, 8×8 pixels for each of the independent warpgroups."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.configuration import Config, Launch, TensorBox, mapped
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convfirst.reference import ConvFirstParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import Bits, as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import patches_of, reached

NAME: Final = "convfirst_c64"
LARGEST_SIDE: Final = 1016
"""Patch coordinates of 8×8 pixels are packed into 8 bits."""
LARGEST_BATCH: Final = 32767


def shared_bytes(expansion: int, warpgroups: int) -> int:
    """Weights, two biases, for each warpgroup two halo tiles and their barriers, and three barriers of the weights."""
    blob = 2 * 64 * 64 * expansion * ELEMENT_BYTES + 4 * 9 * 512 + 64 * expansion * ELEMENT_BYTES + 4 * 64
    return up(blob, 1024) + warpgroups * 2 * (up(10 * 10 * 64 * ELEMENT_BYTES, 1024) + 8) + 3 * 8


def configure(problem: ConvFirstProblem, device: DeviceLimits) -> Config | str:
    """Four warpgroups, or three where the weights leave no room."""
    if why := hopper_only(problem, device, (64,)):
        return why
    if max(problem.H, problem.W) > LARGEST_SIDE or problem.N > LARGEST_BATCH:
        return f"its images are at most {LARGEST_SIDE} pixels a side and its batch at most {LARGEST_BATCH}"
    for warpgroups in (4, 3):
        needed = shared_bytes(problem.expansion, warpgroups)
        if needed <= device.shared_bytes_per_block:
            return Config(
                kernel=NAME,
                tile_rows=8,
                tile_columns=8,
                threads=128 * warpgroups,
                shared_bytes=needed,
                blocks_per_multiprocessor=1,
                constants=(("EXPANSION", problem.expansion), ("WARPGROUPS", warpgroups), ("SHARED_BYTES", needed)),
            )
    return f"its weights need {needed} B of shared memory, and there are {device.shared_bytes_per_block} B"


def launches(problem: ConvFirstProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over patches: a multiprocessor has a second one only when all have one."""
    N, H, W, C = problem.input_shape
    pixel = ELEMENT_BYTES * C
    dims, strides = (C, W, H, N), (pixel, pixel * W, pixel * W * H)
    source = TensorBox(dims=dims, strides_bytes=strides, box=(64, 10, 10, 1))
    target = TensorBox(dims=dims, strides_bytes=strides, box=(64, 8, 1, 1))
    return (
        Launch(
            grid=(min(device.multiprocessors, patches_of(problem)), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=mapped(source, target, weights=1),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: ConvFirstProblem, config: Config, parameters: ConvFirstParameters) -> Buffers:
    """All of it in one buffer, as shared memory holds it."""
    del config
    half, C, p = np.float32(0.5), problem.C, parameters
    blob = as_bytes(
        core_matrices(bits(p.expand_w * half, "fp16"), C, 64),
        core_matrices(bits(p.project_w, "fp16"), 64, C),
        block_diagonal(bits(p.conv_w, "fp16")),
        lane_bias(p.folded_bias() * half, 64),
        lane_bias(p.project_b, C),
        np.zeros(C, np.uint16),
    )
    return (blob,)


def block_diagonal(conv_w: Bits) -> Bits:
    """[pair of groups][kx][k8][ky][n8][8 n][8 k], zero where a group would meet the other: two rows of the filter are one operand."""
    C = conv_w.shape[0]
    w = conv_w.reshape(C // 16, 2, 8, 3, 3, 8)
    out = np.zeros((C // 16, 3, 2, 3, 2, 8, 8), np.uint16)
    for half in range(2):
        out[:, :, half, :, half] = w[:, half].transpose(0, 3, 2, 1, 4)
    return out


def moved_bytes(problem: ConvFirstProblem, config: Config) -> int:
    """Tiles with a pixel of halo, and the output."""
    rows = reached(problem.H, config.tile_rows, kernel=3)
    columns = reached(problem.W, config.tile_columns, kernel=3)
    return ELEMENT_BYTES * problem.N * problem.C * rows * columns + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
