"""Whole networks beside measurement, as parts of a report: errors by how they ran, a plot, and each case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean

from perfmodel.units import percent, signed_percent
from perfmodel.validation.agreement_plot import Case, agreement_plot
from perfmodel.validation.network_comparison import NetworkComparison, compare_networks, size_class
from perfmodel.validation.network_run import read_results
from perfmodel.validation.protocol_report import HEADER, RESULTS, Block, summary_cells
from perfmodel.validation.statistics import Summary

Table = tuple[Sequence[str], list[list[str]]]
NETWORKS = "networks.jsonl"
BLIND = "networks-blind.jsonl"
PREDICTED = "networks-blind-predicted.jsonl"
"""What was predicted of cases before they were measured, with the revision that predicted it; of several predictions the last counts."""
RECORDED = {NETWORKS: "Whole networks", BLIND: "Networks that nobody had looked at when the model was made"}


def recorded_networks(file: str) -> NetworkComparison:
    """What is recorded of the H200."""
    return compare_networks(RESULTS / "h200" / file, "h200")


def runs_table(comparison: NetworkComparison) -> Table:
    """Errors by how they ran."""
    return ("how they ran", *HEADER), [[name, *summary_cells(found)] for name, found in comparison.by_run.items()]


def cases_table(comparison: NetworkComparison) -> Table:
    """Each case, and what it lacks of how cases are measured now."""
    rows = [
        [
            row.model,
            str(row.batch),
            row.precision,
            row.run,
            f"{1e3 * row.measured_latency_s:.2f}",
            f"{1e3 * row.predicted_latency_s:.2f}",
            signed_percent(row.error),
            row.reservation,
        ]
        for row in comparison.rows
    ]
    return ("network", "batch", "precision", "run", "measured ms", "expected ms", "error", "measured differently"), rows


def foreseen_tables() -> tuple[Table, Table]:
    """Cases that were predicted before they were measured: errors of those predictions by how they ran, and each case."""
    predicted = {
        line["key"]: line for line in map(json.loads, (RESULTS / "h200" / PREDICTED).read_text(encoding="utf-8").splitlines())
    }
    measured = [line for file in (BLIND, NETWORKS) for line in read_results(RESULTS / "h200" / file) if line["key"] in predicted]
    groups: dict[str, list[tuple[float, float, float]]] = {}
    rows = []
    for line in measured:
        before, seconds = predicted[line["key"]], line["median_s"]
        expected = before["predicted_latency_s"]
        groups.setdefault(f"{line['run']}, {size_class(line['batch'])}", []).append((expected, seconds, line["batch"]))
        inside = before["latency_low_s"] <= seconds <= before["latency_high_s"]
        rows.append(
            [
                line["model"],
                str(line["batch"]),
                line["run"],
                f"{1e3 * seconds:.2f}",
                f"{1e3 * expected:.2f}",
                signed_percent(expected / seconds - 1),
                "yes" if inside else "no",
            ]
        )
    sums = [[name, *summary_cells(Summary.of(*zip(*group, strict=True)))] for name, group in sorted(groups.items())]
    heads = ("network", "batch", "run", "measured ms", "predicted ms", "error", "inside its interval")
    return (("how they ran", *HEADER), sums), (heads, rows)


def network_blocks(comparison: NetworkComparison, heading: str) -> list[Block]:
    """The part of the report on networks that `perfmodel validate run` measured."""
    series: dict[str, list[Case]] = {}
    beside: list[tuple[float, float]] = []
    as_now = [row for row in comparison.rows if not row.reservation]
    for row in comparison.rows:
        measured, predicted = 1e3 * row.measured_latency_s, 1e3 * row.predicted_latency_s
        if row.reservation:
            beside.append((measured, predicted))
        else:
            case = Case(measured=measured, predicted=predicted, names=(row.model, f"batch {row.batch}", row.run))
            series.setdefault(row.run, []).append(case)
    mape = fmean(abs(row.error) for row in as_now)
    title = f"{comparison.hardware}, networks: {len(as_now)} cases as they are measured now, mean error {percent(mape)}"
    others = {f"{len(beside)} with their host unseen or disturbed": beside} if beside else {}
    return [
        ("heading", f"{heading} on {comparison.hardware}"),
        ("text", f"{comparison.file}, with constants that were fitted elsewhere."),
        ("plot", agreement_plot(title, "latency, ms", series, beside=others)),
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
