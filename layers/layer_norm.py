"""Layer norm over the channels of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, Weight, image, require_channels, require_positive

LAYER_NORM = Formula(
    # per pixel: mean (C additions, 1 multiplication); C subtractions; variance (C multiply-adds, 1 multiplication); + ε;
    # reciprocal square root; C multiplications; C multiply-adds with γ and β
    vector_ops=N * H * W * (7 * C + 3),
    special_ops=N * H * W,
    inputs=(N * C * H * W,),
    reads=(N * C * H * W,),
    writes=N * C * H * W,
    weights=(Weight(name="weight", elements=C), Weight(name="bias", elements=C)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm(Layer):
    """Normalises the C channels of each pixel to mean 0 and variance 1, then scales and shifts them."""

    kind: ClassVar[str] = "layer_norm"
    role: ClassVar[Role] = "reduction"

    channels: Dim

    def __post_init__(self) -> None:
        require_positive(self, channels=self.channels)

    @property
    def formula(self) -> Formula:
        return LAYER_NORM

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        require_channels(self, self.channels, x)
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return image(x)
