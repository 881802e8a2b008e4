"""convnext_patch.cu: a warpgroup convolves 8×8 patches on the matrix unit while others normalise, expand and project them."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best
from perfmodel.validation.fused.configuration import Config, Launch, TensorBox
from perfmodel.validation.fused.convnext.gelu import EXPANDED, PROJECTED
from perfmodel.validation.fused.convnext.planes import operands, streamed_share
from perfmodel.validation.fused.convnext.problem import KERNEL as WINDOW
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.convnext.reference import ConvNeXtParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import Bits, Floats, as_bytes, bits, core_matrices, lane_bias
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import PATCH, filled_patches, patches_of, reached

NAME: Final = "convnext_patch"
SLAB: Final = 32
"""Channels of a halo tile in shared memory."""
HALO_BYTES: Final = 12800
"""14×14 pixels of a slab, rounded up to whole periods of the swizzle."""
CHANNELS: Final = 96
WARPGROUPS: Final = 2
"""That normalise, expand and project; one more convolves and one fetches."""
REGISTERS: Final = 168
"""Of their threads."""
CONV_REGISTERS: Final = 152
"""Of those that convolve; with 24 of those that fetch they are the 512 of the four warps of a quarter of a multiprocessor."""
CHUNK: Final = 64
"""Hidden channels at a time."""
SLOTS: Final = 5
"""Patches between the roles: two being written, one being read by each warpgroup, one more."""
GROUPS: Final = (2, 1)
"""Patches convolved at once: two fill the rows of the matrix instruction."""
CONVOLUTION_BYTES: Final = 336 * 128
"""Of shared memory that the convolution of eight channels of a group reads, counted from the kernel."""
WIDE_ENTRIES: Final = 11
NARROW_ENTRIES: Final = 13
LARGEST_RING: Final = 10
SMALLEST_RING_BYTES: Final = 32768
"""Less does not hide the time of a copy from the L2 cache."""


def configure(problem: ConvNeXtProblem, device: DeviceLimits) -> Config | str:
    """As many patches at once as take the least clocks by the machine's count; the longest ring."""
    if why := hopper_only(problem, device, (CHANNELS,)):
        return why
    if problem.hidden % CHUNK:
        return f"its chunks of {CHUNK} hidden channels do not divide {problem.hidden}"
    made = [arrange(problem, device, group=group) for group in GROUPS]
    if configs := [config for config in made if isinstance(config, Config)]:
        return best(problem, [offer(problem, config, device) for config in configs], device)
    return str(made[-1])  # of one patch, which needs least


