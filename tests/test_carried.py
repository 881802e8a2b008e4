"""Figures of a machine that nobody measured, from those of one like it; and what others measured of such machines."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.cli import run
from perfmodel.expected.carried import REFERENCE, carried_figures, figures_of, is_full_rate, sustained_quantity
from perfmodel.expected.constants import Intervals, calibration_of
from perfmodel.expected.machine import Machine
from perfmodel.expected.spread import Spread, interval_of, spread, widened
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.networks.catalog import entries
from perfmodel.prediction import predict
from perfmodel.validation.carried_spread import carried_spread, middle_and_factor
from perfmodel.validation.protocol_report import RESULTS
from perfmodel.validation.published_tables import LEAST_BATCH, datasheet_tables, published

MEASURED = {entry.quantity: entry.value for entry in load(REFERENCE).measured}


def unmeasured(**chip: float) -> DeviceSpec:
    """The reference without its measurements, with other figures of the chip."""
    device = load(REFERENCE)
    return device.model_copy(update={"measured": (), "chip": device.chip.model_copy(update=chip)})


def test_to_a_device_of_the_same_specification_figures_are_carried_as_they_are() -> None:
    figures = carried_figures(unmeasured())
    assert figures == {name: pytest.approx(MEASURED[name]) for name in figures}
    for name in (
        "norm_dram_elements_per_s",
        "layer_norm_rows_per_s",
        "depthwise_3x3_ops_per_s",
        "kernel_floor_s",
        "dram_copy_bytes_per_s",
    ):
        assert name in figures
    device = unmeasured()
    ours, theirs = Machine.of(device, device.matrix_peak("fp16")), Machine.of(load(REFERENCE), device.matrix_peak("fp16"))
    for name in ("element_rates", "dram_rates", "gap_s"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name))
    for name in ("startup_s", "convolution_widths", "pool_outputs_per_s"):
        assert dict(getattr(ours, name)) == pytest.approx(dict(getattr(theirs, name)))


def test_what_belongs_to_one_machine_stays_with_it() -> None:
    """Its host, the clocks and the power of its cooling, and what it sustains (of which terms.py holds the fraction)."""
    figures = carried_figures(load("a100"))
    assert not [name for name in figures if name.startswith(("host_", "clock_", "power_", "sustained_", "graph_"))]
    assert "host_block_s" in MEASURED


@given(multiprocessors=st.integers(1, 500), ghz=st.floats(0.5, 4))
def test_rates_go_with_multiprocessors_and_clock_and_starts_with_the_clock(multiprocessors: int, ghz: float) -> None:
    reference = load(REFERENCE).chip
    figures = carried_figures(unmeasured(multiprocessors=multiprocessors, boost_clock_hz=ghz * 1e9))
    clocks = multiprocessors * ghz * 1e9 / (reference.multiprocessors * reference.boost_clock_hz)
    for name in ("norm_elements_per_s", "layer_norm_dram_rows_per_s", "pool_3x3_outputs_per_s"):
        assert figures[name] == pytest.approx(MEASURED[name] * clocks)
    assert figures["concat_block_s"] == pytest.approx(MEASURED["concat_block_s"] / clocks)  # of all multiprocessors at once
    for name in ("norm_startup_s", "product_step_s", "norm_row_s", "unlike_floor_s", "stream_gap_s"):
        assert figures[name] == pytest.approx(MEASURED[name] * reference.boost_clock_hz / (ghz * 1e9))
    assert figures["product_dram_bytes_per_s"] == pytest.approx(MEASURED["product_dram_bytes_per_s"])


@pytest.mark.parametrize("name", ["rtx3090", "rtx4090", "rtx3080"])
def test_parts_whose_unit_is_narrow_take_none(name: str) -> None:
    device = load(name)
    assert not is_full_rate(device.matrix_peak("fp16"))
    assert not figures_of(device)


def test_a_device_measured_whole_has_its_own_figures_alone() -> None:
    assert figures_of(load(REFERENCE)) == MEASURED


def test_what_a_device_was_not_measured_for_is_carried_beside_its_own() -> None:
    entry = next(entry for entry in load(REFERENCE).measured if entry.quantity == "norm_elements_per_s")
    device = load("a100").model_copy(update={"measured": (entry.model_copy(update={"value": 1.0}),)})
    figures = figures_of(device)
    assert figures.pop("norm_elements_per_s") == 1.0
    assert figures == {name: value for name, value in carried_figures(load("a100")).items() if name != "norm_elements_per_s"}


def test_what_power_takes_from_products_it_takes_from_convolutions() -> None:
    """Of a part whose sustained products were measured; of others convolutions go with the peak."""
    t4 = load("t4")
    (own,) = t4.measured
    assert own.quantity == "sustained_matrix_fp16_ops_per_s"
    names = [name for name in MEASURED if name.startswith("convolution_") and name.endswith("_fp16_ops_per_s")]
    assert len(names) > 3
    unknown = t4.model_copy(update={"measured": ()})
    peaks = t4.matrix_peak("fp16").ops_per_s / load(REFERENCE).matrix_peak("fp16").ops_per_s
    for name in names:
        assert carried_figures(t4)[name] == pytest.approx(MEASURED[name] * own.value / MEASURED[own.quantity])
        assert carried_figures(unknown)[name] == pytest.approx(MEASURED[name] * peaks)
    assert Machine.of(t4, t4.matrix_peak("fp16")).sustained_ops_per_s == own.value


@given(times=st.floats(0.1, 100))
def test_l2_is_no_slower_than_the_memory_behind_it(times: float) -> None:
    device = unmeasured()
    memory = device.memory.model_copy(update={"dram_bandwidth_bytes_per_s": times * device.memory.dram_bandwidth_bytes_per_s})
    rate = carried_figures(device.model_copy(update={"memory": memory}))["l2_read_bytes_per_s"]
    assert rate == pytest.approx(max(MEASURED["l2_read_bytes_per_s"], memory.dram_bandwidth_bytes_per_s))


def test_a_prediction_says_that_rates_were_carried() -> None:
    said = "rates and starts of kernels were not measured on this device"
    options = {"batch": 64, "autocast": "fp16", "schedule": "eager", "tier": "expected"}
    assert any(said in one for one in predict("resnet18", "a100", **options).assumptions)
    assert not any(said in one for name in ("rtx4090", "h200") for one in predict("resnet18", name, **options).assumptions)


def test_a_prediction_says_who_measured_what_products_sustain() -> None:
    options = {"batch": 64, "autocast": "fp16", "schedule": "eager", "tier": "expected"}
    for name, where in (("t4", "forums.developer.nvidia.com/t/264462"), ("h200", "one H200 SXM of a shared host")):
        (said,) = [one for one in predict("resnet18", name, **options).assumptions if one.startswith("products sustain")]
        assert where in said


def test_it_is_said_of_products_of_the_type_asked_for() -> None:
    """Somebody else may have measured the other type."""
    h200 = load("h200")
    (own,) = [entry for entry in h200.measured if entry.quantity == sustained_quantity("fp16")]
    other = own.model_copy(update={"quantity": sustained_quantity("bf16"), "where": "elsewhere"})
    device = h200.model_copy(update={"measured": (other, *h200.measured)})
    for dtype, where in (("fp16", own.where), ("bf16", "elsewhere")):
        prediction = predict("resnet18", device, batch=8, autocast=dtype, schedule="eager", tier="expected")
        (said,) = [one for one in prediction.assumptions if one.startswith("products sustain")]
        assert said.endswith(f"({where})")


def test_a_comparison_says_of_which_devices_rates_were_carried(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", "resnet18", "--hardware", "a100,t4,h200,rtx4090", "--batch", "8", "--schedule", "eager", "--tier"]
    assert run([*asked, "expected"]) == 0
    out = capsys.readouterr().out
    assert "rates and starts of kernels as of h200, per multiprocessor and clock: a100-sxm-80gb, t4\n" in out
    assert "waiting for the host is counted for h200; for a100-sxm-80gb, t4, rtx4090 its time per call is not known" in out
    assert run([*asked, "waterline"]) == 0
    out = capsys.readouterr().out
    assert "rates and starts" not in out
    assert "the host" not in out


def test_the_recorded_predictions_of_published_measurements_are_those_of_today() -> None:
    found = 0
    for comparison in published():
        given_ = comparison.provenance
        assert (given_.tier, given_.schedule, given_.layout) == ("expected", "eager", "nhwc")
        for row in comparison.rows:
            if row.network not in entries() or row.batch < LEAST_BATCH:
                continue
            device = load(given_.hardware)
            prediction = predict(
                row.network,
                device.model_copy(update={"measured": ()}) if given_.unmeasured else device,
                batch=row.batch,
                resolution=row.resolution,
                autocast=given_.autocast,
                layout=given_.layout,
                schedule=given_.schedule,
                tier="expected",
            )
            assert prediction.latency_s == pytest.approx(row.predicted_latency_s, rel=1e-9), "record the comparison anew"
            assert not row.below_bound
            found += 1
    assert found >= 10


def test_the_interval_of_carried_rates_is_what_the_recorded_comparisons_say() -> None:
    shipped = spread()
    from_documents = [one for one in published() if one.provenance.unmeasured or not load(one.provenance.hardware).measured]
    again = carried_spread(from_documents, least_batch=shipped.least_batch, source=shipped.source, revision=shipped.revision)
    assert again.model_dump(exclude={"date", "middle", "factor", "devices"}) == shipped.model_dump(
        exclude={"date", "middle", "factor", "devices"}
    ), "record it anew: perfmodel validate spread"
    assert shipped.devices == pytest.approx(again.devices, rel=1e-5)
    assert (shipped.middle, shipped.factor) == pytest.approx((again.middle, again.factor), rel=1e-5)
    assert shipped.least_batch == LEAST_BATCH
    rows = [row for one in from_documents for row in one.rows if row.batch >= LEAST_BATCH]
    inside = [(row.latency_low_s or 0) <= row.measured_latency_s <= (row.latency_high_s or 0) for row in rows]
    assert len(inside) == shipped.rows
    assert sum(inside) >= 0.9 * len(inside)


def test_a_further_device_lies_where_students_distribution_says() -> None:
    """Of three with logarithms −d, 0, d: s = d, so t₀.₉₅(2) · d · √(4/3), with t₀.₉₅(2) = 2.920."""
    middle, factor = middle_and_factor([-0.1, 0.0, 0.1])
    assert middle == pytest.approx(1)
    assert math.log(factor) == pytest.approx(2.92 * 0.1 * math.sqrt(4 / 3), rel=1e-3)


@given(low=st.floats(0.5, 1), high=st.floats(1, 2), apart=st.floats(1, 3))
def test_an_interval_is_widened_as_squares_add_up(low: float, high: float, apart: float) -> None:
    given_ = Intervals(low=low, high=high, coverage=0.9, rows=100)
    assert widened(given_, 1, 1) == pytest.approx((low, high))
    ends = widened(given_, 1, apart)
    assert ends[0] <= min(low, 1 / apart) * (1 + 1e-9)
    assert ends[1] >= max(high, apart) * (1 - 1e-9)
    assert math.log(ends[1]) ** 2 == pytest.approx(math.log(high) ** 2 + math.log(apart) ** 2)
    assert widened(given_, 1.1, apart) == pytest.approx((1.1 * ends[0], 1.1 * ends[1]))


@pytest.mark.parametrize("schedule", ["eager", "pointwise"])
def test_only_devices_whose_rates_were_carried_have_the_wider_interval(schedule: str) -> None:
    intervals = calibration_of(schedule).intervals
    for name in ("rtx4090", REFERENCE, "rtx3080"):
        assert interval_of(intervals, load(name)) == (intervals.low, intervals.high)
    for name in ("a100", "h100-sxm", "l40s", "t4"):
        low, high = interval_of(intervals, load(name))
        assert low < intervals.low < 1 < intervals.high < high
    prediction = predict("resnet18", "a100", batch=8, autocast="fp16", schedule=schedule, tier="expected")
    low, high = interval_of(intervals, load("a100"))
    assert prediction.latency_low_s == pytest.approx(low * prediction.latency_s)
    assert prediction.latency_high_s == pytest.approx(high * prediction.latency_s)


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        (
            ["a100-sxm-80gb.json", "t4-unmeasured.json"],
            [],
            "2 of them cannot show how unlike devices are; give 3 devices or more",
        ),
        (["t4-unmeasured.json", "t4-unmeasured.json", "a100-sxm-80gb.json"], [], "t4 is given twice"),
        (["t4.json", "a100-sxm-80gb.json", "v100-sxm2-16gb.json"], [], "t4 has figures of its own"),
        (
            ["a100-sxm-80gb.json", "t4-unmeasured.json", "v100-sxm2-16gb.json"],
            ["--least-batch", "1000"],
            "has no row of batch 1000 or more",
        ),
        (["README.md", "t4-unmeasured.json", "v100-sxm2-16gb.json"], [], "is no comparison"),
        (["none.json"], [], "cannot read"),
    ],
)
def test_a_spread_wants_comparisons_of_several_devices(
    files: list[str], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", "spread", *[str(RESULTS / "published" / name) for name in files], *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("measured_latency_s", 0),
        ("measured_latency_s", -1),
        ("measured_latency_s", 1e-300),
        ("predicted_latency_s", 1e300),
        ("predicted_latency_s", 1e-300),
    ],
)
def test_what_is_no_latency_is_one_sentence(key: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given_ = json.loads((RESULTS / "published" / "t4-unmeasured.json").read_text("utf-8"))
    given_["rows"][0][key] = value
    path = tmp_path / "t4.json"
    path.write_text(json.dumps(given_))
    others = [str(RESULTS / "published" / name) for name in ("a100-sxm-80gb.json", "v100-sxm2-16gb.json")]
    assert run(["validate", "spread", str(path), *others]) == 2
    err = capsys.readouterr().err
    assert "are no latencies" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({"tier": "waterline"}, "was compared with tier waterline; compare it with tier expected"),
        ({"hardware": "rtx4090"}, "no rates are carried to rtx4090"),
        ({"hardware": "a100"}, "a100-sxm-80gb is given twice"),  # under another of its names
        ({"schedule": "pointwise"}, "the comparisons are of different schedules"),
        ({"file": "\x1b[2J", "tier": "bound"}, "\\x1b[2J was compared with tier bound"),
    ],
)
def test_a_spread_says_which_comparison_does_not_belong(
    provenance: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given_ = json.loads((RESULTS / "published" / "t4-unmeasured.json").read_text("utf-8"))
    given_["provenance"] |= provenance
    path = tmp_path / "t4.json"
    path.write_text(json.dumps(given_))
    others = [str(RESULTS / "published" / name) for name in ("a100-sxm-80gb.json", "v100-sxm2-16gb.json")]
    assert run(["validate", "spread", str(path), *others]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("least_s", [1.01e-9, 86_399.0])
def test_a_spread_can_be_computed_of_whatever_is_a_latency(
    least_s: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given_ = json.loads((RESULTS / "published" / "t4-unmeasured.json").read_text("utf-8"))
    for row in given_["rows"]:
        row["measured_latency_s"], row["predicted_latency_s"] = least_s, 86_399.0
    path = tmp_path / "t4.json"
    path.write_text(json.dumps(given_))
    others = [str(RESULTS / "published" / name) for name in ("a100-sxm-80gb.json", "v100-sxm2-16gb.json")]
    assert run(["validate", "spread", str(path), *others]) == 0
    assert Spread.model_validate(tomllib.loads(capsys.readouterr().out)).devices["t4"] == pytest.approx(least_s / 86_399)


def test_the_shipped_spread_is_what_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(RESULTS / "published" / f"{name}.json") for name in ("a100-sxm-80gb", "t4-unmeasured", "v100-sxm2-16gb")]
    assert run(["validate", "spread", *files, "--source", spread().source]) == 0
    written = Spread.model_validate(tomllib.loads(capsys.readouterr().out))
    assert written == spread().model_copy(update={"date": written.date, "revision": written.revision})


def test_the_table_has_every_gpu_and_every_row_from_the_least_batch_on() -> None:
    sums, cases = datasheet_tables()
    assert len(sums[1]) == len(published()) == 4
    assert len(cases[1]) == sum(row.batch >= LEAST_BATCH for one in published() for row in one.rows)
