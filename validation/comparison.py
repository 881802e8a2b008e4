"""Predictions joined with measurements: the rows, what they say together, and why a measurement lies below a limit."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from perfmodel.errors import PerfmodelError, UnknownNameError, shown
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.importers.rebatch import TRACED_BATCH, rebatched
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Dim
from perfmodel.network import Network
from perfmodel.networks.catalog import build, find
from perfmodel.prediction import Prediction, predict
from perfmodel.units import percent
from perfmodel.validation.files import MeasurementFileError, read_model
from perfmodel.validation.statistics import Summary, rank_correlation
from perfmodel.validation.timm import TimmRow, repetitions
from perfmodel.waterline import Limits, kernel_times


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


MOST_NAMED: Final = 3


class Skipped(_Record):
    """Measurements that were not compared, and why."""

    reason: str
    rows: tuple[str, ...]
    """The rows' models, each with its line in the file: "densenet121:417"."""

    @property
    def sentence(self) -> str:
        """For people: how many, and the first few."""
        few = ", ".join(shown(row) for row in self.rows[:MOST_NAMED])
        return f"left out, {shown(self.reason, 300)}: {len(self.rows)} ({few}{', …' if len(self.rows) > MOST_NAMED else ''})"


class ComparedRow(_Record):
    """One measurement beside the model's figures for it; latencies are for the whole batch."""

    model: str
    network: str
    family: str
    resolution: int
    batch: int
    macs: int
    dram_bytes: int
    measured_latency_s: float
    predicted_latency_s: float
    """Under the tier of the comparison."""
    latency_low_s: float | None
    latency_high_s: float | None
    """The interval, under tier expected."""
    waterline_latency_s: float
    bound_latency_s: float | None
    """None where the device's file lacks what the bound needs."""
    ideal_latency_s: float
    efficiency: float
    """Computational efficiency measured: ideal latency / measured latency."""
    below_bound: bool | None
    """None where the bound is not known."""
    below_waterline: str | None
    """Why the measurement lies below the waterline, if it does."""
    diagnosis: str | None
    """What is known to be slow in the network, and its share of the time, under tier expected."""

    @property
    def error(self) -> float:
        """predicted / measured − 1."""
        return self.predicted_latency_s / self.measured_latency_s - 1

    @classmethod
    def of(cls, row: TimmRow, family: str, prediction: Prediction) -> Self:
        """A measurement and a prediction of the same network."""
        measured, bound = row.latency_s, prediction.bound_latency_s
        return cls(
            model=row.model,
            network=prediction.network.name,
            family=family,
            predicted_latency_s=prediction.latency_s,
            latency_low_s=prediction.latency_low_s,
            latency_high_s=prediction.latency_high_s,
            diagnosis=diagnosed(prediction),
            resolution=row.resolution,
            batch=row.batch,
            macs=prediction.cost.macs,
            dram_bytes=prediction.cost.dram_bytes,
            measured_latency_s=measured,
            waterline_latency_s=prediction.waterline_latency_s,
            bound_latency_s=bound,
            ideal_latency_s=prediction.ideal_latency_s,
            efficiency=prediction.ideal_latency_s / measured,
            below_bound=None if bound is None else measured < bound,
            below_waterline=explain(prediction, measured) if measured < prediction.waterline_latency_s else None,
        )


class Provenance(_Record):
    """Where measurements come from and under which settings they were predicted."""

    file: str
    source: str
    hardware: str
    schedule: str
    autocast: str
    layout: str
    tier: str = "waterline"
    unmeasured: bool = False
    """Whether what was measured on the device was left out: predicted from its documents and carried rates alone."""


class Comparison(_Record):
    """All rows of a file, and what they say together. Errors are fractions of the measurement, of the tier's prediction."""

    schema_version: int = 1
    provenance: Provenance
    n: int
    mape: float
    median_ape: float
    p90_ape: float
    max_ape: float
    bias: float
    spearman: float | None
    """Rank correlation, over the rows' latency per image, of the prediction with the measurement; None where there is no order."""
    spearman_macs: float | None
    """The same for MACs alone."""
    below_waterline: int
    below_bound: int | None
    """None where the bound is not known."""
    skipped: tuple[Skipped, ...]
    rows: tuple[ComparedRow, ...]


