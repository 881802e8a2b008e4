"""One ConvNeXt block: 7×7 depthwise → layer norm → expand → GELU → project → scale per channel → + input, stride 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from perfmodel.layers.blocks.convnext import ConvNeXtBlock
from perfmodel.validation.fused.problem import Problem

KERNEL: Final = 7
EPSILON: Final = 1e-6
"""Added to the variance by the layer norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNeXtProblem(Problem):
    """On an N×H×W×C tensor.

    >>> ConvNeXtProblem(N=128, H=56, W=56, C=96, expansion=4).name
    'convnext_e4_fp16_n128_c96_h56_w56'
    """

    family: ClassVar[str] = "convnext"

    def layers_block(self) -> ConvNeXtBlock:
        """In the model's terms."""
        return ConvNeXtBlock(in_channels=self.C, out_channels=self.C, hidden_channels=self.hidden)
