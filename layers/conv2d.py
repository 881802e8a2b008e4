"""Two-dimensional convolution: ordinary, pointwise, grouped and depthwise are cases of one formula."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Literal

import sympy

from perfmodel.layers.dims import C, Dim, H, H_r, K, N, P, Q, R, S, Shape, W, W_r, extent_read, g, is_symbolic, output_size
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError, Weight, require_channels, require_positive

ConvClass = Literal["conv", "pointwise_conv", "grouped_conv", "depthwise_conv"]


@cache
def conv2d_formula(*, bias: bool) -> Formula:
    """MACs = N·K·P·Q·R·S·g (padding taps included, as is usual); weights K·R·S·g; a bias adds K weights and one addition per output."""
    return Formula(
        macs=N * K * P * Q * R * S * g,
        vector_ops=N * K * P * Q if bias else sympy.Integer(0),
        inputs=(N * C * H * W,),
        reads=(N * C * H_r * W_r,),
        writes=N * K * P * Q,
        weights=(Weight(name="weight", elements=K * R * S * g), *([Weight(name="bias", elements=K)] if bias else [])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv2d(Layer):
    """Convolution of C channels to K with an R×S kernel.

    `group_width` is the number of input channels that each output channel sees: `in_channels` (the default) for an ordinary
    convolution, 1 for a depthwise one. `padding` is (top, bottom, left, right), or None for the symmetric padding that keeps the size at
    stride 1.
    """

    kind: ClassVar[str] = "conv2d"
    role: ClassVar[Role] = "matrix"

    in_channels: Dim
    out_channels: Dim
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] | None = None
    dilation: tuple[int, int] = (1, 1)
    group_width: Dim = None
    bias: bool = False
    computed_weights: bool = field(default=False, repr=False)
    """The weights are computed from the parameters at every step (standardised), and lie in the order K, C, R, S whatever the data's."""

    def __post_init__(self) -> None:
        if self.group_width is None:
            object.__setattr__(self, "group_width", self.in_channels)
        if self.padding is None:
            vertical, horizontal = (d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel, strict=True))
            object.__setattr__(self, "padding", (vertical, vertical, horizontal, horizontal))
        require_positive(
            self,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            group_width=self.group_width,
        )
        sides: tuple[object, ...] = self._padding
        if len(sides) != 4 or any(not isinstance(pad, int) or pad < 0 for pad in sides):
            raise ShapeError(f"conv2d: padding must be four whole numbers of at least 0, not {self.padding}")
        if is_symbolic(self.in_channels, self.out_channels, self.group_width):
            return
        if self.in_channels % self.group_width:
            raise ShapeError(
                f"conv2d: {self.in_channels} input channels do not divide into groups of {self.group_width}; "
                "choose a group width that divides them"
            )
        if self.out_channels % self.groups:
            raise ShapeError(
                f"conv2d: {self.out_channels} output channels do not divide into the {self.groups} groups that {self.in_channels} "
                f"input channels make at a group width of {self.group_width}; choose a multiple of {self.groups}"
            )

    @property
    def _padding(self) -> tuple[int, int, int, int]:
        return self.padding or (0, 0, 0, 0)

    @property
    def groups(self) -> Dim:
        """Number of groups, C / g."""
        return self.in_channels // self.group_width

    @property
    def conv_class(self) -> ConvClass:
        """Which of the four cases this is. A pointwise convolution is an ordinary one with a 1×1 kernel."""
        if self.group_width != self.in_channels:
            return "depthwise_conv" if self.group_width == 1 else "grouped_conv"
        return "pointwise_conv" if self.kernel == (1, 1) else "conv"

    @property
    def formula(self) -> Formula:
        return conv2d_formula(bias=self.bias)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.in_channels, x)
        top, bottom, left, right = self._padding
        height = output_size(x.H, self.kernel[0], self.stride[0], top + bottom, self.dilation[0])
        width = output_size(x.W, self.kernel[1], self.stride[1], left + right, self.dilation[1])
        require_room(self, x, height, width)
        return Shape(x.N, self.out_channels, height, width)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        out = self.output_shape(x)
        top, _, left, _ = self._padding
        return {
            N: x.N,
            C: x.C,
            H: x.H,
            W: x.W,
            K: out.C,
            P: out.H,
            Q: out.W,
            R: self.kernel[0],
            S: self.kernel[1],
            g: self.group_width,
            H_r: extent_read(x.H, self.kernel[0], self.stride[0], top, self.dilation[0], out.H),
            W_r: extent_read(x.W, self.kernel[1], self.stride[1], left, self.dilation[1], out.W),
        }


def require_room(layer: Layer, x: Shape, height: Dim, width: Dim) -> None:
    """Raise ShapeError where a window does not fit its input, or its stride has nothing left to skip."""
    if is_symbolic(x.H, x.W, height, width):
        return
    stride: tuple[int, int] = getattr(layer, "stride", (1, 1))
    if height < 1 or width < 1 or stride[0] > x.H or stride[1] > x.W:
        raise ShapeError(
            f"{layer.kind} ({layer.describe()}) leaves nothing of an input of {x.H}×{x.W}; "
            "the image is too small for the strides and kernels of this network"
        )
