"""How long a launch takes: replays of a CUDA graph over rotated buffers, every raw time kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from perfmodel.validation.gpu import State, cupy_with_gpu, state

Mode = Literal["burst", "sustained"]
BURST_LAUNCHES: Final = 24
BURST_REPLAYS: Final = 24
SUSTAINED_S: Final = 0.6
PAUSE_S: Final = 0.01
"""Between the replays of a burst: the chip is idle and cool when the next one starts."""
CACHES: Final = 4
"""Rotated buffers are at least this many times the L2 cache."""
MOST_BUFFERS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds for each launch, one figure for each replay of the graph."""

    mode: Mode
    launches: int
    """In the graph."""
    times_s: tuple[float, ...]
    before: State | None
    after: State | None

    @property
    def median_s(self) -> float:
        """Of the replays."""
        return statistics.median(self.times_s)

    def percentile_s(self, percent: float) -> float:
        """Linear between the two nearest replays."""
        return percentile(self.times_s, percent)

    def record(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "mode": self.mode,
            "launches": self.launches,
            "median_s": self.median_s,
            "p20_s": self.percentile_s(20),
            "p80_s": self.percentile_s(80),
            "times_s": [float(f"{value:.5g}") for value in self.times_s],
            "before": asdict(self.before) if self.before else None,
            "after": asdict(self.after) if self.after else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTimer:
    """Times work on the GPU with events, in CuPy's current stream."""

    cupy: Any
    repeats: int

    def seconds(self, work: Callable[[], Any]) -> tuple[float, ...]:
        """Of each repeat, after one that warms up."""
        event, found = self.cupy.cuda.Event, []
        for _ in range(self.repeats + 1):
            start, end = event(), event()
            start.record()
            work()
            end.record()
            end.synchronize()
            found.append(float(self.cupy.cuda.get_elapsed_time(start, end)) * 1e-3)
        return tuple(found[1:])


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest values.

    >>> percentile([3.0, 1.0, 2.0], 50), percentile([1.0, 2.0], 20)
    (2.0, 1.2)
    """
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def buffer_sets(set_bytes: int, l2_bytes: int) -> int:
    """How many sets of buffers to rotate, so that no launch finds its input in the L2 cache.

    >>> buffer_sets(102_760_448, 62_914_560), buffer_sets(802_816, 62_914_560)
    (4, 314)
    """
    return max(4, min(MOST_BUFFERS, -(-CACHES * l2_bytes // set_bytes)))


def replays(replay: Callable[[], None], launches: int, mode: Mode, stream: Any, *, bursts: int = BURST_REPLAYS) -> Timing:
    """Time the graph that `replay` puts onto `stream`, after three replays that warm up.

    burst: so many `bursts`, each one replay, after a pause. sustained: back to back for SUSTAINED_S, and the first half is left out.
    """
    cupy = cupy_with_gpu()
    for _ in range(3):
        replay()
    stream.synchronize()

    def pair() -> tuple[Any, Any]:
        return cupy.cuda.Event(), cupy.cuda.Event()

    def timed(events: tuple[Any, Any]) -> None:
        events[0].record(stream)
        replay()
        events[1].record(stream)

    def elapsed_s(events: tuple[Any, Any]) -> float:
        return float(cupy.cuda.get_elapsed_time(*events)) * 1e-3 / launches

    before = state()
    times: list[float] = []
    if mode == "burst":
        for _ in range(bursts):
            time.sleep(PAUSE_S)
            events = pair()
            timed(events)
            stream.synchronize()
            times.append(elapsed_s(events))
        after = state()
    else:
        start = time.perf_counter()
        kept: list[tuple[Any, Any]] = []
        while time.perf_counter() - start < SUSTAINED_S:
            group = [pair() for _ in range(8)]
            for events in group:
                timed(events)
            kept += group
            if len(kept) > 16:
                kept[-16][1].synchronize()  # at most two groups ahead
        after = state()
        stream.synchronize()
        times = [elapsed_s(events) for events in kept[len(kept) // 2 :]]
    return Timing(mode=mode, launches=launches, times_s=tuple(times), before=before, after=after)
