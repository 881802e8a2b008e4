"""ConvFirst as the harness sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from perfmodel.validation.fused.convfirst import c64, generic, stream
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convfirst.reference import ConvFirstParameters, draw, reference, torch_block
from perfmodel.validation.fused.family import Family
from perfmodel.validation.fused.problem import DTYPES, DType

SHAPES: Final = ((64, 56), (128, 28), (96, 56), (256, 14))
BATCHES: Final = (128, 1, 16)


def cases() -> tuple[ConvFirstProblem, ...]:
    """e = 4, fp16."""
    return tuple(ConvFirstProblem(N=N, H=size, W=size, C=C, expansion=4) for C, size in SHAPES for N in BATCHES)


def odd_cases() -> tuple[tuple[ConvFirstProblem, str | None], ...]:
    """Sizes that tiles do not divide, one pixel, every expansion, both types, every kernel."""

    def problems(
        C: int, expansions: Iterable[int], sizes: Iterable[tuple[int, int, int]], dtype: DType
    ) -> Iterator[ConvFirstProblem]:
        for expansion in expansions:
            for N, H, W in sizes:
                yield ConvFirstProblem(N=N, H=H, W=W, C=C, expansion=expansion, dtype=dtype)

    ragged = ((3, 13, 13), (2, 20, 35), (1, 1, 1), (1, 3, 5), (5, 7, 1))
    narrow = ((3, 13, 13), (1, 5, 31), (1, 1, 1), (7, 14, 14), (2, 40, 3))
    found: list[tuple[ConvFirstProblem, str | None]] = []
    found += [(problem, c64.NAME) for problem in problems(64, range(1, 9), ragged[:2], "fp16")]
    found += [(problem, c64.NAME) for problem in problems(64, (4,), ragged[2:], "fp16")]
    for C in stream.WARPGROUPS:  # few pixels, which clusters share, and enough for whole tiles
        found += [(problem, stream.NAME) for problem in problems(C, range(1, 9), narrow[:1], "fp16")]
        found += [(problem, stream.NAME) for problem in problems(C, (4,), (*narrow[1:], (60, 13, 17), (3, 9, 60)), "fp16")]
        found += [(problem, stream.NAME) for problem in problems(C, (1, 6), ((60, 13, 17),), "fp16")]
    for dtype in DTYPES:
        for C in (8, 24, 40, 64, 96, 128, 264, 520):
            found += [(problem, generic.NAME) for problem in problems(C, (3,), ragged[:2], dtype)]
        found += [(problem, generic.NAME) for problem in problems(96, (1, 4), ragged[:2], dtype)]
        found += [(problem, generic.NAME) for problem in problems(48, range(1, 9), ragged[4:], dtype)]
        found += [(problem, generic.NAME) for problem in problems(48, (4,), ragged[2:4], dtype)]
        found += [(problem, generic.NAME) for problem in problems(2056, (2,), ((1, 5, 6),), dtype)]
    return tuple(found)


def roundings(problem: ConvFirstProblem) -> int:
    """Convolution, expansion, tanh, SiLU, projection, residual."""
    del problem
    return 6


def depth(problem: ConvFirstProblem) -> int:
    """72 + C + eC."""
    return 72 + problem.C + problem.hidden


FAMILY: Final = Family(
    name="convfirst",
    problem=ConvFirstProblem,
    parameters=ConvFirstParameters,
    kernels=(c64.KERNEL, stream.KERNEL, generic.KERNEL),
    draw=draw,
    reference=reference,
    roundings=roundings,
    depth=depth,
    torch_block=torch_block,
    cases=cases,
    odd_cases=odd_cases,
)
