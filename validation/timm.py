"""Reading throughput files in the format of timm's benchmark results (huggingface/pytorch-image-models, folder results/)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

from perfmodel.validation.files import MeasurementFileError, positive, read_text

COLUMNS: Final = ("model", "infer_img_size", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "param_count")
MAX_FILE_BYTES: Final = 64 << 20
STEP_TIME_TOLERANCE: Final = 0.02
"""Step time and throughput say the same thing twice; further apart than this, the row is not to be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmRow:
    """One measured network at one image size and batch size."""

    line: int
    model: str
    resolution: int
    batch: int
    latency_s: float
    """Time of one step, the whole batch: batch / throughput."""
    params_millions: float


def read(path: str | PathLike[str]) -> tuple[TimmRow, ...]:
    """The rows of a timm benchmark file, whatever the order of its columns.

    Raises MeasurementFileError for a file that is not one: unreadable, another format, a missing column, a number that is not one or
    not positive, a step time that contradicts the throughput.
    """
    text = read_text(Path(path), MAX_FILE_BYTES, "it is no benchmark file of timm")
    lines = csv.DictReader(text.splitlines())
    try:
        header = lines.fieldnames or []
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise MeasurementFileError(
                f"{path} is not a timm benchmark file: it lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
            )
        rows = tuple(_row(path, lines.line_num, record) for record in lines)
    except csv.Error as error:
        raise MeasurementFileError(f"{path} is not a CSV file: line {lines.line_num}: {error}") from None
    if not rows:
        raise MeasurementFileError(f"{path} has a header but no rows")
    return rows


def repetitions(rows: Sequence[TimmRow]) -> dict[int, str]:
    """Of lines that say the same as an earlier one, by their number: that they do, and which it is."""
    first: dict[TimmRow, int] = {}
    found = {}
    for row in rows:
        line = first.setdefault(replace(row, line=0), row.line)
        if line != row.line:
            found[row.line] = f"the same as line {line}"
    return found


def _row(path: str | PathLike[str], line: int, record: dict[str, str | None]) -> TimmRow:
    def number(column: str) -> float:
        return positive(f"{path}, line {line}", column, record[column] or "")

    def whole(column: str) -> int:
        value = number(column)
        if value != int(value):
            raise MeasurementFileError(f"{path}, line {line}: {column} is {value:g}, but it must be a whole number")
        return int(value)

    batch, step_s = whole("infer_batch_size"), number("infer_step_time") * 1e-3
    latency_s = batch / number("infer_samples_per_sec")
    if abs(latency_s / step_s - 1) > STEP_TIME_TOLERANCE and abs(latency_s - step_s) > 1e-5:
        raise MeasurementFileError(
            f"{path}, line {line}: {batch} images at the given throughput take {latency_s * 1e3:.4g} ms, "
            f"but the step time is {step_s * 1e3:.4g} ms"
        )
    return TimmRow(
        line=line,
        model=(record["model"] or "").strip(),
        resolution=whole("infer_img_size"),
        batch=batch,
        latency_s=latency_s,
        params_millions=number("param_count"),
    )
