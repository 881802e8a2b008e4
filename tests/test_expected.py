"""Tier `expected`: library paths, terms and their switches, constants, calibration."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path as FilePath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfmodelError
from perfmodel.expected import calibration as cal
from perfmodel.expected.constants import NAMES, CalibrationError, Constants, calibration_of
from perfmodel.expected.features import HOST_CONVOLUTION, HOST_MATRIX, HOST_NORM, RATES, Features
from perfmodel.expected.machine import Machine
from perfmodel.expected.paths import RULES, Path, convolution_rule, diagnosis_of, path_of
from perfmodel.expected.terms import (
    ACROSS_BANDWIDTH,
    ALL,
    DIRECT_RATE,
    DIRECT_START,
    GROUP_PADDED_TO,
    LARGE_INDEX_FACTOR,
    NORM_START_ROWS,
    RESAMPLE_BANDWIDTH,
    TERMS,
    THREADS,
    UNALIGNED_SLOWER,
    kernel_seconds,
    matrix_ops_per_s,
)
from perfmodel.hardware.catalog import load
from perfmodel.layers.arithmetic import Add
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import MaxPool
from perfmodel.layers.upsample import Upsample
from perfmodel.lowering import COMPILED, EAGER, lower, stays_in_nchw
from perfmodel.networks.catalog import build
from perfmodel.precision import Precision
from perfmodel.prediction import predict
from perfmodel.schedule import kernels

HALF = Precision(dtype="fp16")
MIXED = Precision.of(None, "fp16")
PRIORS = Constants.model_validate({name: prior.value for name, prior in cal.PRIORS.items()})


def machine(name: str = "rtx4090") -> Machine:
    device = load(name)
    return Machine.of(device, device.matrix_peak("fp16"))


def of_convolution(c: int, k: int, *, size: int = 56, batch: int = 64, **options: object) -> Features:
    g = GraphBuilder()
    g.conv(g.input(Shape(batch, c, size, size)), k, **options)  # type: ignore[arg-type]
    return Features.of(kernels(g.graph(), HALF, "eager"))


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        (Conv2d(in_channels=64, out_channels=128, kernel=(3, 3)), Path.MATRIX),
        (Conv2d(in_channels=3, out_channels=64, kernel=(7, 7)), Path.UNALIGNED),
        (Conv2d(in_channels=64, out_channels=60), Path.UNALIGNED),
        (Conv2d(in_channels=64, out_channels=64, kernel=(3, 3), group_width=16), Path.GROUPED),
        (Conv2d(in_channels=72, out_channels=72, kernel=(3, 3), group_width=24), Path.GROUPED_PADDED),
        (Conv2d(in_channels=64, out_channels=64, kernel=(5, 5), group_width=16), Path.GROUPED_PADDED),
        (Conv2d(in_channels=64, out_channels=128, kernel=(3, 3), group_width=16), Path.GROUPED),
        (Conv2d(in_channels=64, out_channels=256, kernel=(3, 3), group_width=16), Path.GROUPED_PADDED),
        (Conv2d(in_channels=64, out_channels=64, group_width=1), Path.DEPTHWISE),
        (Conv2d(in_channels=64, out_channels=64, kernel=(3, 3), group_width=2), Path.GROUPED_PAIR),
        (Conv2d(in_channels=64, out_channels=64, kernel=(7, 7), group_width=1), Path.DEPTHWISE),
        (Conv2d(in_channels=64, out_channels=64, kernel=(9, 9), group_width=1), Path.DEPTHWISE_DIRECT),
        (Conv2d(in_channels=64, out_channels=64, kernel=(1, 11), group_width=1), Path.DEPTHWISE_DIRECT),
        (Conv2d(in_channels=64, out_channels=128, kernel=(3, 3), group_width=1), Path.DEPTHWISE_DIRECT),
    ],
)
def test_the_library_path_of_a_convolution(layer: Conv2d, path: Path) -> None:
    rule = convolution_rule(layer)
    assert rule.path is path
    fast = path in (Path.MATRIX, Path.GROUPED, Path.DEPTHWISE)
    assert (rule.diagnosis is None) == fast, "slow paths are named, fast ones are not"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 8), st.sampled_from([1, 3, 5, 7, 9]))
def test_every_convolution_has_a_rule(width: int, out: int, groups: int, kernel: int) -> None:
    layer = Conv2d(in_channels=width * groups, out_channels=out * groups, kernel=(kernel, kernel), group_width=width)
    assert convolution_rule(layer) in RULES


def test_a_product_takes_its_padded_ops_over_the_attained_rate() -> None:
    f, m = of_convolution(64, 128, kernel=3), machine()
    terms = ALL - {"tail", "overlap", "launch"}
    seconds = kernel_seconds(f, m, PRIORS, terms).arithmetic_s[0]
    assert seconds == pytest.approx(2 * 64 * 56 * 56 * 128 * 64 * 9 / matrix_ops_per_s(m, PRIORS))
    wide = of_convolution(40, 40)  # 40 is padded to 64, in both
    padded, plain = (kernel_seconds(wide, m, PRIORS, t).arithmetic_s[0] for t in (terms, terms - {"padding"}))
    assert padded / plain == pytest.approx((64 / 40) ** 2)


def test_without_clock_the_peak_is_the_datasheets() -> None:
    m = machine()
    assert matrix_ops_per_s(m, PRIORS, ALL - {"clock"}) == load("rtx4090").matrix_peak("fp16").ops_per_s
    assert matrix_ops_per_s(machine("h200"), PRIORS) == pytest.approx(6.6e14, rel=0.05)  # as it was measured
    assert matrix_ops_per_s(machine("h100-sxm"), PRIORS) == pytest.approx(6.6e14, rel=0.05)  # the same chip, not measured
    assert matrix_ops_per_s(machine("rtx3090"), PRIORS) == load("rtx3090").matrix_peak("fp16").ops_per_s * PRIORS.matrix_rate


def test_few_tiles_leave_multiprocessors_idle() -> None:
    """One tile on one of 128 multiprocessors takes as long as 128 tiles do."""
    m = machine()
    one = of_convolution(256, 64, size=8, batch=1)
    many = of_convolution(256, 64, size=8, batch=128)
    terms = ALL - {"overlap", "launch", "padding"}
    seconds = [kernel_seconds(f, m, PRIORS, terms).arithmetic_s[0] for f in (one, many)]
    assert seconds[0] > 0.5 * seconds[1]
    flat = [kernel_seconds(f, m, PRIORS, terms - {"tail"}).arithmetic_s[0] for f in (one, many)]
    assert flat[1] / flat[0] == pytest.approx(128)


def test_padded_groups_compute_a_tile_each() -> None:
    f, m = of_convolution(72, 72, kernel=3, group_width=24), machine()
    times = kernel_seconds(f, m, PRIORS, ALL - {"tail", "overlap", "launch"})
    assert GROUP_PADDED_TO == (16, 64)
    ops = 2 * f.m[0] * 64 * 32 * 9 * 3  # 24 channels are padded to 32 in and 64 out; 3 groups
    assert times.arithmetic_s[0] == pytest.approx(ops / matrix_ops_per_s(m, PRIORS))
    assert times.exposed_s[0] == pytest.approx((PRIORS.grouped_passes - 1) * times.memory_s[0]), "the copies are on top"


def test_convolutions_without_a_kernel_run_on_the_vector_unit() -> None:
    f, m = of_convolution(64, 64, kernel=9, group_width=1), machine()
    ops = f.ops[0] * (1 + DIRECT_START / 81)
    assert kernel_seconds(f, m, PRIORS).arithmetic_s[0] == pytest.approx(ops / (DIRECT_RATE * m.vector_ops_per_s))
    assert kernel_seconds(f, m, PRIORS, ALL - {"paths"}).arithmetic_s[0] == 0  # as if it had one


def test_memory_time_is_bytes_over_the_attained_bandwidth_less_what_is_in_l2() -> None:
    f, m = of_convolution(64, 64, batch=512), machine("rtx3090")
    seconds = kernel_seconds(f, m, PRIORS).memory_s[0]
    left = f.dram_bytes[0] - PRIORS.l2_share * m.l2_bytes
    assert seconds == pytest.approx(left / (m.bandwidth_bytes_per_s * PRIORS.matrix_bandwidth))
    plain = kernel_seconds(f, m, PRIORS, ALL - {"l2"}).memory_s[0]
    assert plain == pytest.approx(f.dram_bytes[0] / (m.bandwidth_bytes_per_s * PRIORS.matrix_bandwidth))


def test_an_unaligned_product_is_slower_and_moves_more() -> None:
    m = machine("rtx3090")
    aligned, unaligned = of_convolution(64, 64, batch=512), of_convolution(64, 60, batch=512)
    terms = ALL - {"l2", "overlap", "tail"}
    fast, slow = (kernel_seconds(f, m, PRIORS, terms) for f in (aligned, unaligned))  # 60 is padded to 64
    assert slow.arithmetic_s[0] == pytest.approx(UNALIGNED_SLOWER * fast.arithmetic_s[0])
    bandwidth = m.bandwidth_bytes_per_s * PRIORS.matrix_bandwidth
    assert slow.memory_s[0] == pytest.approx(unaligned.dram_bytes[0] / bandwidth)
    assert slow.exposed_s[0] == pytest.approx((PRIORS.unaligned - 1) * slow.memory_s[0])
    assert fast.exposed_s[0] == 0


def test_reading_across_and_resizing_attain_little() -> None:
    g = group_normed()
    work = kernels(g.graph(), HALF, "eager")
    f, m = Features.of(work), machine()
    times = kernel_seconds(f, m, PRIORS, ALL - {"l2"})
    copies = [index for index, kernel in enumerate(work) if kernel.kind == "layout"]
    assert len(copies) == 2
    for index in copies:
        one_way = f.dram_bytes[index] / 2
        assert f.across_bytes[index] == one_way
        expected = one_way / ACROSS_BANDWIDTH + one_way / PRIORS.pointwise_bandwidth
        assert times.memory_s[index] == pytest.approx(expected / m.bandwidth_bytes_per_s)
    g = GraphBuilder()
    g.add(Upsample(factor=2, mode="nearest"), g.input(Shape(8, 64, 28, 28)), name="up")
    f = Features.of(kernels(g.graph(), HALF, "eager"))
    seconds = kernel_seconds(f, m, PRIORS, ALL - {"l2"}).memory_s[0]
    assert seconds == pytest.approx(f.dram_bytes[0] / (RESAMPLE_BANDWIDTH * m.bandwidth_bytes_per_s))


def test_a_layer_norm_is_held_by_its_rows() -> None:
    g = GraphBuilder()
    g.add(LayerNorm(channels=8), g.input(Shape(64, 8, 56, 56)), name="norm")
    f, m = Features.of(kernels(g.graph(), HALF, "eager")), machine()
    times = kernel_seconds(f, m, PRIORS)
    assert times.rate_s[0] == pytest.approx(64 * 56 * 56 * PRIORS.row_clocks / (m.multiprocessors * m.clock_hz))
    assert times.rate_s[0] > times.memory_s[0]
    assert kernel_seconds(f, m, PRIORS, ALL - {"rates", "special"}).rate_s[0] == 0


def test_special_functions_have_a_throughput_of_their_own() -> None:
    g = GraphBuilder()
    g.activation(g.input(Shape(64, 8, 56, 56)), "silu")
    f, m = Features.of(kernels(g.graph(), HALF, "eager")), machine()
    assert kernel_seconds(f, m, PRIORS, ALL - {"rates"}).rate_s[0] == pytest.approx(64 * 8 * 56 * 56 / m.special_per_s)
    assert kernel_seconds(f, m, PRIORS, ALL - {"rates", "special"}).rate_s[0] == 0


def test_a_depthwise_convolution_with_wide_indices_is_slow_and_named() -> None:
    m = machine()
    small, huge = (of_convolution(96, 96, kernel=3, group_width=1, size=224, batch=n) for n in (64, 1024))
    assert not small.huge[0]
    assert huge.huge[0]
    per_byte = [kernel_seconds(f, m, PRIORS, ALL - {"l2"}).memory_s[0] / f.dram_bytes[0] for f in (small, huge)]
    assert per_byte[1] / per_byte[0] == pytest.approx(LARGE_INDEX_FACTOR)
    g = GraphBuilder()
    g.conv(g.input(Shape(1024, 96, 224, 224)), 96, kernel=3, group_width=1)
    (kernel,) = kernels(g.graph(), HALF, "eager")
    assert "64 bits" in str(diagnosis_of(kernel))


def test_what_the_shorter_time_does_not_hide() -> None:
    f, m = of_convolution(64, 128, kernel=3), machine()
    times = kernel_seconds(f, m, PRIORS)
    assert times.exposed_s[0] == pytest.approx(PRIORS.unhidden * min(times.arithmetic_s[0], times.memory_s[0]))
    assert times.kernel_s[0] == max(times.arithmetic_s[0], times.memory_s[0]) + times.exposed_s[0]
    assert kernel_seconds(f, m, PRIORS, ALL - {"overlap"}).exposed_s[0] == 0


def test_a_gap_before_every_kernel() -> None:
    work = kernels(build("resnet18", batch=256).graph, MIXED, "eager")
    f, m = Features.of(work), machine()
    assert kernel_seconds(f, m, PRIORS).gap_s == pytest.approx(PRIORS.gap_s)
    assert not kernel_seconds(f, m, PRIORS, ALL - {"launch"}).gap_s.any()


def test_the_hosts_queue_by_brute_force() -> None:
    """A kernel starts when its call was issued and the one before has ended; its share is what it adds to the network's latency."""
    m = machine("h200")
    assert m.host_s is not None
    assert m.gap_s is not None
    for batch in (1, 64, 512):
        f = Features.of(kernels(build("mobilenetv2_100", batch=batch).graph, HALF, "eager"))
        times = kernel_seconds(f, m, PRIORS)
        issued = end = 0.0
        for index, kernel_s in enumerate(times.kernel_s):
            issued += m.host_s[f.host[index]]
            end = max(issued, end + m.gap_s + m.stream_gap_s) + kernel_s
            assert times.latency_s[: index + 1].sum() == pytest.approx(end)
        replayed = kernel_seconds(f, m, PRIORS, graph=True)
        assert replayed.gap_s == pytest.approx(m.gap_s + (m.cold_s if batch > 1 else 0.0))


