"""Timing layouts of the generic kernels, without a GPU: which ones, how they are written, resumption, refusals."""

from __future__ import annotations

import contextlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from perfmodel.validation import benchmarks, launch, layouts, prepare, timing
from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.generic.layout import Layout
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.gpu import State
from perfmodel.validation.layout_records import RECORDED, layouts_of
from perfmodel.validation.layouts import ASKED, asked_for, config_of_layout, key_of, line_of, main
from perfmodel.validation.recorder import Recorder, read_lines
from perfmodel.validation.timing import Timing
from tests.gpus import H200

LINES = [line for line in read_lines(ASKED) if line["kind"] == "layout" and "before" not in line]
WHERE = {"kind": "run", "run": "now", "date": "2026-11-30", "device": "NVIDIA H200", "driver": "580", "revision": "abc"}
COUNT = 183
"""Layouts that are recorded."""
ADDED = ("before", "after", "run", "device")
"""By the harness to a line, which the lines recorded first lack."""
STATE = State(sm_clock_hz=1.98e9, memory_clock_hz=3.2e9, power_w=300.0, temperature_c=40.0)


def timed(*times_s):
    return Timing(mode="burst", launches=24, times_s=times_s, before=STATE, after=STATE)


def code(line):
    pairs = zip(line["registers"], line["spilled_bytes"], strict=True)
    return [SimpleNamespace(registers=registers, spilled_bytes=spilled) for registers, spilled in pairs]


def test_the_layouts_asked_for_are_those_recorded():
    found = [key_of(problem, layout) for problem, several in asked_for().items() for layout in several]
    keys = ("kind", "case", "problem", "layout")
    assert len(found) == COUNT
    assert sorted(map(json.dumps, found)) == sorted(json.dumps({key: line[key] for key in keys}) for line in LINES)
    by_family = {name: sum(map(len, asked_for([name]).values())) for name in FAMILIES}
    assert sum(by_family.values()) == COUNT
    assert all(by_family.values())


def test_a_line_is_written_as_those_recorded(tmp_path):
    """The same fields in the same order, then the clocks, the device and the run, as the other lines of the harness."""
    recorder = Recorder(tmp_path / RECORDED, {**WHERE, "what": layouts.WHAT})
    assert len(LINES) == COUNT
    for line in LINES:
        ((problem, layout),) = layouts_of(ASKED, [line])
        recorder.add(line_of(problem, layout, code(line), timed(*(value * (1 + 1e-8) for value in line["times_s"]))))
    run, *written = read_lines(tmp_path / RECORDED)
    assert run["what"] == read_lines(ASKED)[0]["what"]
    for line, given in zip(written, LINES, strict=True):
        own = {key: value for key, value in given.items() if key not in ADDED}
        assert list(line.items())[: len(own)] == list(own.items())
        assert tuple(line)[len(own) :] == ADDED
        assert line["before"]["sm_clock_hz"] == 1.98e9
    assert layouts_of(tmp_path, written).keys() == layouts_of(ASKED, LINES).keys()


def test_of_one_layout_the_newest_line_counts():
    first, other = LINES[:2]
    newer = {**first, "median_s": 1.0}
    refused = {**{key: first[key] for key in ("kind", "case", "problem", "layout")}, "refused": "no room"}
    assert list(layouts_of(ASKED, [first, other, newer, refused]).values()) == [newer, other]


@pytest.fixture
def measuring(monkeypatch):
    """The parts that need a GPU taken away; what is compiled, and what is timed."""
    seen = SimpleNamespace(compiled=[], timed=[], drawn=[], fails=lambda number, problem: None, device=H200)

    def time_layout(problem, layout, pairs):
        seen.fails(len(seen.timed), problem)
        seen.timed.append((problem, layout))
        return line_of(problem, layout, [SimpleNamespace(registers=128, spilled_bytes=0)], timed(3e-5, 1e-5, 2e-5))

    monkeypatch.setattr(layouts, "run_record", lambda revision: {**WHERE, "revision": revision or WHERE["revision"]})
    monkeypatch.setattr(layouts, "this_device", lambda: seen.device)
    monkeypatch.setattr(layouts, "prepare_configs", lambda configs, device, tell: seen.compiled.extend(configs))
    monkeypatch.setattr(layouts, "rotated", lambda problem, device: seen.drawn.append(problem) or [(0, 0)])
    monkeypatch.setattr(layouts, "time_layout", time_layout)
    monkeypatch.setattr(layouts, "release", lambda: None)
    return seen


