"""Whole networks on the GPU at hand: PyTorch eager, replayed as a CUDA graph, and through torch.compile. torch and timm load inside.

Every result is one line of JSON, appended and flushed as it comes; a case that is recorded for this device is not measured again. The
input is random, the network in inference mode with random weights, `cudnn.benchmark` on, the layout channels last unless asked otherwise.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from perfmodel.errors import PerfmodelError
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.gpu import driver_version, state

Run = Literal["eager", "graph", "compile"]
RUNS: Final = ("eager", "graph", "compile")
BATCHES: Final = (256, 1, 64, 16)
NETWORKS: Final = (
    "resnet50", "convnext_tiny", "efficientnet_b0", "mobilenetv2_100", "regnety_032", "vgg16", "mobilenetv3_large_100", "resnext50_32x4d",
    "resnet18", "efficientnetv2_s",
)  # fmt: skip
WARM_UP: Final = 3
SECONDS_PER_CASE: Final = 0.25
FEWEST, MOST = 5, 40
"""Steps that are timed."""
KERNEL_NAME_LENGTH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCase:
    """A network as it is measured."""

    model: str
    batch: int
    resolution: int
    dtype: str
    """Of the module's parameters: fp16 after `.half()`, fp32 under autocast."""
    autocast: str | None
    layout: str
    run: Run

    @property
    def key(self) -> str:
        """What a recorded line is found by."""
        return "/".join(str(value) for value in asdict(self).values())


def cases(
    networks: Iterable[str] = NETWORKS,
    batches: Iterable[int] = BATCHES,
    precisions: Iterable[str] = ("fp16",),
    runs: Iterable[Run] = ("eager", "graph"),
    *,
    resolution: int = 224,
    layout: str = "nhwc",
) -> tuple[NetworkCase, ...]:
    """Every combination, network by network. A precision is a type, or `autocast-fp16`, `autocast-bf16`."""
    return tuple(
        NetworkCase(
            model=model,
            batch=batch,
            resolution=resolution,
            dtype="fp32" if precision.startswith("autocast-") else precision,
            autocast=precision.removeprefix("autocast-") if precision.startswith("autocast-") else None,
            layout=layout,
            run=run,
        )
        for model in networks
        for precision in precisions
        for batch in batches
        for run in runs
    )


class NetworkResults:
    """A file of results: what is in it, and what comes."""

    def __init__(self, path: Path, device: str) -> None:
        self._path, self._device = path, device
        self._known = {line["key"] for line in read_results(path) if line["device"] == device} if path.is_file() else set()

    def has(self, case: NetworkCase) -> bool:
        """Whether the case is recorded for this device."""
        return case.key in self._known

    def add(self, case: NetworkCase, line: dict[str, Any]) -> None:
        """Append and flush."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": case.key, "device": self._device, **asdict(case), **line}) + "\n")
            file.flush()
        self._known.add(case.key)


def read_results(path: Path) -> tuple[dict[str, Any], ...]:
    """Every line of a file of results; a last line that was cut off is left out. Raises PerfmodelError for a file that is not one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PerfmodelError(f"cannot read the results {path}: {getattr(error, 'strerror', None) or error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise PerfmodelError(
                f"{path}, line {number} is no JSON; it must be a file that `perfmodel validate run` wrote"
            ) from None
        if not isinstance(entry, dict) or not {"key", "device", "times_s", "model"} <= set(entry):
            raise PerfmodelError(f"{path}, line {number} is no result of `perfmodel validate run`: it lacks the measured times")
        found.append(entry)
    return tuple(found)


