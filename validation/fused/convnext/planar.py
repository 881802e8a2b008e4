"""convnext_patch.cu: a warpgroup convolves 8×8 patches on the matrix unit while others normalise, expand and project them."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.configuration import Config, Launch, Operand, TensorBox
from perfmodel.validation.fused.convnext.problem import KERNEL as WINDOW
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.convnext.reference import ConvNeXtParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import Bits, Floats, as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import reached

NAME: Final = "convnext_planar"
PATCH: Final = 8
"""Rows and columns of output pixels."""
SLAB: Final = 32
"""Channels of a halo tile in shared memory."""
HALO_BYTES: Final = 12800
"""14×14 pixels of a slab, rounded up to whole periods of the swizzle."""
CHANNELS: Final = (64, 96, 128)
"""Those whose accumulators fit into registers beside the normalised patch."""
WARPGROUPS: Final = {1: 3, 0: 2}
"""That normalise, expand and project, with resident weights and without; one convolves and, for streamed weights, one fetches."""
REGISTERS: Final = {1: 112, 0: 168}
"""Of their threads."""
CONV_REGISTERS: Final = {1: 176, 0: 152}
"""Of those that convolve; with 24 of those that fetch they are the 512 of the four warps of a quarter of a multiprocessor."""
CHUNKS: Final = {64: 32, 96: 64, 128: 32}
"""Hidden channels at a time, by channels."""
SLOTS: Final = {1: 6, 0: 5}
"""Patches between the roles: two being written, one being read by each warpgroup, one more."""
GROUPS: Final = (2, 1)
"""Patches convolved at once: two fill the rows of the matrix instruction."""
WIDE_ENTRIES: Final = 11
NARROW_ENTRIES: Final = 13
LARGEST_RESIDENT: Final = 64
"""Channels whose accumulators fit 128 registers: as many threads as there are registers of that many, and none left to fetch."""
LARGEST_RING: Final = 10
SMALLEST_RING_BYTES: Final = 32768
"""Less does not hide the time of a copy from the L2 cache."""


def arrange(problem, device, *, rows, octets, chunk, ahead=0, cluster=1, regs, conv_regs, slots, raws=1, ring=None, warpgroups=None, resident=None, ablate=0, abreast=None, convs=1, fetch=0):
    C = problem.C
    item, items = C * chunk * ELEMENT_BYTES, 2 * problem.hidden // chunk
    resident = int(C <= 64) if resident is None else resident
    wgs = warpgroups or (3 if resident else 2)
    xb = 2 * rows
    cols = 8 * xb + 6
    raw = up(14 * cols * 64 + 128, 512)
    line = 48 if rows == 1 else 80
    plane = 14 * line + 16
    needed = raws * raw + 32 * plane + slots * C * 128 + table_bytes(C) + 4 * C + (problem.hidden + C) * ELEMENT_BYTES
    needed += 8 * (2 * slots + raws) + 4 * slots
    room = (device.shared_bytes_per_block - needed) // (item + 16)
    n = items if resident else min(ring or 99, items - 1, room)
    if room < n or n * item < 30000: return f"{needed} + {item} x {n}, room {room}"
    shared = needed + n * (item + 16)
    return Config(kernel=NAME, tile_rows=8, tile_columns=8 * xb, threads=128 * (wgs + convs + 1 - (resident or fetch)), shared_bytes=shared, blocks_per_multiprocessor=1,
        constants=(("CHANNELS", C), ("EXPANSION", problem.expansion), ("WARPGROUPS", wgs), ("CHUNK", chunk), ("AHEAD", ahead), ("CLUSTER", cluster), ("ROWS", rows), ("OCTETS", octets),
          ("RAWS", raws), ("SLOTS", slots), ("RING_SLOTS", n), ("RESIDENT", resident), ("REGISTERS", regs), ("CONV_REGISTERS", conv_regs), ("ABLATE", ablate), ("CONVS", convs), ("FETCH", fetch), ("ABREAST", abreast or 8 // rows // convs), ("SHARED_BYTES", shared)))


def table_bytes(C):
    return C * 224


def halo_box(problem, config):
    N, H, W, C = problem.input_shape
    return TensorBox(dims=(C, W, H, N), strides_bytes=(2 * C, 2 * C * W, 2 * C * W * H), box=(32, config.tile_columns + 6, 14, 1), swizzle_bytes=64)


def launches(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over groups of patches."""
    N, H, W, _ = problem.input_shape
    tiles = N * -(-H // 8) * -(-W // config.tile_columns)
    cluster = config.defines["CLUSTER"]
    return (
        Launch(
            grid=(min(device.multiprocessors // cluster * cluster, up(tiles, cluster)), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=(
                Operand(buffer="x", box=halo_box(problem, config)),
                Operand(buffer="weights", index=0),
                Operand(buffer="weights", index=1),
                Operand(buffer="x"),
                Operand(buffer="y"),
            ),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: ConvNeXtProblem, config: Config, parameters: ConvNeXtParameters) -> Buffers:
    """The stream of the two products' chunks in the order of consumption; filters and biases."""
    half, C, chunk = np.float32(0.5), problem.C, config.defines["CHUNK"]
    (expand_w, expand_b), (project_w, project_b) = parameters.folded_expansion(), parameters.folded_projection()
    chunks = problem.hidden // chunk
    expand = core_matrices(bits(expand_w * half, "fp16"), C, chunk).reshape(chunks, -1)
    project = core_matrices(bits(project_w, "fp16"), chunk, C).reshape(chunks, -1)
    blob = as_bytes(
        bands(parameters.conv_w[..., 0]),
        parameters.conv_b.astype(np.float32),
        lane_bias(expand_b * half, chunk),
        lane_bias(project_b, C),
    )
    if config.defines["AHEAD"]:
        items = [expand[0]]
        for j in range(1, chunks):
            items += [expand[j], project[j - 1]]
        return as_bytes(*items, project[-1]), blob
    return as_bytes(np.stack([expand, project], 1)), blob


def bands(filters: Floats) -> Bits:
    """[C, 7, 7] -> [C/4][ky][d = -1 ... 6][channel of the four] (w[d], w[d+1]), zero outside of the filter."""
    C, window = filters.shape[0], filters.shape[2]
    padded = np.zeros((C, window, 9), np.uint16)
    padded[:, :, 1 : 1 + window] = bits(filters, "fp16")
    entries = np.stack([padded[:, :, i : i + 2] for i in range(8)], 2)  # C, ky, d, halves
    return np.ascontiguousarray(entries.reshape(C // 4, 4, window, 8, 2).transpose(0, 2, 3, 1, 4))


def moved_bytes(problem: ConvNeXtProblem, config: Config) -> int:
    """Each patch with its halo, x again for the sum, and the output."""
    rows, columns = (reached(size, PATCH, kernel=WINDOW, stride=1) for size in (problem.H, problem.W))
    del config
    return ELEMENT_BYTES * problem.N * rows * columns * problem.C + problem.input_bytes + problem.output_bytes



