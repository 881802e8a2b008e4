"""What the phases of a fused kernel cost on Hopper, measured one at a time: instructions of a warpgroup and of a warp, latencies, barriers.

The kernels are in phases.cu. Times of a multiprocessor are in seconds at the clock that ran, which they report themselves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from importlib import resources
from typing import Any, Final, NamedTuple

from perfmodel.expected.fused import STORED_BYTES
from perfmodel.validation.compile import OPTIONS, Unit, compile_unit, headers_of
from perfmodel.validation.samples import Sample
from perfmodel.validation.timing import EventTimer
from perfmodel.validation.torch_timing import settled

ARCHITECTURE: Final = "sm_90a"
REPEATS: Final = 5
PAUSE_S: Final = 0.002
READ_BYTES: Final = 16384
"""Of each block of a cluster, by one turn of `exchanges`."""
LAUNCHES: Final = 200
FLUSH_BYTES: Final = 2**28
SUSTAINED_LAUNCHES: Final = 160
"""Of some 4 ms each: the clock has settled by the last of them."""
COLD_BYTES: Final = 256 * 2**20
LINE_WORDS: Final = 32
SHARED_BYTES: Final = 220_000
MULTIPLY_ADDS: Final = 144
"""Of a warp in a turn of `multiply_adds`."""
WALKED: Final = 48
"""Values of a row that a warp of `walk_with_functions` activates: 12 columns, two channels, before the convolution and after it."""


class Turn(NamedTuple):
    """Of the slowest block: clocks and seconds of one turn."""

    clocks: float
    seconds: float


def unit() -> Unit:
    """The source with its headers."""
    source = (resources.files("perfmodel.validation") / "phases.cu").read_text(encoding="utf-8")
    return Unit(
        name="phases",
        source=source,
        headers=headers_of(source),
        options=OPTIONS,
        architecture=ARCHITECTURE,
    )


class Phases:
    """The compiled kernels on the current device."""

    def __init__(self, cupy: Any, processors: int) -> None:
        import tempfile
        from pathlib import Path

        self.cupy, self.processors = cupy, processors
        with tempfile.NamedTemporaryFile(suffix=".cubin", delete=False) as file:
            file.write(compile_unit(unit()).cubin)
        try:
            self.module = cupy.RawModule(path=file.name)
            self.module.get_function("barriers")  # loads it
            self.flushed = cupy.zeros(FLUSH_BYTES, cupy.uint8)
        finally:
            Path(file.name).unlink()

    def turns(
        self,
        name: str,
        *,
        grid: int,
        threads: int,
        shared_bytes: int = 0,
        count: int,
        more: tuple[Any, ...] = (),
        flush: bool = False,
    ) -> tuple[Turn, ...]:
        """A turn of each repeat, after one that warms up."""
        cupy, function = self.cupy, self.module.get_function(name)
        if shared_bytes:
            function.max_dynamic_shared_size_bytes = shared_bytes
        out, sink, found = cupy.zeros(2 * grid, cupy.int64), cupy.zeros(4096, cupy.float32), []
        for _ in range(REPEATS + 1):
            out[:] = 0
            if flush:
                self.flushed[:] = 1
            function((grid,), (threads,), (out, sink, cupy.int32(count), *more), shared_mem=shared_bytes)
            clocks, nanoseconds = out.get().reshape(-1, 2).max(axis=0)
            found.append(Turn(clocks=float(clocks) / count, seconds=float(nanoseconds) * 1e-9 / count))
            time.sleep(PAUSE_S)
        return tuple(found[1:])

    def clock_hz(
        self, name: str, blocks: int, *, threads: int, shared_bytes: int, count: int, launches: int
    ) -> tuple[float, ...]:
        """Of the last of so many launches in a row: clocks over nanoseconds, by block 0."""
        cupy, function, found = self.cupy, self.module.get_function(name), []
        function.max_dynamic_shared_size_bytes = shared_bytes
        out, sink = cupy.zeros(2 * self.processors, cupy.int64), cupy.zeros(4096, cupy.float32)
        for _ in range(REPEATS):
            time.sleep(10 * PAUSE_S)
            for launch in range(launches):
                if launch == launches - 1:
                    out[:] = 0
                function((blocks,), (threads,), (out, sink, cupy.int32(count)), shared_mem=shared_bytes)
            clocks, nanoseconds = out.get().reshape(-1, 2)[0]
            found.append(float(clocks) / float(nanoseconds) * 1e9)
        return tuple(found)


def _less(turns: tuple[Turn, ...], clocks: float) -> tuple[Turn, ...]:
    return tuple(Turn(clocks=turn.clocks - clocks, seconds=turn.seconds) for turn in turns)


def _alone(cupy: Any) -> tuple[float, ...]:
    """Bytes per second from L2 by the loads of one block."""
    source = (resources.files("perfmodel.validation") / "microbenchmarks.cu").read_text(encoding="utf-8")
    read = cupy.RawModule(code=source, options=("-std=c++17",)).get_function("read_words")
    words, passes = 512 * 4 * 128, 64
    x, sink = cupy.zeros(words * 4, cupy.uint32), cupy.zeros(1, cupy.uint32)
    times = EventTimer(cupy=cupy, repeats=REPEATS).seconds(
        lambda: read((1,), (512,), (x, cupy.uint64(words), cupy.int32(passes), sink))
    )
    return tuple(16 * words * passes / seconds for seconds in times)


def samples(cupy: Any, processors: int, clock_hz: float) -> Iterator[Sample]:
    """Every figure, in seconds at `clock_hz`: clocks as counted, whatever the clock was."""
    place = (cupy.int32(56), cupy.int32(56), cupy.int32(64))
    phases = Phases(cupy, processors)

    def seconds(turns: tuple[Turn, ...], share: float = 1.0) -> tuple[float, ...]:
        return tuple(turn.clocks * share / clock_hz for turn in turns)

    def sample(quantity: str, kernel: str, values: tuple[float, ...], detail: str | None = None) -> Sample:
        return Sample(quantity=quantity, kernel=kernel, values=values, detail=detail, clock_hz=clock_hz)

    eight = phases.turns("products_8_8", grid=1, threads=512, shared_bytes=66560, count=2000)
    yield sample("narrow_product_s", "wgmma m64n8k16, A from registers", seconds(eight, 1 / 32), "4 warpgroups, chains of 8")
    chain = phases.turns("bottleneck_64_32", grid=1, threads=128, shared_bytes=132096, count=1000)
    pipes = 8 * (4 * 16 + 2 * 32 + 64 * 32 / 16)  # clocks of eight chunks: two sets of products, one of functions
    yield sample(
        "phase_latency_s",
        "expand, silu, project of 64 channels by chunks of 32",
        seconds(_less(chain, pipes), 1 / 16),
        "one warpgroup",
    )
    alone = phases.turns("ordinary", grid=1, threads=128, count=2000, more=place)
    full = statistics.median(turn.clocks for turn in phases.turns("ordinary", grid=1, threads=1024, count=2000, more=place))
    ratios = tuple(turn.clocks / (full / 8) / clock_hz for turn in alone)
    yield sample("issue_alone_s", "addresses and packed halves", ratios, "one warp of a scheduler, over an eighth of eight")
    apart = phases.turns("unrolled", grid=1, threads=128, count=2000)
    yield sample("issue_unrolled_s", "fma of eight values side by side", seconds(apart, 1 / 64), "one warp of a scheduler")
    warps = 4  # of a scheduler: its slots are full
    adds = phases.turns("multiply_adds", grid=1, threads=128 * warps, count=2000)
    yield sample(
        "issue_full_s",
        "fma of three registers, 24 sums side by side",
        seconds(adds, 1 / (warps * MULTIPLY_ADDS)),
        "4 warps of a scheduler",
    )
    plain, whole = (
        phases.turns(name, grid=1, threads=128 * warps, shared_bytes=32768, count=600) for name in ("walk", "walk_with_functions")
    )
    added = _less(
        whole,
        statistics.median(turn.clocks for turn in plain)
        + statistics.median(turn.clocks for turn in adds) * WALKED / MULTIPLY_ADDS,
    )
    yield sample(
        "special_issue_s",
        "tanh.approx.f32 beside multiply-adds, in rows of a depthwise convolution with silu before and after it, less without",
        settled("special_issue_s", lambda: seconds(added, 1 / (warps * WALKED)), tries=1),
        "4 warps of a scheduler; without the multiply-adds of silu",
    )
    for name, blocks, launches in (("alone", 1, 1), ("burst", processors, 1), ("sustained", processors, SUSTAINED_LAUNCHES)):
        clocks = phases.clock_hz("bottleneck_64_64", blocks, threads=512, shared_bytes=132096, count=1000, launches=launches)
        yield Sample(
            quantity=f"clock_fused_{name}_hz", kernel=f"expand, silu, project on {blocks} multiprocessors", values=clocks
        )
    many = phases.turns("small_products_4", grid=1, threads=512, count=1000)
    work = 16 * 32 * 16 * 8 * 16 * 2  # warps · instructions · multiply-adds of one · operations
    yield sample(
        "small_product_ops_per_s",
        "mma.sync m16n8k16",
        tuple(work / (t.clocks / clock_hz) for t in many),
        "16 warps of a multiprocessor",
    )
    chain = phases.turns("small_products_1", grid=1, threads=32, count=1000)
    yield sample("small_product_latency_s", "mma.sync m16n8k16, dependent", seconds(chain, 1 / 8))
    function = phases.turns("functions", grid=1, threads=32, count=2000)
    yield sample("special_latency_s", "tanh.approx.f16x2, dependent", seconds(function))
    loads = phases.turns("shared_loads", grid=1, threads=32, count=5000)
    yield sample("shared_latency_s", "ldmatrix, dependent", seconds(loads))
    barrier = phases.turns("barriers", grid=1, threads=512, count=5000)
    yield sample("barrier_latency_s", "bar.sync of 128 threads", seconds(barrier), "4 at the same time")
    words, steps = _chain(cupy, COLD_BYTES)
    for quantity, first, count in (("l2_latency_s", 0, steps // 512), ("dram_latency_s", steps // 2 * LINE_WORDS, steps // 64)):
        cold = quantity.startswith("dram")
        turns = phases.turns("global_loads", grid=1, threads=1, count=count, more=(words, cupy.uint32(first)), flush=cold)
        yield sample(
            quantity,
            "ld.global.cg, dependent",
            seconds(turns),
            "lines in random order, " + ("not read before" if cold else "read before"),
        )
    yield sample(
        "l2_read_alone_bytes_per_s",
        "ld.global.cg of 16 bytes",
        _alone(cupy),
        "one multiprocessor, 512 threads, 4 on their way",
    )
    same = phases.turns("same_reads", grid=processors, threads=512, count=160, more=(cupy.zeros(2**20, cupy.uint8),))
    yield sample(
        "l2_read_same_bytes_per_s",
        "ld.global.cg of 16 bytes",
        tuple(2**16 / (turn.clocks / clock_hz) for turn in same),
        "of each multiprocessor: all read the same, 512 threads, 8 on their way",
    )
    more = (cupy.zeros(1024, cupy.float32), cupy.zeros(1, cupy.uint32))
    meeting = phases.turns("meetings", grid=1, threads=256, count=1000, more=more)
    yield sample("meeting_s", "store, fence, count, fence, load", seconds(meeting), "one block")
    cluster = phases.turns("cluster_barriers_4", grid=4, threads=256, shared_bytes=1024, count=1000)
    yield sample("cluster_barrier_s", "barrier.cluster of 4 blocks", seconds(cluster))
    exchange = phases.turns("exchanges_4", grid=4, threads=256, shared_bytes=65536, count=500)
    bare = statistics.median(turn.clocks for turn in cluster)
    rates = tuple(4 * READ_BYTES / (max(turn.clocks - bare, 1.0) / clock_hz) for turn in exchange)
    yield sample("cluster_read_bytes_per_s", "ld.shared::cluster", rates, "4 blocks, each from all of them, without the barrier")
    for quantity, name, blocks in (
        ("block_launch_s", "resident_nothing", processors),
        ("cluster_launch_s", "cluster_nothing_2", processors // 2 * 2),
    ):
        yield sample(quantity, "a block to a multiprocessor, all shared memory", _launches(cupy, phases, name, blocks))
    for quantity, name, blocks in (
        ("stored_launch_s", "resident_stores", processors),
        ("stored_cluster_launch_s", "cluster_stores_2", processors // 2 * 2),
    ):
        times = _launches(cupy, phases, name, blocks)
        yield sample(quantity, "a block to a multiprocessor, all shared memory", times, "32 KiB stored by each at its end")


def _chain(cupy: Any, buffer_bytes: int) -> tuple[Any, int]:
    """A buffer each of whose lines holds the index of another one, so that a walk meets all of them; and how many there are."""
    steps = buffer_bytes // 4 // LINE_WORDS
    order = cupy.random.permutation(steps).astype(cupy.uint32)
    words = cupy.zeros(steps * LINE_WORDS, cupy.uint32)
    words[order * LINE_WORDS] = cupy.roll(order, -1) * LINE_WORDS
    return words, steps


def _launches(cupy: Any, phases: Phases, name: str, blocks: int) -> tuple[float, ...]:
    """Seconds per launch in a graph of blocks that fill every multiprocessor and end at once."""
    function = phases.module.get_function(name)
    function.max_dynamic_shared_size_bytes = SHARED_BYTES
    stream, out = cupy.cuda.Stream(non_blocking=True), cupy.zeros(blocks * STORED_BYTES, cupy.uint8)
    with stream:
        stream.begin_capture()
        for _ in range(LAUNCHES):
            function((blocks,), (512,), (out,), shared_mem=SHARED_BYTES)
        graph = stream.end_capture()
        times = EventTimer(cupy=cupy, repeats=REPEATS).seconds(lambda: graph.launch(stream))
    return tuple(seconds / LAUNCHES for seconds in times)
