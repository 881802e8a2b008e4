"""Transposed convolution: each input pixel adds a weighted kernel to the output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, K, N, P, Q, R, S, Shape, W, g
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError, Weight, require_channels, require_positive


@cache
def conv_transpose2d_formula(*, bias: bool) -> Formula:
    """MACs = N·H·W·R·S·K·g (what padding then cuts off included, as is usual); weights K·R·S·g."""
    return Formula(
        macs=N * H * W * R * S * K * g,
        vector_ops=N * K * P * Q if bias else sympy.Integer(0),
        inputs=(N * C * H * W,),
        reads=(N * C * H * W,),
        writes=N * K * P * Q,
        weights=(Weight(name="weight", elements=K * R * S * g), *([Weight(name="bias", elements=K)] if bias else [])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvTranspose2d(Layer):
    """Transposed convolution of C channels to K with an R×S kernel, to an image of `size`; `group_width` is input channels per group."""

    kind: ClassVar[str] = "conv_transpose2d"
    role: ClassVar[Role] = "matrix"

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    group_width: int
    bias: bool = False

    def __post_init__(self) -> None:
        require_positive(
            self,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel=self.kernel,
            size=self.size,
            group_width=self.group_width,
        )
        if self.in_channels % self.group_width:
            raise ShapeError(f"conv_transpose2d: {self.in_channels} channels do not divide into groups of {self.group_width}")

    @property
    def formula(self) -> Formula:
        return conv_transpose2d_formula(bias=self.bias)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.in_channels, x)
        return Shape(x.N, self.out_channels, *self.size)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return {
            N: x.N,
            C: x.C,
            H: x.H,
            W: x.W,
            K: self.out_channels,
            P: self.size[0],
            Q: self.size[1],
            R: self.kernel[0],
            S: self.kernel[1],
            g: self.group_width,
        }
