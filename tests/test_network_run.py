"""Networks and layers measured on a GPU, as far as no GPU is needed: who runs when, what a host's looks say, what is compared."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from perfmodel.cli import run as command
from perfmodel.hardware.catalog import load
from perfmodel.prediction import predict
from perfmodel.validation import network_run
from perfmodel.validation.host_times import LEAST_S, _less
from perfmodel.validation.layer_comparison import compare_layers
from perfmodel.validation.network_comparison import compare_networks, with_host
from perfmodel.validation.network_run import NetworkCase, _Gate, _NotNow, cases, measure_compiled, read_results
from perfmodel.validation.timm import MeasurementFileError

LOOK = {
    "host_convolution_s": 20e-6, "host_matrix_s": 20e-6, "host_norm_s": 40e-6, "host_other_s": 10e-6, "host_operator_s": 5e-6,
    "host_inner_s": 3e-6, "host_block_s": 70e-6,
}  # fmt: skip


class _Thread:
    """A process of `multiprocessing` that is a thread here."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        own = [Connection(os.dup(one.fileno())) if isinstance(one, Connection) else one for one in args]  # as a process has it
        self._thread = threading.Thread(target=target, args=own)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def kill(self) -> None:
        raise AssertionError("nothing hangs here")


class _Context:
    Pipe = staticmethod(multiprocessing.Pipe)
    Process = _Thread


class _Cuda:
    @staticmethod
    def get_device_name(_: int) -> str:
        return "GPU"


