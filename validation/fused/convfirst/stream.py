"""convfirst_stream.cu: weights streamed through a ring, tiles of consecutive pixels of the flattened image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best, flattened
from perfmodel.validation.fused.configuration import Config, Launch, Operand, TensorBox, mapped
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convfirst.reference import ConvFirstParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import Bits, as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only

NAME: Final = "convfirst_stream"
WARPGROUPS: Final = {96: (3, 1), 128: (3, 1), 256: (2, 1)}
"""By channels: of 64 pixels each, as many as the registers hold accumulators for; one where a cluster shares a tile."""
SPLITS: Final = (1, 2, 4, 8)
"""Blocks of a cluster that share the hidden channels of a tile."""
LARGEST_BOX_ROWS: Final = 256
MOST_BOXES: Final = 2
MOST_PIXELS: Final = 2**31 - 2**15
"""The first pixel of the tile after the last still fits 32 bits with a sign."""
LARGEST_RING: Final = 16
SMALLEST_RING: Final = 4
CHUNK: Final = 32
"""Hidden channels that the products share at a time."""
WIDE_CHUNK: Final = 64
"""For 96 channels: half as many expansions, each a longer chain, projected by halves of 32."""
TAPS: Final = ((0, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2), (1, 0), (1, 1), (1, 2))
"""(ky, kx) in the order in which the kernel takes them, two at a time."""
TAPS_OF_PAIRS: Final = ((0, 0), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (0, 1), (1, 1), (2, 1))
"""The same where even and odd pixels lie apart."""
SUMS_BYTES_PER_BLOCK: Final = 2**18
"""Of shared memory, for what each further block of a cluster costs: its sums are written, waited for at the cluster's barrier, and read by
all the others through the network between them. An estimate: 2048 clocks."""


def shared_bytes(C: int, expansion: int, rows: int, buffers: int, ring: int, chunk: int) -> int:
    """Tiles of so many rows of pixels, the ring, the filters, the biases, the barriers."""
    tiles = buffers * rows * C * ELEMENT_BYTES
    return tiles + ring * C * chunk * ELEMENT_BYTES + C // 8 * 1280 + expansion * C * 2 + 4 * C + 8 * (2 * ring + 4)


def configure(problem: ConvFirstProblem, device: DeviceLimits) -> Config | str:
    """Warpgroups of a block and blocks of a cluster by `choice.best`: whole tiles where there are enough, shared ones where not."""
    if why := hopper_only(problem, device, WARPGROUPS):
        return why
    if problem.pixels > MOST_PIXELS:
        return f"it counts at most {MOST_PIXELS} pixels, and there are {problem.pixels}"
    found = tuple(offers(problem, device))
    if not found:
        rows = _rows(problem.W, 1)
        return (
            f"64 pixels with the halo of {problem.W} columns are {rows} rows; that and a ring of {SMALLEST_RING} slots do not fit "
            f"{MOST_BOXES} boxes of {LARGEST_BOX_ROWS} rows and {device.shared_bytes_per_block} B of shared memory"
        )
    return best(problem, found, device)


def offers(problem: ConvFirstProblem, device: DeviceLimits) -> Iterator[Offer]:
    """Tiles of several warpgroups, and tiles of one that a cluster shares; two buffers of input where the ring stays long enough."""
    for warpgroups in WARPGROUPS[problem.C]:
        for split in SPLITS if warpgroups == 1 else (1,):
            chunks = problem.hidden // CHUNK
            if chunks % split or problem.C // 8 % split:
                continue
            tiles = -(-problem.pixels // (64 * warpgroups))
            if split > 1 and tiles * split > device.multiprocessors:
                continue  # a cluster does one tile
            if (config := _config(problem, device, warpgroups, split)) is not None:
                yield _offer(problem, config, warpgroups, split)


def _rows(W: int, warpgroups: int) -> int:
    """Of a tile with its halo: LEAD, the pixels, TRAIL."""
    return up(W + 1, 8) + 64 * warpgroups + W + 1


def pairs(W: int) -> bool:
    """Whether no pair of pixels spans two rows of the image: then even and odd ones lie apart, and most are read once for two taps."""
    return W % 2 == 0


def tail(C: int, warpgroups: int) -> bool:
    """Whether the last round may be done in tiles of 64 pixels, which the two warpgroups share by hidden channels."""
    return C == 256 and warpgroups == 2


def boxes_of(W: int, warpgroups: int) -> tuple[int, int, int]:
    """Rows of a bulk copy, copies for a slab (of even, or of odd pixels), rows of a tile with at least one of zeros."""
    rows = _rows(W, warpgroups)
    if pairs(W):
        half = -(-rows // 2)
        return half, 1, up(up(half, 8) + half + 1, 8)
    boxes = -(-rows // LARGEST_BOX_ROWS)
    box = rows if boxes == 1 else up(-(-rows // boxes), 8)
    return box, boxes, up(boxes * box + 1, 8)


def _config(problem: ConvFirstProblem, device: DeviceLimits, warpgroups: int, split: int) -> Config | None:
    """With the longest ring that fits; None where none does."""
    C = problem.C
    box_rows, boxes, rows = boxes_of(problem.W, warpgroups)
    if boxes > MOST_BOXES or box_rows > LARGEST_BOX_ROWS:
        return None
    chunk = WIDE_CHUNK if C == 96 and warpgroups == 3 and problem.hidden % WIDE_CHUNK == 0 else CHUNK
    items = 2 * problem.hidden // chunk // split
    most = items if warpgroups == 1 else items - 1  # or a warpgroup could reach its epilogue before another has left its conv
    partial = -(-64 * 4 * C // (C * chunk * ELEMENT_BYTES)) if split > 1 else 0
    for buffers, least in ((2, SMALLEST_RING + 1), (1, min(SMALLEST_RING, most))):
        if split > 1 and buffers == 2:
            continue
        for ring in range(max(min(LARGEST_RING, most), partial), max(least, partial) - 1, -1):
            needed = shared_bytes(C, problem.expansion, rows, buffers, ring, chunk)
            if needed <= device.shared_bytes_per_block:
                constants = (
                    ("CHANNELS", C),
                    ("EXPANSION", problem.expansion),
                    ("WARPGROUPS", warpgroups),
                    ("LEAD", up(problem.W + 1, 8)),
                    ("TRAIL", problem.W + 1),
                    ("SLAB", 64 if C % 64 == 0 else 32),
                    ("BOX_ROWS", box_rows),
                    ("BOXES", boxes),
                    ("PAIRS", int(pairs(problem.W))),
                    ("X_BUFFERS", buffers),
                    ("CHUNK", chunk),
                    ("RING_SLOTS", ring),
                    ("SPLIT", split),
                    ("TAIL", int(tail(C, warpgroups))),
                    ("SHARED_BYTES", needed),
                )
                return Config(
                    kernel=NAME,
                    tile_rows=1,
                    tile_columns=64 * warpgroups,
                    threads=128 * (warpgroups + 1),
                    shared_bytes=needed,
                    blocks_per_multiprocessor=1,
                    constants=constants,
                )
    return None


def _offer(problem: ConvFirstProblem, config: Config, warpgroups: int, split: int) -> Offer:
    """The tensor machine sees whole rows of the image for the flattened tile; a block of a cluster convolves all of it."""
    halved = tail(problem.C, warpgroups)  # as rounds of half a tile: two of them are a whole one, which loads the weights once
    tile, tiles, filled = flattened(problem, 64 if halved else 64 * warpgroups)
    conv, products = 72, 2 * problem.hidden  # MACs of a pixel and channel
    return Offer(
        config=config,
        tile=tile,
        chunk=config.defines["CHUNK"],
        tiles=tiles,
        filled=filled,
        operand_bytes=split * SUMS_BYTES_PER_BLOCK if split > 1 else 0.0,
        blocks_per_tile=split,
        macs_share=(conv + products / split) / (conv + products),
        loaded_share=0.5 if halved else 1 / split,
    )


def launches(problem: ConvFirstProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over tiles of the flattened image; where clusters share tiles, one for each."""
    N, H, W, C = problem.input_shape
    values = config.defines
    slab, split = values["SLAB"], values["SPLIT"]
    tiles = -(-problem.pixels // (64 if values["TAIL"] else config.tile_columns))
    pixel: Final = ELEMENT_BYTES * C
    swizzle: Final = 128 if slab == 64 else 64
    if values["PAIRS"]:  # channels, even or odd, pair
        dims, strides = (C, 2, problem.pixels // 2), (pixel, 2 * pixel)
        source = TensorBox(dims=dims, strides_bytes=strides, box=(slab, 1, values["BOX_ROWS"]), swizzle_bytes=swizzle)
        target = TensorBox(dims=dims, strides_bytes=strides, box=(slab, 1, 32), swizzle_bytes=swizzle)
    else:
        flat = (C, problem.pixels)
        source = TensorBox(dims=flat, strides_bytes=(pixel,), box=(slab, values["BOX_ROWS"]), swizzle_bytes=swizzle)
        target = TensorBox(dims=flat, strides_bytes=(pixel,), box=(slab, 64), swizzle_bytes=swizzle)
    return (
        Launch(
            grid=(tiles * split if split > 1 else min(device.multiprocessors, tiles), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=(*mapped(source, target, weights=2), Operand(buffer="y")),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: ConvFirstProblem, config: Config, parameters: ConvFirstParameters) -> Buffers:
    """The stream of the two products' chunks in the order of consumption; filters and biases."""
    half, C, p, chunk = np.float32(0.5), problem.C, parameters, config.defines["CHUNK"]
    chunks = problem.hidden // chunk
    expand = core_matrices(bits(p.expand_w * half, "fp16"), C, chunk).reshape(chunks, -1)
    project = core_matrices(bits(p.project_w, "fp16"), chunk, C).reshape(chunks, -1)
    blob = as_bytes(
        tap_pairs(bits(p.conv_w, "fp16"), TAPS_OF_PAIRS if config.defines["PAIRS"] else TAPS),
        lane_bias(p.folded_bias() * half, chunk),
        lane_bias(p.project_b, C),
        np.zeros(C, np.uint16),
    )
    return as_bytes(np.stack([expand, project], 1)), blob


def tap_pairs(conv_w: Bits, taps: Sequence[tuple[int, int]]) -> Bits:
    """[group][10 taps, the last of them zero][8 n][8 k]: k16 of two taps."""
    C = conv_w.shape[0]
    w = conv_w.reshape(C // 8, 8, 3, 3, 8)
    out = np.zeros((C // 8, 10, 8, 8), np.uint16)
    for index, (ky, kx) in enumerate(taps):
        out[:, index] = w[:, :, ky, kx]
    return out


def moved_bytes(problem: ConvFirstProblem, config: Config) -> int:
    """Each tile with LEAD and TRAIL pixels around it, and the output; a last round of smaller tiles counts as whole ones."""
    tile, pixels = config.tile_columns, problem.pixels
    lead, trail = config.defines["LEAD"], config.defines["TRAIL"]
    read = sum(min(pixels, start + tile + trail) - max(0, start - lead) for start in range(0, pixels, tile))
    return ELEMENT_BYTES * problem.C * read + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
