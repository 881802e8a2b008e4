"""Expected time of fused kernels beside measurement, as tables: errors, decisions, DRAM bytes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from perfmodel.expected.fused_calibration import FusedCalibration, fused_calibration
from perfmodel.expected.fused_terms import FUSED_TERMS
from perfmodel.units import percent, si, signed_percent
from perfmodel.validation.agreement_plot import Case, agreement_plot
from perfmodel.validation.fused_protocol import FusedProtocol, FusedRow, ablated, run_fused, summary_of
from perfmodel.validation.protocol_report import HEADER, RESULTS, Block, markdown_table, summary_cells
from perfmodel.validation.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[Sequence[str], list[list[str]]]
SMALL = 16
"""Batch up to which launches and first tiles take much of the time."""


@functools.cache
def recorded_fused() -> FusedProtocol:
    """What is recorded of the H200."""
    return run_fused(RESULTS / "h200", "h200")


@functools.cache
def recorded_ablated() -> dict[str, FusedProtocol]:
    """The same without each term."""
    return ablated(RESULTS / "h200", "h200")


def errors_table(protocol: FusedProtocol) -> Table:
    """By machine figures alone, and with a factor for each class from other configurations."""
    groups: list[tuple[str, tuple[FusedRow, ...]]] = [
        ("everything recorded, bursts", (*protocol.chosen(), *protocol.layouts())),
        ("kernels as chosen, bursts", protocol.chosen()),
        ("of these, batch 128", tuple(row for row in protocol.chosen() if row.N > SMALL)),
        ("of these, batch 1 and 16", tuple(row for row in protocol.chosen() if row.N <= SMALL)),
        ("layouts of the generic kernels, bursts", protocol.layouts()),
        ("kernels as chosen, sustained", protocol.chosen("sustained")),
    ]
    kinds = sorted({row.kind for row in protocol.rows})
    groups += [(kind, tuple(row for row in protocol.rows if row.kind == kind and row.regime == "burst")) for kind in kinds]
    rows = []
    for name, members in groups:
        for left_out, said in ((False, "machine figures alone"), (True, "× factor of the class, configuration left out")):
            found = summary_of(members, left_out=left_out)
            if found is not None:
                rows.append([name, said, *summary_cells(found)])
    return ("fused kernels", "expected from", *HEADER), rows


def terms_table(protocol: FusedProtocol, without: Mapping[str, FusedProtocol]) -> Table:
    """Mean errors, and those without each term: by machine figures alone, and with factors anew from other configurations."""
    rows = []
    named = {name: (f"without `{name}`", FUSED_TERMS[name].says, found) for name, found in without.items()}
    for name, says, found in (("all terms", "", protocol), *named.values()):
        cells = []
        for members in (found.chosen(), found.layouts()):
            for left_out in (False, True):
                errors = summary_of(members, left_out=left_out)
                cells.append(percent(errors.mape) if errors is not None else "–")
        rows.append([name, says, *cells])
    return (
        "",
        "what it says",
        "kernels as chosen, machine figures alone",
        "× factor, configuration left out",
        "layouts, machine figures alone",
        "× factor, configuration left out",
    ), rows


def factors_table(found: FusedCalibration) -> Table:
    """What is fitted."""
    rows = [[one.kind, f"{one.factor:.3f}", str(one.rows), str(one.configurations)] for one in found.factors]
    rows += [
        ["interval, ÷ expected", f"{found.intervals.low:.2f} – {found.intervals.high:.2f}", str(found.intervals.rows), ""],
        ["inside, left out (nominal 90 %)", percent(found.intervals.coverage), "", ""],
        ["date, revision", f"{found.provenance.date}, {found.provenance.revision}", "", ""],
    ]
    return ("class", "measured ÷ machine figures", "times", "configurations"), rows


def decisions_table(protocol: FusedProtocol) -> Table:
    """Whether "is the fused kernel faster than torch.compile here?" is answered as measured."""
    rows = []
    for name, members in (
        ("kernels as chosen", protocol.chosen()),
        ("of these, batch 1 and 16", tuple(row for row in protocol.chosen() if row.N <= SMALL)),
        ("layouts of the generic kernels", protocol.layouts()),
        ("all", (*protocol.chosen(), *protocol.layouts())),
    ):
        known = [row for row in members if row.decided_rightly is not None]
        if not known:
            continue
        right = sum(bool(row.decided_rightly) for row in known)
        faster = sum(row.compile_s is not None and row.measured_s < row.compile_s for row in known)
        rows.append([name, str(len(known)), str(right), percent(right / len(known)), percent(faster / len(known))])
    return (
        "measured",
        "cases",
        "decided rightly",
        "share",
        "share of those where fused is faster (always yes would be right)",
    ), rows


def wrong_decisions(protocol: FusedProtocol) -> tuple[FusedRow, ...]:
    """The cases that are decided wrongly."""
    return tuple(row for row in (*protocol.chosen(), *protocol.layouts()) if row.decided_rightly is False)


def bytes_table(protocol: FusedProtocol) -> Table:
    """DRAM bytes of a launch against ncu."""
    counted = [row for row in protocol.chosen() if row.dram_bytes is not None and row.dram_expected_bytes is not None]
    rows = []
    for row in counted:
        expected, measured = row.dram_expected_bytes or 0.0, row.dram_bytes or 1.0
        rows.append(
            [
                row.case,
                f"{1e-6 * measured:.1f}",
                f"{1e-6 * expected:.1f}",
                signed_percent(expected / measured - 1),
                "yes" if row.above_l2 else "no",
            ]
        )
    return ("case", "ncu, MB", "expected, MB", "error", "input and output exceed L2"), rows


def bytes_sentence(protocol: FusedProtocol) -> str:
    """Median and worst."""
    parts = []
    for name, members in (
        ("input and output above L2", [row for row in protocol.chosen() if row.above_l2]),
        ("all that were counted", list(protocol.chosen())),
    ):
        errors = [
            abs(row.dram_expected_bytes / row.dram_bytes - 1)
            for row in members
            if row.dram_bytes is not None and row.dram_expected_bytes is not None
        ]
        if errors:
            parts.append(f"{name}: {len(errors)} kernels, median {percent(median(errors))}, worst {percent(max(errors))}")
    return "; ".join(parts) + "."


def worst_rows(protocol: FusedProtocol) -> Table:
    """The ten times that are furthest off with their class's factor from elsewhere."""

    def error(row: FusedRow) -> float:
        return (row.left_out_s or row.expected_s) / row.measured_s - 1

    rows = sorted((*protocol.chosen(), *protocol.layouts()), key=lambda row: -abs(error(row)))[:10]
    cells = [
        [
            row.case,
            row.kind + (", a layout" if row.layout else ""),
            si(row.measured_s, "s"),
            si(row.expected_s, "s"),
            si(row.left_out_s, "s") if row.left_out_s else "–",
            signed_percent(error(row)),
        ]
        for row in rows
    ]
    return ("case", "class", "measured", "machine figures", "× factor, left out", "error"), cells


