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
from typing import Any, Final

from perfmodel.errors import PerfmodelError
from perfmodel.validation.baselines import Baseline, torch_or_none
from perfmodel.validation.benchmarks import time_baseline, time_fused
from perfmodel.validation.checks import SEEDS, check
from perfmodel.validation.dram import count_dram, problem_of, profiled, worth_counting
from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.family import Family
from perfmodel.validation.fused.problem import GpuError, Problem
from perfmodel.validation.gpu import cupy_with_gpu, this_device
from perfmodel.validation.prepare import one_compiler_each, prepare_baselines, prepare_kernels
from perfmodel.validation.recorder import RESULTS, Recorder, run_record, say, slug_of
from perfmodel.validation.timing import Mode

STAGES: Final = ("check", "time", "count")
LARGE_BATCH: Final = 64
"""From here on PyTorch eager and the sustained mode are timed, too; below, launches are so short that both say little."""


def run(
    recorder: Recorder, chosen: Sequence[Problem], *, stages: Iterable[str], again: bool, seeds: int = len(SEEDS), every: int = 1
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
        unless_known(lambda p=problem, m=modes: time_fused(p, m), _time_keys(problem, "fused", modes))  # type: ignore[misc]
        for what in _baselines(problem):
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
    """The cases, then what is odd about their families."""
    yield from ((problem, None) for problem in chosen)
    for name in dict.fromkeys(problem.family for problem in chosen):
        yield from FAMILIES[name].odd_cases()[::every]


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
    parser.add_argument("--batch", type=int, help="only cases of this batch size")
    parser.add_argument("--channels", type=int, help="only cases of this many channels")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many random inputs each check draws")
    parser.add_argument("--only-check", action="store_true", help="check all kernels on odd sizes, and record nothing")
    parser.add_argument("--every", type=int, default=1, help="check only every so many-th of the odd sizes")
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
        folder = options.output or RESULTS / slug_of(where["device"])
        wanted: dict[str, list[Problem]] = {
            family.name: [p for p in family.cases() if options.batch in (None, p.N) and options.channels in (None, p.C)]
            for family in families
        }
        everything = [problem for problems in wanted.values() for problem in problems]
        prepare_kernels(
            _checked(everything, options.every) if "check" in stages else [(p, None) for p in everything], this_device()
        )
        if "time" in stages and torch_or_none():
            prepare_baselines(everything)
        failed = 0
        for name, problems in wanted.items():
            recorder = Recorder(folder / f"{name}.jsonl", where)
            failed += run(recorder, problems, stages=stages, again=options.again, seeds=options.seeds, every=options.every)
        return int(failed > 0)
    except PerfmodelError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
