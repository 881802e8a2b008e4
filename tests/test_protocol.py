"""The honest protocol, its record and its reports; the machine's file; networks measured on this project's GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from perfmodel.cli import run as command
from perfmodel.errors import PerfmodelError
from perfmodel.expected.constants import calibration_of
from perfmodel.hardware.catalog import load, load_text
from perfmodel.validation.dataset import Dataset, gather, layout_of, schedule_of
from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.fused_tables import fused_blocks, recorded_fused
from perfmodel.validation.layer_run import layers_of
from perfmodel.validation.machine_file import slug_of, with_measured
from perfmodel.validation.microbenchmarks import MachineRun, Sample, recorded_run
from perfmodel.validation.network_comparison import compare_networks
from perfmodel.validation.network_run import NetworkResults, cases, read_results
from perfmodel.validation.network_tables import recorded_network_blocks
from perfmodel.validation.protocol import EXPECTED, Protocol, as_toml, calibrated, run
from perfmodel.validation.protocol_report import RESULTS, as_html, as_markdown, blocks, plot, recorded_protocol, write_report
from perfmodel.validation.statistics import Summary, rank_correlation

HEADER = "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count\n"
MODELS = {
    "resnet18": 11.69,
    "resnet50": 25.56,
    "vgg16": 138.36,
    "mobilenetv2_100": 3.5,
    "convnext_tiny": 28.59,
    "efficientnet_b0": 5.29,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small file of invented times: 1.2 waterlines, give or take."""
    from perfmodel.prediction import predict

    lines, rng = [], np.random.default_rng(0)
    for model, params in MODELS.items():
        for size in (160, 192, 224, 256, 288, 320):
            p = predict(model, "rtx4090", batch=128, resolution=size, autocast="fp16", schedule="eager")
            latency_s = p.waterline_latency_s * 1.2 * float(np.exp(rng.normal(0, 0.03)))
            lines.append(f"{model},{size},{128 / latency_s:.3f},{1e3 * latency_s:.4f},128,{params}\n")
    path = tmp_path_factory.mktemp("timm") / "invented-nhwc.csv"
    path.write_text(HEADER + "".join(lines) + "nonesuch,224,100,1280,128,1.0\n", encoding="utf-8")
    return gather(path, "rtx4090")


def test_a_dataset_lists_what_it_leaves_out(dataset: Dataset) -> None:
    assert len(dataset.rows) == 36
    assert [one.rows for one in dataset.skipped] == [("nonesuch:38",)]
    assert dataset.layout == "nhwc"
    assert dataset.schedule == "eager"
    for row in dataset.rows:
        assert row.bound_s < row.waterline_s


