"""Times of a fused kernel and of PyTorch's block: replays of CUDA graphs over rotated buffers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from perfmodel.errors import shown
from perfmodel.validation.baselines import Baseline, baseline, torch_or_none
from perfmodel.validation.checks import random_inputs
from perfmodel.validation.compile import compiler_version
from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.count import count
from perfmodel.validation.fused.problem import DeviceLimits, GpuError, Problem
from perfmodel.validation.gpu import cupy_with_gpu, in_memory, this_device
from perfmodel.validation.launch import FusedBlock
from perfmodel.validation.machine_file import device_named
from perfmodel.validation.timing import BURST_LAUNCHES, Mode, buffer_sets, replays

Pairs = list[tuple[Any, Any]]
"""Inputs and outputs on the GPU."""


def time_fused(problem: Problem, modes: Iterable[Mode]) -> Iterator[dict[str, Any]]:
    """The fused kernel over rotated buffers, one line for each mode."""
    cupy = cupy_with_gpu()
    block = FusedBlock(problem, family_of(problem).draw(problem, 0))
    pairs = rotated(problem, block.device)
    stream = cupy.cuda.Stream(non_blocking=True)
    placed = count(problem, block.config, device_named(block.device.name))
    with stream:
        graph, launches = captured(block, pairs, stream)
        for mode in modes:
            timing = replays(lambda: graph.launch(stream), launches, mode, stream)
            yield {
                "kind": "time",
                "case": problem.name,
                "what": "fused",
                "kernel": block.config.name,
                "units": [code.unit.key(compiler_version()) for code in block.compiled],
                "registers": [code.registers for code in block.compiled],
                "spilled_bytes": [code.spilled_bytes for code in block.compiled],
                "serialised": any(code.serialised for code in block.compiled),
                "buffer_sets": len(pairs),
                "floor_s": placed.floor_s,
                "waterline_s": placed.waterline_s,
                **timing.record(),
            }


def time_baseline(problem: Problem, what: Baseline, modes: Iterable[Mode]) -> Iterator[dict[str, Any]]:
    """PyTorch's block, graph replay, on buffers rotated likewise."""
    cupy, torch = cupy_with_gpu(), torch_or_none()
    with in_memory(f"{problem.name} in PyTorch: the tensors"):
        block = baseline(what, problem, family_of(problem).draw(problem, 0))
        sets = buffer_sets(problem.input_bytes + problem.output_bytes, this_device().l2_bytes)
        inputs = [torch_input(problem) for _ in range(sets)]
        launches = -(-BURST_LAUNCHES // sets) * sets
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            try:
                for x in [*inputs[:3], inputs[0]]:
                    block(x)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # what torch.compile raises is one, too
                reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
                raise GpuError(f"{problem.name} in PyTorch, {what}: {shown(reason, 200)}") from None
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                kept = [block(x) for _ in range(launches // sets) for x in inputs]
            for mode in modes:
                timing = replays(graph.replay, launches, mode, cupy.cuda.Stream.from_external(stream))
                yield {"kind": "time", "case": problem.name, "what": what, "buffer_sets": sets, **timing.record()}
    del kept, graph
    torch.cuda.empty_cache()


def torch_input(problem: Problem) -> Any:
    """A random N×C×H×W tensor in channels_last."""
    torch = torch_or_none()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[problem.dtype]
    shape = (problem.N, problem.C, problem.H, problem.W)
    return torch.randn(shape, device="cuda").to(dtype, memory_format=torch.channels_last)


def rotated(problem: Problem, device: DeviceLimits) -> Pairs:
    """So many buffers that no launch finds its input in the L2 cache, filled, on whatever stream they are used."""
    cupy = cupy_with_gpu()
    sets = buffer_sets(problem.input_bytes + problem.output_bytes, device.l2_bytes)
    inputs = [half for half, _ in itertools.islice(random_inputs(problem, 0), sets)]
    with in_memory(f"{problem.name}: the outputs"):
        pairs = [(x, cupy.empty(problem.output_shape, x.dtype)) for x in inputs]
    cupy.cuda.Device().synchronize()
    return pairs


def captured(block: FusedBlock, pairs: Pairs, stream: Any) -> tuple[Any, int]:
    """A CUDA graph of calls over the buffers, after a few that warm up, and how many calls it has; `stream` is the current one."""
    for x, y in pairs[:4]:
        block(x, y)
    stream.synchronize()
    rounds = -(-BURST_LAUNCHES // len(pairs))
    stream.begin_capture()
    for _ in range(rounds):
        for x, y in pairs:
            block(x, y)
    return stream.end_capture(), rounds * len(pairs)
