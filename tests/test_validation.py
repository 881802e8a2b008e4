"""Measurement files, their comparison with the model, and the recorded results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from perfmodel.cli import run
from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.prediction import predict
from perfmodel.validation import comparison as comparison_module
from perfmodel.validation.comparison import Comparison, Provenance, Skipped, compare, explain
from perfmodel.validation.dataset import named_otherwise
from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.summary import families_table, measurements_table, summary_table
from perfmodel.validation.tables import comparison_table
from perfmodel.validation.timm import TimmRow, read
from perfmodel.validation.timm_table import recorded
from perfmodel.waterline import Limits, kernel_times

ROOT = Path(__file__).resolve().parent.parent
HEADER = "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts\n"
GOOD = "resnet50,224,1000.0,128.0,128,25.56,4.11,11.11\n"


def written(tmp_path: Path, text: str) -> Path:
    target = tmp_path / "benchmark.csv"
    target.write_text(text, encoding="utf-8")
    return target


def provenance(schedule: str = "eager") -> Provenance:
    return Provenance(file="f.csv", source="test", hardware="rtx3090", schedule=schedule, autocast="fp16", layout="nhwc")


def row(model: str, latency_s: float, *, batch: int = 128, resolution: int = 224, params: float = 25.56) -> TimmRow:
    return TimmRow(line=2, model=model, resolution=resolution, batch=batch, latency_s=latency_s, params_millions=params)


def test_a_row_is_read_whatever_the_order_of_columns(tmp_path: Path) -> None:
    (plain,) = read(written(tmp_path, HEADER + GOOD))
    assert plain == row("resnet50", 0.128)
    columns = HEADER.strip().split(",")
    shuffled = dict(zip(columns, GOOD.strip().split(","), strict=True))
    text = ",".join(reversed(columns)) + "\n" + ",".join(shuffled[name] for name in reversed(columns)) + "\n"
    assert read(written(tmp_path, text)) == (plain,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the columns"),
        ("a,b\n1,2\n", "lacks the columns model"),
        (HEADER, "no rows"),
        (HEADER + GOOD.replace("1000.0", "fast"), "line 2: infer_samples_per_sec is 'fast'"),
        (HEADER + GOOD.replace("1000.0", "0"), "must be positive"),
        (HEADER + GOOD.replace("1000.0", "-5"), "must be positive"),
        (HEADER + GOOD.replace("1000.0", "nan"), "must be positive"),
        (HEADER + GOOD.replace("128.0,128", "128.0,12.5"), "whole number"),
        (HEADER + GOOD.replace("128.0", "12.0"), "step time"),
        (HEADER + "resnet50,224\n", "infer_batch_size is ''"),
        (HEADER.replace("param_count", "size") + GOOD, "lacks the column param_count"),
    ],
)
def test_a_file_that_is_not_one_is_refused_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    target = written(tmp_path, text)
    with pytest.raises(MeasurementFileError) as caught:
        read(target)
    assert said in str(caught.value)
    assert str(target) in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(MeasurementFileError, match="cannot read"):
        read(tmp_path / "absent.csv")
    with pytest.raises(MeasurementFileError, match="cannot read"):
        read(tmp_path)
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01" * 10)
    with pytest.raises(MeasurementFileError, match="UTF-8"):
        read(binary)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text(max_size=300))
def test_garbage_is_never_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    target = tmp_path_factory.getbasetemp() / "garbage.csv"
    target.write_text(HEADER + text, encoding="utf-8", errors="ignore")
    try:
        read(target)
    except PerfmodelError as error:
        assert str(target) in str(error)


def test_a_comparison_is_the_prediction_beside_the_measurement() -> None:
    rows = [row("resnet50", 0.05), row("resnet18", 0.02, params=11.69), row("vgg16", 0.2, params=138.36)]
    comparison = compare(rows, load("rtx3090"), provenance())
    assert comparison.n == 3
    for compared, given_row in zip(comparison.rows, rows, strict=True):
        prediction = predict(given_row.model, "rtx3090", batch=128, autocast="fp16", schedule="eager")
        assert compared.waterline_latency_s == prediction.waterline_latency_s
        assert compared.bound_latency_s == prediction.bound_latency_s
        assert compared.efficiency == pytest.approx(prediction.ideal_latency_s / given_row.latency_s)
    errors = [abs(r.waterline_latency_s / r.measured_latency_s - 1) for r in comparison.rows]
    assert comparison.mape == pytest.approx(sum(errors) / 3)
    assert comparison.max_ape == pytest.approx(max(errors))
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_what_is_not_compared_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_module, "imported", lambda row, in_catalogue: f"reason {in_catalogue}")
    rows = [
        row("resnet50", 0.05),
        row("resnet18", 0.02, params=11.69),
        row("vit_base_patch16_224", 0.1),
        row("mobileone_s1", 0.1, params=4.83),
        row("tf_efficientnet_b0", 0.1, params=5.29),
    ]
    comparison = compare(rows, load("rtx3090"), provenance())
    assert comparison.n == 2
    assert {skipped.rows for skipped in comparison.skipped} == {
        ("vit_base_patch16_224:2", "tf_efficientnet_b0:2"),
        ("mobileone_s1:2",),
    }
    with pytest.raises(
        MeasurementFileError,
        match=r"a comparison needs two; left out, reason False: 2 \(vit_base_patch16_224:2, tf_eff.*reason True",
    ):
        compare(rows[2:], load("rtx3090"), provenance())


def test_sizes_that_no_network_has_leave_out_their_row_alone() -> None:
    odd = [row("resnet50", 0.05, resolution=1), row("resnet50", 0.05, resolution=10**8), row("resnet50", 0.05, batch=2**21)]
    comparison = compare([row("resnet50", 0.05), row("resnet18", 0.02, params=11.69), *odd], load("rtx3090"), provenance())
    assert comparison.n == 2
    assert all(skipped.reason.startswith("cannot be built: ") for skipped in comparison.skipped)
    assert sum(len(skipped.rows) for skipped in comparison.skipped) == len(odd)


def test_a_line_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    other = GOOD.replace("1000.0,128.0", "500.0,256.0")
    rows = read(written(tmp_path, HEADER + GOOD + other + GOOD))
    comparison = compare(rows, load("rtx3090"), provenance())
    assert comparison.n == 2
    assert [(one.reason, one.rows) for one in comparison.skipped] == [("the same as line 2", ("resnet50:4",))]
    assert comparison.spearman is None  # two measurements of one prediction have no order
    assert "rank correlation – (MACs alone –)" in comparison_table(comparison).before[2]


def test_what_a_file_says_reaches_a_terminal_escaped() -> None:
    said = Skipped(reason="\x1b[31mred", rows=("\x1b[2Jmodel:2", "b:3", "c:4", "d:5")).sentence
    assert said == "left out, \\x1b[31mred: 4 (\\x1b[2Jmodel:2, b:3, c:4, …)"


def test_a_measurement_below_a_limit_is_explained_by_what_the_bound_grants() -> None:
    compute_bound = predict("vgg16", "rtx4090", batch=256, autocast="fp16", schedule="eager", tier="bound")
    memory_bound = predict("mobilenetv3_small_100", "rtx4090", batch=128, autocast="fp16", schedule="eager", tier="bound")
    either = "clock above the datasheet's or tensors that stay in L2: either would do"
    for prediction, said in [(compute_bound, either), (memory_bound, "tensors that stay in L2")]:
        assert explain(prediction, prediction.waterline_latency_s * 0.99) == said
        assert explain(prediction, prediction.latency_s * 0.5).startswith("below the bound")


def test_the_recorded_comparisons_hold_what_is_claimed() -> None:
    """At least 25 networks on an RTX 3090 and an RTX 4090; none below the bound; each below the waterline explained."""
    comparisons = recorded()
    assert {c.provenance.hardware for c in comparisons} == {"rtx3090", "rtx4090"}
    assert {c.provenance.schedule for c in comparisons} == {"eager", "pointwise"}
    for comparison in comparisons:
        assert len({r.network for r in comparison.rows}) >= 25
        assert comparison.below_bound == sum(r.below_bound for r in comparison.rows) == 0
        below = [r for r in comparison.rows if r.measured_latency_s < r.waterline_latency_s]
        assert len(below) == comparison.below_waterline
        assert all("L2" in (r.below_waterline or "") or "clock" in (r.below_waterline or "") for r in below)
        per_image = [(r.waterline_latency_s / r.batch, r.measured_latency_s / r.batch) for r in comparison.rows]
        assert spearmanr(*zip(*per_image, strict=True)).statistic == pytest.approx(comparison.spearman)
        assert comparison.spearman > comparison.spearman_macs


def test_the_bound_does_not_lean_on_the_maximum_clock() -> None:
    """With the cache granted, none of the measurements lies below even at a clock 5 % above the datasheet's."""
    for comparison in recorded():
        given = comparison.provenance
        for compared in comparison.rows:
            prediction = predict(
                compared.network,
                given.hardware,
                batch=compared.batch,
                resolution=compared.resolution,
                autocast=given.autocast,
                layout=given.layout,
                schedule=given.schedule,
            )
            bound = Limits.bound(prediction.device, prediction.peak)
            modest = Limits(
                peak_ops_per_s=1.05 * prediction.peak.ops_per_s,
                bandwidth_bytes_per_s=bound.bandwidth_bytes_per_s,
                cached_bytes=bound.cached_bytes,
            )
            assert sum(time.latency_s for time in kernel_times(prediction.kernels, modest)) <= compared.measured_latency_s


