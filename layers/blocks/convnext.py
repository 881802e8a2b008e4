"""ConvNeXt's block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.dims import C, Dim, e
from perfmodel.layers.layer_norm import LayerNorm

if TYPE_CHECKING:
    from perfmodel.layers.graph import GraphBuilder, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNeXtBlock(Block):
    """7×7 depthwise (biased) → layer norm → linear C→eC → GELU → linear eC→C → scale per channel → + input (Liu et al., 2022)."""

    kind: ClassVar[str] = "convnext"

    hidden_channels: Dim
    kernel: int = 7
    pointwise_convs: bool = False
    """The two products as 1×1 convolutions (timm's small members), to which frameworks add the bias in a kernel of its own."""

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv(x, self.in_channels, kernel=self.kernel, group_width=1, bias=True, name="conv_dw")
        y = builder.add(LayerNorm(channels=self.in_channels), y, name="norm")
        product = partial(builder.conv, bias=True) if self.pointwise_convs else builder.linear
        y = product(y, self.hidden_channels, name="mlp.fc1")
        y = builder.activation(y, "gelu", name="mlp.act")
        y = product(y, self.out_channels, name="mlp.fc2")
        y = builder.scale(y, name="gamma")
        return builder.residual(y, x)

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, hidden_channels=e * C)
