"""One MBConv block: expand → SiLU → depthwise or grouped convolution → SiLU → [squeeze-and-excitation] → project [→ + input]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from perfmodel.layers.blocks.mbconv import MBConv
from perfmodel.validation.fused.problem import GpuError, Problem

SPATIAL: Final = ((3, 8), (3, 1), (5, 1))
"""(kernel, group width) that the kernels serve."""
STRIDES: Final = (1, 2)
SUFFIX: Final = {"k": "kernel", "g": "group_width", "s": "stride", "se": "squeeze", "o": "out_channels"}
"""Words of a name, by the field that each tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConvProblem(Problem):
    """On an N×H×W×C tensor; the input is added where the stride is 1 and as many channels come out as go in.

    >>> MBConvProblem(N=128, H=56, W=56, C=64, expansion=4).name
    'mbconv_e4_fp16_n128_c64_h56_w56_k3_g8'
    >>> MBConvProblem(N=1, H=56, W=56, C=24, expansion=6, kernel=5, group_width=1, stride=2, squeeze=6, out_channels=40).name
    'mbconv_e6_fp16_n1_c24_h56_w56_k5_g1_s2_se6_o40'
    """

    family: ClassVar[str] = "mbconv"

    kernel: int = 3
    group_width: int = 8
    stride: int = 1
    squeeze: int | None = None
    """Channels between the two products of the squeeze-and-excitation; None: there is none."""
    out_channels: int | None = None
    """None: as many as come in."""

    def __post_init__(self) -> None:
        Problem.__post_init__(self)  # super() does not work in a class with slots
        if (self.kernel, self.group_width) not in SPATIAL:
            offered = ", ".join(f"{kernel}×{kernel} of width {width}" for kernel, width in SPATIAL)
            raise GpuError(
                f"the convolution is {self.kernel}×{self.kernel} of width {self.group_width}; the kernels serve {offered}"
            )
        if self.stride not in STRIDES:
            raise GpuError(f"stride is {self.stride}; the kernels serve 1 and 2")
        if self.squeeze is not None:
            self.require_positive("squeeze")
        if self.out_channels is not None:
            self.require_positive("out_channels")
            self.require_channels("out_channels")

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return self.C if self.out_channels is None else self.out_channels

    @property
    def has_identity(self) -> bool:
        """Whether the input is added."""
        return self.stride == 1 and self.outputs == self.C

    @property
    def hidden_shape(self) -> tuple[int, int, int, int]:
        """Of what leaves the spatial convolution: N, ⌈H/s⌉, ⌈W/s⌉, eC."""
        return (self.N, -(-self.H // self.stride), -(-self.W // self.stride), self.hidden)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """N, ⌈H/s⌉, ⌈W/s⌉, channels of the result."""
        return (*self.hidden_shape[:3], self.outputs)

    @property
    def suffix(self) -> str:
        """What differs from the plain block."""
        words = [f"_k{self.kernel}_g{self.group_width}"]
        words += [f"_s{self.stride}"] if self.stride != 1 else []
        words += [f"_se{self.squeeze}"] if self.squeeze is not None else []
        words += [f"_o{self.outputs}"] if self.outputs != self.C else []
        return "".join(words)

    @classmethod
    def fields_of_suffix(cls, words: Mapping[str, int]) -> Mapping[str, Any]:
        """Kernel, group width, and where they differ from the plain block stride, squeeze and output channels."""
        if unknown := [word for word in words if word not in SUFFIX]:
            raise GpuError(f"{cls.family} has no '{unknown[0]}'; what its names may add is {', '.join(SUFFIX)}")
        return {SUFFIX[word]: number for word, number in words.items()}

    def layers_block(self) -> MBConv:
        """In the model's terms."""
        return MBConv(
            in_channels=self.C,
            out_channels=self.outputs,
            hidden_channels=self.hidden,
            kernel=self.kernel,
            stride=self.stride,
            group_width=self.group_width,
            se_channels=self.squeeze,
        )
