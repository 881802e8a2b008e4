"""A fused kernel against float64 on fresh random inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.problem import Problem
from perfmodel.validation.fused.reference import deviation, tolerance
from perfmodel.validation.gpu import cupy_with_gpu, in_memory
from perfmodel.validation.launch import FusedBlock

SEEDS: Final = (0, 1, 2)
REFERENCE_ELEMENTS: Final = 20_000_000
"""Of the hidden tensor in one piece of the float64 reference."""


def random_input(problem: Problem, seed: int) -> tuple[Any, Any]:
    """Standard normal input as the type holds it, and the same in fp32."""
    return next(random_inputs(problem, seed))


def random_inputs(problem: Problem, seed: int) -> Iterator[tuple[Any, Any]]:
    """One such pair after the other, of one generator: making a generator takes longer than drawing a small input from it."""
    cupy = cupy_with_gpu()
    generator = cupy.random.default_rng(seed)
    while True:
        with in_memory(f"{problem.name}: the inputs"):
            drawn = generator.standard_normal(problem.input_shape, cupy.float32)
            if problem.dtype == "fp16":
                half = drawn.astype(cupy.float16)
                wide = half.astype(cupy.float32)
            else:
                words = drawn.view(cupy.uint32)
                half = ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(cupy.uint16)
                wide = (half.astype(cupy.uint32) << 16).view(cupy.float32)
        yield half, wide


def not_a_number(problem: Problem) -> Any:
    """An output buffer in which whatever is not written shows."""
    cupy = cupy_with_gpu()
    with in_memory(f"{problem.name}: the outputs"):
        if problem.dtype == "fp16":
            return cupy.full(problem.output_shape, cupy.nan, cupy.float16)
        return cupy.full(problem.output_shape, 0x7FC0, cupy.uint16)


def check(problem: Problem, only: str | None = None, seeds: Iterable[int] = SEEDS) -> dict[str, Any]:
    """For each seed: output pre-filled with not-a-number, twice, the second time bit for bit; the worst is returned."""
    cupy, family = cupy_with_gpu(), family_of(problem)
    allowed = tolerance(problem.dtype, family.roundings(problem), family.depth(problem))
    has_identity = problem.input_shape == problem.output_shape
    worst: dict[str, Any] = {}
    kernel, seeds = "", tuple(seeds)
    for seed in seeds:
        parameters = family.draw(problem, seed)
        block = FusedBlock(problem, parameters, only=only)
        kernel = block.config.name
        x, wide = random_input(problem, seed + 1000)
        outs = [block(x, not_a_number(problem)) for _ in range(2)]
        cupy.cuda.get_current_stream().synchronize()
        same = bool((outs[0].view(cupy.uint16) == outs[1].view(cupy.uint16)).all())
        result = outs[0] if problem.dtype == "fp16" else (outs[0].astype(cupy.uint32) << 16).view(cupy.float32)
        images = max(1, REFERENCE_ELEMENTS // (problem.H * problem.W * problem.hidden))
        for start in range(0, problem.N, images):
            piece = slice(start, start + images)
            expected = family.reference(cupy, wide[piece], parameters, problem)
            found = deviation(cupy, result[piece], expected, wide[piece] if has_identity else None, allowed)
            line = {**asdict(found), "passed": found.passed and same, "repeats": same, "seed": seed}
            if not worst or not line["passed"] or (worst["passed"] and not line["branch"] <= worst["branch"]):
                worst = line
    return {"kind": "check", "case": problem.name, "what": kernel, **worst, "seeds": len(seeds)}