def test_the_recorded_predictions_are_those_of_today() -> None:
    for comparison in recorded():
        given = comparison.provenance
        for compared in comparison.rows[:: max(1, comparison.n // 12)]:
            prediction = predict(
                compared.network,
                given.hardware,
                batch=compared.batch,
                resolution=compared.resolution,
                autocast=given.autocast,
                layout=given.layout,
                schedule=given.schedule,
            )
            assert prediction.waterline_latency_s == pytest.approx(compared.waterline_latency_s, rel=1e-9), (
                "record the comparison anew"
            )
            assert prediction.bound_latency_s == pytest.approx(compared.bound_latency_s, rel=1e-9), "record the comparison anew"


def test_the_tables_name_every_recorded_network() -> None:
    text = measurements_table()
    for comparison in recorded():
        assert comparison.provenance.file in text
        assert all(f"| {r.model} |" in text for r in comparison.rows if r.below_waterline)
    assert "EfficientNet".lower() in families_table()
    assert summary_table().count("\n") == 2 + len(recorded())


def test_the_script_records_a_comparison(tmp_path: Path) -> None:
    source = written(tmp_path, HEADER + GOOD + "resnet18,224,3000.0,42.67,128,11.69,1.82,2.48\n")
    target = tmp_path / "out" / "result.json"
    command = [sys.executable, "-m", "perfmodel.validation.timm_table", str(source), "--hardware", "rtx3090", "--source", "test"]
    done = subprocess.run([*command, "--output", str(target)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Comparison.model_validate_json(target.read_text()).n == 2
    source.write_text("nonsense")
    done = subprocess.run([*command, "--output", str(target)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "device", "named"),
    [
        ("benchmark-infer-amp-nhwc-t4.csv", "a100-sxm-80gb", "t4"),
        ("benchmark-infer-amp-nhwc-a100-sxm-80gb.csv", "a100-pcie-80gb", "a100-sxm-80gb"),
        ("benchmark-infer-amp-nhwc-a100.csv", "a100-pcie-80gb", None),  # each A100 may be meant
        ("benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv", "rtx3090", None),
        ("benchmark-infer-amp-nhwc-a10.csv", "a100-sxm-80gb", "a10"),
        ("benchmark-nhwc-h200.csv", "gh200", "h200"),
        ("benchmark-nhwc-v100.csv", "v100-sxm2-16gb", None),
        ("RTX_3090 nhwc.csv", "rtx4090", "rtx3090"),
        ("rtx3090-and-rtx4090.csv", "rtx4090", None),
        ("benchmark-nhwc.csv", "t4", None),
    ],
)
def test_a_file_that_names_another_gpu_is_doubted(file: str, device: str, named: str | None) -> None:
    said = named_otherwise(Path(file), load(device))
    assert said == (named and f"{file} names {named}, and is compared with {device}; is that the GPU it was measured on?")


def test_the_command_line_says_so_and_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "infer-nhwc-t4.csv"
    columns = "model,infer_samples_per_sec,infer_step_time,infer_batch_size,infer_img_size,param_count"
    path.write_text(f"{columns}\nresnet50,1000,128,128,224,25.56\nresnet50,990,64,64,224,25.56\n")
    for device, warned in (("v100", True), ("t4", False)):
        assert run(["validate", "timm", str(path), "--hardware", device, "--format", "json"]) == 0
        captured = capsys.readouterr()
        assert Comparison.model_validate_json(captured.out).n == 2
        assert ("perfmodel: warning: infer-nhwc-t4.csv names t4" in captured.err) == warned


def test_what_was_measured_can_be_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "infer-nhwc.csv"
    columns = "model,infer_samples_per_sec,infer_step_time,infer_batch_size,infer_img_size,param_count"
    path.write_text(f"{columns}\nresnet50,1000,128,128,224,25.56\nresnet50,990,64,64,224,25.56\n")
    asked = ["validate", "timm", str(path), "--hardware", "t4", "--format", "json"]
    found = []
    for options in ([], ["--unmeasured"]):
        assert run([*asked, *options]) == 0
        found.append(Comparison.model_validate_json(capsys.readouterr().out))
    own, without = found
    assert (own.provenance.unmeasured, without.provenance.unmeasured) == (False, True)
    assert all(a.predicted_latency_s > b.predicted_latency_s for a, b in zip(own.rows, without.rows, strict=True))
    assert run([*asked, "--unmeasured", "--tier", "waterline"]) == 2
    assert "tier waterline has none to leave out" in capsys.readouterr().err