def test_a_run_that_was_cut_off_goes_on(tmp_path, measuring, capsys):
    def stopped(number, problem):
        if number == 20:
            raise KeyboardInterrupt

    measuring.fails = stopped
    with pytest.raises(KeyboardInterrupt):
        main(["--output", str(tmp_path)])
    assert len(measuring.compiled) == COUNT
    assert len(read_lines(tmp_path / RECORDED)) == 21
    measuring.fails = lambda number, problem: None
    measuring.compiled.clear()
    assert main(["--output", str(tmp_path), "--revision", "v2"]) == 0
    assert len(measuring.compiled) == COUNT - 20
    assert f"of {COUNT - 20}: " in capsys.readouterr().err
    assert len(set(measuring.timed)) == len(measuring.timed) == COUNT
    runs = [line for line in read_lines(tmp_path / RECORDED) if line["kind"] == "run"]
    assert [(run["revision"], run["driver"], run["what"]) for run in runs] == [
        ("abc", "580", layouts.WHAT),
        ("v2", "580", layouts.WHAT),
    ]
    assert main(["--output", str(tmp_path)]) == 0
    assert len(measuring.timed) == COUNT
    assert f"all {COUNT} layouts are in" in capsys.readouterr().err
    assert main(["--output", str(tmp_path), "--again", "--block", "convnext"]) == 0
    again = measuring.timed[COUNT:]
    assert {problem.family for problem, _ in again} == {"convnext"}
    assert len(again) == sum(map(len, asked_for(["convnext"]).values()))
    cases = len(asked_for())
    assert (
        cases <= len(measuring.drawn) <= cases + 1 + len(asked_for(["convnext"]))
    )  # the inputs of a problem once for all of its layouts


def test_what_is_recorded_is_known_by_the_device_of_its_run(tmp_path, measuring, monkeypatch):
    """The lines recorded first do not say their device, and their run does."""
    shutil.copy(ASKED, tmp_path / RECORDED)
    assert main(["--output", str(tmp_path)]) == 0
    assert not measuring.timed
    monkeypatch.setattr(layouts, "run_record", lambda revision: {**WHERE, "device": "NVIDIA A100"})
    assert main(["--output", str(tmp_path), "--block", "mbconv"]) == 0
    assert len(measuring.timed) == sum(map(len, asked_for(["mbconv"]).values()))


def test_what_cannot_be_timed_is_recorded_and_tried_again(tmp_path, measuring, capsys):
    def refused(number, problem):
        if problem.C == 256:
            raise GpuError("too much shared memory")

    measuring.fails = refused
    several = sum(len(found) for problem, found in asked_for().items() if problem.C == 256)
    for _ in range(2):
        assert main(["--output", str(tmp_path)]) == 5
        assert f"perfmodel: {several} could not be measured" in capsys.readouterr().err
        lines = [line for line in read_lines(tmp_path / RECORDED) if line["kind"] == "layout"]
        assert sum(line.get("refused") == "too much shared memory" for line in lines) == several
        assert len(lines) == COUNT
    measuring.fails = lambda number, problem: None
    assert main(["--output", str(tmp_path)]) == 0
    assert len(layouts_of(tmp_path, read_lines(tmp_path / RECORDED))) == COUNT


