"""`perfmodel hardware`: the catalogue of machines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli.options import Format, Output, OutputFormat, emit, emit_at_once, emit_tables, listed
from perfmodel.errors import PerfmodelError
from perfmodel.place import require_place

hardware_app = typer.Typer(
    help="The catalogue of machines, and how to describe one of your own.", no_args_is_help=True, rich_markup_mode=None
)


@hardware_app.command("list")
def hardware_list(fmt: OutputFormat = Format.TABLE, output: Output = None) -> None:
    """Every machine of the catalogue."""
    from perfmodel.report.machines import device_list

    emit_tables([device_list()], fmt, output)


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
        emit(spec.model_dump_json(indent=2) + "\n", output)
    else:
        emit_tables([device_table(spec)], fmt, output)


@hardware_app.command("schema")
def hardware_schema(output: Output = None) -> None:
    """The JSON schema of a machine's TOML file."""
    import json

    from perfmodel.hardware.catalog import json_schema

    emit(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", output)


@hardware_app.command("measure")
def hardware_measure(
    device: Annotated[
        str | None,
        typer.Option("--hardware", metavar="DEV", help="Its entry in the catalogue, or a TOML file; default: found by its name."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="The device's file with what was measured; default: DEV-measured.toml."),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Also write every raw sample, as it comes: a run that is stopped keeps them."),
    ] = None,
    where: Annotated[str, typer.Option(help="Where it was measured, for the record.")] = "this machine",
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            help="Some of bandwidth, throughput, launch, phases, matrix, rates, memory, compiled, host, separated by commas; other figures "
            "of the device's file stay.",
        ),
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Samples of an older run on the same device, whose other samples stay."),
    ] = None,
) -> None:
    """Measure this machine's GPU (about a minute): bandwidths, throughputs, launch gaps, PyTorch's own rates, clocks under load."""
    from perfmodel.hardware.catalog import load
    from perfmodel.validation.gpu import driver_version, this_device
    from perfmodel.validation.machine_file import slug_of, with_measured
    from perfmodel.validation.microbenchmarks import PARTS, MachineRun, recorded_run, run

    parts = PARTS if only is None else listed("--only", only)
    if unknown := [part for part in parts if part not in PARTS]:
        raise PerfmodelError(f"--only takes {', '.join(PARTS)}, not {unknown[0]!r}")
    older = recorded_run(onto) if onto is not None else None
    name = device or slug_of(this_device().name)
    slug = load(name).slug
    target = output or Path(f"{slug}-measured.toml")
    for place in (target, samples):
        if place is not None:
            require_place(place)

    def whole(found: MachineRun) -> MachineRun:
        return found if older is None else found.onto(older)

    def keep(found: MachineRun) -> None:
        if samples is not None:
            emit_at_once(whole(found).model_dump_json(indent=1) + "\n", samples)

    if older is not None:
        older.require(this_device().name, driver_version())
    found = run(lambda line: print(line, file=sys.stderr, flush=True), parts, keep)
    if not found.samples:
        from perfmodel.validation.fused.problem import GpuError

        why = "; ".join(dict.fromkeys(one.reason for one in found.skipped))
        raise GpuError(f"nothing of {', '.join(parts)} can be measured here{f', {why}' if why else ''}")
    anew = {sample.quantity for sample in found.samples}
    measured = [entry for entry in whole(found).measured(where) if entry.quantity in anew]
    emit_at_once(with_measured(name, measured, keep=only is not None), target)
    print(f"wrote {target}; predict with --hardware {target}", file=sys.stderr)
