"""The harness without a GPU: recorded files, their table, resumption, ncu's output."""

from __future__ import annotations

import json
import statistics
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from perfmodel.validation import benchmarks, checks, driver, gpu, launch, measure, prepare
from perfmodel.validation.dram import worth_counting
from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.fused.catalog import FAMILIES, problem_named, problem_of, record_of
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.gpu import as_cupy, in_memory
from perfmodel.validation.kernel_tables import checks_sentence, conditions_sentence, files, kernels_table, measured
from perfmodel.validation.measure import LARGE_BATCH, MeasureError, Outcome, asked_for, main
from perfmodel.validation.ncu import counted, parse
from perfmodel.validation.recorder import RESULTS, Recorder, read_lines
from tests.gpus import H200

RECORDED = RESULTS / "h200" / "convfirst.jsonl"

NCU = """==PROF== Connected
some output of the program
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","1","python3","h","convfirst_c64_e4_w4","1","7","(512, 1, 1)","(132, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","Mbyte","51.47"
"0","1","python3","h","convfirst_c64_e4_w4","1","7","(512, 1, 1)","(132, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_write.sum","Kbyte","1,024.5"
"0","1","python3","h","convfirst_c64_e4_w4","1","7","(512, 1, 1)","(132, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","us","62.5"
"""  # noqa: E501


def test_recorded_files_are_found():
    assert RECORDED in files()


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recorded_medians_follow_from_the_raw_times(path):
    lines = [line for line in read_lines(path) if line["kind"] == "time" and "refused" not in line]
    assert lines
    for line in lines:
        assert line["median_s"] == pytest.approx(statistics.median(line["times_s"]), rel=1e-4)
        assert line["p20_s"] <= line["median_s"] <= line["p80_s"]
        assert line["before"]["sm_clock_hz"] > 0


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_large_batches_are_recorded_whole(path):
    found = {one.case: one for one in measured(read_lines(path))}
    needed = {("fused", "burst"), ("fused", "sustained"), ("eager", "burst"), ("compile", "burst"), ("compile", "sustained")}
    large = [problem for problem in FAMILIES[path.stem].cases() if problem.N >= LARGE_BATCH]
    assert large
    for problem in large:
        one = found[problem.name]
        assert set(one.times) >= needed
        assert one.count is not None
        assert one.over_floor("burst") >= 1  # nothing is faster than the floor
        assert one.of_waterline() > 0


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recorded_checks_all_passed(path):
    lines = read_lines(path)
    recorded = [line for line in lines if line["kind"] == "check"]
    assert {line["case"] for line in recorded} >= {line["case"] for line in lines if line["kind"] == "time"}
    assert all(line["passed"] and line["repeats"] for line in recorded)


def test_table_has_each_case():
    rows = kernels_table().splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 2 + sum(len(measured(read_lines(path))) for path in files())
    assert "recorded checks passed" in checks_sentence()
    assert "H200" in conditions_sentence()


def test_documentation_shows_what_is_recorded():
    page = (Path(__file__).resolve().parent.parent / "docs" / "kernels.md").read_text(encoding="utf-8")
    for part in (kernels_table(), checks_sentence(), conditions_sentence()):
        assert part in page


def test_table_of_nothing(tmp_path):
    assert len(kernels_table(tmp_path).splitlines()) == 2
    assert checks_sentence(tmp_path) == "No check is recorded."


def test_recorder_resumes_and_flushes(tmp_path, capsys):
    path = tmp_path / "results" / "convfirst.jsonl"
    where = {"kind": "run", "run": "now", "device": "H200"}
    line = {"kind": "time", "case": "a", "what": "fused", "mode": "burst", "median_s": 1.0, "times_s": [1.0]}
    first = Recorder(path, where)
    assert not first.has(kind="time", case="a", what="fused", mode="burst")
    first.add(line)
    assert [one["kind"] for one in read_lines(path)] == ["run", "time"]  # there already
    assert "times_s" not in capsys.readouterr().out
    second = Recorder(path, where)
    assert second.has(kind="time", case="a", what="fused", mode="burst")
    assert not second.has(kind="time", case="a", what="fused", mode="sustained")
    assert not Recorder(path, {**where, "device": "H100"}).has(kind="time", case="a", what="fused", mode="burst")