def test_extra_kernels_are_those_that_no_layer_asks_for() -> None:
    work = kernels(build("convnext_tiny", batch=8).graph, MIXED, "eager")
    f = Features.of(work)
    kinds = {kernel.kind for kernel, extra in zip(work, f.extra, strict=True) if extra}
    assert kinds == {"bias_add", "cast"}
    without = kernel_seconds(f, machine(), PRIORS, ALL - {"extra"}).latency_s
    assert not without[f.extra].any()
    assert without[~f.extra].all()


@pytest.mark.parametrize("term", TERMS)
def test_every_term_has_a_switch_that_changes_some_network(term: str) -> None:
    """Each term moves the latency of at least one of these networks."""
    g = GraphBuilder()
    g.conv(g.input(Shape(1024, 96, 224, 224)), 96, kernel=3, group_width=1)
    named = [build(name, batch=64).graph for name in ("regnety_032", "convnext_tiny", "efficientnet_b0")]
    graphs = [*named, g.graph(), group_normed().graph()]
    changed = False
    for graph in graphs:
        f = Features.of(kernels(graph, MIXED, "eager"))
        for m in (machine("rtx3090"), machine("h200")):
            with_it, without = (kernel_seconds(f, m, PRIORS, terms).latency_s.sum() for terms in (ALL, ALL - {term}))
            changed |= bool(abs(with_it / without - 1) > 1e-6)
    assert changed or term == "special", "special functions hold no kernel of these networks on these machines"


