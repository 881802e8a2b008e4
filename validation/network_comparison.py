"""Networks that `perfmodel validate run` measured, beside tier expected with constants that were fitted elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from perfmodel.errors import PerfmodelError, UnknownNameError, shown
from perfmodel.hardware.catalog import load, names
from perfmodel.hardware.spec import DeviceSpec, Measured
from perfmodel.importers.model import TIMM
from perfmodel.importers.program import MissingExtraError
from perfmodel.networks.catalog import find
from perfmodel.prediction import predict
from perfmodel.report.table import Column, Table
from perfmodel.units import percent, si, signed_percent
from perfmodel.validation.comparison import Skipped, diagnosed
from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.machine_file import is_device
from perfmodel.validation.network_run import IN_STREAM, STEPS_BETWEEN, read_results
from perfmodel.validation.statistics import Errors, Summary

SCHEDULE_OF = {"eager": "eager", "graph": "eager", "compile": "pointwise", "compile-graph": "pointwise"}
MOST_SAID = 160
"""Characters of an error, as a reason that a line is left out."""


class NetworkRow(BaseModel):
    """One measured case and its prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    batch: int
    resolution: int
    precision: str
    run: str
    host_seen: bool
    """Whether the host was looked at beside the case; where it was not, it is predicted at the speed that the device's file has."""
    host_disturbed: bool
    """Whether it was looked at before every step, as it was at first: each step then found the host's caches full of the look's."""
    stack_seen: bool
    """Whether steps had room on Python's stack (`python_stack`), as they have since page faults are counted beside them."""
    looked_twice: bool
    """Whether a moment's look had a second pass, by which compiled code is read."""
    measured_latency_s: float
    predicted_latency_s: float
    latency_low_s: float | None
    latency_high_s: float | None
    bound_latency_s: float | None
    below_bound: bool
    diagnosis: str | None

    @property
    def error(self) -> float:
        """predicted / measured − 1."""
        return self.predicted_latency_s / self.measured_latency_s - 1

    @property
    def reservation(self) -> str:
        """What a case in a stream, which waits for its host, lacks of how cases are measured now; empty where it lacks nothing."""
        if self.run not in IN_STREAM:
            return ""
        if not self.host_seen:
            return "host unseen"
        if self.host_disturbed:
            return "looked at in each step"
        if not self.stack_seen:
            return "stack unseen"
        return "" if self.looked_twice or self.run == "eager" else "looks of one pass"


class NetworkComparison(Errors):
    """All of them, and summaries by how they ran."""

    schema_version: int = 1
    file: str
    hardware: str
    by_run: dict[str, Summary]
    skipped: tuple[Skipped, ...]
    rows: tuple[NetworkRow, ...]


def with_host(device: DeviceSpec, line: Mapping[str, Any]) -> DeviceSpec:
    """The device with the host that was looked at beside a case; where none was, the device as its file has it.

    Before and after the case every kind of call was looked at, between its steps the chain of blocks alone: a kind's seconds are those of
    a block, in the median of the steps, times what the kind took of a block in the two looks. A moment's block is one pass of its chain
    after a step of the network, which finds the host's caches as an eager network does, that calls much code. Compiled code calls little,
    and finds it at hand, as the repeated passes of a look do, and a moment's pass after its first. Of lines that have no such second pass
    the change of the first ones is taken, from those beside the looks on: where the host's speed changed just there, it is misjudged.

    Raises MeasurementFileError where looks and moments are so far apart that no seconds come of them.
    """
    if not line.get("host"):
        return device
    looks, blocks, pairs = line["host"]["looks"], line["host"]["blocks_s"], line["host"].get("pairs_s")
    hot_pairs, steps = line["host"].get("hot_pairs_s"), len(line["times_s"])

    def seconds(kind: str) -> float:
        if hot_pairs and kind.startswith("host_compiled_"):
            return _at_steps(hot_pairs, steps) * statistics.fmean(look[kind] / look["host_compiled_pair_s"] for look in looks)
        if pairs and kind.startswith("host_compiled_"):
            return _at_steps(pairs, steps) * statistics.fmean(
                look[kind] / beside for look, beside in zip((looks[0], looks[-1]), (pairs[0], pairs[-1]), strict=True)
            )
        return _at_steps(blocks, steps) * statistics.fmean(look[kind] / look["host_block_s"] for look in looks)

    found = {kind: seconds(kind) for kind in looks[0]}
    rest = tuple(entry for entry in device.measured if not entry.quantity.startswith("host_"))
    try:
        own = tuple(
            Measured(
                quantity=quantity,
                value=value,
                kernel="chains of modules, beside the case",
                date=line["date"],
                driver=str(line.get("driver") or "unknown")[:MOST_SAID],
                where="the host of the case",
            )
            for quantity, value in found.items()
        )
    except ValidationError as error:
        raise MeasurementFileError(f"what was seen of its host is no time of a call: {error.errors()[0]['msg']}") from None
    return device.model_copy(update={"measured": (*rest, *own)})


