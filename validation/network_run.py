"""Whole networks on the GPU at hand: PyTorch eager and torch.compile, each in a stream and replayed as a CUDA graph.

torch and timm load inside.

Every result is one line of JSON, appended and flushed as it comes; a case that is recorded for this device is not measured again. The
input is random, the network in inference mode with random weights, `cudnn.benchmark` on, the layout channels last unless asked otherwise.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from perfmodel.errors import UnknownNameError, first_fault
from perfmodel.hardware.spec import Date
from perfmodel.validation.files import LineCheck, MeasurementFileError
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.gpu import driver_version, state
from perfmodel.validation.host_times import LEAST_S, HostProbe, drowned
from perfmodel.validation.python_stack import page_faults, with_room
from perfmodel.validation.recorder import Needed, Results, read_lines
from perfmodel.validation.revision import git_revision

Run = Literal["eager", "graph", "compile", "compile-graph"]
RUNS: Final = ("eager", "graph", "compile", "compile-graph")
COMPILED: Final = ("compile", "compile-graph")
IN_STREAM: Final = ("eager", "compile")
"""Runs in which every call waits for the host."""
PRECISIONS: Final = ("fp16", "bf16", "fp32", "autocast-fp16", "autocast-bf16")
LAYOUTS: Final = ("nhwc", "nchw")
BATCHES: Final = (256, 1, 64, 16)
NETWORKS: Final = (
    "resnet50", "convnext_tiny", "efficientnet_b0", "mobilenetv2_100", "regnety_032", "vgg16", "mobilenetv3_large_100", "resnext50_32x4d",
    "resnet18", "efficientnetv2_s",
)  # fmt: skip
WARM_UP: Final = 3
SECONDS_PER_CASE: Final = 0.25
STEPS_BETWEEN: Final = 4
"""Timed steps from one look at the host to the next."""
FEWEST, MOST = 5, 40
"""Steps that are timed."""
KERNEL_NAME_LENGTH: Final = 160
MOST_COMPILERS: Final = 14
"""Processes that compile at the same time: each holds a CUDA context and a network."""
LONGEST_COMPILE_S: Final = 900
"""After which a process that compiles is given up."""


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

    def trace(self, folder: Path | None) -> Path | None:
        """Its file among traces."""
        return None if folder is None else folder / f"{self.key.replace('/', '-')}.json"


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


class Counts(NamedTuple):
    """How many cases were measured, and how many could not be."""

    measured: int
    failed: int

    def __add__(self, other: object) -> Counts:
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(self.measured + other.measured, self.failed + other.failed)


_Quantity = Annotated[str, Field(pattern=r"^host_[a-z_]{1,60}_s$")]
_Seconds = Annotated[float, Field(ge=1e-10, le=3600)]


class _Host(BaseModel):
    looks: list[dict[_Quantity, _Seconds]] = Field(min_length=1)
    blocks_s: list[_Seconds] = Field(min_length=1)
    pairs_s: list[_Seconds] | None = Field(default=None, min_length=1)
    hot_blocks_s: list[_Seconds] | None = Field(default=None, min_length=1)
    hot_pairs_s: list[_Seconds] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _looks_agree(self) -> Self:
        if any(look.keys() != self.looks[0].keys() or "host_block_s" not in look for look in self.looks):
            raise ValueError("every look must have host_block_s and the same quantities as the others")
        if (self.pairs_s or self.hot_pairs_s) and "host_compiled_pair_s" not in self.looks[0]:
            raise ValueError("pairs_s and hot_pairs_s need looks that have host_compiled_pair_s")
        return self


class _Line(BaseModel):
    """What every reader of a line relies on."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    key: str
    device: str
    model: str = Field(min_length=1)
    batch: int = Field(gt=0)
    resolution: int = Field(gt=0)
    dtype: Literal["fp16", "bf16", "fp32"]
    autocast: Literal["fp16", "bf16"] | None
    layout: Literal["nhwc", "nchw"]
    run: Run
    median_s: PositiveFloat
    times_s: list[PositiveFloat] = Field(min_length=1)
    date: Date | None = None
    page_faults: int | None = Field(default=None, ge=0)
    host: _Host | None = None

    @model_validator(mode="after")
    def _host_has_its_date(self) -> Self:
        if self.host is not None and self.date is None:
            raise ValueError("a host that was looked at needs its date")
        return self


class _LayerLine(_Line):
    network: str = Field(min_length=1)
    node: str = Field(min_length=1)


