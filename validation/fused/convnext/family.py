"""ConvNeXt as the harness sees it."""

from __future__ import annotations

from typing import Final

from perfmodel.validation.fused.convnext import few, generic, patch, planes, wide
from perfmodel.validation.fused.convnext.problem import KERNEL, ConvNeXtProblem
from perfmodel.validation.fused.convnext.reference import ConvNeXtParameters, draw, reference, torch_block
from perfmodel.validation.fused.family import Family, Kernel
from perfmodel.validation.fused.problem import DTYPES

SHAPES: Final = ((64, 56), (96, 56), (128, 28), (256, 14))
BATCHES: Final = (128, 1, 16)
KERNELS: Final[tuple[Kernel[ConvNeXtProblem, ConvNeXtParameters], ...]] = (
    few.KERNEL,
    planes.KERNEL,
    patch.KERNEL,
    wide.KERNEL,
    generic.KERNEL,
)


def cases() -> tuple[ConvNeXtProblem, ...]:
    """e = 4, fp16."""
    return tuple(ConvNeXtProblem(N=N, H=size, W=size, C=C, expansion=4) for C, size in SHAPES for N in BATCHES)


def odd_cases() -> tuple[tuple[ConvNeXtProblem, str | None], ...]:
    """Sizes that tiles do not divide, one pixel, several expansions, both types."""
    ragged = ((3, 13, 13), (2, 20, 35), (1, 1, 1), (1, 3, 5), (5, 7, 1))
    found = []
    for dtype in DTYPES:
        for C in (8, 24, 64, 96, 128, 256):
            for expansion in (1, 4, 6):
                sizes = ragged if (C, expansion) in ((24, 4), (64, 4), (96, 4)) else ragged[:1]
                found += [ConvNeXtProblem(N=N, H=H, W=W, C=C, expansion=expansion, dtype=dtype) for N, H, W in sizes]
    return tuple((problem, None) for problem in found)


def roundings(problem: ConvNeXtProblem) -> int:
    """Convolution, norm, expansion, GELU's inner function, GELU, projection, scale, residual; two folded sets of weights."""
    del problem
    return 10


def depth(problem: ConvNeXtProblem) -> int:
    """49 + 2·C of the norm's two sums + C + eC."""
    return KERNEL**2 + 3 * problem.C + problem.hidden


FAMILY: Final = Family(
    name="convnext",
    problem=ConvNeXtProblem,
    parameters=ConvNeXtParameters,
    kernels=KERNELS,
    draw=draw,
    reference=reference,
    roundings=roundings,
    depth=depth,
    torch_block=torch_block,
    cases=cases,
    odd_cases=odd_cases,
)
