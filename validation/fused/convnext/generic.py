"""convnext_generic.cu: mma.sync, any channels that are a multiple of eight, fp16 and bf16, compute capability 8.0 and later."""

from __future__ import annotations

from typing import Final

from perfmodel.validation.fused.configuration import Config, Launch, Scratch
from perfmodel.validation.fused.convnext.problem import KERNEL as KERNEL_SIZE
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.convnext.reference import ConvNeXtParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.generic import launches as generic
from perfmodel.validation.fused.generic.layout import Layout, Work
from perfmodel.validation.fused.generic.packing import filters, padded_bias, padded_rows, stream
from perfmodel.validation.fused.packing import as_bytes, bits
from perfmodel.validation.fused.problem import DeviceLimits

NAME: Final = "convnext_generic"


def work_of(problem: ConvNeXtProblem) -> Work:
    """The convolution stands before the products."""
    return Work(
        N=problem.N, H=problem.H, W=problem.W, C=problem.C, hidden=problem.hidden, outputs=problem.C, kernel=KERNEL_SIZE, stride=1,
        front="input", group_width=1, activation="gelu", norm=True, dtype=problem.dtype,
    )  # fmt: skip


def configure(problem: ConvNeXtProblem, device: DeviceLimits) -> Config | str:
    """The tile with the least estimated time."""
    return generic.configure(NAME, problem, work_of(problem), device)


def launches(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """One."""
    return generic.launches(work_of(problem), config, device, weights=5)


def scratch(problem: ConvNeXtProblem, config: Config) -> tuple[Scratch, ...]:
    """For blocks that share a tile."""
    return generic.scratch(work_of(problem), config)


def pack(problem: ConvNeXtProblem, config: Config, parameters: ConvNeXtParameters) -> Buffers:
    """The stream of the two products with the norm's scale and shift and the layer scale folded in, the filters, three biases."""
    p, layout = parameters, Layout.of(work_of(problem), config.defines)
    expand_w, expand_b = p.folded_expansion()
    project_w, project_b = p.folded_projection()
    return (
        stream(layout, padded_rows(expand_w, 16 * layout.work.depth_steps), project_w),
        as_bytes(filters(bits(p.conv_w, problem.dtype))),
        as_bytes(p.conv_b),
        as_bytes(padded_bias(layout, expand_b)),
        as_bytes(project_b),
    )


def moved_bytes(problem: ConvNeXtProblem, config: Config) -> int:
    """Tiles with three pixels of halo, and the output."""
    return Layout.of(work_of(problem), config.defines).moved_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes, scratch=scratch)
