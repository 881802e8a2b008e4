"""Whole networks beside measurement, as parts of a report: errors by how they ran, a plot, and each case."""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.units import percent
from perfmodel.validation.agreement_plot import Case, agreement_plot
from perfmodel.validation.network_comparison import NetworkComparison, compare_networks
from perfmodel.validation.protocol_report import HEADER, RESULTS, Block, summary_cells

Table = tuple[Sequence[str], list[list[str]]]
NETWORKS = "networks.jsonl"
BLIND = "networks-blind.jsonl"
RECORDED = {NETWORKS: "Whole networks", BLIND: "Networks that nobody had looked at when the model was made"}


def recorded_networks(file: str) -> NetworkComparison:
    """What is recorded of the H200."""
    return compare_networks(RESULTS / "h200" / file, "h200")


def runs_table(comparison: NetworkComparison) -> Table:
    """Errors by how they ran."""
    return ("how they ran", *HEADER), [[name, *summary_cells(found)] for name, found in comparison.by_run.items()]


def cases_table(comparison: NetworkComparison) -> Table:
    """Each case, without those in stream order whose time is the host's."""
    rows = [
        [
            row.model,
            str(row.batch),
            row.precision,
            row.run,
            f"{1e3 * row.measured_latency_s:.2f}",
            f"{1e3 * row.predicted_latency_s:.2f}",
            f"{100 * row.error:+.1f} %",
        ]
        for row in comparison.rows
        if row.run != "eager" or row.batch >= 64
    ]
    return ("network", "batch", "precision", "run", "measured ms", "expected ms", "error"), rows


def network_blocks(comparison: NetworkComparison, heading: str) -> list[Block]:
    """The part of the report on networks that `perfmodel validate run` measured."""
    series: dict[str, list[Case]] = {}
    for row in comparison.rows:
        case = Case(
            measured=1e3 * row.measured_latency_s,
            predicted=1e3 * row.predicted_latency_s,
            names=(row.model, f"batch {row.batch}", row.run),
        )
        series.setdefault(row.run, []).append(case)
    title = f"{comparison.hardware}, networks: {comparison.n} cases, mean error {percent(comparison.mape)}"
    return [
        ("heading", f"{heading} on {comparison.hardware}"),
        ("text", f"{comparison.file}, with constants that were fitted elsewhere."),
        ("plot", agreement_plot(title, "latency, ms", series)),
        ("table", runs_table(comparison)),
        ("table", cases_table(comparison)),
        ("text", "Left out: " + ("; ".join(f"{one.reason}: {len(one.rows)}" for one in comparison.skipped) or "nothing") + "."),
    ]


def recorded_network_blocks() -> list[Block]:
    """Of all files that are recorded."""
    return [
        block
        for file, heading in RECORDED.items()
        if (RESULTS / "h200" / file).is_file()
        for block in network_blocks(recorded_networks(file), heading)
    ]
