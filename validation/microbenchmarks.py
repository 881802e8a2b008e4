"""What a GPU sustains, measured: bandwidths, matrix, vector and special-function throughput, launch gaps, clocks under load.

`perfmodel hardware measure` runs it. Every figure is the median of repeated runs, and every repeat is kept. CuPy launches the kernels of
microbenchmarks.cu; matrix products, and the framework's own times, come from PyTorch where it is installed, else from CuPy's cuBLAS.
"""

from __future__ import annotations

import datetime
import importlib
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from perfmodel.expected.features import norm_threads
from perfmodel.hardware.spec import Measured
from perfmodel.validation.files import read_model
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.gpu import cupy_with_gpu, driver_version, state, this_device
from perfmodel.validation.samples import Sample
from perfmodel.validation.timing import EventTimer
from perfmodel.validation.torch_timing import (
    REPEATS,
    graph_seconds,
    replay_seconds,
    settled,
    shape_text,
    slope,
    torch_seconds,
    tuned,
)

DRAM_BYTES: Final = 2**30
"""Of one buffer: many times any L2."""
MATRIX_SIZES: Final = (512, 1024, 2048, 4096, 8192)
SUSTAINED_S: Final = 0.8
"""Of matrix products back to back, before their rate under load is taken."""
LAUNCHES: Final = 1000
CHAINS: Final = 8 * 32
"""Operations of a thread per turn in the throughput kernels."""
PARTS: Final = ("bandwidth", "throughput", "launch", "phases", "matrix", "rates", "memory", "compiled", "host")
"""What a run consists of, in this order. The last five are of PyTorch, `compiled` of what torch.compile makes (`host` then, too)."""
OF_PYTORCH: Final = frozenset(PARTS[4:])
OF_PYTORCH_ALONE: Final = PARTS[5:]
"""Of these, those that CuPy's library does not stand in for."""


class SkippedPart(BaseModel):
    """A part of a run that was asked for and could not be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    reason: str


class MachineRun(BaseModel):
    """A run of the microbenchmarks: where, when, every sample, and what could not be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    device: str
    date: str
    driver: str
    cupy: str
    torch: str | None
    samples: tuple[Sample, ...]
    parts: tuple[str, ...] = ()
    """That were asked for; of runs recorded before 2026-11-30 it is not known."""
    skipped: tuple[SkippedPart, ...] = ()

    def measured(self, where: str) -> tuple[Measured, ...]:
        """One entry per quantity for a device's file; of a quantity measured at several sizes, the best.

        Rates of kernels that take microseconds are those without the floor that every launch has.
        """
        floor_s = next((sample.median for sample in self.samples if sample.quantity == "kernel_floor_s"), 0.0)
        best: dict[str, Sample] = {}
        for sample in self.samples:
            known = best.get(sample.quantity)
            better = known is None or (
                sample.median < known.median if sample.quantity.endswith("_s") and not sample.quantity.endswith("per_s")
                else sample.median > known.median
            )  # fmt: skip
            if better:
                best[sample.quantity] = sample
        return tuple(
            Measured(
                quantity=sample.quantity,
                value=float(f"{sample.without(floor_s):.5g}"),
                kernel=sample.kernel if sample.detail is None else f"{sample.kernel}, {sample.detail}",
                date=sample.date or self.date,
                driver=self.driver or "unknown",
                where=where,
                clock_hz=sample.clock_hz,
            )
            for sample in best.values()
        )

    def require(self, device: str, driver: str) -> None:
        """Raises GpuError where this ran on another device or driver."""
        if (self.device, self.driver) != (device, driver):
            raise GpuError(
                f"figures of {self.device} under driver {self.driver} and of {device} under {driver} do not go together; "
                "measure all parts anew"
            )

    def onto(self, older: MachineRun) -> MachineRun:
        """With the samples of an older run that this one did not take. Raises GpuError where that ran on another device or driver."""
        older.require(self.device, self.driver)
        taken = {sample.quantity for sample in self.samples}
        kept = [
            sample if sample.date or older.date == self.date else sample.model_copy(update={"date": older.date})
            for sample in older.samples
            if sample.quantity not in taken
        ]
        return self.model_copy(
            update={
                "samples": (*kept, *self.samples),
                "parts": tuple(dict.fromkeys((*older.parts, *self.parts))),
                "skipped": (*(one for one in older.skipped if one.part not in self.parts), *self.skipped),
                "torch": self.torch or older.torch,
            }
        )


