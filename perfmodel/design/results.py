"""The designs of a front as a file: CSV, or Parquet where pyarrow is there."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfmodel.errors import PerfmodelError


class ResultsError(PerfmodelError):
    """Results that cannot be written."""


def format_of(path: Path) -> str:
    """The ending of a file of results, which says the format. Raises ResultsError for one that cannot be written."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise ResultsError(f"{path.name}: results are written as .csv or .parquet; choose one of these endings")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ResultsError("Parquet needs pyarrow; install it with: pip install 'perfmodel[parquet]', or write .csv")
    return ending


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One line per design, in the format that the ending of the file says. Raises ResultsError."""
    ending = format_of(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        if ending == ".csv":
            out = io.StringIO()
            writer = csv.DictWriter(out, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            path.write_text(out.getvalue(), encoding="utf-8")
            return
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
        parquet.write_table(table, path)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}; choose another file") from None
