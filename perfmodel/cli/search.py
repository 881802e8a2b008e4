"""`perfmodel design search`: the best designs of a space."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.cli.design import design_app, print_answer
from perfmodel.cli.options import Format, Output, OutputFormat, Sets, listed, plot_option, save_figure
from perfmodel.errors import PerfmodelError
from perfmodel.place import require_place

if TYPE_CHECKING:
    from perfmodel.design.search import Backend, Search, SearchResult


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
    plot: Annotated[Path | None, plot_option("Plot the front of two objectives to this file.")] = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """The exact Pareto front of a space of blocks or networks."""
    from perfmodel.design.results import format_of, write_rows
    from perfmodel.design.space_file import load_search, numbers_of, search_of
    from perfmodel.report.search import search_data, search_pace, search_table

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
    if results is not None:
        format_of(results)
        require_place(results)
    if plot is not None:
        from perfmodel.plots.front import check_objectives

        check_objectives(search)
    result = _searched(search, backend, address, workers, evaluations, state)
    if sys.stderr.isatty():
        print(search_pace(result), file=sys.stderr)
    if results is not None:
        write_rows(result.rows(more), results)
        print(f"wrote {results}", file=sys.stderr)
    if plot is not None:
        from perfmodel.plots.front import front_figure

        save_figure(front_figure(result), plot)
    print_answer(
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