def offer(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> Offer:
    """A patch of the machine: a multiprocessor does a group of them in a round, as if it were as many multiprocessors."""
    group, walk = config.defines["GROUP"], (PATCH, PATCH, CHUNK)
    return Offer(
        config=config,
        chunk=CHUNK,
        filled=filled_patches(problem),
        # a patch alone fills half of the convolution's rows: as many operands as for two
        operand_bytes=problem.C // 8 * CONVOLUTION_BYTES + group * problem.C * 2 * problem.hidden * ELEMENT_BYTES,
        macs_share=group,
        loaded_share=group * streamed_share(problem, walk, 1 / WARPGROUPS),
        multiprocessors=group * device.multiprocessors,
    )


def arrange(problem: ConvNeXtProblem, device: DeviceLimits, *, group: int) -> Config | str:
    """The longest ring; the wide filter table if it leaves room."""
    C = problem.C
    item, items = C * CHUNK * ELEMENT_BYTES, 2 * problem.hidden // CHUNK
    needed = 0
    for wide in (1, 0):
        needed = 2 * group * HALO_BYTES + SLOTS * 64 * (2 * C + 16) + table_bytes(C, wide) + 4 * C
        needed += (problem.hidden + C) * ELEMENT_BYTES + 8 * (2 * SLOTS + 2)
        ring = min(LARGEST_RING, items - 1, (device.shared_bytes_per_block - needed) // (item + 16))
        if ring * item < SMALLEST_RING_BYTES:
            continue
        shared = needed + ring * (item + 16)
        return Config(
            kernel=NAME,
            tile_rows=PATCH,
            tile_columns=PATCH,
            threads=128 * (WARPGROUPS + 2),
            shared_bytes=shared,
            blocks_per_multiprocessor=1,
            constants=(
                ("CHANNELS", C),
                ("EXPANSION", problem.expansion),
                ("WARPGROUPS", WARPGROUPS),
                ("CHUNK", CHUNK),
                ("GROUP", group),
                ("SLOTS", SLOTS),
                ("RING_SLOTS", ring),
                ("WIDE", wide),
                ("REGISTERS", REGISTERS),
                ("CONV_REGISTERS", CONV_REGISTERS),
                ("SHARED_BYTES", shared),
            ),
        )
    needed += SMALLEST_RING_BYTES
    return f"its patches, filters and a ring of {SMALLEST_RING_BYTES} B need {needed} of {device.shared_bytes_per_block} B of shared memory"


def table_bytes(C: int, wide: int) -> int:
    """Of the filters as the banded matrices' lanes read them."""
    return C // 2 * WINDOW * (WIDE_ENTRIES * 16 if wide else NARROW_ENTRIES * 8)


def halo_box(problem: ConvNeXtProblem) -> TensorBox:
    """A patch with its halo, a slab of its channels."""
    N, H, W, C = problem.input_shape
    halo = PATCH + WINDOW - 1
    return TensorBox(
        dims=(C, W, H, N),
        strides_bytes=(ELEMENT_BYTES * C, ELEMENT_BYTES * C * W, ELEMENT_BYTES * C * W * H),
        box=(SLAB, halo, halo, 1),
        swizzle_bytes=64,
    )


def launches(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over groups of patches."""
    N, H, W, _ = problem.input_shape
    return (
        Launch(
            grid=(min(device.multiprocessors, -(-patches_of(problem) // config.defines["GROUP"])), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=operands(halo_box(problem), weights=2),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: ConvNeXtProblem, config: Config, parameters: ConvNeXtParameters) -> Buffers:
    """The stream of the two products' chunks in the order of consumption; filters and biases."""
    C, chunk = problem.C, CHUNK
    (expand_w, expand_b), (project_w, project_b) = parameters.folded_expansion(), parameters.folded_projection()
    chunks = problem.hidden // chunk
    expand = core_matrices(bits(expand_w * EXPANDED, "fp16"), C, chunk).reshape(chunks, -1)
    project = core_matrices(bits(project_w * PROJECTED, "fp16"), chunk, C).reshape(chunks, -1)
    blob = as_bytes(
        bands(parameters.conv_w[..., 0], wide=bool(config.defines["WIDE"])),
        parameters.conv_b.astype(np.float32),
        lane_bias(expand_b * EXPANDED, chunk),
        lane_bias(project_b, C),
    )
    return as_bytes(np.stack([expand, project], 1)), blob


def bands(filters: Floats, *, wide: bool) -> Bits:
    """[C, 7, 7] → what a lane reads of the banded matrix of a filter's row, by the distance d of its input from its output.

    T[d] = (w[d], w[d+4]), zero outside of the filter. Wide: [C/2][ky][d = -7 … 3][channel of the pair] (T[d], T[d+8]).
    Narrow: [C/2][ky][d = -5 … 7][channel of the pair] T[d], as all others are zero.
    """
    C, window = filters.shape[0], filters.shape[2]
    padded = np.zeros((C, window, 32), np.uint16)
    padded[:, :, 8 : 8 + window] = bits(filters, "fp16")

    def pairs(d: int) -> Bits:
        return np.stack([padded[:, :, 8 + d], padded[:, :, 8 + d + 4]], -1)

    if wide:
        entries = np.stack([np.concatenate([pairs(d), pairs(d + 8)], -1) for d in range(-7, 4)], 2)
    else:
        entries = np.stack([pairs(d) for d in range(-5, 8)], 2)  # C, ky, d, halves
    count, width = entries.shape[2:]
    return np.ascontiguousarray(entries.reshape(C // 2, 2, window, count, width).transpose(0, 2, 3, 1, 4))


def moved_bytes(problem: ConvNeXtProblem, config: Config) -> int:
    """Each patch with its halo, x again for the sum, and the output."""
    rows, columns = (reached(size, PATCH, kernel=WINDOW, stride=1) for size in (problem.H, problem.W))
    del config
    return ELEMENT_BYTES * problem.N * rows * columns * problem.C + problem.input_bytes + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
