"""Squeeze-and-excitation: a gate per channel from the global mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfmodel.layers.dims import Dim
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
    name: str = "se",
) -> Tensor:
    """x · gate(W₂·activation(W₁·mean(x) + b₁) + b₂), both products biased 1×1 convolutions of one pixel."""
    with builder.scope(name):
        mean = builder.add(GlobalAveragePool(), x, name="mean")
        squeezed = builder.conv(mean, squeezed_channels, bias=True, name="reduce")
        squeezed = builder.activation(squeezed, activation, name="act")
        expanded = builder.conv(squeezed, x.shape.C, bias=True, name="expand")
        gated = builder.activation(expanded, gate, name="gate")
        return builder.multiply(x, gated, name="mul")