def read_comparison(path: Path) -> Comparison:
    """What `perfmodel validate timm --format json` wrote. Raises MeasurementFileError for anything else."""
    return read_model(path, Comparison, "is no comparison, which `perfmodel validate timm --format json` writes")


def explain(prediction: Prediction, measured_s: float) -> str:
    """Which of the waterline's two strict assumptions the measurement breaks: the datasheet's clock, or every byte from DRAM."""
    device, peak = prediction.device, prediction.peak
    if prediction.bound_latency_s is None:
        return "what grants it is not known: the device's file lacks figures that the bound needs"
    strict, loose = Limits.waterline(device, peak), Limits.bound(device, peak)

    def latency_s(*, clock: bool, cache: bool) -> float:
        limits = Limits(
            peak_ops_per_s=(loose if clock else strict).peak_ops_per_s,
            bandwidth_bytes_per_s=(loose if cache else strict).bandwidth_bytes_per_s,
            cached_bytes=(loose if cache else strict).cached_bytes,
        )
        return sum(time.latency_s for time in kernel_times(prediction.kernels, limits))

    by_clock = measured_s >= latency_s(clock=True, cache=False)
    by_cache = measured_s >= latency_s(clock=False, cache=True)
    if by_clock and by_cache:
        return "clock above the datasheet's or tensors that stay in L2: either would do"
    if by_clock:
        return "clock above the datasheet's"
    if by_cache:
        return "tensors that stay in L2"
    if measured_s >= latency_s(clock=True, cache=True):
        return "clock above the datasheet's and tensors that stay in L2"
    return "below the bound: another type, other work, or a wrong measurement"


def compare(
    rows: Sequence[TimmRow],
    device: DeviceSpec,
    provenance: Provenance,
) -> Comparison:
    """Predict every row whose network the catalogue has; the others are listed with the reason, never dropped.

    Raises MeasurementFileError where fewer than 2 rows are left.
    """
    compared: list[ComparedRow] = []
    skipped: dict[str, list[str]] = {}
    again = repetitions(rows)
    for row in rows:
        match = again.get(row.line) or matching(row)
        if isinstance(match, str):
            skipped.setdefault(match, []).append(f"{row.model}:{row.line}")
            continue
        family, network = match
        prediction = predict(
            network,
            device,
            autocast=provenance.autocast,
            layout=provenance.layout,
            schedule=provenance.schedule,
            tier=provenance.tier,
        )
        compared.append(ComparedRow.of(row, family, prediction))
    reasons = tuple(Skipped(reason=reason, rows=tuple(names)) for reason, names in skipped.items())
    return _summarised(compared, reasons, provenance)


def diagnosed(prediction: Prediction, least: float = 0.1) -> str | None:
    """The named causes of slow kernels that take `least` of the time or more, longest first."""
    spent: dict[str, float] = {}
    for time in prediction.times:
        if time.diagnosis:
            spent[time.diagnosis] = spent.get(time.diagnosis, 0.0) + time.latency_s
    named = [
        f"{percent(seconds / prediction.latency_s)} of the time: {diagnosis}"
        for diagnosis, seconds in sorted(spent.items(), key=lambda item: -item[1])
        if seconds >= least * prediction.latency_s
    ]
    launches = prediction.share_bound_by("launch")
    if launches >= least:
        named.append(f"{percent(launches)} of the time: kernels shorter than their launch")
    return "; ".join(named) or None