def test_the_cache_holds_the_same(dataset: Dataset, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = next(tmp_path_factory.getbasetemp().glob("timm*/invented-nhwc.csv"))
    for _ in range(2):
        again = gather(path, "rtx4090", cache=tmp_path)
        for left, right in zip(again.rows, dataset.rows, strict=True):
            assert left.diagnoses == right.diagnoses
            assert np.array_equal(left.features.dram_bytes, right.features.dram_bytes)
            assert left.features.path.dtype == right.features.path.dtype
        assert again.skipped == dataset.skipped


def test_what_an_earlier_version_kept_is_built_anew(
    dataset: Dataset, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = next(tmp_path_factory.getbasetemp().glob("timm*/invented-nhwc.csv"))
    gather(path, "rtx4090", cache=tmp_path)
    for kept in tmp_path.glob("*.npz"):
        with np.load(kept) as stored:
            fewer = {name: stored[name] for name in stored.files if name != "norms"}
        np.savez(kept, **fewer)
    for row, other in zip(gather(path, "rtx4090", cache=tmp_path).rows, dataset.rows, strict=True):
        assert np.array_equal(row.features.norms, other.features.norms)


def test_the_protocol_keeps_fit_and_test_apart(dataset: Dataset, tmp_path: Path) -> None:
    found = run([dataset], source="invented", revision="none", ablate=False)
    (file,) = found.files
    assert file.n == 36
    assert file.predictors[EXPECTED].mape >= file.predictors["expected, in-sample"].mape * 0.9
    assert sum(one.n for one in file.by_family.values()) == 36
    assert Protocol.model_validate_json(found.model_dump_json()) == found
    for name in ("report.md", "report.html"):
        write_report(found, tmp_path / name)
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "families left out" in text
        assert "nonesuch" not in text or "left out" in text
    assert (tmp_path / "report-1.png").is_file()
    with pytest.raises(PerfmodelError, match="must end in"):
        write_report(found, tmp_path / "report.pdf")


def test_plots_show_every_mark_and_tell_rows_of_one_network_apart() -> None:
    """Of the recorded files: waterlines lie below every measured time, and some networks are among the worst at several sizes."""
    for file in recorded_protocol().files:
        left = plot(file).axes[0]
        (x0, x1), (y0, y1) = left.get_xlim(), left.get_ylim()
        for row in file.rows:
            assert x0 <= 1e3 * row.measured_latency_s / row.batch <= x1
            for predicted in (row.expected_latency_s, row.waterline_latency_s):
                assert y0 <= 1e3 * predicted / row.batch <= y1
        names = [text.get_text() for text in left.texts]
        assert len(set(names)) == len(names)
        assert len(names) == 6


def test_the_report_of_what_is_recorded_draws_networks_kernels_and_bytes(tmp_path: Path) -> None:
    more = [*recorded_network_blocks(), *fused_blocks(recorded_fused(), {})]
    drawn = [what.get_suptitle() for kind, what in more if kind == "plot"]
    assert any("networks" in title for title in drawn)
    assert any("fused kernels, configurations left out" in title for title in drawn)
    assert any("DRAM bytes" in title for title in drawn)
    write_report(recorded_protocol(), tmp_path / "v.md", more)
    plots = sorted(path.name for path in tmp_path.glob("v-*.png"))
    text = (tmp_path / "v.md").read_text(encoding="utf-8")
    assert len(plots) == len(recorded_protocol().files) + len(drawn)
    assert all(f"({name})" in text for name in plots)


def test_a_calibration_survives_its_file(dataset: Dataset, tmp_path: Path) -> None:
    made = calibrated([dataset], description='a "quoted" stack', source="invented", revision="none")
    path = tmp_path / "c.toml"
    path.write_text(as_toml(made), encoding="utf-8")
    read = calibration_of("eager", path)
    assert read.description == made.description
    assert read.constants.model_dump() == pytest.approx(made.constants.model_dump(), rel=1e-5)
    assert (
        command(
            [
                "predict",
                "resnet18",
                "--hardware",
                "rtx4090",
                "--schedule",
                "eager",
                "--tier",
                "expected",
                "--calibration",
                str(path),
            ]
        )
        == 0
    )


def test_left_out_rows_are_predicted_without_their_family(dataset: Dataset) -> None:
    """Each fit of a fold must not see the fold: spoiling a family's times must not change its own predictions."""
    from perfmodel.expected.calibration import Measurements, folds, left_out

    given, groups = dataset.measurements, folds(dataset.families)
    before = left_out(given, groups)
    chosen = groups == groups[0]
    spoiled = Measurements(
        machine=given.machine, features=given.features, latency_s=np.where(chosen, 3 * given.latency_s, given.latency_s)
    )
    after = left_out(spoiled, groups)
    assert after[chosen] == pytest.approx(before[chosen], rel=1e-3)
    assert not np.allclose(after[~chosen], before[~chosen], rtol=1e-3)


def test_what_the_protocol_recorded() -> None:
    """The figures that the documentation quotes, and that everything simple is worse."""
    for file in recorded_protocol().files:
        expected = file.predictors[EXPECTED]
        assert expected.n == file.n == len(file.rows)
        assert file.networks >= 300
        assert expected.mape < 0.06
        assert expected.spearman is not None
        assert expected.spearman > 0.995
        assert 0.85 <= file.coverage <= 0.95
        for name in ("MACs alone", "activations alone", "a·MACs + b·activations"):
            assert file.predictors[f"{name}, families left out"].mape > 2.5 * expected.mape
        errors = [abs(row.error) for row in file.rows]
        assert np.mean(errors) == pytest.approx(expected.mape)
        for row in file.rows:
            if row.measured_latency_s < row.bound_latency_s:
                assert "below the bound" in str(row.diagnosis)


def test_reports_escape_what_files_say() -> None:
    found = recorded_protocol()
    file = found.files[0]
    wild = file.rows[0].model_copy(update={"model": "<b>a|b</b>", "expected_latency_s": 1e6})
    spoiled = found.model_copy(update={"files": (file.model_copy(update={"rows": (wild, *file.rows[1:])}),)})
    parts = [part for part in blocks(spoiled) if part[0] != "plot"]
    assert "<b>" not in as_html(parts, Path())
    assert "a\\|b" in as_markdown(parts)


@pytest.mark.parametrize(
    ("name", "layout", "schedule"),
    [
        ("benchmark-infer-amp-nhwc-pt240.csv", "nhwc", "eager"),
        ("benchmark-infer-amp-nchw-pt240-dynamo.csv", "nchw", "pointwise"),
    ],
)
def test_a_files_name_says_how_it_was_measured(name: str, layout: str, schedule: str) -> None:
    assert layout_of(Path(name), None) == layout
    assert schedule_of(Path(name), None) == schedule
    assert layout_of(Path(name), "NCHW") == "nchw"
    assert schedule_of(Path(name), "eager") == "eager"


def test_calibration_says_what_it_leaves_out_and_takes_no_file_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "few-nhwc.csv"
    path.write_text(HEADER + "resnet18,1,1000,128,128,11.69\n" + "resnet18,224,1000,128,128,11.69\n", encoding="utf-8")
    given_ = f"{path}=rtx4090"
    calibrate = ["validate", "calibrate", "--description", "x", "--source", "y"]
    assert command([*calibrate, given_]) == 2
    error = capsys.readouterr().err
    assert "few-nhwc.csv: left out, cannot be built: " in error
    assert "(resnet18:2)" in error
    assert "1 measured networks are too few" in error
    assert command([*calibrate, given_, f"{tmp_path}/../{tmp_path.name}/few-nhwc.csv=rtx3090"]) == 2
    assert "is given twice" in capsys.readouterr().err


def test_a_layout_that_nobody_names_is_asked_for() -> None:
    with pytest.raises(PerfmodelError, match="give --layout"):
        layout_of(Path("benchmark.csv"), None)
    with pytest.raises(PerfmodelError, match="nhwc or nchw"):
        layout_of(Path("benchmark.csv"), "nhcw")


@pytest.mark.parametrize(("left", "right"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])])
def test_no_order_no_rank_correlation(left: list[float], right: list[float]) -> None:
    assert rank_correlation(left, right) is None
    assert rank_correlation([1, 2, 3], [3, 5, 7]) == pytest.approx(1)


