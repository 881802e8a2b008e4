"""ResNet's blocks: basic, and bottleneck with its grouped (ResNeXt) and squeeze-excited (RegNet-Y) forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.dims import C, C_se, Dim, K, g

if TYPE_CHECKING:
    from perfmodel.layers.graph import GraphBuilder, Tensor


def _shortcut(block: Block, builder: GraphBuilder, x: Tensor) -> Tensor:
    """The input, or its 1×1 projection where size or channels change."""
    if block.has_identity:
        return x
    return builder.conv_norm(x, block.out_channels, stride=block.stride, name="downsample.conv", norm_name="downsample.bn")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicBlock(Block):
    """3×3 → norm → ReLU → 3×3 → norm → + shortcut → ReLU (He et al., 2015). The first convolution carries the stride."""

    kind: ClassVar[str] = "basic"

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv_norm(
            x, self.out_channels, kernel=3, stride=self.stride, activation="relu", name="conv1", norm_name="bn1"
        )
        y = builder.conv_norm(y, self.out_channels, kernel=3, name="conv2", norm_name="bn2")
        y = builder.residual(y, _shortcut(self, builder, x))
        return builder.activation(y, "relu")

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck(Block):
    """1×1 → 3×3 → 1×1, each with norm, + shortcut → ReLU. The 3×3 carries the stride (the "v1.5" of ResNet-50).

    `group_width` below `hidden_channels` makes it ResNeXt's block; `se_channels` adds squeeze-and-excitation after the 3×3.
    """

    kind: ClassVar[str] = "bottleneck"

    hidden_channels: Dim
    group_width: Dim = None
    se_channels: Dim = None
    se_linear: bool = False

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv_norm(x, self.hidden_channels, activation="relu", name="conv1", norm_name="bn1")
        y = builder.conv_norm(
            y,
            self.hidden_channels,
            kernel=3,
            stride=self.stride,
            group_width=self.group_width,
            activation="relu",
            name="conv2",
            norm_name="bn2",
        )
        if self.se_channels is not None:
            y = squeeze_excitation(builder, y, self.se_channels, activation="relu", linear=self.se_linear)
        y = builder.conv_norm(y, self.out_channels, name="conv3", norm_name="bn3")
        y = builder.residual(y, _shortcut(self, builder, x))
        return builder.activation(y, "relu")

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=4 * K, out_channels=4 * K, hidden_channels=K)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNeXtBlock(Bottleneck):
    """The bottleneck with a grouped 3×3 (Xie et al., 2016)."""

    kind: ClassVar[str] = "resnext"

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=2 * K, out_channels=2 * K, hidden_channels=K, group_width=g)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegNetYBlock(Bottleneck):
    """The bottleneck of ratio 1 with a grouped 3×3 and squeeze-and-excitation (Radosavovic et al., 2020)."""

    kind: ClassVar[str] = "regnety"

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, hidden_channels=C, group_width=g, se_channels=C_se)
