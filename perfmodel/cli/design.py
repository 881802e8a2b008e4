"""`perfmodel design`: what fits a budget, what a change would buy, and the best designs of a space."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from perfmodel.cli.options import (
    Autocast,
    Classes,
    Dtype,
    Format,
    Hardware,
    Layout,
    Output,
    OutputFormat,
    Resolution,
    Sets,
    emit,
    emit_tables,
    is_given,
    named_device,
)
from perfmodel.errors import PerfmodelError, shown

if TYPE_CHECKING:
    from perfmodel.design.subject import Subject
    from perfmodel.report.table import Table

design_app = typer.Typer(
    help="Design questions: inverse queries, sensitivities, searches.", no_args_is_help=True, rich_markup_mode=None
)

_ALIASES: Final = {
    "block": {"width": "channels", "resolution": "size", "group": "group_width"},
    "model": {"size": "resolution"},
}
_Model = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Ask about a network of the catalogue.")]
_Block = Annotated[
    str | None, typer.Option("--block", metavar="KIND", help="Ask about a residual block: convfirst, mbconv, convnext …")
]
_Batch = Annotated[int, typer.Option(min=1, help="Images in a batch.")]
_Channels = Annotated[int, typer.Option(min=1, help="Channels in and out of a block.")]
_Size = Annotated[int, typer.Option(min=1, help="Height and width of a block's input.")]
_Expansion = Annotated[int, typer.Option(min=1, help="Hidden channels ÷ channels, of blocks that expand.")]
_GroupWidth = Annotated[int, typer.Option(min=1, help="Channels per group, of blocks with groups; 1: depthwise.")]
_Kernel = Annotated[int | None, typer.Option(help="Height and width of a block's spatial kernel; default: its usual.")]
_Depth = Annotated[int | None, typer.Option(min=1, help="Blocks in a row; of a network: by the rule of its family.")]
_Width = Annotated[int | None, typer.Option(min=1, help="Width of a network, by the rule of its family.")]
_Schedule = Annotated[str, typer.Option("--schedule", help="eager, pointwise, layer, block or auto.")]


def _subject(
    ctx: typer.Context,
    *,
    model: str | None,
    block: str | None,
    hardware: str,
    sets: list[str] | None,
    batch: int,
    dtype: str | None,
    schedule: str,
    network: dict[str, Any],
    choices: dict[str, Any],
    depth: int | None,
) -> Subject:
    """The network or block that was named."""
    from perfmodel.design.subject import BlockSubject, NetworkSubject
    from perfmodel.schedule import check

    if (model is None) == (block is None):
        raise PerfmodelError("ask about one thing: give either --model MODEL or --block KIND")
    other, needed = ((*choices,), "--block") if model is not None else ((*network,), "--model")
    for name in other:
        if is_given(ctx, name):
            raise PerfmodelError(f"--{name.replace('_', '-')} is for {needed}; leave it out")
    device = named_device(hardware, sets)
    if model is not None:
        _of_the_catalogue(model)
        return NetworkSubject(
            model=model, device=device, batch=batch, dtype=dtype, schedule=check(schedule), depth=depth, **network
        )
    kind = str(block).lower().replace("-", "_")
    return BlockSubject(kind=kind, device=device, batch=batch, dtype=dtype, schedule=check(schedule), depth=depth or 1, **choices)


@design_app.command("solve")
def design_solve(
    ctx: typer.Context,
    unknown: Annotated[
        str,
        typer.Argument(
            metavar="UNKNOWN",
            help="channels, size, batch, depth, expansion, group-width, kernel of a block; resolution, batch, width, depth of a network; "
            "bandwidth, peak, local-memory of the machine.",
        ),
    ],
    hardware: Hardware,
    model: _Model = None,
    block: _Block = None,
    latency: Annotated[str | None, typer.Option(help="Budget, as in 0.1ms.")] = None,
    memory: Annotated[str | None, typer.Option(help="Budget of weights and live activations in DRAM, as in 2GB.")] = None,
    traffic: Annotated[str | None, typer.Option(help="Budget of DRAM traffic, as in 500MB.")] = None,
    macs: Annotated[str | None, typer.Option(help="Budget of multiply-accumulates, as in 4.5G.")] = None,
    params: Annotated[str | None, typer.Option(help="Budget of trained parameters, as in 20M.")] = None,
    compute_bound: Annotated[
        bool, typer.Option("--compute-bound", help="Where it crosses the waterline: a figure of the machine, or a group width.")
    ] = False,
    fused_gain: Annotated[
        str | None, typer.Option(help="With batch: where fusing (schedule block) saves at least this much, as in 5%.")
    ] = None,
    batch: _Batch = 1,
    channels: _Channels = 64,
    size: _Size = 56,
    expansion: _Expansion = 4,
    group_width: _GroupWidth = 8,
    kernel: _Kernel = None,
    depth: _Depth = None,
    resolution: Resolution = None,
    width: _Width = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: _Schedule = "layer",
    step: Annotated[int | None, typer.Option(min=1, help="Go in steps of this.")] = None,
    sets: Sets = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print the closed form as LaTeX, too.")] = False,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """The largest choice within a budget, or the machine on which something becomes compute-bound; why, and one step either way."""
    from perfmodel.design.thresholds import HARDWARE, figure_for_latency, fused_pays, group_crossing
    from perfmodel.design.thresholds import compute_bound as threshold
    from perfmodel.report import design as report

    subject = _subject(
        ctx,
        model=model,
        block=block,
        hardware=hardware,
        sets=sets,
        batch=batch,
        dtype=dtype,
        schedule=schedule,
        network={"resolution": resolution, "classes": classes, "autocast": autocast, "layout": layout, "width": width},
        choices={
            "channels": channels,
            "size": size,
            "expansion": expansion,
            "group_width": group_width,
            "kernel": kernel,
        },
        depth=depth,
    )
    name = unknown.lower().replace("-", "_")
    name = _ALIASES["model" if model is not None else "block"].get(name, name)
    if is_given(ctx, name):
        raise PerfmodelError(f"--{name.replace('_', '-')} is what is asked for; leave it out")
    budgets = _budgets({"latency": latency, "memory": memory, "traffic": traffic, "macs": macs, "params": params})
    if (budgets and (fused_gain is not None or (compute_bound and name not in HARDWARE))) or (
        compute_bound and fused_gain is not None
    ):
        raise PerfmodelError("a budget, --compute-bound and --fused-gain are three questions; ask one at a time")
    if name in HARDWARE and fused_gain is not None:
        raise PerfmodelError(f"--fused-gain is asked of batch, not of {unknown}")
    if name in HARDWARE:
        if set(budgets) - {"latency"} or (budgets and compute_bound):
            raise PerfmodelError(f"{unknown} is solved for --latency or for --compute-bound, one of them; leave the others out")
        found = figure_for_latency(subject, name, budgets["latency"]) if budgets else threshold(subject, name)
        print_answer(fmt, output, lambda: [report.threshold_table(found)], lambda: report.threshold_data(found))
    elif compute_bound:
        if name != "group_width":
            raise PerfmodelError(f"--compute-bound is asked of bandwidth, peak, local-memory or group-width, not of {unknown}")
        crossing = group_crossing(subject)
        print_answer(fmt, output, lambda: [report.group_table(crossing, latex=latex)], lambda: report.group_data(crossing))
    elif fused_gain is not None:
        if name != "batch":
            raise PerfmodelError(f"--fused-gain is asked of batch, not of {unknown}")
        pays = fused_pays(subject, _fraction(fused_gain))
        print_answer(fmt, output, lambda: [report.fused_table(pays)], lambda: report.fused_data(pays))
    else:
        from perfmodel.design.solve import solve

        solution = solve(subject, name, budgets, step=step)
        print_answer(fmt, output, lambda: [report.solution_table(solution, latex=latex)], lambda: report.solution_data(solution))


@design_app.command("sensitivity")
def design_sensitivity(
    ctx: typer.Context,
    hardware: Hardware,
    model: _Model = None,
    block: _Block = None,
    batch: _Batch = 1,
    channels: _Channels = 64,
    size: _Size = 56,
    expansion: _Expansion = 4,
    group_width: _GroupWidth = 8,
    kernel: _Kernel = None,
    depth: _Depth = None,
    resolution: Resolution = None,
    width: _Width = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: _Schedule = "layer",
    sets: Sets = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Elasticity of the latency to every figure of the machine and every dimension of the work, exactly; steps where it comes in steps."""
    from perfmodel.design.sensitivity import sensitivity
    from perfmodel.report import design as report

    subject = _subject(
        ctx,
        model=model,
        block=block,
        hardware=hardware,
        sets=sets,
        batch=batch,
        dtype=dtype,
        schedule=schedule,
        network={"resolution": resolution, "classes": classes, "autocast": autocast, "layout": layout, "width": width},
        choices={
            "channels": channels,
            "size": size,
            "expansion": expansion,
            "group_width": group_width,
            "kernel": kernel,
        },
        depth=depth,
    )
    found = sensitivity(subject)
    print_answer(fmt, output, lambda: list(report.sensitivity_tables(found)), lambda: report.sensitivity_data(found))


