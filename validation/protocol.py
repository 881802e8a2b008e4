"""The honest protocol: how right tier `expected` is on what its constants have not seen, beside simpler predictors."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from perfmodel.expected.calibration import PRIORS, QUANTILES, coverage, expected_s, fit, folds, left_out, quantiles
from perfmodel.expected.constants import Calibration, Constants, FitProvenance, Intervals
from perfmodel.expected.features import Features, Floats, Integers
from perfmodel.expected.paths import Path
from perfmodel.expected.terms import ALL, TERMS, kernel_seconds
from perfmodel.units import percent
from perfmodel.validation.comparison import Skipped
from perfmodel.validation.dataset import Dataset
from perfmodel.validation.revision import git_revision
from perfmodel.validation.statistics import Summary

SCHEMA_VERSION = 1
WORST = 10
NAMED_SHARE = 0.1
"""Of a network's time, from which on a slow path is named as its diagnosis."""
DOMINANT_SHARE = 0.4
"""Of a network's time, from which on a class of kernels dominates it."""
TRAINED_AT = 224
"""Image size that the test on other sizes is fitted at."""

EXPECTED = "expected, families left out"
BELOW_BOUND = "below the bound: the kernels listed do more than what ran did; another type, other work, or a wrong measurement"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProtocolRow(_Record):
    """One measured network; `expected_latency_s` by constants fitted without its family."""

    model: str
    family: str
    resolution: int
    batch: int
    macs: int
    dram_bytes: int
    measured_latency_s: float
    expected_latency_s: float
    latency_low_s: float
    latency_high_s: float
    waterline_latency_s: float
    bound_latency_s: float | None
    diagnosis: str | None

    @property
    def error(self) -> float:
        """expected / measured − 1."""
        return self.expected_latency_s / self.measured_latency_s - 1


class ClassSummary(_Record):
    """A class of kernels over all networks of a file."""

    share: float
    """Of the predicted time."""
    dominated: Summary | None
    """Errors of the networks that it dominates; None for fewer than 3."""


class FileProtocol(_Record):
    """What the protocol finds on one file."""

    file: str
    hardware: str
    schedule: str
    layout: str
    autocast: str
    n: int
    networks: int
    families: int
    skipped: tuple[Skipped, ...]
    predictors: dict[str, Summary]
    """By what was predicted with and left out, in the order of the table."""
    by_family: dict[str, Summary]
    by_class: dict[str, ClassSummary]
    ablation: dict[str, float]
    """MAPE, families left out, refitted without each term."""
    constants: Constants
    """Fitted on all rows of the file."""
    coverage: float
    """Of intervals whose quantiles come from other folds."""
    nominal_coverage: float = QUANTILES[1] - QUANTILES[0]
    below_bound: tuple[str, ...]
    rows: tuple[ProtocolRow, ...]

    @property
    def worst(self) -> tuple[ProtocolRow, ...]:
        """The rows that are furthest off."""
        return tuple(sorted(self.rows, key=lambda row: -abs(row.error)))[:WORST]


class Transfer(_Record):
    """Constants of one file on another of the same schedule, through the specifications of the two devices."""

    fitted_on: str
    tested_on: str
    summary: Summary


class Protocol(_Record):
    """A whole run of the protocol."""

    schema_version: int = SCHEMA_VERSION
    date: str
    revision: str
    source: str
    files: tuple[FileProtocol, ...]
    transfers: tuple[Transfer, ...]