def test_compressed_features_predict_the_same() -> None:
    f = Features.joined([Features.of(kernels(build(n, batch=64).graph, MIXED, "eager")) for n in ("resnet50", "efficientnet_b0")])
    small = f.compressed()
    assert len(small.path) < len(f.path) / 2
    whole, counted = (x.total(kernel_seconds(x, machine(), PRIORS).latency_s) for x in (f, small))
    assert counted == pytest.approx(whole)


def synthetic(name: str, constants: Constants, models: tuple[str, ...]) -> cal.Measurements:
    m = machine(name)
    features = [
        Features.of(kernels(build(model, batch=batch).graph, MIXED, "eager")).compressed()
        for model in models
        for batch in (64, 128, 256)
    ]
    joined = Features.joined(features)
    return cal.Measurements(
        machine=m, features=tuple(features), latency_s=joined.total(kernel_seconds(joined, m, constants).latency_s)
    )


MODELS = ("resnet50", "resnext50_32x4d", "regnety_032", "efficientnet_b0", "convnext_tiny", "vgg16", "mobilenetv2_100")


def test_fitting_finds_the_constants_that_made_the_measurements() -> None:
    truth = PRIORS.model_copy(
        update={"matrix_rate": 1.1, "pointwise_bandwidth": 0.85, "move_bandwidth": 0.5, "row_clocks": 300.0}
    )
    once = synthetic("rtx4090", truth, MODELS)
    given_ = once.at(np.tile(np.arange(len(once.features)), 4))  # measured four times, so that the data outweigh the priors
    found = cal.fit(given_)
    assert cal.expected_s(given_, found) == pytest.approx(given_.latency_s, rel=0.01)
    for name in ("matrix_rate", "pointwise_bandwidth"):  # the prior pulls, the data pulls more where it can
        value, true, prior = (getattr(constants, name) for constants in (found, truth, PRIORS))
        assert abs(np.log(value / true)) < 0.7 * abs(np.log(prior / true)), name


