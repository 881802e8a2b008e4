"""Configurations of our kernels in the terms of tier expected: how each cuts up its work."""

from __future__ import annotations

from typing import Any, Final, cast

from perfmodel.expected import columns, warpgroups, warps
from perfmodel.expected.fused import Figures, FusedKernel
from perfmodel.expected.fused_work import ELEMENT_BYTES
from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.convfirst import generic as convfirst_generic
from perfmodel.validation.fused.convnext import few, planes, wide
from perfmodel.validation.fused.convnext import generic as convnext_generic
from perfmodel.validation.fused.fused_mbconv import generic as fused_mbconv_generic
from perfmodel.validation.fused.generic.layout import Layout, Work
from perfmodel.validation.fused.mbconv import chain, depthwise, rows, tiles
from perfmodel.validation.fused.mbconv import generic as mbconv_generic
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.problem import DeviceLimits, Problem
from perfmodel.validation.fused.tiles import patches_of, resident_blocks

DEFAULT_CHUNK: Final = 64
"""Hidden channels at a time, where a kernel's constants do not say."""
WIDE_PARTS: Final = 4
"""In which convnext_wide reads the residual, one after the other."""
ROW_LOOKUPS: Final = 8.0
"""Lines for each channel of 64 pixels in mbconv_rows, where x goes to shared memory: a lane copies 4 bytes of a pixel, a warp of eight."""
PATCH_HALO: dict[int, int] = {3: 100, 7: 196}
"""Pixels of an 8×8 patch with its halo, by kernel size."""

GENERIC: Final[dict[str, Any]] = {
    "convfirst": convfirst_generic,
    "convnext": convnext_generic,
    "fused_mbconv": fused_mbconv_generic,
    "mbconv": mbconv_generic,
}
"""By family: what says the work of its blocks."""


def work_of(problem: Problem) -> Work:
    """What the block asks."""
    work: Work = GENERIC[problem.family].work_of(problem)
    return work


def expected_kernel(problem: Problem, config: Config, device: DeviceLimits, figures: Figures) -> FusedKernel:
    """A configuration as actors and phases."""
    work = work_of(problem)
    if config.kernel.endswith("_generic"):
        return layout_kernel(problem, Layout.of(work, config.defines), device, figures)
    if config.kernel == depthwise.NAME:
        return _depthwise_kernel(cast("MBConvProblem", problem), config, device, figures)
    return warpgroups.kernel_of(work, _form(problem, config, device), figures)


