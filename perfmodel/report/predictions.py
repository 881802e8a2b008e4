"""Predictions as tables: the answer in a few lines, kernel by kernel, by kind, and side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Final

from perfmodel.prediction import Prediction
from perfmodel.report.table import Column, Table, count, duration, intensity, size
from perfmodel.units import percent
from perfmodel.waterline import KernelTime

KERNEL_COLUMNS: Final = (
    Column(key="name", heading="kernel", right=False),
    Column(key="kind", optional=4, heading="kind", right=False),
    Column(key="macs", optional=3, heading="MACs", show=count),
    Column(key="dram_bytes_read", optional=2, heading="read", show=size),
    Column(key="dram_bytes_written", optional=2, heading="written", show=size),
    Column(key="operational_intensity", optional=1, heading="ops/byte", show=intensity),
    Column(key="workspace_bytes", optional=2, heading="workspace", show=size),
    Column(key="bound_by", heading="held by", right=False),
    Column(key="latency_s", heading="latency", show=duration),
    Column(key="share", heading="share", show=percent),
)

SUMMARY_COLUMNS: Final = (
    Column(key="model", heading="model", right=False),
    Column(key="hardware", heading="hardware", right=False),
    Column(key="schedule", heading="schedule", right=False),
    Column(key="kernels", optional=5, heading="kernels"),
    Column(key="macs", optional=4, heading="MACs", show=count),
    Column(key="dram_bytes", optional=1, heading="DRAM", show=size),
    Column(key="operational_intensity", optional=3, heading="ops/byte", show=intensity),
    Column(key="latency_s", heading="latency", show=duration),
    Column(key="throughput_per_s", optional=2, heading="images/s", show=count),
    Column(key="efficiency", heading="efficiency", show=percent),
    Column(key="memory_bound_share", optional=1, heading="memory-bound", show=percent),
)
"""`memory-bound`: the share of the latency spent in memory-bound kernels, those that lie under water."""


def kernel_row(time: KernelTime, total_s: float) -> tuple[Any, ...]:
    """One kernel under KERNEL_COLUMNS."""
    kernel, cost = time.kernel, time.kernel.cost
    return (
        kernel.name,
        kernel.kind,
        cost.macs,
        cost.dram_bytes_read,
        cost.dram_bytes_written,
        cost.operational_intensity,
        cost.workspace_bytes,
        time.bound_by,
        time.latency_s,
        time.latency_s / total_s if total_s else 0.0,
    )


def summary_row(prediction: Prediction) -> tuple[Any, ...]:
    """One prediction under SUMMARY_COLUMNS."""
    return (
        prediction.network.name,
        prediction.device.slug,
        prediction.schedule,
        len(prediction.kernels),
        prediction.network.macs,
        prediction.cost.dram_bytes,
        prediction.operational_intensity,
        prediction.latency_s,
        prediction.throughput_per_s,
        prediction.efficiency,
        prediction.share_bound_by("memory"),
    )


def conditions(prediction: Prediction) -> str:
    """Under what conditions a prediction holds, in one line."""
    network = prediction.network
    return (
        f"batch {network.batch}, {network.resolution}×{network.resolution}, {prediction.precision}, {prediction.layout}, "
        f"schedule {prediction.schedule}, tier {prediction.tier}"
    )


def _interval(prediction: Prediction) -> str:
    """Between which latencies nine of ten networks lie, under tier expected."""
    if prediction.latency_low_s is None or prediction.latency_high_s is None:
        return ""
    return f", {duration(prediction.latency_low_s)} to {duration(prediction.latency_high_s)},"


def headline(prediction: Prediction) -> tuple[str, ...]:
    """The answer in a few lines: how long, what holds it, how far from the ideal."""
    memory = prediction.share_bound_by("memory")
    held = sum(time.bound_by == "memory" for time in prediction.times)
    limits = [
        f"ideal {duration(prediction.ideal_latency_s)}",
        f"roofline of the totals {duration(prediction.roofline_latency_s)}",
        f"waterline {duration(prediction.waterline_latency_s)}",
        f"bound {'–' if prediction.bound_latency_s is None else duration(prediction.bound_latency_s)}",
    ]
    gap = f", an efficiency gap of {1 / prediction.efficiency:.3g}×" if prediction.efficiency else ""
    extra = prediction.recomputed_ops
    recomputed = (f"fused programs compute {percent(extra / prediction.ops)} of the ops again, in halos",) if extra else ()
    network = prediction.network
    return (
        f"{network.name} on {prediction.device.name}: {conditions(prediction)}",
        f"latency {duration(prediction.latency_s)}{_interval(prediction)} ({count(prediction.throughput_per_s)} images/s), "
        f"computational efficiency {percent(prediction.efficiency)}{gap}",
        f"held by {prediction.bottleneck}: {_holders(prediction)}{held} of {len(prediction.times)} kernels are memory-bound and take "
        f"{percent(memory)} of the time",
        f"{count(prediction.network.params)} parameters, {count(prediction.network.macs)} MACs ({count(prediction.ops)} ops), "
        f"{size(prediction.cost.dram_bytes)} DRAM traffic, {intensity(prediction.operational_intensity)} ops/byte; "
        f"the machine's op:byte ratio is {prediction.op_byte_ratio:.0f}",
        "; ".join(limits),
        *recomputed,
        *((f"coverage: {prediction.coverage}",) if network.imported else ()),
    )


def _holders(prediction: Prediction) -> str:
    """How many kernels a bottleneck holds that is neither memory nor arithmetic, and their share."""
    name = prediction.bottleneck
    if name in ("memory", "arithmetic"):
        return ""
    count_held = sum(time.bound_by == name for time in prediction.times)
    return f"{count_held} kernels are, and take {percent(prediction.share_bound_by(name))} of the time; "


def kernel_table(prediction: Prediction, *, top: int | None = None, people: bool = True) -> Table:
    """Every kernel in execution order, or the `top` slowest; then what was assumed. For `people`, without a column of zeros."""
    times = list(prediction.times)
    total_s = prediction.latency_s
    title = "kernels in the order they run"
    rest: tuple[str, ...] = ()
    if top is not None and len(times) > top:
        slowest = set(sorted(range(len(times)), key=lambda index: -times[index].latency_s)[:top])
        shown = sum(times[index].latency_s for index in slowest)
        times = [time for index, time in enumerate(times) if index in slowest]
        slow = "slowest" if top == 1 else f"{top} slowest"
        title = f"the {slow} of {len(prediction.times)} kernels, in the order they run"
        rest = (f"the {len(prediction.times) - top} others take {duration(total_s - shown)}; --top 0 shows all",)
    assumed = tuple(f"assumed: {text}" for text in prediction.assumptions)
    unsupported = tuple(f"not understood: {text}" for text in prediction.unsupported)
    rows = [kernel_row(time, total_s) for time in times]
    columns: tuple[Column, ...] = KERNEL_COLUMNS
    if people and not any(time.kernel.cost.workspace_bytes for time in prediction.times):
        place = next(index for index, column in enumerate(columns) if column.key == "workspace_bytes")
        columns = (*columns[:place], *columns[place + 1 :])
        rows = [(*row[:place], *row[place + 1 :]) for row in rows]
    return Table(
        title=title,
        columns=columns,
        rows=rows,
        before=headline(prediction),
        after=(*rest, *assumed, *unsupported),
    )


def kind_table(prediction: Prediction) -> Table:
    """Kernels summed by kind, slowest first."""
    total_s = prediction.latency_s
    sums: dict[str, list[float]] = {}
    for time in prediction.times:
        row = sums.setdefault(time.kernel.kind, [0, 0, 0, 0, 0])
        cost = time.kernel.cost
        values = (1, cost.macs, cost.dram_bytes, time.latency_s if time.bound_by == "memory" else 0.0, time.latency_s)
        row[:] = [total + value for total, value in zip(row, values, strict=True)]
    ordered = sorted(sums.items(), key=lambda item: -item[1][-1])
    rows = [
        (kind, *row[:3], row[4], row[4] / total_s if total_s else 0.0, row[3] / row[4] if row[4] else 0.0)
        for kind, row in ordered
    ]
    return Table(
        title="by kind of kernel",
        columns=(
            Column(key="kind", heading="kind", right=False),
            Column(key="kernels", heading="kernels"),
            Column(key="macs", heading="MACs", show=count),
            Column(key="dram_bytes", heading="DRAM", show=size),
            Column(key="latency_s", heading="latency", show=duration),
            Column(key="share", heading="share", show=percent),
            Column(key="memory_bound_share", heading="memory-bound", show=percent),
        ),
        rows=rows,
    )


def summary_table(predictions: Sequence[Prediction], title: str) -> Table:
    """Predictions side by side; below, what makes their devices unlike beside that."""
    return Table(
        title=title,
        columns=SUMMARY_COLUMNS,
        rows=[summary_row(prediction) for prediction in predictions],
        after=_of_devices(predictions),
    )


def _of_devices(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """What makes devices unlike and is in no column: whose figures were carried, and whose host is known."""
    devices = {one.device.slug: one.device for one in predictions if one.tier == "expected"}
    if not devices:
        return ()
    from perfmodel.expected.carried import REFERENCE, carried_figures
    from perfmodel.expected.machine import knows_host

    said = []
    if names := [slug for slug, device in devices.items() if carried_figures(device)]:
        said.append(f"rates and starts of kernels as of {REFERENCE}, per multiprocessor and clock: {', '.join(names)}")
    hosts = [slug for slug, device in devices.items() if knows_host(device)]
    if hosts and (others := [slug for slug in devices if slug not in hosts]):
        said.append(
            f"waiting for the host is counted for {', '.join(hosts)}; for {', '.join(others)} its time per call is not known, and small "
            "batches can take longer"
        )
    return tuple(said)


def prediction_html(prediction: Prediction) -> str:
    """What a notebook shows: the answer, and the kernels by kind."""
    table = kind_table(prediction)
    head = "".join(f"<th>{html.escape(column.heading)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.shown())
    lines = headline(prediction)
    rest = "".join(f"<p>{html.escape(line)}</p>" for line in lines[1:])
    return f"<h4>{html.escape(lines[0])}</h4>{rest}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
