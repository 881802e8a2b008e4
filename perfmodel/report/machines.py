"""The hardware catalogue as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        Column(key="name", heading="machine", right=False, optional=1),
        Column(key="released", heading="released", right=False, optional=3),
        Column(key="unit", heading="unit", right=False, optional=2),
        Column(key="dtype", heading="type", right=False),
        Column(key="accumulate", heading="sums in", right=False),
        Column(key="peak_ops_per_s", heading="dense peak", show=peak),
        Column(key="dram_bandwidth_bytes_per_s", heading="DRAM", show=lambda value: si(value, "B/s")),
        Column(key="op_byte_ratio", heading="ops/byte", show=lambda value: f"{value:.0f}"),
        Column(key="dram_bytes", heading="memory", optional=4, show=lambda value: si(value, "B")),
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
        rates = (peak.unit, peak.dtype, peak.accumulate, peak.ops_per_s, memory.dram_bandwidth_bytes_per_s, ratio)
        return (device.slug, device.name, device.released, *rates, memory.dram_bytes)
    return (
        device.slug,
        device.name,
        device.released,
        None,
        None,
        None,
        memory.dram_bandwidth_bytes_per_s,
        None,
        memory.dram_bytes,
    )


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


_OPTIONAL = (
    "chip.max_clock_hz",
    "chip.registers_per_multiprocessor",
    "chip.shared_memory_per_multiprocessor_bytes",
    "chip.shared_memory_per_block_bytes",
    "chip.max_threads_per_multiprocessor",
    "memory.dram_bus_width_bits",
    "memory.dram_transfers_per_s",
    "board.power_w",
    "board.launch_overhead_s",
)


def _or_none(ask: Callable[[], float]) -> float | None:
    try:
        return ask()
    except HardwareError:
        return None


def _lacks(name: str, path: str) -> bool:
    return _or_none(lambda: load(name).require(path)) is None


def _cell(value: float | None, scale: float, digits: int = 4) -> str:
    return "–" if value is None else f"{float(f'{value / scale:.{digits}g}'):g}"


def _markdown_row(device: DeviceSpec) -> str:
    dtype = next((d for d in ("fp16", "bf16") if any(p.dtype == d for p in device.peak)), "fp32")
    peak = device.matrix_peak(dtype)
    cells = [
        f"`{device.slug}`",
        device.name,
        device.architecture,
        f"{device.chip.multiprocessors} {device.chip.multiprocessor_name}",
        f"{_cell(peak.ops_per_s, 1e12)} {dtype}{' (vector)' if peak.unit == 'vector' else ''}",
        _cell(device.memory.dram_bandwidth_bytes_per_s, 1e9),
        _cell(device.op_byte_ratio(dtype), 1, 3),
        _cell(device.memory.largest_cache_bytes, 2**20),
        _cell(_or_none(lambda: device.require("chip.max_clock_hz")), 1e9),
        ", ".join(f"`{alias}`" for alias in device.aliases) or "–",
    ]
    return f"| {' | '.join(cells)} |"


def catalog_markdown() -> str:
    """One row per device, as Markdown."""
    head = [
        "name", "device", "architecture", "multiprocessors", "peak, 10¹² op/s", "DRAM, GB/s", "op:byte",
        "largest cache, MiB", "highest clock, GHz", "aliases",
    ]  # fmt: skip
    rows = [_markdown_row(load(name)) for name in names()]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows])


def missing_markdown() -> str:
    """For each optional number the devices that lack it, as Markdown."""
    rows = ["| number | absent for |", "| --- | --- |"]
    for path in _OPTIONAL:
        absent = [name for name in names() if _lacks(name, path)]
        rows.append(f"| `{path}` | {_listed_names(absent)} |")
    absent = [n for n in names() if load(n).memory.largest_cache_bytes is None]
    rows.append(f"| any cache in front of the DRAM | {_listed_names(absent)} |")
    return "\n".join(rows)


def _listed_names(found: Sequence[str]) -> str:
    if len(found) == len(names()):
        return "every device"
    return ", ".join(f"`{name}`" for name in found) or "none"
