"""How long work of PyTorch's takes on the GPU: in a stream, replayed as a graph, and what more of it takes more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.samples import Sample

REPEATS: Final = 7
TRIES: Final = 3
"""Of a figure that is a difference of two times, before it is refused."""


def torch_seconds(torch: Any, work: Callable[[], Any], launches: int, repeats: int = REPEATS) -> tuple[float, ...]:
    """Seconds per launch on the GPU of work that is queued `launches` times."""
    work()
    found = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(launches):
            work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) * 1e-3 / launches)
    return tuple(found)


def graph_seconds(torch: Any, work: Callable[[], Any], launches: int = 20, repeats: int = REPEATS) -> tuple[float, ...]:
    """Seconds per launch of work that is captured `launches` times and replayed: the host is not waited for.

    Results are freed at once, so that every launch writes the same memory, which stays in L2 where it fits.
    """
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            work()
    return tuple(took / launches for took in torch_seconds(torch, graph.replay, 1, repeats))


def replay_seconds(torch: Any, work: Callable[[], Any], rounds: int = 50) -> tuple[float, ...]:
    """Host seconds to replay a graph of one launch of the work and to wait for its end, as whole networks are timed."""
    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(rounds):
            graph.replay()
            torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / rounds)
    return tuple(found)


def settled(quantity: str, values: Callable[[], Sequence[float]], tries: int = TRIES) -> tuple[float, ...]:
    """What `values` measures for a figure, anew while some repeat is not above nothing: a difference of two times may drown in their noise.

    Raises GpuError after so many tries, while the run is at this figure.
    """
    for _ in range(tries):
        found = tuple(values())
        if min(found) > 0:
            return found
    raise GpuError(
        f"{quantity} is found from a difference of two times, which came out as {min(found):.3g} s in the last of {tries} tries: their "
        "noise is larger than what lies between them; let nothing else run on the GPU, and measure again"
    )


def slope(
    torch: Any,
    quantity: str,
    kernel: str,
    work: Callable[[Any], Any],
    sizes: Sequence[Any],
    each: float = 1.0,
    launches: int = 20,
) -> Sample:
    """What more work takes more: of two sizes the difference, so that what any launch takes does not count. `each`: work of an element."""
    few, many = sizes

    def differences() -> list[float]:
        times = [graph_seconds(torch, lambda x=x: work(x), launches) for x in (few, many)]  # type: ignore[misc]
        return [long - short for short, long in zip(*times, strict=True)]

    more = each * (many.numel() - few.numel())
    rates = tuple(more / took for took in settled(quantity, differences))
    return Sample(quantity=quantity, kernel=f"{kernel}, fp16", values=rates, detail=f"{shape_text(many)} less {shape_text(few)}")


def shape_text(x: Any) -> str:
    """A tensor's shape, for people."""
    return "×".join(map(str, x.shape))


@contextmanager
def tuned(torch: Any) -> Iterator[None]:
    """The library times its kernels and takes the fastest, as it does for the networks that are measured."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