def test_without_a_gpu_it_is_one_sentence_and_exit_5(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("perfmodel.validation.gpu.importlib.import_module", missing)
    assert main(["--output", str(tmp_path)]) == 5
    captured = capsys.readouterr()
    assert captured.err.startswith("perfmodel: CuPy is not installed")
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, measuring, capsys):
    (tmp_path / "afile").write_text("")
    assert main(["--output", str(tmp_path / "afile")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("perfmodel: cannot write")
    assert error.count("\n") == 1


class Pool:
    """In this process."""

    def __init__(self, workers):
        del workers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    map = staticmethod(map)


def test_every_launch_of_every_layout_is_compiled(monkeypatch):
    """Once each; what the compiler refuses is left for whoever times it."""
    units = []

    def compile_unit(unit):
        units.append(unit)
        if unit.name.startswith("convnext"):
            raise GpuError("refused")

    monkeypatch.setattr(prepare, "_pool", Pool)
    monkeypatch.setattr(prepare, "compile_unit", compile_unit)
    several = [(problem, config_of_layout(problem, layout)) for problem, found in asked_for().items() for layout in found]
    said = []
    served = sum(problem.family != "convnext" for problem, _ in several)
    assert prepare.prepare_configs(several, H200, said.append) == served
    assert len(units) == len({(unit.name, problem.name) for unit, (problem, _) in zip(units, several, strict=True)}) == COUNT
    assert {unit.architecture for unit in units} == {"sm_90a"}
    assert said[-1] == "kernels of 180 configurations: there"


class Stream:
    """A CUDA stream and the graph captured in it, of a GPU whose every call takes a launch's time."""

    launched = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def synchronize(self):
        return None

    def begin_capture(self):
        return None

    def end_capture(self):
        return self

    def launch(self, stream):
        assert stream is self
        Stream.launched += 1


CUPY = SimpleNamespace(
    uint16=np.uint16,
    cuda=SimpleNamespace(
        Stream=lambda **_: Stream(),
        Event=lambda: SimpleNamespace(record=lambda stream: None),
        get_elapsed_time=lambda start, end: 0.48,
    ),
)


class Block:
    """Leaves `value` in its output."""

    value = 1.0

    def __init__(self, problem, parameters, *, config):
        assert isinstance(parameters, family_of(problem).parameters)
        self.config, self.compiled, self.calls = config, [SimpleNamespace(registers=99, spilled_bytes=4)], []

    def __call__(self, x, out):
        out[...] = self.value
        self.calls.append(x)
        return out


@pytest.fixture
def one(monkeypatch):
    """A layout, its buffers, and a GPU that is none."""
    (problem, layout) = next((problem, found[0]) for problem, found in asked_for().items() if problem.N == 1)
    for module in (layouts, benchmarks, timing):
        monkeypatch.setattr(module, "cupy_with_gpu", lambda: CUPY)
    monkeypatch.setattr(timing, "state", lambda: STATE)
    monkeypatch.setattr(timing, "PAUSE_S", 0)
    monkeypatch.setattr(layouts, "FusedBlock", Block)
    monkeypatch.setattr(layouts, "not_a_number", lambda p: np.full(p.output_shape, np.nan, np.float16))
    pairs = [(np.zeros(problem.input_shape, np.float16), np.zeros(problem.output_shape, np.float16)) for _ in range(5)]
    return problem, layout, pairs


def test_a_layout_is_timed_in_three_replays(one):
    problem, layout, pairs = one
    Stream.launched = 0
    line = layouts.time_layout(problem, layout, pairs)
    assert Stream.launched == 3 + layouts.REPLAYS  # three that warm up
    assert line["times_s"] == [1.92e-05] * 3  # of 480 µs for 5 rounds over 5 buffers
    assert (line["median_s"], line["registers"], line["spilled_bytes"]) == (1.92e-05, [99], [4])
    assert key_of(problem, layout).items() <= line.items()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_layout_that_leaves_no_number_is_refused(one, monkeypatch, value):
    problem, layout, pairs = one
    monkeypatch.setattr(Block, "value", value)
    with pytest.raises(GpuError, match=f"{problem.name}: .*_generic_.* leaves what is no finite number"):
        layouts.time_layout(problem, layout, pairs)


def test_a_block_takes_the_configuration_that_it_is_given(monkeypatch):
    """Of a layout other than the one that is chosen, with its own launches and weights."""
    array = lambda buffer: buffer  # noqa: E731
    cupy = SimpleNamespace(
        asarray=array, zeros=np.zeros, uint8=np.uint8,
        cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None)),
    )  # fmt: skip
    for name, value in (
        ("cupy_with_gpu", lambda: cupy), ("compile_unit", lambda unit: unit), ("Function", lambda unit, shared, cluster: unit),
        ("in_memory", lambda _: contextlib.nullcontext()),
    ):  # fmt: skip
        monkeypatch.setattr(launch, name, value)
    problem, several = next(found for found in asked_for().items() if len(found[1]) > 1)
    parameters = family_of(problem).draw(problem, 0)
    for layout in several:
        block = launch.FusedBlock(problem, parameters, config=config_of_layout(problem, layout), device=H200)
        assert Layout.of(layout.work, block.config.defines) == layout
        assert [one.shared_bytes for one in block.launches] == [layout.shared_bytes]
        assert [unit.name for unit in block.compiled] == [block.config.name]
