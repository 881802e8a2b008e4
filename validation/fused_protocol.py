"""How right tier expected is on fused kernels that were measured: times, the decision whether to fuse, DRAM bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from perfmodel.expected.calibration import QUANTILES
from perfmodel.expected.constants import CalibrationError, FitProvenance, Intervals
from perfmodel.expected.features import Floats
from perfmodel.expected.fused import Figures, FusedKernel, Regime, fused_time
from perfmodel.expected.fused_calibration import ClassFactor, FusedCalibration
from perfmodel.expected.fused_terms import FUSED_TERMS
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.graph import Graph
from perfmodel.network import Network
from perfmodel.prediction import predict
from perfmodel.validation.comparison import Skipped
from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.fused.catalog import FAMILIES, problem_named
from perfmodel.validation.fused.choice import graph_of
from perfmodel.validation.fused.family import Family
from perfmodel.validation.fused.forms import expected_kernel, layout_kernel
from perfmodel.validation.fused.problem import DeviceLimits, GpuError, Problem
from perfmodel.validation.layout_records import RECORDED, layouts_of
from perfmodel.validation.machine_file import is_device
from perfmodel.validation.recorder import REFUSED, read_lines
from perfmodel.validation.statistics import Summary

OTHER_CONFIGURATION = "recorded with another configuration than the kernels have now"
LEAST_CONFIGURATIONS = 2
"""Of a class, so that one can be left out."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FusedRow(_Record):
    """One measured kernel and what was expected of it."""

    case: str
    family: str
    kind: str
    kernel: str
    configuration: str
    """What is left out together: family, channels, image."""
    N: int
    regime: Regime
    layout: bool
    """Whether it is one of many layouts that were timed, not the one that is chosen."""
    measured_s: float
    expected_s: float
    """By machine figures alone."""
    left_out_s: float | None
    """Times the factor of its class, from other configurations; None where the class has no other."""
    compile_s: float | None = None
    """torch.compile, measured in the same run (of a layout: of the same block in another)."""
    compile_expected_s: float | None = None
    dram_bytes: float | None = None
    dram_expected_bytes: float | None = None
    above_l2: bool = False
    """Whether input and output exceed the L2 cache."""
    revision: str | None = None

    @property
    def decided_rightly(self) -> bool | None:
        """Whether "is the fused kernel faster than torch.compile here?" is answered as measured; None where that was not."""
        expected = self.left_out_s or self.expected_s
        if self.compile_s is None or self.compile_expected_s is None:
            return None
        return (expected < self.compile_expected_s) == (self.measured_s < self.compile_s)


class FusedProtocol(_Record):
    """All of them."""

    schema_version: int = 1
    hardware: str
    rows: tuple[FusedRow, ...]
    skipped: tuple[Skipped, ...]
    """Recorded, but not compared: with why, the cases and their kernels."""

    def chosen(self, regime: Regime = "burst") -> tuple[FusedRow, ...]:
        """The kernels as they are used."""
        return tuple(row for row in self.rows if not row.layout and row.regime == regime)

    def layouts(self) -> tuple[FusedRow, ...]:
        """The layouts of the generic kernels."""
        return tuple(row for row in self.rows if row.layout)


def summary_of(rows: Sequence[FusedRow], *, left_out: bool = False) -> Summary | None:
    """Errors of machine figures alone, or with factors from other configurations; None for fewer than two rows."""
    pairs = [(row.left_out_s if left_out else row.expected_s, row.measured_s) for row in rows]
    known = [(expected, measured) for expected, measured in pairs if expected is not None]
    if len(known) < 2:
        return None
    return Summary.of([expected for expected, _ in known], [measured for _, measured in known])


