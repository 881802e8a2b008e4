"""What MobileNet and EfficientNet share: stages of inverted residuals, and the rounding of channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.conv_residual import ConvResidual
from perfmodel.layers.blocks.mbconv import DepthwiseSeparable, FusedMBConv, MBConv
from perfmodel.layers.graph import GraphBuilder, Tensor


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels` (halves up), never 0; the next one where that loses over 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


_KINDS: Final[Mapping[str, type[MBConv | FusedMBConv | DepthwiseSeparable]]] = MappingProxyType(
    {block.kind: block for block in (MBConv, FusedMBConv, DepthwiseSeparable)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeExcitation:
    """How wide a squeeze-and-excitation is: a quarter of the channels that enter the block, or of its hidden channels."""

    of: Literal["input", "hidden"]
    activation: str
    gate: str

    def channels(self, in_channels: int, hidden_channels: int) -> int:
        """Squeezed channels: a rounded quarter of the input, or a quarter of the hidden channels made divisible by 8."""
        return round(in_channels / 4) if self.of == "input" else make_divisible(hidden_channels / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`repeats` blocks alike; the first one carries the stride. A stage is one run or several."""

    block: Literal["mbconv", "fused_mbconv", "depthwise_separable", "conv"]
    repeats: int
    kernel: int
    stride: int
    expansion: float
    """Hidden channels over input channels (ignored by the two kinds that do not expand)."""
    channels: int
    activation: str
    squeeze_excitation: SqueezeExcitation | None = None

    def make_block(self, in_channels: int, stride: int) -> Block:
        """The block that reads `in_channels`."""
        if self.block == "conv":
            return ConvResidual(
                in_channels=in_channels,
                out_channels=self.channels,
                stride=stride,
                kernel=self.kernel,
                activation=self.activation,
            )
        hidden = in_channels if self.block == "depthwise_separable" else make_divisible(in_channels * self.expansion)
        se = self.squeeze_excitation
        return _KINDS[self.block](
            in_channels=in_channels,
            out_channels=self.channels,
            stride=stride,
            hidden_channels=hidden,
            kernel=self.kernel,
            activation=self.activation,
            se_channels=None if se is None else se.channels(in_channels, hidden),
            se_activation=None if se is None else se.activation,
            se_gate="sigmoid" if se is None else se.gate,
        )


def add_stages(builder: GraphBuilder, x: Tensor, stages: Iterable[Iterable[Run]]) -> Tensor:
    """Append the blocks of all stages, named blocks.<stage>.<block>."""
    for number, runs in enumerate(stages):
        strides = [(run, run.stride if repeat == 0 else 1) for run in runs for repeat in range(run.repeats)]
        for position, (run, stride) in enumerate(strides):
            x = builder.block(run.make_block(x.shape.C, stride), x, name=f"blocks.{number}.{position}")
    return x
