"""Fused programs of schedule `block` as kernels of actors: what their layers ask, in the form that takes least time on the machine.

Programs whose layers are those of one of our kernels (convolution first, expanded, hidden, ConvNeXt) take that kernel's form; others are
counted layer by layer, every tile of 64 pixels by one warpgroup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perfmodel.expected import warpgroups, warps
from perfmodel.expected.actors import Demand, Phase
from perfmodel.expected.fused import Figures, FusedKernel, Regime, Traffic, fused_time
from perfmodel.expected.fused_work import FusedWork
from perfmodel.kernel import Kernel
from perfmodel.layers.activation import Activation
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.graph import Node
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear

ACTORS: Final = (1, 2, 3, 4)
CHUNKS: Final = (32, 64, 128)
SPLITS: Final = (1, 2, 4, 8)
TILES: Final = ((8, 8), (8, 14), (14, 7), (4, 8), (4, 4))
REGISTERS: Final = 65_536
"""Of a multiprocessor."""
WORKING_REGISTERS: Final = 40
"""Of a thread beside accumulators and operands."""
SHARED_BYTES: Final = 220_000
"""Of a multiprocessor that a block can reserve, with something left for barriers and biases."""
GENERAL: Final = "other blocks"


def work_of(nodes: Sequence[Node]) -> FusedWork | None:
    """What a block of ours asks, from its layers; None where it is no such block."""
    products = [node for node in nodes if isinstance(node.layer, Conv2d | Linear)]
    inner = [node for node in products if not (node.shape.H == 1 and node.shape.W == 1 and node.input_shapes[0].H == 1)]
    squeeze = [node for node in products if node not in inner]
    spatial = [node for node in inner if isinstance(node.layer, Conv2d) and node.layer.kernel != (1, 1)]
    if len(spatial) != 1 or len(inner) not in (2, 3):
        return None
    (conv,) = spatial
    layer = conv.layer
    assert isinstance(layer, Conv2d)
    if layer.kernel[0] != layer.kernel[1] or layer.dilation != (1, 1) or layer.stride[0] != layer.stride[1]:
        return None
    place, groups = inner.index(conv), int(layer.groups)
    full = groups == 1
    if (full, len(inner), place) not in ((True, 2, 0), (False, 3, 0), (False, 3, 1)):
        return None
    first, last, given = inner[0], inner[-1], inner[0].input_shapes[0]
    expanded = inner[0] if full or place == 1 else inner[1]
    functions = [node.layer.function for node in nodes if isinstance(node.layer, Activation)]
    return FusedWork(
        N=int(given.N),
        H=int(given.H),
        W=int(given.W),
        C=int(given.C),
        hidden=int(expanded.shape.C),
        outputs=int(last.shape.C),
        kernel=int(layer.kernel[0]),
        stride=int(layer.stride[0]),
        front="taps" if full else ("hidden", "input")[place == 0],
        group_width=int(layer.group_width),
        activation="gelu" if any(name.startswith("gelu") for name in functions) else "silu",
        norm=any(isinstance(node.layer, LayerNorm) for node in nodes),
        residual=first.input_shapes[0] == last.shape,
        squeeze=int(squeeze[0].shape.C) if squeeze else 0,
    )


def best_form(work: FusedWork, figures: Figures, family: str, regime: Regime = "burst") -> FusedKernel | None:
    """The kernel of least time among the forms that registers and shared memory allow; None where none fits."""
    found = [*_warpgroup_kernels(work, figures, family), *_warp_kernels(work, figures, family)]
    return min(found, key=lambda kernel: fused_time(kernel, figures, regime).latency_s, default=None)


def _warpgroup_kernels(work: FusedWork, figures: Figures, family: str) -> list[FusedKernel]:
    if (
        work.squeeze
        or work.stride != 1
        or not work.residual
        or (work.front == "hidden" and (work.kernel, work.group_width) != (3, 8))
    ):
        return []
    found = []
    bands = work.front == "input" and work.kernel == 7
    for actors in ACTORS:
        for chunk in CHUNKS:
            held = (work.outputs / 2 + chunk / 2 + work.C / 4 * (work.front != "taps") + WORKING_REGISTERS) * 128 * actors
            for split in SPLITS:
                if work.hidden % (chunk * split) or held + 128 * 24 > REGISTERS:
                    continue
                tiles = -(-work.pixels // (64 * actors))
                if split > 1 and tiles * split > figures.multiprocessors:
                    continue
                filled = 14 / 16 if work.front == "hidden" else 1.0
                resident = split == 1 and work.weight_bytes + actors * 2 * 200 * work.C <= SHARED_BYTES
                form = warpgroups.WarpgroupForm(
                    kind=f"{family}, warpgroups",
                    actors=actors,
                    chunk=chunk,
                    convolution={"taps": "none", "hidden": "rows"}.get(work.front, "bands" if bands else "registers"),  # type: ignore[arg-type]
                    turns=tiles * actors * split / filled,
                    processors=figures.multiprocessors,
                    split=split,
                    convolves_apart=bands,
                    together=2 if bands else None,
                    resident=resident,
                    multicast=2 if split == 1 and not resident else 1,
                    loaded_bytes=2.0 * work.C * (196 if bands else 64 + 2 * work.W / actors),
                    taps_from_shared=work.front == "taps",
                    stored_share=filled,
                    blocks=min(figures.multiprocessors, tiles * split),
                )
                found.append(warpgroups.kernel_of(work, form, figures))
    return found


def _warp_kernels(work: FusedWork, figures: Figures, family: str) -> list[FusedKernel]:
    found = []
    for rows, columns in TILES:
        if rows > work.rows or columns > work.columns:
            continue
        pixels = rows * columns
        per_warp = -(-pixels // 32)  # m16 tiles of a warp, two warps along the pixels
        tiles = work.N * -(-work.rows // rows) * -(-work.columns // columns)
        halo = ((rows - 1) * work.stride + work.kernel) * ((columns - 1) * work.stride + work.kernel)
        for chunk in (64, 32):
            for split in (*SPLITS, 16):
                if work.hidden // chunk < split or (split > 1 and tiles * split > 4 * figures.multiprocessors):
                    continue
                expanded = -(-halo // 32) if work.front == "hidden" else per_warp
                accumulators = 4 * (per_warp * -(-work.outputs // 16) + expanded * chunk // 16)
                if accumulators + 4 * max(per_warp, expanded) + 60 > 255:
                    continue
                held = (
                    2 * work.C * halo
                    + 2 * chunk * (halo if work.front == "hidden" else 0)
                    + 2 * chunk * pixels
                    + 2 * work.C * pixels
                )
                weights = min(float(work.weight_bytes), 3.0 * 16384)
                groups = int(min(4, (SHARED_BYTES - weights) // held, REGISTERS // (128 * (accumulators + 60))))
                if groups < 1:
                    continue
                form = warps.WarpForm(
                    kind=f"{family}, warps",
                    tiles=tiles,
                    tile_rows=rows,
                    tile_columns=columns,
                    warps_m=2,
                    warps_n=2,
                    m16_per_warp=per_warp,
                    chunk=chunk,
                    chunks=work.hidden / chunk / split,
                    split=split,
                    parts=1,
                    groups=groups,
                    input_buffers=1,
                    slabs=-(-work.C // 64) if work.front == "input" else 1,
                    slab_groups=min(8, max(1, work.C // 8)),
                    ring=True,
                    steps=(4, 4),
                    processors=figures.multiprocessors,
                )
                found.append(warps.kernel_of(work, form, figures))
    return found


def general_kernel(kernel: Kernel, nodes: Sequence[Node], figures: Figures) -> FusedKernel:
    """A program that no kernel of ours carries out: its layers one after the other on tiles of 64 pixels, recomputed halos included."""
    out = max((node.shape.N * node.shape.H * node.shape.W for node in nodes), default=1)
    tiles = max(1.0, int(out) / warpgroups.ROWS)
    alone = sum(int(node.count().macs) for node in nodes)
    recomputed = int(kernel.cost.macs) / alone if alone else 1.0
    macs = int(kernel.cost.macs) / tiles
    wide = sum(int(node.count().macs) for node in nodes if not _narrow(node)) * recomputed / tiles
    narrow = macs - wide
    attained = figures.matrix_macs_per_clock
    narrowed = attained * 4 / figures.narrow_product_clocks  # eight columns, four clocks' worth, at what an A operand takes
    special = float(int(kernel.cost.special_ops)) / tiles
    vector = float(int(kernel.cost.vector_ops)) / tiles
    moved = float(int(kernel.cost.dram_bytes)) / tiles
    layers = max(1, len(nodes))
    phases = (
        Phase(
            name="products",
            demand=Demand(matrix=wide / attained, shared=wide / attained / 2),
            latency=figures.phase_latency * layers,
        ),
        Phase(
            name="convolutions",
            demand=Demand(matrix=narrow / narrowed, shared=figures.shared(narrow / 8)),
            latency=figures.barrier_latency,
        ),
        Phase(
            name="activations",
            demand=Demand(special=figures.special(special), issue=figures.issue(vector + 4 * special)),
            latency=figures.special_latency,
        ),
        Phase(name="input and output", demand=Demand(cache=moved / figures.cache_bytes_per_clock), background=True),
    )
    return FusedKernel(
        kind=GENERAL,
        phases=phases,
        actors=3,
        turns=tiles,
        together=3,
        processors=figures.multiprocessors,
        lead_clocks=figures.dram_latency + figures.cache_latency,
        trail_clocks=figures.cache_latency,
        matrix_macs=float(int(kernel.cost.macs)),
        traffic=Traffic(
            input_bytes=float(int(kernel.cost.read_activation_bytes)),
            output_bytes=float(int(kernel.cost.dram_bytes_written)),
            weight_bytes=float(int(kernel.cost.read_weight_bytes)),
            weights_between_bytes=float("inf"),
            again_bytes=float(int(kernel.cost.read_halo_bytes)),
        ),
    )


def _narrow(node: Node) -> bool:
    return isinstance(node.layer, Conv2d) and node.layer.conv_class in ("grouped_conv", "depthwise_conv")
