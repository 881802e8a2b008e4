"""Networks of stages: a stem, stages of residual blocks, a head; every choice a number, so that spaces of them can be searched.

The form is that of ConvFirstNet, MobileNet and EfficientNet: a 3×3 convolution at stride 2; stages whose first block changes the channels
and carries the stride; a 1×1 convolution, a mean over the image, and a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from perfmodel.errors import UnknownNameError
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.conv_residual import ConvResidual
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.mbconv import DepthwiseSeparable, FusedMBConv, MBConv
from perfmodel.layers.blocks.residual import BasicBlock, Bottleneck, RegNetYBlock, ResNeXtBlock
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.layer import ShapeError
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChoice:
    """What the blocks of a stage are, but for their channels and stride."""

    kind: str
    expansion: int = 4
    group_width: int = 8
    kernel: int = 3
    squeeze_excitation: bool = False
    activation: str = "silu"


def _hidden(choice: BlockChoice, channels: int) -> int:
    return choice.expansion * channels


def _squeezed(choice: BlockChoice, channels: int) -> int | None:
    return round(channels / 4) if choice.squeeze_excitation else None


def _narrowed(kind: str, channels: int, times: int) -> int:
    if channels % times:
        raise ShapeError(f"{kind}: {channels} channels cannot be narrowed {times} times; choose a multiple of {times}")
    return channels // times


def _convfirst(x: BlockChoice, i: int, o: int, s: int) -> Block:
    return ConvFirst(
        in_channels=i,
        out_channels=o,
        stride=s,
        hidden_channels=_hidden(x, i),
        kernel=x.kernel,
        group_width=x.group_width,
        activation=x.activation,
    )


def _mbconv(x: BlockChoice, i: int, o: int, s: int) -> Block:
    return MBConv(
        in_channels=i,
        out_channels=o,
        stride=s,
        hidden_channels=_hidden(x, i),
        kernel=x.kernel,
        group_width=x.group_width,
        se_channels=_squeezed(x, i),
        activation=x.activation,
    )


def _fused_mbconv(x: BlockChoice, i: int, o: int, s: int) -> Block:
    return FusedMBConv(
        in_channels=i,
        out_channels=o,
        stride=s,
        hidden_channels=_hidden(x, i),
        kernel=x.kernel,
        se_channels=_squeezed(x, i),
        activation=x.activation,
    )


def _separable(x: BlockChoice, i: int, o: int, s: int) -> Block:
    return DepthwiseSeparable(
        in_channels=i,
        out_channels=o,
        stride=s,
        hidden_channels=i,
        kernel=x.kernel,
        se_channels=_squeezed(x, i),
        activation=x.activation,
    )


def _conv(x: BlockChoice, i: int, o: int, s: int) -> Block:
    return ConvResidual(in_channels=i, out_channels=o, stride=s, kernel=x.kernel, activation=x.activation)


def _basic(x: BlockChoice, i: int, o: int, s: int) -> Block:
    del x
    return BasicBlock(in_channels=i, out_channels=o, stride=s)


def _bottleneck(x: BlockChoice, i: int, o: int, s: int) -> Block:
    return Bottleneck(in_channels=i, out_channels=o, stride=s, hidden_channels=_narrowed(x.kind, o, 4))


def _resnext(x: BlockChoice, i: int, o: int, s: int) -> Block:
    hidden = _narrowed(x.kind, o, 2)
    return ResNeXtBlock(in_channels=i, out_channels=o, stride=s, hidden_channels=hidden, group_width=x.group_width)


def _regnety(x: BlockChoice, i: int, o: int, s: int) -> Block:
    return RegNetYBlock(
        in_channels=i, out_channels=o, stride=s, hidden_channels=o, group_width=x.group_width, se_channels=round(i / 4)
    )


Maker = Callable[[BlockChoice, int, int, int], Block]
MAKERS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        "convfirst": _convfirst,
        "mbconv": _mbconv,
        "fused_mbconv": _fused_mbconv,
        "depthwise_separable": _separable,
        "conv_residual": _conv,
        "basic": _basic,
        "bottleneck": _bottleneck,
        "resnext": _resnext,
        "regnety": _regnety,
    }
)
"""(choice, channels in, channels out, stride) → block, for every kind that carries its own stride and change of channels."""

HAS_EXPANSION: Final = frozenset({"convfirst", "mbconv", "fused_mbconv"})
HAS_GROUPS: Final = frozenset({"convfirst", "mbconv", "resnext", "regnety"})
HAS_KERNEL: Final = frozenset({"convfirst", "mbconv", "fused_mbconv", "depthwise_separable", "conv_residual"})


def make_block(choice: BlockChoice, in_channels: int, out_channels: int, stride: int) -> Block:
    """The block. Raises UnknownNameError for a kind without a form in stages, ShapeError for channels that it cannot have."""
    if choice.kind not in MAKERS:
        raise UnknownNameError("block of a stage", choice.kind, MAKERS)
    if choice.kind not in HAS_KERNEL and choice.kernel != 3:
        raise ShapeError(
            f"{choice.kind}: its kernels are 3×3 and cannot be {choice.kernel}×{choice.kernel}; leave the kernel out"
        )
    return MAKERS[choice.kind](choice, in_channels, out_channels, stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks alike but for the first one, which reads other channels and carries the stride."""

    choice: BlockChoice
    channels: int
    depth: int
    stride: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedNetwork:
    """A network of stages."""

    stem: int
    """Channels of the stem."""
    stages: tuple[Stage, ...]
    head: int
    """Channels of the 1×1 convolution behind the stages."""
    classes: int = 1000
    activation: str = "silu"

    def build(self, *, batch: int, resolution: int, name: str = "staged") -> Network:
        """The network for `batch` square images. Raises ShapeError, naming the layer."""
        builder = GraphBuilder()
        x = add_stem(builder, builder.input(Shape(batch, 3, resolution, resolution)), self.stem, self.activation)
        for number, stage in enumerate(self.stages):
            for position in range(stage.depth):
                block = make_block(stage.choice, x.shape.C, stage.channels, stage.stride if position == 0 else 1)
                x = builder.block(block, x, name=f"stages.{number}.blocks.{position}")
        add_head(builder, x, self.head, self.classes, self.activation)
        return Network(name=name, graph=builder.graph(), batch=batch, resolution=resolution)


def add_stem(builder: GraphBuilder, x: Tensor, channels: int, activation: str) -> Tensor:
    """A 3×3 convolution at stride 2."""
    return builder.conv_norm(x, channels, kernel=3, stride=2, activation=activation, name="stem.conv", norm_name="stem.bn")


def add_head(builder: GraphBuilder, x: Tensor, channels: int, classes: int, activation: str) -> Tensor:
    """A 1×1 convolution, the mean over the image, and a linear layer."""
    x = builder.conv_norm(x, channels, activation=activation, name="head.conv", norm_name="head.bn")
    x = builder.add(GlobalAveragePool(), x, name="head.global_pool")
    return builder.linear(x, classes, name="head.fc")
