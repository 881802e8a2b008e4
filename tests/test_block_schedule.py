"""Schedule `block`: whole networks with each residual block fused."""

from __future__ import annotations

import json

import pytest
import sympy

from perfmodel.fused_formulas import fused_formula, fused_text
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import HardwareError
from perfmodel.kernel import NOT_FUSED
from perfmodel.layers import dims
from perfmodel.layers.catalog import BLOCKS
from perfmodel.networks.catalog import build, entries
from perfmodel.precision import Precision
from perfmodel.prediction import predict
from perfmodel.report.fusion import points_table
from perfmodel.schedule import ScheduleError, kernels

C, N, H, W, e, g, p, q = (getattr(dims, name) for name in ("C", "N", "H", "W", "e", "g", "p", "q"))
FAMILIES = [
    "convnext_tiny",
    "efficientnet_b0",
    "efficientnetv2_s",
    "mobilenetv2_100",
    "regnety_004",
    "resnet50",
    "resnet18",
    "convfirstnet_tiny",
]


@pytest.mark.parametrize("device", ["rtx3090", "h200"])
@pytest.mark.parametrize("model", FAMILIES)
def test_fused_networks_keep_their_layers_and_order(model: str, device: str) -> None:
    network = build(model, batch=8)
    spec = load(device)
    work = kernels(network.graph, Precision(), "block", device=spec)
    local_bytes = spec.require("chip.shared_memory_per_block_bytes")
    done = [layer for kernel in work for layer in kernel.layers]
    layers = [name for name, node in network.graph.nodes.items() if node.layer.role != "input"]
    assert sorted(set(done)) == sorted(layers)
    available = {"input"}
    for kernel in work:
        for access in kernel.reads:
            assert access.role == "weight" or access.tensor in available, (
                f"{kernel.name} reads {access.tensor} before it is written"
            )
        available |= {access.tensor for access in kernel.writes}
        assert kernel.cost.dram_bytes == sum(access.bytes for access in (*kernel.reads, *kernel.writes))
        assert kernel.cost.workspace_bytes <= local_bytes
        assert (kernel.cost.workspace_bytes > 0) == (kernel.tiling is not None and not kernel.tiling.startswith(NOT_FUSED))
    assert sum(kernel.cost.macs for kernel in work) >= network.macs


@pytest.mark.parametrize("model", sorted(entries()))
def test_blocks_are_fused_in_every_network_that_has_them(model: str) -> None:
    network = build(model, batch=32)
    work = kernels(network.graph, Precision(), "block", device=load("h200"))
    fused = {kernel.block for kernel in work if kernel.tiling and not kernel.tiling.startswith(NOT_FUSED)}
    assert len(fused) >= 0.5 * len(network.graph.blocks)
    for kernel in work:
        if kernel.block is None:
            assert kernel.tiling is None


def test_each_fused_block_moves_no_more_than_its_layers() -> None:
    for model in FAMILIES:
        network = build(model, batch=16)
        alone = kernels(network.graph, Precision(), "layer")
        fused = kernels(network.graph, Precision(), "block", device=load("h200"))
        for block in network.graph.blocks:
            before = sum(kernel.cost.dram_bytes for kernel in alone if kernel.block == block)
            after = sum(kernel.cost.dram_bytes for kernel in fused if kernel.block == block)
            assert after <= before, (model, block)


def test_squeeze_and_excitation_splits_a_block_in_two() -> None:
    work = predict("efficientnet_b0", "h200", batch=32, schedule="block").kernels
    head, tail = (kernel for kernel in work if kernel.block == "blocks.1.1")
    assert head.name.endswith(".to_mean")
    assert tail.name.endswith(".from_mean")
    hidden = [access for access in head.writes if access.dtype == "fp16"]
    assert hidden[0].elements == 32 * 144 * 56 * 56
    assert {access.tensor for access in tail.reads if access.role == "activation"} >= {hidden[0].tensor}
    assert set(head.layers) & set(tail.layers) == set()


