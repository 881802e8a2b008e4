"""`perfmodel validate`: predictions beside measurements."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from perfmodel.cli.options import (
    Autocast,
    Batch,
    Dtype,
    Format,
    Hardware,
    Layout,
    Output,
    OutputFormat,
    Resolution,
    emit,
    emit_tables,
    is_given,
    listed,
    predicted,
)
from perfmodel.errors import PerfmodelError, shown
from perfmodel.place import require_place

if TYPE_CHECKING:
    from perfmodel.report.table import Table
    from perfmodel.validation.dataset import Dataset
    from perfmodel.validation.network_run import Run
    from perfmodel.validation.profiles import ProfileComparison
    from perfmodel.validation.statistics import Errors

validate_app = typer.Typer(
    help="How right the model is: predictions beside measurements, others' and your own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MeasuredModel = Annotated[str, typer.Option("--model", metavar="MODEL", help="The network that was profiled.")]
MeasuredFiles = Annotated[
    list[str], typer.Argument(metavar="CSV=DEV…", help="Files of timm's benchmark format, each with its GPU.")
]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps the kernels of imported networks between runs.")]
Source = Annotated[str, typer.Option(help="Where the files come from, with their revision, for the record.")]


@validate_app.command("timm")
def validate_timm(
    file: Annotated[Path, typer.Argument(metavar="CSV", help="A file of timm's benchmark format (benchmark-infer-*.csv).")],
    hardware: Hardware,
    schedule: Annotated[str | None, typer.Option(help="eager or pointwise; default: as the file's name says.")] = None,
    layout: Annotated[str | None, typer.Option(help="nhwc or nchw; default: as the file's name says.")] = None,
    autocast: Annotated[str, typer.Option(help="fp16 or bf16: the type of the file's mixed precision.")] = "fp16",
    tier: Annotated[str, typer.Option(help="expected, waterline or bound.")] = "expected",
    source: Source = "not given",
    unmeasured: Annotated[
        bool, typer.Option("--unmeasured", help="Leave out what was measured on the device, as if nobody had one.")
    ] = False,
    top: Annotated[int, typer.Option(min=0, help="Rows to show in the table, the furthest off; 0 shows all.")] = 20,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Every network of a published benchmark file that can be built: predicted beside measured."""
    from perfmodel.hardware.catalog import load
    from perfmodel.units import text
    from perfmodel.validation.comparison import Provenance, compare
    from perfmodel.validation.dataset import layout_of, named_otherwise, schedule_of
    from perfmodel.validation.tables import comparison_table
    from perfmodel.validation.timm import read

    if unmeasured and text("tier", tier) != "expected":
        raise PerfmodelError(f"figures that were measured count under tier expected; tier {shown(tier)} has none to leave out")
    device, rows = load(hardware), read(file)
    provenance = Provenance(
        file=file.name,
        source=source,
        hardware=device.slug,
        schedule=text("schedule", schedule_of(file, schedule)),
        autocast=text("autocast", autocast),
        layout=layout_of(file, layout),
        tier=text("tier", tier),
        unmeasured=unmeasured,
    )
    if unmeasured:
        device = device.model_copy(update={"measured": ()})
    _warn(named_otherwise(file, device))
    comparison = compare(rows, device, provenance)
    if fmt is Format.JSON:
        emit(comparison.model_dump_json(indent=2) + "\n", output)
    else:
        emit_tables([comparison_table(comparison, top=top or None)], fmt, output)


def _profile(
    form: str,
    file: Path,
    model: str,
    hardware: str,
    batch: int | None,
    resolution: int | None,
    dtype: str | None,
    autocast: str | None,
    layout: str,
    schedule: str,
    tier: str,
    fmt: Format,
    output: Path | None,
) -> None:
    from perfmodel.validation.profiles import READERS, compare_profile
    from perfmodel.validation.tables import profile_table

    found = READERS[form](file)
    # a profile has kernels without the waiting for the host
    prediction = predicted(
        model, hardware, batch, resolution, 1000, dtype, autocast, layout, schedule, tier, graph=tier == "expected"
    )
    comparison: ProfileComparison = compare_profile(prediction, found, file=file.name, form=form)
    _warn(comparison.doubt)
    _emit_comparison(comparison, profile_table(comparison), fmt, output)


