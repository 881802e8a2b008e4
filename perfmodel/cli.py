"""The command line. Each command gathers its input, calls the library, and prints; nothing is computed here."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import typer.core

from perfmodel.errors import PerfmodelError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from perfmodel.prediction import Prediction
    from perfmodel.report.table import Table
    from perfmodel.schedule import Partition

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
hardware_app = typer.Typer(
    help="The catalogue of machines, and how to describe one of your own.", no_args_is_help=True, rich_markup_mode=None
)
plot_app = typer.Typer(help="Plots, written to a file: svg, png, pdf or html.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(hardware_app, name="hardware")
app.add_typer(plot_app, name="plot")


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


Model = Annotated[str, typer.Argument(metavar="MODEL", help="A network of the catalogue (see `perfmodel networks`).")]
Models = Annotated[list[str], typer.Argument(metavar="MODEL…", help="Networks of the catalogue (see `perfmodel networks`).")]
Hardware = Annotated[str, typer.Option("--hardware", metavar="DEV", help="A machine of the catalogue, or a TOML file of yours.")]
Batch = Annotated[int, typer.Option(help="Images in a batch.")]
Resolution = Annotated[int | None, typer.Option(help="Height and width of the image; default: the network's own.")]
Classes = Annotated[int, typer.Option(help="Number of classes.")]
Dtype = Annotated[str | None, typer.Option(help="Type of every tensor: fp32, tf32, fp16 (default), bf16, int8, fp8.")]
Autocast = Annotated[str | None, typer.Option(help="fp16 or bf16: an fp32 network in automatic mixed precision.")]
Layout = Annotated[str, typer.Option(help="nhwc or nchw: layout of tensors in memory.")]
ScheduleName = Annotated[
    str, typer.Option("--schedule", help="eager, pointwise, layer or block; or a JSON file with the layers of each kernel.")
]
Tier = Annotated[str, typer.Option(help="waterline, or bound: a lower bound that no measurement undercuts.")]
OutputFormat = Annotated[Format, typer.Option("--format", case_sensitive=False, help="How to print.")]
Output = Annotated[Path | None, typer.Option(help="Write to this file instead of standard output (- is standard output).")]
PlotFile = Annotated[
    Path, typer.Option("--output", metavar="FILE", help="File to write; its ending says the format: svg, png, pdf, html.")
]


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


def _schedule(name: str) -> str | Partition:
    """A schedule's name, or the partition in a JSON file: a list of lists of layer names."""
    if not name.lower().endswith(".json"):
        return name
    import json

    try:
        parts = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise PerfmodelError(f"cannot read the partition {name}: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PerfmodelError(f"the partition {name} is not JSON: {error}") from None
    if not isinstance(parts, list) or not all(isinstance(part, list) and all(isinstance(x, str) for x in part) for part in parts):
        raise PerfmodelError(f"the partition {name} must be a list of kernels, each a list of layer names")
    return [part for part in parts if part]


def _predict(
    model: str,
    hardware: str,
    batch: int,
    resolution: int | None,
    classes: int,
    dtype: str | None,
    autocast: str | None,
    layout: str,
    schedule: str,
    tier: str,
) -> Prediction:
    from perfmodel.prediction import predict

    network = _network(model, batch, resolution, classes)
    return predict(network, hardware, dtype=dtype, autocast=autocast, layout=layout, schedule=_schedule(schedule), tier=tier)


def _network(model: str, batch: int, resolution: int | None, classes: int) -> Any:
    from perfmodel.networks.catalog import build

    if model.lower().endswith(".onnx") or ":" in model:
        raise PerfmodelError(
            f"{model!r} names a model outside the catalogue (ONNX, timm: or package.module:function), "
            "which this version cannot read; `perfmodel networks` lists what it can"
        )
    return build(model, batch=batch, resolution=resolution, classes=classes)


def _emit(text: str, output: Path | None) -> None:
    """Print, or write to a file."""
    if output is None or str(output) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PerfmodelError(f"cannot write {output}: {error.strerror}; choose another file") from None


def _emit_tables(tables: Sequence[Table], fmt: Format, output: Path | None) -> None:
    from perfmodel.report.table import render, terminal

    width, colour = terminal(sys.stdout) if output is None else (None, False)
    _emit("\n".join(render(table, fmt, width=width, colour=colour) for table in tables), output)


def _save(figure: Figure, output: Path) -> None:
    from perfmodel.plots.save import save

    save(figure, output)
    print(f"wrote {output}", file=sys.stderr)


@app.command()
def predict(
    model: Model,
    hardware: Hardware,
    batch: Batch = 1,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ScheduleName = "layer",
    tier: Tier = "waterline",
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
    plot: Annotated[Path | None, typer.Option(help="Also write the waterline plot to this file.")] = None,
    budget: Annotated[str | None, typer.Option(help="Exit with 3 if the latency exceeds this, as in 2ms.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 if an operation is not understood.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Kernels to show in the table, the slowest; 0 shows all.")] = DEFAULT_TOP,
) -> None:
    """Latency of a network on a machine, kernel by kernel, and what holds it."""
    from perfmodel.report.predictions import kernel_table, kind_table
    from perfmodel.units import seconds, si

    allowed_s = None if budget is None else seconds(budget)
    prediction = _predict(model, hardware, batch, resolution, classes, dtype, autocast, layout, schedule, tier)
    if plot is not None:
        from perfmodel.plots.save import save
        from perfmodel.plots.waterline import waterline_figure

        save(waterline_figure(prediction), plot)
    if fmt is Format.JSON:
        _emit(prediction.to_json() + "\n", output)
    elif fmt is Format.CSV:
        _emit_tables([kernel_table(prediction, people=False)], fmt, output)
    else:
        _emit_tables([kernel_table(prediction, top=top or None), kind_table(prediction)], fmt, output)
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
    batch: Batch = 1,
    resolution: Resolution = None,
    classes: Classes = 1000,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    tier: Tier = "waterline",
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Networks, machines and schedules side by side: MACs, bytes, latency, efficiency."""
    from perfmodel.report.predictions import conditions, summary_table

    predictions = [
        _predict(model, device, batch, resolution, classes, dtype, autocast, layout, schedule, tier)
        for device in _listed("--hardware", hardware)
        for model in models
        for schedule in (_schedules_on(device) if schedules is None else _listed("--schedule", schedules))
    ]
    first = predictions[0]
    title = (
        f"batch {batch}, {first.precision}, {layout}, tier {tier}"
        if len(models) > 1
        else conditions(first).replace(f", schedule {first.schedule}", "")
    )
    _emit_tables([summary_table(predictions, title)], fmt, output)


def _schedules_on(device: str) -> list[str]:
    """Every schedule that a machine has the figures for."""
    from perfmodel.hardware.catalog import load
    from perfmodel.hardware.spec import HardwareError
    from perfmodel.schedule import BLOCK, NAMES

    try:
        load(device).require("chip.shared_memory_per_block_bytes")
    except HardwareError as error:
        print(f"perfmodel: without schedule {BLOCK}: {error}", file=sys.stderr)
        return [name for name in NAMES if name != BLOCK]
    return list(NAMES)


def _listed(option: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise PerfmodelError(f"{option} names nothing; give at least one name")
    return items


@app.command()
def networks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this network layer by layer.")] = None,
    batch: Batch = 1,
    resolution: Resolution = None,
    classes: Classes = 1000,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """The networks of the catalogue, or the layers of one."""
    from perfmodel.report.networks import catalog_table, layer_table

    table = catalog_table() if name is None else layer_table(name, _network(name, batch, resolution, classes))
    _emit_tables([table], fmt, output)


@hardware_app.command("list")
def hardware_list(fmt: OutputFormat = Format.TABLE, output: Output = None) -> None:
    """Every machine of the catalogue."""
    from perfmodel.report.machines import device_list

    _emit_tables([device_list()], fmt, output)


@hardware_app.command("show")
def hardware_show(
    device: Annotated[str, typer.Argument(metavar="DEV", help="A machine of the catalogue, or a TOML file of yours.")],
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Every number known of one machine, with the document it comes from."""
    from perfmodel.hardware.catalog import load
    from perfmodel.report.machines import device_table

    spec = load(device)
    if fmt is Format.JSON:
        _emit(spec.model_dump_json(indent=2) + "\n", output)
    else:
        _emit_tables([device_table(spec)], fmt, output)


@hardware_app.command("schema")
def hardware_schema(output: Output = None) -> None:
    """The JSON schema of a machine's TOML file."""
    import json

    from perfmodel.hardware.catalog import json_schema

    _emit(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", output)


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

        _emit("".join(f"{known}\n" for known in names()), output)
        return
    if check(schedule) == BLOCK:
        from perfmodel.fused_formulas import fused_text

        _emit(fused_text(name, dtype=dtype, latex=latex), output)
        return
    from perfmodel.formulas import formula as work_formula
    from perfmodel.formulas import formula_text

    _emit(formula_text(work_formula(name, schedule=schedule, dtype=dtype), latex=latex), output)


@plot_app.command("waterline")
def plot_waterline(
    model: Model,
    hardware: Hardware,
    output: PlotFile,
    batch: Batch = 1,
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
        _predict(model, hardware, batch, resolution, classes, dtype, autocast, layout, schedule, tier)
        for schedule in _listed("--schedule", schedules)
    ]
    _save(waterline_figure(*predictions), output)


@plot_app.command("roofline")
def plot_roofline(
    model: Model,
    hardware: Hardware,
    output: PlotFile,
    batch: Batch = 1,
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

    prediction = _predict(model, hardware, batch, resolution, classes, dtype, autocast, layout, schedule, tier)
    _save(roofline_figure(prediction), output)


@plot_app.command("gap")
def plot_gap(
    models: Models,
    hardware: Hardware,
    output: PlotFile,
    batch: Batch = 128,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ScheduleName = "layer",
    tier: Tier = "waterline",
) -> None:
    """Accuracy against latency per image, ideal and attainable; MODEL may be a family, as in `resnet`."""
    from perfmodel.plots.gap import gap_figure, gap_points

    points, skipped = gap_points(
        models, hardware, batch=batch, dtype=dtype, autocast=autocast, layout=layout, schedule=_schedule(schedule), tier=tier
    )
    _save(gap_figure(points, skipped), output)


@plot_app.command("capacity")
def plot_capacity(
    blocks: Annotated[list[str], typer.Argument(metavar="BLOCK…", help="Kinds of block: convfirst, mbconv, convnext, basic …")],
    output: PlotFile,
    channels: Annotated[int, typer.Option(help="Channels in and out.")] = 64,
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 56,
    batch: Batch = 128,
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
    devices = [load(name) for name in (DEVICES if hardware is None else _listed("--hardware", hardware))]
    for device in devices:
        device.require(CAPACITY)
    shape = Shape(batch, channels, size, size)
    _save(capacity_figure([block_curves(block, shape, dtype=dtype) for block in made], devices), output)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the plots.")] = Path("demo-output"),
    batch: Batch = 128,
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