def test_ncu_rows_become_launches():
    (one,) = parse(NCU)
    assert (one.kernel, one.read_bytes, one.written_bytes) == ("convfirst_c64_e4_w4", 51.47e6, 1024.5e3)
    assert one.duration_s == pytest.approx(62.5e-6)
    assert parse("nothing here") == ()
    with pytest.raises(MeasurementFileError, match="furlong"):
        parse(NCU.replace('"us"', '"furlong"'))


def test_ncu_missing_or_forbidden(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(GpuError, match="ncu is not installed"):
        counted(["true"], "x")
    fake = tmp_path / "ncu"
    fake.write_text("#!/bin/sh\necho '==ERROR== ERR_NVGPUCTRPERM - no permission'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(fake))
    with pytest.raises(GpuError, match="administrators only"):
        counted(["true"], "x")


# -- what keeps a kernel from running: one sentence, exit 5 ------------------------------------------------------------------


def test_no_cupy_is_one_sentence_and_exit_5(monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("perfmodel.validation.gpu.importlib.import_module", missing)
    assert main(["--block", "convfirst"]) == 5
    assert capsys.readouterr().err.startswith("perfmodel: CuPy is not installed")
    assert measure.main(["--only-check"]) == 5


class CUDARuntimeError(RuntimeError):
    pass


class FakeCupy:
    """As much of CuPy as is asked before anything is launched."""

    __name__ = "cupy"
    ndarray = np.ndarray

    def __init__(self, count=1, error=None):
        def device_count():
            if error is not None:
                raise CUDARuntimeError(error)
            return count

        runtime = SimpleNamespace(getDeviceCount=device_count, CUDARuntimeError=CUDARuntimeError)
        device = SimpleNamespace(id=0, pci_bus_id="0000:1B:00.0")
        self.cuda = SimpleNamespace(runtime=runtime, Device=lambda: device)

    @staticmethod
    def from_dlpack(array):
        raise BufferError(f"device of {type(array).__name__} differs")


@pytest.fixture
def fake_cupy(monkeypatch):
    def install(**how):
        fake = FakeCupy(**how)
        monkeypatch.setattr(gpu.importlib, "import_module", lambda name: fake)
        return fake

    return install


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"count": 0}, "no NVIDIA GPU that CUDA can use"),
        (
            {"error": "cudaErrorNoDevice: no CUDA-capable device is detected"},
            "no NVIDIA GPU that CUDA can use: cudaErrorNoDevice",
        ),
        (
            {"error": "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"},
            "the NVIDIA driver is older than CuPy's CUDA; update it, CUDA 13 needs 580 or later",
        ),
    ],
)
def test_no_gpu_or_an_old_driver(fake_cupy, capsys, how, words):
    fake_cupy(**how)
    assert main(["--block", "mbconv"]) == 5
    said = capsys.readouterr().err
    assert said.startswith(f"perfmodel: {words}")
    assert said.count("\n") == 1


def test_a_driver_older_than_the_compiler():
    driver.require_driver(13000, "13.0")
    driver.require_driver(13020, "13.1")
    with pytest.raises(GpuError, match=r"serves CUDA up to 12\.4 and the compiler is CUDA 13\.0; update the driver"):
        driver.require_driver(12040, "13.0")


def test_an_old_gpu_is_refused(fake_cupy, capsys):
    fake = fake_cupy()
    properties = {
        "name": b"Tesla T4", "major": 7, "minor": 5, "multiProcessorCount": 40, "sharedMemPerBlockOptin": 65536,
        "sharedMemPerMultiprocessor": 65536, "l2CacheSize": 4194304,
    }  # fmt: skip
    fake.cuda.runtime.getDeviceProperties = lambda _: properties
    with pytest.raises(GpuError, match=r"Tesla T4 has compute capability 7\.5; the kernels need 8\.0"):
        gpu.this_device()
    fake.__version__ = "14"
    assert main(["--block", "convnext"]) == 5
    assert "Tesla T4 has compute capability 7.5" in capsys.readouterr().err


@pytest.mark.parametrize("name", FAMILIES)
def test_arrays_of_another_kind_are_refused(fake_cupy, name):
    fake_cupy()
    problem = FAMILIES[name].problem(N=2, H=4, W=6, C=16, expansion=2)
    right = np.zeros(problem.input_shape, np.float16)
    for wrong, words in (
        (right.astype(np.float32), "the input has the type float32.* needs float16"),
        (right[:1], r"the input has the shape \(1, 4, 6, 16\); .* needs \(2, 4, 6, 16\): N, H, W, C"),
        (np.zeros((2, 6, 4, 16), np.float16).transpose(0, 2, 1, 3), "not contiguous in the order N, H, W, C"),
        ([1.0], "the input is a list; a CuPy array or one that speaks DLPack"),
        (memoryview(b"1"), "the input is a memoryview"),
    ):
        with pytest.raises(GpuError, match=words):
            as_cupy(wrong, problem, "the input", problem.input_shape)


def test_an_array_elsewhere_is_refused(fake_cupy):
    fake_cupy()
    problem = FAMILIES["convnext"].problem(N=1, H=4, W=4, C=8, expansion=1)

    class OnTheHost:
        def __dlpack__(self):
            return None

    with pytest.raises(GpuError, match="not on this GPU, or DLPack cannot hand it over"):
        as_cupy(OnTheHost(), problem, "the input", problem.input_shape)


def test_want_of_memory_is_one_sentence():
    class OutOfMemoryError(MemoryError):
        pass

    with (
        pytest.raises(GpuError, match=r"^the outputs do not fit the GPU's memory, use a smaller batch: wanted 5 GB$"),
        in_memory("the outputs"),
    ):
        raise OutOfMemoryError("wanted 5 GB.\nmany lines")
    with pytest.raises(ValueError, match="other"), in_memory("the outputs"):
        raise ValueError("other")


def test_the_drivers_codes_are_sentences(monkeypatch):
    """Out of memory and the wrong architecture, from a driver that answers every call with that code."""
    for code, words in (
        (2, "the GPU's memory is full"),
        (209, "not for this GPU's architecture"),
        (700, r"unknown error \(code 700\)"),
    ):
        library = SimpleNamespace(cuModuleLoadData=lambda *_, c=code: c, cuGetErrorString=lambda *_: 0)
        monkeypatch.setattr(driver.ctypes, "CDLL", lambda _, library=library: library)
        with pytest.raises(GpuError, match=f"cuModuleLoadData failed: .*{words}"):
            driver._Driver().cuModuleLoadData(0, 0)
        with pytest.raises(GpuError, match="the NVIDIA driver is too old: it has no cuLaunchKernelEx"):
            driver._Driver().cuLaunchKernelEx(0)


def test_no_driver_is_said(monkeypatch):
    def missing(_):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", missing)
    with pytest.raises(GpuError, match="no NVIDIA driver on this machine"):
        driver._Driver()


def test_parameters_of_another_family_are_refused(fake_cupy):
    fake_cupy()
    problem, other = (FAMILIES[name].problem(N=1, H=4, W=4, C=8, expansion=1) for name in ("convfirst", "convnext"))
    with pytest.raises(GpuError, match="needs ConvFirstParameters, not ConvNeXtParameters"):
        launch.FusedBlock(problem, FAMILIES["convnext"].draw(other, 0))


