"""DRAM bytes of fused blocks by ncu, beside the model's: one profiled process for all of them."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from perfmodel.units import si
from perfmodel.validation.checks import random_inputs
from perfmodel.validation.compile import compiler_version
from perfmodel.validation.fused.catalog import family_of, record_of
from perfmodel.validation.fused.count import count
from perfmodel.validation.fused.problem import GpuError, Problem
from perfmodel.validation.gpu import cupy_with_gpu
from perfmodel.validation.launch import FusedBlock
from perfmodel.validation.machine_file import device_named
from perfmodel.validation.ncu import Counted, counted
from perfmodel.validation.timing import CACHES, buffer_sets

PROFILED_CALLS: Final = 12
WARMUP_CALLS: Final = 4
COPIED_BYTES: Final = 2**28
COPIES: Final = 6
WARMUP_COPIES: Final = 2
COPY_KERNEL: Final = "cupy_negative"


def profiled(problems: Sequence[Problem]) -> None:
    """What runs under ncu: calls over rotated buffers, and a copy of known size to check the counter by."""
    cupy = cupy_with_gpu()
    for problem in problems:
        block = FusedBlock(problem, family_of(problem).draw(problem, 0))
        sets = min(PROFILED_CALLS, buffer_sets(problem.input_bytes + problem.output_bytes, block.device.l2_bytes))
        inputs = [half for half, _ in itertools.islice(random_inputs(problem, 0), sets)]
        pairs = [(x, cupy.empty(problem.output_shape, x.dtype)) for x in inputs]
        cupy.cuda.Device().synchronize()
        for index in range(PROFILED_CALLS):
            block(*pairs[index % sets])
        cupy.cuda.Device().synchronize()
        del inputs, pairs, block
        cupy.get_default_memory_pool().free_all_blocks()
    source = cupy.ones(COPIED_BYTES // 4, cupy.float32)
    targets = [cupy.empty_like(source) for _ in range(2)]
    for index in range(COPIES):
        cupy.negative(source, out=targets[index % 2])
    cupy.cuda.Device().synchronize()


def worth_counting(problem: Problem, l2_bytes: int) -> bool:
    """Whether the profiled calls touch so much more than the L2 cache that its state before and after does not matter."""
    return PROFILED_CALLS * (problem.input_bytes + problem.output_bytes) >= CACHES * l2_bytes


def count_dram(problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
    """One line for each problem: DRAM bytes of a call, the mean of those after the first few."""
    blocks = [FusedBlock(problem, family_of(problem).draw(problem, 0)) for problem in problems]
    for problem, block in zip(problems, blocks, strict=True):
        if not worth_counting(problem, block.device.l2_bytes):
            least = si(CACHES * block.device.l2_bytes, "B")
            raise GpuError(f"{problem.name}: {PROFILED_CALLS} calls touch less than {least}, too near the L2 cache for a count")
    asked = json.dumps([record_of(problem) for problem in problems])
    ours = {code.unit.name for block in blocks for code in block.compiled}
    pattern = "|".join((*sorted({name.split("_")[0] for name in ours}), COPY_KERNEL))
    launched = counted([sys.executable, "-m", "perfmodel.validation.measure", "--profile", asked], pattern)
    copies = [one for one in launched if one.kernel.startswith(COPY_KERNEL)][WARMUP_COPIES:]
    copied = sum(one.read_bytes + one.written_bytes for one in copies) / max(1, len(copies))
    left = [one for one in launched if one.kernel in ours]
    for problem, block in zip(problems, blocks, strict=True):
        names = [code.unit.name for code in block.compiled] * PROFILED_CALLS
        own, left = left[: len(names)], left[len(names) :]
        if [one.kernel for one in own] != names or not copies:
            raise GpuError(f"{problem.name}: ncu did not see the launches it was to count")
        yield _line(problem, block, own, copied / (2 * COPIED_BYTES))


def _line(problem: Problem, block: FusedBlock, launched: Sequence[Counted], over_copy: float) -> dict[str, Any]:
    placed = count(problem, block.config, device_named(block.device.name))
    kept = launched[WARMUP_CALLS * len(block.compiled) :]
    calls = PROFILED_CALLS - WARMUP_CALLS
    read, written = sum(one.read_bytes for one in kept) / calls, sum(one.written_bytes for one in kept) / calls
    return {
        "kind": "count",
        "case": problem.name,
        "what": "fused",
        "kernel": block.config.name,
        "units": [code.unit.key(compiler_version()) for code in block.compiled],
        "read_bytes": read,
        "written_bytes": written,
        "dram_bytes": read + written,
        "compulsory_bytes": placed.compulsory_bytes,
        "model_bytes": placed.model_bytes,
        "kernel_bytes": placed.kernel_bytes,
        "macs": placed.macs,
        "counter_over_copy": over_copy,
        "launched": [asdict(one) for one in launched],
    }
