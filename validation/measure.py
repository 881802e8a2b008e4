"""`python -m perfmodel.validation.measure --block all`: check, time and count the fused kernels, and record it.

Every result is appended and flushed as it comes, as one line of JSON; a line that is there is not measured again. For each case: checks
against float64, times of the fused kernel and of PyTorch's eager and compiled block in the same process, DRAM bytes by ncu.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perfmodel.errors import PerfmodelError, shown
from perfmodel.validation.baselines import Baseline, torch_or_none
from perfmodel.validation.benchmarks import time_baseline, time_fused
from perfmodel.validation.checks import SEEDS, check
from perfmodel.validation.dram import count_dram, profiled, worth_counting
from perfmodel.validation.fused.catalog import FAMILIES, family_of, problem_named, problem_of
from perfmodel.validation.fused.family import Family
from perfmodel.validation.fused.problem import GpuError, Problem
from perfmodel.validation.gpu import cupy_with_gpu, this_device
from perfmodel.validation.prepare import one_compiler_each, prepare_baselines, prepare_kernels
from perfmodel.validation.recorder import REFUSED, RESULTS, Recorder, folder_of, run_record, say
from perfmodel.validation.timing import Mode

STAGES: Final = ("check", "time", "count")
TIMED: Final = ("fused", "eager", "compile")
"""Kernels of ours, and PyTorch's block in its two forms."""
LARGE_BATCH: Final = 64
"""From here on PyTorch eager and the sustained mode are timed, too; below, launches are so short that both say little."""


class MeasureError(PerfmodelError):
    """What is asked to be measured does not exist."""


