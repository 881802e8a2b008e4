"""Convolution whose weights are another tensor's: each image has its own (conditional convolutions mix them from a few experts)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import sympy

from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import C, Dim, H, H_r, K, N, P, Q, R, S, Shape, W, W_r, g, is_symbolic
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError

SAMPLE_CONV2D = Formula(
    macs=N * K * P * Q * R * S * g,
    inputs=(N * C * H * W, N * K * R * S * g),
    reads=(N * C * H_r * W_r, N * K * R * S * g),
    writes=N * K * P * Q,
)
"""As a convolution, but the weights are read once for each image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConv2d(Layer):
    """The convolution `each` of every image with weights of its own: N×C×H×W and N·K·R·S·g weights."""

    kind: ClassVar[str] = "sample_conv2d"
    role: ClassVar[Role] = "matrix"

    each: Conv2d

    @property
    def grouped(self) -> Conv2d:
        """How frameworks carry it out, for two images: one convolution with a group, or several, for each."""
        return replace(self.each, in_channels=2 * self.each.in_channels, out_channels=2 * self.each.out_channels)

    @property
    def formula(self) -> Formula:
        return SAMPLE_CONV2D

    def output_shape(self, *inputs: Shape) -> Shape:
        x, weights = inputs
        rows, columns = self.each.kernel
        needed = x.N * self.each.out_channels * rows * columns * self.each.group_width
        if not is_symbolic(*x, *weights) and weights.elements != needed:
            raise ShapeError(f"sample_conv2d: {weights.elements} weights do not fit {x.N} images; {needed} are needed")
        return self.each.output_shape(x)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        return self.each.binding(inputs[0])
