"""The dimensions that every cost formula is written in, each defined once, and the integer arithmetic between them.

A dimension is a positive whole number, a NumPy or CuPy array of them (many designs at once), or a sympy expression (a formula).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import sympy

# int | numpy.ndarray | sympy.Expr. sympy has no type information, so the checker can hold no more than this.
Dim: TypeAlias = Any


class Shape(NamedTuple):
    """Logical shape of an activation tensor: N images × C channels × H rows × W columns, whatever its layout in memory."""

    N: Dim
    C: Dim
    H: Dim
    W: Dim

    @property
    def elements(self) -> Dim:
        """Number of elements, N·C·H·W."""
        return self.N * self.C * self.H * self.W

    def __str__(self) -> str:
        return "×".join(str(dim) for dim in self)


_MEANING: dict[str, str] = {}


def _symbol(name: str, meaning: str) -> sympy.Symbol:
    _MEANING[name] = meaning
    return sympy.Symbol(name, integer=True, positive=True)


N = _symbol("N", "images in the batch")
C = _symbol("C", "input channels")
H = _symbol("H", "input height")
W = _symbol("W", "input width")
K = _symbol("K", "output channels")
R = _symbol("R", "kernel height")
S = _symbol("S", "kernel width")
P = _symbol("P", "output height")
Q = _symbol("Q", "output width")
g = _symbol("g", "group width: input channels per group (C: ordinary convolution; 1: depthwise)")
e = _symbol("e", "expansion: hidden channels = e·C")
b = _symbol("b", "bytes per element")
H_r = _symbol("H_r", "input rows that some kernel tap reads (H unless the stride skips rows)")
W_r = _symbol("W_r", "input columns that some kernel tap reads (W unless the stride skips columns)")
H_a = _symbol("H_a", "rows summed over all pooling windows, overlaps counted each time")
W_a = _symbol("W_a", "columns summed over all pooling windows, overlaps counted each time")
H_f = _symbol("H_f", "height of the factor (1: one per channel)")
W_f = _symbol("W_f", "width of the factor (1: one per channel)")
N_b = _symbol("N_b", "matrices of the second factor (N, or fewer where several images share one)")
G = _symbol("G", "groups of channels that are normalised together")
E = _symbol("E", "elements of a tensor of any shape")
E_o = _symbol("E_o", "elements of the result")
C_se = _symbol("C_se", "squeezed channels of the squeeze-and-excitation")
s = _symbol("s", "stride")
p = _symbol("p", "output rows of a tile")
q = _symbol("q", "output columns of a tile")
k = _symbol("k", "channels that are done at a time")


def meaning(symbol: sympy.Symbol) -> str:
    """What a symbol stands for, in words; symbols of variadic layers (C_1, C_2 …) take the meaning of their stem."""
    name = str(symbol)
    if name in _MEANING:
        return _MEANING[name]
    stem, _, number = name.partition("_")
    return f"{_MEANING[stem]}, input {number}"


def numbered(stem: sympy.Symbol, count: int) -> tuple[sympy.Symbol, ...]:
    """`count` symbols C_1 … C_count for a layer with a variable number of inputs."""
    return tuple(sympy.Symbol(f"{stem}_{i}", integer=True, positive=True) for i in range(1, count + 1))


def expression(value: Dim) -> sympy.Expr:
    """A number or expression as a sympy expression. Text is refused, never parsed: sympy evaluates what it parses."""
    return sympy.sympify(value, strict=True)


def is_symbolic(*dims: Dim) -> bool:
    """Whether any of `dims` is a sympy expression that is not a plain number."""
    return any(isinstance(dim, sympy.Basic) and not dim.is_number for dim in dims)


def maximum(left: Dim, right: Dim) -> Dim:
    """The larger of two numbers, expressions, or arrays (elementwise; a CuPy array answers on its GPU)."""
    return _extreme(left, right, sympy.Max, max, "maximum")


def minimum(left: Dim, right: Dim) -> Dim:
    """The smaller of two numbers, expressions, or arrays."""
    return _extreme(left, right, sympy.Min, min, "minimum")


def _extreme(left: Dim, right: Dim, symbolic: Callable[..., Dim], number: Callable[..., Dim], array: str) -> Dim:
    if isinstance(left, sympy.Basic) or isinstance(right, sympy.Basic):
        return symbolic(left, right)
    if isinstance(left, int | float) and isinstance(right, int | float):
        return number(left, right)
    import numpy as np

    return getattr(np, array)(left, right)


def output_size(size: Dim, kernel: int, stride: int, padding: int, dilation: int) -> Dim:
    """Output extent of a sliding window: ⌊(size + padding − dilation·(kernel−1) − 1) / stride⌋ + 1.

    `padding` is the sum of both sides. Works on integers, arrays and expressions alike.
    """
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def extent_read(size: Dim, kernel: int, stride: int, padding_before: int, dilation: int, outputs: Dim) -> Dim:
    """How many of `size` input rows (or columns) a sliding window reads, padding excluded.

    Exact for integers. For an expression it is the limit of a large image: everything if the stride skips no row, otherwise
    `outputs · kernel` rows. Raises nothing.
    """
    if is_symbolic(size, outputs):
        return size if stride <= kernel else outputs * kernel
    if dilation == 1 and stride <= kernel:  # the windows overlap or touch: one unbroken run of rows
        return max(0, min(size, (outputs - 1) * stride + kernel - padding_before))
    taps = {position * stride - padding_before + tap * dilation for position in range(outputs) for tap in range(kernel)}
    return sum(1 for row in taps if 0 <= row < size)


def adaptive_windows(size: int, outputs: int) -> tuple[tuple[int, int], ...]:
    """Half-open windows of an adaptive pooling: output i covers rows ⌊i·size/outputs⌋ … ⌈(i+1)·size/outputs⌉ (PyTorch)."""
    return tuple((i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs))
