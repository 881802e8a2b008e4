"""convfirst_generic.cu: mma.sync, any channels that are a multiple of eight, fp16 and bf16, compute capability 8.0 and later."""

from __future__ import annotations

from typing import Final

from perfmodel.validation.fused.configuration import Config, Launch, Scratch
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convfirst.reference import ConvFirstParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.generic import launches as generic
from perfmodel.validation.fused.generic.layout import Layout, Work
from perfmodel.validation.fused.generic.packing import filters, padded_bias, padded_rows, stream
from perfmodel.validation.fused.packing import as_bytes, bits
from perfmodel.validation.fused.problem import DeviceLimits

NAME: Final = "convfirst_generic"


def work_of(problem: ConvFirstProblem) -> Work:
    """The convolution stands before the products."""
    return Work(
        N=problem.N, H=problem.H, W=problem.W, C=problem.C, hidden=problem.hidden, outputs=problem.C, kernel=3, stride=1, front="input",
        group_width=8, dtype=problem.dtype,
    )  # fmt: skip


def configure(problem: ConvFirstProblem, device: DeviceLimits) -> Config | str:
    """The tile with the least estimated time."""
    return generic.configure(NAME, problem, work_of(problem), device)


def launches(problem: ConvFirstProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """One."""
    return generic.launches(work_of(problem), config, device, weights=4)


def scratch(problem: ConvFirstProblem, config: Config) -> tuple[Scratch, ...]:
    """For blocks that share a tile."""
    return generic.scratch(work_of(problem), config)


def pack(problem: ConvFirstProblem, config: Config, parameters: ConvFirstParameters) -> Buffers:
    """The stream of the two products, the filters, the two biases."""
    p, layout = parameters, Layout.of(work_of(problem), config.defines)
    expand_w = padded_rows(p.expand_w, 16 * layout.work.depth_steps)
    return (
        stream(layout, expand_w, p.project_w),
        as_bytes(filters(bits(p.conv_w, problem.dtype))),
        as_bytes(padded_bias(layout, p.folded_bias())),
        as_bytes(p.project_b),
    )


def moved_bytes(problem: ConvFirstProblem, config: Config) -> int:
    """Tiles with a pixel of halo, and the output."""
    return Layout.of(work_of(problem), config.defines).moved_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes, scratch=scratch)
