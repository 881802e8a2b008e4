"""`perfmodel plot`: pictures, written to a file."""

from __future__ import annotations

from typing import Annotated

import typer

from perfmodel.cli.options import (
    Autocast,
    Batch,
    Classes,
    Dtype,
    Hardware,
    Layout,
    ManyImages,
    Model,
    Models,
    PlotFile,
    Resolution,
    ScheduleName,
    Tier,
    listed,
    named_schedule,
    predicted,
    save_figure,
)

plot_app = typer.Typer(help="Plots, written to a file: svg, png, pdf or html.", no_args_is_help=True, rich_markup_mode=None)


@plot_app.command("waterline")
def plot_waterline(
    model: Model,
    hardware: Hardware,
    output: PlotFile,
    batch: Batch = None,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedules: Annotated[
        str, typer.Option("--schedule", help="A schedule, or several separated by commas, one above the other.")
    ] = "layer",
    tier: Tier = "waterline",
) -> None:
    """One column per kernel: width its bytes, height its ops per byte; the space below the line is lost arithmetic."""
    from perfmodel.plots.waterline import waterline_figure

    predictions = [
        predicted(model, hardware, batch, resolution, classes, dtype, autocast, layout, schedule, tier)
        for schedule in listed("--schedule", schedules)
    ]
    save_figure(waterline_figure(*predictions), output)


@plot_app.command("roofline")
def plot_roofline(
    model: Model,
    hardware: Hardware,
    output: PlotFile,
    batch: Batch = None,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ScheduleName = "layer",
    tier: Tier = "waterline",
) -> None:
    """Every kernel under the machine's roof, and why one roofline on the totals is wrong for a sequence."""
    from perfmodel.plots.roofline import roofline_figure

    prediction = predicted(model, hardware, batch, resolution, classes, dtype, autocast, layout, schedule, tier)
    save_figure(roofline_figure(prediction), output)


@plot_app.command("gap")
def plot_gap(
    models: Models,
    hardware: Hardware,
    output: PlotFile,
    batch: ManyImages = 128,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ScheduleName = "layer",
    tier: Tier = "waterline",
) -> None:
    """Accuracy against latency per image, ideal and attainable; MODEL may be a family, as in `resnet`."""
    from perfmodel.plots.gap import gap_figure, gap_points

    points, skipped = gap_points(
        models, hardware, batch=batch, dtype=dtype, autocast=autocast, layout=layout, schedule=named_schedule(schedule), tier=tier
    )
    save_figure(gap_figure(points, skipped), output)


@plot_app.command("capacity")
def plot_capacity(
    blocks: Annotated[list[str], typer.Argument(metavar="BLOCK…", help="Kinds of block: convfirst, mbconv, convnext, basic …")],
    output: PlotFile,
    channels: Annotated[int, typer.Option(help="Channels in and out.")] = 64,
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 56,
    batch: ManyImages = 128,
    expansion: Annotated[int, typer.Option(help="Hidden channels ÷ channels, of blocks that expand.")] = 4,
    group_width: Annotated[int, typer.Option(help="Channels per group, of blocks with groups; 1: depthwise.")] = 8,
    kernel: Annotated[
        int | None, typer.Option(help="Height and width of the spatial kernel; default: the block's usual.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Type of every tensor.")] = "fp16",
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", metavar="DEV[,DEV…]", help="Machines to mark; default: one or two of each capacity."),
    ] = None,
) -> None:
    """DRAM traffic of fused blocks against the local memory of a processor, with machines' capacities marked."""
    from perfmodel.hardware.catalog import load
    from perfmodel.layers.catalog import block_of
    from perfmodel.layers.dims import Shape
    from perfmodel.plots.capacity import capacity_figure
    from perfmodel.plots.curves import CAPACITY, DEVICES, block_curves

    made = [
        block_of(kind, channels, expansion=expansion, group_width=group_width, kernel=kernel)
        for kind in dict.fromkeys(kind.lower() for kind in blocks)
    ]
    devices = [load(name) for name in (DEVICES if hardware is None else listed("--hardware", hardware))]
    for device in devices:
        device.require(CAPACITY)
    shape = Shape(batch, channels, size, size)
    save_figure(capacity_figure([block_curves(block, shape, dtype=dtype) for block in made], devices), output)
