"""`perfmodel plan`: the best cut of a network into kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli.options import (
    Autocast,
    Batch,
    Classes,
    Dtype,
    Format,
    Hardware,
    Model,
    Output,
    OutputFormat,
    Resolution,
    Sets,
    emit,
    emit_tables,
    named_device,
    named_network,
    named_schedule,
    plot_option,
)
from perfmodel.errors import PerfmodelError


def plan(
    model: Model,
    hardware: Hardware,
    batch: Batch = 1,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    longest: Annotated[int, typer.Option(min=1, help="Kernels of schedule layer that one fused kernel may have.")] = 24,
    partition: Annotated[
        str | None, typer.Option(metavar="FILE", help="Cost this cut instead: a JSON file with the layers of each kernel.")
    ] = None,
    sets: Sets = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
    plot: Annotated[Path | None, plot_option("Also write the waterline plot to this file, schedule layer above.")] = None,
) -> None:
    """The best cut of a network into fused kernels for a machine, why each ends where it does, and what it gains."""
    from perfmodel.planning import plan as make_plan
    from perfmodel.report.plans import plan_table

    given = None
    if partition is not None:
        given = named_schedule(partition)
        if isinstance(given, str):
            raise PerfmodelError(f"--partition takes a JSON file with the layers of each kernel, not {partition!r}")
    device = named_device(hardware, sets)
    network = named_network(model, batch, resolution, classes)
    made = make_plan(network, device, dtype=dtype, autocast=autocast, longest=longest, partition=given)
    if plot is not None:
        from perfmodel.plots.save import save
        from perfmodel.plots.waterline import waterline_figure

        save(waterline_figure(made.layer, made.prediction), plot)
    if fmt is Format.JSON:
        emit(made.to_json() + "\n", output)
    else:
        emit_tables([plan_table(made)], fmt, output)
