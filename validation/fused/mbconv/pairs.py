"""mbconv_pairs.cu: a warp owns two neighbouring rows of a vertical strip, and the filter's Toeplitz form convolves both at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best
from perfmodel.validation.fused.configuration import Config, Launch, pointers
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import MBConvParameters
from perfmodel.validation.fused.mbconv.rows import STRIP, WARP_ROWS, lane_order, unserved
from perfmodel.validation.fused.packing import Bits, as_bytes, bits, core_matrices, lane_bias
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits
from perfmodel.validation.fused.tiles import reached

NAME: Final = "mbconv_pairs"
CHUNK: Final = 32
"""Hidden channels at a time."""
WARPGROUPS: Final = 2
"""Of 255 registers a thread: two rows' sums take C of them."""
STEP_PAIRS: Final = 4
"""Pairs of rows that a warpgroup does at once."""
FILTER_BYTES: Final = CHUNK * 16 + CHUNK // 8 * 1536 + 384
"""Of a chunk: a row of the expansion for the bias; four rows of each group's filter, of which one is zeros, and another of zeros."""
UNIT_BYTES: Final = CHUNK * 64
"""A warp's two rows of a chunk of h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a block is built."""

    slots: int
    """Of the ring of weights; 0: all of them are resident."""
    x_shared: bool
    """Whether x lies in shared memory, not in registers."""
    buffers: int
    """Of the convolved groups; with two the next one's convolution runs under the gathering of one."""
    early: bool
    """Whether the next chunk's expansion runs under the gathering."""


LAYOUTS: Final[dict[int, tuple[Layout, ...]]] = {
    64: (Layout(slots=0, x_shared=False, buffers=2, early=True),),
    96: (Layout(slots=4, x_shared=True, buffers=2, early=True),),
    128: (Layout(slots=3, x_shared=True, buffers=1, early=True),),
}


def shared_bytes(C: int, hidden: int, layout: Layout) -> int:
    """Weights, rows handed on, x, biases, barriers, as the source lays them out."""
    chunks = hidden // CHUNK
    slots = layout.slots or chunks
    item = 2 * C * CHUNK * ELEMENT_BYTES + FILTER_BYTES
    handed = WARPGROUPS * (2 * 3 + chunks + 1) * UNIT_BYTES
    x = WARPGROUPS * 2 * C * 128 if layout.x_shared else 0
    return slots * item + handed + x + ELEMENT_BYTES * (hidden + C) + 12 * slots


def pairs(problem: MBConvProblem) -> int:
    """Of output rows, of all strips of all images."""
    return problem.N * -(-problem.W // STRIP) * -(-problem.H // 2)


def configure(problem: MBConvProblem, device: DeviceLimits) -> Config | str:
    """The layout that fits."""
    if why := unserved(problem, device):
        return why
    if problem.C not in LAYOUTS:
        return f"it has 64, 96 or 128 channels, not {problem.C}"
    made = [arrange(problem, device, layout) for layout in LAYOUTS[problem.C]]
    if offers := [offer for offer in made if isinstance(offer, Offer)]:
        return best(problem, offers, device)
    return str(made[0])


def arrange(problem: MBConvProblem, device: DeviceLimits, layout: Layout) -> Offer | str:
    """One layout."""
    C, hidden = problem.C, problem.hidden
    chunks = hidden // CHUNK
    slots = layout.slots or chunks
    if chunks < slots:
        return f"a ring of {slots} slots is more than {chunks} chunks of {CHUNK} hidden channels"
    needed = shared_bytes(C, hidden, layout)
    if needed > device.shared_bytes_per_block:
        return f"its weights and rows need {needed} of {device.shared_bytes_per_block} B of shared memory"
    count = -(-pairs(problem) // (device.multiprocessors * WARPGROUPS))
    config = Config(
        kernel=NAME,
        tile_rows=2 * count,
        tile_columns=STRIP,
        threads=128 * WARPGROUPS,
        shared_bytes=needed,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", C),
            ("EXPANSION", problem.expansion),
            ("STREAMED", int(layout.slots > 0)),
            ("WARPGROUPS", WARPGROUPS),
            ("SLOTS", slots),
            ("X_SHARED", int(layout.x_shared)),
            ("BUFFERS", layout.buffers),
            ("EARLY", int(layout.early)),
            ("SHARED_BYTES", needed),
        ),
    )
    return Offer(config=config, chunk=CHUNK)


def launches(problem: MBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A block for each two ranges of pairs of rows."""
    del device
    N, H, W, _ = problem.input_shape
    count = config.tile_rows // 2
    return (
        Launch(
            grid=(-(-pairs(problem) // (count * WARPGROUPS)), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=pointers(weights=2),
            arguments=(N, H, W, count),
            dependent=True,
        ),
    )


def pack(problem: MBConvProblem, config: Config, parameters: MBConvParameters) -> Buffers:
    """The chunks in the order of consumption (expansion, its bias, filters, projection); the other biases."""
    half, C, p = np.float32(0.5), problem.C, parameters
    order = lane_order(C)
    bias = np.zeros((8, problem.hidden), np.float32)
    bias[0] = p.expand_b * half
    expand_w = bits(p.expand_w * half, "fp16")
    stream = [
        core_matrices(expand_w if config.defines["X_SHARED"] else expand_w[order], C, CHUNK),
        core_matrices(bits(bias, "fp16"), 8, CHUNK),
        toeplitz(bits(p.conv_w * half, "fp16")),
        core_matrices(bits(p.project_w, "fp16")[:, order], CHUNK, C),
    ]
    blob = as_bytes(lane_bias(p.conv_b * half, CHUNK), bits(p.project_b, "fp16"))
    return as_bytes(np.concatenate([part.reshape(problem.hidden // CHUNK, -1) for part in stream], 1)), blob


def toeplitz(conv_w: Bits) -> Bits:
    """[chunk][four groups of zeros and the filter's three rows; zeros]; a row is [kx][8 n][8 k]."""
    w = conv_w.reshape(-1, CHUNK // 8, 8, 3, 3, 8).transpose(0, 1, 3, 4, 2, 5)  # chunk, group, ky, kx, n, k
    rows = np.concatenate([np.zeros_like(w[:, :, :1]), w], 2).reshape(len(w), -1)
    return np.concatenate([rows, np.zeros_like(w[:, 0, 0]).reshape(len(w), -1)], 1)


def moved_bytes(problem: MBConvProblem, config: Config) -> int:
    """A column on either side of every strip, the two rows above every range. What is read again for the identity is in L2."""
    columns = reached(problem.W, STRIP, kernel=3)
    width = columns / -(-problem.W // STRIP)
    again = round(width * 2 * -(-pairs(problem) // (config.tile_rows // 2)))
    return ELEMENT_BYTES * problem.C * (problem.N * columns * problem.H + again) + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
