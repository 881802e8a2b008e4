"""`perfmodel design`: what fits a budget, what a change would buy, and the best designs of a space."""

from __future__ import annotations

import json
import sys
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
    listed,
    named_device,
    save_figure,
)
from perfmodel.errors import PerfmodelError

if TYPE_CHECKING:
    from perfmodel.design.search import Backend, Search, SearchResult
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
_Schedule = Annotated[str, typer.Option("--schedule", help="eager, pointwise, layer or block.")]


def _subject(
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
    device = named_device(hardware, sets)
    if model is not None:
        return NetworkSubject(
            model=model, device=device, batch=batch, dtype=dtype, schedule=check(schedule), depth=depth, **network
        )
    if network["autocast"] or network["layout"] != "nhwc" or network["resolution"] or network["width"]:
        raise PerfmodelError(
            "--autocast, --layout, --resolution and --width are for --model; a block takes --channels and --size"
        )
    kind = str(block).lower().replace("-", "_")
    return BlockSubject(kind=kind, device=device, batch=batch, dtype=dtype, schedule=check(schedule), depth=depth or 1, **choices)


@design_app.command("solve")
def design_solve(
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
    budgets = _budgets({"latency": latency, "memory": memory, "traffic": traffic, "macs": macs, "params": params})
    if name in HARDWARE:
        if set(budgets) - {"latency"} or (budgets and compute_bound):
            raise PerfmodelError(f"{unknown} is solved for --latency or for --compute-bound, one of them; leave the others out")
        found = figure_for_latency(subject, name, budgets["latency"]) if budgets else threshold(subject, name)
        _print(fmt, output, lambda: [report.threshold_table(found)], lambda: report.threshold_data(found))
    elif compute_bound:
        if name != "group_width":
            raise PerfmodelError(f"--compute-bound is asked of bandwidth, peak, local-memory or group-width, not of {unknown}")
        crossing = group_crossing(subject)
        _print(fmt, output, lambda: [report.group_table(crossing, latex=latex)], lambda: report.group_data(crossing))
    elif fused_gain is not None:
        if name != "batch":
            raise PerfmodelError(f"--fused-gain is asked of batch, not of {unknown}")
        pays = fused_pays(subject, _fraction(fused_gain))
        _print(fmt, output, lambda: [report.fused_table(pays)], lambda: report.fused_data(pays))
    else:
        from perfmodel.design.solve import solve

        solution = solve(subject, name, budgets, step=step)
        _print(fmt, output, lambda: [report.solution_table(solution, latex=latex)], lambda: report.solution_data(solution))


@design_app.command("sensitivity")
def design_sensitivity(
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
    _print(fmt, output, lambda: list(report.sensitivity_tables(found)), lambda: report.sensitivity_data(found))


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


@design_app.command("search")
def design_search(
    space: Annotated[Path | None, typer.Argument(metavar="[SPACE.toml]", help="Description of the space, or options.")] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", metavar="DEV[,DEV…]", help="Machines, separated by commas.")
    ] = None,
    block: Annotated[str | None, typer.Option(help="Kinds of block, separated by commas.")] = None,
    channels: Annotated[str | None, typer.Option(help="Channels: 64, or 16,32,64, or 8:512:8 (from:to:step).")] = None,
    expansion: Annotated[str, typer.Option(help="Expansions, in the same form.")] = "4",
    group_width: Annotated[str, typer.Option(help="Group widths, in the same form.")] = "8",
    kernel: Annotated[str | None, typer.Option(help="Kernels, in the same form; default: each kind's usual.")] = None,
    size: Annotated[str, typer.Option(help="Heights and widths, in the same form.")] = "56",
    batch: Annotated[str, typer.Option(help="Batches, in the same form.")] = "1",
    objective: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What to optimise, as in 'min latency' or 'max params'; may be repeated."),
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What must hold, as in 'latency[h200] <= 1ms'; may be repeated.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Type of every tensor.")] = "fp16",
    schedule: Annotated[str, typer.Option("--schedule", help="eager, pointwise or layer; of networks also block.")] = "layer",
    sets: Sets = None,
    backend: Annotated[str, typer.Option(help="numpy; cupy: the current GPU; dask: a cluster.")] = "numpy",
    address: Annotated[str | None, typer.Option(help="Scheduler of a Dask cluster; default: processes of this machine.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of this machine, with --backend dask.")] = 2,
    evaluations: Annotated[
        int | None, typer.Option(min=1000, help="Look at about so many designs, chosen by an optimiser, instead of all.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Keep the state of the search in this file, and go on from it.")] = None,
    extra: Annotated[str | None, typer.Option(help="Further quantities to print, as in macs,bytes.")] = None,
    top: Annotated[int, typer.Option(min=0, help="Designs of the front to show; 0 shows all.")] = 20,
    results: Annotated[Path | None, typer.Option(help="Write the whole front to this file: .csv or .parquet.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot the front of two objectives to this file.")] = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """The exact Pareto front of a space of blocks or networks."""
    from perfmodel.design.results import write_rows
    from perfmodel.design.space_file import load_search, numbers_of, search_of
    from perfmodel.report.design import search_data, search_pace, search_table

    if space is not None:
        if hardware or block or channels or objective or constraint or sets:
            raise PerfmodelError("the space is described in the file; write machines, axes, objectives and constraints there")
        search = load_search(space)
    else:
        if not (hardware and block and channels):
            raise PerfmodelError("describe the space in a TOML file, or give --hardware, --block and --channels at least")
        data: dict[str, Any] = {
            "hardware": listed("--hardware", hardware),
            "what_if": sets or [],
            "block": listed("--block", block),
            "channels": numbers_of(channels),
            "expansion": numbers_of(expansion),
            "group_width": numbers_of(group_width),
            "size": numbers_of(size),
            "batch": numbers_of(batch),
            "objectives": objective or ["min latency"],
            "constraints": constraint or [],
            "dtype": dtype,
            "schedule": schedule,
        }
        if not data["what_if"]:
            del data["what_if"]
        if not data["constraints"]:
            del data["constraints"]
        if kernel is not None:
            data["kernel"] = numbers_of(kernel)
        search = search_of(data, "the options")
    more = [] if extra is None else listed("--extra", extra)
    for name in more:
        if name not in search.space.names:
            from perfmodel.errors import UnknownNameError

            raise UnknownNameError("quantity", name, search.space.names)
    result = _searched(search, backend, address, workers, evaluations, state)
    if sys.stderr.isatty():
        print(search_pace(result), file=sys.stderr)
    if results is not None:
        write_rows(result.rows(more), results)
        print(f"wrote {results}", file=sys.stderr)
    if plot is not None:
        from perfmodel.plots.front import front_figure

        save_figure(front_figure(result), plot)
    _print(
        fmt,
        output,
        lambda: [search_table(result, top=top, extra=more, stages=fmt is not Format.CSV)],
        lambda: search_data(result, more),
    )


def _searched(
    search: Search, backend: str, address: str | None, workers: int, evaluations: int | None, state: Path | None
) -> SearchResult:
    """Run the search with its progress on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from perfmodel.design.search import EXHAUSTIVE, run
    from perfmodel.errors import UnknownNameError

    names = ("numpy", "cupy", "dask")
    if backend not in names:
        raise UnknownNameError("backend", backend, names)
    if backend != "dask" and address is not None:
        raise PerfmodelError("--address names a Dask cluster; add --backend dask")
    whole = evaluations is None
    if evaluations is not None and (backend != "numpy" or state is not None):
        raise PerfmodelError("--evaluations is for --backend numpy without --state; leave one of them out")
    if whole and backend == "numpy" and search.space.size > EXHAUSTIVE:
        raise PerfmodelError(
            f"the space has {search.space.size:.3g} designs, more than the {EXHAUSTIVE:.0e} that one process searches whole; give fewer "
            "values, --evaluations N for an optimiser, or --backend cupy or dask"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("searching", total=evaluations or search.space.size)

        def progress(done: int, front: int) -> None:
            bar.update(task, completed=done, description=f"searching, front {front}")

        if evaluations is not None:
            from perfmodel.design.optimise import optimise

            return optimise(search, evaluations=evaluations, progress=progress)
        if backend == "dask":
            from perfmodel.design.cluster import DaskBackend

            with DaskBackend(search, address=address, workers=workers) as cluster:
                return run(search, backend=cluster, state=state, progress=progress)
        used: Backend | None = None
        if backend == "cupy":
            from perfmodel.design.gpu import CupyBackend

            used = CupyBackend(search)
        return run(search, backend=used, state=state, progress=progress)


def _budgets(given: dict[str, str | None]) -> dict[str, float]:
    """The budgets that were given, in SI units."""
    from perfmodel.design.grammar import amount

    units = {"latency": ("s",), "memory": ("B",), "traffic": ("B",), "macs": (), "params": ()}
    return {name: amount(text, units[name], f"--{name}") for name, text in given.items() if text is not None}


def _fraction(text: str) -> float:
    from perfmodel.design.grammar import amount

    value = text.strip()
    return amount(value[:-1], (), "--fused-gain") / 100 if value.endswith("%") else amount(value, (), "--fused-gain")


def _print(fmt: Format, output: Path | None, tables: Callable[[], list[Table]], data: Callable[[], dict[str, Any]]) -> None:
    if fmt is Format.JSON:
        emit(json.dumps(data(), indent=2, ensure_ascii=False, allow_nan=False) + "\n", output)
    elif fmt is Format.CSV:
        emit_tables(tables()[:1], fmt, output)
    else:
        emit_tables(tables(), fmt, output)
