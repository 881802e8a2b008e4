"""`python -m perfmodel.validation.measure --block convfirst`: check, time and count the fused kernels, and record it.

Every result is appended and flushed as it comes, as one line of JSON; a line that is there is not measured again. For each case: checks
against float64, times of the fused kernel and of PyTorch's eager and compiled block in the same process, DRAM bytes by ncu.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.units import si
from perfmodel.validation.baselines import Baseline, baseline, torch_or_none
from perfmodel.validation.block_reference import deviation, reference
from perfmodel.validation.compile import compiler_version
from perfmodel.validation.configuration import Kernel, choose_config
from perfmodel.validation.gpu import cupy_with_gpu, driver_version, this_device
from perfmodel.validation.kernel_count import count
from perfmodel.validation.launch import FusedConvFirst
from perfmodel.validation.ncu import counted
from perfmodel.validation.packing import draw
from perfmodel.validation.problem import DTYPES, DType, GpuError, Problem
from perfmodel.validation.timing import BURST_LAUNCHES, CACHES, Mode, buffer_sets, replays

RESULTS: Final = Path(__file__).resolve().parent / "results"
SHAPES: Final = ((64, 56), (128, 28), (96, 56), (256, 14))
SMALL_BATCHES: Final = {(64, 56): (1, 16), (128, 28): (1, 16)}
SEEDS: Final = (0, 1, 2)
REFERENCE_PIXELS: Final = 60_000
"""Of one piece of the float64 reference."""
PROFILED_LAUNCHES: Final = 12
PROFILE_WARMUP: Final = 4
COPIED_BYTES: Final = 2**28


def cases() -> tuple[Problem, ...]:
    """What is timed: e = 4, fp16, batch 128, and 1 and 16 for the first two shapes."""
    return tuple(
        Problem(N=N, H=size, W=size, C=C, expansion=4) for C, size in SHAPES for N in (128, *SMALL_BATCHES.get((C, size), ()))
    )


def odd_cases() -> tuple[tuple[Problem, Kernel | None], ...]:
    """What is checked beside them: sizes that tiles do not divide, one pixel, every expansion, both types, every kernel."""

    def problems(C: int, expansions: Iterable[int], sizes: Iterable[tuple[int, int, int]], dtype: DType) -> Iterator[Problem]:
        for expansion in expansions:
            for N, H, W in sizes:
                yield Problem(N=N, H=H, W=W, C=C, expansion=expansion, dtype=dtype)

    ragged = ((3, 13, 13), (2, 20, 35), (1, 1, 1), (1, 3, 5), (5, 7, 1))
    narrow = ((3, 13, 13), (1, 5, 31), (1, 1, 1), (7, 14, 14), (2, 40, 3))
    found: list[tuple[Problem, Kernel | None]] = []
    found += [(problem, "convfirst_c64") for problem in problems(64, range(1, 9), ragged[:3], "fp16")]
    found += [(problem, "convfirst_c64") for problem in problems(64, (4,), ragged[3:], "fp16")]
    found += [(problem, "convfirst_stream") for problem in problems(128, range(1, 9), narrow[:3], "fp16")]
    found += [(problem, "convfirst_stream") for problem in problems(128, (4,), narrow[3:], "fp16")]
    for dtype in DTYPES:
        for C in (8, 24, 40, 64, 96, 128, 264, 520):
            found += [(problem, "convfirst_generic") for problem in problems(C, (1, 3, 4), ragged[:2], dtype)]
        found += [(problem, "convfirst_generic") for problem in problems(48, range(1, 9), ragged[2:], dtype)]
        found += [(problem, "convfirst_generic") for problem in problems(2056, (2,), ((1, 5, 6),), dtype)]
    return tuple(found)


class Recorder:
    """The file of results: what is in it, and what comes."""

    def __init__(self, path: Path, where: dict[str, Any]) -> None:
        self._path, self._where, self._started = path, where, False
        self._known = {_key(line) for line in read_lines(path)} if path.is_file() else set()

    def has(self, **key: str) -> bool:
        """Whether a result with these fields is recorded for this device."""
        return _key({**key, "device": self._where["device"]}) in self._known

    def add(self, line: dict[str, Any]) -> None:
        """Append and flush; the first line of a run is preceded by where and when it ran."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            if not self._started:
                file.write(json.dumps(self._where) + "\n")
                self._started = True
            line = {**line, "device": self._where["device"], "run": self._where["run"]}
            file.write(json.dumps(line) + "\n")
            file.flush()
        self._known.add(_key(line))
        _say(line)