def test_one_wild_row_does_not_move_the_constants() -> None:
    given_ = synthetic("rtx4090", PRIORS, MODELS)
    latency = given_.latency_s.copy()
    latency[4] *= 5
    spoiled = cal.Measurements(machine=given_.machine, features=given_.features, latency_s=latency)
    found = cal.fit(spoiled)
    others = np.arange(len(latency)) != 4
    assert cal.expected_s(spoiled, found)[others] == pytest.approx(given_.latency_s[others], rel=0.03)


def test_constants_carry_over_through_the_specification() -> None:
    truth = PRIORS.model_copy(update={"matrix_rate": 1.15, "pointwise_bandwidth": 0.8})
    found = cal.fit(synthetic("rtx3090", truth, MODELS))
    elsewhere = synthetic("rtx4090", truth, MODELS)
    assert cal.expected_s(elsewhere, found) == pytest.approx(elsewhere.latency_s, rel=0.05)


def test_too_few_rows_are_refused() -> None:
    few = synthetic("rtx4090", PRIORS, MODELS[:2])
    with pytest.raises(CalibrationError, match="too few"):
        cal.fit(few)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=200))
def test_folds_keep_families_whole(families: list[int]) -> None:
    found = cal.folds(families)
    assert len({(family, fold) for family, fold in zip(families, found, strict=True)}) == len(set(families))
    assert found.max() < cal.FOLDS


def test_coverage_of_a_known_spread() -> None:
    rng = np.random.default_rng(1)
    measured = np.exp(rng.normal(0, 0.1, 5000))
    groups = rng.integers(0, 10, 5000)
    assert cal.coverage(np.ones(5000), measured, groups) == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize("schedule", ["eager", "pointwise"])
def test_the_shipped_constants(schedule: str) -> None:
    """At most a dozen, with where they come from; intervals that cover about as much as they say."""
    found = calibration_of(schedule)
    assert found.stack == schedule
    assert len(NAMES) <= 12
    assert found.provenance.rows >= 250
    assert found.provenance.networks >= 38
    assert found.intervals.low < 1 < found.intervals.high
    assert 0.8 <= found.intervals.coverage <= 0.97