def measure_all(
    wanted: Iterable[NetworkCase],
    path: Path,
    *,
    seconds: float | None = None,
    profile_batches: Iterable[int] = (),
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Measure what is not recorded yet, until `seconds` have passed; returns how many cases were measured.

    A case that fails (memory, a model that does not exist) is said and left out. Cases of one module come one after the other, so that it
    is built once. Raises GpuError where there is no torch, timm or GPU.
    """
    torch, timm = _torch(), _timm()
    results = NetworkResults(path, torch.cuda.get_device_name(0))
    torch.backends.cudnn.benchmark = True
    began, count = time.perf_counter(), 0
    module: Any = None
    built: tuple[str, str, str] | None = None
    profiled = set(profile_batches)
    for case in wanted:
        if results.has(case):
            continue
        if seconds is not None and time.perf_counter() - began > seconds:
            say(f"stopped after {seconds:.0f} s")
            break
        try:
            if built != (case.model, case.dtype, case.layout):
                module = None
                torch.cuda.empty_cache()
                module, built = _module(torch, timm, case), (case.model, case.dtype, case.layout)
            line = _measured(torch, module, case, profile=case.batch in profiled and case.run != "graph")
            if line is None:
                continue
        except (RuntimeError, ValueError, KeyError) as error:  # CUDA's, torch's and timm's errors: this case only
            say(f"{case.key}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            torch.cuda.empty_cache()
            continue
        results.add(case, line)
        count += 1
        say(f"{time.perf_counter() - began:6.1f} s {case.key}: {line['median_s'] * 1e3:.3f} ms")
    return count


def measure_compiled(
    wanted: Sequence[NetworkCase],
    path: Path | None,
    *,
    jobs: int,
    profile: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Measure compiled networks that are not recorded yet, each in a process of its own; returns how many.

    `torch.compile` takes tens of seconds on one core: up to `jobs` processes compile at the same time, and once all of them are done they
    are timed one after the other, alone on the GPU. Without a `path` nothing is timed: the compiler's cache on disk is filled. Raises
    GpuError where there is no torch, timm or GPU.
    """
    torch = _torch()
    _timm()
    results = None if path is None else NetworkResults(path, torch.cuda.get_device_name(0))
    left = [case for case in wanted if results is None or not results.has(case)]
    context, count = multiprocessing.get_context("spawn"), 0
    for start in range(0, len(left), jobs):
        together = left[start : start + jobs]
        pipes = [context.Pipe() for _ in together]
        workers = [
            context.Process(target=_compiled, args=(case, far, path is not None, profile))
            for case, (_, far) in zip(together, pipes, strict=True)
        ]
        for worker, (_, far) in zip(workers, pipes, strict=True):
            worker.start()
            far.close()
        ready = [_answer(near) for near, _ in pipes]
        for case, (near, _), answer in zip(together, pipes, ready, strict=True):
            if answer is True and results is not None:
                near.send(True)
                answer = _answer(near)  # noqa: PLW2901 - the line takes the place of "ready"
            if isinstance(answer, str):
                say(f"{case.key}: {answer}")
                continue
            count += 1
            if results is not None and isinstance(answer, dict):
                results.add(case, answer)
                say(f"{case.key}: {answer['median_s'] * 1e3:.3f} ms, compiled in {answer['prepared_s']:.0f} s")
        for worker in workers:
            worker.join()
    return count


def _answer(pipe: Any) -> Any:
    """What a worker sends: True for ready, a line, or a sentence of what failed."""
    try:
        return pipe.recv()
    except EOFError:
        return "its process ended without an answer"


def _compiled(case: NetworkCase, pipe: Any, timed: bool, profile: bool) -> None:
    """A worker: compile and warm up, wait for its turn, measure."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # before torch's compiler is first imported
    try:
        torch, timm = _torch(), _timm()
        line = _measured(torch, _module(torch, timm, case), case, profile=profile, turn=lambda: _turn(pipe, timed))
        if line is not None:
            pipe.send(line)
    except (RuntimeError, ValueError, KeyError) as error:
        pipe.send(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")


def _turn(pipe: Any, timed: bool) -> bool:
    """Say that all is compiled, and wait; whether to go on and measure."""
    pipe.send(True)
    return timed and bool(_answer(pipe) is True)


def _torch() -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise GpuError("PyTorch is not installed, and networks are measured with it; pip install 'perfmodel[torch]'") from None
    if not torch.cuda.is_available():
        raise GpuError("PyTorch finds no GPU on this machine; networks are measured on one")
    return torch


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise GpuError("timm is not installed, and the networks come from it; pip install 'perfmodel[torch]'") from None


def _module(torch: Any, timm: Any, case: NetworkCase) -> Any:
    timm.layers.set_fast_norm(True)  # layer norm in the autocast type, as in timm's published files
    with torch.device("cuda"):  # random weights are drawn on the GPU
        module = timm.create_model(case.model).eval()
    module = module.to(getattr(torch, {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}[case.dtype]))
    return module.to(memory_format=torch.channels_last) if case.layout == "nhwc" else module


def _measured(
    torch: Any, module: Any, case: NetworkCase, *, profile: bool, turn: Callable[[], bool] = lambda: True
) -> dict[str, Any] | None:
    """The line of a case; None where its `turn`, which is asked for once everything is compiled, does not come."""
    dtype = next(module.parameters()).dtype
    x = torch.randn(case.batch, 3, case.resolution, case.resolution, device="cuda", dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if case.layout == "nhwc" else x
    call = module
    if case.run == "compile":
        torch._dynamo.reset()
        call = torch.compile(module)

    def step() -> Any:
        if case.autocast is None:
            return call(x)
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[case.autocast]
        with torch.autocast("cuda", kind, cache_enabled=case.run != "graph"):
            return call(x)

    with torch.inference_mode():
        began = time.perf_counter()
        for _ in range(WARM_UP):
            step()
        torch.cuda.synchronize()
        prepared_s = time.perf_counter() - began
        if not turn():
            return None
        torch.backends.cudnn.benchmark = True  # alone on the GPU: the library times its kernels now
        for _ in range(WARM_UP):
            step()
        repeated: Callable[[], Any] = step
        if case.run == "graph":
            repeated = _captured(torch, step).replay
        before = state()
        times = _times(torch, repeated)
        after = state()
        kernels = _kernels(torch, repeated) if profile else None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "timm": _timm().__version__,
        "driver": driver_version(),
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "median_s": statistics.median(times),
        "times_s": [float(f"{value:.5g}") for value in times],
        "prepared_s": round(prepared_s, 2),
        "before": asdict(before) if before else None,
        "after": asdict(after) if after else None,
        **({"kernels": kernels} if kernels is not None else {}),
    }


def _captured(torch: Any, step: Callable[[], Any]) -> Any:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def _times(torch: Any, step: Callable[[], Any]) -> list[float]:
    """Seconds of each step on the host's clock, with one synchronisation per step, as timm's benchmark does it."""
    step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    steps = max(FEWEST, min(MOST, round(SECONDS_PER_CASE / (time.perf_counter() - start))))
    found = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return found


def _kernels(torch: Any, step: Callable[[], Any]) -> list[tuple[str, float]]:
    """(name, microseconds) of every kernel of one step, in order."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=lambda event: event.time_range.start)
    return [(event.name[:KERNEL_NAME_LENGTH], event.time_range.elapsed_us()) for event in events]


@contextlib.contextmanager
def exported_trace(path: Path) -> Iterator[None]:
    """Everything PyTorch runs inside, as a trace file that `perfmodel validate torch-trace` reads."""
    torch = _torch()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        yield
        torch.cuda.synchronize()
    profiler.export_chrome_trace(str(path))
