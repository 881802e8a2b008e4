"""What tiles of an image read: counts that several kernels share."""

from __future__ import annotations


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