def test_a_prediction_with_an_interval() -> None:
    prediction = predict("convnext_tiny", "rtx4090", batch=256, autocast="fp16", schedule="eager", tier="expected")
    assert prediction.bound_latency_s is not None
    assert prediction.bound_latency_s < prediction.latency_s
    assert prediction.latency_low_s is not None
    assert prediction.latency_high_s is not None
    assert prediction.latency_low_s < prediction.latency_s < prediction.latency_high_s
    record = prediction.to_dict()
    assert record["latency_low_s"] == prediction.latency_low_s
    assert sum(kernel["latency_s"] for kernel in record["kernels"]) == pytest.approx(record["latency_s"])
    assert {kernel["path"] for kernel in record["kernels"]} >= {"matrix", "depthwise", "row_norm", "pointwise"}
    slow = predict("regnety_032", "rtx4090", batch=256, autocast="fp16", schedule="eager", tier="expected")
    assert any("power of two" in said for said in slow.assumptions)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schedule": "layer"}, "no calibration for schedule layer"),
        (
            {"schedule": "block"},
            r"no calibration for schedule block on rtx4090: .* on compute capability 9.0 alone, and this is 8.9; use",
        ),
        ({"schedule": "block", "hardware": "mi300x"}, "GPUs of NVIDIA"),
        ({"schedule": "block", "hardware": "h200", "dtype": "fp32"}, "calibrated for fp16 and bf16, not for fp32"),
        ({"schedule": "block", "hardware": "h200", "dtype": "tf32"}, "calibrated for fp16 and bf16, not for tf32"),
        ({"schedule": "block", "hardware": "h200", "layout": "nchw"}, "read nhwc, not nchw"),
        ({"dtype": "int8"}, "calibrated for fp16 and bf16, not for int8"),
        ({"hardware": "mi300x"}, "GPUs of NVIDIA"),
        ({"calibration": "absent.toml"}, "cannot read the calibration absent.toml"),
        (
            {"calibration": "absent.toml", "tier": "waterline"},
            "a calibration has constants of tier expected, and tier waterline has no",
        ),
        ({"graph": True, "tier": "bound"}, "graph replay is a matter of tier expected, and tier bound"),
    ],
)
def test_what_is_not_calibrated_is_an_error_that_says_so(options: dict[str, object], said: str) -> None:
    given_ = {"model": "resnet18", "hardware": "rtx4090", "schedule": "eager", "tier": "expected"} | options
    with pytest.raises(PerfmodelError, match=said):
        predict(**given_)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["=", "stack = 1", 'stack = "eager"\n[constants]\nmatrix_rate = -1'])
def test_a_wrong_calibration_is_one_sentence(tmp_path: FilePath, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CalibrationError) as caught:
        calibration_of("eager", path)
    assert "c.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_norm_in_a_half_network_has_two_helpers() -> None:
    graph = build("resnet18", batch=8).graph
    half, mixed = (kernels(graph, precision, "eager") for precision in (HALF, MIXED))
    assert sum(kernel.kind == "norm_helper" for kernel in half) == 2 * sum(kernel.kind == "batch_norm" for kernel in half) == 40
    assert not any(kernel.kind == "norm_helper" for kernel in mixed)


def group_normed() -> GraphBuilder:
    g = GraphBuilder()
    x = g.conv(g.input(Shape(8, 64, 28, 28)), 64, kernel=3)
    x = g.add(GroupNorm(channels=64, groups=8), x, name="norm")
    x = g.activation(x, "relu")
    g.conv(x, 64, name="conv2")
    return g


def test_a_group_norm_goes_to_nchw_and_the_next_convolution_back() -> None:
    eager = [operation.kind for operation in lower(group_normed().graph(), HALF, EAGER)]
    assert eager == ["conv", "layout", "group_norm_moments", "group_norm", "relu", "layout", "pointwise_conv"]
    compiled = kernels(group_normed().graph(), HALF, "pointwise")
    assert [kernel.kind for kernel in compiled] == ["conv", "group_norm_moments", "pointwise", "pointwise_conv"]


def test_torch_compile_leaves_a_network_of_grouped_convolutions_in_nchw() -> None:
    """By its own weights: grouped ones count 1.358, others 0.725 to 0.823."""

    def network(groups: bool) -> GraphBuilder:
        g = GraphBuilder()
        g.conv(g.input(Shape(8, 128, 28, 28)), 128, kernel=3, group_width=64 if groups else None)
        return g

    assert stays_in_nchw(network(True).graph())
    assert not stays_in_nchw(network(False).graph())
    grouped = lower(network(True).graph(), HALF, COMPILED, layout="nchw")
    assert [operation.kind for operation in grouped] == ["layout", "grouped_conv", "layout"]
    assert len(lower(network(False).graph(), HALF, COMPILED, layout="nchw")) == 1


def test_paths_of_kernels_that_are_no_convolutions() -> None:
    work = {kernel.kind: path_of(kernel) for kernel in kernels(build("efficientnet_b0", batch=8).graph, MIXED, "eager")}
    assert work["batch_norm"] is Path.POINTWISE
    assert work["multiply"] is Path.BROADCAST
    assert work["global_average_pool"] is Path.BROADCAST
    assert work["linear"] is Path.MATRIX


def measured_machine(**figures: object) -> Machine:
    """An H200 without the figures of kernels on data from DRAM, but for those given."""
    plain: dict[str, object] = {
        "dram_rates": (math.inf,) * len(RATES),
        "dram_rows_per_s": None,
        "pool_outputs_per_s": (),
        "product_bytes_per_s": None,
        "narrow_outputs_per_s": math.inf,
        "narrow_inputs": (),
        "norm_row_s": None,
        "convolution_widths": (),
        "chains": (),
        "near_chain": math.inf,
        "chain_startup_s": 0.0,
        "concat_block_s": 0.0,
        "stream_gap_s": 0.0,
        "cold_s": 0.0,
        "host_compiled_s": None,
    }
    return replace(machine("h200"), **{**plain, **figures})  # type: ignore[arg-type]


def of_norm(*, size: int, batch: int = 64, channels: int = 256) -> Features:
    g = GraphBuilder()
    g.add(BatchNorm(channels=channels), g.input(Shape(batch, channels, size, size)), name="bn")
    return Features.of(kernels(g.graph(), HALF, "eager"))


