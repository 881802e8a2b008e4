"""FusedMBConv as the harness sees it."""

from __future__ import annotations

from typing import Final

from perfmodel.validation.fused.family import Family, Kernel
from perfmodel.validation.fused.fused_mbconv import few, generic, stream
from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.fused_mbconv.reference import FusedMBConvParameters, draw, reference, torch_block
from perfmodel.validation.fused.problem import DTYPES

SHAPES: Final = ((64, 56), (128, 28), (256, 14))
BATCHES: Final = (128, 1, 16)
KERNELS: Final[tuple[Kernel[FusedMBConvProblem, FusedMBConvParameters], ...]] = (few.KERNEL, stream.KERNEL, generic.KERNEL)


def cases() -> tuple[FusedMBConvProblem, ...]:
    """e = 4, fp16."""
    return tuple(FusedMBConvProblem(N=N, H=size, W=size, C=C, expansion=4) for C, size in SHAPES for N in BATCHES)


def odd_cases() -> tuple[tuple[FusedMBConvProblem, str | None], ...]:
    """Sizes that tiles do not divide, one pixel, several expansions, both types."""
    ragged = ((3, 13, 13), (2, 20, 35), (1, 1, 1), (1, 3, 5), (5, 7, 1))
    found = []
    for dtype in DTYPES:
        for C in (8, 24, 64, 96, 128, 256):
            for expansion in (1, 4, 6):
                sizes = ragged if (C, expansion) in ((24, 4), (64, 4), (128, 4)) else ragged[:1]
                found += [FusedMBConvProblem(N=N, H=H, W=W, C=C, expansion=expansion, dtype=dtype) for N, H, W in sizes]
    return tuple((problem, None) for problem in found)


def roundings(problem: FusedMBConvProblem) -> int:
    """Convolution, tanh, SiLU, projection, residual."""
    del problem
    return 5


def depth(problem: FusedMBConvProblem) -> int:
    """9·C + eC."""
    return 9 * problem.C + problem.hidden


FAMILY: Final = Family(
    name="fused_mbconv",
    problem=FusedMBConvProblem,
    parameters=FusedMBConvParameters,
    kernels=KERNELS,
    draw=draw,
    reference=reference,
    roundings=roundings,
    depth=depth,
    torch_block=torch_block,
    cases=cases,
    odd_cases=odd_cases,
)
