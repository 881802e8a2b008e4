"""Fully connected layer, applied at every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, K, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, Weight, require_channels, require_positive


@cache
def linear_formula(*, bias: bool) -> Formula:
    """MACs = N·H·W·C·K; weights C·K; a bias adds K weights and one addition per output."""
    return Formula(
        macs=N * H * W * C * K,
        vector_ops=N * K * H * W if bias else sympy.Integer(0),
        inputs=(N * C * H * W,),
        reads=(N * C * H * W,),
        writes=N * K * H * W,
        weights=(Weight(name="weight", elements=C * K), *([Weight(name="bias", elements=K)] if bias else [])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Layer):
    """y = W·x + bias over the channels of each of the N·H·W pixels (one pixel after a global pooling)."""

    kind: ClassVar[str] = "linear"
    role: ClassVar[Role] = "matrix"

    in_channels: Dim
    out_channels: Dim
    bias: bool = True

    def __post_init__(self) -> None:
        require_positive(self, in_channels=self.in_channels, out_channels=self.out_channels)

    @property
    def formula(self) -> Formula:
        return linear_formula(bias=self.bias)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.in_channels, x)
        return x._replace(C=self.out_channels)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return {N: x.N, C: x.C, H: x.H, W: x.W, K: self.out_channels}