def test_a_summary_by_hand() -> None:
    found = Summary.of([1.09, 0.8, 2.0], [1.0, 1.0, 2.0])
    assert found.mape == pytest.approx(0.29 / 3)
    assert found.median_ape == pytest.approx(0.09)
    assert found.max_ape == pytest.approx(0.2)
    assert found.bias == pytest.approx(-0.11 / 3)
    assert found.within_10 == pytest.approx(2 / 3)


def test_the_measured_machine_is_in_its_file() -> None:
    runs = [MachineRun.model_validate_json(path.read_text(encoding="utf-8")) for path in (RESULTS / "h200").glob("machine*.json")]
    entries = {entry.quantity: entry.value for entry in load("h200").measured}
    found: dict[str, list[float]] = {}
    for run_ in runs:
        for entry in run_.measured("anywhere"):
            found.setdefault(entry.quantity, []).append(entry.value)
    assert found.keys() == entries.keys()
    assert [quantity for quantity, values in found.items() if entries[quantity] not in values] == []
    (recorded,) = (run_ for run_ in runs if any(sample.quantity == "dram_read_bytes_per_s" for sample in run_.samples))
    assert all(
        len(sample.values) >= 4 or sample.kernel.endswith("depth of 64") or "at no depth" in sample.kernel
        for sample in recorded.samples
    )
    assert slug_of(recorded.device) == "h200"
    h200 = load("h200")
    assert entries["dram_read_bytes_per_s"] < h200.memory.highest_bandwidth_bytes_per_s
    assert entries["sustained_matrix_fp16_ops_per_s"] < h200.matrix_peak("fp16").ops_per_s
    assert entries["special_ex2_ops_per_s"] == pytest.approx(h200.special_peak().ops_per_s, rel=0.02)
    assert entries["vector_fp32_ops_per_s"] == pytest.approx(h200.vector_peak().ops_per_s, rel=0.05)


def test_a_rate_is_freed_of_what_every_launch_takes() -> None:
    sample = Sample(quantity="x_elements_per_s", kernel="k", values=(1e9,), work=1e4)  # 10 µs, of which 2 are the floor
    assert sample.without(2e-6) == pytest.approx(1e4 / 8e-6)
    assert sample.model_copy(update={"work": None}).without(2e-6) == 1e9


def test_measured_figures_replace_those_before() -> None:
    run_ = MachineRun(
        device="NVIDIA H200",
        date="2026-11-22",
        driver="1",
        cupy="1",
        torch=None,
        samples=(Sample(quantity="launch_graph_s", kernel="nothing", values=(1e-6, 2e-6, 3e-6)),),
    )
    text = with_measured("h200", run_.measured("a test"))
    device = load_text(text, where="test")
    assert [(entry.quantity, entry.value) for entry in device.measured] == [("launch_graph_s", 2e-6)]
    with pytest.raises(PerfmodelError, match="no device that"):
        slug_of("Voodoo 2")


