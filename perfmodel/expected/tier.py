"""Tier `expected` of a prediction: kernels, a machine and a stack's constants, to times with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

from perfmodel.expected.carried import REFERENCE, carried_figures, sustained_quantity
from perfmodel.expected.constants import Calibration, CalibrationError, calibration_of
from perfmodel.expected.features import Features
from perfmodel.expected.machine import Machine
from perfmodel.expected.paths import Path, diagnosis_of
from perfmodel.expected.spread import interval_of, spread
from perfmodel.expected.terms import FULL_RATE_ATTAINED, kernel_seconds
from perfmodel.hardware.spec import DeviceSpec, Peak
from perfmodel.kernel import Kernel
from perfmodel.precision import Precision
from perfmodel.units import percent, si
from perfmodel.waterline import KernelTime

TYPES = ("fp16", "bf16")
"""In which the stacks were measured; others take other library paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Times of kernels under tier `expected`, the interval of their sum, and what was assumed."""

    times: tuple[KernelTime, ...]
    low_s: float
    high_s: float
    assumptions: tuple[str, ...]


def expect(
    kernels: Sequence[Kernel],
    device: DeviceSpec,
    peak: Peak,
    precision: Precision,
    schedule: str,
    layout: str,
    *,
    graph: bool = False,
    calibration: str | PathLike[str] | None = None,
) -> Expectation:
    """What the stack behind `schedule` is expected to take on `device`.

    Raises CalibrationError for a schedule, type or kind of device that no measurement stands behind, HardwareError where the device
    lacks a figure that a term needs.
    """
    found = calibration_of(schedule, None if calibration is None else str(calibration))
    if found.stack != schedule:
        raise CalibrationError(
            f"the calibration is of schedule {found.stack}, not of {schedule}; predict with --schedule {found.stack}"
        )
    check_measured(device, precision)
    machine = Machine.of(device, peak)
    features = Features.of(kernels)
    times = kernel_seconds(features, machine, found.constants, graph=graph, compiled=schedule == "pointwise")
    rows = zip(
        kernels, features.path, times.arithmetic_s, times.memory_s, times.rate_s, times.exposed_s, times.gap_s, strict=True
    )
    per_kernel = tuple(
        KernelTime(
            kernel=kernel,
            arithmetic_s=float(arithmetic),
            memory_s=float(memory),
            rate_s=float(rate),
            exposed_s=float(exposed),
            gap_s=float(gap),
            path=Path(int(path)).name.lower(),
            diagnosis=diagnosis_of(kernel),
        )
        for kernel, path, arithmetic, memory, rate, exposed, gap in rows
    )
    total_s = sum(time.latency_s for time in per_kernel)
    low, high = interval_of(found.intervals, device)
    return Expectation(
        times=per_kernel,
        low_s=total_s * low,
        high_s=total_s * high,
        assumptions=_assumptions(found, machine, device, peak.dtype, layout, graph=graph, times=per_kernel),
    )


def check_measured(device: DeviceSpec, precision: Precision) -> None:
    """Raise CalibrationError for a type or a kind of device that no measurement stands behind."""
    if precision.matrix not in TYPES:
        raise CalibrationError(
            f"tier expected is calibrated for {' and '.join(TYPES)}, not for {precision.matrix}; choose one of these, or tier waterline"
        )
    if device.kind != "gpu" or device.vendor != "NVIDIA":
        raise CalibrationError(
            f"tier expected is calibrated on GPUs of NVIDIA, and its library paths are theirs; {device.slug} is none: use tier waterline"
        )


def _where(device: DeviceSpec, dtype: str) -> str:
    """On what, or by whom, the device's products of a type were measured."""
    return next(entry.where for entry in device.measured if entry.quantity == sustained_quantity(dtype))


def _assumptions(
    found: Calibration, machine: Machine, device: DeviceSpec, dtype: str, layout: str, *, graph: bool, times: Sequence[KernelTime]
) -> tuple[str, ...]:
    fitted = found.provenance
    carried = "" if device.slug in fitted.devices else f", carried to {device.slug} through its specification"
    said = [
        f"tier expected: constants of {found.description}, fitted on {fitted.rows} rows of {' and '.join(fitted.devices)} "
        f"({fitted.date}){carried}",
        f"interval: 5 % of networks left out of the fit took less, 5 % more ({percent(found.intervals.coverage)} were inside)",
    ]
    if layout == "nchw" and found.stack == "eager":
        said.append("layout nchw in eager mode: kernels as traced, but no measurement stands behind their sum")
    if machine.sustained_ops_per_s is not None:
        said.append(
            f"products sustain {si(machine.sustained_ops_per_s, 'op/s')}, as measured on this device ({_where(device, dtype)})"
        )
    elif machine.full_rate:
        said.append(
            f"the matrix unit's attained fraction was not measured on this device; {FULL_RATE_ATTAINED:.0%} of its peak, as on an H200, is "
            "taken: run `perfmodel hardware measure` on it"
        )
    if carried_figures(device):
        said.append(
            f"rates and starts of kernels were not measured on this device; those of {REFERENCE} are taken, per multiprocessor and clock, "
            f"and the interval is widened by how far {', '.join(spread().devices)} were off, which others measured"
        )
    if machine.host_s is None:
        said.append("the host's time per call is not known for this device: small batches in a stream can take longer")
    elif graph:
        said.append("kernels are launched by replaying a CUDA graph")
    diagnoses: dict[str, float] = {}
    total_s = sum(time.latency_s for time in times)
    for time in times:
        if time.diagnosis:
            diagnoses[time.diagnosis] = diagnoses.get(time.diagnosis, 0.0) + time.latency_s
    said += [
        f"{percent(spent / total_s)} of the time: {diagnosis}"
        for diagnosis, spent in sorted(diagnoses.items(), key=lambda item: -item[1])
        if spent >= 0.02 * total_s
    ]
    return tuple(said)
