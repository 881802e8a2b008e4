"""ConvNeXt's block."""

from __future__ import annotations

from dataclasses import dataclass
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
    conv_mlp: bool = False
    """The two products are 1×1 convolutions rather than linear layers, as in the members that are smaller than tiny."""

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv(x, self.in_channels, kernel=self.kernel, group_width=1, bias=True, name="conv_dw")
        y = builder.add(LayerNorm(channels=self.in_channels), y, name="norm")
        y = self._product(builder, y, self.hidden_channels, "mlp.fc1")
        y = builder.activation(y, "gelu", name="mlp.act")
        y = self._product(builder, y, self.out_channels, "mlp.fc2")
        y = builder.scale(y, name="gamma")
        return builder.residual(y, x)

    def _product(self, builder: GraphBuilder, x: Tensor, channels: Dim, name: str) -> Tensor:
        if self.conv_mlp:
            return builder.conv(x, channels, bias=True, name=name)
        return builder.linear(x, channels, name=name)

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, hidden_channels=e * C)
