"""Inverted residuals: MBConv, FusedMBConv, and the depthwise-separable block without expansion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.dims import C, Dim, e, g

if TYPE_CHECKING:
    from perfmodel.layers.graph import GraphBuilder, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _InvertedResidual(Block):
    hidden_channels: Dim
    kernel: int = 3
    activation: str = "silu"
    se_channels: Dim = None
    se_activation: str | None = None
    """Activation between the two products of the squeeze-and-excitation; the block's own if None."""
    se_gate: str = "sigmoid"
    se_linear: bool = False
    """The squeeze-and-excitation's products are linear layers rather than 1×1 convolutions."""

    def _squeeze_and_project(self, builder: GraphBuilder, x: Tensor, y: Tensor) -> Tensor:
        if self.se_channels is not None:
            y = squeeze_excitation(
                builder,
                y,
                self.se_channels,
                activation=self.se_activation or self.activation,
                gate=self.se_gate,
                linear=self.se_linear,
            )
        y = builder.conv_norm(y, self.out_channels, name="project", norm_name="project.bn")
        return builder.residual(y, x) if self.has_identity else y


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConv(_InvertedResidual):
    """1×1 expand → norm → act → k×k depthwise or grouped (carries the stride) → norm → act → [SE] → 1×1 project → norm → + input.

    Sandler et al., 2018; grouped of width 8 in Lavin, 2024. The input is added where stride and channels allow. A block whose hidden width
    equals its input's still expands; DepthwiseSeparable does not.
    """

    kind: ClassVar[str] = "mbconv"

    group_width: Dim = 1

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv_norm(x, self.hidden_channels, activation=self.activation, name="expand", norm_name="expand.bn")
        y = builder.conv_norm(
            y,
            self.hidden_channels,
            kernel=self.kernel,
            stride=self.stride,
            group_width=self.group_width,
            activation=self.activation,
            name="spatial",
            norm_name="spatial.bn",
        )
        return self._squeeze_and_project(builder, x, y)

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, hidden_channels=e * C, group_width=g)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseSeparable(_InvertedResidual):
    """k×k depthwise (carries the stride) → norm → act → [SE] → 1×1 project → norm → + input: an MBConv with nothing to expand."""

    kind: ClassVar[str] = "depthwise_separable"

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv_norm(
            x,
            self.hidden_channels,
            kernel=self.kernel,
            stride=self.stride,
            group_width=1,
            activation=self.activation,
            name="spatial",
            norm_name="spatial.bn",
        )
        return self._squeeze_and_project(builder, x, y)

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, hidden_channels=C)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMBConv(_InvertedResidual):
    """k×k expand (carries the stride) → norm → act → [SE] → 1×1 project → norm → + input (Tan and Le, 2021)."""

    kind: ClassVar[str] = "fused_mbconv"

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        y = builder.conv_norm(
            x,
            self.hidden_channels,
            kernel=self.kernel,
            stride=self.stride,
            activation=self.activation,
            name="expand",
            norm_name="expand.bn",
        )
        return self._squeeze_and_project(builder, x, y)

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C, hidden_channels=e * C)
