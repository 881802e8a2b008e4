"""Networks and layers measured on a GPU, as far as no GPU is needed: who runs when, what a host's looks say, what is compared."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

from perfmodel.cli import run as command
from perfmodel.hardware.catalog import load
from perfmodel.prediction import predict
from perfmodel.validation import network_run
from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.host_times import CHAIN, LEAST_S, _compiled, _less, drowned
from perfmodel.validation.layer_comparison import compare_layers
from perfmodel.validation.microbenchmarks import MachineRun, SkippedPart
from perfmodel.validation.microbenchmarks import run as microbenchmarks_run
from perfmodel.validation.network_comparison import compare_networks, with_host
from perfmodel.validation.network_run import (
    Counts,
    NetworkCase,
    _Gate,
    _NotNow,
    _of_its_looks,
    cases,
    measure_all,
    measure_compiled,
    read_results,
)
from perfmodel.validation.network_tables import foreseen_tables
from perfmodel.validation.python_stack import page_faults, with_room
from perfmodel.validation.samples import Sample
from perfmodel.validation.torch_timing import settled
from tests.gpus import H200

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

    @staticmethod
    def empty_cache() -> None:
        pass


class _Torch:
    cuda = _Cuda
    backends = SimpleNamespace(cudnn=SimpleNamespace(benchmark=False))


class _Timm:
    """It has every model but `nonesuch…`."""

    @staticmethod
    def is_model(name: str) -> bool:
        return not name.startswith("nonesuch")

    @staticmethod
    def list_models() -> list[str]:
        return ["nonsuch50", "resnet50"]


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
    monkeypatch.setattr(network_run, "_timm", lambda: _Timm)
    monkeypatch.setattr(network_run, "_compiled", worker)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: _Context)
    return done


def test_networks_compile_together_and_are_timed_alone(steps: list[str], tmp_path: Path) -> None:
    wanted = cases(("a", "broken", "b"), (1,), runs=("compile", "compile-graph"))
    said: list[str] = []
    assert measure_compiled(wanted, tmp_path / "r.jsonl", jobs=3, say=said.append) == Counts(4, 2)
    assert sorted(steps[:2]) == ["compile a/1", "compile b/1"], "once for both ways of running"
    assert steps[2:] == ["time a/1 compile", "time a/1 compile-graph", "time b/1 compile", "time b/1 compile-graph"]
    assert any("does not compile" in line for line in said)
    assert {line["run"] for line in read_results(tmp_path / "r.jsonl")} == {"compile", "compile-graph"}
    before = len(steps)
    assert measure_compiled(wanted, tmp_path / "r.jsonl", jobs=3) == Counts(0, 2), "what is recorded is not measured again"
    assert len(steps) == before


def test_at_most_so_many_compile_at_once(steps: list[str], tmp_path: Path) -> None:
    measure_compiled(cases(("a", "b", "c"), (1,), runs=("compile",)), tmp_path / "r.jsonl", jobs=2)
    assert steps.index("time b/1 compile") < steps.index("compile c/1")


def test_processes_end_where_a_result_cannot_be_written(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The others still wait for their turn: it never comes, and they end."""

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(network_run.NetworkResults, "add", full)
    before = threading.active_count()
    with pytest.raises(OSError, match="disk full"):
        measure_compiled(cases(("a", "b", "c"), (1,), runs=("compile",)), tmp_path / "r.jsonl", jobs=3)
    assert threading.active_count() == before
    assert [step for step in steps if step.startswith("time")] == ["time a/1 compile"]


def test_preparing_runs_nothing(steps: list[str]) -> None:
    assert measure_compiled(cases(("a", "b"), (1,), runs=("compile", "compile-graph")), None, jobs=2) == Counts(4, 0)
    assert sorted(steps) == ["compile a/1", "compile b/1"]