def _at_steps(moments: Sequence[float], steps: int) -> float:
    """Of moments between which a case's steps ran: what was there at a step, in the median of the steps.

    At a step it is the mean of the moments around it; after the last moment nobody looked. Where a host is fast and slow by turns, a median
    of the moments may be of the one, and the steps' median of the other.

    >>> _at_steps([1.0, 1.0, 3.0], 12), _at_steps([1.0, 3.0, 3.0], 3)
    (2.0, 3.0)
    """
    every = 1 if _in_each_step(moments, steps) else STEPS_BETWEEN
    places = (min(step // every, len(moments) - 1) for step in range(steps))
    return statistics.median(statistics.fmean(moments[place : place + 2]) for place in places)


def _in_each_step(moments: Sequence[float], steps: int) -> bool:
    """Whether the host was looked at before every step, as it was at first."""
    return len(moments) == steps


def _named(model: str) -> str:
    """The catalogue's network of that name, else timm's."""
    try:
        find(model)
    except UnknownNameError:
        return f"{TIMM}{model}"
    return model


def of_another(line: Mapping[str, Any], device: DeviceSpec) -> str | None:
    """Why a line says nothing about the device; a TOML file of one's own that names another device is taken at its word."""
    if device.slug not in names() or is_device(line["device"], device):
        return None
    return f"measured on {shown(line['device'])}"


def too_few(path: Path, count: int, what: str, skipped: Mapping[str, list[str]]) -> MeasurementFileError:
    """Nothing to compare, and why."""
    why = "; ".join(f"{reason}: {len(left)}" for reason, left in skipped.items())
    return MeasurementFileError(
        f"{path} has {count} {what} that can be compared; at least 2 are needed{f' (left out: {why})' if why else ''}"
    )


def compare_networks(path: Path, hardware: str) -> NetworkComparison:
    """Predict every network of a file of results.

    Listed are lines of single layers, of another device, of networks that are not known, and of what the tier does not predict. Raises
    MeasurementFileError where fewer than 2 can be compared.
    """
    device = load(hardware)
    replay_s = next((entry.value for entry in device.measured if entry.quantity == "graph_replay_s"), 0.0)
    """Between a host's asking for a graph and its hearing that it ended, which the clock of `validate run` includes."""
    rows: list[NetworkRow] = []
    skipped: dict[str, list[str]] = {}
    for line in read_results(path):
        if line.get("kind") == "layer":
            skipped.setdefault("a single layer", []).append(str(line["key"])[:80])
            continue
        if reason := of_another(line, device):
            skipped.setdefault(reason, []).append(str(line["key"]))
            continue
        try:
            prediction = predict(
                _named(line["model"]),
                with_host(device, line),
                batch=line["batch"],
                resolution=line["resolution"],
                dtype=None if line["autocast"] else line["dtype"],
                autocast=line["autocast"],
                layout=line["layout"],
                schedule=SCHEDULE_OF[line["run"]],
                tier="expected",
                graph=line["run"] not in IN_STREAM,
            )
        except UnknownNameError:
            skipped.setdefault("neither in the catalogue nor in timm", []).append(str(line["key"]))
            continue
        except MissingExtraError:
            skipped.setdefault("not in the catalogue, and PyTorch and timm are not installed", []).append(str(line["key"]))
            continue
        except PerfmodelError as error:  # a type without a rate, an image that the network does not take: this line only
            skipped.setdefault(str(error)[:MOST_SAID], []).append(str(line["key"]))
            continue
        bound, host = prediction.bound_latency_s, line.get("host") or {}
        rows.append(
            NetworkRow(
                model=line["model"],
                batch=line["batch"],
                resolution=line["resolution"],
                precision=str(prediction.precision),
                run=line["run"],
                host_seen=bool(host),
                host_disturbed=bool(host) and _in_each_step(host["blocks_s"], len(line["times_s"])),
                stack_seen=line.get("page_faults") is not None,
                looked_twice=bool(host.get("hot_blocks_s")),
                measured_latency_s=line["median_s"],
                predicted_latency_s=prediction.latency_s + (0.0 if line["run"] in IN_STREAM else replay_s),
                latency_low_s=prediction.latency_low_s,
                latency_high_s=prediction.latency_high_s,
                bound_latency_s=bound,
                below_bound=bound is not None and line["median_s"] < bound,
                diagnosis=diagnosed(prediction),
            )
        )
    if len(rows) < 2:
        raise too_few(path, len(rows), "networks", skipped)
    whole = _summary(rows)
    groups: dict[str, list[NetworkRow]] = {}
    for row in rows:
        groups.setdefault(f"{row.run}, {size_class(row.batch)}{row.reservation and f', {row.reservation}'}", []).append(row)
    return NetworkComparison(
        file=path.name,
        hardware=device.slug,
        **whole.errors,
        by_run={name: _summary(group) for name, group in sorted(groups.items())},
        skipped=tuple(Skipped(reason=reason, rows=tuple(names)) for reason, names in skipped.items()),
        rows=tuple(rows),
    )


def size_class(batch: int) -> str:
    """Cases are summed up by these."""
    return "batch ≥ 64" if batch >= 64 else "batch ≤ 16" if batch <= 16 else "batch 17 to 63"


def _summary(rows: list[NetworkRow]) -> Summary:
    return Summary.of(
        [row.predicted_latency_s for row in rows], [row.measured_latency_s for row in rows], [float(row.batch) for row in rows]
    )


def networks_table(comparison: NetworkComparison) -> Table:
    """For people."""
    runs = "; ".join(f"{name}: {percent(found.mape)} of {found.n}" for name, found in comparison.by_run.items())
    return Table(
        title="networks, as they were measured",
        columns=(
            Column(key="model", heading="model", right=False),
            Column(key="batch", heading="batch"),
            Column(key="precision", heading="precision", right=False),
            Column(key="run", heading="run", right=False),
            Column(key="measured_latency_s", heading="measured", show=lambda s: si(s, "s")),
            Column(key="predicted_latency_s", heading="expected", show=lambda s: si(s, "s")),
            Column(key="error", heading="error", show=signed_percent),
        ),
        rows=[
            (row.model, row.batch, row.precision, row.run, row.measured_latency_s, row.predicted_latency_s, row.error)
            for row in comparison.rows
        ],
        before=(
            f"{comparison.file} on {comparison.hardware}: {comparison.n} cases, mean error {percent(comparison.mape)}, median "
            f"{percent(comparison.median_ape)}, worst {percent(comparison.max_ape)}",
            f"mean error by run: {runs}",
        ),
        after=tuple(f"left out, {one.reason}: {len(one.rows)}" for one in comparison.skipped),
    )
