"""What takes time but no GPU clock: every kernel and every torch.compile baseline compiled beforehand, on all cores, into the caches."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from typing import Final

from perfmodel.validation.baselines import baseline, torch_or_none
from perfmodel.validation.benchmarks import torch_input
from perfmodel.validation.compile import compile_unit, unit_of
from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.family import remember
from perfmodel.validation.fused.problem import DeviceLimits, GpuError, Problem
from perfmodel.validation.gpu import in_memory

LARGEST_POOL: Final = 16
SAID_EVERY: Final = 20
"""Cases from one line on how far compiling is to the next."""
BASELINES_AT_ONCE: Final = 14
"""Each holds a CUDA context and compiles in its own process (see `one_compiler_each`)."""


def one_compiler_each() -> None:
    """torch.compile starts a pool of compilers in each process unless told not to. Before torch's compiler is first imported."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def prepare_kernels(
    asked: Iterable[tuple[Problem, str | None]], device: DeviceLimits, tell: Callable[[str], None] = lambda _: None
) -> int:
    """Choose and compile every kernel that the problems need; for how many. One that is refused is left for whoever measures it."""
    jobs = [(problem, only, device) for problem, only in dict.fromkeys(asked)]
    served = 0
    with _pool(min(LARGEST_POOL, os.cpu_count() or 1)) as pool:
        for done, ((problem, only, _), config) in enumerate(zip(jobs, pool.map(_compile_kernel, jobs), strict=True), 1):
            if done % SAID_EVERY == 0:
                tell(f"kernels of {done} cases: there")
            if config is not None:
                remember(problem, device, only, config)
                served += 1
    return served


def _compile_kernel(job: tuple[Problem, str | None, DeviceLimits]) -> Config | None:
    problem, only, device = job
    try:
        config = family_of(problem).choose(problem, device, only=only)
    except GpuError:
        return None
    return config if _compile_config((problem, config, device)) else None


def prepare_configs(
    asked: Iterable[tuple[Problem, Config]], device: DeviceLimits, tell: Callable[[str], None] = lambda _: None
) -> int:
    """Compile configurations that nobody has to choose; how many there are now. One that is refused is left for whoever measures it."""
    jobs = [(problem, config, device) for problem, config in asked]
    compiled = 0
    with _pool(min(LARGEST_POOL, os.cpu_count() or 1)) as pool:
        for done, there in enumerate(pool.map(_compile_config, jobs), 1):
            if done % SAID_EVERY == 0:
                tell(f"kernels of {done} configurations: there")
            compiled += there
    return compiled


def _compile_config(job: tuple[Problem, Config, DeviceLimits]) -> bool:
    problem, config, device = job
    try:
        for launch in family_of(problem).by_name[config.kernel].launches(problem, config, device):
            compile_unit(unit_of(config, device.architecture, launch.constants))
    except GpuError:
        return False
    return True


def prepare_baselines(problems: Iterable[Problem], tell: Callable[[str], None] = lambda _: None) -> int:
    """Run torch.compile on every block once, so that the measuring process finds its code on disk; how many."""
    problems = tuple(problems)
    if not problems:
        return 0
    at_once = min(BASELINES_AT_ONCE, len(problems))
    tell(f"torch.compile: {len(problems)} blocks, {at_once} at the same time")
    compiled = 0
    try:
        with _pool(at_once) as pool:
            for problem, done in zip(problems, pool.map(_compile_baseline, problems), strict=True):
                compiled += done
                tell(f"torch.compile: {problem.name}{'' if done else ' left for its turn'}")
    except BrokenProcessPool:
        tell(
            "torch.compile: a process was ended from outside, for want of memory perhaps; the other blocks are left for their turn"
        )
    return compiled


def _compile_baseline(problem: Problem) -> bool:
    torch = torch_or_none()
    if torch is None:
        return False
    try:
        with torch.no_grad(), in_memory(f"{problem.name} in PyTorch: the tensors"):
            baseline("compile", problem, family_of(problem).draw(problem, 0))(torch_input(problem))
    except (
        Exception
    ):  # memory that several at once do not find, or what the compiler says: whoever measures it tries again, and says it
        return False
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return True


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(max(1, workers), mp_context=multiprocessing.get_context("spawn"))
