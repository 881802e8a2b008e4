"""convnext_planes.cu: a warpgroup convolves tiles on the matrix unit while others normalise, expand and project patches of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best, machine_counts
from perfmodel.validation.fused.configuration import Config, Launch, Operand, TensorBox
from perfmodel.validation.fused.convnext.gelu import EXPANDED, PROJECTED
from perfmodel.validation.fused.convnext.problem import KERNEL as WINDOW
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.convnext.reference import ConvNeXtParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import Bits, Floats, as_bytes, bits, core_matrices, lane_bias, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import reached

NAME: Final = "convnext_planes"
TILE_ROWS: Final = 8
OCTET: Final = 8
"""Pixels of a row that a matrix instruction convolves at once; a patch is eight octets."""
SLAB: Final = 32
"""Channels of a halo tile in shared memory."""
HALO: Final = WINDOW - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The roles of a block, whose registers a quarter of a multiprocessor holds."""

    resident: int
    """Whether all weights lie in shared memory."""
    warpgroups: int
    """That normalise, expand and project a patch each."""
    registers: int
    """Of a thread that expands."""
    conv_registers: int
    """Of a thread that convolves."""
    waiting: int
    """Patches that are ready beside those that are being written or expanded."""
    cluster: int = 1
    """Blocks that share every item of streamed weights."""


RESIDENT: Final = Layout(resident=1, warpgroups=3, registers=128, conv_registers=128, waiting=2)
STREAMED: Final = Layout(resident=0, warpgroups=2, registers=184, conv_registers=120, waiting=1, cluster=2)
LAYOUTS: Final = {64: (RESIDENT, STREAMED), 128: (STREAMED,)}
"""By channels, the first of which a tile fits: weights, the accumulators of a patch and its normalised channels decide."""
CHUNK: Final = 32
"""Hidden channels at a time."""
ROWS: Final = (1, 2)
"""Rows of outputs for a row of the matrix instruction: a tile is 16 columns times that, and as often twice 64 pixels."""
SHAPES: Final = (1, 2)
"""Octets side by side in a patch: 8×8 pixels, 4×16."""
COLUMN_BYTES: Final = 128
"""A channel of a patch."""
PLANE_BYTES: Final = {1: 688, 2: 1136}
"""A channel of a halo tile, by the rows: 14 lines of 24 or 40 pixels, and 16 bytes against bank conflicts."""
BAND_BYTES: Final = 224
"""The filter of a channel, as lanes read it: seven rows of eight pairs of weights."""
SMALLEST_RING: Final = 6
"""Items: what the warpgroups hold at a time, and the time of a copy from the L2 cache."""


def configure(problem: ConvNeXtProblem, device: DeviceLimits) -> Config | str:
    """Resident weights where they fit; then the tile and the shape of its patches by `choice.best`."""
    if why := hopper_only(problem, device, LAYOUTS):
        return why
    why = ""
    for layout in LAYOUTS[problem.C]:
        made = [arrange(problem, device, layout, rows=rows, octets=octets) for rows in ROWS for octets in SHAPES]
        if configs := [config for config in made if isinstance(config, Config)]:
            return best(problem, [offer(problem, config, device) for config in configs], device)
        why = str(made[0])
    return why


def fixed_bytes(problem: ConvNeXtProblem, layout: Layout, rows: int) -> int:
    """Of shared memory, all but the weights: a halo tile, its planes, patches between the roles, filters, biases, barriers."""
    C, patches = problem.C, slots(layout, rows)
    needed = raw_bytes(rows) + SLAB * PLANE_BYTES[rows] + patches * C * COLUMN_BYTES + C * BAND_BYTES
    return needed + 16 * C + (problem.hidden + C) * ELEMENT_BYTES + up(8 * (2 * patches + 1), 16) + 16 * patches


def halo_bytes(rows: int) -> int:
    """A halo tile, as the copy engine leaves it."""
    return (TILE_ROWS + HALO) * (2 * OCTET * rows + HALO) * SLAB * ELEMENT_BYTES


