"""What tiles of an image read: counts that several kernels share."""

from __future__ import annotations

from typing import Final

from perfmodel.validation.fused.problem import Problem

PATCH: Final = 8
"""Pixels along each side of a patch."""


def reached(size: int, tile: int, *, kernel: int, stride: int = 1) -> int:
    """Rows (or columns) of an input of `size` that tiles of `tile` output rows read inside of the image, summed over the tiles.

    Padding is kernel // 2. Where the kernel is narrower than the stride, the rows between are counted too: a tile reads what it spans.

    >>> reached(56, 8, kernel=3), reached(56, 56, kernel=3), reached(8, 2, kernel=3, stride=2)
    (68, 56, 9)
    """
    pad, outputs = kernel // 2, -(-size // stride)
    total = 0
    for start in range(0, outputs, tile):
        last = min(start + tile, outputs) - 1
        total += min(size, last * stride - pad + kernel) - max(0, start * stride - pad)
    return total


def patches_of(problem: Problem) -> int:
    """Of 8×8 pixels."""
    return problem.N * -(-problem.H // PATCH) * -(-problem.W // PATCH)


def filled_patches(problem: Problem) -> float:
    """The share of patches' pixels that are pixels of an image."""
    return problem.pixels / (patches_of(problem) * PATCH**2)


def resident_blocks(multiprocessors: int, cluster: int) -> int:
    """Blocks, one to a multiprocessor, that run at once in clusters of a power of two.

    The blocks of a cluster share one of the chip's graphics processing clusters, of which Hopper's have at most 18 multiprocessors
    (144 in 8; H100 whitepaper): clusters of four or eight leave two of 18 without work.

    >>> resident_blocks(132, 1), resident_blocks(132, 2), resident_blocks(132, 4), resident_blocks(132, 8)
    (132, 132, 116, 112)
    """
    usable = multiprocessors if cluster <= 2 else multiprocessors * 16 // 18
    return usable // cluster * cluster
