"""The block of EfficientNetV2's first stage: one convolution around which the input is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.dims import C

if TYPE_CHECKING:
    from perfmodel.layers.graph import GraphBuilder, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvResidual(Block):
    """k×k convolution (carries the stride) → norm → act → + input where stride and channels allow (Tan and Le, 2021)."""

    kind: ClassVar[str] = "conv_residual"

    kernel: int = 3
    activation: str = "silu"

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv_norm(
            x, self.out_channels, kernel=self.kernel, stride=self.stride, activation=self.activation, name="conv", norm_name="bn1"
        )
        return builder.residual(y, x) if self.has_identity else y

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C)
