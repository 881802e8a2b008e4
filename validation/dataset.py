"""A file of measured networks as the calibration takes it: kernels of every network that can be built, and what was left out, with why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from perfmodel.errors import PerfmodelError, shown
from perfmodel.expected.calibration import Measurements
from perfmodel.expected.features import Features, Floats, Integers
from perfmodel.expected.machine import Machine
from perfmodel.expected.paths import diagnosis_of
from perfmodel.hardware.catalog import load, named_in, names
from perfmodel.hardware.spec import DeviceSpec, HardwareError
from perfmodel.kernel import Kernel
from perfmodel.network import Network
from perfmodel.precision import Precision
from perfmodel.schedule import LAYOUTS, kernels
from perfmodel.validation.comparison import Skipped, matching
from perfmodel.validation.timm import TimmRow, read, repetitions
from perfmodel.waterline import Limits, waterline_s

COMPILED_WORDS = ("dynamo", "compile", "inductor")
"""In a file's name: measured with torch.compile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """One row with what is predicted from."""

    row: TimmRow
    family: str
    features: Features
    macs: int
    activations: int
    dram_bytes: int
    waterline_s: float
    bound_s: float | None
    """None where the device's file lacks what the bound needs."""
    roofline_s: float
    diagnoses: tuple[str | None, ...]
    """One per kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A file, the conditions it was measured under, and its rows."""

    file: str
    hardware: str
    schedule: str
    autocast: str
    layout: str
    rows: tuple[MeasuredNetwork, ...]
    skipped: tuple[Skipped, ...]

    @property
    def measurements(self) -> Measurements:
        """As the calibration takes them."""
        device = load(self.hardware)
        machine = Machine.of(device, device.matrix_peak(self.autocast))
        return Measurements(
            machine=machine,
            features=tuple(row.features for row in self.rows),
            latency_s=self.latency_s,
            compiled=self.schedule == "pointwise",
        )

    @property
    def latency_s(self) -> Floats:
        """Measured, the whole batch."""
        return np.array([row.row.latency_s for row in self.rows])

    @property
    def batches(self) -> Integers:
        """Images per batch."""
        return np.array([row.row.batch for row in self.rows])

    @property
    def families(self) -> list[str]:
        """Of each row."""
        return [row.family for row in self.rows]

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.hardware}, {'torch.compile' if self.schedule == 'pointwise' else 'eager'}, {self.layout}"


def layout_of(path: Path, given: str | None) -> str:
    """The layout that was given, or that the file's name says; raises PerfmodelError where neither does."""
    if given is not None:
        if given.lower() not in LAYOUTS:
            raise PerfmodelError(f"the layout must be {' or '.join(LAYOUTS)}, not {given!r}")
        return given.lower()
    words = [layout for layout in LAYOUTS if layout in path.name.lower()]
    if len(words) != 1:
        raise PerfmodelError(f"the name of {path.name} does not say in which layout it was measured; give --layout nhwc or nchw")
    return words[0]


def schedule_of(path: Path, given: str | None) -> str:
    """The schedule that was given, or that the file's name says: pointwise for torch.compile, else eager."""
    if given is not None:
        return given
    return "pointwise" if any(word in path.name.lower() for word in COMPILED_WORDS) else "eager"


def named_otherwise(path: Path, device: DeviceSpec) -> str | None:
    """A sentence where the file's name has another GPU than the one it is compared with; None where it has that or none.

    A short name, `a100`, is that of each GPU whose own name begins with it, but `a10` is not; of a GPU that the catalogue lacks nothing is
    said.
    """
    own, first = device.slug.replace("-", ""), device.slug.partition("-")[0]
    named = named_in(path.name)
    if device.slug not in names() or not named:
        return None
    if any(slug == device.slug or (own.startswith(name) and name.startswith(first)) for name, slug in named.items()):
        return None
    others = " and ".join(dict.fromkeys(named.values()))
    return f"{shown(path.name)} names {others}, and is compared with {device.slug}; is that the GPU it was measured on?"


