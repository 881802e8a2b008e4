"""Where something tips over.

The machine on which a network becomes compute-bound, the group width at which a block rises above the waterline, the batches at which a
fused schedule pays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sympy

from perfmodel.design.blocks import Kind
from perfmodel.design.closed_form import BANDWIDTH, PEAK
from perfmodel.design.subject import BlockSubject, QuestionError, Subject, precision_of
from perfmodel.errors import UnknownNameError
from perfmodel.hardware.spec import HardwareError
from perfmodel.hardware.what_if import what_if
from perfmodel.layers import dims
from perfmodel.prediction import Prediction
from perfmodel.schedule import AUTO, BLOCK, SCHEDULES
from perfmodel.sweep import block_expressions
from perfmodel.units import si

HARDWARE: Final = {"bandwidth": "B/s", "peak": "op/s", "local_memory": "B"}
"""Figures of a machine that can be asked for, and their units."""
_LOCAL_BYTES: Final = (1_000, 10**9)
_ROUNDED: Final = 1e-14
_SAME: Final = 1e-9
"""Plans that differ by less, relatively, are taken for equally fast by those who make them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A kernel, and the figure at which it passes from one side of the waterline to the other."""

    name: str
    kind: str
    operational_intensity: float
    crosses_at: float | None
    """None: a kernel without arithmetic stays memory-bound."""
    share: float
    """Of the latency, as the machine is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The figure of a machine that meets a goal."""

    subject: Subject
    unknown: str
    goal: str
    value: float
    now: float
    """What the machine has."""
    formula: str
    """Where the value comes from."""
    crossings: tuple[Crossing, ...]
    before: str
    """What one step towards the other side gives."""


def compute_bound(subject: Subject, unknown: str) -> Threshold:
    """The least bandwidth, highest peak or least local memory at which arithmetic holds the kernels that take most of the time.

    Of bandwidth and peak exactly: a kernel is memory-bound where its ops per byte lie below the machine's ratio r, so what most of the time
    goes into changes at the one r for which Σ ops of the kernels above it = r · Σ bytes of those below it; fused
    kernels stay as they are cut and tiled for the machine. Local memory by bisection over bytes, each predicted anew. Raises
    QuestionError where nothing makes it compute-bound.
    """
    if unknown not in HARDWARE:
        raise UnknownNameError("figure of a machine", unknown, HARDWARE)
    if unknown == "local_memory":
        return _local_memory(subject)
    prediction = subject.prediction
    limits = (prediction.peak.ops_per_s, subject.device.memory.dram_bandwidth_bytes_per_s)
    work = [(float(k.cost.ops), float(k.cost.dram_bytes)) for k in prediction.kernels]
    ratio = balance(work)
    peak, bandwidth = limits
    value, now = (peak / ratio, bandwidth) if unknown == "bandwidth" else (ratio * bandwidth, peak)
    rated = f"{si(peak, 'op/s', 4)} / {ratio:.4g}" if unknown == "bandwidth" else f"{ratio:.4g} · {si(bandwidth, 'B/s')}"
    at, total = value / now, prediction.latency_s
    crossings = []
    for time in prediction.times:
        intensity = float(time.kernel.cost.operational_intensity)
        crosses = None if intensity == 0 else (peak / intensity if unknown == "bandwidth" else intensity * bandwidth)
        crossings.append(
            Crossing(
                name=time.kernel.name,
                kind=time.kernel.kind,
                operational_intensity=intensity,
                crosses_at=crosses,
                share=time.latency_s / total,
            )
        )
    way = "less bandwidth" if unknown == "bandwidth" else "a higher peak"
    held = prediction.share_bound_by("memory")
    return Threshold(
        subject=subject,
        unknown=unknown,
        goal="compute-bound: arithmetic holds the kernels that take at least half of the time",
        value=value,
        now=now,
        formula=f"op:byte ratio at which Σ ops above it = ratio · Σ bytes below it: {ratio:.4g}; {unknown} = {rated}"
        + ("" if subject.schedule.lower() in SCHEDULES else f"; fused kernels as cut and tiled for {subject.device.slug}"),
        crossings=tuple(crossings),
        before=f"{at:.3g} × that of {subject.device.slug}, where memory holds {100 * held:.0f} % of the time; with {way} memory holds most",
    )


def balance(work: Sequence[tuple[float, float]]) -> float:
    """The op:byte ratio r at which Σ ops of kernels with ops/bytes ≥ r equals r · Σ bytes of the others; (ops, bytes) of each kernel.

    Raises QuestionError where there is no arithmetic.
    """
    ordered = sorted((kernel for kernel in work if kernel[1] > 0), key=lambda kernel: kernel[0] / kernel[1])
    above, below = sum(ops for ops, _ in ordered), 0.0
    if above == 0:
        raise QuestionError("there is no arithmetic on the matrix unit: memory holds it on every machine")
    for place, (ops, moved) in enumerate(ordered):  # r lies between the intensities of the kernel before and of this one
        here = ops / moved
        lowest = ordered[place - 1][0] / ordered[place - 1][1] if place else 0.0
        if below > 0 and above / below <= here:
            return max(above / below, lowest)
        above, below = above - ops, below + moved
    return ordered[-1][0] / ordered[-1][1]


def _local_memory(subject: Subject) -> Threshold:
    if subject.schedule.lower() != BLOCK:
        why = "is not solved for" if subject.schedule.lower() == AUTO else "changes nothing"
        raise QuestionError(f"local memory {why} on schedule {subject.schedule}; ask with --schedule block")
    now = subject.device.require("chip.shared_memory_per_block_bytes")

    def predicted(local_bytes: float) -> Prediction:
        return subject.on(what_if(subject.device, [f"local_memory={local_bytes:.0f}"])).prediction

    low, high = _LOCAL_BYTES
    if predicted(high).bottleneck == "memory":
        best = predicted(high)
        raise QuestionError(
            f"{subject.name} stays memory-bound with any local memory: fused it does {best.operational_intensity:.1f} ops per byte at "
            f"most, the machine {best.op_byte_ratio:.0f}; a larger batch, wider layers or more bandwidth would help"
        )
    if predicted(low).bottleneck == "arithmetic":
        high = low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if predicted(middle).bottleneck == "arithmetic" else (middle, high)
    here, less = predicted(high), predicted(high - 1) if high > _LOCAL_BYTES[0] else predicted(high)
    return Threshold(
        subject=subject,
        unknown="local_memory",
        goal="compute-bound: arithmetic holds the kernels that take at least half of the time",
        value=float(high),
        now=float(now),
        formula="bisection over bytes, every block tiled anew at each",
        crossings=(),
        before=f"with one byte less memory holds {100 * less.share_bound_by('memory'):.0f} % of {si(less.latency_s, 's')}, with it "
        f"{100 * here.share_bound_by('memory'):.0f} % of {si(here.latency_s, 's')}",
    )


def figure_for_latency(subject: Subject, unknown: str, latency_s: float) -> Threshold:
    """The least bandwidth or peak with which the latency is within the budget; exact, for the latency is piecewise linear.

    On schedules that fuse, another machine may have other kernels, and the planner's are the fastest of all on theirs: the latency is the
    least over cuts and tilings of what each takes. So the figure with which some kernels meet the budget is an upper bound of the one
    sought; the kernels planned for it meet the budget with no more; and where they need just as much, no others need less, and it is found.
    Raises UnreachableError where no such figure is enough, naming what the latency is then, and QuestionError where every one is.
    """
    if unknown not in ("bandwidth", "peak"):
        raise QuestionError(f"a latency cannot be solved for {unknown}; ask for bandwidth or peak, or for compute-bound")
    prediction = subject.prediction
    peak, bandwidth = prediction.peak.ops_per_s, subject.device.memory.dram_bandwidth_bytes_per_s
    same_kernels = subject.schedule.lower() in SCHEDULES

    @cache
    def on(factor: float) -> Prediction:
        return subject.on(what_if(subject.device, [f"{unknown}={factor!r}x"])).prediction

    def work(planned: Prediction) -> list[tuple[float, float]]:
        """Of each kernel on the subject's machine: seconds that the figure divides, and seconds that it does not."""
        both = [(float(k.cost.ops) / peak, float(k.cost.dram_bytes) / bandwidth) for k in planned.kernels]
        return both if unknown == "peak" else [(memory_s, arithmetic_s) for arithmetic_s, memory_s in both]

    def at(factor: float) -> float:
        if not same_kernels:
            return float(on(factor).latency_s)
        return sum(max(divided / factor, other) for divided, other in work(prediction))

    factor = _factor_within(work(prediction), latency_s)
    if not same_kernels and (factor is None or (factor > 1 and not _is_described(on, factor))):
        largest, there = _most(on)
        if there.latency_s >= latency_s:
            raise UnreachableError(
                f"no {unknown} brings {subject.name} on {subject.device.slug} to {si(latency_s, 's')}: with {largest:.0f} times as much it "
                f"takes {si(float(there.latency_s), 's')}, its kernels cut and tiled for that; allow at least that much"
            )
        factor = _factor_within(work(there), latency_s)
    if factor is None:
        floor = sum(other for _, other in work(prediction))
        raise _unreachable(subject, unknown, latency_s, floor, "arithmetic" if unknown == "bandwidth" else "memory")
    try:
        while not same_kernels:
            less = _factor_within(work(on(factor)), latency_s)
            if less is None or less >= factor * (1 - _SAME):
                break
            factor = less
    except HardwareError:
        raise QuestionError(
            f"the query is unbounded: {subject.name} on {subject.device.slug} takes no longer than {si(latency_s, 's')} even with "
            f"{factor:.3g} × the {unknown}, and with so little no machine is described; give a smaller budget"
        ) from None
    more = _ROUNDED
    while at(factor) > latency_s:  # the root may lie a rounding error on the wrong side, or as far as equally fast plans differ
        factor *= 1 + more
        more *= 2
    now = bandwidth if unknown == "bandwidth" else peak
    return Threshold(
        subject=subject,
        unknown=unknown,
        goal=f"latency of at most {si(latency_s, 's')}",
        value=factor * now,
        now=now,
        formula="root of Σ max(ops / peak, bytes / bandwidth) = budget"
        + ("" if same_kernels else "; kernels cut and tiled anew until none need less"),
        crossings=(),
        before=f"{factor:.3g} × that of {subject.device.slug}; with 1 % less the latency is {si(at(factor * 0.99), 's')}",
    )


