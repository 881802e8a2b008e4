"""The command line: formats, exit codes, and one sentence for every fault."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import perfmodel
from perfmodel.cli import options, run
from perfmodel.hardware.catalog import names
from perfmodel.networks.catalog import entries
from perfmodel.prediction import predict
from perfmodel.report.predictions import summary_table
from perfmodel.report.table import render

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def as_process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "perfmodel", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_predict_prints_a_table(command: Run) -> None:
    code, out, err = command("predict", "resnet50", "--hardware", "h200", "--batch", "128")
    assert (code, err) == (0, "")
    prediction = predict("resnet50", "h200", batch=128)
    assert "resnet50 on NVIDIA H200" in out
    assert f"latency {prediction.latency_s * 1e3:.2f} ms" in out
    assert "the 20 slowest of 56 kernels" in out
    assert "assumed: peak 989.5 Top/s dense fp16 with fp32 accumulation" in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_predict_prints_json(command: Run) -> None:
    code, out, _ = command("predict", "ResNet-50", "--hardware", "H200", "--format", "json")
    assert code == 0
    assert json.loads(out) == json.loads(predict("resnet50", "h200").to_json())


def test_predict_prints_csv_with_every_kernel(command: Run) -> None:
    code, out, _ = command("predict", "resnet50", "--hardware", "h200", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    prediction = predict("resnet50", "h200")
    assert code == 0
    assert [row["name"] for row in rows] == [kernel.name for kernel in prediction.kernels]
    assert sum(float(row["latency_s"]) for row in rows) == pytest.approx(prediction.latency_s)
    assert sum(int(row["macs"]) for row in rows) == prediction.cost.macs


def test_predict_prints_markdown(command: Run) -> None:
    code, out, _ = command("predict", "resnet18", "--hardware", "t4", "--format", "markdown", "--top", "0")
    assert code == 0
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table[: 2 + len(predict("resnet18", "t4").kernels)]}) == 1
    assert "| layer1.0.conv1 | conv |" in out


@pytest.mark.parametrize("name", ["out.json", "deep/er.json"])
def test_predict_writes_a_file(command: Run, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    code, out, err = command("predict", "resnet18", "--hardware", "t4", "--format", "json", "--output", str(target))
    if "/" in name:
        assert code == 2
        assert err == f"perfmodel: cannot write {target}: there is no folder {target.parent}; make it first\n"
    else:
        assert (code, out) == (0, "")
        assert json.loads(target.read_text())["model"] == "resnet18"


def test_a_dash_is_standard_output(command: Run) -> None:
    code, out, _ = command("predict", "resnet18", "--hardware", "t4", "--format", "json", "--output", "-")
    assert code == 0
    assert json.loads(out)["model"] == "resnet18"


def test_options_reach_the_prediction(command: Run) -> None:
    arguments = [
        "--batch",
        "3",
        "--resolution",
        "192",
        "--autocast",
        "bf16",
        "--layout",
        "nchw",
        "--schedule",
        "eager",
        "--tier",
        "bound",
    ]
    code, out, _ = command("predict", "resnet18", "--hardware", "rtx4090", *arguments, "--format", "json")
    found = json.loads(out)
    assert code == 0
    settings = ("batch", "resolution", "dtype", "autocast", "layout", "schedule", "tier")
    assert [found[name] for name in settings] == [3, 192, "fp32", "bf16", "nchw", "eager", "bound"]
    assert any(kernel["kind"] == "layout" for kernel in found["kernels"])


def test_classes_change_the_last_layer(command: Run) -> None:
    params = [
        json.loads(command("predict", "resnet18", "--hardware", "t4", "--classes", n, "--format", "json")[1])["params"]
        for n in ("10", "11")
    ]
    assert params[1] - params[0] == 513


@pytest.mark.parametrize(("budget", "code"), [("1s", 0), ("1 us", 3)])
def test_a_budget_decides_the_exit_code(command: Run, budget: str, code: int) -> None:
    found, out, err = command("predict", "resnet18", "--hardware", "t4", "--budget", budget)
    assert found == code
    assert "latency" in out
    assert ("over budget" in err) == (code == 3)


def test_strict_is_content_with_a_network_it_understands(command: Run) -> None:
    assert command("predict", "resnet18", "--hardware", "t4", "--strict")[0] == 0


def test_a_partition_from_a_file(command: Run, tmp_path: Path) -> None:
    layers = [name for name in predict("alexnet", "t4").network.graph.nodes if name != "input"]
    target = tmp_path / "parts.json"
    target.write_text(json.dumps([[layer] for layer in layers]))
    code, out, _ = command("predict", "alexnet", "--hardware", "t4", "--schedule", str(target), "--format", "json")
    assert code == 0
    assert len(json.loads(out)["kernels"]) == len(layers)
    for text, said in [
        ("{", "is not JSON"),
        ("{}", "must be a list"),
        ('[["nothing"]]', "unknown layer"),
        ("[" * 100_000, "is not JSON"),
    ]:
        target.write_text(text)
        code, _, err = command("predict", "alexnet", "--hardware", "t4", "--schedule", str(target))
        assert code == 2
        assert said in err


def test_compare_is_side_by_side(command: Run) -> None:
    code, out, _ = command(
        "compare", "resnet50", "convnext_tiny", "--hardware", "h200,rtx4090", "--batch", "8", "--format", "json"
    )
    rows = json.loads(out)
    assert code == 0
    assert len(rows) == 2 * 2 * 5
    for row in rows:
        prediction = predict(row["model"], row["hardware"], batch=8, schedule=row["schedule"])
        assert row["latency_s"] == prediction.latency_s
        assert row["macs"] == prediction.network.macs
        assert row["dram_bytes"] == prediction.cost.dram_bytes


def test_networks_are_listed(command: Run) -> None:
    code, out, _ = command("networks", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["model"] for row in rows] == list(entries())
    assert next(row for row in rows if row["model"] == "resnet50")["params"] == "25557032"


def test_a_network_is_shown_layer_by_layer(command: Run) -> None:
    code, out, _ = command("networks", "resnet18", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert sum(int(row["params"]) for row in rows) == 11_689_512
    assert (
        command("networks", "resnet18")[1].startswith("ResNet")
        or "resnet18, layer by layer" in command("networks", "resnet18")[1]
    )


def test_machines_are_listed_and_shown(command: Run) -> None:
    code, out, _ = command("hardware", "list", "--format", "csv")
    assert code == 0
    assert [row["hardware"] for row in csv.DictReader(io.StringIO(out))] == list(names())
    code, out, _ = command("hardware", "show", "rtx 4090")
    assert code == 0
    assert "memory.dram_bandwidth_bytes_per_s" in out
    assert "whitepaper" in out
    assert (
        json.loads(command("hardware", "show", "h200", "--format", "json")[1])["memory"]["dram_bandwidth_bytes_per_s"] == 4.8e12
    )
    schema = json.loads(command("hardware", "schema")[1])
    assert "dram_bandwidth_bytes_per_s" in json.dumps(schema)


def test_a_machine_of_the_user_s(command: Run, tmp_path: Path) -> None:
    text = (ROOT / "hardware" / "devices" / "h200.toml").read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    code, out, _ = command("predict", "resnet18", "--hardware", str(mine), "--format", "json")
    assert code == 0
    assert json.loads(out)["latency_s"] == predict("resnet18", "h200").latency_s
    mine.write_text(text.replace("dram_bandwidth_bytes_per_s = 4.8e12", "dram_bandwidth_bytes_per_s = -4.8e12"))
    code, _, err = command("predict", "resnet18", "--hardware", str(mine))
    assert code == 2
    assert "mine.toml" in err
    assert "dram_bandwidth_bytes_per_s" in err


@pytest.mark.parametrize("name", ["conv2d", "depthwise_conv", "mbconv", "silu", "layer_norm"])
@pytest.mark.parametrize("latex", [False, True])
def test_formulas_print(command: Run, name: str, latex: bool) -> None:
    code, out, err = command("formula", name, *(["--latex"] if latex else []))
    assert (code, err) == (0, "")
    assert ("\\begin{align*}" in out) == latex
    assert "input channels" in out


@pytest.mark.parametrize("kind", ["svg", "png", "pdf", "html"])
def test_predict_writes_the_plot(command: Run, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"plot.{kind}"
    code, out, _ = command("predict", "resnet18", "--hardware", "t4", "--plot", str(target))
    assert code == 0
    assert "latency" in out
    assert target.stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ("waterline", "resnet18", "--hardware", "t4", "--schedule", "eager,layer"),
        ("roofline", "resnet18", "--hardware", "t4"),
        ("gap", "resnet", "convfirstnet", "--hardware", "t4", "--batch", "8"),
    ],
)
def test_plots_are_written(command: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    target = tmp_path / "plot.svg"
    code, out, err = command("plot", *arguments, "--output", str(target))
    assert (code, out) == (0, "")
    assert err == f"wrote {target}\n"
    assert target.read_text().startswith("<?xml")


FAULTS = [
    (("predict", "resnet5", "--hardware", "h200"), "unknown model 'resnet5'; did you mean resnet50"),
    (("predict", "resnet50", "--hardware", "h20"), "did you mean h200"),
    (("predict", "resnet50", "--hardware", "h200", "--schedule", "eagre"), "did you mean eager"),
    (("predict", "resnet50", "--hardware", "h200", "--schedule", "aut"), "did you mean auto"),
    (("formula", "mbconv", "--schedule", "auto"), "cuts whole networks"),
    (("plan", "resnet50", "--hardware", "m1-ultra"), "chip.shared_memory_per_block_bytes"),
    (("plan", "resnet50", "--hardware", "h200", "--longest", "0"), "--longest"),
    (("plan", "resnet50", "--hardware", "h200", "--partition", "block"), "--partition takes a JSON file"),
    (("plan", "resnet50", "--hardware", "h200", "--format", "jso"), "--format"),
    (("design", "convfirst-net", "--hardware", "h200"), "name a budget"),
    (("design", "convfirst-net", "--macs", "1G"), "name a machine with --hardware"),
    (("design", "convfirst-net", "--member", "tinny"), "did you mean tiny"),
    (("design", "convfirst-net", "--member", "tiny", "--macs", "1G"), "questions of their own"),
    (("design", "convfirst-net", "--hardware", "h200", "--macs", "2e9"), "must be a number such as 5.8G"),
    (
        ("design", "convfirst-net", "--hardware", "h200", "--macs", "1G", "--widths", "10:12"),
        "no width from 10 to 12 is a multiple",
    ),
    (("design", "convfirst-net", "--hardware", "h200", "--macs", "1G", "--deepest", "3,3,9"), "4 whole numbers"),
    (("design", "convfirst-net", "--hardware", "h200", "--macs", "1G", "--schedule", "blok"), "did you mean block"),
    (("design", "convfirst-net", "--hardware", "h200", "--macs", "1.7G", "--params", "50M"), "the budgets contradict each other"),
    (("predict", "resnet50", "--hardware", "m1-ultra", "--schedule", "block"), "chip.shared_memory_per_block_bytes"),
    (("predict", "resnet50", "--hardware", "h200", "--tier", "expected"), "no calibration for schedule layer"),
    (("predict", "resnet50", "--hardware", "h200", "--dtype", "fp17"), "did you mean fp16"),
    (("predict", "resnet50", "--hardware", "a100", "--dtype", "fp8"), "a100"),
    (("predict", "resnet50", "--hardware", "h200", "--batch", "0"), "batch must be a whole number"),
    (("predict", "resnet50", "--hardware", "h200", "--batch", "-3"), "batch must be a whole number"),
    (("predict", "resnet50", "--hardware", "h200", "--batch", "99999999999"), "batch must be a whole number"),
    (("predict", "resnet50", "--hardware", "h200", "--batch", "many"), "--batch"),
    (("predict", "resnet50", "--hardware", "h200", "--resolution", "5"), "too small"),
    (("predict", "resnet50", "--hardware", "h200", "--classes", "0"), "classes must be"),
    (("predict", "resnet50", "--hardware", "h200", "--budget", "2"), "not a duration"),
    (("predict", "resnet50", "--hardware", "h200", "--format", "yaml"), "yaml"),
    (("predict", "resnet50", "--hardware", "h200", "--plot", "x.gif"), "x.gif"),
    (("predict", "resnet50", "--hardware", "nowhere/mine.toml"), "nowhere/mine.toml"),
    (("predict", "resnet50", "--hardware", "h200", "--schedule", "absent.json"), "absent.json"),
    (("predict", "resnet50"), "--hardware"),
    (("predict", "net.onnx", "--hardware", "h200"), "cannot read net.onnx"),
    (("predict", "resnet50", "--hardware", "h200", "--nonsense"), "nonsense"),
    (("compare", "resnet50", "--hardware", ","), "--hardware names nothing"),
    (("formula", "convfist"), "did you mean convfirst"),
    (("networks", "nothing"), "unknown model"),
    (("hardware", "show", "nothing"), "nothing"),
    (("plot", "waterline", "resnet18", "--hardware", "t4", "--output", "/nowhere/x.svg"), "/nowhere/x.svg"),
    (("plot", "gap", "convfirstnet", "--hardware", "t4", "--output", "x.svg"), "accuracy"),
    (("validate", "report", "--cache", "x"), "--cache is about files of measurements"),
    (("fly",), "fly"),
]


@pytest.mark.parametrize(("arguments", "said"), FAULTS, ids=[" ".join(arguments) for arguments, _ in FAULTS])
def test_a_fault_is_one_sentence_and_exit_code_2(command: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert err.startswith("perfmodel: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("place", [0, 2, 4])
def test_debug_shows_the_traceback_wherever_it_stands(command: Run, place: int) -> None:
    arguments = ["predict", "resnet5", "--hardware", "h200"]
    code, _, err = command(*arguments[:place], "--debug", *arguments[place:])
    assert code == 2
    assert "Traceback" in err
    assert err.rstrip().splitlines()[-1].startswith("perfmodel: unknown model")


def test_no_arguments_show_the_help(command: Run) -> None:
    code, out, err = command()
    assert (code, err) == (0, "")
    assert all(name in out for name in ("predict", "compare", "networks", "formula", "hardware", "plot"))
    assert command("--help")[0] == 0
    assert "waterline" in command("plot")[1]


def test_a_closed_pipe_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "perfmodel", "predict", "efficientnet_b7", "--hardware", "h200", "--format", "json"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == "perfmodel: stopped, the reader of the output has gone\n"


def test_ctrl_c_is_one_sentence(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        "import pathlib, signal, sys, time, perfmodel.cli, perfmodel.prediction\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background of a shell inherits it ignored
        f"def slow(*a, **k): pathlib.Path({str(started)!r}).touch(); time.sleep(60)\n"
        "perfmodel.prediction.predict = slow\n"
        "sys.exit(perfmodel.cli.run(['predict', 'resnet18', '--hardware', 't4']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "perfmodel: interrupted\n"


def test_the_module_is_the_command() -> None:
    done = as_process("predict", "resnet18", "--hardware", "t4")
    assert done.returncode == 0
    assert "resnet18 on NVIDIA T4" in done.stdout


def test_the_version_is_printed(command: Run) -> None:
    assert command("--version") == (0, f"perfmodel {perfmodel.__version__}\n", "")


def test_every_formula_is_listed_and_prints(command: Run) -> None:
    listed = command("formula")[1].split()
    assert {"conv2d", "squeeze_excitation", "mbconv", "softmax"} <= set(listed)
    assert all(command("formula", name)[0] == 0 for name in listed)


def test_names_and_formats_do_not_mind_their_case(command: Run) -> None:
    plain = ["--dtype", "bf16", "--layout", "nhwc", "--schedule", "eager", "--tier", "bound", "--format", "json"]
    spelled = [word if word.startswith("--") else word.upper() for word in plain]
    assert command("predict", "RESNET18", "--hardware", "T4", *[w.replace("bf16", "fp16") for w in plain]) == command(
        "predict", "resnet18", "--hardware", "t4", *[w.replace("BF16", "FP16") for w in spelled]
    )


def test_a_closed_standard_output_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m perfmodel predict resnet18 --hardware t4 >&-",
        shell=True,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_compare_leaves_out_what_a_machine_has_no_figures_for(command: Run) -> None:
    code, out, err = command("compare", "resnet18", "--hardware", "m1-ultra", "--dtype", "fp32", "--format", "json")
    assert code == 0
    assert [row["schedule"] for row in json.loads(out)] == ["eager", "pointwise", "layer"]
    assert "without schedules block and auto" in err
    assert "chip.shared_memory_per_block_bytes" in err


def test_comparison_under_tier_expected_takes_the_schedules_that_it_has_constants_for(capsys: pytest.CaptureFixture[str]) -> None:
    expected = ["compare", "resnet18", "--tier", "expected", "--format", "csv", "--hardware"]
    assert run([*expected, "h200,rtx4090"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[1:3] for line in out.splitlines()[1:]] == [
        ["h200", "eager"], ["h200", "pointwise"], ["h200", "block"], ["rtx4090", "eager"], ["rtx4090", "pointwise"],
    ]  # fmt: skip
    assert "without schedule block: tier expected has no calibration for schedule block on rtx4090" in err
    assert run([*expected, "h200,mi300x"]) == 2
    assert "mi300x is none: use tier waterline" in capsys.readouterr().err


def test_a_narrow_terminal_loses_columns_and_says_which() -> None:
    table = summary_table([predict("resnet18", "h200")], "title")
    wide, narrow = (render(table, "table", width=width) for width in (200, 80))
    assert "images/s" in wide
    assert "images/s" not in narrow.partition("left out for want of room")[0]
    assert "images/s" in narrow.partition("left out for want of room")[2]
    assert all(len(line) <= 80 for line in narrow.splitlines())
    assert "efficiency" in narrow
    assert "resnet18" in narrow


def test_output_survives_an_ascii_terminal() -> None:
    done = as_process("predict", "resnet18", "--hardware", "t4", env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.returncode == 0
    assert "resnet18" in done.stdout
    assert " us" in done.stdout
    assert "224x224" in done.stdout


@pytest.mark.parametrize(
    ("model", "library", "extra"),
    [("timm:densenet121", "torch", "torch"), ("my_package:make_net", "torch", "torch"), ("net.onnx", "onnx", "onnx")],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    command: Run, monkeypatch: pytest.MonkeyPatch, model: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    code, out, err = command("predict", model, "--hardware", "h200")
    assert (code, out) == (2, "")
    assert f"needs {library}, which is not installed; install it with: pip install 'perfmodel[{extra}]'" in err


def test_a_gap_plot_says_which_models_have_no_published_accuracy(command: Run, tmp_path: Path) -> None:
    code, _, err = command("plot", "gap", "timm:resnet18", "--hardware", "h200", "--output", str(tmp_path / "gap.svg"))
    assert code == 2
    assert "no published accuracy" in err or "nothing to plot" in err


def test_a_file_that_grows_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cut off while it writes leaves what was there before; the file's mode and a link to it stay."""
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old", encoding="utf-8")
    real.chmod(0o640)
    link.symlink_to(real)
    options.emit_at_once("new", link)
    assert real.read_text(encoding="utf-8") == "new"
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640

    def cut_off(text: str, output: Path) -> None:
        output.write_text(text[:1], encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "emit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        options.emit_at_once("newer", link)
    assert real.read_text(encoding="utf-8") == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("--output", "absent/x"), "there is no folder absent"),
        (("--output", "."), "it is a folder"),
        (("--results", "absent/x.csv"), "there is no folder absent"),
        (("--results", "x.xls"), "written as .csv or .parquet"),
        (("--plot", "x.xls"), "end it with .svg"),
        (("--plot", "absent/x.svg"), "there is no folder absent; make it first"),
        (("--plot", "x.svg"), "a front plot shows two objectives, this search has 3"),
    ],
)
def test_a_place_that_cannot_be_is_said_before_the_search(
    command: Run, place: tuple[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Path(__file__).parent.parent / "docs" / "spaces" / "blocks.toml"
    monkeypatch.setattr("perfmodel.cli.search._searched", lambda *_: pytest.fail("it was searched"))
    monkeypatch.chdir(tmp_path)
    code, out, err = command("design", "search", str(space), *place)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("top", [1, 2, 5])
def test_of_a_long_front_as_many_designs_are_shown_as_were_asked_for(command: Run, top: int) -> None:
    space = Path(__file__).parent.parent / "docs" / "spaces" / "blocks.toml"
    code, out, _ = command("design", "search", str(space), "--top", str(top), "--format", "csv")
    assert code == 0
    assert len(out.splitlines()) == 1 + top


@pytest.mark.parametrize("schedule", ["eager", "block"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=" + "[" * 5000, "is not TOML"),
        ("a=" + "1" * 5000, "is not TOML"),
        ("factors = 3", "is wrong at"),
        ("", "is wrong at"),
        ("a", "is not TOML"),
    ],
)
def test_a_calibration_that_cannot_be_is_one_sentence(command: Run, text: str, said: str, schedule: str, tmp_path: Path) -> None:
    path = tmp_path / "constants.toml"
    path.write_text(text)
    code, out, err = command(
        "predict", "resnet18", "--hardware", "h200", "--tier", "expected", "--schedule", schedule, "--calibration", str(path)
    )
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--output", "a-file"), "cannot make the folder a-file: File exists"),
        (("--output", "folder", "--batch", "0"), "from 1 to"),
    ],
)
def test_the_demo_says_what_is_wrong_before_it_predicts(
    command: Run, options: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perfmodel.demo.predict", lambda *_, **__: pytest.fail("it predicted"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    code, out, err = command("demo", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "folder").exists()