def test_elements_from_dram_go_at_their_own_rate() -> None:
    """e·(s/r_L2 + (1 − s)/r_DRAM), with the share s of the bytes that L2 still has."""
    far = tuple(2e11 if kind == "norm" else math.inf for kind in RATES)
    m, f = measured_machine(dram_rates=far), of_norm(size=56)
    near = m.element_rates[RATES.index("norm")]
    share = PRIORS.l2_share * m.l2_bytes / f.dram_bytes[-1]
    rate_s = kernel_seconds(f, m, PRIORS).rate_s[-1]
    assert rate_s == pytest.approx(f.elements[-1] * (share / near + (1 - share) / 2e11))
    without = kernel_seconds(f, m, PRIORS, ALL - {"l2"}).rate_s[-1]
    assert without == pytest.approx(f.elements[-1] / 2e11)
    small = of_norm(size=7, batch=2)
    assert kernel_seconds(small, m, PRIORS).rate_s[-1] < 2 * small.elements[-1] / near / min(
        1, small.norm_threads[-1] / (m.multiprocessors * THREADS)
    ), "what stays in L2 goes at the rate from L2"


def test_a_pools_results_lie_on_the_line_through_two_windows() -> None:
    m = measured_machine(pool_outputs_per_s=((4, 1e11), (9, 5e10)))
    for taps, kernel in ((4, 2), (9, 3), (25, 5)):
        g = GraphBuilder()
        g.add(MaxPool(kernel=(kernel, kernel), stride=(2, 2)), g.input(Shape(64, 64, 112, 112)), name="pool")
        f = Features.of(kernels(g.graph(), HALF, "eager"))
        assert f.taps[0] == taps
        each = 1e-11 + (taps - 4) / 5 * 1e-11
        assert kernel_seconds(f, m, PRIORS).rate_s[0] == pytest.approx(f.m[0] * f.n[0] * each)


def test_one_window_alone_tells_nothing_of_others() -> None:
    kept = tuple(entry for entry in load("h200").measured if entry.quantity != "pool_2x2_outputs_per_s")
    device = load("rtx4090").model_copy(update={"measured": kept})
    assert Machine.of(device, device.matrix_peak("fp16")).pool_outputs_per_s == ()
    assert predict("resnet18", device, batch=16, schedule="eager", tier="expected").latency_s > 0


def test_a_convolution_of_an_image_is_held_by_its_results() -> None:
    m = measured_machine(narrow_outputs_per_s=1e10)
    f = of_convolution(3, 32, kernel=3)
    assert kernel_seconds(f, m, PRIORS).rate_s[0] == pytest.approx(f.m[0] * 32 / 1e10)
    assert kernel_seconds(of_convolution(12, 36, kernel=3), m, PRIORS).rate_s[0] == 0, "12 channels are another kernel's"


def test_convolutions_of_an_image_lie_on_lines_through_two_kernels() -> None:
    """A pixel of a tile of 16 or 32 results takes a time that is a line in its taps; 7×7 to 64 is the library's own kernel's."""
    rates = ((16, 3, 16 / 2e-9), (16, 7, 16 / 10e-9), (32, 3, 32 / 3e-9), (32, 7, 32 / 19e-9), (64, 7, 64 / 5e-9))
    m = measured_machine(narrow_inputs=rates)
    for width, kernel, pixel_s in (
        (16, 3, 2e-9),
        (8, 7, 10e-9),
        (16, 5, 2e-9 + 16 / 40 * 8e-9),
        (32, 3, 3e-9),
        (96, 5, 3 * (3e-9 + 16 / 40 * 16e-9)),
        (64, 7, 5e-9),
    ):
        f = of_convolution(3, width, kernel=kernel)
        times = kernel_seconds(f, m, PRIORS, ALL - {"startup", "launch"})
        assert times.rate_s[0] == pytest.approx(f.m[0] * pixel_s)
        assert times.kernel_s[0] == times.rate_s[0], "products and memory are in what was measured"


def test_a_narrow_side_of_a_convolution_holds_the_other() -> None:
    """Few input channels leave steps of a tile empty, however many results there are; the measured rate has that in it."""
    m = measured_machine(convolution_widths=((16, 1e14), (32, 2e14), (64, 4e14), (256, 8e14)))
    terms = ALL - {"tail", "startup", "launch"}
    for inputs, outputs, rate in (
        (16, 16, 1e14),
        (16, 256, 1e14),
        (256, 16, 1e14),
        (24, 96, None),
        (32, 32, 2e14),
        (64, 256, 8e14),
    ):
        f = of_convolution(inputs, outputs, kernel=3)
        expected = 1e14 + 1e14 * math.log(24 / 16) / math.log(2) if rate is None else rate
        assert kernel_seconds(f, m, PRIORS, terms).arithmetic_s[0] == pytest.approx(f.ops[0] / expected)


