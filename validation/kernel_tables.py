"""The recorded measurements of the fused kernels as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.errors import PerfmodelError
from perfmodel.units import percent
from perfmodel.validation.fused.catalog import CASE, FAMILIES
from perfmodel.validation.recorder import RESULTS, read_lines

Line = dict[str, Any]


class ResultsError(PerfmodelError):
    """Recorded results that do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is recorded of one case on one device; None where it was not measured."""

    device: str
    case: str
    times: dict[tuple[str, str], Line]
    """By what ran (fused, eager, compile) and mode (burst, sustained)."""
    count: Line | None

    @property
    def sizes(self) -> dict[str, int]:
        """N, C, H, W and e."""
        return {name: int(self._parts[name]) for name in ("N", "C", "H", "W", "e")}

    @property
    def family(self) -> str:
        """Of the block."""
        return self._parts["block"]

    @property
    def block(self) -> str:
        """The family, and what its name says beside the sizes."""
        return " ".join((self._parts["block"], *self._parts["form"].split("_"))).rstrip()

    @property
    def _parts(self) -> re.Match[str]:
        found = CASE.fullmatch(self.case)
        if found is None:
            raise ResultsError(f"{self.case} is no name of a case, such as convfirst_e4_fp16_n128_c64_h56_w56")
        return found

    def median_s(self, what: str, mode: str) -> float | None:
        """Of the replays."""
        line = self.times.get((what, mode))
        return None if line is None else float(line["median_s"])

    def over_floor(self, mode: str) -> float | None:
        """Time over the floor: 1 is the best that the rates reached on this chip allow; None where they are not known."""
        line = self.times.get(("fused", mode))
        return None if line is None or line["floor_s"] is None else float(line["median_s"] / line["floor_s"])

    def of_waterline(self) -> float | None:
        """Waterline time over the burst's time."""
        line = self.times.get(("fused", "burst"))
        return None if line is None or line["waterline_s"] is None else float(line["waterline_s"] / line["median_s"])

    def faster(self, what: str, mode: str) -> float | None:
        """How many times as fast as a baseline."""
        other, fused = self.median_s(what, mode), self.median_s("fused", mode)
        return None if other is None or fused is None else other / fused


def files(results: Path = RESULTS) -> tuple[Path, ...]:
    """Every recorded file of fused kernels, by device and family."""
    return tuple(
        path for device in sorted(results.glob("*")) for name in FAMILIES if (path := device / f"{name}.jsonl").is_file()
    )


def measured(lines: Iterable[Line]) -> tuple[Measured, ...]:
    """Lines joined by device and case, in the order they were recorded; of two of one kind the later counts."""
    times: dict[tuple[str, str], dict[tuple[str, str], Line]] = {}
    counts: dict[tuple[str, str], Line] = {}
    for line in lines:
        if "refused" in line or line["kind"] not in ("time", "count"):
            continue
        key = (line["device"], line["case"])
        if line["kind"] == "time":
            times.setdefault(key, {})[line["what"], line["mode"]] = line
        else:
            counts[key] = line
    return tuple(
        Measured(device=device, case=case, times=found, count=counts.get((device, case)))
        for (device, case), found in times.items()
    )


def kernels_table(results: Path = RESULTS) -> str:
    """Time, place under the waterline, speed over PyTorch and DRAM bytes of each case that was timed."""
    rows = [
        "| device | block | C, H=W, N | kernel | burst µs (20–80 %) | sustained µs | × floor, burst · sustained | of the waterline "
        "| eager µs | torch.compile µs | × faster than compile, burst · sustained | DRAM bytes, ÷ model |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in files(results):
        for one in measured(read_lines(path)):
            rows.append("| " + " | ".join(_cells(one)) + " |")
    return "\n".join(rows)


def _cells(one: Measured) -> Iterable[str]:
    sizes = one.sizes
    burst = one.times.get(("fused", "burst"))
    yield one.device.removeprefix("NVIDIA ")
    yield one.block
    yield f"{sizes['C']}, {sizes['H']}, {sizes['N']}"
    if burst is None:
        yield from ("not measured",) * 9
        return
    yield burst["kernel"].removeprefix(f"{one.family}_").split("_")[0]
    yield f"{_us(burst['median_s'])} ({_us(burst['p20_s'])}–{_us(burst['p80_s'])})"
    yield _us(one.median_s("fused", "sustained"))
    yield f"{_times(one.over_floor('burst'))} · {_times(one.over_floor('sustained'))}"
    share = one.of_waterline()
    yield "" if share is None else percent(share)
    yield _us(one.median_s("eager", "burst"))
    yield _us(one.median_s("compile", "burst"))
    yield f"{_times(one.faster('compile', 'burst'))} · {_times(one.faster('compile', 'sustained'))}"
    moved = one.count
    if moved is None:
        yield "not counted"
        return
    over = "" if moved["model_bytes"] is None else f", {moved['dram_bytes'] / moved['model_bytes']:.3f}"
    yield f"{moved['dram_bytes'] / 1e6:.1f} MB{over}"


def checks_sentence(results: Path = RESULTS) -> str:
    """How many checks are recorded, how many passed, and how near the worst came to its tolerance."""
    checks = [line for path in files(results) for line in read_lines(path) if line["kind"] == "check"]
    if not checks:
        return "No check is recorded."
    passed = [line for line in checks if line.get("passed")]
    worst = max(line["branch"] / line["tolerance"] for line in passed)
    kernels = len({line["what"] for line in passed})
    inputs = sum(line["seeds"] for line in passed)
    return (
        f"{len(passed)} of {len(checks)} recorded checks passed, on {inputs} inputs in all, by {kernels} specialisations; the largest "
        f"error is {percent(worst)} of its tolerance."
    )


def conditions_sentence(results: Path = RESULTS) -> str:
    """Where and with what the recorded runs were made."""
    runs = [line for path in files(results) for line in read_lines(path) if line["kind"] == "run"]
    return "\n".join(
        dict.fromkeys(
            f"- {run['date']}: {run['device']}, driver {run['driver']}, NVRTC {run['cuda_compiler']}, CuPy {run['cupy']}, "
            f"PyTorch {run['torch']}, revision {run['revision']}."
            for run in runs
        )
    )


def _us(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.1f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
