"""What fusing blocks does, as Markdown tables for the documentation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from perfmodel.hardware.catalog import load
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.mbconv import MBConv
from perfmodel.layers.cost import OPS_PER_MAC, Cost
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.precision import Precision
from perfmodel.prediction import predict
from perfmodel.schedule import NAMES, kernels
from perfmodel.tiling import Machine, choose
from perfmodel.units import percent, si

POINTS: Final[tuple[tuple[str, Block, int], ...]] = (
    ("ConvFirst, C = 64, e = 6, 64×64", ConvFirst(in_channels=64, out_channels=64, hidden_channels=384), 64),
    ("MBConv, C = 256, e = 4, 16×16", MBConv(in_channels=256, out_channels=256, hidden_channels=1024, group_width=8), 16),
)
"""The points that the paper's author measures in his public code; groups of 8 channels."""
POINT_BATCH: Final = 128
POINT_TILE: Final = 16

NETWORKS: Final = (
    "convnext_tiny", "efficientnet_b0", "efficientnetv2_s", "mobilenetv2_100", "regnety_032", "resnet50", "convfirstnet_tiny",
)  # fmt: skip
DEVICES: Final = ("rtx3090", "rtx4090", "h200")
BATCH: Final = 128
RESOLUTION: Final = 224


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows)) + "\n"


def points_table() -> str:
    """Operational intensity of the author's points: layer by layer, and fused with and without halo and weights."""
    header = [
        "block",
        "layer by layer",
        "without weights",
        f"fused, {POINT_TILE}×{POINT_TILE} tiles",
        "without halo",
        "without weights either",
    ]
    rows = []
    for label, block, size in POINTS:
        shape = Shape(POINT_BATCH, block.in_channels, size, size)
        builder = GraphBuilder()
        builder.block(block, builder.input(shape), name=block.kind)
        graph = builder.graph()
        layers = [name for name, node in graph.nodes.items() if node.block is not None]
        unfused = sum((kernel.cost for kernel in kernels(graph, Precision())), Cost())
        machine = replace(Machine.of(load("h200"), "fp16"), local_bytes=math.inf)  # a tile is given, whatever it needs
        choice = choose(graph, layers, machine, element_bytes=2, name=block.kind, tile=(POINT_TILE, POINT_TILE))[0]
        ops = OPS_PER_MAC * graph.macs
        moved = {kind: sum(m.bytes for m in choice.movements if m.kind == kind) for kind in ("input", "halo", "weight", "output")}
        activations = moved["input"] + moved["output"]
        values = [
            ops / unfused.dram_bytes,
            ops / (unfused.dram_bytes - unfused.read_weight_bytes),
            ops / sum(moved.values()),
            ops / (activations + moved["weight"]),
            ops / activations,
        ]
        rows.append([label, *(f"{value:.1f}" for value in values)])
    return _markdown(header, rows)


def schedules_table() -> str:
    """DRAM bytes, waterline latency, lower bound and attainable efficiency of networks under every schedule and on three devices."""
    header = ["network", "device", *(f"`{name}`" for name in NAMES)]
    rows = []
    for network in NETWORKS:
        for device in DEVICES:
            cells = []
            for schedule in NAMES:
                found = predict(network, device, batch=BATCH, resolution=RESOLUTION, schedule=schedule)
                bound = "–" if found.bound_latency_s is None else si(found.bound_latency_s, "s")
                cells.append(
                    f"{si(found.cost.dram_bytes, 'B')}<br>{si(found.latency_s, 's')} (≥ {bound})<br>**{percent(found.efficiency)}**"
                )
            rows.append([f"`{network}`", f"`{device}`", *cells])
    return _markdown(header, rows)