def test_no_turn_begins_after_its_time(steps: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    wanted = cases(("a", "b"), (1,), runs=("compile",))
    assert measure_compiled(wanted, tmp_path / "r.jsonl", jobs=2, seconds=0, say=said.append) == Counts(0, 0)
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
    assert _less((3.0, 1.0, 5.0), (2.0, 2.0, 4.0)) == (1.0, LEAST_S, 1.0)
    assert _less((3.0, 1.0), (2.0, 2.0), 4) == (0.25, LEAST_S)


def mapped_pages_are_counted() -> bool:
    """Whether a page that is mapped and written to for the first time is a page fault here."""
    before = page_faults()
    with mmap.mmap(-1, 64 * mmap.PAGESIZE) as pages:
        for page in range(0, len(pages), mmap.PAGESIZE):
            pages[page] = 1
    after = page_faults()
    return before is not None and after is not None and after - before >= 64


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="CPython's way to keep frames")
@pytest.mark.skipif(not mapped_pages_are_counted(), reason="nobody counts page faults on this system")
def test_calls_with_room_meet_the_end_of_no_chunk_of_the_stack() -> None:
    """Wherever the caller stands: at some places a call of nothing at all has Python map a chunk of its stack each time."""

    def nothing() -> None:
        return

    def faults(calls: int = 50) -> int:
        before = page_faults() or 0
        for _ in range(calls):
            nothing()
        return (page_faults() or 0) - before

    def caller(work: Callable[[], int]) -> int:
        return work()

    def most(work: Callable[[], int]) -> int:
        frames = (caller.__code__.replace(co_stacksize=words) for words in range(8, 2100, 4))
        return max(FunctionType(frame, {})(work) for frame in frames)

    assert most(faults) >= 50, "this Python keeps its frames otherwise: calls need no room any more (python_stack)"
    assert most(lambda: with_room(faults)) < 50, "a chunk's end costs one a call"


def test_a_difference_that_drowned_in_noise_is_said() -> None:
    found = dict.fromkeys(("compiled call", "compiled convolutions", "compiled plain", "compiled pairs"), (1e-3, 1e-3))
    samples = {
        one.quantity: one for one in _compiled({**found, "compiled plain": (2e-3, 0.5e-3), "compiled pairs": (3e-3, 3e-3)})
    }
    assert samples["host_compiled_kernel_s"].detail == "nothing or less in 1 of 2 repeats, taken for 0.1 µs"
    assert samples["host_compiled_pair_s"].detail is None
    assert drowned({"host_block_s": 5e-5, "host_inner_s": LEAST_S}) == ("host_inner_s",)
    line = {"host": {"looks": [{"host_block_s": 5e-5, "host_inner_s": LEAST_S}, {"host_block_s": 5e-5, "host_inner_s": 6e-6}]}}
    assert _of_its_looks(line) == "; in noise, and taken for 0.1 µs: host_inner_s"
    assert _of_its_looks({}) == ""


def test_chains_of_compiled_code_are_taken_apart_into_what_they_were_made_of() -> None:
    """Each chain is issued in the sum of its parts; a host that is half as fast in one repeat changes no difference of another."""
    call, convolution, kernel, given = 50e-6, 12e-6, 9e-6, 0.5e-6

    def taken(pace: float) -> dict[str, float]:
        convolutions = call + CHAIN * (convolution + given)
        return {
            "compiled call": pace * (call + kernel),
            "compiled convolutions": pace * convolutions,
            "compiled plain": pace * (convolutions + CHAIN * kernel),
            "compiled pairs": pace * (convolutions + CHAIN * (kernel + 4 * given)),
        }

    slow = [taken(pace) for pace in (1.0, 2.0, 1.0)]
    found = {one.quantity: one.values for one in _compiled({name: tuple(each[name] for each in slow) for name in slow[0]})}
    for part, seconds in (("call", call), ("convolution", convolution), ("kernel", kernel), ("input", given)):
        assert found[f"host_compiled_{part}_s"] == pytest.approx((seconds, 2 * seconds, seconds))
    pair = convolution + kernel + 5 * given + call / CHAIN
    assert found["host_compiled_pair_s"] == pytest.approx((pair, 2 * pair, pair))