def test_a_norm_on_few_threads_takes_a_latency_for_each_of_their_rows() -> None:
    """From L2; from DRAM, and where its threads fill the chip, it goes at its rate. Rows of its measured start count once."""
    m = measured_machine(norm_row_s=1e-7)
    near = m.element_rates[RATES.index("norm")]
    small = of_norm(size=14, batch=1)
    rows = small.elements[-1] / small.norm_threads[-1]
    assert rows == NORM_START_ROWS
    at_rate = small.elements[-1] / near * m.multiprocessors * THREADS / small.norm_threads[-1]
    share = 0.9
    times = kernel_seconds(small, m, PRIORS)
    assert times.rate_s[-1] == pytest.approx(share * rows * 1e-7 + (1 - share) * at_rate)
    assert times.exposed_s[-1] == pytest.approx(max(0.0, dict(m.startup_s)["norm"] - rows * 1e-7))
    large = of_norm(size=56)
    without = kernel_seconds(large, measured_machine(), PRIORS)
    assert kernel_seconds(large, m, PRIORS).rate_s[-1] == without.rate_s[-1]


def test_what_has_left_the_cache_since_a_network_ran_before_comes_from_dram() -> None:
    """VGG's weights alone are more than L2 holds: each kernel's code, and the parameters of those that have some, take one latency more."""
    m = measured_machine(host_s=None, cold_s=1e-6, gap_s=1e-6, stream_gap_s=2e-6)
    for network, cold in (("vgg16", 1e-6), ("mobilenetv2_100", 0.0)):
        f = Features.of(kernels(build(network, batch=1).graph, HALF, "eager"))
        warm = kernel_seconds(f, replace(m, cold_s=0.0), PRIORS)
        assert kernel_seconds(f, m, PRIORS, graph=True).gap_s == pytest.approx(1e-6 + cold)
        assert kernel_seconds(f, m, PRIORS).gap_s == pytest.approx(3e-6), "a stream's gap has the time for it"
        longer = kernel_seconds(f, m, PRIORS).kernel_s - warm.kernel_s
        assert longer == pytest.approx(np.where(f.weights > 0, cold, 0.0), abs=1e-12)
    large = Features.of(kernels(build("mobilenetv2_100", batch=16).graph, HALF, "eager"))
    assert kernel_seconds(large, m, PRIORS, graph=True).gap_s == pytest.approx(2e-6), "its tensors pass through L2 in between"


def test_unlike_kernels_have_longer_gaps_than_like_ones() -> None:
    """Starts of like kernels are above their floor; a norm's is one of three unlike kernels; a stream's gaps hide it."""
    h200 = load("h200")
    figures = {
        "dram_latency_s": 5e-7,
        "l2_latency_s": 2e-7,
        "kernel_floor_s": 1e-6,
        "unlike_floor_s": 1.5e-6,
        "stream_gap_s": 2e-6,
        "norm_startup_s": 4e-6,
        "reduce_startup_s": 3e-6,
    }
    others = [entry for entry in h200.measured if entry.quantity not in figures]
    given = [h200.measured[0].model_copy(update={"quantity": name, "value": value}) for name, value in figures.items()]
    device = h200.model_copy(update={"measured": (*others, *given)})
    m = Machine.of(device, device.matrix_peak("fp16"))
    starts = dict(m.startup_s)
    assert m.gap_s == 1.5e-6
    assert m.cold_s == pytest.approx(3e-7)
    assert m.stream_gap_s == pytest.approx(1.5e-6)
    assert starts["reduce"] == pytest.approx(3e-6 - 1e-6)
    assert starts["norm"] == pytest.approx(4e-6 + 2 * 1e-6 - 3 * 1.5e-6)


def test_convolutions_sustain_what_their_width_does() -> None:
    m = measured_machine(convolution_widths=((64, 4e14), (256, 8e14)))
    terms = ALL - {"tail", "startup", "launch", "padding"}
    for width, rate in ((32, 4e14), (64, 4e14), (128, 6e14), (256, 8e14), (1024, 8e14)):
        f = of_convolution(width, width, kernel=3)
        assert kernel_seconds(f, m, PRIORS, terms).arithmetic_s[0] == pytest.approx(f.ops[0] / rate)


def test_products_move_what_products_moved() -> None:
    m = measured_machine(product_bytes_per_s=1e12)
    f = of_convolution(64, 128)
    assert kernel_seconds(f, m, PRIORS, ALL - {"l2"}).memory_s[0] == pytest.approx(f.dram_bytes[0] / 1e12)


def test_a_compiler_writes_its_own_kernels() -> None:
    """None of the framework's rates and starts holds compiled code; its chains' rates do."""
    work = kernels(build("mobilenetv2_100", batch=64).graph, HALF, "pointwise")
    f, m = Features.of(work), measured_machine(chains=(("chain", 1e11), ("chain_special", 1e10)), chain_startup_s=3e-6)
    times = kernel_seconds(f, m, PRIORS, ALL - {"l2"}, graph=True, compiled=True)
    own = np.isin(f.path, (Path.POINTWISE, Path.BROADCAST))
    assert own.any()
    assert times.rate_s[own] == pytest.approx(f.elements[own] / 1e11), "each with one norm"
    assert times.exposed_s[own] == pytest.approx(3e-6)
    g = GraphBuilder()
    g.activation(g.conv(g.input(Shape(64, 64, 56, 56)), 64), "silu")
    special = Features.of(kernels(g.graph(), HALF, "pointwise"))
    added = special.special_ops[-1] * (1 / 1e10 - 1 / 1e11)
    assert kernel_seconds(special, m, PRIORS, compiled=True).rate_s[-1] == pytest.approx(added), "what SiLU added to a norm"