@design_app.command("lift")
def design_lift(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network of the catalogue.")],
    hardware: Hardware,
    batch: _Batch = 1,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    sets: Sets = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Which stages of a network are under water, and what would lift each."""
    from perfmodel.design.lift import lift
    from perfmodel.design.subject import NetworkSubject
    from perfmodel.report.design import lift_table

    _of_the_catalogue(model)
    subject = NetworkSubject(
        model=model,
        device=named_device(hardware, sets),
        batch=batch,
        resolution=resolution,
        classes=classes,
        dtype=dtype,
        autocast=autocast,
        layout=layout,
    )
    emit_tables([lift_table(subject, lift(subject))], fmt, output)


def _of_the_catalogue(model: str) -> None:
    """Raise where a model is one to import, which has no rule to build it anew with other choices."""
    from perfmodel.importers.model import is_imported

    if is_imported(model):
        raise PerfmodelError(
            f"design questions build a network anew, so they are asked of the catalogue's (see `perfmodel networks`), not of "
            f"{shown(model)!r}; predict, compare and plan take imported models"
        )


def _budgets(given: dict[str, str | None]) -> dict[str, float]:
    """The budgets that were given, in SI units."""
    from perfmodel.design.grammar import amount

    units = {"latency": ("s",), "memory": ("B",), "traffic": ("B",), "macs": (), "params": ()}
    return {name: amount(text, units[name], f"--{name}") for name, text in given.items() if text is not None}


def _fraction(text: str) -> float:
    from perfmodel.design.grammar import amount

    value = text.strip()
    try:
        return amount(value[:-1], (), "--fused-gain") / 100 if value.endswith("%") else amount(value, (), "--fused-gain")
    except PerfmodelError:
        raise PerfmodelError(f"--fused-gain takes a positive share of the time, as in 5% or 0.05, not {shown(text)!r}") from None


def print_answer(fmt: Format, output: Path | None, tables: Callable[[], list[Table]], data: Callable[[], dict[str, Any]]) -> None:
    """As plain data where JSON is asked for, else as tables; as CSV the first one."""
    if fmt is Format.JSON:
        emit(json.dumps(data(), indent=2, ensure_ascii=False, allow_nan=False) + "\n", output)
    elif fmt is Format.CSV:
        emit_tables(tables()[:1], fmt, output)
    else:
        emit_tables(tables(), fmt, output)
