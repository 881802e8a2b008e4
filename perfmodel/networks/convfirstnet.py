"""ConvFirstNet: a family of our own, in which each member does the work of one ConvNeXt with ConvFirst and MBConv blocks.

The stage table of the network in "On the Efficiency of Convolutional Neural Networks" (Lavin, 2024) is not known to us;
this is not it. From the blocks that its author's public code measures we take ConvFirst where images are large (strides
4 and 8), MBConv where they are small (strides 16 and 32), 3×3 convolutions in groups of 8 channels, SiLU, expansions 6
and 4, and images of 256×256. The rest is our choice: ConvNeXt's doubling widths and its depths, the third stage's depth
set so that the multiply-accumulates agree within 2 % (atto: its width as well). The first block of every stage carries
its stride. Nobody has trained these networks: they have no accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.mbconv import MBConv
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.networks.entry import NetworkEntry

RESOLUTION = 256
_GROUP_WIDTH = 8
_ACTIVATION = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKind:
    """Which block a stage repeats, and how far it expands its input's channels."""

    block: type[ConvFirst | MBConv]
    expansion: int

    def make_block(self, in_channels: int, out_channels: int, stride: int) -> Block:
        """The block that reads `in_channels`."""
        return self.block(
            in_channels=in_channels,
            out_channels=out_channels,
            stride=stride,
            hidden_channels=self.expansion * in_channels,
            group_width=_GROUP_WIDTH,
            activation=_ACTIVATION,
        )


STAGES = (
    StageKind(block=ConvFirst, expansion=6),
    StageKind(block=ConvFirst, expansion=6),
    StageKind(block=MBConv, expansion=4),
    StageKind(block=MBConv, expansion=4),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A member of the family."""

    width: int
    """Channels of the first stage; the next ones double them, the stem has half of them, the head twice the last stage's."""
    depths: tuple[int, int, int, int]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width << number for number in range(len(STAGES)))


SPECS = {
    "atto": Spec(width=32, depths=(3, 3, 8, 3)),
    "femto": Spec(width=48, depths=(2, 2, 6, 2)),
    "pico": Spec(width=64, depths=(2, 2, 6, 2)),
    "nano": Spec(width=80, depths=(2, 2, 8, 2)),
    "tiny": Spec(width=96, depths=(3, 3, 8, 3)),
    "small": Spec(width=96, depths=(3, 3, 25, 3)),
    "base": Spec(width=128, depths=(3, 3, 25, 3)),
}
"""By the name of the ConvNeXt that has the same multiply-accumulates."""


def add_stages(builder: GraphBuilder, x: Tensor, classes: int, *, widths: Sequence[int], depths: Sequence[int]) -> Tensor:
    """Stem, four stages of these widths and depths, head; the stem is half as wide as the first stage, the head twice as the last."""
    x = builder.conv_norm(x, widths[0] // 2, kernel=3, stride=2, activation=_ACTIVATION, name="stem.conv", norm_name="stem.bn")
    for number, (stage, width, depth) in enumerate(zip(STAGES, widths, depths, strict=True)):
        for position in range(depth):
            block = stage.make_block(x.shape.C, width, stride=2 if position == 0 else 1)
            x = builder.block(block, x, name=f"stages.{number}.blocks.{position}")
    x = builder.conv_norm(x, 2 * x.shape.C, activation=_ACTIVATION, name="head.conv", norm_name="head.bn")
    x = builder.add(GlobalAveragePool(), x, name="head.global_pool")
    return builder.linear(x, classes, name="head.fc")


def _build(spec: Spec, builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    return add_stages(builder, x, classes, widths=spec.widths, depths=spec.depths)


ENTRIES: tuple[NetworkEntry, ...] = tuple(
    NetworkEntry(
        name=f"convfirstnet_{member}",
        family="convfirstnet",
        resolution=RESOLUTION,
        build=partial(_build, spec),
        description=f"ConvFirstNet (our own design), width {spec.width}, depths {spec.depths}; equal work to convnext_{member}",
    )
    for member, spec in SPECS.items()
)