def test_a_compiled_chain_takes_as_long_as_it_has_norms() -> None:
    """Two norms that are added take twice one; what comes from L2 goes at the rate from there; without a norm memory alone holds it."""
    g = GraphBuilder()
    x = g.input(Shape(64, 64, 28, 28))
    one, two = (g.add(BatchNorm(channels=256), g.conv(x, 256, name=name), name=f"{name}.bn") for name in ("a", "b"))
    g.activation(g.add(Add(), one, two, name="sum"), "relu")
    f = Features.of(kernels(g.graph(), HALF, "pointwise"))
    (own,) = np.flatnonzero((f.path == Path.POINTWISE) & (f.norms == 2))
    m = measured_machine(chains=(("chain", 1e11),), near_chain=1e10)
    share = min(PRIORS.l2_share * m.l2_bytes / f.dram_bytes[own], 0.9)
    expected = 2 * f.elements[own] * (share / 1e10 + (1 - share) / 1e11)
    assert kernel_seconds(f, m, PRIORS, compiled=True).rate_s[own] == pytest.approx(expected)
    assert kernel_seconds(replace(f, norms=0 * f.norms), m, PRIORS, compiled=True).rate_s[own] < 1e-9


def test_a_compiled_concatenation_has_the_norms_behind_it_and_no_more() -> None:
    """A chain that begins with a concatenation of three tensors, and has one norm, takes the time of one."""
    g = GraphBuilder()
    x = g.input(Shape(64, 64, 28, 28))
    parts = [g.conv(x, 64, name=name) for name in "abc"]
    g.activation(g.add(BatchNorm(channels=192), g.add(Concat(inputs=3), *parts, name="joined"), name="norm"), "relu")
    f = Features.of(kernels(g.graph(), HALF, "pointwise"))
    (own,) = np.flatnonzero(f.norms == 1)
    assert f.groups[own] == 3
    m = measured_machine(chains=(("chain", 1e11),), near_chain=1e11)
    assert kernel_seconds(f, m, PRIORS, compiled=True).rate_s[own] == pytest.approx(f.elements[own] / 1e11)


def test_a_stream_has_longer_gaps_than_a_graph() -> None:
    f = Features.of(kernels(build("vgg16", batch=64).graph, HALF, "eager"))
    m = measured_machine(host_s=None, gap_s=1e-6, stream_gap_s=2e-6)
    assert kernel_seconds(f, m, PRIORS).gap_s == pytest.approx(3e-6)
    assert kernel_seconds(f, m, PRIORS, graph=True).gap_s == pytest.approx(1e-6)


def test_each_small_tensor_of_a_concatenation_costs() -> None:
    g = GraphBuilder()
    x = g.input(Shape(1, 32, 8, 8))
    g.add(Concat(inputs=16), *(g.activation(x, "relu", name=f"part{index}") for index in range(16)), name="cat")
    f = Features.of(kernels(g.graph(), HALF, "eager"))
    times = kernel_seconds(f, measured_machine(concat_block_s=2e-6), PRIORS)
    assert times.rate_s[-1] == pytest.approx(16 * (32 * 8 * 8 / 512) * 2e-6)
    many = replace(f, n=1e9 + 0 * f.n)
    assert kernel_seconds(many, measured_machine(concat_block_s=2e-6), PRIORS).rate_s[-1] == pytest.approx(16 * 32 * 132 * 2e-6)


def test_a_narrow_convolution_takes_what_the_narrowest_tile_takes() -> None:
    def seconds(width: int) -> float:
        g = GraphBuilder()
        g.conv(g.input(Shape(64, 64, 56, 56)), width, kernel=3)
        f = Features.of(kernels(g.graph(), HALF, "eager"))
        m = measured_machine(convolution_ops_per_s=5e14, convolution_widths=((64, 4e14), (128, 5e14)))
        return float(kernel_seconds(f, m, PRIORS, ALL - {"startup"}).arithmetic_s[0])

    assert seconds(32) == pytest.approx(seconds(64))
    assert seconds(16) == pytest.approx(seconds(64))


def test_compiled_code_is_waited_for_as_it_was_measured() -> None:
    f = Features.of(kernels(build("resnet18", batch=1).graph, HALF, "pointwise"))
    m = measured_machine(host_compiled_s=(1e-3, 1e-4, 1e-5, 1e-6))
    times = kernel_seconds(f, m, PRIORS, compiled=True)
    library = np.isin(f.host, (HOST_CONVOLUTION, HOST_MATRIX))
    issued = 1e-3 + np.where(library, 1e-4, 1e-5).sum() + 1e-6 * f.weights.sum()
    assert times.latency_s.sum() == pytest.approx(issued + times.kernel_s[-1], rel=1e-6)


@pytest.mark.parametrize(("network", "given"), [("resnet18", 103), ("mobilenetv2_100", 263), ("efficientnet_b0", 312)])
def test_compiled_code_is_given_every_weight_of_its_kernels(network: str, given: int) -> None:
    """As many tensors as PyTorch's compiler lists for these networks, the image among them."""
    f = Features.of(kernels(build(network, batch=1).graph, HALF, "pointwise"))
    assert f.weights.sum() + 1 == given


def test_a_norms_helpers_are_part_of_its_call() -> None:
    f, m = of_norm(size=4, batch=1), machine("h200")
    assert len(f.host) == 3
    assert m.host_s is not None
    assert np.array(m.host_s)[f.host].sum() == m.host_s[HOST_NORM]
