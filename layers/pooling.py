"""Pooling: maximum and average over sliding windows, over adaptive windows, and over the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import sympy

from perfmodel.layers.conv2d import require_room
from perfmodel.layers.dims import (
    C,
    Dim,
    H,
    H_a,
    H_r,
    N,
    P,
    Q,
    R,
    S,
    Shape,
    W,
    W_a,
    W_r,
    adaptive_windows,
    extent_read,
    is_symbolic,
    output_size,
)
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError, image, require_positive


@cache
def pool_formula(reduction: Literal["max", "average"]) -> Formula:
    """R·S comparisons or additions per output (padding taps included); an average multiplies once more."""
    return Formula(
        vector_ops=N * C * P * Q * (R * S + (1 if reduction == "average" else 0)),
        inputs=(N * C * H * W,),
        reads=(N * C * H_r * W_r,),
        writes=N * C * P * Q,
    )


ADAPTIVE_AVERAGE_POOL = Formula(
    vector_ops=N * C * (H_a * W_a + P * Q), inputs=(N * C * H * W,), reads=(N * C * H * W,), writes=N * C * P * Q
)
"""One addition per element of each window, one multiplication per output."""

GLOBAL_AVERAGE_POOL = Formula(vector_ops=N * C * (H * W + 1), inputs=(N * C * H * W,), reads=(N * C * H * W,), writes=N * C)
"""H·W additions and one multiplication per channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool(Layer):
    role: ClassVar[Role] = "window"
    reduction: ClassVar[Literal["max", "average"]]

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        require_positive(self, kernel=self.kernel, stride=self.stride)
        if any(not 0 <= 2 * pad <= k for pad, k in zip(self.padding, self.kernel, strict=True)):
            raise ShapeError(f"{self.kind}: padding {self.padding} must be from 0 to half of the kernel {self.kernel}")

    @property
    def formula(self) -> Formula:
        return pool_formula(self.reduction)

    def _extent(self, size: Dim, axis: int) -> Dim:
        kernel, stride, pad = self.kernel[axis], self.stride[axis], self.padding[axis]
        outputs = output_size(size + (stride - 1 if self.ceil_mode else 0), kernel, stride, 2 * pad, 1)
        if self.ceil_mode and not is_symbolic(size) and (outputs - 1) * stride >= size + pad:
            outputs -= 1  # no window may start in the padding behind the image
        return outputs

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        height, width = self._extent(x.H, 0), self._extent(x.W, 1)
        require_room(self, x, height, width)
        return Shape(x.N, x.C, height, width)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        out = self.output_shape(x)
        return {
            N: x.N,
            C: x.C,
            H: x.H,
            W: x.W,
            P: out.H,
            Q: out.W,
            R: self.kernel[0],
            S: self.kernel[1],
            H_r: extent_read(x.H, self.kernel[0], self.stride[0], self.padding[0], 1, out.H),
            W_r: extent_read(x.W, self.kernel[1], self.stride[1], self.padding[1], 1, out.W),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(_Pool):
    """Maximum over a sliding R×S window."""

    kind: ClassVar[str] = "max_pool"
    reduction: ClassVar[Literal["max", "average"]] = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool(_Pool):
    """Mean over a sliding R×S window."""

    kind: ClassVar[str] = "average_pool"
    reduction: ClassVar[Literal["max", "average"]] = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveAveragePool(Layer):
    """Mean over windows chosen so that the output has a given size, whatever the input's."""

    kind: ClassVar[str] = "adaptive_average_pool"
    role: ClassVar[Role] = "window"

    output: tuple[int, int]

    def __post_init__(self) -> None:
        require_positive(self, output=self.output)

    @property
    def formula(self) -> Formula:
        return ADAPTIVE_AVERAGE_POOL

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        return Shape(x.N, x.C, *self.output)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        if is_symbolic(x.H, x.W):
            rows, columns = x.H, x.W  # windows tile the image wherever the output size divides it
        else:
            rows, columns = (
                sum(stop - start for start, stop in adaptive_windows(size, outputs))
                for size, outputs in zip((x.H, x.W), self.output, strict=True)
            )
        return {N: x.N, C: x.C, H: x.H, W: x.W, P: self.output[0], Q: self.output[1], H_a: rows, W_a: columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAveragePool(Layer):
    """Mean over all pixels of each channel."""

    kind: ClassVar[str] = "global_average_pool"
    role: ClassVar[Role] = "reduction"

    @property
    def formula(self) -> Formula:
        return GLOBAL_AVERAGE_POOL

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        return Shape(x.N, x.C, 1, 1)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return image(x)
