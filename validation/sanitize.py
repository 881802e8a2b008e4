"""`python -m perfmodel.validation.sanitize`: the fused kernels under compute-sanitizer, on problems that are small enough for it.

Blocks for two multiprocessors do all the work, so that every buffer in shared memory is used several times. What each tool says of a
family goes into `validation/results/DEVICE/FAMILY-TOOL.txt`: how the file was made, then the tool's words, and among them for each problem
the digests of all that reached the compiler (as `units` of the recorded times), and its name, the kernel, whether it came out right.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from perfmodel.errors import PerfmodelError, shown
from perfmodel.validation.compile import compiler_version
from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.problem import GpuError, Problem
from perfmodel.validation.fused.reference import deviation, tolerance
from perfmodel.validation.gpu import cupy_with_gpu, this_device
from perfmodel.validation.launch import FusedBlock
from perfmodel.validation.recorder import RESULTS, folder_of
from perfmodel.validation.revision import git_revision

TOOLS: Final = ("racecheck", "memcheck", "synccheck", "initcheck")
"""The slowest first."""
MULTIPROCESSORS: Final = 2
"""That blocks are made for: one cluster of two, or two blocks."""
FOUND: Final = 9
"""Exit status of compute-sanitizer where it reports anything."""
TIMEOUT_S: Final = 900
AT_ONCE: Final = 8
"""Processes on the GPU at a time: its speed hardly matters, each problem is a few blocks and a reference on the CPU."""
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""For NumPy in each of them, or they would take each other's processors."""

SIZES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "convfirst": (
        {"N": 2, "H": 13, "W": 13, "C": 64},
        {"N": 2, "H": 12, "W": 20, "C": 96},
        {"N": 2, "H": 13, "W": 13, "C": 96},
        {"N": 2, "H": 14, "W": 14, "C": 128},
        {"N": 3, "H": 14, "W": 14, "C": 256},
        {"N": 1, "H": 7, "W": 9, "C": 256, "multiprocessors": 8},
        {"N": 1, "H": 7, "W": 9, "C": 96, "multiprocessors": 4},
    ),
    "mbconv": (
        {"N": 2, "H": 9, "W": 20, "C": 64},
        {"N": 2, "H": 9, "W": 20, "C": 96},
        {"N": 2, "H": 9, "W": 20, "C": 128},
        {"N": 2, "H": 9, "W": 20, "C": 256},
        {"N": 2, "H": 13, "W": 20, "C": 64, "group_width": 1},
        {"N": 2, "H": 13, "W": 20, "C": 64, "group_width": 1, "kernel": 5, "squeeze": 16},
        {"N": 2, "H": 13, "W": 20, "C": 64, "group_width": 1, "stride": 2, "out_channels": 128},
        {"N": 1, "H": 13, "W": 20, "C": 96, "group_width": 1, "squeeze": 16, "dtype": "bf16"},
    ),
    "fused_mbconv": (
        {"N": 2, "H": 13, "W": 20, "C": 64},
        {"N": 2, "H": 14, "W": 14, "C": 128},
        {"N": 2, "H": 14, "W": 14, "C": 256},
        {"N": 1, "H": 14, "W": 14, "C": 256, "multiprocessors": 4},
        {"N": 1, "H": 7, "W": 9, "C": 256, "multiprocessors": 16},
    ),
    "convnext": (  # at least twice as many patches to a block as there are places between its roles
        {"N": 3, "H": 24, "W": 40, "C": 64},
        {"N": 2, "H": 24, "W": 28, "C": 96},
        {"N": 2, "H": 28, "W": 28, "C": 128},
        {"N": 2, "H": 14, "W": 14, "C": 256},
        {"N": 1, "H": 7, "W": 9, "C": 256, "multiprocessors": 24},
        {"N": 1, "H": 7, "W": 9, "C": 256, "multiprocessors": 4},
        {"N": 1, "H": 7, "W": 9, "C": 128, "multiprocessors": 12},
    ),
}
"""Of the problems of each family; the expansion is 4. `multiprocessors`: where two would lead to another kernel, or a block to a tile."""


def problems(family: str) -> tuple[tuple[Problem, int], ...]:
    """Those of a family, in the order of its report, with the multiprocessors that are used."""
    found = []
    for size in SIZES[family]:
        fields = dict(size)
        multiprocessors = fields.pop("multiprocessors", MULTIPROCESSORS)
        found.append((FAMILIES[family].problem(expansion=4, **fields), multiprocessors))
    return tuple(found)


