"""DRAM bytes of a kernel, counted by Nsight Compute around a process that launches it again and again over rotated buffers."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perfmodel.validation.fused.problem import GpuError

METRICS: Final = ("dram__bytes_read.sum", "dram__bytes_write.sum", "gpu__time_duration.sum")
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
    found = parse(done.stdout)
    if not found:
        raise GpuError(f"ncu counted nothing (exit {done.returncode}): {(done.stderr or done.stdout).strip()[-400:]}")
    return found


def parse(text: str) -> tuple[Counted, ...]:
    """Launches in the CSV that ncu prints after the program's own output: one row for each launch and metric."""
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return ()
    launches: dict[str, dict[str, float]] = {}
    names: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        if row.get("Metric Name") not in METRICS:
            continue
        unit = row["Metric Unit"]
        if unit not in UNITS:
            raise GpuError(f"ncu gives {row['Metric Name']} in {unit}, which is none of {', '.join(UNITS)}")
        launches.setdefault(row["ID"], {})[row["Metric Name"]] = float(row["Metric Value"].replace(",", "")) * UNITS[unit]
        names[row["ID"]] = row["Kernel Name"]
    whole = [(names[key], values) for key, values in launches.items() if len(values) == len(METRICS)]
    return tuple(
        Counted(kernel=name, read_bytes=v[METRICS[0]], written_bytes=v[METRICS[1]], duration_s=v[METRICS[2]]) for name, v in whole
    )