def gather(
    path: Path,
    hardware: str,
    *,
    schedule: str | None = None,
    layout: str | None = None,
    autocast: str = "fp16",
    least_batch: int = 1,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Read a file and build every network in it that can be built; what cannot is listed with its reason.

    `cache` is a folder where the kernels' numbers are kept between runs, by everything that decides them but the code.
    """
    device = load(hardware)
    rows = read(path)
    schedule, layout = schedule_of(path, schedule), layout_of(path, layout)
    precision = Precision.of(None, autocast)
    peak = device.matrix_peak(precision.matrix)
    waterline = Limits.waterline(device, peak)
    try:
        bound = Limits.bound(device, peak)
    except HardwareError:
        bound = None
    kept: list[MeasuredNetwork] = []
    skipped: dict[str, list[str]] = {}
    again = repetitions(rows)
    for number, row in enumerate(rows):
        if number % 100 == 99:
            say(f"{path.name}: {number + 1} of {len(rows)} rows")
        where = f"{row.model}:{row.line}"
        if row.line in again:
            skipped.setdefault(again[row.line], []).append(where)
            continue
        if row.batch < least_batch:
            skipped.setdefault(f"batch below {least_batch}", []).append(where)
            continue
        found = _cached(cache, row, precision, schedule, layout, lambda row=row: _built(row, precision, schedule, layout))  # type: ignore[misc]
        if isinstance(found, str):
            skipped.setdefault(found, []).append(where)
            continue
        family, features, macs, activations, diagnoses = found
        ops_bytes = list(zip(features.ops, features.dram_bytes, strict=True))
        kept.append(
            MeasuredNetwork(
                row=row,
                family=family,
                features=features,
                macs=macs,
                activations=activations,
                dram_bytes=int(features.dram_bytes.sum()),
                waterline_s=float(waterline_s(waterline, ops_bytes)),
                bound_s=None if bound is None else float(waterline_s(bound, ops_bytes)),
                roofline_s=float(waterline.latency_s(features.ops.sum(), features.dram_bytes.sum())),
                diagnoses=diagnoses,
            )
        )
    reasons = tuple(Skipped(reason=reason, rows=tuple(names)) for reason, names in skipped.items())
    return Dataset(
        file=path.name,
        hardware=device.slug,
        schedule=schedule,
        autocast=autocast,
        layout=layout,
        rows=tuple(kept),
        skipped=reasons,
    )


Built = tuple[str, Features, int, int, tuple[str | None, ...]]


def _built(row: TimmRow, precision: Precision, schedule: str, layout: str) -> Built | str:
    match = matching(row)
    if isinstance(match, str):
        return match
    family, network = match
    try:
        work = _kernels(network, precision, schedule, layout)
    except PerfmodelError as error:
        return f"cannot be lowered: {error}"
    return (
        family,
        Features.of(work),
        int(network.macs),
        int(network.graph.activations),
        tuple(diagnosis_of(kernel) for kernel in work),
    )


def _kernels(network: Network, precision: Precision, schedule: str, layout: str) -> tuple[Kernel, ...]:
    return kernels(network.graph, precision, schedule, layout=layout)


def _cached(
    folder: Path | None, row: TimmRow, precision: Precision, schedule: str, layout: str, make: Callable[[], Built | str]
) -> Built | str:
    if folder is None:
        return make()
    key = f"{row.model}|{row.resolution}|{row.batch}|{row.params_millions}|{precision}|{schedule}|{layout}"
    kept = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as stored:
            said = json.loads(str(stored["said"]))
            if "reason" in said:
                return str(said["reason"])
            if all(field.name in stored for field in fields(Features)):  # else of an earlier version, which had fewer
                columns = {field.name: stored[field.name] for field in fields(Features)}
                return said["family"], Features(**columns), said["macs"], said["activations"], tuple(said["diagnoses"])
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(made, str):
        np.savez(kept, said=json.dumps({"reason": made}))
    else:
        family, features, macs, activations, diagnoses = made
        said = {"family": family, "macs": macs, "activations": activations, "diagnoses": diagnoses}
        np.savez(kept, said=json.dumps(said), **{field.name: getattr(features, field.name) for field in fields(Features)})
    return made