def _checked(form: type[_Line]) -> LineCheck:
    def check(where: str, entry: Mapping[str, Any]) -> None:
        try:
            form.model_validate(entry)
        except ValidationError as error:
            raise MeasurementFileError(f"{where} is no result of `perfmodel validate run`: {first_fault(error)}") from None

    return check


NEEDED: Final[Needed] = MappingProxyType({None: _checked(_Line), "layer": _checked(_LayerLine)})
"""Of networks, which have no kind, and of single layers."""


def read_results(path: Path) -> tuple[dict[str, Any], ...]:
    """Every line of a file of results; a last line that was cut off is left out. Raises MeasurementFileError for what is not one."""
    return read_lines(path, NEEDED)


class NetworkResults:
    """A file of results: which cases are in it, and what comes. Raises, before anything is measured, as `Results` does."""

    def __init__(self, path: Path, device: str, revision: str | None = None) -> None:
        self._results = Results(path, device, ("key", "device"), NEEDED)
        self._revision = revision or git_revision()

    def has(self, case: NetworkCase) -> bool:
        """Whether the case is recorded for this device."""
        return self._results.has(key=case.key)

    def add(self, case: NetworkCase, line: Mapping[str, Any]) -> None:
        """Append and flush."""
        self._results.add({"key": case.key, **asdict(case), "revision": self._revision, **line})


def measure_all(
    wanted: Iterable[NetworkCase],
    path: Path,
    *,
    revision: str | None = None,
    seconds: float | None = None,
    profile: bool = False,
    traces: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Counts:
    """Measure what is not recorded yet, until `seconds` have passed; `revision` of the source where this is no git checkout.

    A case that fails (memory, another image size than a model takes) is said and left out. Cases of one module come one after the other,
    so that it is built once. Raises GpuError where there is no torch, timm or GPU, UnknownNameError for a model that timm lacks.
    """
    torch, timm = _torch(), _timm()
    wanted = tuple(wanted)
    _require_known(timm, wanted)
    results = NetworkResults(path, torch.cuda.get_device_name(0), revision)
    torch.backends.cudnn.benchmark = True
    began, count, failed = time.perf_counter(), 0, 0
    module: Any = None
    built: tuple[str, str, str] | None = None
    probe: HostProbe | None = None
    for case in wanted:
        if results.has(case):
            continue
        if seconds is not None and time.perf_counter() - began > seconds:
            say(f"stopped after {seconds:.0f} s")
            break
        try:
            if built != (case.model, case.dtype, case.layout):
                module = built = None
                torch.cuda.empty_cache()
                module, built = _module(torch, timm, case), (case.model, case.dtype, case.layout)
            if probe is None and case.run in IN_STREAM:
                probe = HostProbe(torch)
            line = with_room(partial(_measured, torch, module, case, probe=probe, profile=profile, traces=traces))
        except Exception as error:  # of CUDA, of torch, or whatever a model of timm raises: this case only
            say(f"{case.key}: {sentence(error)}")
            failed += 1
            torch.cuda.empty_cache()
            continue
        results.add(case, line)
        count += 1
        say(f"{time.perf_counter() - began:6.1f} s {case.key}: {line['median_s'] * 1e3:.3f} ms{_of_its_looks(line)}")
    return Counts(count, failed)


def _of_its_looks(line: Mapping[str, Any]) -> str:
    """What the looks beside a case could not tell, if there is something."""
    names = sorted({name for look in line.get("host", {}).get("looks", ()) for name in drowned(look)})
    return f"; in noise, and taken for {1e6 * LEAST_S:g} µs: {', '.join(names)}" if names else ""


def sentence(error: Exception) -> str:
    """Which error, and the first line of what it says, if it says something."""
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0][:200]}" if said else type(error).__name__


def _require_known(timm: Any, wanted: Iterable[NetworkCase]) -> None:
    for model in dict.fromkeys(case.model for case in wanted):
        if not timm.is_model(model):
            raise UnknownNameError("timm network", model, timm.list_models())


def compilers() -> int:
    """How many processes may compile at the same time on this machine."""
    return max(1, min(MOST_COMPILERS, os.cpu_count() or 1))


