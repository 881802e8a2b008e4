"""The hardware catalogue as tables."""

from __future__ import annotations

from typing import Any, Final

from perfmodel.hardware.catalog import load, names
from perfmodel.hardware.spec import DeviceSpec, HardwareError
from perfmodel.report.table import Column, Table
from perfmodel.units import si

LISTED_TYPE: Final = "fp16"
"""The type whose dense peak the list shows; bf16 or fp32 where a machine has no fp16."""


def device_list() -> Table:
    """Every machine, with its dense peak, bandwidth and their ratio."""

    def peak(value: float) -> str:
        return si(value, "op/s")

    columns = (
        Column(key="hardware", heading="name", right=False),
        Column(key="name", heading="machine", right=False),
        Column(key="released", heading="released", right=False),
        Column(key="dtype", heading="type", right=False),
        Column(key="accumulate", heading="sums in", right=False),
        Column(key="peak_ops_per_s", heading="dense peak", show=peak),
        Column(key="dram_bandwidth_bytes_per_s", heading="DRAM", show=lambda value: si(value, "B/s")),
        Column(key="op_byte_ratio", heading="ops/byte", show=lambda value: f"{value:.0f}"),
        Column(key="dram_bytes", heading="memory", show=lambda value: si(value, "B")),
    )
    return Table(title="machines (dense peaks, 1 MAC = 2 ops)", columns=columns, rows=[_listed(load(slug)) for slug in names()])


def _listed(device: DeviceSpec) -> tuple[Any, ...]:
    memory = device.memory
    for dtype in (LISTED_TYPE, "bf16", "fp32"):
        try:
            peak = device.matrix_peak(dtype)
        except HardwareError:
            continue
        ratio = peak.ops_per_s / memory.dram_bandwidth_bytes_per_s
        rates = (peak.dtype, peak.accumulate, peak.ops_per_s, memory.dram_bandwidth_bytes_per_s, ratio)
        return (device.slug, device.name, device.released, *rates, memory.dram_bytes)
    return (device.slug, device.name, device.released, None, None, None, memory.dram_bandwidth_bytes_per_s, None, memory.dram_bytes)


def device_table(device: DeviceSpec) -> Table:
    """Every number of one machine, with the document behind it."""
    columns = (
        Column(key="quantity", heading="quantity", right=False),
        Column(key="value", heading="value", show=lambda value: f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"),
        Column(key="source", heading="source", right=False),
    )
    rows: list[tuple[Any, ...]] = [
        (path, value, f"{document.title} ({document.publisher}, {document.date})") for path, value, document in device.numbers()
    ]
    rows += [(f"measured.{m.quantity}", m.value, f"{m.kernel}; {m.where}, {m.date}, driver {m.driver}") for m in device.measured]
    about = f"{device.name}: {device.vendor} {device.architecture} {device.kind}, {device.released}"
    return Table(title=device.slug, columns=columns, rows=rows, before=(about,))