def _emit_comparison(comparison: Errors, table: Table, fmt: Format, output: Path | None) -> None:
    if fmt is Format.JSON:
        emit(comparison.model_dump_json(indent=2) + "\n", output)
    else:
        emit_tables([table], fmt, output)


ProfileSchedule = Annotated[str, typer.Option("--schedule", help="eager, pointwise, layer or block: what was profiled.")]
ProfileTier = Annotated[str, typer.Option(help="expected, waterline or bound.")]


@validate_app.command("ncu")
def validate_ncu(
    file: Annotated[
        Path, typer.Argument(metavar="CSV", help="What `ncu --csv` printed, with gpu__time_duration.sum and dram__bytes_*.sum.")
    ],
    model: MeasuredModel,
    hardware: Hardware,
    batch: Batch = None,
    resolution: Resolution = None,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ProfileSchedule = "eager",
    tier: ProfileTier = "waterline",
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """A profile of Nsight Compute beside a prediction, kernel by kernel: times and DRAM bytes."""
    _profile("ncu", file, model, hardware, batch, resolution, dtype, autocast, layout, schedule, tier, fmt, output)


@validate_app.command("trtexec")
def validate_trtexec(
    file: Annotated[Path, typer.Argument(metavar="JSON", help="What `trtexec --exportProfile=FILE` wrote.")],
    model: MeasuredModel,
    hardware: Hardware,
    batch: Batch = None,
    resolution: Resolution = None,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ProfileSchedule = "layer",
    tier: ProfileTier = "waterline",
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """A profile of TensorRT beside a prediction, layer by layer."""
    _profile("trtexec", file, model, hardware, batch, resolution, dtype, autocast, layout, schedule, tier, fmt, output)


@validate_app.command("torch-trace")
def validate_torch_trace(
    file: Annotated[
        Path, typer.Argument(metavar="JSON", help="What torch.profiler's export_chrome_trace wrote; may be gzipped.")
    ],
    model: MeasuredModel,
    hardware: Hardware,
    batch: Batch = None,
    resolution: Resolution = None,
    dtype: Dtype = None,
    autocast: Autocast = None,
    layout: Layout = "nhwc",
    schedule: ProfileSchedule = "eager",
    tier: ProfileTier = "expected",
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """A trace of PyTorch's profiler beside a prediction, kernel by kernel."""
    _profile("torch-trace", file, model, hardware, batch, resolution, dtype, autocast, layout, schedule, tier, fmt, output)


def _datasets(
    files: list[str], schedule: str | None, layout: str | None, autocast: str, least_batch: int, cache: Path | None
) -> list[Dataset]:
    from perfmodel.hardware.catalog import load
    from perfmodel.validation.dataset import gather, named_otherwise

    found: list[Dataset] = []
    known: set[Path] = set()
    for given in files:
        name, _, device = given.rpartition("=")
        if not name:
            raise PerfmodelError(
                f"{given} does not say which GPU it was measured on; write FILE=DEVICE, as in benchmark.csv=rtx4090"
            )
        if (same := Path(name).resolve()) in known:
            raise PerfmodelError(f"{name} is given twice, and its rows would count twice; give each file once")
        known.add(same)
        _warn(named_otherwise(Path(name), load(device)))
        dataset = gather(
            Path(name),
            device,
            schedule=schedule,
            layout=layout,
            autocast=autocast,
            least_batch=least_batch,
            cache=cache,
            say=_say,
        )
        for one in dataset.skipped:
            _say(f"{dataset.file}: {one.sentence}")
        found.append(dataset)
    return found


def _warn(doubt: str | None) -> None:
    if doubt is not None:
        _say(f"perfmodel: warning: {doubt}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


ABOUT_FILES: Final = ("schedule", "layout", "autocast", "least_batch", "ablation", "source", "cache")
"""Options of `validate report` that say nothing about what is recorded."""


@validate_app.command("report")
def validate_report(
    ctx: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CSV=DEV…]", help="Files of timm's benchmark format, each with its GPU; none: as recorded."),
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="eager or pointwise; default: as each file's name says.")] = None,
    layout: Annotated[str | None, typer.Option(help="nhwc or nchw; default: as each file's name says.")] = None,
    autocast: Annotated[str, typer.Option(help="fp16 or bf16.")] = "fp16",
    least_batch: Annotated[int, typer.Option(min=1, help="Leave out rows of smaller batches.")] = 1,
    ablation: Annotated[bool, typer.Option(help="Refit without each term.")] = True,
    source: Source = "not given",
    cache: Cache = None,
    record: Annotated[Path | None, typer.Option(help="Also write every figure and row to this JSON file.")] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The report: .md or .html; plots stand beside it.")] = Path(
        "validation.html"
    ),
) -> None:
    """How right tier expected is on what it has not seen, where it is wrong and why: Markdown or HTML, with plots."""
    from perfmodel.validation.fused_tables import fused_blocks, recorded_ablated, recorded_fused
    from perfmodel.validation.network_tables import recorded_network_blocks
    from perfmodel.validation.protocol import run
    from perfmodel.validation.protocol_report import recorded_protocol, require_ending, write_report

    if not files and (about := [name for name in ABOUT_FILES if is_given(ctx, name)]):
        raise PerfmodelError(f"--{about[0].replace('_', '-')} is about files of measurements; give CSV=DEV, too, or leave it out")
    require_ending(output)
    for place in (output, record):
        if place is not None:
            require_place(place)
    protocol = (
        run(_datasets(files, schedule, layout, autocast, least_batch, cache), source=source, ablate=ablation, say=_say)
        if files
        else recorded_protocol()
    )
    if record is not None:
        emit(protocol.model_dump_json(indent=1) + "\n", record)
    # others' files say nothing about what we measured, which belongs to the recorded protocol
    own = () if files else (*recorded_network_blocks(), *fused_blocks(recorded_fused(), recorded_ablated() if ablation else {}))
    write_report(protocol, output, own)
    print(f"wrote {output}", file=sys.stderr)