class _Torch:
    cuda = _Cuda


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What workers do, in order; models named `broken…` fail to compile."""
    done: list[str] = []
    lock = threading.Lock()

    def note(what: str) -> None:
        with lock:
            done.append(what)

    def worker(group: tuple[NetworkCase, ...], pipe: Any, timed: bool, _profile: bool, _traces: Path | None) -> None:
        name = f"{group[0].model}/{group[0].batch}"
        if group[0].model.startswith("broken"):
            pipe.send("RuntimeError: does not compile")
            pipe.close()
            return
        note(f"compile {name}")
        pipe.send(True)
        try:
            go = timed and pipe.recv()
        except EOFError:
            go = False
        for case in group if go else ():
            note(f"time {name} {case.run}")
            pipe.send({"times_s": [1.0], "median_s": 1.0, "prepared_s": 2.0})
        pipe.close()

    monkeypatch.setattr(network_run, "_torch", lambda: _Torch)
    monkeypatch.setattr(network_run, "_timm", lambda: None)
    monkeypatch.setattr(network_run, "_compiled", worker)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: _Context)
    return done


def test_networks_compile_together_and_are_timed_alone(steps: list[str], tmp_path: Path) -> None:
    wanted = cases(("a", "broken", "b"), (1,), runs=("compile", "compile-graph"))
    said: list[str] = []
    assert measure_compiled(wanted, tmp_path / "r.jsonl", jobs=3, say=said.append) == 4
    assert sorted(steps[:2]) == ["compile a/1", "compile b/1"], "once for both ways of running"
    assert steps[2:] == ["time a/1 compile", "time a/1 compile-graph", "time b/1 compile", "time b/1 compile-graph"]
    assert any("does not compile" in line for line in said)
    assert {line["run"] for line in read_results(tmp_path / "r.jsonl")} == {"compile", "compile-graph"}
    before = len(steps)
    assert measure_compiled(wanted, tmp_path / "r.jsonl", jobs=3) == 0, "what is recorded is not measured again"
    assert len(steps) == before


def test_at_most_so_many_compile_at_once(steps: list[str], tmp_path: Path) -> None:
    measure_compiled(cases(("a", "b", "c"), (1,), runs=("compile",)), tmp_path / "r.jsonl", jobs=2)
    assert steps.index("time b/1 compile") < steps.index("compile c/1")


def test_preparing_runs_nothing(steps: list[str]) -> None:
    assert measure_compiled(cases(("a", "b"), (1,), runs=("compile", "compile-graph")), None, jobs=2) == 4
    assert sorted(steps) == ["compile a/1", "compile b/1"]


def test_no_turn_begins_after_its_time(steps: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    assert (
        measure_compiled(cases(("a", "b"), (1,), runs=("compile",)), tmp_path / "r.jsonl", jobs=2, seconds=0, say=said.append)
        == 0
    )
    assert not [step for step in steps if step.startswith("time")]
    assert "stopped after 0 s" in said[-1]


def test_compiled_code_asks_for_its_turn_once() -> None:
    asked: list[bool] = []
    answers = [False, True]

    def turn() -> bool:
        asked.append(True)
        return answers.pop(0)

    code = _Gate(lambda graph, inputs: lambda x: graph + inputs + x, turn)(1, 2)
    with pytest.raises(_NotNow):
        code(3)
    assert code(3) == 6
    assert code(4) == 7
    assert len(asked) == 2


def test_a_difference_of_noisy_times_is_never_nothing() -> None:
    assert _less((3.0, 1.0), (2.0, 2.0, 9.0)) == (1.0, LEAST_S)


def test_the_host_beside_a_case_replaces_that_of_the_file() -> None:
    """A host that became twice as slow between its looks and the case is taken as it was beside the case."""
    slow = {kind: 3 * value for kind, value in LOOK.items()}
    line = {"host": {"looks": [LOOK, slow], "blocks_s": [140e-6, 1.0, 130e-6]}, "date": "2026-11-30", "driver": "1"}
    found = {entry.quantity: entry.value for entry in with_host(load("h200"), line).measured}
    for kind, value in LOOK.items():
        assert found[kind] == pytest.approx(2 * value)
    assert "host_compiled_call_s" not in found, "the file's compiled calls are another host's"
    assert with_host(load("h200"), {}) == load("h200")


def test_eager_rows_wait_for_their_own_host(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = []
    for pace, run in ((1.0, "eager"), (2.0, "eager"), (2.0, "graph")):
        case = cases(("resnet18",), (1,), runs=(run,))[0]
        host = {"looks": [LOOK, LOOK], "blocks_s": [pace * LOOK["host_block_s"]]} if run == "eager" else None
        fields = {field: getattr(case, field) for field in ("model", "batch", "resolution", "dtype", "autocast", "layout", "run")}
        extra = {"host": host, "date": "2026-11-30", "driver": "1", "times_s": [1e-3], "median_s": 1e-3 * (1 + len(lines))}
        lines.append(json.dumps({"key": case.key, "device": "NVIDIA H200", **fields, **extra}))
    path.write_text("\n".join(lines), encoding="utf-8")
    fast, slow, replayed = (row.predicted_latency_s for row in compare_networks(path, "h200").rows)
    assert slow / fast == pytest.approx(2, rel=0.02), "all of it is waiting for the host"
    assert replayed < 0.5 * fast


def test_layers_beside_their_networks_kernels(tmp_path: Path) -> None:
    path = tmp_path / "layers.jsonl"
    shared = {
        "batch": 8,
        "resolution": 224,
        "dtype": "fp16",
        "layout": "nhwc",
        "device": "GPU",
        "times_s": [1e-5],
        "median_s": 1e-5,
    }
    nodes = {"vgg16": ("features.0", "features.4"), "resnet18": ("bn1",)}
    lines = [
        {
            "key": f"{network} {node}",
            "model": node,
            "kind": "layer",
            "network": network,
            "node": node,
            **shared,
            "median_s": len(node),
        }
        for network, found in nodes.items()
        for node in found
    ]
    lines += [
        {"key": "resnet18", "model": "resnet18", **shared},
        {"key": "x", "model": "x", "kind": "layer", "network": "resnet18", "node": "nonesuch", **shared},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = compare_layers(path, "h200")
    assert [row.kernels for row in found.rows] == [2, 1, 3], "a convolution and its bias; a pool; a norm and its helpers"
    assert [one.rows for one in found.skipped] == [("resnet18",), ("x",)]
    p = predict("vgg16", "h200", batch=8, dtype="fp16", schedule="eager", tier="expected", graph=True)
    own = [time for time in p.times if time.kernel.layers == ("features.0",)]
    assert found.rows[0].predicted_latency_s == pytest.approx(sum(time.latency_s for time in own))
    assert found.by_path["move"].n == 1
    assert command(["validate", "layers", str(path), "--hardware", "h200"]) == 0
    path.write_text("\n".join(map(json.dumps, lines[:1])), encoding="utf-8")
    with pytest.raises(MeasurementFileError, match="at least 2"):
        compare_layers(path, "h200")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["validate", "run", "--what", "fused", "--output", "r", "--models", "convfrist"], "--models takes convfirst"),
        (["validate", "run", "--what", "fused", "--output", "r", "--stages", "look"], "--stages takes check, time, count"),
        (["validate", "run", "--what", "layers", "--output", "r", "--precisions", "autocast-fp16"], "no autocast"),
        (["hardware", "measure", "--only", "memory,everything"], "not 'everything'"),
        (["validate", "layers", "absent.jsonl", "--hardware", "h200"], "cannot read"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_fused_kernels_are_measured_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def measured(arguments: list[str]) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr("perfmodel.validation.measure.main", measured)
    options = ["--models", "convfirst,mbconv", "--batches", "1,16", "--stages", "time"]
    assert command(["validate", "run", "--what", "fused", "--output", "folder", *options]) == 0
    assert command(["validate", "run", "--what", "fused", "--output", "folder"]) == 0
    wanted = "--output folder --block convfirst --block mbconv --stage time --batch 1 --batch 16"
    assert asked == [wanted.split(), ["--output", "folder"]]
