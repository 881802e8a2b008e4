"""fused_mbconv_generic.cu: mma.sync, any channels that are a multiple of eight, fp16 and bf16, compute capability 8.0 and later."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.configuration import Config, Launch, Scratch
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.fused_mbconv.reference import FusedMBConvParameters
from perfmodel.validation.fused.generic import launches as generic
from perfmodel.validation.fused.generic.layout import Layout, Work
from perfmodel.validation.fused.generic.packing import padded_bias, stream
from perfmodel.validation.fused.packing import as_bytes
from perfmodel.validation.fused.problem import DeviceLimits

NAME: Final = "fused_mbconv_generic"


def work_of(problem: FusedMBConvProblem) -> Work:
    """The convolution is the expansion."""
    return Work(
        N=problem.N, H=problem.H, W=problem.W, C=problem.C, hidden=problem.hidden, outputs=problem.C, kernel=3, stride=1, front="taps",
        group_width=problem.C, dtype=problem.dtype,
    )  # fmt: skip


def configure(problem: FusedMBConvProblem, device: DeviceLimits) -> Config | str:
    """The tile with the least estimated time."""
    return generic.configure(NAME, problem, work_of(problem), device)


def launches(problem: FusedMBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """One."""
    return generic.launches(work_of(problem), config, device, weights=3)


def scratch(problem: FusedMBConvProblem, config: Config) -> tuple[Scratch, ...]:
    """For blocks that share a tile."""
    return generic.scratch(work_of(problem), config)


def pack(problem: FusedMBConvProblem, config: Config, parameters: FusedMBConvParameters) -> Buffers:
    """The stream of the two products, the first of them over taps × channels, padded to k16 for each tap; the two biases."""
    p, layout, C = parameters, Layout.of(work_of(problem), config.defines), problem.C
    expand_w = np.zeros((9, 16 * layout.work.input_steps, problem.hidden), np.float32)
    expand_w[:, :C] = p.conv_w.reshape(problem.hidden, 9, C).transpose(1, 2, 0)
    return (
        stream(layout, expand_w.reshape(-1, problem.hidden), p.project_w),
        as_bytes(padded_bias(layout, p.conv_b)),
        as_bytes(p.project_b),
    )


def moved_bytes(problem: FusedMBConvProblem, config: Config) -> int:
    """Tiles with a pixel of halo, and the output."""
    return Layout.of(work_of(problem), config.defines).moved_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes, scratch=scratch)
