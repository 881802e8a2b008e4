"""Recorded results as Markdown tables, for the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from perfmodel.units import percent
from perfmodel.validation.comparison import ComparedRow, Comparison
from perfmodel.validation.statistics import rank_text
from perfmodel.validation.timm_table import RESULTS, recorded

REPORTED_EFFICIENCY = {"efficientnet": "5–8 %", "convnext": "19–35 %"}
"""Computational efficiency that a summary of the paper reports (an Ampere GPU; which one, and which members, is not known to us)."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _label(comparison: Comparison) -> str:
    given = comparison.provenance
    software = {"eager": "PyTorch 2.4 eager", "pointwise": "PyTorch 2.4 torch.compile"}[given.schedule]
    return f"{given.hardware}, {software}, {given.layout}"


def summary_table() -> str:
    """One row per recorded file: how many rows lie below the limits, and rank correlations."""
    header = ["measured on", "schedule", "rows", "networks", "below `bound`", "below `waterline`", "waterline/measured, median"]
    header += ["rank correlation: waterline", "MACs alone"]
    rows = []
    for comparison in recorded():
        ratios = sorted(row.waterline_latency_s / row.measured_latency_s for row in comparison.rows)
        rows.append(
            [
                _label(comparison),
                f"`{comparison.provenance.schedule}`",
                str(comparison.n),
                str(len({row.network for row in comparison.rows})),
                "–" if comparison.below_bound is None else str(comparison.below_bound),
                str(comparison.below_waterline),
                f"{ratios[len(ratios) // 2]:.2f}",
                rank_text(comparison.spearman),
                rank_text(comparison.spearman_macs),
            ]
        )
    return markdown(header, rows)


def families_table() -> str:
    """Computational efficiency measured, per family, smallest to largest member and image."""
    comparisons = recorded()
    families = list(dict.fromkeys(row.family for comparison in comparisons for row in comparison.rows))
    header = ["family", *[_label(comparison) for comparison in comparisons], "reported for the paper"]
    rows = []
    for family in families:
        ranges = []
        for comparison in comparisons:
            found = [row.efficiency for row in comparison.rows if row.family == family]
            ranges.append(f"{percent(min(found))} – {percent(max(found))}" if found else "–")
        rows.append([family, *ranges, REPORTED_EFFICIENCY.get(family, "–")])
    return markdown(header, rows)


def measurements_table() -> str:
    """Every network at one image size, on every recorded file: measured, waterline and bound; below the waterline with the reason."""
    parts = []
    for comparison in recorded():
        header = ["network", "image", "batch", "measured ms", "`waterline` ms", "`bound` ms", "efficiency", "below the waterline"]
        rows = [_row(row) for row in _one_per_network(comparison.rows)]
        parts.append(f"### {_label(comparison)}\n\n`{comparison.provenance.file}`\n\n{markdown(header, rows)}")
    return "\n".join(parts)


def _row(row: ComparedRow) -> list[str]:
    times = [row.measured_latency_s, row.waterline_latency_s, row.bound_latency_s]
    return [
        row.model,
        str(row.resolution),
        str(row.batch),
        *["–" if time is None else f"{1e3 * time:.2f}" for time in times],
        percent(row.efficiency),
        row.below_waterline or "",
    ]


def _one_per_network(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The image size nearest 224 of each network, in alphabetical order; and every row below the waterline."""
    best: dict[str, ComparedRow] = {}
    for row in rows:
        known = best.get(row.network)
        if known is None or abs(row.resolution - 224) < abs(known.resolution - 224):
            best[row.network] = row
    chosen = {(row.network, row.resolution): row for row in rows if row.below_waterline}
    chosen |= {(row.network, row.resolution): row for row in best.values()}
    return [chosen[key] for key in sorted(chosen)]


def speed_results() -> dict[str, Any]:
    """The recorded speed of the library itself."""
    path = Path(RESULTS) / "library" / "speed.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def speed_table() -> str:
    """The library's own speed, with its targets."""
    found = speed_results()
    rows = [[row["what"], row["target"], row["measured"], row["spread"]] for row in found["rows"]]
    where = f"{found['machine']}, Python {found['python']}, sympy {found['sympy']}, NumPy {found['numpy']}, {found['date']}"
    return (
        markdown(["what", "target", "median", "range"], rows)
        + f"\nMeasured by `python -m perfmodel.validation.speed` on {where}.\n"
    )