def test_compiled_code_is_taken_at_the_speed_of_its_own_moments() -> None:
    """Eager chains became twice as slow beside the case, compiled ones three times; a moment's one pass takes longer than a look's many."""
    look = {**LOOK, "host_compiled_pair_s": 40e-6, "host_compiled_kernel_s": 10e-6}
    host = {"looks": [look, look], "blocks_s": 9 * [2 * LOOK["host_block_s"]], "pairs_s": [50e-6, *7 * [150e-6], 50e-6]}
    line = {"host": host, "date": "2026-11-30", "driver": "1", "times_s": 36 * [1e-3]}
    found = {entry.quantity: entry.value for entry in with_host(load("h200"), line).measured}
    assert found["host_compiled_kernel_s"] == pytest.approx(30e-6)
    assert found["host_norm_s"] == pytest.approx(2 * LOOK["host_norm_s"])
    host["hot_pairs_s"] = [44e-6, *8 * [100e-6]]
    found = {entry.quantity: entry.value for entry in with_host(load("h200"), line).measured}
    assert found["host_compiled_kernel_s"] == pytest.approx(25e-6), "a pass after the first is what a look's many are"
    assert found["host_norm_s"] == pytest.approx(2 * LOOK["host_norm_s"])


def test_the_host_beside_a_case_replaces_that_of_the_file() -> None:
    """A host that became twice as slow between its looks and the case is taken as it was beside the case, at each step as between looks."""
    slow = {kind: 3 * value for kind, value in LOOK.items()}
    line = {
        "host": {"looks": [LOOK, slow], "blocks_s": [100e-6, 180e-6, 100e-6]},
        "date": "2026-11-30",
        "driver": "1",
        "times_s": 12 * [1e-3],
    }
    found = {entry.quantity: entry.value for entry in with_host(load("h200"), line).measured}
    for kind, value in LOOK.items():
        assert found[kind] == pytest.approx(2 * value)
    assert "host_compiled_call_s" not in found, "the file's compiled calls are another host's"
    assert with_host(load("h200"), {}) == load("h200")


def test_rows_in_a_stream_stand_apart_by_what_was_seen_of_their_host(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    host = {"looks": [LOOK, LOOK], "blocks_s": [LOOK["host_block_s"]]}
    each = {**host, "blocks_s": 2 * host["blocks_s"]}
    lines = []
    for more in ({}, {"host": each}, {"host": host}, {"host": host, "page_faults": 0}, {"host": host, "page_faults": 9}):
        case = cases(("resnet18",), (1,), runs=("eager",))[0]
        fields = {field: getattr(case, field) for field in ("model", "batch", "resolution", "dtype", "autocast", "layout", "run")}
        line = {
            "key": case.key,
            "device": "NVIDIA H200",
            **fields,
            "date": "2026-11-30",
            "times_s": [1e-3, 1e-3],
            "median_s": 1e-3,
            **more,
        }
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines), encoding="utf-8")
    assert {name: one.n for name, one in compare_networks(path, "h200").by_run.items()} == {
        "eager, batch ≤ 16, host unseen": 1,
        "eager, batch ≤ 16, looked at in each step": 1,
        "eager, batch ≤ 16, stack unseen": 1,
        "eager, batch ≤ 16": 2,
    }


