"""What a residual block asks of a fused kernel: sizes, and where its spatial convolution stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Front = Literal["input", "taps", "hidden"]
ELEMENT_BYTES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedWork:
    """Spatial convolution, expansion to `hidden` channels, activation, projection: as many of them as the block has, in its order."""

    N: int
    H: int
    W: int
    """Of the input."""
    C: int
    hidden: int
    outputs: int
    kernel: int
    stride: int
    front: Front
    """Where the convolution stands: on the input, before the products; in the expansion itself, as a product over taps × channels; on the
    hidden tensor, between the products."""
    group_width: int
    activation: Literal["silu", "gelu"] = "silu"
    norm: bool = False
    """Whether a layer norm follows the convolution."""
    residual: bool = True
    squeeze: int = 0
    """Channels between the products of a squeeze-and-excitation; 0 without."""

    @property
    def rows(self) -> int:
        """Of the output."""
        return -(-self.H // self.stride)

    @property
    def columns(self) -> int:
        """Of the output."""
        return -(-self.W // self.stride)

    @property
    def pixels(self) -> int:
        """Of the output, over the batch."""
        return self.N * self.rows * self.columns

    @property
    def input_bytes(self) -> int:
        """N·H·W·C elements."""
        return ELEMENT_BYTES * self.N * self.H * self.W * self.C

    @property
    def output_bytes(self) -> int:
        """Of the result."""
        return ELEMENT_BYTES * self.pixels * self.outputs

    @property
    def taps(self) -> int:
        """Of the kernel, R·S."""
        return self.kernel**2

    @property
    def depth(self) -> int:
        """Of the expansion's sums: C, or taps · C."""
        return self.C * (self.taps if self.front == "taps" else 1)

    @property
    def filter_elements(self) -> int:
        """Of the grouped or depthwise convolution."""
        return {"input": self.C, "taps": 0, "hidden": self.hidden}[self.front] * self.taps * self.group_width

    @property
    def product_weight_bytes(self) -> int:
        """Of the expansion and the projection."""
        return ELEMENT_BYTES * self.hidden * (self.depth + self.outputs)

    @property
    def weight_bytes(self) -> int:
        """Of everything."""
        return self.product_weight_bytes + ELEMENT_BYTES * self.filter_elements
