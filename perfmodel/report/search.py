"""The front of a search, as a table and as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perfmodel.design.search import SearchResult
from perfmodel.report.table import Column, Table, count, duration, size
from perfmodel.units import percent, si


def search_table(result: SearchResult, *, top: int = 20, extra: Iterable[str] = (), stages: bool = True) -> Table:
    """The front, some of its designs evenly chosen if it is long; the choices of a stage in one column if `stages` is set."""
    space, found = result.search.space, result.rows(extra)
    stages = stages and any(axis.name == "channels[1]" for axis in space.axes)
    apart = (len(found) - 1) / max(top - 1, 1)
    shown = found if not top or len(found) <= top else [found[round(k * apart)] for k in range(top)]
    shown = [_stages(row) for row in shown] if stages else shown
    varying = [axis.name for axis in space.axes if len(axis.values) > 1]
    if stages:
        varying = [name for name in varying if "[" not in name] + [name for name in shown[0] if name.startswith("stage ")]
    objectives = [item.text for item in result.search.objectives]
    rest = [name for name in (found[0] if found else {}) if name not in ("design", *objectives, *(a.name for a in space.axes))]
    seen = "all of them" if result.exhaustive else f"{result.evaluated} of them, chosen by an optimiser: the front of those seen"
    wanted = [f"{'max' if item.maximise else 'min'} {item.text}" for item in result.search.objectives]
    return Table(
        title=f"Pareto front of {', '.join(wanted)}: {len(found)} design{'' if len(found) == 1 else 's'}"
        + (f", {len(shown)} of them evenly chosen" if len(shown) < len(found) else ""),
        before=(
            f"{space.size} designs, {seen}; {result.valid} exist, {result.feasible} meet "
            + (
                f"{', '.join(item.text for item in result.search.constraints)}"
                if result.search.constraints
                else "every constraint"
            ),
            *(f"assumed: {title}" for device in space.devices for title in device.hypothetical),
        ),
        columns=(
            Column(key="design", heading="design", optional=9),
            *(Column(key=name, heading=name, right=not name.startswith(("block", "stage"))) for name in varying),
            *(Column(key=name, heading=name, show=_value(name)) for name in (*objectives, *rest)),
        ),
        rows=[tuple(row.get(name) for name in ("design", *varying, *objectives, *rest)) for row in shown],
    )


def _stages(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the choices of each stage in one text."""
    found = {name: value for name, value in row.items() if "[" not in name or name.startswith(("latency", "efficiency"))}
    number = 1
    while f"channels[{number}]" in row:
        block, channels, depth, expansion, group, kernel = (
            row[f"{name}[{number}]"] for name in ("block", "channels", "depth", "expansion", "group_width", "kernel")
        )
        found[f"stage {number}"] = f"{depth} {block} {channels} e{expansion} g{group} {kernel}×{kernel}"
        number += 1
    return found


def search_pace(result: SearchResult) -> str:
    """How long it took, which is no part of the answer."""
    rate = si(result.evaluated / result.seconds, "").rstrip()
    return f"{result.evaluated} designs in {result.seconds:.3g} s, {rate} per second ({result.backend})"


def _value(name: str) -> Any:
    if name.startswith("latency"):
        return duration
    if name.startswith("efficiency"):
        return percent
    return size if name == "bytes" else count


def search_data(result: SearchResult, extra: Iterable[str] = ()) -> dict[str, Any]:
    """The same as plain data, every design of the front."""
    search = result.search
    return {
        "space": {**search.space.described, "devices": [device.slug for device in search.space.devices]},
        "checksum": search.checksum,
        "objectives": [{"text": item.text, "maximise": item.maximise} for item in search.objectives],
        "constraints": [item.text for item in search.constraints],
        "designs": search.space.size,
        "evaluated": result.evaluated,
        "valid": result.valid,
        "feasible": result.feasible,
        "exhaustive": result.exhaustive,
        "seconds": result.seconds,
        "backend": result.backend,
        "front": result.rows(extra),
    }
