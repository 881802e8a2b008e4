"""`make demo`: the main job on four real networks and two machines, from the command line's own parts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perfmodel.errors import PerfmodelError
from perfmodel.networks.catalog import whole_batch
from perfmodel.prediction import Prediction, predict
from perfmodel.report.predictions import headline, kind_table, summary_table
from perfmodel.report.table import Column, Table, duration, intensity, render, terminal
from perfmodel.schedule import NAMES
from perfmodel.units import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODELS: Final = ("convnext_tiny", "efficientnet_b0", "resnet50", "convfirstnet_tiny")
DEVICES: Final = ("h200", "rtx4090")
RESOLUTION: Final = 224
"""One image size for all, at which ConvFirstNet-tiny and ConvNeXt-tiny do the same arithmetic."""
FAMILIES: Final = ("resnet", "convnext", "efficientnet", "regnety", "mobilenetv3")
WORST: Final = 5


def run(output: Path, *, batch: int) -> None:
    """Predict, print tables, and write plots into `output`, with progress on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    plots = _plots(whole_batch(batch))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PerfmodelError(f"cannot make the folder {output}: {error.strerror}; choose another with --output") from None
    predictions: list[Prediction] = []
    written: list[Path] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        cases = [(device, model, schedule) for device in DEVICES for model in MODELS for schedule in NAMES]
        task = progress.add_task("predicting", total=len(cases))
        for device, model, schedule in cases:
            progress.update(task, description=f"predicting {model} on {device}, {schedule}")
            predictions.append(predict(model, device, batch=batch, resolution=RESOLUTION, schedule=schedule))
            progress.advance(task)
        progress.update(task, description="predicted")
        task = progress.add_task("plotting", total=len(plots))
        for name, draw in plots.items():
            progress.update(task, description=f"plotting {name}")
            written.append(_save(draw, output / name))
            progress.advance(task)
        progress.update(task, description="plotted")
    for text in _said(predictions, batch):
        sys.stdout.write(text + "\n")
    sys.stdout.write(f"Plots, in the folder {output.resolve()}:\n")
    sys.stdout.writelines(f"  {path.name}\n" for path in written)


def _save(draw: Callable[[], Figure], path: Path) -> Path:
    from perfmodel.plots.save import save

    return save(draw(), path)


def _plots(batch: int) -> dict[str, Callable[[], Figure]]:
    from perfmodel.plots.gap import gap_figure, gap_points
    from perfmodel.plots.roofline import roofline_figure
    from perfmodel.plots.waterline import waterline_figure

    def waterline(model: str, device: str) -> Callable[[], Figure]:
        return lambda: waterline_figure(
            *(predict(model, device, batch=batch, resolution=RESOLUTION, schedule=name) for name in NAMES)
        )

    def gap(device: str) -> Callable[[], Figure]:
        return lambda: gap_figure(*gap_points([*FAMILIES, "convfirstnet"], device, batch=batch))

    found: dict[str, Callable[[], Figure]] = {f"waterline-{model}-h200.svg": waterline(model, "h200") for model in MODELS}
    found["roofline-convnext_tiny-h200.svg"] = lambda: roofline_figure(
        predict("convnext_tiny", "h200", batch=batch, resolution=RESOLUTION)
    )
    return found | {f"gap-{device}.svg": gap(device) for device in DEVICES}


def _said(predictions: list[Prediction], batch: int) -> list[str]:
    """The tables: side by side; what holds each network; how the gap closes."""
    texts = []
    for device in DEVICES:
        on_device = [prediction for prediction in predictions if prediction.device.slug == device]
        under = f"batch {batch}, {RESOLUTION}×{RESOLUTION}, {on_device[0].precision}"
        about = f"{on_device[0].device.name}: how long, by the waterline ({under})"
        texts.append(_text(summary_table(on_device, about)))
        texts.append(_text(_gaps(on_device)))
    for model in MODELS:
        prediction = next(
            p for p in predictions if p.network.name == model and p.device.slug == DEVICES[0] and p.schedule == "layer"
        )
        texts.append("\n".join(headline(prediction)))
        texts.append(_text(kind_table(prediction)))
        texts.append(_text(_worst(prediction)))
    return texts


def _text(table: Table) -> str:
    width, colour = terminal(sys.stdout)
    return render(table, "table", width=width, colour=colour)


def _gaps(predictions: list[Prediction]) -> Table:
    """The efficiency gap of each network under each schedule."""

    def gap(value: float) -> str:
        return f"{value:.1f}×"

    rows: list[tuple[Any, ...]] = []
    for model in MODELS:
        found = [prediction for prediction in predictions if prediction.network.name == model]
        rows.append((model, found[0].ideal_latency_s, *(1 / prediction.efficiency for prediction in found)))
    return Table(
        title="efficiency gap: latency ÷ ideal latency (all arithmetic at the peak)",
        columns=(
            Column(key="model", heading="model", right=False),
            Column(key="ideal_latency_s", heading="ideal", show=duration),
            *(Column(key=name, heading=name, show=gap) for name in NAMES),
        ),
        rows=rows,
    )


def _worst(prediction: Prediction) -> Table:
    """The memory-bound kernels under which most arithmetic drowns."""
    times = sorted((t for t in prediction.times if t.bound_by == "memory"), key=lambda t: t.arithmetic_s - t.memory_s)[:WORST]
    rows = [
        (
            t.kernel.name,
            t.kernel.kind,
            t.kernel.cost.operational_intensity,
            t.latency_s,
            (t.memory_s - t.arithmetic_s) / t.latency_s,
        )
        for t in times
    ]
    held = sum(time.bound_by == "memory" for time in prediction.times)
    return Table(
        title=f"{held} of {len(prediction.times)} kernels are memory-bound; those that lose most",
        columns=(
            Column(key="kernel", heading="kernel", right=False),
            Column(key="kind", heading="kind", right=False),
            Column(key="operational_intensity", heading="ops/byte", show=intensity),
            Column(key="latency_s", heading="latency", show=duration),
            Column(key="idle_share", heading="arithmetic idle", show=percent),
        ),
        rows=rows,
    )