def raw_bytes(rows: int) -> int:
    """Its place, of whole periods of the swizzle: the last octet is read two pixels past the end."""
    return up(halo_bytes(rows) + 2 * SLAB * ELEMENT_BYTES, 512)


def slots(layout: Layout, rows: int) -> int:
    """Patches between the roles."""
    return 2 * rows + layout.warpgroups + layout.waiting


def arrange(problem: ConvNeXtProblem, device: DeviceLimits, layout: Layout, *, rows: int, octets: int) -> Config | str:
    """The weights whole, or the longest ring of their chunks."""
    C = problem.C
    item, items = C * CHUNK * ELEMENT_BYTES, 2 * problem.hidden // CHUNK
    fixed = fixed_bytes(problem, layout, rows)
    least = items if layout.resident else min(SMALLEST_RING, items - 1)
    ring = min((device.shared_bytes_per_block - fixed) // (item + 16), items if layout.resident else items - 1)
    if ring < least:
        needed = fixed + least * (item + 16)
        held = "all weights" if layout.resident else f"{least} of {items} chunks of weights"
        return f"its tile, patches, filters and {held} need {needed} of {device.shared_bytes_per_block} B of shared memory"
    shared = fixed + ring * (item + 16)
    return Config(
        kernel=NAME,
        tile_rows=TILE_ROWS,
        tile_columns=2 * OCTET * rows,
        threads=128 * (layout.warpgroups + 2 - layout.resident),
        shared_bytes=shared,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", C),
            ("EXPANSION", problem.expansion),
            ("WARPGROUPS", layout.warpgroups),
            ("CHUNK", CHUNK),
            ("ROWS", rows),
            ("OCTETS", octets),
            ("SLOTS", slots(layout, rows)),
            ("RING_SLOTS", ring),
            ("RESIDENT", layout.resident),
            ("CLUSTER", layout.cluster),
            ("REGISTERS", layout.registers),
            ("CONV_REGISTERS", layout.conv_registers),
            ("SHARED_BYTES", shared),
        ),
    )


