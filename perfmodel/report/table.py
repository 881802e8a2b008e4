"""A table of results, and one small exporter per format."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TextIO

from perfmodel.errors import UnknownNameError
from perfmodel.units import si

_UNWRAPPED: Final = 400
"""Columns of a table that goes to a file or a pipe: enough that nothing is folded."""
_TEXT_WIDTH: Final = 118
_LEAST_WIDTH: Final = 40

FORMATS: Final = ("table", "json", "csv", "markdown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: the key and unit that machines read, and the heading and text that people read."""

    key: str
    heading: str
    show: Callable[[Any], str] = str
    right: bool = True
    optional: int = 0
    """0: always shown; otherwise left out of a narrow terminal, the larger the sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of plain values under columns, with lines of text before and after."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    before: tuple[str, ...] = field(default=())
    after: tuple[str, ...] = field(default=())

    def shown(self) -> list[list[str]]:
        """The rows as people read them."""
        return [
            ["–" if value is None else column.show(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


def render(table: Table, fmt: str, *, width: int | None = None, colour: bool = False) -> str:
    """The table in one of FORMATS; raises UnknownNameError for another."""
    try:
        exporter = _EXPORTERS[fmt]
    except KeyError:
        raise UnknownNameError("format", fmt, FORMATS) from None
    return exporter(table, width, colour)


def terminal(stream: TextIO) -> tuple[int | None, bool]:
    """(columns, whether to use bold) for a stream: (None, False) where it is no terminal. Honours NO_COLOR."""
    if not stream.isatty():
        return None, False
    return max(_LEAST_WIDTH, shutil.get_terminal_size((_TEXT_WIDTH, 40)).columns), "NO_COLOR" not in os.environ


def _as_text(table: Table, width: int | None, colour: bool) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    table, left_out = _fitted(table, width)
    grid = RichTable(header_style="bold", box=box.SIMPLE_HEAD)
    for column in table.columns:
        grid.add_column(column.heading, justify="right" if column.right else "left", no_wrap=True)
    for row in table.shown():
        grid.add_row(*row)
    out = io.StringIO()
    console = Console(file=out, width=_UNWRAPPED, force_terminal=colour, highlight=False, markup=False, no_color=not colour)
    for line in table.before:
        console.print(textwrap.fill(line, width or _TEXT_WIDTH, subsequent_indent="  "))
    console.print(table.title, style="bold")
    console.print(grid)
    notes = (*table.after, f"left out for want of room: {', '.join(left_out)}; --format csv has all") if left_out else table.after
    for line in notes:
        console.print(textwrap.fill(line, width or _TEXT_WIDTH, subsequent_indent="  "))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _fitted(table: Table, width: int | None) -> tuple[Table, list[str]]:
    """The table without the columns that a terminal has no room for, those that matter least first; and their headings."""
    left_out: list[str] = []
    while width is not None and _natural_width(table) > width:
        optional = [index for index, column in enumerate(table.columns) if column.optional]
        if not optional:
            break
        worst = max(optional, key=lambda index: table.columns[index].optional)
        left_out.append(table.columns[worst].heading)
        columns = (*table.columns[:worst], *table.columns[worst + 1 :])
        rows = [(*row[:worst], *row[worst + 1 :]) for row in table.rows]
        table = replace(table, columns=columns, rows=rows)
    return table, left_out


def _natural_width(table: Table) -> int:
    lines = [[column.heading for column in table.columns], *table.shown()]
    return 2 + sum(max(len(line[index]) for line in lines) + 3 for index in range(len(table.columns)))


def _as_markdown(table: Table, width: int | None, colour: bool) -> str:
    del width, colour

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [f"**{table.title}**", "", *[f"{text}  " for text in table.before], *([""] if table.before else [])]
    lines += [line(column.heading for column in table.columns)]
    lines += [line("---:" if column.right else ":---" for column in table.columns)]
    lines += [line(row) for row in table.shown()]
    lines += ["", *[f"{text}  " for text in table.after]] if table.after else []
    return "\n".join(lines) + "\n"


def _as_csv(table: Table, width: int | None, colour: bool) -> str:
    del width, colour
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.key for column in table.columns)
    writer.writerows(table.rows)
    return out.getvalue()


def _as_json(table: Table, width: int | None, colour: bool) -> str:
    del width, colour
    rows = [dict(zip((column.key for column in table.columns), row, strict=True)) for row in table.rows]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


_EXPORTERS: Final = {"table": _as_text, "json": _as_json, "csv": _as_csv, "markdown": _as_markdown}


def duration(value: float) -> str:
    """Seconds with a prefix."""
    return si(value, "s")


def count(value: float) -> str:
    """A number of things with a prefix."""
    return si(value, "").rstrip()


def size(value: float) -> str:
    """Bytes with a decimal prefix."""
    return si(value, "B")


def intensity(value: float) -> str:
    """Ops per byte."""
    return f"{value:.1f}" if value else "0"
