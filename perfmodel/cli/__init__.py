"""The command line. Each command gathers its input, calls the library, and prints; nothing is computed here."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.core

from perfmodel.cli.codesign import convfirst_net
from perfmodel.cli.design import design_app
from perfmodel.cli.hardware import hardware_app
from perfmodel.cli.options import (
    Autocast,
    Batch,
    Classes,
    Dtype,
    Format,
    Hardware,
    Layout,
    ManyImages,
    Model,
    Models,
    Output,
    OutputFormat,
    Resolution,
    ScheduleName,
    Sets,
    Tier,
    emit,
    emit_tables,
    listed,
    named_network,
    plot_option,
    predicted,
)
from perfmodel.cli.plan import plan
from perfmodel.cli.plot import plot_app
from perfmodel.cli.search import design_search  # noqa: F401 - joins the commands of design
from perfmodel.cli.validate import validate_app
from perfmodel.errors import PerfmodelError

OVER_BUDGET: Final = 3
UNSUPPORTED: Final = 4
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE
DEFAULT_TOP: Final = 20


class Stopped(PerfmodelError):
    """The run was ended from outside: by Ctrl-C, or by the reader of its output."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class _Commands(typer.core.TyperGroup):
    """Commands whose interruptions are ours to report; typer would end the process without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # keep the interpreter from failing again when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Stopped("stopped, the reader of the output has gone", PIPE_CLOSED) from None
        except KeyboardInterrupt:
            raise Stopped("interrupted", INTERRUPTED) from None


app = typer.Typer(
    name="perfmodel",
    cls=_Commands,
    help="How fast will a convolutional network run on a machine, what holds it back, and what should change?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(hardware_app, name="hardware")
app.add_typer(plot_app, name="plot")
app.add_typer(design_app, name="design")
app.command("plan")(plan)
design_app.command("convfirst-net")(convfirst_net)
app.add_typer(validate_app, name="validate")


def _print_version(wanted: bool) -> None:
    if wanted:
        from perfmodel import __version__

        print(f"perfmodel {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error; may stand anywhere.")] = False,
) -> None:
    del version, debug  # the one is done by its callback, the other taken out by run()


@app.command()
def predict(
    model: Model,
    hardware: Hardware,
    batch: Batch = None,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ScheduleName = "layer",
    tier: Tier = "waterline",
    sets: Sets = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
    plot: Annotated[Path | None, plot_option("Also write the waterline plot to this file.")] = None,
    budget: Annotated[str | None, typer.Option(help="Exit with 3 if the latency exceeds this, as in 2ms.")] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Tier expected: kernels are launched by replaying a CUDA graph.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Tier expected: constants of your own, from `validate calibrate`.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 if an operation is not understood.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Kernels to show in the table, the slowest; 0 shows all.")] = DEFAULT_TOP,
) -> None:
    """Latency of a network on a machine, kernel by kernel, and what holds it."""
    from perfmodel.report.predictions import kernel_table, kind_table
    from perfmodel.units import seconds, si

    allowed_s = None if budget is None else seconds(budget)
    prediction = predicted(
        model,
        hardware,
        batch,
        resolution,
        classes,
        dtype,
        autocast,
        layout,
        schedule,
        tier,
        sets,
        graph=graph,
        calibration=calibration,
    )
    if plot is not None:
        from perfmodel.plots.save import save
        from perfmodel.plots.waterline import waterline_figure

        save(waterline_figure(prediction), plot)
    if fmt is Format.JSON:
        emit(prediction.to_json() + "\n", output)
    elif fmt is Format.CSV:
        emit_tables([kernel_table(prediction, people=False)], fmt, output)
    else:
        emit_tables([kernel_table(prediction, top=top or None), kind_table(prediction)], fmt, output)
    if allowed_s is not None and prediction.latency_s > allowed_s:
        print(
            f"perfmodel: over budget: {si(prediction.latency_s, 's')} is more than the {si(allowed_s, 's')} allowed",
            file=sys.stderr,
        )
        raise typer.Exit(OVER_BUDGET)
    if strict and prediction.unsupported:
        print(f"perfmodel: not understood: {', '.join(prediction.unsupported)}", file=sys.stderr)
        raise typer.Exit(UNSUPPORTED)


@app.command()
def compare(
    models: Models,
    hardware: Annotated[str, typer.Option("--hardware", metavar="DEV[,DEV…]", help="Machines, separated by commas.")],
    schedules: Annotated[str | None, typer.Option("--schedule", help="Schedules, separated by commas; all by default.")] = None,
    batch: Batch = None,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    tier: Tier = "waterline",
    sets: Sets = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Networks, machines and schedules side by side: MACs, bytes, latency, efficiency; with --set, as they are and would be."""
    from perfmodel.report.predictions import conditions, summary_table

    predictions = [
        predicted(model, device, batch, resolution, classes, dtype, autocast, layout, schedule, tier, changed)
        for device in listed("--hardware", hardware)
        for model in models
        for schedule in (_schedules_on(device, tier) if schedules is None else listed("--schedule", schedules))
        for changed in ((None, sets) if sets else (None,))
    ]
    first = predictions[0]
    title = (
        f"batch {first.network.batch}, {first.precision}, {layout}, tier {tier}"
        if len(models) > 1
        else conditions(first).replace(f", schedule {first.schedule}", "")
    )
    emit_tables([summary_table(predictions, title)], fmt, output)