def read_lines(path: Path) -> tuple[dict[str, Any], ...]:
    """Every result of a file; a last line that was cut off is left out."""
    found = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if index == len(lines) - 1:
                break
            raise GpuError(f"{path}, line {index + 1} is no JSON: {error}") from error
    return tuple(found)


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(line.get(field, "")) for field in ("kind", "device", "case", "what", "mode"))


def _say(line: dict[str, Any]) -> None:
    kept = {key: value for key, value in line.items() if key not in ("times_s", "device", "run", "before", "launched")}
    sys.stdout.write(json.dumps(kept) + "\n")
    sys.stdout.flush()


def run_record(revision: str | None = None) -> dict[str, Any]:
    """Where and when a run happened, and with what."""
    cupy = cupy_with_gpu()
    device = this_device()
    torch = torch_or_none()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "kind": "run",
        "run": now,
        "date": now[:10],
        "device": device.name,
        "limits": asdict(device),
        "driver": driver_version(),
        "cuda_compiler": compiler_version(),
        "cupy": cupy.__version__,
        "torch": torch.__version__ if torch else None,
        "revision": revision or _revision(),
    }


def _revision() -> str | None:
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _random(problem: Problem, seed: int) -> tuple[Any, Any]:
    """Standard normal input as the type holds it, and the same in fp32."""
    cupy = cupy_with_gpu()
    drawn = cupy.random.default_rng(seed).standard_normal((problem.N, problem.H, problem.W, problem.C), cupy.float32)
    if problem.dtype == "fp16":
        half = drawn.astype(cupy.float16)
        return half, half.astype(cupy.float32)
    words = drawn.view(cupy.uint32)
    half = ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(cupy.uint16)
    return half, (half.astype(cupy.uint32) << 16).view(cupy.float32)