def run_fused(folder: Path, hardware: str = "h200") -> FusedProtocol:
    """Every recorded time of a fused kernel in a folder of results beside what is expected on the device.

    Raises CalibrationError where there are none, HardwareError where the device lacks a figure, MeasurementFileError for a file that is
    not one of results.
    """
    device = load(hardware)
    found, reasons = _found(folder, device, Figures.of(device))
    if not found:
        others = "; ".join(one.sentence for one in reasons)
        raise CalibrationError(
            f"{folder} has no times of fused kernels on {device.slug}{f' ({others})' if others else ''}; "
            "`perfmodel validate run --what fused` writes them"
        )
    compiled: dict[str, float] = {}
    rows = []
    for row, problem in found:
        if row.compile_s is not None:
            if row.case not in compiled:
                compiled[row.case] = compiled_s(problem, hardware)
            row = row.model_copy(update={"compile_expected_s": compiled[row.case]})  # noqa: PLW2901 - a frozen record, completed
        rows.append(row)
    return FusedProtocol(hardware=device.slug, rows=tuple(_left_out(rows)), skipped=reasons)


def ablated(folder: Path, hardware: str = "h200") -> dict[str, FusedProtocol]:
    """The same without each of FUSED_TERMS; what torch.compile is expected to take is left out."""
    device = load(hardware)
    figures = Figures.of(device)
    return {
        name: FusedProtocol(
            hardware=device.slug,
            rows=tuple(_left_out([row for row, _ in _found(folder, device, term.without(figures))[0]])),
            skipped=(),
        )
        for name, term in FUSED_TERMS.items()
    }


def _found(folder: Path, device: DeviceSpec, figures: Figures) -> tuple[list[tuple[FusedRow, Problem]], tuple[Skipped, ...]]:
    """Every recorded time with its problem, and what was left out."""
    found: list[tuple[FusedRow, Problem]] = []
    skipped: dict[str, list[str]] = {}
    baselines: dict[str, float] = {}
    for name in FAMILIES:
        path = folder / f"{name}.jsonl"
        if path.is_file():
            found += _of_family(name, path, _of_device(read_lines(path), device, skipped), figures, baselines, skipped)
    if (folder / RECORDED).is_file():
        lines = _of_device(read_lines(folder / RECORDED), device, skipped)
        found += _of_layouts(folder / RECORDED, lines, figures, baselines)
    return found, tuple(Skipped(reason=reason, rows=tuple(names)) for reason, names in skipped.items())


def compiled_s(problem: Problem, hardware: str) -> float:
    """What tier expected says of the same block through torch.compile, norms folded, replayed from a graph."""
    graph = without_norms(graph_of(problem))
    network = Network(name=problem.name, graph=graph, batch=problem.N, resolution=problem.H)
    return predict(network, hardware, dtype=problem.dtype, schedule="pointwise", tier="expected", graph=True).latency_s


def without_norms(graph: Graph) -> Graph:
    """Batch norms folded into the convolutions before them, which get a bias: as the blocks are measured in PyTorch."""
    folded = {name: node.inputs[0] for name, node in graph.nodes.items() if isinstance(node.layer, BatchNorm)}
    nodes = {}
    for name, node in graph.nodes.items():
        if name in folded:
            continue
        layer = node.layer
        if isinstance(layer, Conv2d) and any(isinstance(reader.layer, BatchNorm) for reader in graph.consumers[name]):
            layer = replace(layer, bias=True)
        nodes[name] = replace(node, layer=layer, inputs=tuple(folded.get(one, one) for one in node.inputs))
    return Graph(nodes=nodes, blocks=graph.blocks)


