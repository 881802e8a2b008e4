"""One FusedMBConv block: full 3×3 → SiLU → project → + input, stride 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from perfmodel.layers.blocks.mbconv import FusedMBConv
from perfmodel.validation.fused.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMBConvProblem(Problem):
    """On an N×H×W×C tensor.

    >>> FusedMBConvProblem(N=128, H=56, W=56, C=64, expansion=4).name
    'fused_mbconv_e4_fp16_n128_c64_h56_w56'
    """

    family: ClassVar[str] = "fused_mbconv"

    def layers_block(self) -> FusedMBConv:
        """In the model's terms."""
        return FusedMBConv(in_channels=self.C, out_channels=self.C, hidden_channels=self.hidden)