def matching(row: TimmRow) -> tuple[str, Network] | str:
    """The family and network of a row, or why there is none.

    The catalogue's where it has the network with as many parameters; else timm's own, imported, where PyTorch and timm are installed.
    """
    try:
        entry = None if row.model.startswith("tf_") else find(row.model)  # TensorFlow's padding is another network
    except UnknownNameError:
        entry = None
    if entry is not None:
        try:
            network = build(entry.name, batch=row.batch, resolution=row.resolution)
        except PerfmodelError as error:
            return f"cannot be built: {error}"
        if _same_params(network.params, row.params_millions):
            return family_of(row.model, entry.family), network
    return imported(row, in_catalogue=entry is not None)


LEAST_CONVOLUTIONS: Final = 4
"""Of a convolutional network: a transformer has one or two, for its patches."""


def imported(row: TimmRow, *, in_catalogue: bool) -> tuple[str, Network] | str:
    """The network of a row as timm builds it, or why it is left out."""
    missing = "another variant than the catalogue's" if in_catalogue else "not in the catalogue"
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("timm") is None:
        return f"{missing}, and PyTorch and timm are not installed: pip install 'perfmodel[torch]'"
    try:
        network = traced(row.model, row.resolution)
    except UnknownNameError:
        return "this version of timm does not have it"
    except PerfmodelError as error:
        return f"cannot be imported: {str(error).split(': ')[-1][:100]}"
    layers = [node.layer for node in network.graph.nodes.values()]
    if any(layer.kind in ("attention", "matmul") for layer in layers) or (
        sum(isinstance(layer, Conv2d) for layer in layers) < LEAST_CONVOLUTIONS
    ):
        return "not a convolutional network"
    if network.unsupported:
        return f"has operations that are not understood: {', '.join(sorted({node.layer.describe() for node in network.unsupported}))[:100]}"
    if not _same_params(network.params, row.params_millions):
        return "another variant: its parameters are not those of the file"
    return family_of(row.model, row.model.split(".", maxsplit=1)[0]), rebatched(network, row.batch)


@lru_cache(maxsize=8)
def traced(model: str, resolution: int) -> Network:
    """timm's network at TRACED_BATCH; the last few are kept, since files list a network at several batch sizes."""
    from perfmodel.importers.model import TIMM
    from perfmodel.importers.model import network as import_network

    return import_network(f"{TIMM}{model}", batch=TRACED_BATCH, resolution=resolution)


def family_of(model: str, otherwise: str) -> str:
    """The file of timm that defines the network (`resnet` has ResNeXt and SE-ResNet, too), where timm is installed; else `otherwise`."""
    timm = sys.modules.get("timm")
    if timm is None:
        if importlib.util.find_spec("timm") is None or importlib.util.find_spec("torch") is None:
            return otherwise
        timm = importlib.import_module("timm")
    try:
        return str(timm.model_entrypoint(model.split(".", maxsplit=1)[0]).__module__).rpartition(".")[2]
    except (RuntimeError, KeyError):
        return otherwise


def _same_params(params: Dim, printed_millions: float) -> bool:
    return bool(abs(params / 1e6 - printed_millions) <= 0.0051)  # the file prints two decimals


def _summarised(rows: Sequence[ComparedRow], skipped: tuple[Skipped, ...], provenance: Provenance) -> Comparison:
    if len(rows) < 2:
        others = "".join(f"; {one.sentence}" for one in skipped)
        raise MeasurementFileError(
            f"{shown(provenance.file)} has {'one row' if rows else 'no row'} that can be predicted, and a comparison needs two{others}"
        )
    batches = [row.batch for row in rows]
    measured = [row.measured_latency_s for row in rows]
    summary = Summary.of([row.predicted_latency_s for row in rows], measured, batches)
    return Comparison(
        provenance=provenance,
        **summary.model_dump(exclude={"within_10"}),
        spearman_macs=rank_correlation(np.divide([row.macs for row in rows], batches), np.divide(measured, batches)),
        below_waterline=sum(row.below_waterline is not None for row in rows),
        below_bound=None if any(row.below_bound is None for row in rows) else sum(bool(row.below_bound) for row in rows),
        skipped=skipped,
        rows=tuple(rows),
    )