def test_compiled_rows_whose_moments_had_one_pass_stand_apart(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    look = {**LOOK, "host_compiled_pair_s": 40e-6, "host_compiled_kernel_s": 10e-6}
    once = {"looks": [look, look], "blocks_s": [50e-6], "pairs_s": [40e-6]}
    case = cases(("resnet18",), (1,), runs=("compile",))[0]
    fields = {field: getattr(case, field) for field in ("model", "batch", "resolution", "dtype", "autocast", "layout", "run")}
    rest = {"device": "NVIDIA H200", "date": "2026-11-30", "times_s": [1e-3, 1e-3], "median_s": 1e-3, "page_faults": 0}
    lines = [{"key": case.key, **fields, **rest, "host": host} for host in (once, {**once, "hot_blocks_s": [45e-6]})]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert set(compare_networks(path, "h200").by_run) == {
        "compile, batch ≤ 16, looks of one pass",
        "compile, batch ≤ 16",
    }


def test_a_host_whose_looks_cannot_be_leaves_out_its_case_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    strange = [{**LOOK, "host_block_s": 3600.0}]
    lines = []
    for host in ({"looks": [LOOK], "blocks_s": [LOOK["host_block_s"]]},) * 2 + ({"looks": strange, "blocks_s": [1e-10]},):
        case = cases(("resnet18",), (1,), runs=("eager",))[0]
        fields = {field: getattr(case, field) for field in ("model", "batch", "resolution", "dtype", "autocast", "layout", "run")}
        rest = {"device": "NVIDIA H200", "date": "2026-11-30", "times_s": [1e-3], "median_s": 1e-3}
        lines.append(json.dumps({"key": case.key, **fields, **rest, "host": host}))
    path.write_text("\n".join(lines), encoding="utf-8")
    found = compare_networks(path, "h200")
    assert len(found.rows) == 2
    (left_out,) = found.skipped
    assert left_out.reason.startswith("what was seen of its host is no time of a call: ")


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


def test_a_layer_is_of_a_network_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else a file names is not looked for: a function would be imported and run, a file read."""
    (tmp_path / "named_by_a_file.py").write_text("raise SystemExit('run')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "layers.jsonl"
    names = ("resnet18", "ResNet-18", "named_by_a_file:model", "timm:resnet18", str(tmp_path / "model.onnx"))
    lines = [_recorded(kind="layer", network=name, node="bn1", key=name) for name in names]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = compare_layers(path, "h200")
    assert [row.network for row in found.rows] == list(names[:2])
    assert sum(len(one.rows) for one in found.skipped) == 3
    assert all("unknown model" in one.reason for one in found.skipped)


def test_layers_beside_their_networks_kernels(tmp_path: Path) -> None:
    path = tmp_path / "layers.jsonl"
    shared = {
        "batch": 8,
        "resolution": 224,
        "dtype": "fp16",
        "autocast": None,
        "layout": "nhwc",
        "run": "graph",
        "device": "NVIDIA H200",
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
        (["validate", "run", "--output", "r", "--layout", "zz"], "--layout takes nhwc or nchw"),
        (["validate", "run", "--output", "r", "--precisions", "fp16,zz"], "--precisions takes fp16, bf16"),
        (["validate", "run", "--output", "r", "--runs", "zz"], "--runs takes eager, graph"),
        (["validate", "run", "--output", "r", "--batches", "1,²"], "a whole number from 1 to 1048576, not '²'"),
        (["validate", "run", "--output", "r", "--batches", "9" * 5000], "a whole number from 1"),
        (["validate", "run", "--output", "r", "--stages", "time"], "--stages says nothing about --what networks"),
        (["validate", "run", "--output", "r", "--prepare"], "--prepare is about runs compile"),
        (["validate", "run", "--what", "layers", "--output", "r", "--runs", "eager"], "--runs says nothing about --what layers"),
        (["validate", "run", "--what", "layers", "--output", "r", "--precisions", "tf32"], "--precisions takes"),
        (["validate", "run", "--what", "layers", "--output", "r", "--models", "nonesuch"], "unknown model 'nonesuch'"),
        (["validate", "run", "--what", "fused", "--output", "r", "--jobs", "2"], "--jobs says nothing about --what fused"),
        (["validate", "run", "--what", "fused", "--output", "r", "--seeds", "4"], "--seeds takes at most 3, not 4"),
        (["validate", "run", "--output", "r", "--every", "3"], "--every says nothing about --what networks"),
        (["hardware", "measure", "--only", "memory,everything"], "not 'everything'"),
        (["hardware", "measure", "--hardware", "nonesuch", "--output", "r.toml"], "unknown device 'nonesuch'"),
        (["hardware", "measure", "--hardware", "h200", "--output", "."], "it is a folder"),
        (["hardware", "measure", "--hardware", "h200", "--samples", "absent/s.json"], "there is no folder absent"),
        (["validate", "layers", "absent.jsonl", "--hardware", "h200"], "cannot read"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_cases_that_were_predicted_before_they_were_measured() -> None:
    (_, sums), (heads, rows) = foreseen_tables()
    assert len(rows) == sum(int(row[1]) for row in sums)
    assert heads[3:6] == ("measured ms", "predicted ms", "error")
    for row in rows:
        assert 100 * (float(row[4]) / float(row[3]) - 1) == pytest.approx(float(row[5].removesuffix(" %")), abs=3)


def test_fused_kernels_are_measured_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def measured(arguments: list[str]) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr("perfmodel.validation.measure.main", measured)
    options = ["--models", "convfirst,mbconv", "--batches", "1,16", "--stages", "time"]
    options += ["--every", "3", "--seeds", "1", "--revision", "-dirty"]
    assert command(["validate", "run", "--what", "fused", "--output", "folder", *options]) == 0
    assert command(["validate", "run", "--what", "fused", "--output", "folder"]) == 0
    wanted = (
        "--output folder --block convfirst --block mbconv --stage time --batch 1 --batch 16 --every=3 --seeds=1 --revision=-dirty"
    )
    assert asked == [wanted.split(), ["--output", "folder"]]


def test_a_case_that_fails_costs_no_other(steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever a model raises, with or without a word; and the command's exit code says that something is missing."""
    raised = {"silent": AssertionError(), "vit": AssertionError("image size"), "odd": AttributeError("no such\nmore")}

    def module(torch: Any, timm: Any, case: NetworkCase) -> str:
        if case.model in raised:
            raise raised[case.model]
        return case.model

    monkeypatch.setattr(network_run, "_module", module)
    monkeypatch.setattr(network_run, "_measured", lambda torch, module, case, **_: {"times_s": [1.0], "median_s": 1.0})
    said: list[str] = []
    wanted = cases(("silent", "vit", "odd", "good"), (1,), runs=("graph",))
    assert measure_all(wanted, tmp_path / "r.jsonl", say=said.append) == Counts(1, 3)
    assert [line.split(": ", 1)[1] for line in said[:3]] == [
        "AssertionError",
        "AssertionError: image size",
        "AttributeError: no such",
    ]
    arguments = ["validate", "run", "--batches", "1", "--runs", "graph", "--output", str(tmp_path / "r.jsonl"), "--models"]
    assert command([*arguments, "good,vit"]) == 5
    assert command([*arguments, "good"]) == 0


def test_models_and_the_place_are_looked_at_before_anything_is_measured(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(network_run, "_module", lambda *_: pytest.fail("measured"))
    for runs in ("eager", "compile"):
        options = ["--runs", runs, "--batches", "1"]
        assert command(["validate", "run", *options, "--output", str(tmp_path / "r"), "--models", "a,nonesuch50"]) == 2
        assert "nonsuch50" in capsys.readouterr().err
        assert command(["validate", "run", *options, "--output", str(tmp_path), "--models", "a"]) == 2
        assert str(tmp_path) in capsys.readouterr().err
    assert not steps


def _recorded(**fields: object) -> dict[str, object]:
    case = cases(("resnet18",), (1,), runs=("graph",))[0]
    line = {field: getattr(case, field) for field in ("model", "batch", "resolution", "dtype", "autocast", "layout", "run")}
    line |= {"key": case.key, "device": "NVIDIA H200", "times_s": [1e-3], "median_s": 1e-3, **fields}
    return {field: value for field, value in line.items() if value is not ...}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"median_s": ...}, "median_s"),
        *(({"median_s": value}, "median_s") for value in (0, -1.0, "x", None, float("nan"))),
        *(({field: "zz"}, field) for field in ("dtype", "layout", "run", "autocast", "times_s", "batch")),
        ({"model": 3}, "model"),
        ({"host": {"looks": [], "blocks_s": [1.0]}}, "host.looks"),
        ({"host": {"looks": [{"host_norm_s": 1.0}], "blocks_s": [1.0]}}, "host_block_s"),
        ({"host": {"looks": [{"host_block_s": 1.0, "norm": 1.0}], "blocks_s": [1.0]}}, "host.looks"),
        ({"host": {"looks": [{"host_block_s": 1e300}], "blocks_s": [1e300]}}, "host.looks"),
        ({"host": {"looks": [LOOK], "blocks_s": [1.0], "pairs_s": [1.0]}, "date": "2026-11-30"}, "host_compiled_pair_s"),
        ({"host": {"looks": [LOOK], "blocks_s": [1.0]}}, "needs its date"),
        ({"host": {"looks": [LOOK], "blocks_s": [1.0]}, "date": "yesterday"}, "date"),
        ({"kind": "layer", "network": ["resnet18"], "node": "bn1"}, "network"),
        ({"kind": "layer", "network": "resnet18"}, "node"),
    ],
)
def test_a_damaged_line_is_named(
    fields: dict[str, object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f"{json.dumps(_recorded())}\n{json.dumps(_recorded(**fields))}\n", encoding="utf-8")
    assert command(["validate", "networks", str(path), "--hardware", "h200"]) == 2
    error = capsys.readouterr().err
    assert "line 2" in error
    assert said in error


def test_what_cannot_be_compared_is_listed_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = [_recorded(batch=batch) for batch in (16, 17, 63, 64)]
    lines += [_recorded(device="NVIDIA GeForce RTX 4090", key="other"), _recorded(dtype="fp32", layout="nchw", key="slow")]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = compare_networks(path, "h200")
    assert {name: one.n for name, one in found.by_run.items()} == {
        "graph, batch 17 to 63": 2, "graph, batch ≤ 16": 1, "graph, batch ≥ 64": 1,
    }  # fmt: skip
    assert {one.rows: one.reason for one in found.skipped}["other",] == "measured on NVIDIA GeForce RTX 4090"
    with pytest.raises(MeasurementFileError, match="measured on NVIDIA H200: 5"):
        compare_networks(path, "rtx4090")


def test_samples_of_a_machine_are_written_as_they_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run that dies keeps what it had."""
    sample = Sample(quantity="launch_stream_s", kernel="nothing", values=(1e-6,))
    found = MachineRun(device="NVIDIA H200", date="2026-11-30", driver="1", cupy="14", torch=None, samples=(sample,))

    def measured(say: object, only: object, keep: Callable[[MachineRun], None]) -> MachineRun:
        keep(found)
        raise MemoryError

    monkeypatch.setattr("perfmodel.validation.microbenchmarks.run", measured)
    path = tmp_path / "samples.json"
    with pytest.raises(MemoryError):
        command(["hardware", "measure", "--hardware", "h200", "--samples", str(path), "--output", str(tmp_path / "x.toml")])
    assert MachineRun.model_validate_json(path.read_text(encoding="utf-8")) == found


def test_a_part_that_cannot_be_measured_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No copy of the device's file is left that looks like a result."""
    skipped = tuple(SkippedPart(part=part, reason="as PyTorch is not installed") for part in ("memory", "compiled"))
    found = MachineRun(device="NVIDIA H200", date="2026-11-30", driver="1", cupy="14", torch=None, samples=(), skipped=skipped)
    monkeypatch.setattr("perfmodel.validation.microbenchmarks.run", lambda *_: found)
    options = ["--hardware", "h200", "--only", "memory,compiled", "--output", str(tmp_path / "x.toml")]
    assert command(["hardware", "measure", *options]) == 5
    assert "nothing of memory, compiled can be measured here, as PyTorch is not installed" in capsys.readouterr().err
    assert not (tmp_path / "x.toml").exists()


def test_parts_that_cannot_run_are_said_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another GPU without PyTorch: no phases, and of the library's parts matrix products alone."""

    class Cupy:
        __version__ = "14"

        def RawModule(self, **_: object) -> None:
            return None

    ada = replace(H200, name="NVIDIA L40S", compute_capability=(8, 9))
    sample = Sample(quantity="matrix_fp16_ops_per_s", kernel="cuBLAS", values=(1e14,))
    for name, value in {
        "cupy_with_gpu": Cupy,
        "this_device": lambda: ada,
        "driver_version": lambda: "1",
        "_torch": lambda: None,
        "EventTimer": lambda **_: None,
        "_matrix_cupy": lambda *_: iter((sample,)),
    }.items():
        monkeypatch.setattr(f"perfmodel.validation.microbenchmarks.{name}", value)
    said: list[str] = []
    kept: list[MachineRun] = []
    found = microbenchmarks_run(said.append, ("phases", "matrix", "memory"), kept.append)
    assert found.parts == ("phases", "matrix", "memory")
    assert {one.part for one in found.skipped} == {"phases", "memory"}
    assert [line for line in said if line.startswith("phases: not measured") and "9.0, and this is 8.9" in line]
    assert [line for line in said if line.startswith("memory: not measured") and "PyTorch" in line]
    assert kept[-1] == found
    again = found.model_copy(update={"parts": ("phases",), "skipped": ()})
    assert {one.part for one in again.onto(found).skipped} == {"memory"}


def test_a_difference_that_drowns_in_noise_is_measured_again_and_then_refused() -> None:
    tries = iter(((1e-6, -1e-6), (1e-6, 2e-6)))
    assert settled("concat_block_s", lambda: next(tries)) == (1e-6, 2e-6)
    with pytest.raises(
        GpuError, match=r"concat_block_s is found from a difference .* -1e-06 s in the last of 3 tries.*measure again"
    ):
        settled("concat_block_s", lambda: (1e-6, -1e-6))


def test_a_part_measured_onto_an_older_run_keeps_its_other_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The samples of both in one file; in the device's file only what was measured now is new."""

    def of(date: str, **values: float) -> MachineRun:
        samples = tuple(Sample(quantity=quantity, kernel="k", values=(value,)) for quantity, value in values.items())
        return MachineRun(device="NVIDIA H200", date=date, driver="1", cupy="14", torch=None, samples=samples)

    older, newer = of("2026-11-22", meeting_s=9e-6, l2_latency_s=9e-7), of("2026-11-30", meeting_s=1e-6)
    recorded, both, device = tmp_path / "older.json", tmp_path / "both.json", tmp_path / "h200.toml"
    recorded.write_text(older.model_dump_json(), encoding="utf-8")
    monkeypatch.setattr("perfmodel.validation.microbenchmarks.run", lambda say, only, keep: keep(newer) or newer)
    monkeypatch.setattr("perfmodel.validation.gpu.this_device", lambda: H200)
    monkeypatch.setattr("perfmodel.validation.gpu.driver_version", lambda: "1")
    options = [
        "hardware",
        "measure",
        "--only",
        "phases",
        "--onto",
        str(recorded),
        "--samples",
        str(both),
        "--output",
        str(device),
    ]
    assert command(options) == 0
    found = MachineRun.model_validate_json(both.read_text(encoding="utf-8"))
    assert {sample.quantity: (sample.median, sample.date) for sample in found.samples} == {
        "l2_latency_s": (9e-7, "2026-11-22"),
        "meeting_s": (1e-6, None),
    }
    shipped, written = ({entry.quantity: entry for entry in load(name).measured} for name in ("h200", str(device)))
    assert written["meeting_s"].value == 1e-6
    assert {name: entry for name, entry in written.items() if name != "meeting_s"} == {
        name: entry for name, entry in shipped.items() if name != "meeting_s"
    }
    monkeypatch.setattr("perfmodel.validation.gpu.driver_version", lambda: "2")
    assert command(options) != 0  # before anything is measured
