"""Tier `expected` of schedule `block`: fused programs as kernels of actors, what is in no program as the library runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from perfmodel.expected.block import GENERAL, best_form, general_kernel, work_of
from perfmodel.expected.constants import CalibrationError, calibration_of
from perfmodel.expected.features import Features
from perfmodel.expected.fused import Figures, FusedKernel, FusedTime, fused_time
from perfmodel.expected.fused_calibration import FusedCalibration, fused_calibration
from perfmodel.expected.machine import Machine
from perfmodel.expected.paths import Path, diagnosis_of, path_of
from perfmodel.expected.spread import interval_of
from perfmodel.expected.terms import kernel_seconds
from perfmodel.expected.tier import Expectation, check_measured
from perfmodel.hardware.spec import DeviceSpec, Peak
from perfmodel.kernel import NOT_FUSED, Kernel
from perfmodel.layers.graph import Node
from perfmodel.precision import Precision
from perfmodel.units import percent
from perfmodel.waterline import KernelTime

LAYOUT = "nhwc"
LIBRARY = "pointwise"
"""Whose constants stand for kernels that are no fused programs: library convolutions with what is elementwise around them."""


def expect_block(
    kernels: Sequence[Kernel],
    nodes: Mapping[str, Node],
    device: DeviceSpec,
    peak: Peak,
    precision: Precision,
    layout: str,
    *,
    calibration: str | PathLike[str] | None = None,
) -> Expectation:
    """What our fused kernels, and the library's for the rest, are expected to take when a graph of them is replayed.

    Raises HardwareError where the device lacks a figure, CalibrationError for a calibration that is wrong, and for a type, a layout or a
    kind of device that no kernel of ours stands behind.
    """
    check_measured(device, precision)
    if layout != LAYOUT:
        raise CalibrationError(f"the fused kernels of schedule block read {LAYOUT}, not {layout}; choose it, or tier waterline")
    found = fused_calibration(None if calibration is None else str(calibration))
    figures = Figures.of(device, precision.matrix)
    library = calibration_of(LIBRARY)
    fused = [kernel.tiling is not None and not kernel.tiling.startswith(NOT_FUSED) for kernel in kernels]
    machine = Machine.of(device, peak)
    times: list[KernelTime | None] = [None] * len(kernels)
    plain = [kernel for kernel, own in zip(kernels, fused, strict=True) if not own]
    if plain:
        seconds = kernel_seconds(Features.of(plain), machine, library.constants, graph=True, compiled=True)
        rows = zip(plain, seconds.arithmetic_s, seconds.memory_s, seconds.rate_s, seconds.exposed_s, seconds.gap_s, strict=True)
        made = iter(
            KernelTime(
                kernel=kernel, arithmetic_s=float(arithmetic), memory_s=float(memory), rate_s=float(rate), exposed_s=float(exposed),
                gap_s=float(gap), path=path_of(kernel).name.lower(), diagnosis=diagnosis_of(kernel),
            )
            for kernel, arithmetic, memory, rate, exposed, gap in rows
        )  # fmt: skip
        times = [None if own else next(made) for own in fused]
    kinds: set[str] = set()
    known: dict[tuple[object, ...], tuple[FusedKernel, FusedTime]] = {}
    for members in _together(kernels, fused):
        layers = [nodes[name] for index in members for name in kernels[index].layers if name in nodes]
        work = work_of(layers)
        key = (work,) if work is not None else tuple(members)
        if key not in known:
            own = best_form(work, figures, kernels[members[0]].kind) if work is not None else None
            whole = [own] if own is not None else [general_kernel(kernels[index], layers, figures) for index in members]
            spent = [fused_time(one, figures) for one in whole]
            known[key] = (
                whole[0],
                FusedTime(
                    start_s=sum(one.start_s for one in spent),
                    exchange_s=sum(one.exchange_s for one in spent),
                    turns_s=sum(one.turns_s for one in spent),
                    memory_s=sum(one.memory_s for one in spent),
                    power_s=sum(one.power_s for one in spent),
                    clocks_alone=spent[0].clocks_alone,
                    clocks_together=spent[0].clocks_together,
                ),
            )
        kernel, taken = known[key]
        factor = _factor(found, kernel.label)
        kinds.add(kernel.label)
        macs = sum(int(kernels[index].cost.macs) for index in members) or 1
        for index in members:
            share = factor * (int(kernels[index].cost.macs) / macs if len(members) > 1 else 1.0)
            times[index] = KernelTime(
                kernel=kernels[index],
                arithmetic_s=share * max(taken.turns_s, taken.power_s),
                memory_s=share * taken.memory_s,
                gap_s=share * (taken.start_s + taken.exchange_s),
                path=Path.FUSED.name.lower(),
            )
    done = tuple(time for time in times if time is not None)
    inside = sum(time.latency_s for time, own in zip(done, fused, strict=True) if own)
    outside = sum(time.latency_s for time, own in zip(done, fused, strict=True) if not own)
    low, high = interval_of(library.intervals, device)
    return Expectation(
        times=done,
        low_s=inside * found.intervals.low + outside * low,
        high_s=inside * found.intervals.high + outside * high,
        assumptions=_assumptions(found, kinds, device, outside / (inside + outside) if inside + outside else 0.0),
    )


def _together(kernels: Sequence[Kernel], fused: Sequence[bool]) -> list[list[int]]:
    """Indices of the programs of each block: two around a global mean."""
    found: dict[object, list[int]] = {}
    for index, kernel in enumerate(kernels):
        if fused[index]:
            found.setdefault(kernel.block or index, []).append(index)
    return list(found.values())


def _factor(found: FusedCalibration, kind: str) -> float:
    try:
        return found.factor_of(kind)
    except CalibrationError:
        return found.common_factor


def _assumptions(found: FusedCalibration, kinds: set[str], device: DeviceSpec, outside: float) -> tuple[str, ...]:
    fitted = found.provenance
    carried = "" if device.slug in fitted.devices else f", carried to {device.slug} through its figures"
    said = [
        f"tier expected: fused kernels of ours ({found.description}) by machine figures and a factor for each class of them, from "
        f"{fitted.rows} times on {' and '.join(fitted.devices)} ({fitted.date}){carried}; bursts, replayed from a graph",
        f"interval: 5 % of kernels of configurations left out took less, 5 % more ({percent(found.intervals.coverage)} were inside)",
    ]
    unknown = sorted(kind for kind in kinds if kind not in {one.kind for one in found.factors})
    if unknown:
        said.append(f"no kernel of ours was measured for {', '.join(unknown)}: the factor of all classes together is taken")
    if any(kind.startswith(GENERAL) for kind in kinds):
        said.append("blocks that we have no kernel for are counted layer by layer on tiles of 64 pixels")
    if outside:
        said.append(f"{percent(outside)} of the time is in no fused program: as the library runs it under torch.compile")
    return tuple(said)