def run(
    say: Callable[[str], None] = lambda _: None,
    only: Collection[str] = PARTS,
    keep: Callable[[MachineRun], None] = lambda _: None,
) -> MachineRun:
    """Measure the current GPU, or some PARTS of it; all take about a minute. `keep` is given all there is after every figure.

    A part that cannot run here is said, and recorded with its reason. Raises GpuError where there is no GPU, and where a figure drowns in
    noise, as soon as it does.
    """
    cupy = cupy_with_gpu()
    device = this_device()
    torch = _torch() if OF_PYTORCH & set(only) else None
    samples: list[Sample] = []
    skipped: list[SkippedPart] = []
    driver, date = driver_version(), datetime.datetime.now(datetime.UTC).date().isoformat()  # once: it asks another program

    def found_so_far() -> MachineRun:
        return MachineRun(
            device=device.name,
            date=date,
            driver=driver,
            cupy=cupy.__version__,
            torch=torch.__version__ if torch is not None else None,
            samples=tuple(samples),
            parts=tuple(part for part in PARTS if part in only),
            skipped=tuple(skipped),
        )

    def skip(parts: Collection[str], reason: str) -> None:
        for part in (one for one in parts if one in only):
            skipped.append(SkippedPart(part=part, reason=reason))
            say(f"{part}: not measured, {reason}")
            keep(found_so_far())

    def add(part: str, found: Callable[[], Iterator[Sample]]) -> None:
        for sample in found() if part in only else ():
            samples.append(sample)
            size = f" ({sample.detail})" if sample.detail else ""
            say(f"{sample.quantity}{size}: {sample.median:.4g}")
            keep(found_so_far())

    source = (resources.files("perfmodel.validation") / "microbenchmarks.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(code=source, options=("-std=c++17",))
    timer = EventTimer(cupy=cupy, repeats=REPEATS)
    add("bandwidth", lambda: _bandwidths(cupy, module, timer, device.multiprocessors, device.l2_bytes))
    add("throughput", lambda: _throughputs(cupy, module, timer, device.multiprocessors))
    add("launch", lambda: _launch_gaps(cupy, module, timer))
    if device.compute_capability == (9, 0):
        from perfmodel.validation.phase_times import samples as phase_samples

        add(
            "phases", lambda: phase_samples(cupy, device.multiprocessors, float(cupy.cuda.Device().attributes["ClockRate"]) * 1e3)
        )
    else:
        capability = ".".join(map(str, device.compute_capability))
        skip(("phases",), f"as its instructions are those of compute capability 9.0, and this is {capability}")
    if torch is None:
        add("matrix", lambda: _matrix_cupy(cupy, timer))
        skip(OF_PYTORCH_ALONE, "as PyTorch is not installed, or sees no GPU")
    else:
        from perfmodel.validation import memory_rates
        from perfmodel.validation.host_times import HostProbe

        add("matrix", lambda: _matrix_torch(torch))
        add("rates", lambda: _framework(torch, device.l2_bytes))
        add("memory", lambda: memory_rates.samples(torch))
        add("compiled", lambda: memory_rates.compiled_samples(torch, torch.compile))
        add("host", lambda: HostProbe(torch, torch.compile if "compiled" in only else None).samples())
    return found_so_far()


def recorded_run(path: Path) -> MachineRun:
    """A run's samples as `--samples` wrote them; raises MeasurementFileError where they are not."""
    return read_model(path, MachineRun, "has no samples of `perfmodel hardware measure`")


def _torch() -> Any | None:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def _bandwidths(cupy: Any, module: Any, timer: EventTimer, processors: int, l2_bytes: int) -> Iterator[Sample]:
    functions = {name: module.get_function(name) for name in ("read_words", "write_words", "copy_words")}
    read = functions["read_words"]
    x, y = cupy.zeros(DRAM_BYTES // 4, cupy.uint32), cupy.empty(DRAM_BYTES // 4, cupy.uint32)
    sink = cupy.zeros(1, cupy.uint32)
    words = DRAM_BYTES // 16
    for blocks in (4, 8, 16, 32):
        grid, block = (processors * blocks,), (256,)
        detail = f"{DRAM_BYTES >> 20} MiB, {blocks} blocks of 256 per multiprocessor"
        for quantity, name, moved, arguments in (
            ("dram_read_bytes_per_s", "read_words", DRAM_BYTES, (x, cupy.uint64(words), cupy.int32(1), sink)),
            ("dram_write_bytes_per_s", "write_words", DRAM_BYTES, (y, cupy.uint64(words), cupy.uint32(1))),
            ("dram_copy_bytes_per_s", "copy_words", 2 * DRAM_BYTES, (x, y, cupy.uint64(words))),
        ):
            times = timer.seconds(lambda k=functions[name], g=grid, b=block, a=arguments: [k(g, b, a) for _ in range(4)])  # type: ignore[misc]
            rates = tuple(4 * moved / time_s for time_s in times)
            yield Sample(quantity=quantity, kernel=name, values=rates, detail=detail, **_loaded())
    passes = 64
    for share in (8, 4, 2):
        step = processors * 512 * 4  # words of one unrolled turn of the whole grid
        resident = max(l2_bytes // share // 16 // step, 1) * step
        times = timer.seconds(lambda n=resident: read((processors,), (512,), (x, cupy.uint64(n), cupy.int32(passes), sink)))  # type: ignore[misc]
        rates = tuple(16 * resident * passes / time_s for time_s in times)
        yield Sample(
            quantity="l2_read_bytes_per_s",
            kernel="read_words",
            values=rates,
            detail=f"{16 * resident >> 10} KiB resident",
            **_loaded(),
        )


def _throughputs(cupy: Any, module: Any, timer: EventTimer, processors: int) -> Iterator[Sample]:
    out = cupy.empty(1024, cupy.float32)
    turns, threads, blocks = 2000, 1024, 2
    lanes = processors * blocks * threads
    for quantity, name, ops in (
        ("vector_fp32_ops_per_s", "fma_fp32", 2),
        ("vector_fp16_ops_per_s", "fma_fp16x2", 4),
        ("special_ex2_ops_per_s", "special_ex2", 1),
        ("special_tanh_ops_per_s", "special_tanh", 1),
    ):
        kernel = module.get_function(name)
        times = timer.seconds(lambda k=kernel: k((processors * blocks,), (threads,), (out, cupy.int32(turns))))  # type: ignore[misc]
        yield Sample(quantity=quantity, kernel=name, values=tuple(ops * CHAINS * turns * lanes / t for t in times), **_loaded())


def _launch_gaps(cupy: Any, module: Any, timer: EventTimer) -> Iterator[Sample]:
    """Seconds per launch of an empty kernel, queued one by one and replayed from a graph: its own few clocks are part of the gap."""
    nothing = module.get_function("nothing")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        for _ in range(LAUNCHES):
            nothing((1,), (32,), ())
        graph = stream.end_capture()

        def queued() -> None:
            for _ in range(LAUNCHES):
                nothing((1,), (32,), ())

        for quantity, work in (("launch_stream_s", queued), ("launch_graph_s", lambda: graph.launch(stream))):
            times = timer.seconds(work)
            yield Sample(quantity=quantity, kernel="nothing", values=tuple(seconds / LAUNCHES for seconds in times))


def _matrix_torch(torch: Any) -> Iterator[Sample]:
    """Products of square matrices through cuBLAS: a burst of each size, and the largest under sustained load."""
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32)):
        with _tf32(torch, allowed=name == "tf32"):
            for size in MATRIX_SIZES:
                a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
                launches = max(1, min(200, round(2e12 / (2 * size**3)))) if name != "fp32" else max(1, round(1e11 / size**3))
                times = torch_seconds(torch, lambda a=a, b=b: a @ b, launches)  # type: ignore[misc]
                rates = tuple(2 * size**3 / t for t in times)
                quantity = f"matrix_{name}_ops_per_s"
                yield Sample(quantity=quantity, kernel="cuBLAS", values=rates, detail=f"{size}³", **_loaded())
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    sustained: list[float] = []
    clocks: list[float] = []
    powers: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < SUSTAINED_S or len(sustained) < 4:
        (took,) = torch_seconds(torch, lambda: a @ b, 20, repeats=1)
        sustained.append(2 * 8192**3 / took)
        for _ in range(60):  # queue a few hundred milliseconds, and look at the clock while they run
            a @ b
        now = state()
        torch.cuda.synchronize()
        if now is not None:
            clocks.append(now.sm_clock_hz)
            powers.append(now.power_w)
    clock, power = (statistics.median(x) if x else None for x in (clocks, powers))
    kernel = "cuBLAS fp16 8192³, back to back"
    yield Sample(
        quantity="sustained_matrix_fp16_ops_per_s", kernel=kernel, values=tuple(sustained), clock_hz=clock, power_w=power
    )
    if clocks:
        yield Sample(quantity="clock_matrix_load_hz", kernel=kernel, values=tuple(clocks), power_w=power)
        yield Sample(quantity="power_matrix_load_w", kernel=kernel, values=tuple(powers))


@contextmanager
def _tf32(torch: Any, *, allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _matrix_cupy(cupy: Any, timer: EventTimer) -> Iterator[Sample]:
    for name, dtype in (("fp16", cupy.float16), ("fp32", cupy.float32)):
        for size in MATRIX_SIZES:
            a, b = cupy.ones((size, size), dtype), cupy.ones((size, size), dtype)
            times = timer.seconds(lambda a=a, b=b: cupy.matmul(a, b))  # type: ignore[misc]
            rates = tuple(2 * size**3 / t for t in times)
            yield Sample(quantity=f"matrix_{name}_ops_per_s", kernel="cuBLAS", values=rates, detail=f"{size}³", **_loaded())


def _framework(torch: Any, l2_bytes: int) -> Iterator[Sample]:
    """PyTorch's own kernels on data that stays in L2: elements, rows and operations per second."""
    functional = torch.nn.functional
    make = {"device": "cuda", "dtype": torch.float16}
    channels, size = 256, 28
    images = max(1, l2_bytes // 8 // (channels * size * size * 2))
    few, many = (
        torch.randn(count, channels, size, size, **make).to(memory_format=torch.channels_last)
        for count in (max(1, images // 2), 2 * images)
    )
    half = torch.nn.BatchNorm2d(channels).cuda().half().eval()
    mixed = torch.nn.BatchNorm2d(channels).cuda().eval()
    factor, bias = torch.randn(2 * images, channels, 1, 1, **make), torch.randn(1, channels, 1, 1, **make)
    per_element: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
        ("pointwise_elements_per_s", "torch relu", functional.relu),
        ("add_elements_per_s", "torch add of two tensors", lambda x: x + x),
        ("silu_elements_per_s", "torch silu", functional.silu),
        ("gelu_elements_per_s", "torch gelu", functional.gelu),
        ("norm_elements_per_s", "torch batch_norm, parameters fp16", half),
        ("norm_autocast_elements_per_s", "torch batch_norm, parameters fp32", mixed),
        ("broadcast_elements_per_s", "torch multiply by N×C×1×1", lambda x: x * factor[: len(x)]),
        ("bias_elements_per_s", "torch add of 1×C×1×1", lambda x: x + bias),
        ("reduce_elements_per_s", "torch mean over pixels", lambda x: x.mean((2, 3))),
        ("concat_elements_per_s", "torch cat of two tensors, elements written", lambda x: torch.cat((x[:, :128], x[:, 128:]), 1)),
    )

    def convolution(taps: int, groups: int) -> Any:
        layer = torch.nn.Conv2d(channels, channels, taps, padding=taps // 2, groups=groups, bias=False).cuda().half()
        return layer.to(memory_format=torch.channels_last)

    grouped: tuple[tuple[str, str, Any, float], ...] = (
        *(
            (
                f"depthwise_{taps}x{taps}_ops_per_s",
                f"torch conv2d {taps}×{taps}, depthwise",
                convolution(taps, channels),
                2.0 * taps**2,
            )
            for taps in (3, 5, 7)
        ),
        ("grouped_elements_per_s", "torch conv2d 3×3, groups of 8", convolution(3, channels // 8), 1.0),
    )
    with torch.inference_mode():
        with tuned(torch):
            for quantity, kernel, work, each in (*((q, k, w, 1.0) for q, k, w in per_element), *grouped):
                yield slope(torch, quantity, kernel, work, (few, many), each)
            padded = (
                torch.nn.Conv2d(240, 240, 3, padding=1, groups=10, bias=False).cuda().half().to(memory_format=torch.channels_last)
            )
            narrow = [x[:, :240].contiguous(memory_format=torch.channels_last) for x in (few, many)]
            yield slope(torch, "grouped_padded_elements_per_s", "torch conv2d 3×3, groups of 24", padded, narrow)
            stems = [torch.randn(count, 64, 112, 112, **make).to(memory_format=torch.channels_last) for count in (8, 32)]
            kernel = "torch max_pool2d 3×3, stride 2, elements read"
            yield slope(torch, "window_elements_per_s", kernel, lambda x: functional.max_pool2d(x, 3, 2, 1), stems)
        for width in (64, 128, 256, 384, 768):
            rows = few.numel() * 2 // width
            flat, weight = torch.randn(rows, width, **make), torch.ones(width, **make)
            times = graph_seconds(torch, lambda f=flat, w=weight, c=width: functional.layer_norm(f, (c,), w, w))  # type: ignore[misc]
            rates = tuple(rows / took for took in times)
            kernel = "torch layer_norm, fp16, in L2"
            yield Sample(
                quantity="layer_norm_rows_per_s", kernel=kernel, values=rates, detail=f"{rows}×{width}", work=float(rows)
            )
        wide = torch.randn(64, channels, size, size, **make).to(memory_format=torch.channels_last)
        layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).cuda().half().to(memory_format=torch.channels_last)
        ops = 2 * 9 * channels * wide.numel()
        rates = tuple(ops / took for took in graph_seconds(torch, lambda: layer(wide)))
        kernel = "torch conv2d 3×3, fp16"
        yield Sample(
            quantity="convolution_fp16_ops_per_s",
            kernel=kernel,
            values=rates,
            detail=f"64×{channels}×{size}×{size}",
            work=float(ops),
        )
        tiny = torch.randn(1, 64, 2, 2, **make).to(memory_format=torch.channels_last)
        times = graph_seconds(torch, lambda: functional.relu(tiny), 200)
        yield Sample(quantity="kernel_floor_s", kernel="torch relu of 256 elements, replayed in a graph", values=times)
        yield _unlike_floor(torch, tiny)
        yield Sample(
            quantity="graph_replay_s",
            kernel="host: a graph of one launch, and waiting for it",
            values=replay_seconds(torch, lambda: functional.relu(tiny)),
        )
        with tuned(torch):
            yield from _startups(torch, statistics.median(times))


def _unlike_floor(torch: Any, x: Any) -> Sample:
    """What a kernel adds to a graph that has next to nothing to do, and is another than the one before: its code is not at hand."""
    functional = torch.nn.functional
    kinds = (
        functional.relu, functional.silu, torch.sigmoid, torch.tanh, functional.hardswish, torch.neg, torch.abs, functional.gelu, torch.exp,
        torch.sqrt, torch.sin, torch.floor, functional.hardsigmoid, functional.mish, functional.elu, torch.cos,
    )  # fmt: skip

    def work() -> None:
        for kind in kinds:
            kind(x)

    return Sample(
        quantity="unlike_floor_s",
        kernel=f"torch, {len(kinds)} unlike functions of 256 elements, replayed in a graph",
        values=tuple(took / len(kinds) for took in graph_seconds(torch, work)),
    )


SMALL_LAUNCHES: Final = 100
SMALL_PRODUCTS: Final = (
    (48, 96, 28), (96, 192, 28), (192, 96, 28), (192, 384, 14), (384, 192, 14), (768, 384, 7), (384, 768, 7), (1536, 768, 7),
)  # fmt: skip
SMALL_CONVOLUTIONS: Final = ((48, 48, 56), (96, 96, 28), (192, 192, 14), (384, 384, 7), (768, 384, 7))
SMALL_DEPTHWISE: Final = ((64, 28), (128, 28), (256, 14), (512, 14), (1024, 7))
"""Channels in and out, and image, of one image: so little that no multiprocessor has more than a tile or two."""
DEPTH_STEP: Final = 64
"""Of a product's depth: what a library's kernel takes from shared memory at a time."""


def _startups(torch: Any, floor_s: float) -> Iterator[Sample]:
    """What kernels take that have next to nothing to do: one image of 14×14, a tile or two; and what a product takes more for its depth."""
    functional, nn = torch.nn.functional, torch.nn
    make = {"device": "cuda", "dtype": torch.float16}

    def image(channels: int, size: int) -> Any:
        return torch.randn(1, channels, size, size, **make).to(memory_format=torch.channels_last)

    def convolution(inputs: int, outputs: int, size: int, kernel: int, groups: int = 1) -> tuple[float, ...]:
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False).cuda().half()
        layer, x = layer.to(memory_format=torch.channels_last), image(inputs, size)
        return graph_seconds(torch, lambda: layer(x), SMALL_LAUNCHES)

    for name, kernel, shapes in (("product", 1, SMALL_PRODUCTS), ("convolution", 3, SMALL_CONVOLUTIONS)):
        medians = [statistics.median(convolution(*shape, kernel)) for shape in shapes]
        steps = [inputs * kernel**2 / DEPTH_STEP for inputs, _, _ in shapes]
        step, start = _line(steps, medians)
        detail = ", ".join(f"{inputs} → {outputs} at {size}×{size}" for inputs, outputs, size in shapes)
        kernel_said = f"torch conv2d {kernel}×{kernel}, fp16"
        yield Sample(quantity=f"{name}_step_s", kernel=f"{kernel_said}, by depth of {DEPTH_STEP}", values=(step,), detail=detail)
        yield Sample(quantity=f"{name}_startup_s", kernel=f"{kernel_said}, at no depth", values=(start,), detail=detail)
    for taps in (3, 5, 7):
        times = tuple(statistics.median(convolution(wide, wide, size, taps, wide)) for wide, size in SMALL_DEPTHWISE)
        detail = "the median of " + ", ".join(f"{wide} at {size}×{size}" for wide, size in SMALL_DEPTHWISE)
        quantity = f"depthwise_{taps}x{taps}_startup_s"
        yield Sample(quantity=quantity, kernel="torch conv2d, depthwise, fp16, one image", values=times, detail=detail)
    for kind, width in (("grouped", 8), ("grouped_padded", 24)):
        channels = 240 // width * width
        times = convolution(channels, channels, 14, 3, channels // width)
        yield Sample(
            quantity=f"{kind}_startup_s",
            kernel=f"torch conv2d 3×3, groups of {width}, fp16",
            values=times,
            detail=f"1×{channels}×14×14",
        )
    x, stem = image(256, 14), image(64, 112)
    rows, weight = x.permute(0, 2, 3, 1), torch.ones(256, **make)
    half, mixed = nn.BatchNorm2d(256).cuda().half().eval(), nn.BatchNorm2d(256).cuda().eval()
    factor = torch.randn(1, 256, 1, 1, **make)
    # a half norm first converts its statistics in two small kernels, which the list of kernels has
    times = tuple(took - 2 * floor_s for took in graph_seconds(torch, lambda: half(x), SMALL_LAUNCHES))
    yield Sample(quantity="norm_startup_s", kernel="torch batch_norm, parameters fp16, without its two helpers", values=times)
    yield _norm_row(torch)
    works: tuple[tuple[str, str, Callable[[], Any]], ...] = (
        ("norm_autocast", "torch batch_norm, parameters fp32", lambda: mixed(x)),
        ("row_norm", "torch layer_norm", lambda: functional.layer_norm(rows, (256,), weight, weight)),
        ("broadcast", "torch multiply by N×C×1×1", lambda: x * factor),
        ("reduce", "torch mean over pixels", lambda: x.mean((2, 3), keepdim=True)),
        ("concat", "torch cat of two tensors", lambda: torch.cat((x, x), 1)),
        ("window", "torch max_pool2d 3×3, stride 2, of 1×64×112×112", lambda: functional.max_pool2d(stem, 3, 2, 1)),
    )
    for name, kernel_said, work in works:
        yield Sample(
            quantity=f"{name}_startup_s", kernel=f"{kernel_said}, fp16", values=graph_seconds(torch, work, SMALL_LAUNCHES)
        )


NORM_ROWS: Final = (4, 32, 224, 224)
"""One image has all the blocks that the library gives a norm of so many channels, a quarter of an H200's threads: more images are more rows
for each."""


def _norm_row(torch: Any) -> Sample:
    """What one more row for each thread costs a norm: of four images less of one, which take equally many threads."""
    images, channels, height, width = NORM_ROWS
    norm = torch.nn.BatchNorm2d(channels).cuda().half().eval()
    x = torch.randn(*NORM_ROWS, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    more = (images - 1) * height * width * channels / norm_threads(images * height * width, channels)

    def rows() -> list[float]:
        long, short = (graph_seconds(torch, lambda x=part: norm(x)) for part in (x, x[:1]))  # type: ignore[misc]
        return [(a - b) / more for a, b in zip(long, short, strict=True)]

    return Sample(
        quantity="norm_row_s",
        kernel="torch batch_norm, parameters fp16, of a row for each thread",
        values=settled("norm_row_s", rows),
        detail=f"{shape_text(x)} less one image",
    )


def _line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Slope and value at 0 of the straight line of least squares; neither below nothing."""
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    slope = max(slope, 1e-12)
    return slope, max(mean_y - slope * mean_x, 1e-9)


def _loaded() -> dict[str, Any]:
    """Clock and power as they are right after a load."""
    now = state()
    return {"clock_hz": None, "power_w": None} if now is None else {"clock_hz": now.sm_clock_hz, "power_w": now.power_w}
