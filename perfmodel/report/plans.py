"""Plans as tables: what each kernel fuses, what it gains, and why it ends where it does."""

from __future__ import annotations

from perfmodel.planning import Plan, PlannedSegment
from perfmodel.report.predictions import conditions
from perfmodel.report.table import Column, Table, count, duration, size
from perfmodel.units import percent

_COLUMNS = (
    Column(key="segment", heading="segment", right=False),
    Column(key="fused", heading="layer kernels", optional=2),
    Column(key="kernels", heading="kernels"),
    Column(key="macs", heading="MACs", show=count, optional=4),
    Column(key="dram_bytes", heading="DRAM", show=size),
    Column(key="workspace_bytes", heading="local memory", show=size, optional=3),
    Column(key="bound_by", heading="held by", right=False, optional=5),
    Column(key="latency_s", heading="latency", show=duration),
    Column(key="layer_latency_s", heading="on layer", show=duration),
    Column(key="gain", heading="gain", show=lambda gain: f"{gain:.2f}×"),
    Column(key="cut", heading="ends at", right=False),
)


def _row(segment: PlannedSegment) -> tuple[object, ...]:
    held = {time.bound_by: 0.0 for time in segment.times}
    for time in segment.times:
        held[time.bound_by] += time.latency_s
    return (
        segment.name,
        len(segment.pieces),
        len(segment.times),
        sum(int(time.kernel.cost.macs) for time in segment.times),
        segment.dram_bytes,
        segment.workspace_bytes,
        max(held, key=lambda bound: held[bound]),
        segment.latency_s,
        segment.alone_s,
        segment.alone_s / segment.latency_s if segment.latency_s else 1.0,
        segment.reason.kind,
    )


def _searched(plan: Plan) -> str:
    if plan.given:
        return "the cut is the one that was given, each part costed as a fused kernel"
    limit = f"kernels with one result and at most {plan.longest} layer kernels"
    how = f"{plan.considered} considered, {plan.costed} of different shape costed"
    if plan.complete:
        return f"the best of all cuts into {limit} ({how})"
    return f"the best of the cuts that were searched into {limit} ({how}): the graph has too many branches to search them all"


def plan_table(plan: Plan) -> Table:
    """The segments in the order they run, then the reason for each cut."""
    prediction = plan.prediction
    reasons = [f"{segment.name}: {segment.reason.sentence}" for segment in plan.segments if segment.reason.kind != "result"]

    def times(slower_s: float) -> str:
        return f"{slower_s / plan.latency_s:.2f}× schedule"

    return Table(
        title="segments in the order they run",
        columns=_COLUMNS,
        rows=[_row(segment) for segment in plan.segments],
        before=(
            f"{prediction.network.name} on {prediction.device.name}: {conditions(prediction)}",
            f"latency {duration(plan.latency_s)} in {len(prediction.kernels)} kernels: {times(plan.layer.latency_s)} layer "
            f"({duration(plan.layer.latency_s)}, {len(plan.layer.kernels)} kernels), {times(plan.block.latency_s)} block "
            f"({duration(plan.block.latency_s)}, {len(plan.block.kernels)} kernels)",
            f"DRAM traffic {size(prediction.cost.dram_bytes)}, on layer {size(plan.layer.cost.dram_bytes)}; computational efficiency "
            f"{percent(prediction.efficiency)}, on layer {percent(plan.layer.efficiency)}",
            f"{_searched(plan)}; no kernels that stop at global means can take less than {duration(plan.lower_bound_s)}, "
            f"which is {percent(1 - plan.lower_bound_s / plan.latency_s)} less time",
        ),
        after=("why each segment is not fused further:", *reasons),
    )
