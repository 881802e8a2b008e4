"""The protocol's findings as Markdown and HTML, with plots."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.errors import PerfmodelError
from perfmodel.expected.terms import TERMS
from perfmodel.units import percent, si, signed_percent
from perfmodel.validation.agreement_plot import Case, agreement_plot
from perfmodel.validation.protocol import EXPECTED, FileProtocol, Protocol, ProtocolRow
from perfmodel.validation.statistics import Summary, rank_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"
RECORD = RESULTS / "expected" / "protocol.json"
HEADER = ("n", "mean", "median", "90 %", "worst", "bias", "Spearman", "within 10 %")

Block = tuple[str, Any]
"""("heading", text), ("text", text), ("table", (header, rows)) or ("plot", figure; its file's name once it is drawn)."""


def recorded_protocol() -> Protocol:
    """The protocol that the project recorded; raises PerfmodelError where it has none."""
    try:
        return Protocol.model_validate_json(RECORD.read_text(encoding="utf-8"))
    except OSError:
        raise PerfmodelError(
            "no protocol is recorded here; give files of measurements: perfmodel validate report FILE=DEVICE"
        ) from None


def summary_cells(found: Summary) -> list[str]:
    """A summary under HEADER."""
    return [
        str(found.n),
        percent(found.mape),
        percent(found.median_ape),
        percent(found.p90_ape),
        percent(found.max_ape),
        signed_percent(found.bias),
        rank_text(found.spearman),
        percent(found.within_10),
    ]


def label(found: FileProtocol) -> str:
    """A file for people."""
    return f"{found.hardware}, {'torch.compile' if found.schedule == 'pointwise' else 'eager'}, {found.layout}"


def predictors_table(protocol: Protocol) -> tuple[Sequence[str], list[list[str]]]:
    """Every predictor on every file."""
    rows = [[label(file), name, *summary_cells(found)] for file in protocol.files for name, found in file.predictors.items()]
    rows += [
        [transfer.tested_on, f"expected, constants of {transfer.fitted_on}", *summary_cells(transfer.summary)]
        for transfer in protocol.transfers
    ]
    return ("measured on", "predicted by", *HEADER), rows


def ablation_table(protocol: Protocol) -> tuple[Sequence[str], list[list[str]]]:
    """Mean error, families left out, refitted without each term; a dash where the record is older than the term."""
    files = [file for file in protocol.files if file.ablation]
    rows = [["all terms", "", *[percent(file.predictors[EXPECTED].mape) for file in files]]]
    for term, says in TERMS.items():
        rows.append(
            [f"without `{term}`", says, *[percent(file.ablation[term]) if term in file.ablation else "–" for file in files]]
        )
    return ("", "what it says", *[label(file) for file in files]), rows


def constants_table(protocol: Protocol) -> tuple[Sequence[str], list[list[str]]]:
    """The constants that each file asks for on its own."""
    names = list(protocol.files[0].constants.model_dump())
    rows = [[f"`{name}`", *[f"{getattr(file.constants, name):.3g}" for file in protocol.files]] for name in names]
    return ("constant", *[label(file) for file in protocol.files]), rows


def families_table(file: FileProtocol) -> tuple[Sequence[str], list[list[str]]]:
    """Errors by family, the largest first."""
    rows = [[family, *summary_cells(found)] for family, found in sorted(file.by_family.items(), key=lambda item: -item[1].n)]
    return ("family", *HEADER), rows


def classes_table(file: FileProtocol) -> tuple[Sequence[str], list[list[str]]]:
    """Share of time of each class of kernels, and errors of the networks that it dominates."""
    rows = []
    for name, found in sorted(file.by_class.items(), key=lambda item: -item[1].share):
        rows.append([name, percent(found.share), *(summary_cells(found.dominated) if found.dominated else ["–"] * len(HEADER))])
    return ("class of kernels", "of the time", *HEADER), rows


def worst_table(rows: Sequence[ProtocolRow]) -> tuple[Sequence[str], list[list[str]]]:
    """The rows that are furthest off, with a diagnosis."""
    header = ("network", "image", "batch", "measured", "expected", "interval", "error", "diagnosis")
    cells = [
        [
            row.model,
            str(row.resolution),
            str(row.batch),
            si(row.measured_latency_s, "s"),
            si(row.expected_latency_s, "s"),
            f"{si(row.latency_low_s, 's')} – {si(row.latency_high_s, 's')}",
            signed_percent(row.error),
            row.diagnosis or "no rule names a cause",
        ]
        for row in rows
    ]
    return header, cells


def blocks(protocol: Protocol) -> list[Block]:
    """The report, part by part."""
    found: list[Block] = [
        ("heading", "Expected latency against measurement"),
        (
            "text",
            f"Recorded {protocol.date}, revision {protocol.revision}. Measurements: {protocol.source}. Errors: predicted / measured − 1. "
            "Families left out: the rows of a family are predicted by constants fitted without it, in ten folds.",
        ),
        ("table", predictors_table(protocol)),
    ]
    found += [("plot", plot(file)) for file in protocol.files]
    if any(file.ablation for file in protocol.files):
        found += [("heading", "What each term is worth"), ("table", ablation_table(protocol))]
    found += [("heading", "Constants"), ("table", constants_table(protocol))]
    for file in protocol.files:
        skipped = sum(len(one.rows) for one in file.skipped)
        found += [
            ("heading", label(file)),
            (
                "text",
                f"{file.file}: {file.n} rows of {file.networks} networks in {file.families} families; {skipped} left out. "
                f"{percent(file.coverage)} of rows inside their interval ({percent(file.nominal_coverage)} nominal). "
                f"Below the bound: {', '.join(file.below_bound) or 'none'}.",
            ),
            ("table", worst_table(file.worst)),
            ("table", classes_table(file)),
            ("table", families_table(file)),
            ("table", (("left out because", "rows"), [[one.reason, str(len(one.rows))] for one in file.skipped])),
        ]
    return found


def markdown_table(table: tuple[Sequence[str], list[list[str]]]) -> str:
    """A table in Markdown."""
    header, rows = table
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [list(header), ["---"] * len(header), *rows]]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def as_markdown(parts: Sequence[Block]) -> str:
    """The report in Markdown."""
    lines = []
    for index, (kind, what) in enumerate(parts):
        if kind == "heading":
            lines.append(f"{'#' if index == 0 else '##'} {what}")
        elif kind == "text":
            lines.append(str(what))
        elif kind == "plot":
            lines.append(f"![predicted against measured]({what})")
        else:
            lines.append(markdown_table(what))
    return "\n\n".join(lines) + "\n"


STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}"
    "th:first-child,td:first-child,td:last-child{text-align:left}img{max-width:100%}"
)


def as_html(parts: Sequence[Block], folder: Path) -> str:
    """The report in HTML, with its plots inside."""
    import base64

    body = []
    for index, (kind, what) in enumerate(parts):
        if kind == "heading":
            level = 1 if index == 0 else 2
            body.append(f"<h{level}>{html.escape(str(what))}</h{level}>")
        elif kind == "text":
            body.append(f"<p>{html.escape(str(what))}</p>")
        elif kind == "plot":
            data = base64.b64encode((folder / str(what)).read_bytes()).decode("ascii")
            body.append(f'<img alt="predicted against measured" src="data:image/png;base64,{data}">')
        else:
            header, rows = what
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            body.append(f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>")
    head = f'<meta charset="utf-8"><title>{html.escape(str(parts[0][1]))}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def plot(file: FileProtocol) -> Figure:
    """Predicted against measured, per image, one mark per row, and the errors' distribution."""
    rows = [
        Case(
            measured=1e3 * row.measured_latency_s / row.batch,
            predicted=1e3 * row.expected_latency_s / row.batch,
            names=(row.model, f"{row.resolution}²", f"batch {row.batch}"),
        )
        for row in file.rows
    ]
    waterline = [(case.measured, 1e3 * row.waterline_latency_s / row.batch) for case, row in zip(rows, file.rows, strict=True)]
    found = file.predictors[EXPECTED]
    return agreement_plot(
        f"{label(file)}: {found.n} rows, mean error {percent(found.mape)}, median {percent(found.median_ape)}",
        "ms per image",
        {"expected, family left out": rows},
        beside={"waterline, nothing fitted": waterline},
    )


def require_ending(output: Path) -> None:
    """Raise PerfmodelError for a report that is neither Markdown nor HTML."""
    if output.suffix not in (".md", ".html"):
        raise PerfmodelError(f"the report {output} must end in .md or .html")


def write_report(protocol: Protocol, output: Path, more: Sequence[Block] = ()) -> None:
    """Write the report, Markdown or HTML by the file's ending, and its plots beside it; `more` are parts at its end.

    Raises PerfmodelError for another ending.
    """
    require_ending(output)
    import tempfile

    try:
        with tempfile.TemporaryDirectory() as inside:  # plots of an HTML page are in the page
            folder = output.parent if output.suffix == ".md" else Path(inside)
            parts: list[Block] = []
            for kind, what in (*blocks(protocol), *more):
                if kind == "plot":
                    name = f"{output.stem}-{1 + sum(drawn == 'plot' for drawn, _ in parts)}.png"
                    what.savefig(folder / name, dpi=110, format="png")
                    what = name  # noqa: PLW2901 - from here on it is a file
                parts.append((kind, what))
            text = as_markdown(parts) if output.suffix == ".md" else as_html(parts, folder)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PerfmodelError(f"cannot write {output}: {error.strerror}; choose another file") from None


def record(protocol: Protocol, path: Path = RECORD) -> None:
    """Keep every figure and row, so that documentation and reports are made from them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(protocol.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )
