"""Recorded imports of timm's networks as Markdown, for the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from perfmodel.schedule import NAMES
from perfmodel.validation.library import LibraryRow, read
from perfmodel.validation.recorder import PLAIN, read_lines

RESULTS: Final = Path(__file__).resolve().parent / "results" / "library"
IMPORTS: Final = RESULTS / "timm-import.jsonl"
ONNX: Final = RESULTS / "onnx-import.jsonl"


EXPLAINED: Final = {
    "convmixer_": "timm's counter does not see convolutions whose padding is given as `same`: its figures lack the depthwise ones",
}
"""Families whose difference was looked into, and why it is."""


@cache
def convolutional() -> tuple[LibraryRow, ...]:
    """The recorded rows of convolutional networks."""
    return tuple(row for row in read(IMPORTS) if row.convolutional)


def agrees(row: LibraryRow) -> bool:
    """Whether parameters, multiply-accumulates and output elements are what timm published."""
    return row.params_agree and row.macs_agree and row.activations_agree


def reason(row: LibraryRow) -> str:
    """Why a row differs from what was published."""
    reasons = []
    if not row.params_agree:
        reasons.append("the installed timm builds another network under this name than the one that was published")
    if not row.macs_agree and row.is_explained_by_weight_norms:
        reasons.append("timm's counter counts the standardisation of the weights on every pass, too; done once, it costs nothing")
    elif row.params_agree and not (row.macs_agree and row.activations_agree):
        known = [text for prefix, text in EXPLAINED.items() if row.model.startswith(prefix)]
        reasons += known or ["not found"]
    return "; ".join(reasons)


def library_summary() -> str:
    """How many rows agree, in one paragraph of Markdown."""
    rows = convolutional()
    names = {row.model for row in rows}
    good = sum(map(agrees, rows))
    counted = [row for row in rows if row.flop_counter_macs is not None]
    same = sum(row.flop_counter_macs == row.macs for row in counted)
    layers = sum(row.params_of_layers == row.params for row in rows)
    strange = Counter(operation for row in rows for operation in row.unsupported)
    slowest = max(rows, key=lambda row: row.import_s)
    lines = [
        f"- **{len(names)} convolutional networks, {len(rows)} pairs of network and image size**; {good} agree with timm in all three",
        f"  figures, {len(rows) - good} are in the table below.",
        f"- `torch.utils.flop_counter`, which runs the module itself, counts exactly the same MACs in {same} of {len(counted)}.",
        f"- The layers that were recognised have exactly the module's parameters in {layers} of {len(rows)}; where not, weights are "
        "shared, folded into others, fixed filters, or norms without a bias, and the module's own count is what is reported.",
        "- Operations that are not understood: "
        + (", ".join(f"`{name}` in {count}" for name, count in sorted(strange.items())) if strange else "none")
        + ".",
        f"- The slowest import took {slowest.import_s:.1f} s (`{slowest.model}` at {slowest.resolution}), the median one "
        f"{sorted(row.import_s for row in rows)[len(rows) // 2]:.1f} s, on two cores that had other work.",
    ]
    return "\n".join(lines) + "\n"


def library_differences() -> str:
    """The rows that differ from what was published, with the reason."""
    header = ["network", "image", "parameters", "timm", "GMACs", "timm", "M output elements", "timm", "reason"]
    rows = [
        [
            f"`{row.model}`",
            str(row.resolution),
            f"{row.params / 1e6:.2f} M",
            f"{row.published_params_millions} M",
            f"{row.timm_gmacs:.2f}",
            row.published_gmacs,
            f"{row.activations / 1e6:.2f}",
            row.published_activations_millions,
            reason(row),
        ]
        for row in convolutional()
        if not agrees(row)
    ]
    return _markdown(header, rows)


def onnx_rows() -> tuple[dict[str, Any], ...]:
    """The recorded comparisons of ONNX files with the torch route."""
    return read_lines(ONNX, PLAIN)


def onnx_summary() -> str:
    """How many files cost what the module costs."""
    rows = onnx_rows()
    same = [row for row in rows if row["same_params"] and set(row["same_schedules"]) == set(NAMES)]
    slowest = max(rows, key=lambda row: row["read_s"])
    lines = [
        f"{len(same)} of {len(rows)} files cost what the module costs, kernel by kernel under every schedule; the slowest took "
        f"{slowest['read_s']:.1f} s to read (`{slowest['model']}`)."
    ]
    others = [row for row in rows if row not in same]
    if others:
        listed = ", ".join(f"`{row['model']}` (agrees under {', '.join(row['same_schedules']) or 'none'})" for row in others)
        lines.append(f"Those that differ somewhere: {listed}.")
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
