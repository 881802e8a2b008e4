"""What-if machines: the figure that was set, what must follow it, and the mark that it is hypothetical."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel
from perfmodel.cli import run as command
from perfmodel.errors import PerfmodelError
from perfmodel.expected.machine import CHAINS, WIDTHS
from perfmodel.hardware.catalog import load, names
from perfmodel.hardware.spec import DeviceSpec, HardwareError
from perfmodel.hardware.what_if import what_if
from perfmodel.waterline import Limits

H200 = load("h200")


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("dram_bandwidth=2x", "memory.dram_bandwidth_bytes_per_s", 9.6e12),
        ("memory.dram_bandwidth_bytes_per_s=9.6e12", "memory.dram_bandwidth_bytes_per_s", 9.6e12),
        ("dram_bandwidth_bytes_per_s=9.6TB/s", "memory.dram_bandwidth_bytes_per_s", 9.6e12),
        ("bandwidth = 6 TB/s", "memory.dram_bandwidth_bytes_per_s", 6e12),
        ("l2_bytes=96MiB", "memory.l2_bytes", 96 * 2**20),
        ("l2=+50%", "memory.l2_bytes", 62_914_560 * 1.5),
        ("local_memory=-50%", "chip.shared_memory_per_block_bytes", 116_224),
        ("multiprocessors=264", "chip.multiprocessors", 264),
        ("peak=2x", "peak.matrix.fp16.fp32.ops_per_s", 2 * 989.5e12),
        ("peak.matrix.fp16.fp32.ops_per_s=1.2P", "peak.matrix.fp16.fp32.ops_per_s", 1.2e15),
        ("clock=0.5x", "chip.max_clock_hz", 0.99e9),
        ("boost_clock_hz=2.2GHz", "chip.boost_clock_hz", 2.2e9),
        ("power=500W", "board.power_w", 500.0),
    ],
)
def test_a_figure_is_set(change: str, path: str, value: float) -> None:
    device = what_if(H200, [change])
    assert device.require(path) == pytest.approx(value)
    assert device.source_of(path).title.startswith("hypothetical:")
    assert device.slug.startswith("h200-")
    assert "hypothetical" in device.name
    assert device.hypothetical
    assert not H200.hypothetical


def test_what_must_stay_a_product_moves_along() -> None:
    faster = what_if(H200, ["bandwidth=2x"])
    assert faster.memory.dram_transfers_per_s == pytest.approx(2 * 6.402e9)
    wider = what_if(H200, ["multiprocessors=2x"])
    assert wider.matrix_peak("fp16").ops_per_s == pytest.approx(2 * 989.5e12)
    slower = what_if(H200, ["clock=0.5x"])
    assert slower.matrix_peak("int8").ops_per_s == pytest.approx(0.5 * 1979e12)
    assert slower.matrix_peak("fp16").clock_hz == pytest.approx(0.915e9)
    half = what_if(H200, ["local_memory=300kB"])
    assert half.chip.shared_memory_per_multiprocessor_bytes == 300_000


@settings(derandomize=True, max_examples=80, deadline=None)
@given(name=st.sampled_from(names()), factor=st.floats(0.3, 3.0), figure=st.sampled_from(["bandwidth", "peak", "clock"]))
def test_every_machine_of_the_catalogue_can_be_changed(name: str, factor: float, figure: str) -> None:
    device = load(name)
    dtype = device.peak[0].dtype
    changed = what_if(device, [f"{figure}={factor!r}x"])
    before, after = (Limits.waterline(each, each.matrix_peak(dtype)) for each in (device, changed))
    bandwidth = factor if figure == "bandwidth" else 1.0
    assert after.bandwidth_bytes_per_s == pytest.approx(before.bandwidth_bytes_per_s * bandwidth)
    assert after.peak_ops_per_s == pytest.approx(before.peak_ops_per_s * (factor if figure != "bandwidth" else 1.0))


def test_two_changes_are_both_named() -> None:
    device = what_if(H200, ["bandwidth=2x", "l2=2x"])
    assert len(device.hypothetical) == 2
    prediction = perfmodel.predict("resnet18", device)
    assert sum("no real machine" in said for said in prediction.assumptions) == 2
    assert what_if(H200, []) is H200
    assert what_if(device, ["peak=2x"]).require("memory.l2_bytes") == 2 * 62_914_560


def test_twice_the_bandwidth_halves_what_memory_holds() -> None:
    before = perfmodel.predict("efficientnet_b0", H200, batch=128)
    after = perfmodel.predict("efficientnet_b0", what_if(H200, ["bandwidth=2x"]), batch=128)
    assert sum(time.memory_s for time in after.times) == pytest.approx(sum(time.memory_s for time in before.times) / 2)
    assert sum(time.arithmetic_s for time in after.times) == sum(time.arithmetic_s for time in before.times)


FIGURES = [path for path, _, _ in H200.numbers()]


KINDS = ("pointwise", "add", "silu", "gelu", "norm", "norm_autocast", "broadcast", "bias", "reduce", "concat")
FROM_DRAM = [
    "dram_copy_bytes_per_s",
    "dram_read_bytes_per_s",
    "dram_write_bytes_per_s",
    "product_dram_bytes_per_s",
    "layer_norm_dram_rows_per_s",
    *(f"{kind}_dram_elements_per_s" for kind in (*CHAINS, *KINDS)),
]


def measured(device: DeviceSpec) -> dict[str, float]:
    return {entry.quantity: entry.value for entry in device.measured}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_set_to_what_it_is_changes_nothing_that_was_measured(figure: str) -> None:
    assert what_if(H200, [f"{figure}=1x"]).measured == H200.measured


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ("dram_bandwidth=2x", dict.fromkeys(FROM_DRAM, 2.0)),
        ("l2_bytes=2x", {}),
        ("power=500W", {}),
        (
            "peak.matrix.fp16.fp32.ops_per_s=2x",
            {
                "matrix_fp16_ops_per_s": 2.0,
                "sustained_matrix_fp16_ops_per_s": 2.0,
                "convolution_fp16_ops_per_s": 2.0,
                **{f"convolution_{width}_fp16_ops_per_s": 2.0 for width in WIDTHS},
                "small_product_ops_per_s": 2.0,
                "narrow_product_s": 0.5,
            },
        ),
        ("peak.matrix.int8.int32.ops_per_s=2x", {}),
        ("peak.matrix.bf16.fp32.ops_per_s=2x", {"matrix_bf16_ops_per_s": 2.0}),
        ("peak.vector.fp32.fp32.ops_per_s=2x", {"vector_fp32_ops_per_s": 2.0, "matrix_fp32_ops_per_s": 2.0}),
        ("peak.special.fp32.fp32.ops_per_s=2x", {"special_ex2_ops_per_s": 2.0, "special_tanh_ops_per_s": 2.0}),
    ],
)
def test_what_was_measured_of_a_figure_moves_with_it_and_nothing_else(change: str, moved: dict[str, float]) -> None:
    device = what_if(H200, [change])
    before, after = measured(H200), measured(device)
    assert {name: after[name] / before[name] for name in before if after[name] != before[name]} == pytest.approx(moved)
    assert {one.quantity for one in device.measured if one.kernel.startswith("hypothetical: ")} == set(moved)


def test_the_host_and_dram_do_not_follow_the_chips_clock() -> None:
    before, after = measured(H200), measured(what_if(H200, ["clock=0.5x"]))
    still = {name for name in before if after[name] == before[name]}
    assert {name for name in before if name.startswith(("host_", "dram_"))} <= still
    assert after["l2_latency_s"] == pytest.approx(2 * before["l2_latency_s"])
    assert after["sustained_matrix_fp16_ops_per_s"] == pytest.approx(0.5 * before["sustained_matrix_fp16_ops_per_s"])
    more = measured(what_if(H200, ["multiprocessors=2x"]))
    assert more["silu_elements_per_s"] == pytest.approx(2 * before["silu_elements_per_s"])
    assert more["pool_3x3_outputs_per_s"] == pytest.approx(2 * before["pool_3x3_outputs_per_s"])
    assert more["concat_block_s"] == pytest.approx(0.5 * before["concat_block_s"])
    assert more["small_product_ops_per_s"] == before["small_product_ops_per_s"]


def test_what_the_framework_moves_follows_the_bandwidth() -> None:
    """Kernels from DRAM take less on a faster one, and none less than its own rate on data in L2 or than half."""
    before, after = (
        perfmodel.predict("mobilenetv2_100", device, batch=256, schedule="eager", tier="expected", graph=True)
        for device in (H200, what_if(H200, ["dram_bandwidth=2x"]))
    )
    held = [(old, new) for old, new in zip(before.times, after.times, strict=True) if old.kernel.kind in ("batch_norm", "relu6")]
    assert (
        0.5 * sum(old.latency_s for old, _ in held)
        < sum(new.latency_s for _, new in held)
        < 0.9 * sum(old.latency_s for old, _ in held)
    )


@pytest.mark.parametrize("schedule", ["eager", "pointwise", "block"])
def test_tier_expected_keeps_what_was_measured(schedule: str) -> None:
    """A change of nothing changes nothing; twice the bandwidth saves at most half, though the host is as slow as before."""

    def latency_s(*changes: str) -> float:
        device = what_if(H200, changes)
        return perfmodel.predict("resnet18", device, batch=16, schedule=schedule, tier="expected").latency_s

    assert latency_s("dram_bandwidth=1x") == pytest.approx(latency_s())
    assert latency_s() / 2 <= latency_s("dram_bandwidth=2x") <= latency_s()


@pytest.mark.parametrize(
    "name", ["l2", "l2_bytes", "memory.l2_bytes", "last_level_cache", "launch_overhead_s", "board.launch_overhead_s"]
)
def test_a_figure_that_no_document_gives_cannot_be_changed(name: str) -> None:
    with pytest.raises(
        HardwareError, match=r"^gh200: (memory|board)\.\w+ is not known .* add the number with its source"
    ) as caught:
        what_if(load("gh200"), [f"{name}=2x"])
    assert "did you mean" not in str(caught.value)
    with pytest.raises(PerfmodelError, match="unknown figure of gh200 'l3'") as caught:
        what_if(load("gh200"), ["l3=2x"])
    assert not re.search(r"\bl2\b", str(caught.value))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("bandwith=2x", "did you mean bandwidth"),
        ("bandwidth", "sets nothing"),
        ("=2x", "sets nothing"),
        ("bandwidth=", "sets nothing"),
        ("bandwidth=fast", "is no value"),
        ("bandwidth=-2x", "must stay positive"),
        ("bandwidth=0", "must stay positive"),
        ("bandwidth=-100%", "must stay positive"),
        ("bandwidth=9.6", "without a prefix"),
        ("bandwidth=9.6TW", "is no unit of"),
        ("peak=3T", "give a factor"),
        ("ops_per_s=2x", "name one in full"),
        ("peak.matrix.fp16.fp32.sparse_ops_per_s=1T", "must be the dense peak"),
        ("max_clock=0.1x", "below a clock"),
        ("\x1b[31m=2", "unknown figure"),
    ],
)
def test_changes_that_cannot_be_are_said(change: str, said: str) -> None:
    with pytest.raises(PerfmodelError) as caught:
        what_if(H200, [change])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_commands_take_what_if_machines(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["predict", "resnet18", "--hardware", "h200", "--set", "dram_bandwidth=2x", "--top", "1"]) == 0
    assert "is no real machine" in " ".join(capsys.readouterr().out.split())
    assert (
        command(["compare", "resnet18", "--hardware", "h200", "--set", "bandwidth=2x", "--schedule", "layer", "--format", "csv"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["h200", "h200-bandwidth-2x"]
    plots = [
        ["plot", "waterline", "resnet18", "--hardware", "h200"],
        ["plot", "roofline", "resnet18", "--hardware", "h200"],
        ["plot", "gap", "resnet", "--hardware", "h200"],
    ]
    for number, plot in enumerate(plots):
        assert command([*plot, "--set", "bandwidth=2x", "--output", str(tmp_path / f"{number}.svg")]) == 0
        assert "hypothetical: bandwidth=2x" in (tmp_path / f"{number}.svg").read_text()
    assert command(["predict", "resnet18", "--hardware", "h200", "--set", "bandwidth=2y"]) == 2
