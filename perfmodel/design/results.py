"""The designs of a front as a file: CSV, or Parquet where pyarrow is there."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfmodel.errors import PerfmodelError


class ResultsError(PerfmodelError):
    """Results that cannot be written."""


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One line per design; the ending of the file says the format. Raises ResultsError."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise ResultsError(f"{path.name}: results are written as .csv or .parquet; choose one of these endings")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        if ending == ".csv":
            out = io.StringIO()
            writer = csv.DictWriter(out, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            path.write_text(out.getvalue(), encoding="utf-8")
            return
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise ResultsError(
                "Parquet needs pyarrow; install it with: pip install 'perfmodel[parquet]', or write .csv"
            ) from None
        table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
        parquet.write_table(table, path)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}; choose another file") from None
