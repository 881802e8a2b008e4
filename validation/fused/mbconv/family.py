"""MBConv as the harness sees it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from perfmodel.validation.fused.family import Family, Kernel
from perfmodel.validation.fused.mbconv import chain, depthwise, generic, rows, tiles
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import MBConvParameters, draw, reference, torch_block
from perfmodel.validation.fused.problem import DTYPES

SHAPES: Final = ((64, 56), (128, 28), (256, 14), (96, 56))
BATCHES: Final = (128, 1, 16)
KERNELS: Final[tuple[Kernel[MBConvProblem, MBConvParameters], ...]] = (
    tiles.KERNEL,
    chain.KERNEL,
    rows.KERNEL,
    depthwise.KERNEL,
    generic.KERNEL,
)


def cases() -> tuple[MBConvProblem, ...]:
    """Width 8, e = 4, fp16; and of the first shape the depthwise forms, stride 2 and squeeze-and-excitation."""
    plain = [MBConvProblem(N=N, H=size, W=size, C=C, expansion=4) for C, size in SHAPES for N in BATCHES]
    others: tuple[dict[str, Any], ...] = (
        {"group_width": 1},
        {"group_width": 1, "kernel": 5},
        {"group_width": 1, "stride": 2, "out_channels": 128},
        {"group_width": 1, "squeeze": 16},
    )
    return (*plain, *(MBConvProblem(N=N, H=56, W=56, C=64, expansion=4, **other) for other in others for N in BATCHES))


def depthwise_cases() -> tuple[MBConvProblem, ...]:
    """Depthwise blocks of other channels, images and expansions than `cases`, whose sizes have just one: large batches first."""
    forms: tuple[dict[str, Any], ...] = (
        {"C": 32, "H": 112, "expansion": 4},
        {"C": 96, "H": 28, "expansion": 4},
        {"C": 128, "H": 28, "expansion": 4},
        {"C": 24, "H": 56, "expansion": 6},
        {"C": 32, "H": 56, "expansion": 4, "kernel": 5},
        {"C": 128, "H": 14, "expansion": 4, "kernel": 5},
        {"C": 96, "H": 56, "expansion": 4, "stride": 2, "out_channels": 128},
        {"C": 40, "H": 28, "expansion": 6, "kernel": 5, "squeeze": 10},
        {"C": 80, "H": 14, "expansion": 6},
        {"C": 32, "H": 112, "expansion": 4, "kernel": 5, "stride": 2, "out_channels": 64},
        {"C": 128, "H": 28, "expansion": 4, "squeeze": 32},
        {"C": 80, "H": 28, "expansion": 6, "kernel": 5, "stride": 2, "out_channels": 112, "squeeze": 20},
    )
    return tuple(MBConvProblem(N=N, W=form["H"], group_width=1, **form) for N in BATCHES for form in forms)


def odd_cases() -> tuple[tuple[MBConvProblem, str | None], ...]:
    """Both widths, both kernel sizes, both strides, with and without squeeze-and-excitation, sizes that tiles do not divide, both types."""
    ragged = ((3, 13, 13), (2, 20, 35), (1, 1, 1), (1, 3, 5), (5, 7, 1))
    forms: tuple[dict[str, Any], ...] = ({}, {"group_width": 1}, {"group_width": 1, "kernel": 5})
    found = []
    for dtype in DTYPES:
        for index, form in enumerate(forms):
            for stride in (1, 2):
                for squeeze in (None, 6):
                    for C, expansion in ((64, 4), (24, 6), (40, 1)):
                        sizes = ragged if C == 24 else ragged[index : index + 1]
                        found += [
                            MBConvProblem(
                                N=N, H=H, W=W, C=C, expansion=expansion, dtype=dtype, stride=stride, squeeze=squeeze, **form
                            )
                            for N, H, W in sizes
                        ]
        found.append(MBConvProblem(N=2, H=13, W=13, C=96, expansion=4, dtype=dtype, out_channels=136))
        found.append(MBConvProblem(N=1, H=9, W=9, C=264, expansion=2, dtype=dtype))
    chosen: list[tuple[MBConvProblem, str | None]] = [(problem, None) for problem in found]
    chosen += [(problem, generic.NAME) for problem in found if problem.group_width == 1][::3]  # which others serve on Hopper
    for C in (64, 88, 128):  # one block and two for the hidden channels; many images to a block, and many strips
        for index, (kernel, stride) in enumerate(((3, 1), (5, 1), (3, 2), (5, 2))):
            N, H, W = ((70, 15, 37), (5, 61, 61))[index % 2]
            squeeze = 8 if C > 64 else None
            asked = MBConvProblem(N=N, H=H, W=W, C=C, expansion=4, group_width=1, kernel=kernel, stride=stride, squeeze=squeeze)
            chosen.append((asked, depthwise.NAME))
    for C in rows.LAYOUTS:
        for N, H, W in (*ragged, (7, 2, 29)):
            plain = MBConvProblem(N=N, H=H, W=W, C=C, expansion=4)
            chosen += [(plain, rows.NAME), (plain, generic.NAME)][: 2 if N == 3 else 1]
        for expansion in range(1, 9):  # few blocks, which clusters share, and many
            for N, name in ((1, rows.NAME), (30, tiles.NAME if C == tiles.CHANNELS else rows.NAME)):
                chosen.append((MBConvProblem(N=N, H=15, W=29, C=C, expansion=expansion), name))
    for N, H, W, expansion in ((171, 8, 42, 4), (513, 4, 13, 4), (128, 12, 50, 2)):  # a strip to a warpgroup
        chosen.append((MBConvProblem(N=N, H=H, W=W, C=64, expansion=expansion), rows.NAME))
    for C in chain.WARPGROUPS:
        for N, H, W in ((70, 15, 29), (60, 20, 35), (200, 3, 5), (120, 2, 29), (44, 24, 29)):  # the last: whole strips
            chosen.append((MBConvProblem(N=N, H=H, W=W, C=C, expansion=4), chain.NAME))
    for N, H, W in ((70, 15, 29), (44, 24, 29)):
        chosen += [(MBConvProblem(N=N, H=H, W=W, C=128, expansion=expansion), chain.NAME) for expansion in (2, 3)]
    chosen.append((MBConvProblem(N=300, H=1, W=1, C=128, expansion=2), chain.NAME))
    for N, H, W in ((40, 13, 13), (12, 20, 35), (80, 1, 1), (80, 3, 5), (80, 7, 1), (30, 2, 29)):
        chosen.append((MBConvProblem(N=N, H=H, W=W, C=tiles.CHANNELS, expansion=4), tiles.NAME))
    return tuple(chosen)


def roundings(problem: MBConvProblem) -> int:
    """Expansion, tanh, SiLU, convolution, tanh, SiLU, projection, residual; with squeeze-and-excitation the gate and its product."""
    return 8 + (2 if problem.squeeze is not None else 0)


def depth(problem: MBConvProblem) -> int:
    """C + taps + eC; with squeeze-and-excitation also H·W + eC + squeeze."""
    spatial = problem.kernel**2 * problem.group_width
    _, H, W, _ = problem.hidden_shape
    gate = 0 if problem.squeeze is None else H * W + problem.hidden + problem.squeeze
    return problem.C + spatial + problem.hidden + gate


FAMILY: Final = Family(
    name="mbconv",
    problem=MBConvProblem,
    parameters=MBConvParameters,
    kernels=KERNELS,
    draw=draw,
    reference=reference,
    roundings=roundings,
    depth=depth,
    torch_block=torch_block,
    cases=cases,
    odd_cases=odd_cases,
    selections=MappingProxyType({"depthwise": depthwise_cases}),
)