def layout_kernel(problem: Problem, layout: Layout, device: DeviceLimits, figures: Figures) -> FusedKernel:
    """A layout of the generic kernels."""
    given = layout.work
    halo = layout.moved_bytes - problem.input_bytes * (2 if given.squeeze else 1) - problem.output_bytes
    groups = layout.slab_groups if given.front == "input" else max(1, given.C // 8)
    form = warps.WarpForm(
        kind=f"{problem.family}, warps",
        tiles=layout.tiles,
        tile_rows=layout.tile_rows,
        tile_columns=layout.tile_columns,
        warps_m=layout.warps_m,
        warps_n=layout.warps_n,
        m16_per_warp=layout.m16_per_warp,
        chunk=layout.hidden_chunk,
        chunks=layout.chunks / layout.hidden_splits,
        split=layout.hidden_splits,
        parts=layout.output_columns,
        groups=layout.warp_groups,
        blocks=layout.blocks_per_multiprocessor,
        input_buffers=layout.input_buffers,
        slabs=-(-given.C // 8 // groups) if given.front == "input" else 1,
        slab_groups=groups,
        ring=layout.ring_slots > 0,
        items=(layout.expand_items, layout.project_items) if layout.ring_slots else (1, 1),
        steps=(layout.expand_steps, layout.project_steps),
        again_bytes=max(0.0, float(halo)),
        again_between_bytes=_raster_between(problem, layout.tile_rows),
        processors=device.multiprocessors,
    )
    return warps.kernel_of(given, form, figures)


def _raster_between(problem: Problem, tile_rows: int) -> float:
    """Bytes moved between two readings of a halo where tiles follow each other along the rows: those of a row of tiles, read and written.

    Of tiles that are in flight together some are neighbours, others come a round later: on the average a row of tiles lies between.
    """
    return 2.0 * ELEMENT_BYTES * problem.C * tile_rows * problem.W


def _form(problem: Problem, config: Config, device: DeviceLimits) -> warpgroups.WarpgroupForm:
    values, family = config.defines, family_of(problem)
    kind = f"{problem.family}, warpgroups"
    halo = float(family.by_name[config.kernel].moved_bytes(problem, config) - problem.input_bytes - problem.output_bytes)
    pixel = ELEMENT_BYTES * problem.C
    count = device.multiprocessors
    if config.kernel == "convfirst_c64":
        patches = patches_of(problem)
        return warpgroups.WarpgroupForm(
            kind=kind, actors=values["WARPGROUPS"], chunk=64, convolution="shared", turns=patches, together=1, processors=count,
            resident=True, blocks=min(count, patches), loaded_bytes=PATCH_HALO[3] * pixel,
            stored_share=problem.pixels / (64 * patches), again_bytes=halo, again_between_bytes=_raster_between(problem, 8),
        )  # fmt: skip
    if config.kernel in ("convfirst_stream", "fused_mbconv_stream"):
        actors = values["WARPGROUPS"]
        shared_tile = values["SPLIT"] if config.kernel == "convfirst_stream" else values["CLUSTER"] if values["SPLIT"] else 1
        count_tiles = -(-problem.pixels // (64 * actors))
        multicast = values["CLUSTER"] if config.kernel == "fused_mbconv_stream" and not values["SPLIT"] else 1
        return warpgroups.WarpgroupForm(
            kind=kind, actors=actors, chunk=values["CHUNK"], turns=count_tiles * actors * shared_tile, split=shared_tile,
            convolution="registers" if config.kernel == "convfirst_stream" else "none",
            processors=resident_blocks(count, shared_tile), waves=_waves(count, shared_tile, count_tiles), multicast=multicast,
            taps_from_shared=config.kernel == "fused_mbconv_stream",
            loaded_bytes=(64 * actors + 2 * problem.W) / actors * pixel, again_bytes=halo,
            again_between_bytes=_raster_between(problem, 1), blocks=min(count, count_tiles * shared_tile),
        )  # fmt: skip
    if config.kernel == "mbconv_rows":
        return _rows_form(cast("MBConvProblem", problem), config, device, kind, halo)
    if config.kernel == chain.NAME:
        return _chain_form(cast("MBConvProblem", problem), config, device, kind, halo)
    if config.kernel in ("convnext_patch", "convnext_wide"):
        patches = patches_of(problem)
        large = config.kernel == "convnext_wide"
        group = 2 if large else values["GROUP"]
        return warpgroups.WarpgroupForm(
            kind=kind, actors=2 if large else values["WARPGROUPS"], chunk=values["CHUNK"], convolution="bands",
            turns=-(-patches // group) * group, together=group, processors=count, convolves_apart=not large,
            multicast=values["CLUSTER"] if large else 1,
            loaded_bytes=PATCH_HALO[7] * pixel + 64 * pixel, stored_share=problem.pixels / (64 * patches), again_bytes=halo,
            again_between_bytes=_raster_between(problem, 8), blocks=min(count, -(-patches // group)),
            norm="in place" if large else "registers", outside=WIDE_PARTS if large else 0,
        )  # fmt: skip
    if config.kernel == "convnext_few":
        return _shared_patch_form(problem, config, device, kind, halo)
    if config.kernel == "fused_mbconv_few":
        return _few_form(problem, config, device, kind, halo)
    if config.kernel == "convnext_planes":
        return _planes_form(problem, config, device, kind, halo)
    if config.kernel == "mbconv_tiles":
        return _tiles_form(cast("MBConvProblem", problem), device, kind, halo)
    return _other_form(problem, config, device, kind, halo)


def _waves(count: int, split: int, tiles: int) -> int:
    """Blocks that a multiprocessor starts one after the other: of clusters one for each tile, while others stay for all tiles."""
    return -(-tiles * split // resident_blocks(count, split)) if split > 1 else 1


def _few_form(problem: Problem, config: Config, device: DeviceLimits, kind: str, halo: float) -> warpgroups.WarpgroupForm:
    """The blocks of a cluster share 64 pixels by their hidden channels, the warpgroups of a block by the products' depth."""
    v, tiles = config.defines, -(-problem.pixels // warpgroups.ROWS)
    sharing, cluster = v["WARPGROUPS"], v["CLUSTER"]
    return warpgroups.WarpgroupForm(
        kind=kind, actors=sharing, sharing=sharing, chunk=v["CHUNK"], convolution="none", turns=tiles * cluster * sharing, split=cluster,
        processors=resident_blocks(device.multiprocessors, cluster), waves=_waves(device.multiprocessors, cluster, tiles),
        taps_from_shared=True,
        loaded_bytes=v["BOX"] * v["BOXES"] * ELEMENT_BYTES * problem.C / sharing, again_bytes=halo,
        again_between_bytes=_raster_between(problem, 1), blocks=min(device.multiprocessors, tiles * cluster),
    )  # fmt: skip


def _shared_patch_form(
    problem: Problem, config: Config, device: DeviceLimits, kind: str, halo: float
) -> warpgroups.WarpgroupForm:
    """The blocks of a cluster share a patch: its convolution by channels, its products by hidden channels; so do a block's warpgroups."""
    cluster, sharing, pixel = config.defines["CLUSTER"], few.WARPGROUPS, ELEMENT_BYTES * problem.C
    patches = patches_of(problem)
    return warpgroups.WarpgroupForm(
        kind=kind, actors=sharing, sharing=sharing, chunk=wide.CHUNK, convolution="bands", convolved_share=1 / cluster / sharing,
        turns=patches * cluster * sharing, split=cluster,
        processors=resident_blocks(device.multiprocessors, cluster), waves=_waves(device.multiprocessors, cluster, patches),
        loaded_bytes=PATCH_HALO[7] * pixel / cluster / sharing, stored_share=problem.pixels / (warpgroups.ROWS * patches),
        again_bytes=halo, again_between_bytes=_raster_between(problem, 8), blocks=min(device.multiprocessors, patches * cluster),
    )  # fmt: skip


def _planes_form(problem: Problem, config: Config, device: DeviceLimits, kind: str, halo: float) -> warpgroups.WarpgroupForm:
    """One warpgroup convolves tiles; the patches of a tile that reach into the image go to the others one by one."""
    v, octets, pixel = config.defines, config.defines["OCTETS"], ELEMENT_BYTES * problem.C
    tiles = problem.N * -(-problem.H // config.tile_rows) * -(-problem.W // config.tile_columns)
    patches = problem.N * -(-problem.H * octets // planes.OCTET) * -(-problem.W // (planes.OCTET * octets))
    loaded = planes.halo_bytes(v["ROWS"]) * problem.C / planes.SLAB * tiles / patches
    return warpgroups.WarpgroupForm(
        kind=kind, actors=v["WARPGROUPS"], chunk=v["CHUNK"], convolution="planes", plane_rows=v["ROWS"], convolves_apart=True,
        norm="matrix", turns=patches, together=patches / tiles, processors=device.multiprocessors // v["CLUSTER"] * v["CLUSTER"],
        resident=bool(v["RESIDENT"]), multicast=v["CLUSTER"], loaded_bytes=loaded + warpgroups.ROWS * pixel,
        stored_share=problem.pixels / (warpgroups.ROWS * patches), again_bytes=halo,
        again_between_bytes=_raster_between(problem, config.tile_rows), blocks=min(device.multiprocessors, tiles),
    )  # fmt: skip


def _tiles_form(problem: MBConvProblem, device: DeviceLimits, kind: str, halo: float) -> warpgroups.WarpgroupForm:
    """Tiles of eight rows of 16 pixels, a row to a warp, with the halo in them; their neighbours come next."""
    count = tiles.tiles(problem)
    return warpgroups.WarpgroupForm(
        kind=kind, actors=tiles.WARPGROUPS, chunk=tiles.CHUNK, convolution="rows", turns=count * tiles.WARPGROUPS,
        processors=device.multiprocessors, loaded_bytes=warpgroups.ROWS * ELEMENT_BYTES * problem.C,
        stored_share=problem.pixels / (warpgroups.ROWS * count * tiles.WARPGROUPS), again_bytes=halo,
        again_between_bytes=_raster_between(problem, tiles.ROWS), blocks=min(device.multiprocessors, count),
    )  # fmt: skip


def _depthwise_kernel(problem: MBConvProblem, config: Config, device: DeviceLimits, figures: Figures) -> FusedKernel:
    """Blocks walk down strips, a row after the other; each warpgroup has 64 hidden channels of it, and one more projects."""
    v, strips, family = config.defines, depthwise.strips_of(problem, config), family_of(problem)
    blocks = -(-depthwise.sequence(problem, strips) // config.tile_rows) * v["SPLIT"]
    passes = 2 if problem.squeeze else 1
    moved = float(family.by_name[config.kernel].moved_bytes(problem, config))
    rows_of_h = depthwise.steps(problem, strips, config.tile_rows)
    down = min(config.tile_rows * problem.stride, problem.H)
    form = columns.ColumnForm(
        kind=f"{problem.family}, threads", actors=v["WARPGROUPS"], split=v["SPLIT"], width=strips.width, places=strips.places(),
        rows=rows_of_h, completed=config.tile_rows / rows_of_h, blocks=blocks,
        processors=resident_blocks(device.multiprocessors, v["SPLIT"]), folded=bool(v["FOLDED"]),
        rotates=depthwise.rotates(problem), first_asked=depthwise.first_asked(config),
        again_bytes=max(0.0, moved - problem.input_bytes * passes - problem.output_bytes),
        again_between_bytes=float(ELEMENT_BYTES) * problem.C * down * strips.width * min(blocks, device.multiprocessors),
    )  # fmt: skip
    return columns.kernel_of(work_of(problem), form, figures)


def _other_form(problem: Problem, config: Config, device: DeviceLimits, kind: str, halo: float) -> warpgroups.WarpgroupForm:
    """A kernel of warpgroups that has no line of its own, by what the constants of all of them say."""
    values, work = config.defines, work_of(problem)
    actors = values.get("WARPGROUPS", max(1, config.threads // 128 - 1))
    split = values.get("SPLIT", 1)
    if split <= 1:
        split = values["CLUSTER"] if values.get("SPLIT", 0) == 1 and "CLUSTER" in values else 1
    strips = work.front == "hidden"
    filled = rows.STRIP / rows.WARP_ROWS if strips and work.group_width > 1 else 1.0
    convolution: warpgroups.Convolution = "none"
    if work.front == "hidden":
        convolution = "rows" if work.group_width > 1 else "threads"
    elif work.front == "input":
        convolution = "bands" if work.kernel > 3 else "registers"
    turns = work.pixels / warpgroups.ROWS / filled * split
    count = device.multiprocessors
    return warpgroups.WarpgroupForm(
        kind=kind, actors=actors, chunk=values.get("CHUNK", DEFAULT_CHUNK), convolution=convolution, turns=turns, split=split,
        processors=resident_blocks(count, split),
        convolves_apart=convolution == "bands" and "CONV_REGISTERS" in values,
        resident=bool(values.get("RESIDENT", values.get("STREAMED", 1) == 0)),
        multicast=values.get("CLUSTER", 1) if split == 1 else 1,
        taps_from_shared=work.front == "taps", loaded_bytes=2.0 * work.C * warpgroups.ROWS * (work.kernel if work.front != "hidden" else 1),
        stored_share=filled, again_bytes=halo, again_between_bytes=_raster_between(problem, max(1, config.tile_rows % problem.H)),
        blocks=min(count, turns / actors),
    )  # fmt: skip


def _rows_form(problem: MBConvProblem, config: Config, device: DeviceLimits, kind: str, halo: float) -> warpgroups.WarpgroupForm:
    """A block walks down strips of 14 columns, four rows of 16 pixels to a warpgroup; its neighbour columns are read a strip later."""
    layout, split = rows.layout_of(config), config.defines["SPLIT"]
    blocks = rows.tiles(problem, layout, config.tile_rows)
    steps = 1.0
    if layout.order == rows.TILED:
        between = 0.0  # blocks side by side read each other's columns
    else:
        own = config.tile_rows / layout.warpgroups if layout.order == rows.RESIDENT else config.tile_rows
        steps = (own + 2) / (4 if layout.order == rows.RESIDENT else layout.rows)  # in the last some warps have no row
        between = _walks_between(problem, config, min(blocks, device.multiprocessors))
    processors = resident_blocks(device.multiprocessors, split)
    return warpgroups.WarpgroupForm(
        kind=kind, actors=layout.warpgroups, chunk=layout.chunk, convolution="rows", split=split, steps=steps,
        turns=blocks * layout.warpgroups * steps * split, together=layout.warpgroups * steps,
        processors=processors, waves=-(-blocks * split // processors), resident=layout.order == rows.RESIDENT,
        loaded_bytes=64 * ELEMENT_BYTES * problem.C, stored_share=rows.STRIP / rows.WARP_ROWS,
        lookups=ROW_LOOKUPS * problem.C if config.defines["X_SHARED"] else 0.0,
        again_bytes=halo, again_between_bytes=between, blocks=min(device.multiprocessors, blocks * split),
    )  # fmt: skip


def _chain_form(problem: MBConvProblem, config: Config, device: DeviceLimits, kind: str, halo: float) -> warpgroups.WarpgroupForm:
    """As `_rows_form`, all warpgroups down one range, with two chunks in flight."""
    actors, blocks = config.defines["WARPGROUPS"], chain.blocks(problem, config)
    steps = (config.tile_rows + 2) / (4 * actors)  # in the last some warps have no row
    return warpgroups.WarpgroupForm(
        kind=kind, actors=actors, chunk=chain.CHUNK, convolution="rows", steps=steps, turns=blocks * actors * steps,
        together=actors * steps, processors=device.multiprocessors, waves=-(-blocks // device.multiprocessors), flight=2,
        loaded_bytes=64 * ELEMENT_BYTES * problem.C, stored_share=rows.STRIP / rows.WARP_ROWS, again_bytes=halo,
        again_between_bytes=_walks_between(problem, config, blocks), blocks=blocks,
    )  # fmt: skip


def _walks_between(problem: MBConvProblem, config: Config, blocks: int) -> float:
    """Bytes moved before a block that walks down strips reads its columns' neighbours again, a strip later, with all the others."""
    down = min(problem.H, config.tile_rows)
    return float(ELEMENT_BYTES) * problem.C * down * (rows.WARP_ROWS + rows.STRIP) * blocks