def _factor_within(work: Sequence[tuple[float, float]], latency_s: float) -> float | None:
    """The least factor f with Σ max(aᵢ / f, bᵢ) within the latency, of (aᵢ, bᵢ) seconds; None where Σ bᵢ is not below it.

    In 1/f the sum rises in straight lines, each steeper than the one before; kernel i turns at 1/f = bᵢ/aᵢ.
    """
    flat, steep = math.fsum(other for _, other in work), 0.0
    if flat >= latency_s:
        return None
    turning = sorted(((other / divided, divided, other) for divided, other in work if divided > 0), reverse=True)
    while turning and flat + steep * turning[-1][0] <= latency_s:
        _, divided, other = turning.pop()
        flat, steep = flat - other, steep + divided
    return steep / (latency_s - flat)


def _is_described(on: Callable[[float], Prediction], factor: float) -> bool:
    """Whether a machine whose figure is multiplied so passes the check of its file."""
    try:
        on(factor)
    except HardwareError:
        return False
    return True


def _most(on: Callable[[float], Prediction]) -> tuple[float, Prediction]:
    """The largest power of ten that a machine's figure may be multiplied by and still pass the check of its file; the prediction there."""
    for factor in (1e6, 1e5, 1e4, 1e3, 1e2, 1e1):
        try:
            return factor, on(factor)
        except HardwareError:
            continue
    return 1.0, on(1.0)