def test_clocks_are_read_of_the_device_that_runs(fake_cupy, monkeypatch, tmp_path):
    """By its PCI bus: nvidia-smi's index 0 is another GPU than CUDA's where CUDA_VISIBLE_DEVICES is set."""
    fake_cupy()
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = "--id=0000:1B:00.0" ] && echo "1980, 3201, 120.5, 41"\n')
    program.chmod(0o755)
    monkeypatch.setattr(gpu.shutil, "which", lambda _: str(program))
    found = gpu.state()
    assert (found.sm_clock_hz, found.memory_clock_hz, found.power_w, found.temperature_c) == (1980e6, 3201e6, 120.5, 41)


# -- what is counted ---------------------------------------------------------------------------------------------------------


def test_a_problem_survives_the_command_line():
    for family in FAMILIES.values():
        problem = family.cases()[-1]
        record = json.loads(json.dumps(record_of(problem)))
        assert problem_of(record) == problem


def every_case():
    """Of the catalogue, of its selections, and what is odd."""
    for family in FAMILIES.values():
        yield from family.cases()
        for more in family.selections.values():
            yield from more()
        yield from (problem for problem, _ in family.odd_cases())


def test_a_problem_is_found_by_its_name():
    for problem in every_case():
        assert problem_named(problem.name) == problem


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mbconv", "no name of a case, such as convfirst_e4"),
        (f"convfirst_e4_fp16_n{'9' * 5000}_c64_h56_w56", "no name of a case"),
        ("mbconv\x1b[2J", r"^'mbconv\\x1b\[2J' is no name"),
        ("other_e4_fp16_n1_c64_h56_w56", "no name of a case"),
        ("convfirst_e4_fp16_n1_c64_h56_w56_k3", "convfirst has no 'k'"),
        ("mbconv_e4_fp16_n1_c64_h56_w56_k3_g1_q2", "mbconv has no 'q'; what its names may add is k, g, s, se, o"),
        ("mbconv_e4_fp16_n1_c64_h56_w56_g1_k3", "is written mbconv_e4_fp16_n1_c64_h56_w56_k3_g1"),
        ("mbconv_e4_fp16_n1_c63_h56_w56_k3_g1", "C is 63, not a multiple of 8"),
        ("mbconv_e4_fp16_n1_c64_h56_w56_k7_g1", "the kernels serve"),
    ],
)
def test_names_of_no_problem_are_refused(name, words):
    with pytest.raises(GpuError, match=words):
        problem_named(name)


def test_cases_are_asked_for_by_selection_and_by_name():
    families = tuple(FAMILIES.values())
    assert asked_for(families) == {family.name: family.cases() for family in families}
    (mbconv,) = asked_for(families, selections=["depthwise"]).items()
    assert mbconv == ("mbconv", FAMILIES["mbconv"].selections["depthwise"]())
    name = "convnext_e4_fp16_n3_c96_h7_w7"
    both = asked_for(families, selections=["depthwise"], names=[name, name])
    assert both["convnext"] == (problem_named(name),)
    assert both["mbconv"] == mbconv[1]
    with pytest.raises(MeasureError, match="convfirst have no selection depthwise; there is depthwise"):
        asked_for([FAMILIES["convfirst"]], selections=["depthwise"])


def test_the_depthwise_selection_leaves_out_what_the_cases_have():
    """Other channels and images than the one that the tables of kernels have, all by the kernel of depthwise blocks."""
    family = FAMILIES["mbconv"]
    more = family.selections["depthwise"]()
    known = {(problem.C, problem.H) for problem in family.cases() if problem.group_width == 1}
    assert len({(problem.C, problem.H) for problem in more} - known) >= 8
    assert not {(problem.C, problem.H) for problem in more} & known
    assert {family.choose(problem, H200).kernel for problem in more} == {"mbconv_depthwise"}


def test_what_is_timed_can_be_narrowed(tmp_path, monkeypatch):
    (problem,) = FAMILIES["convfirst"].cases()[:1]
    timed = []
    monkeypatch.setattr(measure, "time_fused", lambda p, modes: timed.append("fused") or ())
    monkeypatch.setattr(measure, "time_baseline", lambda p, what, modes: timed.append(what) or ())
    monkeypatch.setattr(measure, "torch_or_none", lambda: True)
    monkeypatch.setattr(measure, "release", lambda: None)
    recorder = Recorder(tmp_path / "convfirst.jsonl", {"kind": "run", "run": "now", "device": "NVIDIA H200"})
    measure.run(recorder, [problem], stages=("time",), again=False, timed=("fused",))
    assert timed == ["fused"]
    measure.run(recorder, [problem], stages=("time",), again=False)
    assert timed == ["fused", *measure.TIMED]