def run(
    datasets: Sequence[Dataset],
    *,
    source: str,
    revision: str | None = None,
    ablate: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Protocol:
    """Every test on every file. Raises CalibrationError where a file has too few rows."""
    files = []
    for dataset in datasets:
        say(f"{dataset.file}: {len(dataset.rows)} rows")
        files.append(_file(dataset, ablate=ablate, say=say))
    transfers = []
    for one in datasets:
        for other in datasets:
            if one is other or one.schedule != other.schedule or one.hardware == other.hardware:
                continue
            predicted = expected_s(other.measurements, fit(one.measurements.compressed()))
            summary = Summary.of(predicted, other.latency_s, other.batches)
            transfers.append(Transfer(fitted_on=one.label, tested_on=other.label, summary=summary))
    return Protocol(
        date=today(), revision=revision or git_revision(), source=source, files=tuple(files), transfers=tuple(transfers)
    )


def _file(dataset: Dataset, *, ablate: bool, say: Callable[[str], None]) -> FileProtocol:
    given, measured, batches = dataset.measurements.compressed(), dataset.latency_s, dataset.batches
    groups = folds(dataset.families)
    predicted = left_out(given, groups)
    constants = fit(given)
    predictors = {
        EXPECTED: Summary.of(predicted, measured, batches),
        "expected, in-sample": Summary.of(expected_s(given, constants), measured, batches),
    }
    sizes = np.array([row.row.resolution for row in dataset.rows])
    at, other = np.flatnonzero(sizes == TRAINED_AT), np.flatnonzero(sizes != TRAINED_AT)
    if len(at) >= 40 and len(other) >= 3:
        found = expected_s(given.at(other), fit(given.at(at)))
        predictors[f"expected, fitted at {TRAINED_AT}, tested at other sizes"] = Summary.of(
            found, measured[other], batches[other]
        )
    priors = Constants.model_validate({name: prior.value for name, prior in PRIORS.items()})
    unfitted = expected_s(given, priors)
    waterline = np.array([row.waterline_s for row in dataset.rows])
    predictors |= {
        "nothing fitted: priors": Summary.of(unfitted, measured, batches),
        "nothing fitted: waterline": Summary.of(waterline, measured, batches),
    }
    for name, values in (
        ("one common factor × priors, families left out", unfitted),
        ("one common factor × waterline, families left out", waterline),
        (
            "one common factor × roofline of the whole network, families left out",
            np.array([row.roofline_s for row in dataset.rows]),
        ),
        ("MACs alone, families left out", np.array([float(row.macs) for row in dataset.rows])),
        ("activations alone, families left out", np.array([float(row.activations) for row in dataset.rows])),
    ):
        predictors[name] = Summary.of(_factored(values, measured, groups), measured, batches)
    predictors["a·MACs + b·activations, families left out"] = Summary.of(
        _two_constants(dataset, measured, groups), measured, batches
    )

    ablation = {}
    if ablate:
        for term in TERMS:
            ablation[term] = Summary.of(left_out(given, groups, ALL - {term}), measured).mape
            say(f"  without {term}: {percent(ablation[term])}")
    low, high = quantiles(predicted, measured)
    rows = tuple(
        ProtocolRow(
            model=row.row.model,
            family=row.family,
            resolution=row.row.resolution,
            batch=row.row.batch,
            macs=row.macs,
            dram_bytes=row.dram_bytes,
            measured_latency_s=row.row.latency_s,
            expected_latency_s=float(expected),
            latency_low_s=float(expected) * low,
            latency_high_s=float(expected) * high,
            waterline_latency_s=row.waterline_s,
            bound_latency_s=row.bound_s,
            diagnosis=BELOW_BOUND if row.bound_s is not None and row.row.latency_s < row.bound_s else diagnosis,
        )
        for row, expected, diagnosis in zip(dataset.rows, predicted, _diagnoses(dataset, constants), strict=True)
    )
    return FileProtocol(
        file=dataset.file,
        hardware=dataset.hardware,
        schedule=dataset.schedule,
        layout=dataset.layout,
        autocast=dataset.autocast,
        n=len(rows),
        networks=len({row.model for row in rows}),
        families=len(set(dataset.families)),
        skipped=dataset.skipped,
        predictors=predictors,
        by_family=_by_family(dataset.families, predicted, measured, batches),
        by_class=_by_class(dataset, constants, predicted, measured),
        ablation=ablation,
        constants=constants,
        coverage=coverage(predicted, measured, groups),
        below_bound=tuple(f"{row.model}@{row.resolution}" for row in rows if row.diagnosis == BELOW_BOUND),
        rows=rows,
    )


def _factored(values: Floats, measured: Floats, groups: Integers) -> Floats:
    """Each value times the median ratio of measured to value in the other groups."""
    predicted = np.empty_like(measured)
    for group in np.unique(groups):
        inside, outside = groups == group, groups != group
        predicted[inside] = values[inside] * np.median(measured[outside] / values[outside])
    return predicted


def _two_constants(dataset: Dataset, measured: Floats, groups: Integers) -> Floats:
    """a·MACs + b·activations, least squares of relative errors, a and b from the other groups and not negative."""
    from scipy.optimize import nnls

    columns = np.array([[row.macs, row.activations] for row in dataset.rows], dtype=np.float64)
    relative = columns / measured[:, None]
    predicted = np.empty_like(measured)
    for group in np.unique(groups):
        inside, outside = groups == group, groups != group
        scale = relative[outside].mean(axis=0)
        found, _ = nnls(relative[outside] / scale, np.ones(int(outside.sum())))
        predicted[inside] = columns[inside] @ (found / scale)
    return predicted


def _by_family(families: Sequence[str], predicted: Floats, measured: Floats, batches: Integers) -> dict[str, Summary]:
    named = np.array(families)
    return {
        family: Summary.of(predicted[named == family], measured[named == family], batches[named == family])
        for family in sorted(set(families))
    }


def _by_class(dataset: Dataset, constants: Constants, predicted: Floats, measured: Floats) -> dict[str, ClassSummary]:
    joined = Features.joined([row.features for row in dataset.rows])
    seconds = kernel_seconds(joined, dataset.measurements.machine, constants).latency_s
    totals = joined.total(seconds)
    found = {}
    for path in Path:
        spent = joined.total(np.where(joined.path == path, seconds, 0.0))
        if not spent.any():
            continue
        over = spent >= DOMINANT_SHARE * totals
        dominated = Summary.of(predicted[over], measured[over]) if over.sum() >= 3 else None
        found[path.name.lower()] = ClassSummary(share=float(spent.sum() / totals.sum()), dominated=dominated)
    return found


def _diagnoses(dataset: Dataset, constants: Constants) -> list[str | None]:
    machine = dataset.measurements.machine
    found: list[str | None] = []
    for row in dataset.rows:
        times = kernel_seconds(row.features, machine, constants)
        total = float(times.latency_s.sum())
        spent: dict[str, float] = {}
        for said, seconds in zip(row.diagnoses, times.latency_s, strict=True):
            if said:
                spent[said] = spent.get(said, 0.0) + float(seconds)
        launches = float(times.latency_s[times.gap_s > times.kernel_s].sum())
        if launches >= NAMED_SHARE * total:
            spent["kernels shorter than the gap between them: the batch is small for this network"] = launches
        named = [
            f"{percent(s / total)}: {said}"
            for said, s in sorted(spent.items(), key=lambda item: -item[1])
            if s >= NAMED_SHARE * total
        ]
        found.append("; ".join(named) or None)
    return found


def calibrated(datasets: Sequence[Dataset], *, description: str, source: str, revision: str | None = None) -> Calibration:
    """The constants of a stack from all of its files together, with intervals from rows whose families were left out.

    Raises CalibrationError for too few rows, ValueError for files of different schedules.
    """
    (schedule,) = {dataset.schedule for dataset in datasets}
    sets = [dataset.measurements.compressed() for dataset in datasets]
    constants = fit(sets)
    predicted, measured, groups = [], [], []
    for dataset, given in zip(datasets, sets, strict=True):
        group = folds(dataset.families)
        predicted.append(left_out(given, group))
        measured.append(dataset.latency_s)
        groups.append(group)
    p, m, g = np.concatenate(predicted), np.concatenate(measured), np.concatenate(groups)
    low, high = quantiles(p, m)
    in_sample = np.concatenate([expected_s(given, constants) for given in sets])
    return Calibration(
        stack=schedule,
        description=description,
        provenance=FitProvenance(
            files=tuple(dataset.file for dataset in datasets),
            source=source,
            devices=tuple(dict.fromkeys(dataset.hardware for dataset in datasets)),
            rows=len(m),
            networks=len({row.row.model for dataset in datasets for row in dataset.rows}),
            date=today(),
            revision=revision or git_revision(),
            mape_in_sample=float(np.mean(abs(in_sample / m - 1))),
            mape_families_left_out=float(np.mean(abs(p / m - 1))),
        ),
        constants=constants,
        intervals=Intervals(low=low, high=high, coverage=coverage(p, m, g), rows=len(m)),
    )


def as_toml(calibration: Calibration) -> str:
    """A calibration as the file that `perfmodel.expected.constants` reads."""
    import json

    def value(given: object) -> str:
        if isinstance(given, float):
            return f"{given:.6g}"
        return json.dumps(given, ensure_ascii=False)

    dumped = calibration.model_dump(mode="json")
    lines = [
        "# Constants of a software stack, fitted by `perfmodel validate calibrate`. Not to be edited: fit them again.",
        *(f"{key} = {value(dumped[key])}" for key in ("stack", "description")),
    ]
    for table in ("provenance", "constants", "intervals"):
        lines += ["", f"[{table}]", *(f"{key} = {value(given)}" for key, given in dumped[table].items())]
    return "\n".join(lines) + "\n"


def today() -> str:
    """The date, as records carry it."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
