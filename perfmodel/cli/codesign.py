"""`perfmodel design convfirst-net`: the network that a machine asks for at a budget."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Final

import typer

from perfmodel.cli.options import Dtype, Format, Output, OutputFormat, Sets, emit, emit_tables, is_given, named_device
from perfmodel.errors import PerfmodelError, shown

_COUNT: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kMGT]?)")
_PREFIXES: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def convfirst_net(
    ctx: typer.Context,
    hardware: Annotated[
        str | None, typer.Option("--hardware", metavar="DEV", help="A machine of the catalogue, or a TOML file.")
    ] = None,
    macs: Annotated[str | None, typer.Option(help="Budget of multiply-accumulates for one image, as in 5.8G.")] = None,
    params: Annotated[str | None, typer.Option(help="Budget of parameters, as in 25M.")] = None,
    like: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The multiply-accumulates of this network as the budget.")
    ] = None,
    member: Annotated[str | None, typer.Option(help="The question whose answer is this member of the shipped family.")] = None,
    family: Annotated[bool, typer.Option("--family", help="Regenerate the whole shipped family, and compare.")] = False,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 128,
    resolution: Annotated[int, typer.Option(help="Height and width of the image.")] = 256,
    dtype: Dtype = None,
    schedule: Annotated[
        str, typer.Option(help="auto: the best kernels for each design; or eager, pointwise, layer, block.")
    ] = "auto",
    tolerance: Annotated[float, typer.Option(help="How far from the budget a design may be, as a fraction.")] = 0.015,
    deepest: Annotated[str, typer.Option(help="The most blocks in each stage.")] = "3,3,9,3",
    widths: Annotated[
        str, typer.Option(metavar="MIN:MAX", help="Channels of the first stage; the next ones double them.")
    ] = "16:256",
    width_step: Annotated[int, typer.Option(help="Widths are multiples of it; itself a multiple of 16.")] = 16,
    sets: Sets = None,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """The ConvFirstNet with the least predicted fused latency at a budget of multiply-accumulates or parameters, and what shaped it."""
    from perfmodel.design import codesign
    from perfmodel.report.codesign import answer_json, design_table, family_table, stage_table

    if member is not None or family:
        ours = ("member", "family", "fmt", "output")
        given = [name for name in ctx.params if name not in ours and is_given(ctx, name)]
        if given:
            raise PerfmodelError(
                "--member and --family are questions of their own; leave out "
                + ", ".join("--" + ("set" if name == "sets" else name.replace("_", "-")) for name in given)
            )
        if member is not None and family:
            raise PerfmodelError("give --member or --family, not both")
    if family:
        answers = {name: codesign.member(name, progress=_progress, explain=False) for name in codesign.FAMILY}
        emit_tables([family_table(answers)], fmt, output)
        return
    if member is not None:
        answer = codesign.member(member, progress=_progress)
    else:
        if hardware is None:
            raise PerfmodelError("name a machine with --hardware, or a member of the shipped family with --member")
        answer = codesign.design_convfirst_net(
            named_device(hardware, sets),
            macs=_number("--macs", macs),
            params=_number("--params", params),
            like=like,
            batch=batch,
            resolution=resolution,
            dtype=dtype,
            schedule=schedule,
            tolerance=tolerance,
            deepest=_numbers("--deepest", deepest, ",", 4),
            widths=_range(widths),
            width_step=width_step,
            progress=_progress,
        )
    if fmt is Format.JSON:
        emit(answer_json(answer), output)
    elif fmt is Format.CSV:
        emit_tables([design_table(answer)], fmt, output)
    else:
        emit_tables([design_table(answer), stage_table(answer)], fmt, output)


def _progress(done: int, all_of: int) -> None:
    if sys.stderr.isatty():
        print(f"\rplanning design {done + 1} of {all_of} ", end="\n" if done + 1 == all_of else "", file=sys.stderr, flush=True)


def _number(option: str, given: str | None) -> int | None:
    """A count with a prefix, as in 5.8G."""
    if given is None:
        return None
    match = _COUNT.fullmatch(given.strip())
    value = round(float(match[1]) * _PREFIXES[match[2]]) if match and len(given) < 40 else 0
    if value < 1:
        raise PerfmodelError(f"{option} must be a number such as 5.8G, 25M or 300000, not {shown(given)!r}")
    return value


def _numbers(option: str, given: str, separator: str, how_many: int) -> tuple[int, ...]:
    parts = given.split(separator)
    if len(parts) != how_many or not all(part.strip().isascii() and part.strip().isdigit() and len(part) < 8 for part in parts):
        raise PerfmodelError(f"{option} must be {how_many} whole numbers with '{separator}' between them, not {shown(given)!r}")
    return tuple(int(part) for part in parts)


def _range(given: str) -> tuple[int, int]:
    low, high = _numbers("--widths", given, ":", 2)
    return low, high