def test_a_part_measured_anew_leaves_the_other_figures(tmp_path: Path) -> None:
    def of(date: str, **values: float) -> MachineRun:
        samples = tuple(Sample(quantity=quantity, kernel="k", values=(value,)) for quantity, value in values.items())
        return MachineRun(device="NVIDIA H200", date=date, driver="1", cupy="1", torch=None, samples=samples)

    older, newer = (
        of("2026-11-22", barrier_latency_s=1e-8, l2_latency_s=2e-7),
        of("2026-11-30", l2_latency_s=3e-7, meeting_s=1e-6),
    )
    path = tmp_path / "machine.json"
    path.write_text(older.model_dump_json(), encoding="utf-8")
    entries = {entry.quantity: (entry.value, entry.date) for entry in newer.onto(recorded_run(path)).measured("a test")}
    assert {name: (value, str(date)) for name, (value, date) in entries.items()} == {
        "barrier_latency_s": (1e-8, "2026-11-22"),
        "l2_latency_s": (3e-7, "2026-11-30"),
        "meeting_s": (1e-6, "2026-11-30"),
    }
    with pytest.raises(GpuError, match="do not go together"):
        newer.model_copy(update={"driver": "2"}).onto(older)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(MeasurementFileError, match="no samples of `perfmodel hardware measure`: device: Field required"):
        recorded_run(path)
    with pytest.raises(MeasurementFileError, match="cannot read"):
        recorded_run(tmp_path / "absent.json")


def test_measured_networks_beside_constants_fitted_elsewhere() -> None:
    found = compare_networks(RESULTS / "h200" / "networks.jsonl", "h200")
    assert found.n == len(found.rows) >= 80
    assert not any(row.below_bound for row in found.rows)
    replayed = [abs(row.error) for row in found.rows if row.run == "graph" and row.batch == 256 and row.model != "regnety_032"]
    assert np.mean(replayed) < 0.1


def test_results_are_resumed(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first, second = cases(("resnet18",), (1, 2), ("fp16",), ("eager",))
    results = NetworkResults(path, "GPU", "abc")
    results.add(first, {"times_s": [1.0], "median_s": 1.0})
    assert read_results(path)[0]["revision"] == "abc"
    path.write_text(path.read_text(encoding="utf-8") + '{"cut off', encoding="utf-8")
    assert len(read_results(path)) == 1
    again = NetworkResults(path, "GPU")
    assert again.has(first)
    assert not again.has(second)
    assert not NetworkResults(path, "another").has(first)


@pytest.mark.parametrize("text", ["[]\n", "{}\n", "nonsense\n{}\n"])
def test_results_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PerfmodelError, match="validate run"):
        read_results(path)


def test_layers_of_a_network_count_once() -> None:
    found = layers_of("resnet18", 8, 224)
    assert len(found) < 30
    assert len({what for what, _ in found}) == len(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["validate", "report", "absent.csv"], "FILE=DEVICE"),
        (["validate", "report", "absent.csv=h200", "--output", "report.pdf"], "must end in .md or .html"),
        (["validate", "report", "absent.csv=h200", "--output", "nowhere/report.md"], "there is no folder nowhere"),
        (["validate", "report", "absent.csv=h200", "--record", "nowhere/record.json"], "there is no folder nowhere"),
        (
            ["validate", "calibrate", "absent.csv=h200", "--description", "x", "--source", "y", "--output", "nowhere/c.toml"],
            "there is no folder nowhere",
        ),
        (["validate", "timm", "absent-nhwc.csv", "--hardware", "rtx4090"], "cannot read"),
        (["validate", "timm", "absent.csv", "--hardware", "rtx4090"], "cannot read absent.csv"),
        (["validate", "timm", "absent.csv", "--hardware", "rtx4090", "--layout", "nhwc"], "cannot read absent.csv"),
        (["validate", "run", "--output", "r.jsonl", "--runs", "fast"], "--runs takes eager, graph"),
        (["validate", "run", "--output", "r.jsonl", "--batches", "many"], "whole number"),
        (["validate", "run", "--output", "r.jsonl", "--what", "all"], "networks, layers or fused"),
        (["validate", "networks", "absent.jsonl", "--hardware", "h200"], "cannot read"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["hardware", "measure"], ["validate", "run", "--output", "r.jsonl"]])
def test_without_a_gpu_the_exit_code_is_5(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cupy", "torch"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    assert command(arguments) == 5
    error = capsys.readouterr().err
    assert "not installed" in error
    assert "Traceback" not in error