def test_only_what_exceeds_the_cache_is_counted():
    for family in FAMILIES.values():
        for problem in family.cases():
            moved = 12 * (problem.input_bytes + problem.output_bytes)
            assert worth_counting(problem, H200.l2_bytes) == (moved >= 4 * H200.l2_bytes)
            assert worth_counting(problem, H200.l2_bytes) or problem.N < LARGE_BATCH


@pytest.fixture
def measuring(monkeypatch):
    """The parts that need a GPU taken away."""
    monkeypatch.setattr(measure, "this_device", lambda: H200)
    monkeypatch.setattr(measure, "release", lambda: None)
    monkeypatch.setattr(measure, "_checked", lambda chosen, every: [(problem, None) for problem in chosen])
    return monkeypatch


WHERE = {"kind": "run", "run": "now", "device": "NVIDIA H200"}


def test_measuring_resumes_and_records_refusals(tmp_path, measuring):
    """A check that passed is not made again; what cannot be measured is recorded with its reason, and the rest goes on."""
    asked = FAMILIES["convfirst"].cases()[:5]
    made = []

    def check(problem, only, seeds):
        made.append((problem.name, only, len(seeds)))
        if problem.C == 128:
            raise GpuError("no room")
        return {
            "kind": "check",
            "case": problem.name,
            "what": measure._kernel_name(problem, only),
            "passed": problem is not asked[1],
        }

    measuring.setattr(measure, "check", check)
    path = tmp_path / "convfirst.jsonl"
    outcome = measure.run(Recorder(path, WHERE), asked, stages=("check",), again=False, seeds=1)
    lines = [line for line in read_lines(path) if line["kind"] == "check"]
    refused = [line for line in lines if "refused" in line]
    assert {line["refused"] for line in refused} == {"no room"}
    assert outcome == Outcome(failed=1, refused=len(refused))
    assert outcome.exit_code == 1
    before = len(made)
    again = measure.run(Recorder(path, WHERE), asked, stages=("check",), again=False, seeds=1)
    assert again == outcome
    assert len(made) == before + 1 + len(refused)
    assert Outcome(refused=1).exit_code == 5
    assert {count for _, _, count in made} == {1}
    assert len(checks.SEEDS) > 1