def offer(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> Offer:
    """The machine's count of a tile, with the octets outside of the image, and weights that several patches share."""
    v, tile = config.defines, (config.tile_rows, config.tile_columns)
    octets, patches = v["OCTETS"], 2 * v["ROWS"]
    covered = up(problem.H, OCTET // octets) * up(problem.W, OCTET * octets)
    tiles = problem.N * -(-problem.H // tile[0]) * -(-problem.W // tile[1])
    share = min(1.0, device.multiprocessors / tiles) if v["RESIDENT"] else patches / v["WARPGROUPS"] / v["CLUSTER"]
    return Offer(
        config=config,
        chunk=v["CHUNK"],
        filled=problem.H * problem.W / covered,
        operand_bytes=convolution_bytes(problem.C, v["ROWS"]) + product_bytes(problem.C, problem.hidden, patches),
        loaded_share=streamed_share(problem, (*tile, v["CHUNK"]), share),
        multiprocessors=device.multiprocessors // v["CLUSTER"] * v["CLUSTER"],
    )


def convolution_bytes(C: int, rows: int) -> int:
    """Of shared memory, for a tile: pixels to channels (in and out), A for each row of the halo tile, filters, what comes out."""
    turned = 2 * (TILE_ROWS + HALO) * (2 * rows + 1) * OCTET * ELEMENT_BYTES
    return C * (turned + (rows + HALO) * 512 + WINDOW * 128 + 2 * rows * COLUMN_BYTES)


def product_bytes(C: int, hidden: int, patches: int) -> int:
    """Of shared memory, for so many patches: B of both products; A, and y in and out."""
    return patches * C * (2 * hidden * ELEMENT_BYTES + 3 * COLUMN_BYTES)


def streamed_share(problem: ConvNeXtProblem, walk: tuple[int, int, int], weights: float) -> float:
    """Of what the machine loads and stores for a tile (rows, columns, chunk) whose products' weights come in only `weights` times."""
    (counted,) = machine_counts(problem, [walk])
    matrices = 2 * problem.C * problem.hidden * ELEMENT_BYTES
    return 1 - matrices * (1 - weights) / float(np.asarray(counted.moved_bytes).item())


def operands(box: TensorBox, weights: int) -> tuple[Operand, ...]:
    """What the ConvNeXt kernels read and write: halo tiles of x, so many tensors of weights, x again for the residual, y."""
    return (
        Operand(buffer="x", box=box),
        *(Operand(buffer="weights", index=index) for index in range(weights)),
        Operand(buffer="x"),
        Operand(buffer="y"),
    )


def halo_box(problem: ConvNeXtProblem, columns: int) -> TensorBox:
    """A tile of so many columns with its halo, a slab of its channels."""
    N, H, W, C = problem.input_shape
    return TensorBox(
        dims=(C, W, H, N),
        strides_bytes=(ELEMENT_BYTES * C, ELEMENT_BYTES * C * W, ELEMENT_BYTES * C * W * H),
        box=(SLAB, columns + HALO, TILE_ROWS + HALO, 1),
        swizzle_bytes=64,
    )


def launches(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A persistent grid over tiles."""
    N, H, W, _ = problem.input_shape
    cluster, tiles = config.defines["CLUSTER"], N * -(-H // config.tile_rows) * -(-W // config.tile_columns)
    return (
        Launch(
            grid=(min(device.multiprocessors // cluster * cluster, up(tiles, cluster)), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=operands(halo_box(problem, config.tile_columns), weights=2),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


def pack(problem: ConvNeXtProblem, config: Config, parameters: ConvNeXtParameters) -> Buffers:
    """The stream of the two products' chunks in the order of consumption; filters and biases."""
    C, chunk = problem.C, config.defines["CHUNK"]
    (expand_w, expand_b), (project_w, project_b) = parameters.folded_expansion(), parameters.folded_projection()
    chunks = problem.hidden // chunk
    expand = core_matrices(bits(expand_w * EXPANDED, "fp16"), C, chunk).reshape(chunks, -1)
    project = core_matrices(bits(project_w * PROJECTED, "fp16"), chunk, C).reshape(chunks, -1)
    stream = [expand[0], *(part for pair in zip(expand[1:], project[:-1], strict=True) for part in pair), project[-1]]
    blob = as_bytes(
        bands(parameters.conv_w[..., 0]),
        np.repeat(parameters.conv_b.astype(np.float32), 4),
        lane_bias(expand_b * EXPANDED, chunk),
        lane_bias(project_b, C),
    )
    return as_bytes(*stream), blob


def bands(filters: Floats) -> Bits:
    """[C, 7, 7] → [C/4][ky][d = -1 … 6][channel of the four] (w[d], w[d+1]), zero outside of the filter.

    Of the banded matrix of a filter's row a lane needs the pairs at distances d = 2q - g and d + 8 of its inputs from its output, one of
    which is zero: the other is entry d + 1 modulo 8.
    """
    C, window = filters.shape[0], filters.shape[2]
    padded = np.zeros((C, window, 9), np.uint16)
    padded[:, :, 1 : 1 + window] = bits(filters, "fp16")
    entries = np.stack([padded[:, :, i : i + 2] for i in range(8)], 2)  # C, ky, d, halves
    return np.ascontiguousarray(entries.reshape(C // 4, 4, window, 8, 2).transpose(0, 2, 3, 1, 4))


def moved_bytes(problem: ConvNeXtProblem, config: Config) -> int:
    """Each tile with its halo, x again for the sum, and the output."""
    rows = reached(problem.H, config.tile_rows, kernel=WINDOW)
    columns = reached(problem.W, config.tile_columns, kernel=WINDOW)
    return ELEMENT_BYTES * problem.N * rows * columns * problem.C + problem.input_bytes + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
