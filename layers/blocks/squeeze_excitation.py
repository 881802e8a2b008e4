"""Squeeze-and-excitation: a gate per channel from the global mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.dims import C, C_se, Dim
from perfmodel.layers.pooling import GlobalAveragePool

if TYPE_CHECKING:
    from perfmodel.layers.graph import GraphBuilder, Tensor


def squeeze_excitation(
    builder: GraphBuilder,
    x: Tensor,
    squeezed_channels: Dim,
    *,
    activation: str,
    gate: str = "sigmoid",
    linear: bool = False,
    name: str = "se",
) -> Tensor:
    """x · gate(W₂·activation(W₁·mean(x) + b₁) + b₂), both products biased 1×1 convolutions of one pixel, or `linear` layers."""
    with builder.scope(name):
        mean = builder.add(GlobalAveragePool(), x, name="mean")
        if linear:
            squeezed = builder.linear(mean, squeezed_channels, name="reduce")
        else:
            squeezed = builder.conv(mean, squeezed_channels, bias=True, name="reduce")
        squeezed = builder.activation(squeezed, activation, name="act")
        if linear:
            expanded = builder.linear(squeezed, x.shape.C, name="expand")
        else:
            expanded = builder.conv(squeezed, x.shape.C, bias=True, name="expand")
        gated = builder.activation(expanded, gate, name="gate")
        return builder.multiply(x, gated, name="mul")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeExcitation(Block):
    """Squeeze-and-excitation by itself, for its formulas; networks have it inside of their blocks."""

    kind: ClassVar[str] = "squeeze_excitation"

    squeezed_channels: Dim
    activation: str = "relu"

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        return squeeze_excitation(builder, x, self.squeezed_channels, activation=self.activation, name="")

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, squeezed_channels=C_se)
