"""DRAM bytes of a kernel, counted by Nsight Compute around a process that launches it again and again over rotated buffers."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perfmodel.errors import shown
from perfmodel.validation.files import MeasurementFileError, number
from perfmodel.validation.fused.problem import GpuError

METRICS: Final = ("dram__bytes_read.sum", "dram__bytes_write.sum", "gpu__time_duration.sum")
KERNEL: Final = "Kernel Name"
UNNAMED: Final = "(no name)"
LONG_COLUMNS: Final = ("Metric Name", "Metric Value", "Metric Unit")
UNITS: Final = {
    "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9,
    "ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3, "s": 1.0, "second": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One launch."""

    kernel: str
    read_bytes: float
    written_bytes: float
    duration_s: float


def counted(command: Sequence[str], kernels: str, *, timeout_s: float = 300) -> tuple[Counted, ...]:
    """Run `command` under ncu; the launches of kernels whose name matches the regular expression, in their order.

    Clocks are left alone, and caches are not flushed: what a launch leaves in the L2 cache the next one pays for, so that the mean over
    launches is the traffic of one. Raises GpuError where ncu is missing or not permitted.
    """
    program = shutil.which("ncu")
    if program is None:
        raise GpuError("ncu is not installed; DRAM bytes are counted with Nsight Compute, which comes with the CUDA toolkit")
    options = ["--clock-control", "none", "--cache-control", "none", "--csv", "--kernel-name", f"regex:{kernels}"]
    arguments = [program, *options, "--metrics", ",".join(METRICS), *command]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise GpuError(f"ncu did not end within {timeout_s:.0f} s") from error
    if "ERR_NVGPUCTRPERM" in done.stdout + done.stderr:
        raise GpuError("ncu may not read the counters: the driver permits it to administrators only (ERR_NVGPUCTRPERM)")
    try:
        found = parse(done.stdout)
    except MeasurementFileError as error:
        raise GpuError(str(error)) from None
    if not found:
        raise GpuError(f"ncu counted nothing (exit {done.returncode}): {(done.stderr or done.stdout).strip()[-400:]}")
    return found


def parse(text: str, where: str = "ncu's output") -> tuple[Counted, ...]:
    """Launches in the CSV that ncu prints after the program's own output: one row for each launch and metric."""
    rows = table(text, where)
    whole = [one for one in launches(rows, where) if all(metric in one for metric in METRICS)] if rows else []
    read, written, duration = METRICS
    return tuple(
        Counted(
            kernel=str(one[KERNEL]),
            read_bytes=float(one[read]),
            written_bytes=float(one[written]),
            duration_s=float(one[duration]),
        )
        for one in whole
    )


Row = dict[str, str | None]


def table(text: str, where: str) -> list[Row]:
    """The rows of ncu's CSV, which begins after what the program itself printed; none where there is none.

    Raises MeasurementFileError for what is no CSV.
    """
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    rows = csv.DictReader(io.StringIO("\n".join(lines[start:])))
    try:
        return [{**dict.fromkeys(rows.fieldnames or ()), **row} for row in rows]
    except csv.Error as error:
        raise MeasurementFileError(f"{where}, line {start + rows.line_num}: {error}; it must be a CSV of ncu") from None


def launches(rows: Sequence[Row], where: str) -> list[dict[str, str | float]]:
    """Of a table with a row for each launch and metric: the name of every launch's kernel, and its METRICS in SI units."""
    missing = [column for column in ("ID", *LONG_COLUMNS) if column not in rows[0]]
    if missing:
        raise MeasurementFileError(f"{where} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} of ncu")
    found: dict[str, dict[str, str | float]] = {}
    for row in rows:
        launch = str(row["ID"])
        metrics = found.setdefault(launch, {KERNEL: row.get(KERNEL) or UNNAMED})
        name, value, unit = (row[column] for column in LONG_COLUMNS)
        if name in METRICS:
            metrics[name] = in_si(f"{where}, launch {launch}", name, value, unit)
    return list(found.values())


def in_si(where: str, metric: str, value: str | None, unit: str | None) -> float:
    """A metric in bytes or seconds. Raises MeasurementFileError for a unit that is unknown, and for what is no number."""
    if unit not in UNITS:
        raise MeasurementFileError(f"{where} gives {metric} in {shown(repr(unit or ''))}, which is none of {', '.join(UNITS)}")
    return number(where, metric, value) * UNITS[unit]
