"""ConvFirst: the spatial convolution sees the narrow input, so that a fused kernel re-reads a narrow halo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.dims import C, Dim, e, g

if TYPE_CHECKING:
    from perfmodel.layers.graph import GraphBuilder, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvFirst(Block):
    """Grouped k×k (carries the stride) → norm → 1×1 expand → norm → SiLU → 1×1 project → norm → + input where stride and channels allow.

    Lavin, 2024, as his public code has it; no activation follows the grouped convolution.
    """

    kind: ClassVar[str] = "convfirst"

    hidden_channels: Dim
    kernel: int = 3
    group_width: Dim = 8
    activation: str = "silu"

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv_norm(
            x,
            self.in_channels,
            kernel=self.kernel,
            stride=self.stride,
            group_width=self.group_width,
            name="spatial",
            norm_name="spatial.bn",
        )
        y = builder.conv_norm(y, self.hidden_channels, activation=self.activation, name="expand", norm_name="expand.bn")
        y = builder.conv_norm(y, self.out_channels, name="project", norm_name="project.bn")
        return builder.residual(y, x) if self.has_identity else y

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, hidden_channels=e * C, group_width=g)