def run(asked: Iterable[tuple[Problem, int]]) -> bool:
    """What a tool watches: each problem once, compared with float64 on the CPU, so that hardly another kernel runs."""
    cupy, device = cupy_with_gpu(), this_device()
    well = True
    for problem, multiprocessors in asked:
        family = family_of(problem)
        parameters, random = family.draw(problem, 0), np.random.default_rng(1)
        wide = random.standard_normal(problem.input_shape, np.float32)
        if problem.dtype == "fp16":
            half = wide.astype(np.float16)
            wide = half.astype(np.float32)
        else:
            half = (wide.view(np.uint32) >> 16).astype(np.uint16)
            wide = (half.astype(np.uint32) << 16).view(np.float32)
        block = FusedBlock(problem, parameters, device=replace(device, multiprocessors=multiprocessors))
        # NaN in either type where a kernel writes nothing; and initcheck, which does not see what bulk copies write, sees this
        target = cupy.empty(problem.output_shape, half.dtype)
        target.data.memset(0xFF, target.nbytes)
        found = cupy.asnumpy(block(cupy.asarray(half), target))
        result = found if problem.dtype == "fp16" else (found.astype(np.uint32) << 16).view(np.float32)
        allowed = tolerance(problem.dtype, family.roundings(problem), family.depth(problem))
        shortcut = wide if problem.input_shape == problem.output_shape else None
        passed = deviation(np, result, family.reference(np, wide, parameters, problem), shortcut, allowed).passed
        sys.stdout.write(f"# {' '.join(code.unit.key(compiler_version()) for code in block.compiled)}\n")
        sys.stdout.write(f"{problem.name} {block.config.name} {passed}\n")
        sys.stdout.flush()
        well &= passed
    return well


def watched(tool: str, family: str) -> tuple[bool, str, float]:
    """Whether a tool finds nothing in a family, what it says, and how many seconds it took."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise GpuError("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-m", __spec__.name, "--inside", family]
    began = time.perf_counter()
    watching = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_THREAD},
        start_new_session=True,
    )
    try:
        said, complained = watching.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(watching.pid, signal.SIGKILL)  # and the program that it watches, which may wait for ever
        said, _ = watching.communicate()
        last = next((line for line in reversed(said.splitlines()) if line.endswith((" True", " False"))), "none")
        raise GpuError(f"{tool} of {family} did not end within {TIMEOUT_S} s; the last problem that ended: {last}") from None
    if watching.returncode not in (0, 1, FOUND) or not said.strip():
        raise GpuError(f"{tool} of {family} ended with {watching.returncode}: {(complained or said).strip()[-400:]}")
    return watching.returncode == 0, said, time.perf_counter() - began


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perfmodel.validation.sanitize", description=__doc__)
    parser.add_argument("--block", choices=tuple(FAMILIES), action="append", help="which families (default: all)")
    parser.add_argument("--tool", choices=TOOLS, action="append", help="which tools (default: all)")
    parser.add_argument("--revision", help="of the source, where it is not a git checkout")
    parser.add_argument("--output", type=Path, help="folder; default: validation/results/DEVICE")
    parser.add_argument("--inside", choices=tuple(FAMILIES), help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; exit 5 where the GPU or its software is not there, 1 where a tool reports or a result is wrong."""
    options = _parser().parse_args(argv)
    try:
        if options.inside:
            return int(not run(problems(options.inside)))
        device, revision = this_device().name, options.revision or git_revision()
        folder = options.output or RESULTS / folder_of(device)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PerfmodelError(
                f"cannot write to {shown(str(folder), 200)}: {error.strerror}; choose another place with --output"
            ) from None
        asked = itertools.product(dict.fromkeys(options.tool or TOOLS), dict.fromkeys(options.block or FAMILIES))
        well = True
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = {pool.submit(watched, tool, family): (tool, family) for tool, family in asked}
            for done in as_completed(running):
                (tool, family), (clean, text, took_s) = running[done], done.result()
                made = f"# {_parser().prog} --block {family} --tool {tool}; {device}, revision {revision}\n"
                (folder / f"{family}-{tool}.txt").write_text(made + text, encoding="utf-8")
                sys.stdout.write(f"{family} {tool}: {text.strip().splitlines()[-1].strip('= ')}, {took_s:.0f} s\n")
                sys.stdout.flush()
                well &= clean
        return int(not well)
    except PerfmodelError as error:
        sys.stderr.write(f"perfmodel: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