def _names(row: FusedRow) -> tuple[str, ...]:
    """The configuration, then what tells apart its cases: the batch, the form of the block, a layout."""
    form = "_".join(row.case.removeprefix(f"{row.family}_").split("_")[6:])
    return row.configuration, f"batch {row.N}", *([form] if form else []), *(["a layout"] if row.layout else [])


def times_plot(protocol: FusedProtocol) -> Figure:
    """Expected against measured times, bursts, by the family of the block."""
    rows = (*protocol.chosen(), *protocol.layouts())
    series: dict[str, list[Case]] = {}
    for row in sorted(rows, key=lambda row: row.family):
        case = Case(
            measured=1e6 * row.measured_s,
            predicted=1e6 * (row.left_out_s or row.expected_s),
            names=_names(row),
        )
        series.setdefault(row.family, []).append(case)
    found = Summary.of(
        [case.predicted for members in series.values() for case in members],
        [case.measured for members in series.values() for case in members],
    )
    title = f"{protocol.hardware}, fused kernels, configurations left out: {found.n} times, mean error {percent(found.mape)}"
    return agreement_plot(
        title,
        "time, µs",
        series,
        beside={"machine figures alone": [(1e6 * row.measured_s, 1e6 * row.expected_s) for row in rows]},
    )


def bytes_plot(protocol: FusedProtocol) -> Figure:
    """Expected against counted DRAM bytes of a launch."""
    series: dict[str, list[Case]] = {}
    for row in protocol.chosen():
        if row.dram_bytes is not None and row.dram_expected_bytes is not None:
            case = Case(measured=1e-6 * row.dram_bytes, predicted=1e-6 * row.dram_expected_bytes, names=_names(row))
            series.setdefault("input and output above L2" if row.above_l2 else "within L2", []).append(case)
    return agreement_plot(f"{protocol.hardware}, fused kernels: DRAM bytes, expected against ncu", "MB", series)


