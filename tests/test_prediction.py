"""Predictions: what they add up to, what they assume, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import HardwareError
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.networks.catalog import build, entries
from perfmodel.prediction import Prediction, predict
from perfmodel.record import PredictionRecord
from perfmodel.schedule import AUTO, FUSED, NAMES, SCHEDULES, ScheduleError

SMALL = (
    "resnet18",
    "mobilenetv3_small_100",
    "convnext_atto",
    "efficientnet_b0",
    "regnety_004",
    "mobileone_s0",
    "convfirstnet_atto",
)


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("model", SMALL)
def test_a_prediction_is_the_sum_of_its_kernels(model: str, schedule: str) -> None:
    prediction = predict(model, "h200", batch=4, schedule=schedule)
    peak, bandwidth = 989.5e12, 4.8e12
    expected = 0.0
    for kernel in prediction.kernels:
        moved = sum(access.bytes for access in (*kernel.reads, *kernel.writes))
        assert kernel.cost.dram_bytes == moved
        expected += max(2 * kernel.cost.macs / peak, moved / bandwidth)
    assert prediction.latency_s == pytest.approx(expected, rel=1e-12)
    nominal = build(model, batch=4).macs
    assert prediction.cost.macs == nominal + prediction.recomputed_ops // 2
    assert prediction.recomputed_ops >= 0
    assert prediction.recomputed_ops == 0 or schedule in FUSED
    assert prediction.ideal_latency_s == pytest.approx(2 * nominal / peak, rel=1e-12)
    assert prediction.efficiency == pytest.approx(prediction.ideal_latency_s / prediction.latency_s, rel=1e-12)


@pytest.mark.parametrize("model", sorted(entries()))
def test_limits_are_ordered_for_every_network(model: str) -> None:
    found = {name: predict(model, "rtx4090", batch=16, schedule=name) for name in NAMES}
    for prediction in found.values():
        assert prediction.bound_latency_s is not None
        assert prediction.ideal_latency_s <= prediction.roofline_latency_s * (1 + 1e-12)
        assert sum(kernel.cost.macs for kernel in prediction.kernels) == prediction.cost.macs
        assert prediction.roofline_latency_s <= prediction.waterline_latency_s * (1 + 1e-12)
        assert prediction.bound_latency_s <= prediction.waterline_latency_s
        assert prediction.unsupported == ()
    in_order = [found[name] for name in NAMES]
    assert [p.latency_s for p in in_order] == sorted((p.latency_s for p in in_order), reverse=True)
    moved = [
        prediction.cost.dram_bytes for name, prediction in found.items() if name != AUTO
    ]  # which minimises time, not traffic
    assert moved == sorted(moved, reverse=True)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.sampled_from(SMALL), st.integers(1, 64), st.sampled_from(sorted(SCHEDULES)))
def test_latency_grows_with_batch_and_latency_per_image_falls(model: str, batch: int, schedule: str) -> None:
    one, two = (predict(model, "a100", batch=n, schedule=schedule).latency_s for n in (batch, 2 * batch))
    assert one < two <= 2 * one


def test_the_tier_decides_the_latency() -> None:
    waterline, bound = (predict("resnet50", "rtx3090", batch=32, tier=tier) for tier in ("waterline", "bound"))
    assert waterline.latency_s == waterline.waterline_latency_s == bound.waterline_latency_s
    assert bound.latency_s == bound.bound_latency_s == waterline.bound_latency_s
    assert bound.latency_s < waterline.latency_s


def test_the_bound_by_hand() -> None:
    """Each kernel: peak at the highest clock, bytes less the L2 (rtx3090: 2.1 GHz instead of 1.695, 6 MiB)."""
    prediction = predict("resnet18", "rtx3090", batch=8, tier="bound")
    device = load("rtx3090")
    peak = device.highest_ops_per_s(prediction.peak)
    expected = sum(
        max(2 * k.cost.macs / peak, max(0, k.cost.dram_bytes - 6 * 2**20) / device.memory.highest_bandwidth_bytes_per_s)
        for k in prediction.kernels
    )
    assert prediction.latency_s == pytest.approx(expected, rel=1e-12)


def test_a_device_without_a_cache_figure_has_no_bound_and_says_so() -> None:
    prediction = predict("resnet18", "m1-ultra", dtype="fp32")
    assert prediction.bound_latency_s is None
    assert any(text.startswith("no bound: m1-ultra") for text in prediction.assumptions)
    with pytest.raises(HardwareError, match="m1-ultra"):
        predict("resnet18", "m1-ultra", dtype="fp32", tier="bound")


@pytest.mark.parametrize(
    ("dtype", "peak"),
    [("fp32", 67e12), ("tf32", 494.7e12), ("fp16", 989.5e12), ("bf16", 989.5e12), ("int8", 1979e12), ("fp8", 1979e12)],
)
def test_every_type_takes_its_own_dense_peak(dtype: str, peak: float) -> None:
    prediction = predict("resnet18", "h200", dtype=dtype)
    assert prediction.peak.ops_per_s == pytest.approx(peak, rel=2e-3)


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("tf32", 4), ("fp16", 2), ("bf16", 2), ("int8", 1), ("fp8", 1)])
def test_every_type_moves_its_own_bytes(dtype: str, size: int) -> None:
    first = predict("resnet18", "h200", dtype=dtype).kernels[0]
    image, weight, bias = (access.bytes for access in first.reads)
    assert (image, weight) == (3 * 224 * 224 * size, 64 * 3 * 49 * size)
    assert bias == 64 * (4 if size == 1 else size)  # 8-bit networks keep their biases in fp32
    assert first.writes[0].bytes == 64 * 112 * 112 * size


def test_autocast_leaves_convnext_s_residual_stream_in_fp32() -> None:
    prediction = predict("convnext_tiny", "rtx4090", autocast="fp16", schedule="eager")
    written = {access.tensor: access.dtype for kernel in prediction.kernels for access in kernel.writes}
    assert written["stages.0.blocks.0.conv_dw"] == "fp16"
    assert written["stages.0.blocks.0.gamma"] == "fp32"
    assert written["stages.0.blocks.0.add"] == "fp32"
    assert prediction.peak.dtype == "fp16"


def test_weight_casts_move_six_bytes_per_parameter_of_a_convolution() -> None:
    prediction = predict("resnet18", "rtx4090", autocast="fp16", schedule="eager")
    casts = [kernel for kernel in prediction.kernels if kernel.kind == "cast" and kernel.reads[0].role == "weight"]
    norms = 2 * sum(64 * (1 + 4) if width == 64 else width * 5 for width in (64, 128, 256, 512))  # γ and β of every batch norm
    assert sum(kernel.cost.dram_bytes for kernel in casts) == 6 * (prediction.network.params - norms)


def test_json_has_the_contract_s_fields_and_round_trips() -> None:
    prediction = predict("convnext_atto", "h200", batch=2)
    found = json.loads(prediction.to_json())
    assert list(found) == [
        "schema_version", "model", "hardware", "batch", "resolution", "dtype", "autocast", "layout", "schedule", "tier", "params",
        "macs", "ops", "vector_ops", "special_ops", "dram_bytes_read", "dram_bytes_written", "operational_intensity", "ideal_latency_s",
        "latency_s", "latency_low_s", "latency_high_s", "roofline_latency_s", "waterline_latency_s", "bound_latency_s", "efficiency",
        "throughput_per_s", "bottleneck", "assumptions", "unsupported", "coverage", "kernels",
    ]  # fmt: skip
    assert {"name", "kind", "layers", "macs", "ops", "dram_bytes_read", "dram_bytes_written", "workspace_bytes", "operational_intensity",
            "bound_by", "latency_s", "share"} <= set(found["kernels"][0])  # fmt: skip
    assert found["ops"] == 2 * found["macs"]
    assert sum(kernel["share"] for kernel in found["kernels"]) == pytest.approx(1)
    assert sum(kernel["latency_s"] for kernel in found["kernels"]) == pytest.approx(found["latency_s"])
    for kernel in found["kernels"]:
        assert sum(access["bytes"] for access in kernel["reads"]) == kernel["dram_bytes_read"]
        assert sum(access["bytes"] for access in kernel["writes"]) == kernel["dram_bytes_written"]
    assert PredictionRecord.model_validate(found).model_dump() == prediction.to_dict()


def test_a_dataframe_has_a_row_per_kernel() -> None:
    prediction = predict("resnet18", "t4")
    frame = prediction.to_dataframe()
    assert len(frame) == len(prediction.kernels)
    assert frame["latency_s"].sum() == pytest.approx(prediction.latency_s)


def test_a_notebook_shows_the_answer() -> None:
    html = predict("resnet18", "t4")._repr_html_()
    assert "resnet18" in html
    assert "NVIDIA T4" in html
    assert "<table>" in html
    assert "http" not in html


def test_a_user_s_network_and_partition() -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(2, 8, 16, 16))
    y = builder.conv_norm(x, 8, kernel=3, activation="relu", name="a", norm_name="a.bn")
    builder.residual(y, x)
    network = Network(name="mine", graph=builder.graph(), batch=2, resolution=16)
    whole = predict(network, "h200", schedule=[["a", "a.bn", "a.bn.act", "add"]])
    assert whole.schedule == "partition"
    assert len(whole.kernels) == 1
    assert whole.cost.dram_bytes == 2 * (2 * 2 * 8 * 16 * 16 + 8 * 8 * 9 + 8)  # input once, output once, weights, folded bias
    apart = predict(network, "h200", schedule=[["a", "a.bn"], ["a.bn.act"], ["add"]])
    assert len(apart.kernels) == 3
    with pytest.raises(ScheduleError, match="leaves out"):
        predict(network, "h200", schedule=[["a", "a.bn"]])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schedule": "layr"}, "did you mean layer"),
        ({"tier": "expected"}, "no calibration for schedule layer"),
        ({"tier": "bounds"}, "did you mean bound"),
        ({"dtype": "fp61"}, "fp16"),
        ({"autocast": "fp8"}, "autocast type"),
        ({"dtype": "fp16", "autocast": "fp16"}, "cannot be combined"),
        ({"layout": "nwhc"}, "did you mean nhwc"),
        ({"batch": 0}, "batch must be"),
        ({"batch": -1}, "batch must be"),
        ({"batch": 10**9}, "batch must be"),
        ({"resolution": 7}, "too small"),
        ({"dtype": "fp8", "hardware": "a100"}, "a100"),
        ({"dtype": "tf32", "hardware": "v100"}, "v100"),
        ({"hardware": "h20"}, "did you mean h200"),
        ({"model": "resnet5"}, "did you mean resnet50"),
        ({"dtype": ""}, "unknown data type"),
        ({"dtype": 16}, "dtype must be a name"),
        ({"schedule": None}, "schedule must be a name"),
        ({"tier": None}, "tier must be a name"),
        ({"layout": None}, "layout must be a name"),
        ({"model": None}, "model must be a name"),
        ({"batch": 1.5}, "batch must be"),
    ],
)
def test_bad_input_is_one_sentence(options: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"model": "resnet18", "hardware": "h200"} | options
    with pytest.raises(PerfmodelError) as caught:
        predict(**given)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_api_is_one_call() -> None:
    prediction = perfmodel.predict("convnext_tiny", "h200", batch=128)
    assert isinstance(prediction, Prediction)
    assert perfmodel.predict("convnext_tiny", "h200", batch=128).latency_s == prediction.latency_s
    assert set(perfmodel._HOMES) <= set(dir(perfmodel))
    for name in perfmodel.__all__:
        assert getattr(perfmodel, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = perfmodel.nothing


def test_numpy_s_whole_numbers_are_whole_numbers() -> None:
    assert predict("alexnet", "h200", batch=np.int64(8)).network.batch == 8


def test_a_network_keeps_its_batch() -> None:
    network = build("alexnet", batch=2)
    with pytest.raises(PerfmodelError, match="already has its batch"):
        predict(network, "h200", batch=128)


def test_tier_bound_says_what_it_grants() -> None:
    said = " ".join(predict("resnet18", "h200", tier="bound", dtype="int8").assumptions)
    assert "1.979 Pop/s" in said
    assert "62.9 MB of each kernel's bytes from the cache" in said
    assert "TFLOP" not in said


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        build("efficientnet_b99")
    assert caught.value.near[0].startswith("efficientnet_b")
