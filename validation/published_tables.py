"""GPUs that no constant was fitted on, through their datasheets alone, beside what others published of them.

The measurements are in timm's format beside what `perfmodel validate timm` made of them (`results/published`, whose README names their
source); it took timm for the networks that the catalogue lacks.
"""

from __future__ import annotations

from typing import Final

from perfmodel.units import signed_percent
from perfmodel.validation.comparison import Comparison, read_comparison
from perfmodel.validation.network_tables import Table
from perfmodel.validation.protocol_report import HEADER, RESULTS, summary_cells
from perfmodel.validation.statistics import Summary

LEAST_BATCH: Final = 128
"""Batch from which rows are compared: below it the latency of some of them hardly depends on the batch, so the host set it."""


def published() -> tuple[Comparison, ...]:
    """The recorded comparisons."""
    return tuple(read_comparison(path) for path in sorted((RESULTS / "published").glob("*.json")))


def datasheet_tables() -> tuple[Table, Table]:
    """Errors of each GPU, and each published case."""
    sums: list[list[str]] = []
    cases: list[list[str]] = []
    for comparison in published():
        hardware = comparison.provenance.hardware + (", unmeasured" if comparison.provenance.unmeasured else "")
        rows = [row for row in comparison.rows if row.batch >= LEAST_BATCH]
        found = Summary.of([row.predicted_latency_s for row in rows], [row.measured_latency_s for row in rows])
        sums.append([f"{hardware}: published, eager, autocast fp16, batch ≥ {LEAST_BATCH}", *summary_cells(found)])
        cases += [
            [
                hardware,
                row.model,
                str(row.batch),
                f"{1e3 * row.measured_latency_s:.1f}",
                f"{1e3 * row.predicted_latency_s:.1f}",
                signed_percent(row.error),
            ]
            for row in rows
        ]
    return (("measured on", *HEADER), sums), (("GPU", "network", "batch", "measured ms", "expected ms", "error"), cases)