def fused_blocks(protocol: FusedProtocol, without: Mapping[str, FusedProtocol]) -> list[Block]:
    """The part of the report on fused kernels; `without`: what was expected without each term, or nothing."""
    wrong = ", ".join(
        f"{row.case}{' (a layout)' if row.layout else ''}: fused {si(row.measured_s, 's')}, torch.compile {si(row.compile_s or 0.0, 's')}"
        for row in wrong_decisions(protocol)
    )
    left_out = "; ".join(f"{one.reason}: {', '.join(one.rows)}" for one in protocol.skipped)
    counted = any(row.dram_bytes is not None for row in protocol.chosen())
    return [
        ("heading", f"Fused kernels on {protocol.hardware}"),
        ("plot", times_plot(protocol)),
        ("table", errors_table(protocol)),
        ("table", worst_rows(protocol)),
        ("text", "Is the fused kernel faster than torch.compile? Answered by both expected times, and by both measured ones."),
        ("table", decisions_table(protocol)),
        ("text", f"Decided wrongly: {wrong or 'none'}."),
        ("text", f"DRAM bytes of a launch against ncu. {bytes_sentence(protocol)}"),
        *([("plot", bytes_plot(protocol)), ("table", bytes_table(protocol))] if counted else []),
        ("text", f"Left out: {left_out or 'nothing'}."),
        *(
            [("heading", "What each term of fused kernels is worth"), ("table", terms_table(protocol, without))]
            if without
            else []
        ),
    ]


def _recorded(table: Callable[[FusedProtocol], Table]) -> Callable[[], str]:
    return lambda: markdown_table(table(recorded_fused()))


fused_errors_markdown = _recorded(errors_table)
fused_decisions_markdown = _recorded(decisions_table)
fused_worst_markdown = _recorded(worst_rows)


def fused_terms_markdown() -> str:
    """What each term is worth."""
    return markdown_table(terms_table(recorded_fused(), recorded_ablated()))


def fused_bytes_markdown() -> str:
    """The sentence and the table."""
    protocol = recorded_fused()
    return f"{bytes_sentence(protocol)}\n\n{markdown_table(bytes_table(protocol))}"


def fused_factors_markdown() -> str:
    """What is shipped."""
    return markdown_table(factors_table(fused_calibration()))


def fused_toml(found: FusedCalibration) -> str:
    """A calibration as the file that `perfmodel.expected.fused_calibration` reads."""

    def value(given: object) -> str:
        return f"{given:.6g}" if isinstance(given, float) else json.dumps(given, ensure_ascii=False)

    dumped = found.model_dump(mode="json")
    lines = [
        "# Factors of fused kernels, fitted by `perfmodel validate calibrate FOLDER=DEV --schedule block`. Fit them again, do not edit.",
        *(f"{key} = {value(dumped[key])}" for key in ("stack", "description")),
    ]
    for table in ("provenance", "intervals"):
        lines += ["", f"[{table}]", *(f"{key} = {value(given)}" for key, given in dumped[table].items())]
    for one in dumped["factors"]:
        lines += ["", "[[factors]]", *(f"{key} = {value(given)}" for key, given in one.items())]
    return "\n".join(lines) + "\n"