class UnreachableError(QuestionError):
    """A latency that no such figure gives."""

    exit_code = 3


def _unreachable(subject: Subject, unknown: str, latency_s: float, floor_s: float, other: str) -> UnreachableError:
    return UnreachableError(
        f"no {unknown} brings {subject.name} on {subject.device.slug} to {si(latency_s, 's')}: its {other} alone takes {si(floor_s, 's')}; "
        "allow at least that much"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCrossing:
    """The group width at which the grouped convolution of a block rises above the waterline."""

    subject: BlockSubject
    kernel: str
    real: float
    """The root, not rounded."""
    root: sympy.Expr
    value: int | None
    """The least group width that divides the channels and is no less; None where even all channels are too few."""
    rows: tuple[tuple[int, float, str, float, str], ...]
    """(group width, ops per byte of that kernel, what holds it, latency of the block, what holds most of it) of every group width."""


def group_crossing(subject: Subject) -> GroupCrossing:
    """Solve ops(g) / peak = bytes(g) / bandwidth of the kernel whose cost has the group width in it. Raises QuestionError."""
    if not isinstance(subject, BlockSubject) or Kind.of(subject.kind).groups is None:
        raise QuestionError(f"{subject.name} has no group width to choose; ask of convfirst, mbconv, resnext or regnety")
    if subject.schedule.lower() not in SCHEDULES:
        raise QuestionError("the grouped convolution is a kernel of its own on the schedules eager, pointwise and layer only")
    precision = precision_of(subject)
    made = block_expressions(subject.kind, subject.schedule.lower(), precision.dtype, subject.kernel)
    name, ops, moved = next(
        (name, ops, moved)
        for name, ops, moved in zip(made.kernels, made.work[::2], made.work[1::2], strict=True)
        if ops.has(dims.g)
    )
    (root,) = sympy.solve(sympy.expand(ops * BANDWIDTH - moved * PEAK), dims.g)
    channels = subject.channels
    numbers: dict[Any, float] = {
        dims.N: subject.batch,
        dims.H: subject.size,
        dims.W: subject.size,
        dims.C: channels,
        dims.K: channels / Kind.of(subject.kind).narrowing,
        dims.e: subject.expansion,
        PEAK: subject.device.matrix_peak(precision.matrix).ops_per_s,
        BANDWIDTH: subject.device.memory.dram_bandwidth_bytes_per_s,
    }
    real = float(root.subs(numbers))
    rows, value = [], None
    for width in subject.allowed("group_width", None):
        prediction = subject.at("group_width", width).prediction
        time = next(time for time in prediction.times if time.kernel.name == name)
        intensity = float(time.kernel.cost.operational_intensity)
        rows.append((width, intensity, time.bound_by, prediction.latency_s, prediction.bottleneck))
        if value is None and time.bound_by == "arithmetic":
            value = width
    return GroupCrossing(subject=subject, kernel=name, real=real, root=sympy.factor(root), value=value, rows=tuple(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedRange:
    """Where a fused schedule pays."""

    subject: Subject
    gain: float
    """Least part of the time of schedule `layer` that it must save."""
    rows: tuple[tuple[int, float, float], ...]
    """(batch, latency on `layer`, latency on `block`), of the batches that were tried, rising."""
    first: int | None
    """The least batch from which it pays; None: none of them."""
    last: int | None
    """The last batch at which it still pays; None: it pays to the end."""


def fused_pays(subject: Subject, gain: float, *, most: int = 1 << 12) -> FusedRange:
    """Try batches of powers of two, then halve between those where the answer changes. Raises QuestionError.

    Between two powers of two with the same answer nothing is tried.
    """
    if not 0 < gain < 1:
        raise QuestionError(f"the gain must lie between 0 and 1 (as in 5%), not {gain:g}")
    known: dict[int, tuple[float, float]] = {}

    def pays(batch: int) -> bool:
        if batch not in known:
            at = subject.at("batch", batch)
            layer, block = (at.under(name).prediction.latency_s for name in ("layer", BLOCK))
            known[batch] = (layer, block)
        layer, block = known[batch]
        return block <= layer * (1 - gain)

    tried = [1 << power for power in range(most.bit_length())]
    answers = [pays(batch) for batch in tried]
    first = last = None
    if any(answers):
        begin = answers.index(True)
        end = len(answers) - 1 - answers[::-1].index(True)
        first = tried[begin] if begin == 0 else _first(pays, tried[begin - 1], tried[begin])
        last = None if end == len(tried) - 1 else _first(lambda batch: not pays(batch), tried[end], tried[end + 1]) - 1
    rows = tuple((batch, *known[batch]) for batch in sorted(known))
    return FusedRange(subject=subject, gain=gain, rows=rows, first=first, last=last)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number in (low, high] for which it holds, where it does not at `low` and does at `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
