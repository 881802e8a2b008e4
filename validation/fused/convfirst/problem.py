"""One ConvFirst block: grouped 3×3 of width 8 → expand → SiLU → project → + input, stride 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.validation.fused.problem import Problem

GROUP_WIDTH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvFirstProblem(Problem):
    """On an N×H×W×C tensor.

    >>> ConvFirstProblem(N=128, H=56, W=56, C=64, expansion=4).name
    'convfirst_e4_fp16_n128_c64_h56_w56'
    """

    family: ClassVar[str] = "convfirst"

    def layers_block(self) -> ConvFirst:
        """In the model's terms."""
        return ConvFirst(in_channels=self.C, out_channels=self.C, hidden_channels=self.hidden)
