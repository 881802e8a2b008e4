"""Single layers that `perfmodel validate run --what layers` measured, beside tier expected: which kinds of kernels it gets wrong."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.networks.catalog import find
from perfmodel.prediction import Prediction, predict
from perfmodel.report.table import Column, Table
from perfmodel.units import percent, si, signed_percent
from perfmodel.validation.comparison import Skipped
from perfmodel.validation.network_comparison import MOST_SAID, of_another, too_few
from perfmodel.validation.network_run import read_results
from perfmodel.validation.statistics import Errors, Summary


class LayerRow(BaseModel):
    """One measured layer and its prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    """Its kind, dimensions and input."""
    network: str
    node: str
    batch: int
    path: str
    """The library path that its longest kernel is taken to go."""
    kernels: int
    measured_latency_s: float
    predicted_latency_s: float
    diagnosis: str | None

    @property
    def error(self) -> float:
        """predicted / measured − 1."""
        return self.predicted_latency_s / self.measured_latency_s - 1


class LayerComparison(Errors):
    """All of them, and summaries by library path."""

    schema_version: int = 1
    file: str
    hardware: str
    by_path: dict[str, Summary]
    skipped: tuple[Skipped, ...]
    rows: tuple[LayerRow, ...]


def compare_layers(path: Path, hardware: str) -> LayerComparison:
    """Predict every layer of a file of results, as one of its network's.

    Listed are lines of whole networks, of another device, and of what the tier does not predict.

    Raises MeasurementFileError where fewer than 2 can be compared.
    """
    device = load(hardware)

    @cache
    def predicted(network: str, batch: int, resolution: int, dtype: str, layout: str) -> Prediction:
        return predict(
            network,
            device,
            batch=batch,
            resolution=resolution,
            dtype=dtype,
            layout=layout,
            schedule="eager",
            tier="expected",
            graph=True,
        )

    rows: list[LayerRow] = []
    skipped: dict[str, list[str]] = {}
    for line in read_results(path):
        if line.get("kind") != "layer":
            skipped.setdefault("a whole network", []).append(str(line["key"])[:80])
            continue
        if reason := of_another(line, device):
            skipped.setdefault(reason, []).append(str(line["key"])[:80])
            continue
        try:
            # by the catalogue's name alone: other names are of files, and of functions that would be imported and run
            network = find(line["network"]).name
            prediction = predicted(network, line["batch"], line["resolution"], line["dtype"], line["layout"])
            own = [time for time in prediction.times if line["node"] in time.kernel.layers]
        except PerfmodelError as error:  # a type without a rate, an image that the network does not take: this line only
            skipped.setdefault(str(error)[:MOST_SAID], []).append(str(line["key"])[:80])
            continue
        if not own:
            skipped.setdefault("no kernel of its own", []).append(str(line["key"])[:80])
            continue
        longest = max(own, key=lambda time: time.latency_s)
        rows.append(
            LayerRow(
                layer=line["model"],
                network=line["network"],
                node=line["node"],
                batch=line["batch"],
                path=longest.path or longest.kernel.kind,
                kernels=len(own),
                measured_latency_s=line["median_s"],
                predicted_latency_s=sum(time.latency_s for time in own),
                diagnosis=longest.diagnosis,
            )
        )
    if len(rows) < 2:
        raise too_few(path, len(rows), "layers", skipped)
    groups: dict[str, list[LayerRow]] = {}
    for row in rows:
        groups.setdefault(row.path, []).append(row)
    whole = _summary(rows)
    return LayerComparison(
        file=path.name,
        hardware=device.slug,
        **whole.errors,
        by_path={name: _summary(group) for name, group in sorted(groups.items())},
        skipped=tuple(Skipped(reason=reason, rows=tuple(names)) for reason, names in skipped.items()),
        rows=tuple(rows),
    )


def _summary(rows: list[LayerRow]) -> Summary:
    return Summary.of([row.predicted_latency_s for row in rows], [row.measured_latency_s for row in rows])


def layers_table(comparison: LayerComparison) -> Table:
    """For people."""
    paths = "; ".join(f"{name}: {percent(found.mape)} of {found.n}" for name, found in comparison.by_path.items())
    return Table(
        title="layers, as they were measured",
        columns=(
            Column(key="network", heading="network", right=False),
            Column(key="node", heading="layer", right=False),
            Column(key="batch", heading="batch"),
            Column(key="path", heading="path", right=False),
            Column(key="measured_latency_s", heading="measured", show=lambda s: si(s, "s")),
            Column(key="predicted_latency_s", heading="expected", show=lambda s: si(s, "s")),
            Column(key="error", heading="error", show=signed_percent),
        ),
        rows=[
            (row.network, row.node, row.batch, row.path, row.measured_latency_s, row.predicted_latency_s, row.error)
            for row in comparison.rows
        ],
        before=(
            f"{comparison.file} on {comparison.hardware}: {comparison.n} layers, mean error {percent(comparison.mape)}, median "
            f"{percent(comparison.median_ape)}, worst {percent(comparison.max_ape)}",
            f"mean error by path: {paths}",
        ),
        after=tuple(f"left out, {one.reason}: {len(one.rows)}" for one in comparison.skipped),
    )