def test_what_is_not_fused_is_listed_with_the_reason() -> None:
    prediction = predict("convnext_large", "t4", schedule="block")
    listed = " ".join(prediction.assumptions)
    assert "being in no block: stem.0, stem.1" in listed
    assert "no tiling fits 65.5 kB of local memory" in listed
    assert "stages.3.blocks.0, stages.3.blocks.1" in listed
    kept = [kernel for kernel in prediction.kernels if kernel.tiling and kernel.tiling.startswith(NOT_FUSED)]
    assert {kernel.kind for kernel in kept} == {"depthwise_conv", "layer_norm", "linear"}


def test_a_block_that_would_be_slower_fused_is_not() -> None:
    prediction = predict("resnet18", "rtx4090", batch=16, schedule="block")
    assert any("it would be slower: layer4" in text for text in prediction.assumptions)


def test_json_says_how_a_kernel_is_tiled() -> None:
    found = json.loads(predict("convfirstnet_atto", "h200", schedule="block").to_json())
    tilings = [kernel["tiling"] for kernel in found["kernels"]]
    assert tilings[0] is None
    assert all("local memory" in text for text in tilings[1:-3])
    assert found["macs"] == build("convfirstnet_atto").macs
    assert found["efficiency"] == pytest.approx(found["ideal_latency_s"] / found["latency_s"])


def test_autocast_keeps_the_types_at_the_borders_of_a_block() -> None:
    prediction = predict("convnext_tiny", "h200", autocast="fp16", schedule="block", batch=2)
    block = next(kernel for kernel in prediction.kernels if kernel.block == "stages.0.blocks.1")
    by_role = {access.role: access.dtype for access in block.reads}
    assert by_role["activation"] == "fp32"
    assert block.writes[0].dtype == "fp32"
    assert {a.dtype for a in block.reads if a.tensor.endswith("fc1.weight")} == {"fp16"}


def test_schedule_block_needs_a_device_with_a_local_memory() -> None:
    graph = build("resnet18").graph
    with pytest.raises(ScheduleError, match="name one"):
        kernels(graph, Precision(), "block")
    with pytest.raises(HardwareError, match=r"chip\.shared_memory_per_block_bytes"):
        predict("resnet18", "m1-ultra", dtype="fp32", schedule="block")


CLOSED_FORMS = [
    ("convfirst", e * C + 9 * g / 2),
    ("mbconv", e * C + 9 * e * g / 2),
    ("fused_mbconv", 5 * e * C),
]


@pytest.mark.parametrize(("kind", "limit"), CLOSED_FORMS)
def test_depth_first_reaches_the_closed_forms(kind: str, limit: sympy.Expr) -> None:
    assert sympy.expand(fused_formula(kind, mode="rows").limit - limit) == 0


def test_tiles_multiply_the_read_by_the_halo() -> None:
    fused = fused_formula("convfirst")
    read = sympy.simplify(fused.moved("input", "halo") / (2 * N * C * H * W))
    assert sympy.simplify(read - (p + 2) * (q + 2) / (p * q)) == 0
    assert sympy.expand(fused.macs - N * H * W * (2 * e * C**2 + 9 * g * C)) == 0  # nothing is computed twice
    again = fused_formula("mbconv").macs - N * H * W * (2 * e * C**2 + 9 * e * g * C)
    assert sympy.simplify(again - N * H * W * e * C**2 * ((p + 2) * (q + 2) / (p * q) - 1)) == 0  # but MBConv's expansion


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_every_block_prints_its_fused_formulas_and_program(kind: str) -> None:
    text = fused_text(kind)
    assert f"program {kind}" in text
    assert "depth first" in text
    assert "\\begin{align*}" in fused_text(kind, latex=True)


def test_the_author_s_points() -> None:
    """49.4 → 420 and 123 → 1168 ops per byte, halo and weights left out."""
    convfirst, mbconv = points_table().splitlines()[2:]
    assert "| 49.4 | 49.4 |" in convfirst
    assert convfirst.endswith("| 420.0 |")
    assert "| 122.9 |" in mbconv
    assert mbconv.endswith("| 1168.0 |")
