"""`python -m perfmodel.validation.layouts`: time layouts of the generic kernels, chosen or not, and record them.

Which ones: those whose times on an H200 are recorded, on every device. The search does not name them, since its constants were set by
their times: the record itself is the list. Every result is appended and flushed as it comes, as one line of JSON; a layout that is there
is not timed again, and of several lines of one layout the newest counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from perfmodel.validation.benchmarks import Pairs, captured, rotated
from perfmodel.validation.checks import not_a_number
from perfmodel.validation.compile import Compiled
from perfmodel.validation.fused.catalog import FAMILIES, family_of, record_of
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.forms import GENERIC
from perfmodel.validation.fused.generic.launches import config_of
from perfmodel.validation.fused.generic.layout import Layout
from perfmodel.validation.fused.problem import DType, GpuError, Problem
from perfmodel.validation.gpu import cupy_with_gpu, this_device
from perfmodel.validation.launch import FusedBlock
from perfmodel.validation.layout_records import RECORDED, layouts_of
from perfmodel.validation.measure import Outcome, answered, release, teller
from perfmodel.validation.prepare import prepare_configs
from perfmodel.validation.recorder import REFUSED, RESULTS, Recorder, folder_of, read_lines, run_record
from perfmodel.validation.timing import BURST_LAUNCHES, CACHES, PAUSE_S, Timing, replays

ASKED: Final = RESULTS / "h200" / RECORDED
REPLAYS: Final = 3
"""Of each layout: recorded ones differ by 1 % at most, and the layouts of a problem by 8 % and more."""
WHAT: Final = (
    f"layouts of the generic kernels: median of {REPLAYS} replays of a CUDA graph over rotated buffers of {CACHES} L2 caches or more, "
    f"at least {BURST_LAUNCHES} launches each, a pause of {PAUSE_S} s before each; registers and spilled bytes by the compiler"
)
EXPONENTS: Final[dict[DType, int]] = {"fp16": 0x7C00, "bf16": 0x7F80}
"""The bits that are all set in what is no finite number."""


def asked_for(families: Iterable[str] = FAMILIES) -> dict[Problem, list[Layout]]:
    """The layouts to be timed, by problem."""
    found: dict[Problem, list[Layout]] = {}
    for problem, layout in layouts_of(ASKED, read_lines(ASKED)):
        if problem.family in families:
            found.setdefault(problem, []).append(layout)
    return found


def key_of(problem: Problem, layout: Layout) -> dict[str, Any]:
    """The fields of its line that tell a layout from others."""
    sizes = {field.name: getattr(layout, field.name) for field in fields(layout) if field.name != "work"}
    return {"kind": "layout", "case": problem.name, "problem": record_of(problem), "layout": sizes}


def config_of_layout(problem: Problem, layout: Layout) -> Config:
    """As a configuration of its family's generic kernel."""
    return config_of(GENERIC[problem.family].NAME, layout)


def line_of(problem: Problem, layout: Layout, compiled: Iterable[Compiled], timing: Timing) -> dict[str, Any]:
    """As it is written."""
    compiled = tuple(compiled)
    return {
        **key_of(problem, layout),
        "median_s": float(f"{timing.median_s:.5g}"),
        "registers": [code.registers for code in compiled],
        "spilled_bytes": [code.spilled_bytes for code in compiled],
        "times_s": [float(f"{value:.5g}") for value in timing.times_s],
        "before": asdict(timing.before) if timing.before else None,
        "after": asdict(timing.after) if timing.after else None,
    }


def time_layout(problem: Problem, layout: Layout, pairs: Pairs) -> dict[str, Any]:
    """The line of a layout, timed over rotated buffers; raises GpuError where it does not run, and where what it leaves is no number."""
    cupy = cupy_with_gpu()
    block = FusedBlock(problem, family_of(problem).draw(problem, 0), config=config_of_layout(problem, layout))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        bits = block(pairs[0][0], not_a_number(problem)).view(cupy.uint16) & EXPONENTS[problem.dtype]
        if bool((bits == EXPONENTS[problem.dtype]).any()):
            raise GpuError(f"{problem.name}: {block.config.name} leaves what is no finite number")
        del bits
        graph, launches = captured(block, pairs, stream)
        timing = replays(lambda: graph.launch(stream), launches, "burst", stream, bursts=REPLAYS)
    return line_of(problem, layout, block.compiled, timing)


def missing(recorder: Recorder, asked: Mapping[Problem, Sequence[Layout]], *, again: bool) -> dict[Problem, list[Layout]]:
    """What of the layouts is not recorded yet; all of them to time them `again`."""
    found = {
        problem: [layout for layout in layouts if again or not recorder.has(**key_of(problem, layout))]
        for problem, layouts in asked.items()
    }
    return {problem: layouts for problem, layouts in found.items() if layouts}


def run(recorder: Recorder, asked: Mapping[Problem, Sequence[Layout]], tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Time and record; a layout that cannot be timed is recorded with its reason, and the others go on."""
    outcome, done, everything = Outcome(), 0, sum(map(len, asked.values()))
    for problem, layouts in asked.items():
        tell(f"layouts {done + 1} to {done + len(layouts)} of {everything}: {problem.name}")
        pairs: Pairs = []
        for layout in layouts:
            try:
                pairs = pairs or rotated(problem, this_device())
                recorder.add(time_layout(problem, layout, pairs))
            except GpuError as error:
                recorder.add({**key_of(problem, layout), REFUSED: str(error)})
                outcome += Outcome(refused=1)
        done += len(layouts)
        del pairs
        release()
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perfmodel.validation.layouts", description=__doc__)
    parser.add_argument(
        "--block", choices=(*FAMILIES, "all"), action="append", help="which families of fused blocks (default: all)"
    )
    parser.add_argument("--again", action="store_true", help="time what is recorded once more")
    parser.add_argument("--output", type=Path, help="folder; default: validation/results/DEVICE")
    parser.add_argument("--revision", help="of the source, where it is not a git checkout")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; exit 5 where the GPU or its software is not there or a layout cannot be timed."""
    options = _parser().parse_args(argv)
    families = FAMILIES if "all" in (options.block or ["all"]) else dict.fromkeys(options.block)
    tell = teller()

    def measured() -> int:
        where = {**run_record(options.revision), "what": WHAT}
        folder = options.output or RESULTS / folder_of(where["device"])
        recorder = Recorder(folder / RECORDED, where)
        asked = asked_for(families)
        left = missing(recorder, asked, again=options.again)
        configs = [(problem, config_of_layout(problem, layout)) for problem, layouts in left.items() for layout in layouts]
        if not configs:
            tell(f"all {sum(map(len, asked.values()))} layouts are in {folder / RECORDED}; --again times them once more")
            return 0
        tell(f"kernels of {len(configs)} layouts: compiling")
        prepare_configs(configs, this_device(), tell)
        return run(recorder, left, tell).ended(folder)

    return answered(measured)


if __name__ == "__main__":
    sys.exit(main())