def _schedules_on(device: str, tier: str) -> list[str]:
    """Every schedule that a machine has the figures for, and the tier the constants."""
    from perfmodel.hardware.catalog import load
    from perfmodel.hardware.spec import HardwareError
    from perfmodel.schedule import BLOCK, FUSED, NAMES

    spec = load(device)
    wanted, fused = list(NAMES), list(FUSED)
    if tier == "expected":
        from perfmodel.expected.constants import calibrated_schedules

        wanted = [name for name in NAMES if name in calibrated_schedules()]
        fused = [BLOCK]
    try:
        spec.require("chip.shared_memory_per_block_bytes")
        if tier == "expected":
            from perfmodel.expected.fused import Figures

            Figures.of(spec)
    except HardwareError as error:
        print(f"perfmodel: without schedule{'s' if len(fused) > 1 else ''} {' and '.join(fused)}: {error}", file=sys.stderr)
        return [name for name in wanted if name not in fused]
    return wanted


@app.command()
def networks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this network layer by layer.")] = None,
    batch: Batch = None,
    resolution: Resolution = None,
    classes: Classes = 1000,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """The networks of the catalogue, or the layers of one."""
    from perfmodel.report.networks import catalog_table, layer_table

    table = catalog_table() if name is None else layer_table(name, named_network(name, batch, resolution, classes))
    emit_tables([table], fmt, output)


@app.command()
def formula(
    name: Annotated[
        str | None, typer.Argument(metavar="[LAYER_OR_BLOCK]", help="A layer or block; without it, all that there are.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="eager, pointwise, layer or block (blocks only).")] = "layer",
    dtype: Annotated[str, typer.Option(help="Type of every tensor.")] = "fp16",
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX.")] = False,
    output: Output = None,
) -> None:
    """MACs, bytes, operational intensity and its limit, as formulas."""
    from perfmodel.schedule import BLOCK, check

    if name is None:
        from perfmodel.formulas import names

        emit("".join(f"{known}\n" for known in names()), output)
        return
    if check(schedule) == BLOCK:
        from perfmodel.fused_formulas import fused_text

        emit(fused_text(name, dtype=dtype, latex=latex), output)
        return
    from perfmodel.formulas import formula as work_formula
    from perfmodel.formulas import formula_text

    emit(formula_text(work_formula(name, schedule=schedule, dtype=dtype), latex=latex), output)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the plots.")] = Path("demo-output"),
    batch: ManyImages = 128,
) -> None:
    """Four networks on two machines under every schedule: tables, what holds them, and plots."""
    from perfmodel.demo import run

    run(output, batch=batch)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; every fault of the input is one sentence on standard error.

    `--debug` may stand anywhere and adds a traceback.
    """
    given = [argument for argument in arguments if argument != "--debug"]
    return _guarded(lambda: app(given, prog_name="perfmodel", standalone_mode=False), debug=len(given) < len(arguments))


def main() -> None:
    """Entry point of the command `perfmodel`."""
    codecs.register_error("spell-out", _spell_out)
    if sys.stdout is None or sys.stderr is None:  # closed by the caller
        devnull = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives as long as the process
        sys.stdout, sys.stderr = sys.stdout or devnull, sys.stderr or devnull
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spell-out")  # a terminal that cannot show × or µ still gets the answer
    sys.exit(run(sys.argv[1:]))


_SPELLED: Final = {"µ": "u", "×": "x", "·": "*", "–": "-", "…": "...", "≥": ">=", "─": "-", "−": "-", "¹": "1", "²": "2"}


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, in letters that it has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SPELLED.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _guarded(command: Callable[[], Any], *, debug: bool) -> int:
    try:
        result = command()
    except PerfmodelError as error:
        return _fail(error, str(error), error.exit_code, debug=debug)
    except OSError as error:
        return _fail(error, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2, debug=debug)
    except Exception as error:
        # typer raises its usage errors as exceptions that know their message and exit code
        message, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
        if message is None or code is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message())
            return 0
        return _fail(error, " ".join(message().split()) or "see perfmodel --help", code, debug=debug)
    return result if isinstance(result, int) else 0


def _fail(error: BaseException, sentence: str, code: int, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"perfmodel: {sentence}", file=sys.stderr)
    return code
