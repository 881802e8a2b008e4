"""What commands share: their options, and how input is gathered and output written."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.errors import PerfmodelError
from perfmodel.place import require_place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from perfmodel.hardware.spec import DeviceSpec
    from perfmodel.network import Network
    from perfmodel.prediction import Prediction
    from perfmodel.report.table import Table
    from perfmodel.schedule import Partition


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


_MODEL_HELP = (
    "a network of the catalogue (see `perfmodel networks`), a file .onnx, timm:NAME, or package.module:function, "
    "which imports that module and RUNS the function (yours, and trusted) to get a torch.nn.Module."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=f"What to look at: {_MODEL_HELP}")]
Models = Annotated[list[str], typer.Argument(metavar="MODEL…", help=f"What to look at; each is {_MODEL_HELP}")]
Hardware = Annotated[str, typer.Option("--hardware", metavar="DEV", help="A machine of the catalogue, or a TOML file of yours.")]
Batch = Annotated[int | None, typer.Option(help="Images in a batch; default: 1, or that of an ONNX file.", show_default=False)]
ManyImages = Annotated[int, typer.Option("--batch", help="Images in a batch.")]
Resolution = Annotated[int | None, typer.Option(help="Height and width of the image; default: the network's own.")]
Classes = Annotated[int, typer.Option(help="Number of classes, of networks of the catalogue and of timm.")]
Dtype = Annotated[str | None, typer.Option(help="Type of every tensor: fp32, tf32, fp16 (default), bf16, int8, fp8.")]
Autocast = Annotated[str | None, typer.Option(help="fp16 or bf16: an fp32 network in automatic mixed precision.")]
Layout = Annotated[str, typer.Option(help="nhwc or nchw: layout of tensors in memory.")]
ScheduleName = Annotated[
    str, typer.Option("--schedule", help="eager, pointwise, layer, block or auto; or a JSON file with the layers of each kernel.")
]
Tier = Annotated[
    str, typer.Option(help="waterline; bound: a lower bound that no measurement undercuts; or expected: what PyTorch attains.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="What if the machine had another figure? dram_bandwidth=2x, l2_bytes=96MiB, peak=+50%.",
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", case_sensitive=False, help="How to print.")]


def _placed(output: Path | None) -> Path | None:
    if output is not None:
        require_place(output)
    return output


def _plotted(target: Path | None) -> Path | None:
    if target is not None:
        from perfmodel.plots.save import check_target

        check_target(target)
    return target


Output = Annotated[
    Path | None,
    typer.Option(callback=_placed, help="Write to this file instead of standard output (- is standard output)."),
]
PlotFile = Annotated[
    Path,
    typer.Option(
        "--output", metavar="FILE", callback=_plotted, help="File to write; its ending says the format: svg, png, pdf, html."
    ),
]


def plot_option(said: str) -> Any:
    """`--plot`, of a command that prints something else."""
    return typer.Option(callback=_plotted, help=said)


def named_schedule(name: str) -> str | Partition:
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


def predicted(
    model: str,
    hardware: str,
    batch: int | None,
    resolution: int | None,
    classes: int,
    dtype: str | None,
    autocast: str | None,
    layout: str,
    schedule: str,
    tier: str,
    sets: Sequence[str] | None = None,
    *,
    graph: bool = False,
    calibration: Path | None = None,
) -> Prediction:
    """The prediction of a model that was named on the command line; `sets` are figures of the machine that are set."""
    from perfmodel.prediction import predict

    network = named_network(model, batch, resolution, classes)
    return predict(
        network,
        named_device(hardware, sets),
        dtype=dtype,
        autocast=autocast,
        layout=layout,
        schedule=named_schedule(schedule),
        tier=tier,
        graph=graph,
        calibration=calibration,
    )


def named_device(hardware: str, sets: Sequence[str] | None = None) -> DeviceSpec:
    """The machine that was named, with figures set."""
    from perfmodel.hardware.catalog import load
    from perfmodel.hardware.what_if import what_if

    device = load(hardware)
    return what_if(device, sets) if sets else device


def named_network(model: str, batch: int | None, resolution: int | None, classes: int) -> Network:
    """The network that was named, built at that size; one that was imported already is not imported again."""
    key = (model, batch, resolution, classes)
    if key not in _IMPORTED:
        from perfmodel.importers.model import network

        _IMPORTED[key] = network(model, batch=batch, resolution=resolution, classes=classes)
    return _IMPORTED[key]


_IMPORTED: dict[tuple[str, int | None, int | None, int], Network] = {}
"""Networks of this run of the command: a comparison asks for each under every schedule and on every machine."""


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option of that name was written on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def emit(text: str, output: Path | None) -> None:
    """Print, or write to a file."""
    if output is None or str(output) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PerfmodelError(f"cannot write {output}: {error.strerror}; choose another file") from None


def emit_at_once(text: str, output: Path) -> None:
    """As `emit`, but a file gets all of the text or none: what stood there before stays where this is cut off."""
    whole = output.resolve()  # a link stays one
    if str(output) == "-" or (whole.exists() and not whole.is_file()) or not os.access(whole.parent, os.W_OK):
        emit(text, output)
        return
    beside = whole.with_name(f".{whole.name}.{os.getpid()}")
    try:
        emit(text, beside)
        if whole.exists():
            beside.chmod(whole.stat().st_mode & 0o7777)
        beside.replace(whole)
    except OSError as error:
        raise PerfmodelError(f"cannot write {output}: {error.strerror}; choose another file") from None
    finally:
        beside.unlink(missing_ok=True)


def emit_tables(tables: Sequence[Table], fmt: Format, output: Path | None) -> None:
    """Print tables in a format, as wide as the terminal allows, or write them to a file."""
    from perfmodel.report.table import render, terminal

    width, colour = terminal(sys.stdout) if output is None else (None, False)
    emit("\n".join(render(table, fmt, width=width, colour=colour) for table in tables), output)


def save_figure(figure: Figure, output: Path) -> None:
    """Write a plot and say where."""
    from perfmodel.plots.save import save

    save(figure, output)
    print(f"wrote {output}", file=sys.stderr)


def listed(option: str, text: str) -> list[str]:
    """The items of an option that takes several, separated by commas."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise PerfmodelError(f"{option} names nothing; give at least one name")
    return items