@validate_app.command("calibrate")
def validate_calibrate(
    files: MeasuredFiles,
    description: Annotated[str, typer.Option(help="The software that was measured, for people: 'PyTorch 2.4 eager'.")],
    source: Source,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="eager or pointwise (default: as each file's name says), or block: CSV is a folder of fused kernels' results."
        ),
    ] = None,
    layout: Annotated[str | None, typer.Option(help="nhwc or nchw; default: as each file's name says.")] = None,
    autocast: Annotated[str, typer.Option(help="fp16 or bf16.")] = "fp16",
    least_batch: Annotated[int, typer.Option(min=1, help="Leave out rows of smaller batches.")] = 1,
    cache: Cache = None,
    output: Output = None,
) -> None:
    """Fit the constants of a software stack to measured files; predict takes the result with --calibration.

    With --schedule block the file is a folder of fused kernels' results (`validate run --what fused`).
    """
    from perfmodel.validation.protocol import as_toml, calibrated

    if schedule == "block":
        emit(_fused_factors(files, description, source), output)
        return
    datasets = _datasets(files, schedule, layout, autocast, least_batch, cache)
    if len({dataset.schedule for dataset in datasets}) > 1:
        raise PerfmodelError("the files were measured with different schedules; fit eager and pointwise apart")
    emit(as_toml(calibrated(datasets, description=description, source=source)), output)


@validate_app.command("spread")
def validate_spread(
    files: Annotated[
        list[Path], typer.Argument(metavar="JSON…", help="What `validate timm --format json` wrote, of one device each.")
    ],
    source: Source = "not given",
    least_batch: Annotated[int, typer.Option(min=1, help="Leave out rows of smaller batches, which the host may hold.")] = 128,
    output: Output = None,
) -> None:
    """How far devices are off whose rates were carried to them: what widens the interval of tier expected on such a device."""
    from perfmodel.validation.carried_spread import carried_spread, spread_toml
    from perfmodel.validation.comparison import read_comparison

    found = [read_comparison(file) for file in files]
    emit(spread_toml(carried_spread(found, least_batch=least_batch, source=source)), output)


