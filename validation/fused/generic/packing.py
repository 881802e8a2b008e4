"""Weights in the order in which the generic kernels stream them through shared memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from perfmodel.validation.fused.generic.layout import Layout
from perfmodel.validation.fused.packing import Bits, Floats, as_bytes, bits, fragments


def paired(operands: Bits) -> Bits:
    """[…, n8, 32 lanes, 4] → […, n8·128]: a lane has its parts of two blocks side by side; an odd last block follows alone."""
    *outer, count, lanes, width = operands.shape
    even = count // 2 * 2
    pairs = operands[..., :even, :, :].reshape(*outer, even // 2, 2, lanes, width)
    pairs = np.moveaxis(pairs, -3, -2).reshape(*outer, even * lanes * width)
    return np.concatenate([pairs, operands[..., even:, :, :].reshape(*outer, -1)], -1)


def taps(kernel: int) -> tuple[tuple[int, int], ...]:
    """(ky, kx) in the order of the kernels: pairs along each row, pairs down the last column, the last tap.

    >>> taps(3)
    ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (0, 2), (1, 2), (2, 2))
    """
    last = kernel - 1
    return (*((y, x) for y in range(kernel) for x in range(last)), *((y, last) for y in range(kernel)))


def filters(conv_w: Bits) -> Bits:
    """[C, k, k, 8 or 1] (output, ky, kx, input of the group) → [C / 8][operands of eight channels].

    Depthwise filters become diagonal ones. k16 are two taps, lane l of a pair holds rows 2(l mod 4), +1, +8, +9 of column l div 4; k8 is
    the last tap, rows 2(l mod 4), +1.
    """
    C, kernel, _, width = conv_w.shape
    groups, order = C // 8, taps(kernel)
    w = np.zeros((groups, len(order), 8, 8), np.uint16)  # group, tap, input, output
    for index, (y, x) in enumerate(order):
        found = conv_w[:, y, x].reshape(groups, 8, width)
        if width == 1:
            w[:, index, range(8), range(8)] = found[..., 0]
        else:
            w[:, index] = found.transpose(0, 2, 1)
    pairs = w[:, :-1].reshape(groups, kernel**2 // 2, 2, 4, 2, 8).transpose(0, 1, 5, 3, 2, 4)
    last = w[:, -1].reshape(groups, 4, 2, 8).transpose(0, 3, 1, 2)
    return np.concatenate([pairs.reshape(groups, -1), last.reshape(groups, -1)], 1)


def stream(
    layout: Layout, expand_w: Floats, project_w: Floats, conv: tuple[Floats, Floats] | None = None
) -> npt.NDArray[np.uint8]:
    """[part of the output][chunk][items of the expansion | filters and biases of the convolution | items of the projection].

    `expand_w` [16 · steps, hidden] has its padding already; `conv` is (filters, biases) of the hidden tensor's convolution.
    """
    work, chunks, chunk = layout.work, layout.chunks, layout.hidden_chunk
    expand = fragments(bits(expand_w, work.dtype), work.depth_steps, chunks * chunk // 8)
    expand = expand.reshape(work.depth_steps, chunks, layout.warps_n, layout.expand_blocks, 32, 4).transpose(1, 0, 2, 3, 4, 5)
    padded = np.zeros((chunks, layout.expand_items * layout.expand_steps, chunk * 16), np.uint16)
    padded[:, : work.depth_steps] = paired(expand).reshape(chunks, work.depth_steps, -1)
    parts, across = layout.output_columns, layout.warps_n * layout.blocks_per_warp
    project = fragments(bits(project_w, work.dtype), chunks * chunk // 16, parts * across)
    project = project.reshape(chunks, chunk // 16, parts, layout.warps_n, layout.blocks_per_warp, 32, 4).transpose(
        2, 0, 1, 3, 4, 5, 6
    )
    middle = np.zeros((chunks, 0), np.uint16)
    if conv is not None:
        weights = np.zeros((chunks * chunk, *conv[0].shape[1:]), np.uint16)
        weights[: work.hidden] = bits(conv[0], work.dtype)
        words = filters(weights).reshape(chunks, -1)
        middle = np.concatenate([words, padded_bias(layout, conv[1]).reshape(chunks, chunk).view(np.uint16)], 1)
    back = paired(project).reshape(parts, chunks, -1)
    return as_bytes(*(np.concatenate([padded.reshape(chunks, -1), middle, part], 1) for part in back))


def padded_bias(layout: Layout, bias: Floats) -> Floats:
    """Of the hidden channels, in fp32, zero beyond them."""
    found = np.zeros(layout.chunks * layout.hidden_chunk, np.float32)
    found[: len(bias)] = bias
    return found


def padded_rows(w: Floats, rows: int) -> Floats:
    """Zero rows below."""
    found = np.zeros((rows, w.shape[1]), np.float32)
    found[: len(w)] = w
    return found
