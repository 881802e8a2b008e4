"""Other profilers' output, in small files of their true formats, joined with predictions."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.cli import run
from perfmodel.errors import PerfmodelError
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.prediction import Prediction, predict
from perfmodel.validation.files import MeasurementFileError, read_text
from perfmodel.validation.profiles import (
    READERS,
    Profiled,
    class_of_name,
    compare_profile,
    read_ncu,
    read_torch_trace,
    read_trtexec,
)

FILES = Path(__file__).resolve().parent / "profiles"


def predicted(schedule: str = "eager") -> Prediction:
    g = GraphBuilder()
    x = g.input(Shape(32, 64, 56, 56))
    x = g.conv(x, 64, kernel=3, name="conv1")
    g.activation(x, "relu", name="act1")
    network = Network(name="two", graph=g.graph(), batch=32, resolution=56)
    return predict(network, "rtx4090", schedule=schedule)


def test_the_two_forms_of_ncu_say_the_same() -> None:
    long, wide = read_ncu(FILES / "ncu-long.csv"), read_ncu(FILES / "ncu-wide.csv")
    assert [one.name for one in long] == [one.name for one in wide]
    for left, right in zip(long, wide, strict=True):
        assert left.duration_s == pytest.approx(right.duration_s)
        assert left.dram_bytes == pytest.approx(right.dram_bytes)
    assert long[0].duration_s == pytest.approx(41.5e-6)
    assert long[0].dram_bytes == pytest.approx(25.6e6)


def test_a_real_profile_of_ncu_in_both_forms() -> None:
    long, wide = (read_ncu(FILES / f"h200-resnet18-ncu-{form}.csv") for form in ("long", "wide"))
    assert len(long) == 19
    assert [one.name for one in long] == [one.name for one in wide]
    for left, right in zip(long, wide, strict=True):
        assert left.duration_s == pytest.approx(right.duration_s, rel=2e-3)  # printed with as few digits as that
        assert left.dram_bytes == pytest.approx(right.dram_bytes, rel=6e-3)
    norm = next(one for one in long if "batch_norm_transform" in one.name)
    assert norm.duration_s == pytest.approx(118e-6, rel=0.02)
    assert norm.dram_bytes == pytest.approx(2 * 64 * 64 * 112 * 112 * 2, rel=0.05)  # read and written


def test_a_real_trace_is_joined_kernel_by_kernel() -> None:
    work = predict(
        "resnet18", "h200", batch=64, dtype="fp16", schedule="eager", tier="expected", graph=True
    )  # no waits for the host
    found = compare_profile(work, read_torch_trace(FILES / "h200-resnet18-torch-trace.json.gz"), file="f", form="torch-trace")
    assert found.joined_by.startswith("kernel")
    assert {"conv1", "bn1", "bn1.act", "layer1.0.conv1", "fc"} <= {row.name for row in found.rows}
    assert found.measured_s == pytest.approx(1.47e-3, rel=0.01)
    assert 0.7 < found.predicted_s / found.measured_s < 1.3


def test_kernels_are_joined_in_order_within_their_class() -> None:
    found = compare_profile(predicted(), read_ncu(FILES / "ncu-long.csv"), file="f", form="ncu")
    assert found.joined_by == "kernel"
    assert [(row.name, row.kernels) for row in found.rows] == [("act1", 1), ("conv1", 1)]
    by_name = {row.name: row for row in found.rows}
    tensor = 2 * 32 * 64 * 56 * 56
    assert by_name["act1"].predicted_dram_bytes == 2 * tensor
    errors = [abs(row.predicted_s / row.measured_s - 1) for row in found.rows]
    assert found.mape == pytest.approx(sum(errors) / 2)
    assert found.median_bytes_ape is not None


def test_a_trace_is_read_in_the_order_of_its_kernels() -> None:
    found = read_torch_trace(FILES / "torch-trace.json")
    assert [class_of_name(one.name) for one in found] == ["product", "pointwise"]
    comparison = compare_profile(predicted(), found, file="f", form="torch-trace")
    assert {row.name for row in comparison.rows} == {"conv1", "act1"}
    assert comparison.measured_s == pytest.approx(71.7e-6)


def test_a_gzipped_trace(tmp_path: Path) -> None:
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress((FILES / "torch-trace.json").read_bytes()))
    assert read_torch_trace(packed) == read_torch_trace(FILES / "torch-trace.json")


def test_layers_of_tensorrt_are_joined_by_name() -> None:
    prediction = predict("resnet18", "rtx4090", batch=8)
    found = compare_profile(prediction, read_trtexec(FILES / "trtexec.json"), file="f", form="trtexec")
    assert found.joined_by == "layer"
    assert {row.name: row.measured_s for row in found.rows} == pytest.approx({"conv1": 37.2e-6, "layer1.0.conv1": 31.9e-6})
    reasons = {one.reason: one.rows for one in found.skipped}
    assert reasons["no layer of the network has this name"] == ("__myl_FooBar_0",)
    assert len(reasons["not in the profile"]) == len(prediction.kernels) - 2


def test_a_real_profile_of_tensorrt_is_joined_by_the_names_of_the_file_it_ran(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="reading ONNX files needs onnx")
    from tests.onnx_models import resnet18, saved

    prediction = predict(str(saved(tmp_path, resnet18())), "a100-sxm-40gb")
    profiled = read_trtexec(FILES / "a100-resnet18-trtexec.json")
    found = compare_profile(prediction, profiled, file="f", form="trtexec")
    assert found.joined_by == "layer"
    assert len(found.rows) == len(prediction.kernels) == 23
    assert {row.kernels for row in found.rows} == {1}
    assert not any(row.below_bound for row in found.rows)
    blocks = {row.measured_name: row.name for row in found.rows}  # the layers of a block are known by the block's names
    assert blocks["Conv_16 + Add_17 + Relu_18"] == "block2.downsample.conv"
    assert blocks["Conv_43 + Add_44 + Relu_45"] == "block7.conv2"
    reasons = {one.reason: len(one.rows) for one in found.skipped}
    assert reasons == {"a change of layout, which the network does not ask for": 2, "took no time in the profile": 2}


def test_a_real_profile_of_tensorrt_without_its_file_is_joined_in_order() -> None:
    profiled = read_trtexec(FILES / "a100-resnet18-trtexec.json")
    found = compare_profile(predict("resnet18", "a100-sxm-40gb", batch=32), profiled, file="f", form="trtexec")
    assert found.joined_by == "kernel"  # as many of each class, once changes of layout are set apart
    assert found.doubt is None
    names = {row.measured_name: row.name for row in found.rows}
    assert len([name for name in names.values() if ".conv" in name]) == 19  # every convolution of a block beside its own
    assert names["Conv_43 + Add_44 + Relu_45"] == "layer4.1.conv2"
    assert names["GlobalAveragePool_46"] == "global_pool"
    reasons = {one.reason: len(one.rows) for one in found.skipped}
    assert reasons == {"a change of layout, which the network does not ask for": 2, "took no time in the profile": 2}


@pytest.mark.parametrize(
    ("file", "model", "said"),
    [
        ("a100-resnet18-trtexec.json", "vgg16", "no name in a100-resnet18-trtexec.json is a layer of vgg16, so that classes"),
        ("a100-resnet18-trtexec.json", "resnet18", None),  # as many kernels of each class, in order
        ("trtexec.json", "resnet18", None),
    ],
)
def test_a_profile_of_another_network_is_doubted(
    file: str, model: str, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["validate", "trtexec", str(FILES / file), "--model", model, "--hardware", "a100-sxm-40gb", "--batch", "32"]
    assert run([*asked, "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["n"]
    assert captured.err == "" if said is None else f"perfmodel: warning: {said}" in captured.err


def test_a_profile_of_which_most_layers_have_other_names_is_doubted() -> None:
    profiled = read_trtexec(FILES / "trtexec.json")
    strange = [replace(profiled[0], name=f"decoder.{index}.attention") for index in range(5)]
    found = compare_profile(predict("resnet18", "a100-sxm-40gb", batch=32), [*profiled, *strange], file="f", form="trtexec")
    assert found.joined_by == "layer"
    assert "6 of 8 names in f are no layers of resnet18" in (found.doubt or "")


def test_a_layer_of_tensorrt_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    given_ = json.loads((FILES / "a100-resnet18-trtexec.json").read_text())
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([*given_, *given_[2:4]]))
    prediction = predict("resnet18", "a100-sxm-40gb", batch=32)
    once, twice = (
        compare_profile(prediction, read_trtexec(one), file="f", form="trtexec")
        for one in (FILES / "a100-resnet18-trtexec.json", path)
    )
    assert (twice.rows, twice.measured_s) == (once.rows, pytest.approx(once.measured_s))
    reasons = {one.reason: one.rows for one in twice.skipped}
    assert reasons["there twice, of which the first is taken"] == (given_[2]["name"], given_[3]["name"])


def test_a_profile_without_any_time_is_one_sentence() -> None:
    none = [replace(one, duration_s=0.0) for one in read_trtexec(FILES / "trtexec.json")]
    with pytest.raises(MeasurementFileError, match="nothing of it took any time"):
        compare_profile(predicted(), none, file="f", form="trtexec")


def test_where_the_bound_is_not_known_nothing_is_said_of_it() -> None:
    prediction = predict("resnet18", "a10", batch=32)  # whose highest clock no document gives
    found = compare_profile(prediction, read_trtexec(FILES / "trtexec.json"), file="f", form="trtexec")
    assert {row.below_bound for row in found.rows} == {None}


def test_different_numbers_of_kernels_are_compared_by_class() -> None:
    many = [Profiled(name="elementwise_kernel", duration_s=1e-5) for _ in range(3)]
    found = compare_profile(predicted(), many, file="f", form="torch-trace")
    (row,) = found.rows
    assert row.kernels == 3
    assert row.measured_s == pytest.approx(3e-5)
    assert "class" in found.joined_by


def test_a_time_below_the_bound_has_a_named_diagnosis() -> None:
    fast = [Profiled(name="xmma_gemm", duration_s=1e-9), Profiled(name="elementwise", duration_s=1.0)]
    rows = {row.name: row for row in compare_profile(predicted(), fast, file="f", form="ncu").rows}
    assert rows["conv1"].below_bound
    assert "below the bound" in str(rows["conv1"].diagnosis)
    assert not rows["act1"].below_bound


BAD = [
    ("ncu", "", 'starts with "ID"'),
    ("ncu", '"ID","Kernel Name"\n"0","k"\n', "lacks the metric"),
    (
        "ncu",
        '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n"0","k","gpu__time_duration.sum","us","fast"\n',
        "not a number",
    ),
    (
        "ncu",
        '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n"0","k","gpu__time_duration.sum","ells","1"\n',
        "none of",
    ),
    ("trtexec", "{}", "must be a list"),
    ("trtexec", '[{"count": 3}]', "lack name or averageMs"),
    ("trtexec", '[{"name": "a", "averageMs": "x"}]', "not a number"),
    ("trtexec", '[{"name": "a", "averageMs": -1}]', "not negative"),
    (
        "trtexec",
        '[{"count": 3}, {"name": "conv7", "averageMs": null}, {"name": "b", "averageMs": 1}]',
        "entry 2 (conv7) lacks averageMs",
    ),
    ("trtexec", '[{"name": "a", "averageMs": 1e308}]', "more than a day"),
    ("trtexec", '[{"name": "a", "averageMs": 1' + "0" * 400 + "}]", "averageMs is inf"),
    ("trtexec", '[{"name": "a", "averageMs": 1' + "0" * 5000 + "}]", "is not JSON"),
    ("trtexec", '[{"count": 3}, 7]', "entry 2: it is 7, which must be an object"),
    (
        "ncu",
        '"ID","Kernel Name","Metric Name","Metric Unit"\n"0","k","gpu__time_duration.sum","us"\n',
        "lacks the column Metric Value",
    ),
    (
        "ncu",
        '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n"0","k","gpu__time_duration.sum","us"\n',
        "launch 0 lacks",
    ),
    ("ncu", '"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n"0","k",""\n', "no launch with"),
    ("ncu", '"ID","Kernel Name"\n"0","' + "k" * 200_000 + '"\n', "line 1: field larger than field limit"),
    ("torch-trace", "[", "not JSON"),
    ("torch-trace", "[]", "lacks traceEvents"),
    ("torch-trace", '{"traceEvents": []}', "no GPU kernels"),
    ("torch-trace", '{"traceEvents": [{"cat": "kernel", "ph": "X", "ts": 1, "dur": null}]}', "lacks dur"),
]


@pytest.mark.parametrize(("form", "text", "said"), BAD)
def test_a_file_that_is_not_one_is_one_sentence(tmp_path: Path, form: str, text: str, said: str) -> None:
    path = tmp_path / "profile"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PerfmodelError) as caught:
        READERS[form](path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("trace.json.gz", gzip.compress(b"[]" * 500, mtime=0)[:-20], "cannot read"),
        ("trace.json.gz", gzip.compress(bytes(range(256)), mtime=0)[:30] + b"\xff" * 30, "cannot read"),
        ("trace.json.gz", b"no gzip", "cannot read"),
        ("trace.json", b"\xff\xfe", "UTF-8"),
    ],
    ids=("cut off", "damaged", "no gzip", "no text"),
)
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MeasurementFileError, match=said):
        read_torch_trace(path)


def test_a_file_without_an_end_is_not_read_for_ever() -> None:
    with pytest.raises(MeasurementFileError, match="/dev/zero is larger than 1 MiB; profile less"):
        read_text(Path("/dev/zero"), 1 << 20, "profile less")


def test_launches_without_a_duration_are_listed(tmp_path: Path) -> None:
    """Of the wide form: a launch that lacks it, one of 0, and a last row that is cut short; none keeps the others from being joined."""
    lines = (FILES / "ncu-wide.csv").read_text().splitlines()
    cells = lines[-1].split('","')
    more = ['","'.join([*cells[:-1], '"']), '","'.join([*cells[:-1], '0"']), '","'.join([*cells[:4], 'cut_off"'])]
    path = tmp_path / "profile.csv"
    path.write_text("\n".join(lines + more))
    found = compare_profile(predicted(), read_ncu(path), file="f", form="ncu")
    assert [row.name for row in found.rows] == ["act1", "conv1"]
    (left_out,) = (one.rows for one in found.skipped if one.reason == "took no time in the profile")
    assert len(left_out) == 3
    assert left_out[-1] == "cut_off"


def test_nothing_vanishes_from_a_profile(tmp_path: Path) -> None:
    """Kernels of no duration, and layers of TensorRT without a name."""
    path = tmp_path / "profile.json"
    path.write_text(
        json.dumps([{"count": 3}, {"name": "conv1", "averageMs": 0}, {"averageMs": 1}, {"name": "act1", "averageMs": 1}])
    )
    found = compare_profile(predicted("pointwise"), read_trtexec(path), file="f", form="trtexec")
    assert {one.reason: one.rows for one in found.skipped} == {
        "no layer of the network has this name": ("(no name)",),
        "took no time in the profile": ("conv1",),
        "not in the profile": ("conv1",),
    }


def test_the_error_of_bytes_is_the_median_of_those_that_were_moved() -> None:
    work = predicted()
    bytes_of = {time.kernel.name: float(time.kernel.cost.dram_bytes) for time in work.times}
    given_ = [
        Profiled(name="xmma_gemm", duration_s=1.0, dram_bytes=bytes_of["conv1"] / 1.1),
        Profiled(name="elementwise", duration_s=1.0, dram_bytes=bytes_of["act1"] / 1.3),
    ]
    assert compare_profile(work, given_, file="f", form="ncu").median_bytes_ape == pytest.approx(0.2)
    found = compare_profile(work, [given_[0], replace(given_[1], dram_bytes=0.0)], file="f", form="ncu")
    assert found.median_bytes_ape == pytest.approx(0.1)
    assert [one.rows for one in found.skipped if "without DRAM bytes" in one.reason] == [("act1",)]


KEYS = ("traceEvents", "name", "averageMs", "cat", "ph", "dur", "ts")
TREES = st.recursive(
    st.none() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
).map(json.dumps)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.sampled_from(sorted(READERS)), st.text(max_size=200) | TREES)
def test_garbage_is_never_a_traceback(tmp_path_factory: pytest.TempPathFactory, form: str, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        READERS[form](path)
    except PerfmodelError as error:
        assert str(path) in str(error)


def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", "resnet18", "--hardware", "rtx4090", "--batch", "8", "--format", "json"]
    for form, name in (("ncu", "ncu-long.csv"), ("trtexec", "trtexec.json"), ("torch-trace", "torch-trace.json")):
        extra = ["--tier", "waterline"] if form == "torch-trace" else []
        assert run(["validate", form, str(FILES / name), *common, *extra]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {"n", "mape", "median_ape", "p90_ape", "max_ape", "bias", "spearman", "skipped", "rows"} <= set(found)
