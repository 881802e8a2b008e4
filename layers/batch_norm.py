"""Batch norm at inference, as its own layer. Folded into a convolution it costs nothing but the convolution's bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, Weight, image, require_channels, require_positive

BATCH_NORM = Formula(
    # y = x·a + c per element; a = γ·(σ² + ε)^-½ and c = β − μ·a per channel
    vector_ops=2 * N * C * H * W + 4 * C,
    special_ops=C,
    inputs=(N * C * H * W,),
    reads=(N * C * H * W,),
    writes=N * C * H * W,
    weights=(
        Weight(name="weight", elements=C),
        Weight(name="bias", elements=C),
        Weight(name="running_mean", elements=C, trained=False),
        Weight(name="running_var", elements=C, trained=False),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm(Layer):
    """Inference-time batch norm over C channels."""

    kind: ClassVar[str] = "batch_norm"
    role: ClassVar[Role] = "norm"

    channels: Dim

    def __post_init__(self) -> None:
        require_positive(self, channels=self.channels)

    @property
    def formula(self) -> Formula:
        return BATCH_NORM

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.channels, x)
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return image(x)
