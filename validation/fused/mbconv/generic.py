"""mbconv_generic.cu: mma.sync, any channels that are multiples of eight, fp16 and bf16, compute capability 8.0 and later."""

from __future__ import annotations

from typing import Final

import numpy as np

from perfmodel.validation.fused.configuration import Config, Launch, Scratch
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.generic import launches as generic
from perfmodel.validation.fused.generic.layout import Layout, Work
from perfmodel.validation.fused.generic.packing import padded_bias, padded_rows, stream
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import MBConvParameters
from perfmodel.validation.fused.packing import Floats, as_bytes, bits
from perfmodel.validation.fused.problem import DeviceLimits

NAME: Final = "mbconv_generic"


def work_of(problem: MBConvProblem) -> Work:
    """The convolution works on the hidden tensor."""
    return Work(
        N=problem.N, H=problem.H, W=problem.W, C=problem.C, hidden=problem.hidden, outputs=problem.outputs, kernel=problem.kernel,
        stride=problem.stride, front="hidden", residual=problem.has_identity, group_width=problem.group_width,
        squeeze=problem.squeeze or 0, dtype=problem.dtype,
    )  # fmt: skip


def configure(problem: MBConvProblem, device: DeviceLimits) -> Config | str:
    """The tile with the least estimated time."""
    return generic.configure(NAME, problem, work_of(problem), device)


def launches(problem: MBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """One; with squeeze-and-excitation one up to the sums, one for the gates, and one that computes the hidden tensor again."""
    return generic.launches(work_of(problem), config, device, weights=7 if problem.squeeze else 3)


def scratch(problem: MBConvProblem, config: Config) -> tuple[Scratch, ...]:
    """For blocks that share a tile, and for the mean."""
    return generic.scratch(work_of(problem), config)


def pack(problem: MBConvProblem, config: Config, parameters: MBConvParameters) -> Buffers:
    """The stream of products and filters, two biases; with squeeze-and-excitation its two matrices and biases."""
    p, layout = parameters, Layout.of(work_of(problem), config.defines)
    found = (
        stream(layout, padded_rows(p.expand_w, 16 * layout.work.depth_steps), p.project_w, (p.conv_w, p.conv_b)),
        as_bytes(padded_bias(layout, p.expand_b)),
        as_bytes(p.project_b),
    )
    if p.reduce_w is None or p.reduce_b is None or p.gate_w is None or p.gate_b is None:
        return found

    def by_hidden(w: Floats) -> Floats:
        """[squeeze, hidden] with zeros beyond the hidden channels."""
        return np.pad(w, ((0, 0), (0, layout.chunks * layout.hidden_chunk - problem.hidden)))

    return (
        *found,
        as_bytes(bits(by_hidden(p.reduce_w.T), problem.dtype)),
        as_bytes(p.reduce_b),
        as_bytes(bits(by_hidden(p.gate_w), problem.dtype)),
        as_bytes(padded_bias(layout, p.gate_b)),
    )


def moved_bytes(problem: MBConvProblem, config: Config) -> int:
    """Tiles with their halo, twice with squeeze-and-excitation, and the output."""
    return Layout.of(work_of(problem), config.defines).moved_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes, scratch=scratch)
