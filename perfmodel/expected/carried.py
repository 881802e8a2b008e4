"""Figures that nobody measured on a device, carried to it from the one of its kind that was: an H200, through both specifications.

What a kernel of the library attains of its memory depends on how many elements a multiprocessor takes on in a clock. GeForce parts
have many multiprocessors for their bandwidth, and their kernels are held by memory; parts with stacked memory have few,
and theirs are not. So the fitted fractions, which are of GeForce parts, say nothing of these, and rates in elements per multiprocessor and
clock do. docs/expected.md holds them against measurements that others published of GPUs which no figure or constant here comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec, HardwareError, Peak
from perfmodel.hardware.what_if import CHIP_TIMES, KERNEL_RATES, OWN_TIMES

REFERENCE: Final = "h200"
"""The device that `perfmodel hardware measure` was run on."""

FULL_RATE_OPS_PER_CLOCK: Final = 1024.0
"""fp16 operations per clock and multiprocessor with fp32 sums, from which on a part counts as full-rate: data-centre and professional parts
have 1024 (Volta, Turing, GA102) to 4096 (Hopper), GeForce parts, which halve the rate of fp32 sums, 512."""

L2_RATE: Final = "l2_read_bytes_per_s"

Scale = Callable[[DeviceSpec, DeviceSpec, re.Match[str]], float]
"""Of a figure on a device over that on the reference."""


def _clocks(device: DeviceSpec, reference: DeviceSpec, _: re.Match[str]) -> float:
    ours, theirs = device.chip, reference.chip
    return ours.multiprocessors * ours.boost_clock_hz / (theirs.multiprocessors * theirs.boost_clock_hz)


def _bandwidth(device: DeviceSpec, reference: DeviceSpec, _: re.Match[str]) -> float:
    return device.memory.dram_bandwidth_bytes_per_s / reference.memory.dram_bandwidth_bytes_per_s


def sustained_quantity(dtype: str) -> str:
    """What library products of a type sustain under load, as devices' files name it."""
    return f"sustained_matrix_{dtype}_ops_per_s"


def _products(device: DeviceSpec, reference: DeviceSpec, found: re.Match[str]) -> float:
    """What library products sustain where it was measured of both, else the peaks.

    What power takes from products it takes from convolutions, too.
    """
    quantity = sustained_quantity(found["dtype"])
    ours, theirs = (
        next((entry.value for entry in one.measured if entry.quantity == quantity), None) for one in (device, reference)
    )
    if ours is not None and theirs is not None:
        return ours / theirs
    return device.matrix_peak(found["dtype"]).ops_per_s / reference.matrix_peak(found["dtype"]).ops_per_s


def _period(device: DeviceSpec, reference: DeviceSpec, _: re.Match[str]) -> float:
    return reference.chip.boost_clock_hz / device.chip.boost_clock_hz


SCALES: Final[tuple[tuple[str, Scale], ...]] = (
    ("|".join(KERNEL_RATES), _clocks),
    (r"convolution(_\d+)?_(?P<dtype>[a-z]+\d+)_ops_per_s", _products),
    (r"(dram_copy|product_dram)_bytes_per_s", _bandwidth),
    ("|".join(CHIP_TIMES), lambda device, reference, found: 1 / _clocks(device, reference, found)),
    ("|".join((*OWN_TIMES, "stream_gap_s")), _period),
)
"""What a measured quantity is in proportion to. What matches none stays with its device: clocks, power, the host, and what fused kernels
need."""


def is_full_rate(peak: Peak) -> bool:
    """Whether the matrix unit is so wide that power, not its width, holds library products."""
    return peak.unit == "matrix" and peak.ops_per_clock_per_multiprocessor >= FULL_RATE_OPS_PER_CLOCK


def carried_figures(device: DeviceSpec) -> Mapping[str, float]:
    """What the reference's measured figures come to on `device`, where it has none of its own; nothing for a part that is not full-rate.

    What goes with the chip is what goes with it in a hypothetical machine, too. L2 is no slower than the DRAM behind it, however fast that
    is. Raises HardwareError for a device without a rate for fp16.
    """
    if not is_full_rate(device.matrix_peak("fp16")):
        return MappingProxyType({})
    own = {entry.quantity for entry in device.measured}
    reference = load(REFERENCE)
    figures = {}
    for entry in reference.measured:
        for pattern, scale in SCALES:
            found = re.fullmatch(pattern, entry.quantity)
            if found and entry.quantity not in own:
                with suppress(HardwareError):  # the device has no rate for this type
                    figures[entry.quantity] = entry.value * scale(device, reference, found)
                break
    if L2_RATE in figures:
        figures[L2_RATE] = max(figures[L2_RATE], device.memory.dram_bandwidth_bytes_per_s)
    return MappingProxyType(figures)


def figures_of(device: DeviceSpec) -> Mapping[str, float]:
    """Figures of a device by quantity: measured, and carried where they were not."""
    return {**carried_figures(device), **{entry.quantity: entry.value for entry in device.measured}}
