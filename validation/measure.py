"""`python -m perfmodel.validation.measure --block all`: check, time and count the fused kernels, and record it.

Every result is appended and flushed as it comes, as one line of JSON; a line that is there is not measured again. For each case: checks
against float64, times of the fused kernel and of PyTorch's eager and compiled block in the same process, DRAM bytes by ncu.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from perfmodel.errors import PerfmodelError
from perfmodel.validation.baselines import Baseline, torch_or_none
from perfmodel.validation.benchmarks import time_baseline, time_fused
from perfmodel.validation.checks import SEEDS, check
from perfmodel.validation.dram import count_dram, problem_of, profiled, worth_counting
from perfmodel.validation.fused.catalog import FAMILIES, family_of, problem_named
from perfmodel.validation.fused.family import Family
from perfmodel.validation.fused.problem import GpuError, Problem
from perfmodel.validation.gpu import cupy_with_gpu, this_device
from perfmodel.validation.prepare import one_compiler_each, prepare_baselines, prepare_kernels
from perfmodel.validation.recorder import RESULTS, Recorder, run_record, say
from perfmodel.validation.timing import Mode

STAGES: Final = ("check", "time", "count")
TIMED: Final = ("fused", "eager", "compile")
"""Kernels of ours, and PyTorch's block in its two forms."""
LARGE_BATCH: Final = 64
"""From here on PyTorch eager and the sustained mode are timed, too; below, launches are so short that both say little."""


def run(
    recorder: Recorder,
    chosen: Sequence[Problem],
    *,
    stages: Iterable[str],
    again: bool,
    seeds: int = len(SEEDS),
    every: int = 1,
    timed: Sequence[str] = TIMED,
) -> int:
    """Measure what is not recorded yet; how many checks failed. A measurement that cannot be made is recorded with its reason."""

    def unless_known(measure: Callable[[], Iterable[dict[str, Any]]], keys: Sequence[dict[str, str]]) -> bool:
        """Whether all is well with what was measured now."""
        if not again and all(recorder.has(**key) for key in keys):
            return True
        passed = True
        try:
            for line in measure():
                recorder.add(line)
                passed &= bool(line.get("passed", True))
        except GpuError as error:
            for key in keys:
                recorder.add({**key, "refused": str(error)})
            passed = False
        _release()
        return passed

    failed = 0
    for problem, only in _checked(chosen, every) if "check" in stages else ():
        name = _kernel_name(problem, only)
        key = {"kind": "check", "case": problem.name, "what": name}
        failed += not unless_known(lambda p=problem, o=only: [check(p, o, SEEDS[:seeds])], [key])  # type: ignore[misc]
    for problem in chosen if "time" in stages else ():
        modes: tuple[Mode, ...] = ("burst", "sustained") if problem.N >= LARGE_BATCH else ("burst",)
        if "fused" in timed:
            unless_known(lambda p=problem, m=modes: time_fused(p, m), _time_keys(problem, "fused", modes))  # type: ignore[misc]
        for what in (one for one in _baselines(problem) if one in timed):
            times = modes if what == "compile" else modes[:1]
            unless_known(
                lambda p=problem, w=what, m=times: time_baseline(p, w, m),  # type: ignore[misc]
                _time_keys(problem, what, times),
            )
    if "count" in stages:
        device = this_device()
        counted = [problem for problem in chosen if worth_counting(problem, device.l2_bytes) and _served(problem)]
        keys = [{"kind": "count", "case": problem.name, "what": "fused"} for problem in counted]
        if counted:
            unless_known(lambda: count_dram(counted), keys)
    return failed


def only_check(families: Iterable[Family[Any, Any]], every: int) -> bool:
    """Check odd sizes on one input each, record nothing; whether all passed and none was refused."""
    asked: list[tuple[Problem, str | None]] = [one for family in families for one in family.odd_cases()[::every]]
    prepare_kernels(asked, this_device())
    well = True
    for problem, only in asked:
        try:
            line = check(problem, only, SEEDS[:1])
        except GpuError as error:
            line = {"kind": "check", "case": problem.name, "refused": str(error)}
        say(line)
        well &= bool(line.get("passed"))
    return well


def _checked(chosen: Sequence[Problem], every: int) -> Iterator[tuple[Problem, str | None]]:
    """The cases, then what is odd about their families; nothing of that where `every` is 0."""
    yield from ((problem, None) for problem in chosen)
    for name in dict.fromkeys(problem.family for problem in chosen) if every else ():
        yield from FAMILIES[name].odd_cases()[::every]