def _of_device(lines: Iterable[dict[str, Any]], device: DeviceSpec, skipped: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The lines of measurements on the device, and of its runs; the times of other devices are left out, and said."""
    own: list[dict[str, Any]] = []
    running = None
    known: dict[str, bool] = {}
    for line in lines:
        running = line.get("device", running)  # of layouts only the run says the device
        name = str(running)
        if name not in known:
            known[name] = is_device(name, device)
        if known[name]:
            own.append(line)
        elif line["kind"] == "time" and line.get("what") == "fused" and REFUSED not in line:
            skipped.setdefault(f"measured on {name}", []).append(f"{line['case']} ({line.get('kernel')})")
    return own


def _limits(path: Path, lines: Iterable[dict[str, Any]]) -> DeviceLimits:
    """Of the device, as its run recorded them."""
    given = next((line["limits"] for line in lines if line["kind"] == "run" and "limits" in line), None)
    try:
        return DeviceLimits(**{**given, "compute_capability": tuple(given["compute_capability"])})  # type: ignore[dict-item,index]
    except (TypeError, KeyError, GpuError) as error:
        raise MeasurementFileError(
            f"{path} has no line of kind run with the limits of the device, which `perfmodel validate run --what fused` writes: {error}"
        ) from None


def _of_family(
    name: str,
    path: Path,
    lines: Sequence[dict[str, Any]],
    figures: Figures,
    baselines: dict[str, float],
    skipped: dict[str, list[str]],
) -> list[tuple[FusedRow, Problem]]:
    """Rows of every case that is recorded, in the order of their names; of several lines of a kind the newest run's counts.

    The kernels have changed between runs: what was measured of a case before its newest run says nothing of it.
    """
    family: Family[Any, Any] = FAMILIES[name]
    measured = sorted((line for line in lines if "run" in line and REFUSED not in line), key=lambda line: str(line["run"]))
    times = {(line["case"], line["what"], line["mode"]): line for line in measured if line["kind"] == "time"}
    counts = {line["case"]: line for line in measured if line["kind"] == "count"}
    revisions = {line["run"]: line.get("revision") for line in measured if line["kind"] == "run"}
    problems: dict[str, Problem] = {}
    for case in dict.fromkeys(case for case, what, _ in times if what == "fused"):
        try:
            problems[case] = _problem(case, name)
        except GpuError as error:
            skipped.setdefault(f"no case of {name} now: {error}", []).append(case)
    limits = _limits(path, lines) if problems else None
    found: list[tuple[FusedRow, Problem]] = []
    for case, problem in sorted(problems.items()):
        regimes: tuple[Regime, ...] = ("burst", "sustained")
        for regime in regimes:
            line = times.get((case, "fused", regime))
            if line is None or limits is None:
                continue
            baseline = times.get((case, "compile", regime))
            if baseline and regime == "burst":
                baselines[case] = float(baseline["median_s"])
            measured_kernel = str(line.get("kernel"))
            try:
                config = family.choose(problem, limits)
                kernel = expected_kernel(problem, config, limits, figures)
            except GpuError:
                config = None
            if config is None or config.name != measured_kernel:
                skipped.setdefault(OTHER_CONFIGURATION, []).append(f"{case} ({measured_kernel})")
                continue
            counted = counts.get(case) if regime == "burst" else None
            row = _row(problem, kernel, measured_kernel, regime, float(line["median_s"]), figures)
            row = row.model_copy(
                update={
                    "compile_s": float(baseline["median_s"]) if baseline else None,
                    "dram_bytes": float(counted["dram_bytes"]) if counted else None,
                    "dram_expected_bytes": kernel.traffic.dram_bytes(figures.l2_bytes) if counted else None,
                    "revision": revisions.get(line["run"]),
                }
            )
            found.append((row, problem))
    return found


def _problem(case: str, family: str) -> Problem:
    """The problem of a case; raises GpuError where it is none of the family's."""
    problem = problem_named(case)
    if problem.family != family:
        raise GpuError(f"{case} is one of {problem.family}")
    return problem


def _of_layouts(
    path: Path, lines: Sequence[dict[str, Any]], figures: Figures, baselines: dict[str, float]
) -> list[tuple[FusedRow, Problem]]:
    """Rows of the layouts of the generic kernels, of which every one has its sizes with it."""
    limits = DeviceLimits(
        name=figures.name,
        compute_capability=(9, 0),
        multiprocessors=figures.multiprocessors,
        shared_bytes_per_block=0,
        shared_bytes_per_multiprocessor=0,
        l2_bytes=int(figures.l2_bytes),
    )
    found = []
    for (problem, layout), line in layouts_of(path, lines).items():
        kernel = layout_kernel(problem, layout, limits, figures)
        name = json.dumps(line["layout"])
        row = _row(problem, kernel, name, "burst", float(line["median_s"]), figures)
        found.append((row.model_copy(update={"layout": True, "compile_s": baselines.get(problem.name)}), problem))
    return found


def _row(problem: Problem, kernel: FusedKernel, name: str, regime: Regime, measured_s: float, figures: Figures) -> FusedRow:
    return FusedRow(
        case=problem.name,
        family=problem.family,
        kind=kernel.label,
        kernel=name,
        configuration=f"{problem.family}, {problem.C} channels, {problem.H}×{problem.W}",
        N=problem.N,
        regime=regime,
        layout=False,
        measured_s=measured_s,
        expected_s=fused_time(kernel, figures, regime).latency_s,
        left_out_s=None,
        above_l2=problem.input_bytes + problem.output_bytes > figures.l2_bytes,
    )


def _factor(rows: Sequence[FusedRow]) -> float:
    """Median of measured ÷ expected."""
    return float(np.median([row.measured_s / row.expected_s for row in rows]))


def _left_out(rows: Sequence[FusedRow]) -> list[FusedRow]:
    """Each row with the factor of its class and regime that the class's other configurations give."""
    found = []
    for row in rows:
        others = [
            other
            for other in rows
            if other.kind == row.kind and other.regime == row.regime and other.configuration != row.configuration
        ]
        known = len({other.configuration for other in others}) >= LEAST_CONFIGURATIONS - 1 and len(others) > 1
        found.append(row.model_copy(update={"left_out_s": row.expected_s * _factor(others) if known else None}))
    return found


def calibrated_fused(protocol: FusedProtocol, *, description: str, source: str, date: str, revision: str) -> FusedCalibration:
    """One factor for each class of kernels, and the interval of what is left over; bursts.

    Raises CalibrationError where no class has two configurations.
    """
    rows = [row for row in protocol.rows if row.regime == "burst"]
    usable = [row for row in rows if row.left_out_s is not None]
    if not usable:
        raise CalibrationError("no class of fused kernels was measured in two configurations; one cannot be left out")
    expected: Floats = np.array([row.left_out_s for row in usable], dtype=np.float64)
    measured: Floats = np.array([row.measured_s for row in usable], dtype=np.float64)
    groups = np.array([row.configuration for row in usable])
    low, high = (float(value) for value in np.quantile(measured / expected, QUANTILES))
    inside = 0
    for group in np.unique(groups):
        ends = np.quantile((measured / expected)[groups != group], QUANTILES)
        ratio = (measured / expected)[groups == group]
        inside += int(np.sum((ratio >= ends[0]) & (ratio <= ends[1])))
    kinds = sorted({row.kind for row in rows})
    factors = tuple(
        ClassFactor(
            kind=kind,
            factor=_factor([row for row in rows if row.kind == kind]),
            rows=sum(row.kind == kind for row in rows),
            configurations=len({row.configuration for row in rows if row.kind == kind}),
        )
        for kind in kinds
    )
    by_kind = {one.kind: one.factor for one in factors}
    in_sample = np.mean([abs(row.expected_s * by_kind[row.kind] / row.measured_s - 1) for row in rows])
    return FusedCalibration(
        stack="block",
        description=description,
        provenance=FitProvenance(
            files=tuple(
                sorted({f"{row.family}.jsonl" for row in rows if not row.layout} | {RECORDED for row in rows if row.layout})
            ),
            source=source,
            devices=(protocol.hardware,),
            rows=len(rows),
            networks=len({row.configuration for row in rows}),
            date=date,
            revision=revision,
            mape_in_sample=float(in_sample),
            mape_families_left_out=float(np.mean(abs(expected / measured - 1))),
        ),
        factors=factors,
        intervals=Intervals(low=low, high=high, coverage=inside / len(usable), rows=len(usable)),
    )