def measure_compiled(
    wanted: Sequence[NetworkCase],
    path: Path | None,
    *,
    jobs: int,
    revision: str | None = None,
    seconds: float | None = None,
    profile: bool = False,
    traces: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Counts:
    """Measure compiled networks that are not recorded yet, each in a process of its own.

    `torch.compile` takes tens of seconds on one core: up to `jobs` processes compile at the same time, and once all of them are done they
    are timed one after the other, alone on the GPU. What compiled code first does on a GPU is to choose between variants of its kernels by
    their times, and to keep the choice on disk: therefore it first runs in its turn, not while others compile. Cases that differ in
    how they run alone (in a stream, as a graph) share a process. Without a `path` nothing runs: the compiler's cache on disk is filled.
    No turn begins after `seconds`. Raises GpuError where there is no torch, timm or GPU, UnknownNameError for a model that timm lacks.
    """
    torch = _torch()
    _require_known(_timm(), wanted)
    results = None if path is None else NetworkResults(path, torch.cuda.get_device_name(0), revision)
    groups: dict[str, list[NetworkCase]] = {}
    for case in wanted:
        if results is None or not results.has(case):
            groups.setdefault(replace(case, run="compile").key, []).append(case)
    left, began, count, failed = list(groups.values()), time.perf_counter(), 0, 0

    def late() -> bool:
        return seconds is not None and time.perf_counter() - began > seconds

    while left and not late():
        together, left = left[:jobs], left[jobs:]
        workers: list[_Worker] = []
        try:
            workers += (_Worker(cases_, timed=path is not None, profile=profile, traces=traces) for cases_ in together)
            ready = [worker.answer() for worker in workers]
            for worker, answer in zip(workers, ready, strict=True):
                if answer is not True:
                    say(f"{worker.cases[0].key}: {answer}")
                    failed += len(worker.cases)
                elif results is None:
                    count += len(worker.cases)
                    say(f"{time.perf_counter() - began:6.1f} s {worker.cases[0].key}: compiled")
                elif late():
                    worker.stop()
                else:
                    failed += len(worker.cases)
                    for case, line in worker.lines():
                        if isinstance(line, str):
                            say(f"{case.key}: {line}")
                            continue
                        results.add(case, line)
                        count += 1
                        failed -= 1
                        said = f"{line['median_s'] * 1e3:.3f} ms, compiled in {line['prepared_s']:.0f} s{_of_its_looks(line)}"
                        say(f"{time.perf_counter() - began:6.1f} s {case.key}: {said}")
                worker.end()
        finally:  # one that still waited for its turn would keep this process from ending
            for worker in workers:
                worker.end()
    if late():
        say(f"stopped after {seconds:.0f} s")
    return Counts(count, failed)


class _Worker:
    """A process that compiles a network, waits for its turn, and measures the network in every way of `cases`."""

    def __init__(self, cases_: Sequence[NetworkCase], *, timed: bool, profile: bool, traces: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.cases = tuple(cases_)
        self._near, far = context.Pipe()
        self._process = context.Process(target=_compiled, args=(self.cases, far, timed, profile, traces))
        self._process.start()
        far.close()

    def answer(self) -> Any:
        """What it sends: True for ready, a line, or a sentence of what failed."""
        try:
            if self._near.poll(LONGEST_COMPILE_S):
                return self._near.recv()
            self._process.kill()
            return f"did not answer within {LONGEST_COMPILE_S} s"
        except (EOFError, OSError):
            return "its process ended without an answer"

    def lines(self) -> Iterator[tuple[NetworkCase, dict[str, Any] | str]]:
        """Give it its turn; the line of each case, or what failed."""
        self._send(True)
        for case in self.cases:
            answer = self.answer()
            yield case, answer
            if isinstance(answer, str):
                return

    def stop(self) -> None:
        """It is not its turn any more."""
        self._send(False)

    def _send(self, go: bool) -> None:
        with contextlib.suppress(OSError):  # of a process that has ended, which the next answer says
            self._near.send(go)

    def end(self) -> None:
        """Wait for the process."""
        self._near.close()
        self._process.join(timeout=60)
        if self._process.is_alive():
            self._process.kill()


class _NotNow(Exception):
    """Compiled code was not to run."""


class _Gate:
    """A compiler for torch.compile whose code asks for its turn before it first runs, and not again."""

    def __init__(self, compiler: Callable[[Any, Any], Callable[..., Any]], turn: Callable[[], bool]) -> None:
        self._compiler, self._turn, self._open = compiler, turn, False

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        code = self._compiler(graph, inputs)

        def run(*given: Any) -> Any:
            if not self._open:
                if not self._turn():
                    raise _NotNow
                self._open = True
            return code(*given)

        return run


def _compiled(cases_: Sequence[NetworkCase], pipe: Any, timed: bool, profile: bool, traces: Path | None) -> None:
    """A worker: compile, wait for its turn, measure."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # before torch's compiler is first imported
    first = cases_[0]

    def turn() -> bool:
        pipe.send(True)
        try:
            return timed and bool(pipe.recv() is True)
        except EOFError:
            return False

    try:
        torch, timm = _torch(), _timm()
        probe = None
        if any(case.run in IN_STREAM for case in cases_):
            probe = HostProbe(torch, torch.compile)
            probe.medians(1, 1)  # compiled now, beside the others
        module = _module(torch, timm, first)
        backend = importlib.import_module("torch._dynamo").lookup_backend("inductor")
        call = torch.compile(module, backend=_Gate(backend, turn), dynamic=False)
        for case in cases_:
            pipe.send(with_room(partial(_measured, torch, module, case, call=call, probe=probe, profile=profile, traces=traces)))
    except _NotNow:
        return
    except Exception as error:  # of CUDA, of torch, of its compilers, or whatever a model of timm raises
        pipe.send(sentence(error))


def _torch() -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise GpuError(
            "PyTorch is not installed, and networks and layers are measured with it; pip install 'perfmodel[torch]'"
        ) from None
    if not torch.cuda.is_available():
        raise GpuError("PyTorch finds no GPU on this machine; networks and layers are measured on one")
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
    torch: Any,
    module: Any,
    case: NetworkCase,
    *,
    call: Any = None,
    probe: HostProbe | None = None,
    profile: bool = False,
    traces: Path | None = None,
) -> dict[str, Any]:
    """The line of a case; `call` is the compiled module where one is measured, `probe` looks at the host where it is waited for."""
    dtype = next(module.parameters()).dtype
    x = torch.randn(case.batch, 3, case.resolution, case.resolution, device="cuda", dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if case.layout == "nhwc" else x
    call = module if call is None else call

    def step() -> Any:
        if case.autocast is None:
            return call(x)
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[case.autocast]
        with torch.autocast("cuda", kind, cache_enabled=case.run not in ("graph", "compile-graph")):
            return call(x)

    torch.backends.cudnn.benchmark = True
    with torch.inference_mode():
        began = time.perf_counter()
        for _ in range(WARM_UP):
            step()
        torch.cuda.synchronize()
        prepared_s = time.perf_counter() - began
        repeated: Callable[[], Any] = step if case.run in IN_STREAM else _captured(torch, step).replay
        host: dict[str, Any] = {}
        before = state()
        if probe is not None and case.run in IN_STREAM:
            looks = [probe.medians()]
            moments: dict[str, list[float]] = {}

            def look() -> None:
                for name, seconds in probe.moment().items():
                    moments.setdefault(name, []).append(float(f"{seconds:.4g}"))

            times, faults = _times(torch, repeated, look)
            host = {"host": {"looks": [*looks, probe.medians()], **moments}}
        else:
            times, faults = _times(torch, repeated)
        after = state()
        asked = (profile or traces is not None) and case.run in IN_STREAM
        kernels = _kernels(torch, repeated, case.trace(traces)) if asked else None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "timm": _timm().__version__,
        "driver": driver_version(),
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "median_s": statistics.median(times),
        "times_s": [float(f"{value:.5g}") for value in times],
        "page_faults": faults,
        "prepared_s": round(prepared_s, 2),
        "before": asdict(before) if before else None,
        "after": asdict(after) if after else None,
        **host,
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


def _times(torch: Any, step: Callable[[], Any], between: Callable[[], Any] | None = None) -> tuple[list[float], int | None]:
    """Seconds of each step on the host's clock, with one synchronisation per step, as timm's benchmark does it; page faults of them all.

    `between` runs after every few steps, outside their time: a host's speed changes from one tenth of a second to the next. The step
    after it is not timed, either: it finds the host's caches full of another's code and data.
    """
    step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    steps = max(FEWEST, min(MOST, round(SECONDS_PER_CASE / (time.perf_counter() - start))))
    found: list[float] = []
    faults: list[int] = []
    for index in range(steps):
        if between is not None and index % STEPS_BETWEEN == 0:
            between()
            step()
            torch.cuda.synchronize()
        before = page_faults()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
        after = page_faults()
        faults += [] if before is None or after is None else [after - before]
    return found, sum(faults) if faults else None


def _kernels(torch: Any, step: Callable[[], Any], trace: Path | None) -> list[tuple[str, float]]:
    """(name, microseconds) of every kernel of one step, in order; `trace`: also a file that `perfmodel validate torch-trace` reads."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        torch.cuda.synchronize()
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=lambda event: event.time_range.start)
    return [(event.name[:KERNEL_NAME_LENGTH], event.time_range.elapsed_us()) for event in events]
