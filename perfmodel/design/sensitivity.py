"""What the latency depends on, and how much: its elasticity to every figure of the machine and every dimension of the work.

An elasticity is d ln latency / d ln x: −0.6 to the bandwidth means that 1 % more bandwidth takes 0.6 % off. It is exact: on the waterline
T = Σ max(opsᵢ / π, bytesᵢ / β), the derivative of a kernel's time is that of the side that holds it. Where x comes in steps (a kernel's
size, a tiling, a rounded-up output) the steps themselves are given, each way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from perfmodel.design.blocks import Kind
from perfmodel.design.closed_form import BANDWIDTH, PEAK
from perfmodel.design.families import FamilyError, scale_of
from perfmodel.design.subject import BlockSubject, NetworkSubject, QuestionError, Subject, precision_of
from perfmodel.hardware.spec import HardwareError
from perfmodel.hardware.what_if import what_if
from perfmodel.layers import dims
from perfmodel.layers.dims import expression
from perfmodel.layers.layer import ShapeError
from perfmodel.networks.catalog import find
from perfmodel.prediction import Prediction
from perfmodel.schedule import SCHEDULES
from perfmodel.sweep import block_expressions
from perfmodel.waterline import KernelTime, Limits

RESOLUTION_STEP = 32
"""What the strides of most networks multiply up to: a resolution that is no multiple of it is rounded up somewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSensitivity:
    """How the latency answers to one figure of the machine."""

    figure: str
    value: float
    elasticity_less: float
    """To less of it; the two sides differ only where a kernel lies exactly on the waterline."""
    elasticity_more: float
    holds_from: float | None
    """The factor on the figure down to which no kernel changes sides; None: as far as one likes."""
    holds_to: float | None
    halved: float | None
    """Latency with half of it ÷ latency, tilings chosen anew; None where no such machine can be described."""
    doubled: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionSensitivity:
    """How the latency answers to one dimension of the work."""

    dimension: str
    value: int
    elasticity: float | None
    """None where the dimension comes in steps only."""
    less: tuple[int, float] | None
    """(the next smaller value, latency there ÷ latency − 1)."""
    more: tuple[int, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Both, of one block or network on one machine."""

    subject: Subject
    prediction: Prediction
    figures: tuple[FigureSensitivity, ...]
    idle: tuple[str, ...]
    """Figures on which the latency does not depend."""
    dimensions: tuple[DimensionSensitivity, ...]


def sensitivity(subject: Subject) -> Sensitivity:
    """Of the latency on the waterline. Raises what `predict` does."""
    prediction = subject.prediction
    found = figure_sensitivities(subject, prediction)
    alive = [item for item in found if item.elasticity_less or item.elasticity_more or _moves(item)]
    return Sensitivity(
        subject=subject,
        prediction=prediction,
        figures=tuple(sorted(alive, key=lambda item: item.elasticity_more)),
        idle=tuple(item.figure for item in found if item not in alive),
        dimensions=dimension_sensitivities(subject, prediction),
    )


def _moves(item: FigureSensitivity) -> bool:
    return any(ratio is not None and abs(ratio - 1) > 1e-12 for ratio in (item.halved, item.doubled))


# -- the machine -------------------------------------------------------------------------------------------------------


def figure_sensitivities(subject: Subject, prediction: Prediction) -> tuple[FigureSensitivity, ...]:
    """To every number of the device's tables and of the peak in use; what must move along with a figure does."""
    device, peak = subject.device, prediction.peak
    base = Limits.waterline(device, peak)
    latencies: dict[Any, float] = {}
    found = []
    for path, value, _ in device.numbers():
        if path.startswith("peak.") and (not path.startswith(f"{peak.path}.") or path.endswith(("sparse_ops_per_s", "clock_hz"))):
            continue
        ratios: dict[float, float | None] = {}
        exponents = (0.0, 0.0)
        for factor in (0.5, 2.0):
            try:
                other = what_if(device, [f"{path}={factor}x"])
                changed = Limits.waterline(other, other.matrix_peak(peak.dtype, peak.accumulate))
            except HardwareError:
                ratios[factor] = None
                continue
            key = (
                changed,
                other.chip.shared_memory_per_block_bytes,
                other.chip.multiprocessors,
                other.memory.largest_cache_bytes,
            )
            if key not in latencies:  # all that a latency depends on, and tiling takes its time
                latencies[key] = subject.on(other).prediction.latency_s
            ratios[factor] = latencies[key] / prediction.latency_s
            # a rate is a product of figures, so its exponent in one of them is a whole number
            exponents = (
                round(math.log(changed.peak_ops_per_s / base.peak_ops_per_s, factor)),
                round(math.log(changed.bandwidth_bytes_per_s / base.bandwidth_bytes_per_s, factor)),
            )
        less, more = (_elasticity(prediction.times, exponents, sign) for sign in (-1, 1))
        low, high = _until(prediction.times, exponents)
        found.append(
            FigureSensitivity(
                figure=path,
                value=value,
                elasticity_less=less,
                elasticity_more=more,
                holds_from=low,
                holds_to=high,
                halved=ratios[0.5],
                doubled=ratios[2.0],
            )
        )
    return tuple(found)


def _elasticity(times: Sequence[KernelTime], exponents: tuple[float, float], sign: int) -> float:
    """−Σ exponent of the rate that holds each kernel · its share; of a kernel on the line, the side that a step of `sign` makes longer."""
    total = sum(time.latency_s for time in times)
    if not total:
        return 0.0
    of_peak, of_bandwidth = exponents
    held = 0.0
    for time in times:
        if time.arithmetic_s == time.memory_s:
            held += time.latency_s * (min(of_peak, of_bandwidth) if sign > 0 else max(of_peak, of_bandwidth))
        else:
            held += time.latency_s * (of_peak if time.arithmetic_s > time.memory_s else of_bandwidth)
    return -held / total if held else 0.0


def _until(times: Sequence[KernelTime], exponents: tuple[float, float]) -> tuple[float | None, float | None]:
    """Factors on a figure at which the first kernel crosses the waterline, downwards and upwards."""
    net = exponents[0] - exponents[1]
    if net == 0:
        return None, None
    crossings = [(t.arithmetic_s / t.memory_s) ** (1 / net) for t in times if t.arithmetic_s > 0 and t.memory_s > 0]
    below, above = [factor for factor in crossings if factor < 1], [factor for factor in crossings if factor > 1]
    return max(below, default=None), min(above, default=None)


# -- the work ----------------------------------------------------------------------------------------------------------


def dimension_sensitivities(subject: Subject, prediction: Prediction) -> tuple[DimensionSensitivity, ...]:
    """To every choice of the block or network that has a value."""
    found = []
    for unknown in subject.unknowns:
        value = _value(subject, unknown)
        if value is None:
            continue
        less, more = _steps(subject, unknown, value)
        found.append(
            DimensionSensitivity(
                dimension=unknown, value=value, elasticity=_derivative(subject, unknown, prediction), less=less, more=more
            )
        )
    return tuple(found)


def _value(subject: Subject, unknown: str) -> int | None:
    given = getattr(subject, unknown)
    if given is not None:
        return int(given)
    if isinstance(subject, NetworkSubject):
        if unknown == "resolution":
            return find(subject.model).resolution
        try:
            entry, scale = scale_of(subject.model, unknown)
        except FamilyError:
            return None
        build: Any = entry.build
        return scale.own(build.args[0])
    return int(getattr(subject.network().graph.blocks[subject.name], unknown, 3)) if unknown == "kernel" else None


def _steps(subject: Subject, unknown: str, value: int) -> tuple[tuple[int, float] | None, tuple[int, float] | None]:
    """The nearest allowed values below and above, and what they change."""
    here = subject.at(unknown, value).outcome().latency_s
    step = RESOLUTION_STEP if unknown == "resolution" else None
    try:
        allowed = subject.allowed(unknown, None if step is None else 1)
    except QuestionError:
        return None, None
    if step is not None:
        neighbours = [(value // step - (value % step == 0)) * step, (value // step + 1) * step]
        below = neighbours[0] if neighbours[0] in allowed else None
        above = neighbours[1] if neighbours[1] in allowed else None
    else:
        below = max((other for other in _near(allowed, value) if other < value), default=None)
        above = min((other for other in _near(allowed, value) if other > value), default=None)

    def ratio(other: int | None) -> tuple[int, float] | None:
        if other is None:
            return None
        try:
            return other, subject.at(unknown, other).outcome().latency_s / here - 1
        except ShapeError:
            return None

    return ratio(below), ratio(above)


def _near(allowed: Sequence[int], value: int) -> Sequence[int]:
    """The allowed values around one, which need not be among them."""
    if not isinstance(allowed, range):
        return allowed
    place = (value - allowed.start) // allowed.step
    return [allowed[at] for at in range(max(0, place - 1), min(len(allowed), place + 3))]


def _derivative(subject: Subject, unknown: str, prediction: Prediction) -> float | None:
    """x / T · dT/dx, exactly; None where the cost is no smooth formula of it."""
    if subject.schedule.lower() not in SCHEDULES:
        return 1.0 if unknown == "depth" and isinstance(subject, BlockSubject) else None
    if isinstance(subject, BlockSubject):
        return _of_block(subject, unknown)
    if unknown == "batch":
        return _of_batch(subject, prediction)
    return None


def _of_block(subject: BlockSubject, unknown: str) -> float | None:
    if unknown == "depth":
        return 1.0
    if unknown == "kernel":
        return None
    kind, precision = Kind.of(subject.kind), precision_of(subject)
    made = block_expressions(subject.kind, subject.schedule.lower(), precision.dtype, subject.kernel)
    derived = {dims.W: dims.H, dims.K: dims.C / kind.narrowing, dims.C_se: dims.C / 4}
    symbol = {"channels": dims.C, "size": dims.H, "batch": dims.N, "expansion": dims.e, "group_width": dims.g}[unknown]
    at = {
        dims.C: subject.channels,
        dims.H: subject.size,
        dims.N: subject.batch,
        dims.e: subject.expansion,
        dims.g: subject.group_width,
        PEAK: subject.device.matrix_peak(precision.matrix).ops_per_s,
        BANDWIDTH: subject.device.memory.dram_bandwidth_bytes_per_s,
    }
    total, slope = 0.0, 0.0
    for ops, moved in zip(made.work[::2], made.work[1::2], strict=True):
        sides = [(ops / PEAK).subs(derived), (moved / BANDWIDTH).subs(derived)]
        values = [float(side.subs(at)) for side in sides]
        held = sides[0] if values[0] >= values[1] else sides[1]
        total += max(values)
        slope += float(sympy.diff(held, symbol).subs(at))
    return float(at[symbol]) * slope / total


def _of_batch(subject: Subject, prediction: Prediction) -> float | None:
    """From the network with a symbol for its batch."""
    if not isinstance(subject, NetworkSubject):
        return None
    work = subject.symbolic_kernels()
    limits = Limits.waterline(subject.device, prediction.peak)
    slope = 0.0
    for kernel, time in zip(work, prediction.times, strict=True):
        side, rate = (
            (kernel.cost.ops, limits.peak_ops_per_s)
            if time.arithmetic_s >= time.memory_s
            else (kernel.cost.dram_bytes, limits.bandwidth_bytes_per_s)
        )
        slope += float(sympy.diff(expression(side), dims.N).subs(dims.N, subject.batch)) / rate
    return subject.batch * slope / prediction.latency_s