def _fused_factors(files: list[str], description: str, source: str) -> str:
    from perfmodel.validation.fused_protocol import calibrated_fused, run_fused
    from perfmodel.validation.fused_tables import fused_toml
    from perfmodel.validation.protocol import today
    from perfmodel.validation.revision import git_revision

    if len(files) != 1 or "=" not in files[0]:
        raise PerfmodelError(
            "fused kernels are calibrated from one folder of results and its GPU, as in validation/results/h200=h200"
        )
    folder, _, device = files[0].rpartition("=")
    protocol = run_fused(Path(folder), device)
    for one in protocol.skipped:
        _say(f"left out, {shown(one.reason, 300)}: {', '.join(shown(row, 300) for row in one.rows)}")
    return fused_toml(calibrated_fused(protocol, description=description, source=source, date=today(), revision=git_revision()))


@validate_app.command("run")
def validate_run(
    ctx: typer.Context,
    output: Annotated[
        Path,
        typer.Option(metavar="JSONL", help="Results, one line each; a run that was stopped goes on. With --what fused a folder."),
    ],
    what: Annotated[str, typer.Option(help="networks, layers or fused.")] = "networks",
    models: Annotated[
        str | None,
        typer.Option(
            help="timm's names, separated by commas (default: resnet50, convnext_tiny, efficientnet_b0, mobilenetv2_100); with --what "
            "layers names of the catalogue; with --what fused families of blocks (default: all)."
        ),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(help="Batch sizes, separated by commas (default: 1, 16, 64, 256; with --what fused all that are recorded)."),
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="With --what fused: check, time, count, separated by commas (default: all).")
    ] = None,
    precisions: Annotated[
        str, typer.Option(help="fp16, bf16, fp32, autocast-fp16, autocast-bf16, separated by commas.")
    ] = "fp16",
    runs: Annotated[
        str,
        typer.Option(
            help="eager, graph (eager's kernels replayed as a CUDA graph), compile, compile-graph, separated by commas."
        ),
    ] = "eager,graph",
    resolution: Annotated[int, typer.Option(min=1, help="Height and width of the image.")] = 224,
    layout: Layout = "nhwc",
    seconds: Annotated[float | None, typer.Option(min=0, help="Start no case after this long.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Also record every kernel's time.")] = False,
    traces: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Also write a trace of every case in a stream, for `perfmodel validate torch-trace`."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Networks that torch.compile compiles at the same time (default: one for each core, at most 14)."
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=0, help="With --what fused: check only every so many-th of the odd sizes; 0: none (default: 1)."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="With --what fused: random inputs of each check (default: all there are).")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the source, for the record, where it is not a git checkout.")] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Fill the compiler's cache for runs compile, and measure nothing.")
    ] = False,
) -> None:
    """Measure fused kernels, single layers, and whole networks (PyTorch eager, torch.compile, graph replay) on this machine's GPU."""
    from perfmodel.validation.network_run import COMPILED, IN_STREAM, LAYOUTS, PRECISIONS, RUNS, Counts, cases, compilers

    if what not in NOT_TAKEN:
        raise PerfmodelError(f"what must be networks, layers or fused, not '{shown(what)}'")
    if taken := [name for name in NOT_TAKEN[what] if is_given(ctx, name)]:
        raise PerfmodelError(f"--{taken[0]} says nothing about --what {what}; leave it out")
    sizes = None if batches is None else [_whole(text) for text in listed("--batches", batches)]
    if what == "fused":
        raise typer.Exit(_measure_fused(output, models, sizes, stages, {"every": every, "seeds": seeds, "revision": revision}))
    if layout not in LAYOUTS:
        raise PerfmodelError(f"--layout takes {' or '.join(LAYOUTS)}, not '{shown(layout)}'")
    wanted_runs = cast("list[Run]", _chosen("--runs", runs, RUNS) if what == "networks" else ["graph"])
    for option, its_runs in (("prepare", COMPILED), ("jobs", COMPILED), ("profile", IN_STREAM), ("traces", IN_STREAM)):
        if is_given(ctx, option) and not set(its_runs) & set(wanted_runs):
            raise PerfmodelError(f"--{option} is about runs {' and '.join(its_runs)}; give --runs, too")
    sizes = sizes or [1, 16, 64, 256]
    wanted = cases(
        MEASURED_BY_DEFAULT if models is None else listed("--models", models),
        sizes,
        _chosen("--precisions", precisions, PRECISIONS),
        wanted_runs,
        resolution=resolution,
        layout=layout,
    )
    if what == "layers":
        from perfmodel.validation.layer_run import measure_layers

        if any(case.autocast for case in wanted):
            raise PerfmodelError(
                "single layers are measured in one type, and no autocast chooses it; give --precisions fp16 or bf16"
            )
        counts = measure_layers(wanted, output, revision=revision, seconds=seconds, say=_say)
    else:
        from perfmodel.validation.network_run import measure_all, measure_compiled

        compiled = [case for case in wanted if case.run in COMPILED]
        others = [case for case in wanted if case.run not in COMPILED]
        counts = Counts(0, 0)
        if others and not prepare:
            counts += measure_all(others, output, revision=revision, seconds=seconds, profile=profile, traces=traces, say=_say)
        path = None if prepare else output
        if compiled:
            counts += measure_compiled(
                compiled,
                path,
                revision=revision,
                jobs=jobs or compilers(),
                seconds=seconds,
                profile=profile,
                traces=traces,
                say=_say,
            )
    print(f"{counts.measured} compiled" if prepare else f"{counts.measured} measured, in {output}", file=sys.stderr)
    if counts.failed:
        from perfmodel.validation.fused.problem import GpuError

        raise GpuError(f"{counts.failed} could not be {'compiled' if prepare else 'measured'}, as said above")