def run(
    recorder: Recorder,
    chosen: Sequence[Problem],
    *,
    stages: Iterable[str],
    again: bool,
    seeds: int = len(SEEDS),
    every: int = 1,
    timed: Sequence[str] = TIMED,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Measure what is not recorded yet. What cannot be measured is recorded with its reason; that and failed checks are tried again."""
    failed = refused = 0

    def missing(key: dict[str, str]) -> bool:
        return again or not recorder.has(**key)

    def measured(measure: Callable[[], Iterable[dict[str, Any]]], keys: Sequence[dict[str, str]]) -> None:
        """Record what is measured; what is left of `keys` when a measurement fails is refused for its reason."""
        nonlocal failed, refused
        left = list(keys)
        first = keys[0]
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        tell(f"{first['kind']} {first['case']}, {first['what']}{more}")
        try:
            for line in measure():
                recorder.add(line)
                left = [key for key in left if not key.items() <= line.items()]
                failed += not line.get("passed", True)
        except GpuError as error:
            for key in left:
                recorder.add({**key, REFUSED: str(error)})
            refused += len(left)
        release()

    for problem, only in _checked(chosen, every) if "check" in stages else ():
        key = {"kind": "check", "case": problem.name, "what": _kernel_name(problem, only)}
        if missing(key):
            measured(lambda p=problem, o=only: [check(p, o, SEEDS[:seeds])], [key])  # type: ignore[misc]
    for problem in chosen if "time" in stages else ():
        modes = _modes(problem)
        fused = [mode for mode in modes if missing(_time_key(problem, "fused", mode))]
        if fused and "fused" in timed:
            measured(lambda p=problem, m=fused: time_fused(p, m), [_time_key(problem, "fused", mode) for mode in fused])  # type: ignore[misc]
        for what in (one for one in _baselines(problem) if one in timed):
            left = [mode for mode in (modes if what == "compile" else modes[:1]) if missing(_time_key(problem, what, mode))]
            keys = [_time_key(problem, what, mode) for mode in left]
            if left:
                measured(lambda p=problem, w=what, m=left: time_baseline(p, w, m), keys)  # type: ignore[misc]
    if "count" in stages:
        l2_bytes = this_device().l2_bytes
        counted = [
            problem
            for problem in chosen
            if missing(_count_key(problem)) and worth_counting(problem, l2_bytes) and _served(problem)
        ]
        if counted:
            measured(lambda: count_dram(counted), [_count_key(problem) for problem in counted])
    return Outcome(failed=failed, refused=refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of measurements."""

    failed: int = 0
    """Checks whose result is wrong."""
    refused: int = 0
    """Measurements that could not be made."""

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(failed=self.failed + other.failed, refused=self.refused + other.refused)

    @property
    def exit_code(self) -> int:
        """1 where a check failed, 5 where something could not be measured."""
        return 1 if self.failed else GpuError.exit_code if self.refused else 0

    def ended(self, folder: Path) -> int:
        """The exit code, after a sentence on stderr about what could not be measured."""
        if self.refused:
            sys.stderr.write(
                f"perfmodel: {self.refused} could not be measured; {folder} has the reasons, the next run tries again\n"
            )
        return self.exit_code


def only_check(families: Iterable[Family[Any, Any]], every: int) -> Outcome:
    """Check odd sizes on one input each, and record nothing."""
    asked: list[tuple[Problem, str | None]] = [one for family in families for one in _odd_cases(family, every)]
    prepare_kernels(asked, this_device())
    outcome = Outcome()
    for problem, only in asked:
        try:
            line = check(problem, only, SEEDS[:1])
            outcome += Outcome(failed=int(not line.get("passed")))
        except GpuError as error:
            line = {"kind": "check", "case": problem.name, REFUSED: str(error)}
            outcome += Outcome(refused=1)
        say(line)
    return outcome


def _odd_cases(family: Family[Any, Any], every: int) -> Sequence[tuple[Problem, str | None]]:
    """What is odd about a family, every so many-th of it; nothing where `every` is 0."""
    return family.odd_cases()[::every] if every else ()


def _checked(chosen: Sequence[Problem], every: int) -> Iterator[tuple[Problem, str | None]]:
    """The cases, then what is odd about their families; nothing of that where `every` is 0."""
    yield from ((problem, None) for problem in chosen)
    for name in dict.fromkeys(problem.family for problem in chosen):
        yield from _odd_cases(FAMILIES[name], every)


def asked_for(
    families: Iterable[Family[Any, Any]], *, selections: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, tuple[Problem, ...]]:
    """Cases by family: those named, with those of the selections named; where nothing is named, what a family's `cases` are.

    Raises MeasureError for a name that is no case's, and for a selection that none of the families has.
    """
    families = tuple(families)
    try:
        named = tuple(problem_named(name) for name in names)
    except GpuError as error:
        raise MeasureError(str(error)) from None
    if unknown := set(selections) - {name for family in families for name in family.selections}:
        offered = ", ".join(sorted({name for family in FAMILIES.values() for name in family.selections}))
        raise MeasureError(
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


def _modes(problem: Problem) -> tuple[Mode, ...]:
    return ("burst", "sustained") if problem.N >= LARGE_BATCH else ("burst",)


def _is_timed(recorder: Recorder, problem: Problem, what: str) -> bool:
    return all(recorder.has(**_time_key(problem, what, mode)) for mode in _modes(problem))


def _time_key(problem: Problem, what: str, mode: Mode) -> dict[str, str]:
    return {"kind": "time", "case": problem.name, "what": what, "mode": mode}


def _count_key(problem: Problem) -> dict[str, str]:
    return {"kind": "count", "case": problem.name, "what": "fused"}


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


def release() -> None:
    """Give the GPU's memory back that neither CuPy nor torch uses now."""
    cupy = cupy_with_gpu()
    cupy.get_default_memory_pool().free_all_blocks()
    if torch := torch_or_none():
        torch.cuda.empty_cache()


def _from(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A whole number between two, as an option's value."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"'{shown(text)}' is no whole number from {least} to {most}")
        return int(text)

    return whole


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
    parser.add_argument(
        "--batch", type=_from(1), action="append", help="only cases of this batch size; may be given several times"
    )
    parser.add_argument("--channels", type=_from(1), help="only cases of this many channels")
    parser.add_argument("--seeds", type=_from(1, len(SEEDS)), default=len(SEEDS), help="how many random inputs each check draws")
    parser.add_argument("--only-check", action="store_true", help="check all kernels on odd sizes, and record nothing")
    parser.add_argument("--every", type=_from(0), default=1, help="check only every so many-th of the odd sizes; 0: none")
    parser.add_argument("--again", action="store_true", help="measure what is recorded once more")
    parser.add_argument("--output", type=Path, help="folder; default: validation/results/DEVICE")
    parser.add_argument("--revision", help="of the source, where it is not a git checkout")
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; exit 1 where a check fails, 5 where the GPU or its software is not there or something cannot be measured."""
    options = _parser().parse_args(argv)
    names = FAMILIES if "all" in (options.block or ["all"]) else dict.fromkeys(options.block)
    families = tuple(FAMILIES[name] for name in names)
    stages = tuple(options.stage or STAGES)
    one_compiler_each()
    tell = teller()

    def measured() -> int:
        if options.profile:
            profiled([problem_of(record) for record in json.loads(options.profile)])
            return 0
        if options.only_check and not options.every:
            raise MeasureError("--only-check checks odd sizes, and --every 0 leaves none of them; give it 1 or more")
        if options.only_check:
            return only_check(families, options.every).exit_code
        wanted = _wanted(families, options)
        where = run_record(options.revision)
        folder = options.output or RESULTS / folder_of(where["device"])
        everything = [problem for problems in wanted.values() for problem in problems]
        recorders = {name: Recorder(folder / f"{name}.jsonl", where) for name in wanted}
        asked = list(_checked(everything, options.every)) if "check" in stages else [(p, None) for p in everything]
        tell(f"kernels of {len(asked)} cases: choosing and compiling")
        prepare_kernels(asked, this_device(), tell)
        timed = tuple(options.what or TIMED)
        if "time" in stages and "compile" in timed and torch_or_none():
            prepare_baselines([p for p in everything if options.again or not _is_timed(recorders[p.family], p, "compile")], tell)
        outcome = Outcome()
        for name, problems in wanted.items():
            outcome += run(
                recorders[name],
                problems,
                stages=stages,
                again=options.again,
                seeds=options.seeds,
                every=options.every,
                timed=timed,
                tell=tell,
            )
        return outcome.ended(folder)

    return answered(measured)


def teller() -> Callable[[str], None]:
    """Says on stderr what takes time, and when it began: torch takes ten seconds and more to compile even what is in its cache."""
    began = time.perf_counter()

    def tell(what: str) -> None:
        sys.stderr.write(f"{time.perf_counter() - began:6.1f} s {what}\n")
        sys.stderr.flush()

    return tell


def answered(command: Callable[[], int]) -> int:
    """The exit code of a command, after a sentence on stderr about what stopped it."""
    try:
        return command()
    except PerfmodelError as error:
        sys.stderr.write(f"perfmodel: {error}\n")
        return error.exit_code
    except OSError as error:
        where_to = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"perfmodel: {error.strerror or error}{where_to}; choose another place with --output\n")
        return PerfmodelError.exit_code


def _wanted(families: Iterable[Family[Any, Any]], options: argparse.Namespace) -> dict[str, list[Problem]]:
    """The cases that were asked for, by family; raises MeasureError where the sizes leave none."""
    cases = asked_for(families, selections=options.select, names=options.case)
    wanted = {
        name: [p for p in problems if (options.batch is None or p.N in options.batch) and options.channels in (None, p.C)]
        for name, problems in cases.items()
    }
    if not any(wanted.values()):
        everything = [problem for problems in cases.values() for problem in problems]
        batches, channels = (", ".join(map(str, sorted({getattr(one, size) for one in everything}))) for size in ("N", "C"))
        raise MeasureError(f"no case is of these sizes; there are batches of {batches}, and channels {channels}")
    return {name: problems for name, problems in wanted.items() if problems}


if __name__ == "__main__":
    sys.exit(main())