def asked_for(
    families: Iterable[Family[Any, Any]], *, selections: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, tuple[Problem, ...]]:
    """Cases by family: those named, with those of the selections named; where nothing is named, what a family's `cases` are.

    Raises GpuError for a name that is no case's, and for a selection that none of the families has.
    """
    families = tuple(families)
    named = tuple(problem_named(name) for name in names)
    if unknown := set(selections) - {name for family in families for name in family.selections}:
        offered = ", ".join(sorted({name for family in FAMILIES.values() for name in family.selections}))
        raise GpuError(
            f"{' and '.join(family.name for family in families)} have no selection {sorted(unknown)[0]}; there is {offered}"
        )
    if not names and not selections:
        return {family.name: family.cases() for family in families}
    found: dict[str, tuple[Problem, ...]] = {}
    for family in FAMILIES.values():
        chosen = [problem for name in selections if family in families for problem in family.selections.get(name, tuple)()]
        if wanted := (*(problem for problem in named if problem.family == family.name), *chosen):
            found[family.name] = tuple(dict.fromkeys(wanted))
    return found


def _baselines(problem: Problem) -> tuple[Baseline, ...]:
    if not torch_or_none():
        return ()
    return ("eager", "compile") if problem.N >= LARGE_BATCH else ("compile",)


def _time_keys(problem: Problem, what: str, modes: Iterable[Mode]) -> list[dict[str, str]]:
    return [{"kind": "time", "case": problem.name, "what": what, "mode": mode} for mode in modes]


def _served(problem: Problem) -> bool:
    try:
        family_of(problem).choose(problem, this_device())
    except GpuError:
        return False
    return True


def _kernel_name(problem: Problem, only: str | None) -> str:
    try:
        return family_of(problem).choose(problem, this_device(), only=only).name
    except GpuError:
        return only or ""


def _release() -> None:
    cupy = cupy_with_gpu()
    cupy.get_default_memory_pool().free_all_blocks()
    if torch := torch_or_none():
        torch.cuda.empty_cache()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perfmodel.validation.measure", description=__doc__)
    parser.add_argument(
        "--block", choices=(*FAMILIES, "all"), action="append", help="which families of fused blocks (default: all)"
    )
    parser.add_argument("--stage", choices=STAGES, action="append", help="which measurements (default: all of them)")
    parser.add_argument(
        "--case", action="append", default=[], help="a case by its name, such as mbconv_e4_fp16_n16_c96_h28_w28_k3_g1"
    )
    parser.add_argument("--select", action="append", default=[], help="a family's further cases by their name, such as depthwise")
    parser.add_argument("--what", choices=TIMED, action="append", help="what is timed (default: all of them)")
    parser.add_argument("--batch", type=int, action="append", help="only cases of this batch size; may be given several times")
    parser.add_argument("--channels", type=int, help="only cases of this many channels")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many random inputs each check draws")
    parser.add_argument("--only-check", action="store_true", help="check all kernels on odd sizes, and record nothing")
    parser.add_argument("--every", type=int, default=1, help="check only every so many-th of the odd sizes; 0: none")
    parser.add_argument("--again", action="store_true", help="measure what is recorded once more")
    parser.add_argument("--output", type=Path, help="folder; default: validation/results/DEVICE")
    parser.add_argument("--revision", help="of the source, where it is not a git checkout")
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; exit 5 where the GPU or its software is not there, 1 where a check fails."""
    options = _parser().parse_args(argv)
    names = FAMILIES if "all" in (options.block or ["all"]) else dict.fromkeys(options.block)
    families = tuple(FAMILIES[name] for name in names)
    stages = tuple(options.stage or STAGES)
    one_compiler_each()
    try:
        if options.profile:
            profiled([problem_of(record) for record in json.loads(options.profile)])
            return 0
        if options.only_check:
            return int(not only_check(families, options.every))
        where = run_record(options.revision)
        slug = cast("str", where["device"]).lower().removeprefix("nvidia ").replace(" ", "-")
        folder = options.output or RESULTS / slug
        wanted: dict[str, list[Problem]] = {
            name: [p for p in problems if (options.batch is None or p.N in options.batch) and options.channels in (None, p.C)]
            for name, problems in asked_for(families, selections=options.select, names=options.case).items()
        }
        everything = [problem for problems in wanted.values() for problem in problems]
        prepare_kernels(
            _checked(everything, options.every) if "check" in stages else [(p, None) for p in everything], this_device()
        )
        timed = tuple(options.what or TIMED)
        if "time" in stages and "compile" in timed and torch_or_none():
            prepare_baselines(everything)
        failed = 0
        for name, problems in wanted.items():
            recorder = Recorder(folder / f"{name}.jsonl", where)
            failed += run(
                recorder, problems, stages=stages, again=options.again, seeds=options.seeds, every=options.every, timed=timed
            )
        return int(failed > 0)
    except PerfmodelError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