_OF_NETWORKS = ("runs", "layout", "profile", "traces", "jobs", "prepare")
_OF_FUSED = ("stages", "every", "seeds")
NOT_TAKEN = {
    "networks": _OF_FUSED,
    "layers": (*_OF_FUSED, *_OF_NETWORKS),
    "fused": ("precisions", "resolution", "seconds", *_OF_NETWORKS),
}
"""What is measured, and the options that have nothing to say about it."""
MEASURED_BY_DEFAULT = ("resnet50", "convnext_tiny", "efficientnet_b0", "mobilenetv2_100")


def _measure_fused(
    output: Path, models: str | None, batches: list[int] | None, stages: str | None, others: dict[str, int | str | None]
) -> int:
    from perfmodel.validation.checks import SEEDS
    from perfmodel.validation.fused.catalog import FAMILIES
    from perfmodel.validation.measure import STAGES
    from perfmodel.validation.measure import main as measure_fused

    arguments = ["--output", str(output)]
    arguments += [part for name in _chosen("--models", models, FAMILIES) for part in ("--block", name)]
    arguments += [part for name in _chosen("--stages", stages, STAGES) for part in ("--stage", name)]
    arguments += [part for batch in batches or () for part in ("--batch", str(batch))]
    if (seeds := others["seeds"]) is not None and int(seeds) > len(SEEDS):
        raise PerfmodelError(f"--seeds takes at most {len(SEEDS)}, not {seeds}")
    arguments += [f"--{option}={value}" for option, value in others.items() if value is not None]
    return measure_fused(arguments)


def _chosen(option: str, text: str | None, known: Iterable[str]) -> list[str]:
    names = [] if text is None else listed(option, text)
    if unknown := [name for name in names if name not in known]:
        raise PerfmodelError(f"{option} takes {', '.join(known)}, not '{shown(unknown[0])}'")
    return names


MOST_IMAGES = 2**20
"""In a batch."""


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST_IMAGES)) and 1 <= int(text) <= MOST_IMAGES):
        raise PerfmodelError(f"a batch size must be a whole number from 1 to {MOST_IMAGES}, not '{shown(text)}'")
    return int(text)


@validate_app.command("networks")
def validate_networks(
    file: Annotated[Path, typer.Argument(metavar="JSONL", help="What `perfmodel validate run` wrote.")],
    hardware: Hardware,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Networks measured by `validate run` beside tier expected."""
    from perfmodel.validation.network_comparison import compare_networks, networks_table

    comparison = compare_networks(file, hardware)
    _emit_comparison(comparison, networks_table(comparison), fmt, output)


@validate_app.command("layers")
def validate_layers(
    file: Annotated[Path, typer.Argument(metavar="JSONL", help="What `perfmodel validate run --what layers` wrote.")],
    hardware: Hardware,
    fmt: OutputFormat = Format.TABLE,
    output: Output = None,
) -> None:
    """Single layers measured by `validate run` beside tier expected."""
    from perfmodel.validation.layer_comparison import compare_layers, layers_table

    comparison = compare_layers(file, hardware)
    _emit_comparison(comparison, layers_table(comparison), fmt, output)
