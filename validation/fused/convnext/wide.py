"""convnext_wide.cu: 256 channels; all warpgroups convolve two patches, then normalise, expand and project one each."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best
from perfmodel.validation.fused.configuration import Config, Launch
from perfmodel.validation.fused.convnext.gelu import EXPANDED, PROJECTED
from perfmodel.validation.fused.convnext.patch import HALO_BYTES, NARROW_ENTRIES, SLAB, bands, halo_box, moved_bytes
from perfmodel.validation.fused.convnext.planes import operands, streamed_share
from perfmodel.validation.fused.convnext.problem import KERNEL as WINDOW
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.convnext.reference import ConvNeXtParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import PATCH, filled_patches, patches_of, resident_blocks

NAME: Final = "convnext_wide"
CHANNELS: Final = 256
PATCHES: Final = 2
"""Of a tile: one for each warpgroup that expands."""
PIXELS: Final = PATCHES * PATCH * PATCH
CHUNK: Final = 128
"""Hidden channels at a time."""
BATCH: Final = 32
ITEM_BYTES: Final = 16384
SMALLEST_RING: Final = 4
REGISTERS: Final = 240
MULTICAST: Final = 2
"""Blocks that share every item of weights."""
LARGEST_IMAGE_BYTES: Final = 2**31 - 1
"""The source counts an image's offsets in a signed number of 32 bits."""
CONVOLUTION_BYTES: Final = 336 * 128
"""Of shared memory that the convolution of eight channels of a tile reads, counted from the kernel."""


def configure(problem: ConvNeXtProblem, device: DeviceLimits) -> Config | str:
    """A cluster of blocks that share weights, each with a tile of its own."""
    if why := hopper_only(problem, device, (CHANNELS,)):
        return why
    if problem.hidden % CHUNK:
        return f"its chunks of {CHUNK} hidden channels do not divide {problem.hidden}"
    if (image := problem.input_bytes // problem.N) > LARGEST_IMAGE_BYTES:
        return f"an image of {image} B is more than the {LARGEST_IMAGE_BYTES} B that its offsets reach"
    config = arrange(problem, device)
    return best(problem, [offer(problem, config, device)], device) if isinstance(config, Config) else config


def offer(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> Offer:
    """A tile of two patches."""
    walk = (PATCH, PATCHES * PATCH, CHUNK)
    return Offer(
        config=config,
        chunk=CHUNK,
        tile=walk[:2],
        filled=filled_patches(problem),
        operand_bytes=problem.C // 8 * CONVOLUTION_BYTES + PATCHES * problem.C * 2 * problem.hidden * ELEMENT_BYTES,
        loaded_share=streamed_share(problem, walk, 1 / MULTICAST),
        multiprocessors=resident_blocks(device.multiprocessors, MULTICAST),
    )


def table_bytes() -> int:
    """Of the filters of a slab."""
    return SLAB // 2 * WINDOW * NARROW_ENTRIES * 8


def arrange(problem: ConvNeXtProblem, device: DeviceLimits) -> Config | str:
    """The longest ring that fits."""
    C = problem.C
    fixed = (
        2 * (PATCHES * HALO_BYTES + up(table_bytes(), 512))
        + PIXELS * (2 * C + 16)
        + 6 * C
        + problem.hidden * ELEMENT_BYTES
        + 8 * 4
    )
    ring = (device.shared_bytes_per_block - fixed) // (ITEM_BYTES + 16)
    if ring < SMALLEST_RING:
        needed = fixed + SMALLEST_RING * (ITEM_BYTES + 16)
        return f"a tile and a ring of {SMALLEST_RING} slots need {needed} of {device.shared_bytes_per_block} B of shared memory"
    shared = fixed + ring * (ITEM_BYTES + 16)
    return Config(
        kernel=NAME,
        tile_rows=PATCH,
        tile_columns=PATCH,
        threads=384,
        shared_bytes=shared,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", C),
            ("EXPANSION", problem.expansion),
            ("CHUNK", CHUNK),
            ("BATCH", BATCH),
            ("RING_SLOTS", ring),
            ("CLUSTER", MULTICAST),
            ("REGISTERS", REGISTERS),
            ("SHARED_BYTES", shared),
        ),
    )


def launches(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over tiles of two patches."""
    N, H, W, _ = problem.input_shape
    tiles = -(-patches_of(problem) // PATCHES)
    grid = min(device.multiprocessors // MULTICAST * MULTICAST, up(tiles, MULTICAST))
    return (
        Launch(
            grid=(grid, 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=operands(halo_box(problem), weights=3),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: ConvNeXtProblem, config: Config, parameters: ConvNeXtParameters) -> Buffers:
    """The items in the order of consumption: for each chunk, the input channels and then the projection; filters; biases."""
    del config
    C = problem.C
    elements = ITEM_BYTES // ELEMENT_BYTES
    (expand_w, expand_b), (project_w, project_b) = parameters.folded_expansion(), parameters.folded_projection()
    items = []
    for start in range(0, problem.hidden, CHUNK):
        columns = slice(start, start + CHUNK)
        items.append(core_matrices(bits(expand_w[:, columns] * EXPANDED, "fp16"), elements // CHUNK, CHUNK))
        items.append(core_matrices(bits(project_w[columns] * PROJECTED, "fp16"), elements // C, C))
    blob = as_bytes(parameters.conv_b.astype(np.float32), lane_bias(expand_b * EXPANDED, CHUNK), lane_bias(project_b, C))
    return as_bytes(*items), as_bytes(bands(parameters.conv_w[..., 0], wide=False)), blob


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
