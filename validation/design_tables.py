"""Recorded searches of design spaces as Markdown, for the documentation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from perfmodel.units import si
from perfmodel.validation.summary import markdown

RESULTS = Path(__file__).resolve().parent / "results" / "library"
_SHOWN = 12
_DISTURBED = 1.2
"""Ratios of one measurement that differ by more were not measured on a quiet machine."""


def _record(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"design-{kind}.json").read_text(encoding="utf-8"))
    return found


def search_speed_table() -> str:
    """Every recorded speed of searching, with its target."""
    rows = []
    for kind in ("host", "gpu", "dask"):
        for row in _record(f"search-{kind}")["rows"]:
            designs = f"{row['designs']:,}" if "designs" in row else "–"
            front = str(row.get("front", "–"))
            rows.append([row["what"], row["target"], row["measured"], row["spread"], designs, front])
    host, gpu, dask = (_record(f"search-{kind}") for kind in ("host", "gpu", "dask"))
    (ratio,) = [row for row in dask["rows"] if "load_average" in row]
    disturbed = max(ratio["raw"]) > _DISTURBED * min(ratio["raw"])
    pairs = ", ".join(f"{value:.2f}" for value in ratio["raw"])
    quiet = (
        f" (other programs ran beside it, load average {ratio['load_average'][0]:.1f}; the pairs: {pairs})" if disturbed else ""
    )
    where = (
        "\nMeasured by `python -m perfmodel.validation.design_speed` (`--gpu`, `--dask`): "
        f"{host['machine']}, NumPy {host['numpy']}, {host['date']}; {gpu['rows'][0]['device']}, CuPy {gpu['rows'][0]['cupy']}, "
        f"{gpu['date']}; Dask on {dask['machine']}, {dask['date']}{quiet}. The GPU's and the workers' fronts were compared with NumPy's: "
        "the same, bit for bit.\n"
    )
    assert all(row.get("same_as_numpy", True) for row in (*gpu["rows"], *dask["rows"]))  # or the sentence would not be true
    return markdown(["what", "target", "median", "range", "designs", "front"], rows) + where


def _stage(design: dict[str, str], number: int) -> str:
    depth, block, channels, expansion = (design[f"{name}[{number}]"] for name in ("depth", "block", "channels", "expansion"))
    return f"{depth} × {block} {channels}, e={expansion}"


def front_table() -> str:
    """The recorded front of docs/spaces/stages.toml: how it was found, and designs evenly chosen from it."""
    record = _record("front")
    with (RESULTS / "design-front.csv").open(encoding="utf-8", newline="") as file:
        designs = list(csv.DictReader(file))
    shown = [designs[round(k * (len(designs) - 1) / (_SHOWN - 1))] for k in range(_SHOWN)]
    rows = [
        [
            si(float(design["latency"]), "s"),
            si(float(design["params"]), "").rstrip(),
            si(float(design["macs"]), "").rstrip(),
            *(_stage(design, stage) for stage in range(1, 5)),
        ]
        for design in shown
    ]
    rate = si(record["evaluated"] / record["processor_s"], "").rstrip()
    took = f"{record['seconds']:.0f} s ({record['processor_s']:.0f} s of processor time, {rate} per second)"
    met = ", ".join(f"`{text}`" for text in record["constraints"])
    said = (
        f"{record['designs']:,} designs, all of them evaluated in {took} on {record['machine']}, {record['date']}. "
        f"{record['feasible']:,} meet {met}; {len(designs)} are on the front, {_SHOWN} of them evenly chosen:\n\n"
    )
    return said + markdown(["latency", "parameters", "MACs", "stage 1", "stage 2", "stage 3", "stage 4"], rows)