def test_what_was_measured_before_a_refusal_stays(tmp_path, measuring):
    """A failure in sustained says nothing about the burst before it, and only what is missing is measured again."""
    (problem,) = (p for p in FAMILIES["convfirst"].cases()[:5] if p.N >= LARGE_BATCH and p.C == 64)
    asked = []

    def time_fused(problem, modes):
        asked.append(list(modes))
        for mode in modes:
            if mode == "sustained":
                raise GpuError("too hot")
            yield {"kind": "time", "case": problem.name, "what": "fused", "mode": mode, "median_s": 1e-3}

    def count_dram(problems):
        raise GpuError("ncu is not installed")

    measuring.setattr(measure, "time_fused", time_fused)
    measuring.setattr(measure, "count_dram", count_dram)
    path = tmp_path / "convfirst.jsonl"
    told = []
    for _ in range(2):
        recorder = Recorder(path, WHERE)
        outcome = measure.run(recorder, [problem], stages=("time", "count"), again=False, timed=("fused",), tell=told.append)
        assert outcome == Outcome(refused=2)
        assert outcome.exit_code == 5
    assert asked == [["burst", "sustained"], ["sustained"]]
    times = [f"time {problem.name}, fused{more}" for more in (" and 1 more", "")]
    assert told == [times[0], f"count {problem.name}, fused", times[1], f"count {problem.name}, fused"]
    refused = [(line["kind"], line.get("mode")) for line in read_lines(path) if "refused" in line]
    assert refused == [("time", "sustained"), ("count", None)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "7"], "no case is of these sizes; there are batches of 1, 16, 128"),
        (["--channels", "12"], "and channels 64, 96, 128, 256"),
        (["--case", "convfirst_e4"], "no name of a case"),
        (["--select", "deep"], "have no selection deep"),
    ],
)
def test_measurements_of_nothing_are_refused_before_a_gpu_is_sought(arguments, said, capsys):
    assert main(["--block", "convfirst", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--every", "-1"], ["--seeds", "0"], ["--seeds", "4"], ["--batch", "²"], ["--batch", "9" * 5000]]
)
def test_options_that_are_no_such_number_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "is no whole number from" in capsys.readouterr().err


def test_blocks_that_are_timed_are_not_compiled_again(tmp_path, measuring):
    """And the command says what it is doing before it does it."""
    compiled = []
    measuring.setattr(measure, "run_record", lambda revision: WHERE)
    measuring.setattr(measure, "prepare_kernels", lambda asked, device, tell: None)
    measuring.setattr(measure, "prepare_baselines", lambda problems, tell: compiled.extend(problems))
    measuring.setattr(measure, "torch_or_none", lambda: True)
    measuring.setattr(measure, "run", lambda *_, **__: Outcome())
    known, other = (problem for problem in FAMILIES["convfirst"].cases() if problem.N == 1 and problem.C in (64, 128))
    line = {"kind": "time", "case": known.name, "what": "compile", "mode": "burst", "median_s": 1e-3}
    Recorder(tmp_path / "convfirst.jsonl", WHERE).add(line)
    arguments = ["--output", str(tmp_path), "--stage", "time", "--case", known.name, "--case", other.name]
    assert main(arguments) == 0
    assert compiled == [other]
    assert main([*arguments, "--again"]) == 0
    assert compiled == [other, known, other]


def test_every_0_leaves_nothing_for_odd_sizes_alone(measuring, capsys):
    measuring.setattr(measure, "only_check", lambda *_: pytest.fail("checked"))
    assert main(["--only-check", "--every", "0"]) == 2
    assert "--every 0 leaves none of them" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, measuring, capsys):
    measuring.setattr(measure, "run_record", lambda revision: WHERE)
    (tmp_path / "afile").write_text("")
    assert main(["--block", "convfirst", "--output", str(tmp_path / "afile")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("perfmodel: cannot write")
    assert error.count("\n") == 1


def test_a_compiler_that_dies_leaves_its_block_for_later(monkeypatch):
    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def map(self, _, problems):
            yield True
            raise BrokenProcessPool("a process in the process pool was terminated abruptly")

    monkeypatch.setattr(prepare, "_pool", lambda _: Pool())
    said = []
    assert prepare.prepare_baselines(FAMILIES["convfirst"].cases()[:3], said.append) == 1
    assert "left for their turn" in said[-1]


def test_what_pytorch_cannot_run_is_one_sentence(monkeypatch):
    class OutOfMemoryError(RuntimeError):
        pass

    class Anything:
        def __getattr__(self, _):
            return self

        def __call__(self, *_, **__):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    torch = Anything()
    torch.OutOfMemoryError = OutOfMemoryError
    problem = FAMILIES["convfirst"].cases()[0]

    def fails(_):
        raise RuntimeError("backend='inductor' raised:\n a long story")

    for name, value in (
        ("cupy_with_gpu", Anything()), ("torch_or_none", lambda: torch), ("baseline", lambda *_: fails),
        ("this_device", lambda: H200), ("torch_input", lambda _: None), ("in_memory", Anything()),
    ):  # fmt: skip
        monkeypatch.setattr(benchmarks, name, value)
    with pytest.raises(GpuError, match=f"{problem.name} in PyTorch, compile: backend='inductor' raised:$"):
        next(benchmarks.time_baseline(problem, "compile", ["burst"]))
