"""Comparisons as tables for people."""

from __future__ import annotations

from perfmodel.report.table import Column, Table
from perfmodel.units import percent, si
from perfmodel.validation.comparison import Comparison
from perfmodel.validation.profiles import ProfileComparison
from perfmodel.validation.statistics import rank_text


def _duration(seconds: float) -> str:
    return si(seconds, "s")


def _error(value: float) -> str:
    return f"{'+' if value >= 0 else '−'}{percent(abs(value))}"


def comparison_table(comparison: Comparison, *, top: int | None = None) -> Table:
    """The rows of a file, or the `top` that are furthest off, and what they say together."""
    given = comparison.provenance
    rows = sorted(comparison.rows, key=lambda row: -abs(row.error))[:top]
    return Table(
        title=("the row that is" if len(rows) == 1 else f"the {len(rows)} rows that are") + " furthest off"
        if top and len(rows) < comparison.n
        else "rows, the furthest off first",
        columns=(
            Column(key="model", heading="model", right=False),
            Column(key="resolution", heading="image"),
            Column(key="batch", heading="batch"),
            Column(key="measured_latency_s", heading="measured", show=_duration),
            Column(key="predicted_latency_s", heading=given.tier, show=_duration),
            Column(key="error", heading="error", show=_error),
            Column(key="waterline_latency_s", heading="waterline", show=_duration, optional=2),
            Column(key="bound_latency_s", heading="bound", show=_duration, optional=1),
            Column(key="diagnosis", heading="diagnosis", right=False, optional=3),
        ),
        rows=[
            (
                row.model,
                row.resolution,
                row.batch,
                row.measured_latency_s,
                row.predicted_latency_s,
                row.error,
                row.waterline_latency_s,
                row.bound_latency_s,
                row.below_waterline if row.below_bound else row.diagnosis,
            )
            for row in rows
        ],
        before=(
            f"{given.file} on {given.hardware}: schedule {given.schedule}, autocast {given.autocast}, {given.layout}, tier {given.tier}",
            f"{comparison.n} rows compared: mean error {percent(comparison.mape)}, median {percent(comparison.median_ape)}, "
            f"90 % below {percent(comparison.p90_ape)}, worst {percent(comparison.max_ape)}, bias {_error(comparison.bias)}",
            f"rank correlation {rank_text(comparison.spearman)} (MACs alone {rank_text(comparison.spearman_macs)}); "
            f"{'–' if comparison.below_bound is None else comparison.below_bound} below the bound, "
            f"{comparison.below_waterline} below the waterline",
        ),
        after=tuple(one.sentence for one in comparison.skipped),
    )


def profile_table(comparison: ProfileComparison) -> Table:
    """A profile beside a prediction, longest first."""
    rows = sorted(comparison.rows, key=lambda row: -row.measured_s)
    moved = "" if comparison.median_bytes_ape is None else f"; DRAM bytes: median error {percent(comparison.median_bytes_ape)}"
    return Table(
        title=f"joined by {comparison.joined_by}, longest first",
        columns=(
            Column(key="name", heading="kernel", right=False),
            Column(key="kernels", heading="launches"),
            Column(key="measured_s", heading="measured", show=_duration),
            Column(key="predicted_s", heading="predicted", show=_duration),
            Column(key="error", heading="error", show=_error),
            Column(key="measured_dram_bytes", heading="DRAM", show=lambda b: si(b, "B"), optional=2),
            Column(key="predicted_dram_bytes", heading="predicted DRAM", show=lambda b: si(b, "B"), optional=2),
            Column(key="diagnosis", heading="diagnosis", right=False, optional=1),
        ),
        rows=[
            (
                row.name,
                row.kernels,
                row.measured_s,
                row.predicted_s,
                row.predicted_s / row.measured_s - 1,
                row.measured_dram_bytes,
                row.predicted_dram_bytes,
                row.diagnosis,
            )
            for row in rows
        ],
        before=(
            f"{comparison.file} ({comparison.format}) beside {comparison.model} on {comparison.hardware}: measured "
            f"{_duration(comparison.measured_s)}, predicted {_duration(comparison.predicted_s)}",
            f"{comparison.n} rows joined: mean error {percent(comparison.mape)}, median {percent(comparison.median_ape)}, bias "
            f"{_error(comparison.bias)}{moved}",
        ),
        after=tuple(one.sentence for one in comparison.skipped),
    )