def check(problem: Problem, only: Kernel | None = None, seeds: Iterable[int] = SEEDS) -> dict[str, Any]:
    """The fused kernel against float64, for each seed: output pre-filled with not-a-number, twice, the second time bit for bit."""
    cupy = cupy_with_gpu()
    worst: dict[str, Any] = {}
    kernel = ""
    for seed in seeds:
        parameters = draw(problem, seed)
        block = FusedConvFirst(problem, parameters, only=only)
        kernel = block.config.name
        x, wide = _random(problem, seed + 1000)
        nan = cupy.float16("nan").view(cupy.uint16) if problem.dtype == "fp16" else cupy.uint16(0x7FC0)
        outs = []
        for _ in range(2):
            out = cupy.full(x.shape, nan, cupy.uint16)
            out = out.view(cupy.float16) if problem.dtype == "fp16" else out
            outs.append(block(x, out))
        cupy.cuda.get_current_stream().synchronize()
        same = bool((outs[0].view(cupy.uint16) == outs[1].view(cupy.uint16)).all())
        result = outs[0] if problem.dtype == "fp16" else (outs[0].astype(cupy.uint32) << 16).view(cupy.float32)
        images = max(1, REFERENCE_PIXELS // (problem.H * problem.W))
        for start in range(0, problem.N, images):
            piece = slice(start, start + images)
            found = deviation(cupy, result[piece], reference(cupy, wide[piece], parameters, problem), wide[piece], problem)
            line = {**asdict(found), "passed": found.passed and same, "repeats": same, "seed": seed}
            if not worst or not line["passed"] or (worst["passed"] and not line["branch"] <= worst["branch"]):
                worst = line
    return {"kind": "check", "case": problem.name, "what": kernel, **worst, "seeds": len(tuple(seeds))}


def _graph(launches: Iterable[Callable[[], Any]], stream: Any) -> Any:
    """A CUDA graph of the launches."""
    stream.begin_capture()
    for launch in launches:
        launch()
    return stream.end_capture()


def time_fused(problem: Problem, mode: Mode) -> dict[str, Any]:
    """The fused kernel over rotated buffers."""
    cupy = cupy_with_gpu()
    block = FusedConvFirst(problem, draw(problem))
    sets = buffer_sets(2 * problem.tensor_bytes, block.device.l2_bytes)
    pairs = [(x, cupy.empty_like(x)) for x in (_random(problem, seed)[0] for seed in range(sets))]
    launches = -(-BURST_LAUNCHES // sets) * sets
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        for x, y in pairs[:4]:
            block(x, y)
        stream.synchronize()
        graph = _graph([lambda x=x, y=y: block(x, y) for _ in range(launches // sets) for x, y in pairs], stream)  # type: ignore[misc]
        timing = replays(lambda: graph.launch(stream), launches, mode, stream)
    placed = count(problem, block.config, load("h200"))
    return {
        "kind": "time",
        "case": problem.name,
        "what": "fused",
        "kernel": block.config.name,
        "unit": block.compiled.unit.key(compiler_version()),
        "registers": block.compiled.registers,
        "spilled_bytes": block.compiled.spilled_bytes,
        "serialised": block.compiled.serialised,
        "buffer_sets": sets,
        "floor_s": placed.floor_s,
        "waterline_s": placed.waterline_s,
        **timing.record(),
    }


def time_baseline(problem: Problem, what: Baseline, mode: Mode) -> dict[str, Any]:
    """PyTorch's block, graph replay, on buffers rotated likewise."""
    cupy, torch = cupy_with_gpu(), torch_or_none()
    block = baseline(what, problem, draw(problem))
    sets = buffer_sets(2 * problem.tensor_bytes, this_device().l2_bytes)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[problem.dtype]
    shape = (problem.N, problem.C, problem.H, problem.W)
    inputs = [torch.randn(shape, device="cuda").to(dtype, memory_format=torch.channels_last) for _ in range(sets)]
    launches = -(-BURST_LAUNCHES // sets) * sets
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for x in [*inputs[:3], inputs[0]]:
            block(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = [block(x) for _ in range(launches // sets) for x in inputs]
        timing = replays(graph.replay, launches, mode, cupy.cuda.Stream.from_external(stream))
    del kept, graph
    torch.cuda.empty_cache()
    return {"kind": "time", "case": problem.name, "what": what, "buffer_sets": sets, **timing.record()}


def profiled(problem: Problem) -> None:
    """What runs under ncu: launches over rotated buffers, and a copy of known size to check the counter by."""
    cupy = cupy_with_gpu()
    block = FusedConvFirst(problem, draw(problem))
    sets = min(PROFILED_LAUNCHES, buffer_sets(2 * problem.tensor_bytes, block.device.l2_bytes))
    pairs = [(x, cupy.empty_like(x)) for x in (_random(problem, seed)[0] for seed in range(sets))]
    source = cupy.ones(COPIED_BYTES // 4, cupy.float32)
    targets = [cupy.empty_like(source) for _ in range(2)]
    cupy.cuda.Device().synchronize()
    for index in range(PROFILED_LAUNCHES):
        block(*pairs[index % sets])
    cupy.cuda.Device().synchronize()
    for index in range(6):
        cupy.negative(source, out=targets[index % 2])
    cupy.cuda.Device().synchronize()


def count_dram(problem: Problem) -> dict[str, Any]:
    """DRAM bytes of one launch by ncu, the mean of those after the first few, beside the model's."""
    block = FusedConvFirst(problem, draw(problem))
    rotated, least = PROFILED_LAUNCHES * 2 * problem.tensor_bytes, CACHES * block.device.l2_bytes
    if rotated < least:
        raise GpuError(
            f"{PROFILED_LAUNCHES} launches touch {si(rotated, 'B')}, too near the L2 cache: no count below {si(least, 'B')}"
        )
    command = [sys.executable, "-m", "perfmodel.validation.measure", "--profile", json.dumps(asdict(problem))]
    launched = counted(command, "convfirst_|cupy_negative")
    fused = [launch for launch in launched if "convfirst_" in launch.kernel][PROFILE_WARMUP:]
    copies = [launch for launch in launched if "cupy_negative" in launch.kernel][2:]
    if not fused or not copies:
        raise GpuError("ncu did not see the launches it was to count")
    placed = count(problem, block.config, load("h200"))
    read, written = (sum(getattr(one, side) for one in fused) / len(fused) for side in ("read_bytes", "written_bytes"))
    copied = sum(one.read_bytes + one.written_bytes for one in copies) / len(copies)
    return {
        "kind": "count",
        "case": problem.name,
        "what": "fused",
        "kernel": block.config.name,
        "unit": block.compiled.unit.key(compiler_version()),
        "read_bytes": read,
        "written_bytes": written,
        "dram_bytes": read + written,
        "compulsory_bytes": placed.compulsory_bytes,
        "model_bytes": placed.model_bytes,
        "kernel_bytes": placed.kernel_bytes,
        "macs": placed.macs,
        "counter_over_copy": copied / (2 * COPIED_BYTES),
        "launched": [asdict(launch) for launch in launched],
    }


def run(recorder: Recorder, chosen: Iterable[Problem], *, checks: bool, again: bool) -> int:
    """Measure what is not recorded yet; how many checks failed. A measurement that cannot be made is recorded with its reason."""
    failed = 0

    def unless_known(measure: Callable[[], dict[str, Any]], **key: str) -> dict[str, Any] | None:
        if not again and recorder.has(**key):
            return None
        try:
            line = measure()
        except GpuError as error:
            line = {**key, "refused": str(error)}
        recorder.add(line)
        _release()
        return line

    chosen = tuple(chosen)
    tests: list[tuple[Problem, Kernel | None]] = [(problem, None) for problem in chosen]
    for problem, only in [*tests, *odd_cases()] if checks else []:
        block_name = _kernel_name(problem, only)
        line = unless_known(lambda p=problem, o=only: check(p, o), kind="check", case=problem.name, what=block_name)  # type: ignore[misc]
        failed += line is not None and not line.get("passed")
    for problem in chosen:
        modes: tuple[Mode, ...] = ("burst", "sustained")
        for mode in modes:
            unless_known(lambda p=problem, m=mode: time_fused(p, m), kind="time", case=problem.name, what="fused", mode=mode)  # type: ignore[misc]
        baselines: tuple[Baseline, ...] = ("eager", "compile")
        for what in baselines if torch_or_none() else ():
            for mode in modes:
                unless_known(
                    lambda p=problem, w=what, m=mode: time_baseline(p, w, m),  # type: ignore[misc]
                    kind="time", case=problem.name, what=what, mode=mode,
                )  # fmt: skip
    for problem in chosen:
        unless_known(lambda p=problem: count_dram(p), kind="count", case=problem.name, what="fused")  # type: ignore[misc]
    return failed


def _kernel_name(problem: Problem, only: Kernel | None) -> str:
    return choose_config(problem, this_device(), only=only).name


def _release() -> None:
    cupy = cupy_with_gpu()
    cupy.get_default_memory_pool().free_all_blocks()
    if torch := torch_or_none():
        torch.cuda.empty_cache()


def main(argv: list[str] | None = None) -> int:
    """The command line; exit 5 where the GPU or its software is not there, 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m perfmodel.validation.measure", description=__doc__)
    parser.add_argument("--block", choices=("convfirst",), default="convfirst", help="which fused block")
    parser.add_argument("--batch", type=int, help="only cases of this batch size")
    parser.add_argument("--channels", type=int, help="only cases of this many channels")
    parser.add_argument("--only-check", action="store_true", help="check all kernels, and record nothing")
    parser.add_argument("--no-check", action="store_true", help="time and count only")
    parser.add_argument("--again", action="store_true", help="measure what is recorded once more")
    parser.add_argument("--output", type=Path, help="default: validation/results/DEVICE/convfirst.jsonl")
    parser.add_argument("--revision", help="of the source, where it is not a git checkout")
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        if options.profile:
            profiled(Problem(**json.loads(options.profile)))
            return 0
        if options.only_check:
            lines = [check(problem, only, SEEDS[:1]) for problem, only in odd_cases()]
            for line in lines:
                _say(line)
            return int(not all(line["passed"] for line in lines))
        where = run_record(options.revision)
        slug = cast("str", where["device"]).lower().removeprefix("nvidia ").replace(" ", "-")
        recorder = Recorder(options.output or RESULTS / slug / f"{options.block}.jsonl", where)
        wanted = [problem for problem in cases() if options.batch in (None, problem.N) and options.channels in (None, problem.C)]
        return int(run(recorder, wanted, checks=not options.no_check, again=options.again) > 0)
    except PerfmodelError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
