"""convfirst_stream.cu: weights streamed through a ring, tiles of consecutive pixels of the flattened image."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.configuration import Config, Launch, TensorBox, mapped
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convfirst.reference import ConvFirstParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import Bits, as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only

NAME: Final = "convfirst_stream"
LARGEST_BOX_ROWS: Final = 256
TILE: Final = 192
LARGEST_RING: Final = 9
SMALLEST_RING: Final = 4
CHUNK: Final = 32
TAPS: Final = ((0, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2), (1, 0), (1, 1), (1, 2))
"""(ky, kx) in the order in which the kernel pairs them."""


def shared_bytes(C: int, expansion: int, lead: int, trail: int, ring: int) -> int:
    """Two tiles with their halo and at least one row of zeros, the ring, the filters, the biases, the barriers."""
    rows = up(lead + TILE + trail + 1, 8)
    tiles = 2 * (C // 64) * rows * 128
    return tiles + ring * C * CHUNK * ELEMENT_BYTES + C // 8 * 1280 + expansion * C * 2 + 4 * C + 8 * (2 * ring + 4)


def configure(problem: ConvFirstProblem, device: DeviceLimits) -> Config | str:
    """The longest ring that fits."""
    if why := hopper_only(problem, device):
        return why
    if problem.C != 128:
        return f"it has 128 channels, not {problem.C}"
    lead, trail = up(problem.W + 1, 8), problem.W + 1
    if lead + TILE + trail > LARGEST_BOX_ROWS:
        return f"a tile with the halo of {problem.W} columns is {lead + TILE + trail} rows, and a box has {LARGEST_BOX_ROWS}"
    items = 2 * problem.hidden // CHUNK
    for ring in range(min(LARGEST_RING, items - 1), SMALLEST_RING - 1, -1):
        needed = shared_bytes(problem.C, problem.expansion, lead, trail, ring)
        if needed <= device.shared_bytes_per_block:
            return Config(
                kernel=NAME,
                tile_rows=1,
                tile_columns=TILE,
                threads=512,
                shared_bytes=needed,
                blocks_per_multiprocessor=1,
                constants=(
                    ("CHANNELS", problem.C),
                    ("EXPANSION", problem.expansion),
                    ("LEAD", lead),
                    ("TRAIL", trail),
                    ("RING_SLOTS", ring),
                    ("SHARED_BYTES", needed),
                ),
            )
    return f"its tiles and a ring of {SMALLEST_RING} slots do not fit {device.shared_bytes_per_block} B of shared memory"


def launches(problem: ConvFirstProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over tiles of the flattened image."""
    N, H, W, C = problem.input_shape
    rows = config.defines["LEAD"] + TILE + config.defines["TRAIL"]
    flat, strides = (C, problem.pixels), (ELEMENT_BYTES * C,)
    source = TensorBox(dims=flat, strides_bytes=strides, box=(64, rows))
    target = TensorBox(dims=flat, strides_bytes=strides, box=(64, 64))
    return (
        Launch(
            grid=(min(device.multiprocessors, -(-problem.pixels // TILE)), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=mapped(source, target, weights=2),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: ConvFirstProblem, config: Config, parameters: ConvFirstParameters) -> Buffers:
    """The stream of the two products' chunks in the order of consumption; filters and biases."""
    del config
    half, C, p = np.float32(0.5), problem.C, parameters
    chunks = problem.hidden // CHUNK
    expand = core_matrices(bits(p.expand_w * half, "fp16"), C, CHUNK).reshape(chunks, -1)
    project = core_matrices(bits(p.project_w, "fp16"), CHUNK, C).reshape(chunks, -1)
    blob = as_bytes(
        tap_pairs(bits(p.conv_w, "fp16")),
        lane_bias(p.folded_bias() * half, CHUNK),
        lane_bias(p.project_b, C),
        np.zeros(C, np.uint16),
    )
    return as_bytes(np.stack([expand, project], 1)), blob


def tap_pairs(conv_w: Bits) -> Bits:
    """[group][10 taps, the last of them zero][8 n][8 k]: k16 of two taps."""
    C = conv_w.shape[0]
    w = conv_w.reshape(C // 8, 8, 3, 3, 8)
    out = np.zeros((C // 8, 10, 8, 8), np.uint16)
    for index, (ky, kx) in enumerate(TAPS):
        out[:, index] = w[:, :, ky, kx]
    return out


def moved_bytes(problem: ConvFirstProblem, config: Config) -> int:
    """Each tile with LEAD and TRAIL pixels around it, and the output."""
    lead, trail, pixels = config.defines["LEAD"], config.defines["TRAIL"], problem.pixels
    read = sum(min(pixels, start + TILE + trail) - max(0, start - lead) for start in range(0, pixels, TILE))
    return ELEMENT_BYTES * problem.C * read + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
