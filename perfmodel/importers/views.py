"""Where the elements of a tensor lie: which reshapes are views, and which must copy.

Strides are in elements. Results of kernels are dense; images (N×C×H×W) lie channels last, everything else in the order of its axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Strides = tuple[int, ...]


def contiguous(shape: Sequence[int]) -> Strides:
    """Strides of a dense tensor in the order of its axes."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def dense(shape: Sequence[int], channel_axis: int) -> Strides:
    """Strides of a kernel's result: channels last for an image whose channels are its second axis.

    >>> dense((2, 3, 4, 5), 1)
    (60, 1, 15, 3)
    """
    if len(shape) == 4 and channel_axis == 1:
        _, c, h, w = shape
        return (c * h * w, 1, w * c, c)
    return contiguous(shape)


def in_order(shape: Sequence[int], steps: Sequence[int]) -> Strides:
    """Strides of a dense tensor whose axes lie in the order of `steps`, the smallest innermost.

    >>> in_order((2, 3, 4, 5), (120, 1, 30, 6))
    (60, 1, 15, 3)
    """
    strides, step = [0] * len(shape), 1
    for axis in sorted(range(len(shape)), key=lambda place: (steps[place], -place)):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def reshaped(shape: Sequence[int], strides: Strides, target: Sequence[int]) -> Strides | None:
    """Strides of a view of `shape` as `target`, or None where only a copy has that order.

    Axes can be joined where each is a whole number of steps of the next, and split at will.

    >>> reshaped((2, 3, 4), (12, 4, 1), (6, 4)), reshaped((2, 3, 4), (12, 1, 3), (2, 12))
    ((4, 1), None)
    """
    if math.prod(shape) == 0:
        return contiguous(target)
    runs: list[tuple[int, int]] = []  # (elements, stride of the innermost) of axes that lie as one, outermost first
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    result: list[int] = [0] * len(target)
    axis = len(target) - 1
    for elements, stride in reversed(runs):
        left, step = elements, stride
        while left > 1:
            if axis < 0:
                return None
            size = target[axis]
            if size > 1:
                if left % size:
                    return None
                left //= size
                result[axis] = step
                step *= size
            else:
                result[axis] = step
            axis -= 1
    for rest in range(axis, -1, -1):
        if target[rest] != 1:
            return None
        result[rest] = math.prod(shape)
    return tuple(result)
