"""mbconv_rows.cu: a warp owns a row of a vertical strip; the hidden tensor passes from row to row in the layout of the accumulators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best
from perfmodel.validation.fused.configuration import Config, Launch, pointers
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import MBConvParameters
from perfmodel.validation.fused.packing import Bits, as_bytes, bits, core_matrices, lane_bias
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only, other_channels
from perfmodel.validation.fused.tiles import reached

NAME: Final = "mbconv_rows"
STRIP: Final = 14
"""Output columns of a strip: the 16 rows that a matrix instruction gives to a warp, less one column of halo on either side."""
WARP_ROWS: Final = 16
RESIDENT, STREAMED, TILED, STRIPS = range(4)
"""ORDER of the source: warpgroups on their own with all weights, a chain of warpgroups, tiles with rows for their neighbours; as the
first, each warpgroup down a strip of its own."""
LAST_ROWS: Final = 0.2
"""Of a step, about: the last rows of a block's strips, without expansion, their chunks shared by its warpgroups."""
BY_PAIR, PAIR_AHEAD, PAIRS_TOGETHER, GROUP_AHEAD = range(4)
"""OVERLAP of the source: pairs of groups one after the other; a pair's convolution under the gathering of the pair before; a chunk's two
pairs at once; as the second, but group by group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a block is built."""

    order: int
    warpgroups: int
    chunk: int
    """Hidden channels at a time."""
    slots: int
    """Of the ring of weights; 0: as many as there are chunks."""
    unroll: int
    """Chunks that the source repeats in a row; 0: all."""
    x_shared: bool
    """Whether x lies in shared memory, not in registers."""
    overlap: int
    """OVERLAP of the source: what of a warpgroup's work runs under other of it."""

    @property
    def resident(self) -> bool:
        """Whether all weights lie in shared memory, and every warpgroup walks on its own."""
        return self.order in (RESIDENT, STRIPS)

    @property
    def rows(self) -> int:
        """Of the hidden tensor, done at once."""
        return 4 * self.warpgroups


LAYOUTS: Final[dict[int, tuple[Layout, ...]]] = {
    64: (
        Layout(order=STRIPS, warpgroups=4, chunk=32, slots=0, unroll=0, x_shared=False, overlap=GROUP_AHEAD),
        Layout(order=RESIDENT, warpgroups=4, chunk=32, slots=0, unroll=0, x_shared=False, overlap=GROUP_AHEAD),
        Layout(order=STREAMED, warpgroups=3, chunk=32, slots=4, unroll=4, x_shared=False, overlap=BY_PAIR),
        Layout(order=STREAMED, warpgroups=3, chunk=32, slots=4, unroll=2, x_shared=False, overlap=BY_PAIR),
    ),
    96: (
        Layout(order=STREAMED, warpgroups=3, chunk=32, slots=4, unroll=4, x_shared=False, overlap=BY_PAIR),
        Layout(order=STREAMED, warpgroups=3, chunk=32, slots=3, unroll=3, x_shared=False, overlap=BY_PAIR),
    ),
    128: (
        Layout(order=STREAMED, warpgroups=3, chunk=32, slots=4, unroll=4, x_shared=True, overlap=BY_PAIR),
        Layout(order=STREAMED, warpgroups=3, chunk=32, slots=3, unroll=4, x_shared=True, overlap=BY_PAIR),
    ),
    256: (),
}
"""By channels: what the registers of so many warpgroups hold beside C / 2 accumulators a thread. The first that
fits into shared memory is taken. 256 channels only with blocks that share the rows: mbconv_tiles serves the rest."""
SHARED_LAYOUTS: Final[dict[int, tuple[tuple[int, Layout], ...]]] = {
    64: ((2, Layout(order=RESIDENT, warpgroups=3, chunk=32, slots=0, unroll=1, x_shared=False, overlap=PAIRS_TOGETHER)),),
    96: ((3, Layout(order=STREAMED, warpgroups=3, chunk=32, slots=4, unroll=4, x_shared=True, overlap=BY_PAIR)),),
    128: tuple((split, LAYOUTS[128][0]) for split in (2, 4)),
    256: (
        (2, Layout(order=TILED, warpgroups=2, chunk=64, slots=6, unroll=1, x_shared=True, overlap=BY_PAIR)),
        (4, Layout(order=TILED, warpgroups=2, chunk=64, slots=6, unroll=1, x_shared=True, overlap=PAIR_AHEAD)),
        (8, Layout(order=TILED, warpgroups=2, chunk=64, slots=6, unroll=1, x_shared=True, overlap=BY_PAIR)),
    ),
}
"""For clusters of so many blocks that share the rows, each with a part of the hidden channels: the sums take registers, too."""


def filter_bytes(chunk: int) -> int:
    """Of a chunk: 16 more rows of the expansion for the bias, and the filters."""
    return chunk * 32 + chunk // 16 * 2688


def shared_bytes(C: int, hidden: int, layout: Layout, split: int) -> int:
    """Ring, rows handed on, a row of zeros, x, biases, barriers, as the source lays them out."""
    chunks, row = hidden // layout.chunk // split, layout.chunk * 32
    half = C * layout.chunk * ELEMENT_BYTES
    slots = chunks if layout.resident else layout.slots
    near = chunks + 2 if layout.resident else slots + 1
    far = chunks + slots + 1
    if layout.order == TILED:
        ring, handed = slots * half // 2 + 2 * filter_bytes(layout.chunk), 2 * layout.rows * row
    else:
        rings = layout.warpgroups * near if layout.resident else (layout.warpgroups - 1) * near + far
        ring, handed = slots * (2 * half + filter_bytes(layout.chunk)), (layout.warpgroups * 4 + 2 * rings) * row
    x = layout.rows * (C // 16) * 512 if layout.x_shared else 0
    return ring + handed + row + x + ELEMENT_BYTES * (hidden + C) + 8 * (2 * slots + layout.warpgroups * near)


def sums_place(C: int, hidden: int, layout: Layout, split: int) -> int:
    """Bytes before the biases, where the sums of a cluster pass: all but biases and barriers."""
    slots = hidden // layout.chunk // split if layout.resident else layout.slots
    near = slots + (2 if layout.resident else 1)
    return shared_bytes(C, hidden, layout, split) - ELEMENT_BYTES * (hidden + C) - 8 * (2 * slots + layout.warpgroups * near)


def range_rows(problem: MBConvProblem, layout: Layout, blocks: int, one_step: bool) -> int:
    """Output rows of a block: of the sequence of all strips' rows, or (TILED) of a tile."""
    if layout.order == TILED:
        return layout.rows - 2
    if layout.order == STRIPS:
        return layout.warpgroups * problem.H
    if one_step:  # the row below the last, the row above the first; RESIDENT: for each warpgroup
        return layout.rows - (2 * layout.warpgroups if layout.resident else 2)
    return -(-sequence(problem) // blocks)


def sequence(problem: MBConvProblem) -> int:
    """Rows of all strips of all images."""
    return problem.N * -(-problem.W // STRIP) * problem.H


def down(problem: MBConvProblem, layout: Layout) -> int:
    """TILED: tiles of a strip."""
    return -(-max(problem.H - 2, 1) // (layout.rows - 2))


def whole_strips(problem: MBConvProblem, layout: Layout, blocks: int) -> str | None:
    """What keeps warpgroups from a strip each; None: nothing."""
    chunks, strips, at_once = problem.hidden // layout.chunk, sequence(problem) // problem.H, blocks * layout.warpgroups
    if chunks % layout.warpgroups:
        return f"{chunks} chunks of hidden channels are not shared evenly by {layout.warpgroups} warpgroups"
    if problem.H % 4:
        return f"a strip of {problem.H} rows is not walked in whole steps of 4"
    if strips > at_once:
        return f"{strips} strips are more than {blocks} blocks of {layout.warpgroups} warpgroups"
    shared = -(-sequence(problem) // blocks) + 2 * layout.warpgroups  # with the neighbours' rows
    steps = -(-shared // layout.rows)
    if steps < problem.H // 4 + LAST_ROWS:
        return f"rows that all blocks share take {steps} steps, a strip {problem.H // 4} and its last row"
    return None


def tiles(problem: MBConvProblem, layout: Layout, rows: int) -> int:
    """Blocks (clusters) that there is work for."""
    if layout.order == TILED:
        return problem.N * -(-problem.W // STRIP) * down(problem, layout)
    return -(-sequence(problem) // rows)


def unserved(problem: MBConvProblem, device: DeviceLimits, served: Collection[int]) -> str | None:
    """What keeps a Hopper kernel of this family, written for these numbers of channels, from a problem; None: nothing."""
    if why := hopper_only(problem, device):
        return why
    if (problem.kernel, problem.group_width, problem.stride) != (3, 8, 1):
        asked = f"{problem.kernel}×{problem.kernel} in groups of {problem.group_width} with stride {problem.stride}"
        return f"it convolves 3×3 in groups of 8 with stride 1, not {asked}"
    if problem.squeeze is not None or not problem.has_identity:
        return "it has no squeeze-and-excitation, and as many channels come out as go in"
    return other_channels(problem, served)


def configure(problem: MBConvProblem, device: DeviceLimits) -> Config | str:
    """The layout that fits, shared by as many blocks as the machine model finds fastest."""
    if why := unserved(problem, device, LAYOUTS):
        return why
    found, why = offers(problem, device)
    return best(problem, found, device) if found else why


def offers(problem: MBConvProblem, device: DeviceLimits) -> tuple[tuple[Offer, ...], str]:
    """The first layout that fits a block alone, and each that fits blocks that share rows; with them, why the last refused was refused.

    Where nothing fits that is the reason; "" where nothing was refused.
    """
    made = [arrange(problem, device, layout, split) for split, layout in SHARED_LAYOUTS[problem.C]]
    alone = [arrange(problem, device, layout, 1) for layout in LAYOUTS[problem.C]]
    fitting = [offer for offer in alone if isinstance(offer, Offer)][:1] + [offer for offer in made if isinstance(offer, Offer)]
    return tuple(fitting), next((reason for reason in reversed(alone + made) if isinstance(reason, str)), "")


def arrange(problem: MBConvProblem, device: DeviceLimits, layout: Layout, split: int) -> Offer | str:
    """One layout, one number of blocks that share the rows."""
    C, hidden, chunk = problem.C, problem.hidden, layout.chunk
    chunks, left = divmod(hidden, chunk * split)
    if left or C // 32 % split:
        return f"chunks of {chunk} hidden channels do not divide {hidden} among {split}"
    unroll = layout.unroll or chunks
    if layout.order == STREAMED and chunks < layout.slots:
        return f"a ring of {layout.slots} slots is more than {chunks} chunks of {chunk} hidden channels"
    if chunks % unroll:
        return f"{chunks} chunks of {chunk} hidden channels are no multiple of {unroll}"
    needed = shared_bytes(C, hidden, layout, split)
    if split > 1 and (sums := 2 * C * 128 * layout.warpgroups) > (place := sums_place(C, hidden, layout, split)):
        return (
            f"the sums of its {layout.warpgroups} warpgroups need {sums} of {place} B of shared memory that lie before the biases"
        )
    if needed > device.shared_bytes_per_block:
        return f"its weights and rows need {needed} of {device.shared_bytes_per_block} B of shared memory"
    rows = range_rows(problem, layout, device.multiprocessors, split > 1)
    count = tiles(problem, layout, rows)
    if split > 1 and count * split > device.multiprocessors:
        return f"{count} times {split} blocks are more than the multiprocessors"
    if layout.order == STRIPS and (why := whole_strips(problem, layout, device.multiprocessors)):
        return why
    slots = chunks if layout.resident else layout.slots
    config = Config(
        kernel=NAME,
        tile_rows=rows,
        tile_columns=STRIP,
        threads=128 * (layout.warpgroups + (not layout.resident)),
        shared_bytes=needed,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", C),
            ("EXPANSION", problem.expansion),
            ("ORDER", layout.order),
            ("WARPGROUPS", layout.warpgroups),
            ("CHUNK", chunk),
            ("SLOTS", slots),
            ("UNROLL", unroll),
            ("X_SHARED", int(layout.x_shared)),
            ("OVERLAP", layout.overlap),
            ("SPLIT", split),
            ("SHARED_BYTES", needed),
        ),
    )
    # TILED, the outermost rows of the image need no neighbour
    height = -(-problem.H // down(problem, layout)) if layout.order == TILED else min(rows, problem.H)
    return seen(problem, config, height=height, at_once=layout.rows, warpgroups=layout.warpgroups, chunk=chunk, split=split)


def seen(
    problem: MBConvProblem, config: Config, *, height: int, at_once: int, warpgroups: int, chunk: int, split: int = 1
) -> Offer:
    """Strips of a configuration as the machine sees them: a range of `height` rows goes on in the next strip, `at_once` rows in a step."""
    columns = min(STRIP, problem.W)
    steps = -(-(config.tile_rows + 2) // at_once)
    return Offer(
        config=config,
        chunk=chunk,
        tile=(height, columns),
        filled=height * columns / (at_once * WARP_ROWS * -(-(height + 2) // at_once)),
        operand_bytes=steps * warpgroups * 2 * problem.C * problem.hidden * ELEMENT_BYTES / split,
        blocks_per_tile=split,
        macs_share=1 / split,
        loaded_share=1 / split,
    )


def layout_of(config: Config) -> Layout:
    """From the constants."""
    found = config.defines
    return Layout(
        order=found["ORDER"],
        warpgroups=found["WARPGROUPS"],
        chunk=found["CHUNK"],
        slots=found["SLOTS"],
        unroll=found["UNROLL"],
        x_shared=bool(found["X_SHARED"]),
        overlap=found["OVERLAP"],
    )


def launches(problem: MBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A block (cluster) for each range of rows, or a persistent grid over tiles."""
    N, H, W, _ = problem.input_shape
    split = config.defines["SPLIT"]
    clusters = min(device.multiprocessors // split, tiles(problem, layout_of(config), config.tile_rows))
    return (
        Launch(
            grid=(clusters * split, 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=pointers(weights=2),
            arguments=(N, H, W, config.tile_rows, sequence(problem), *reciprocals(problem)),
            dependent=True,
        ),
    )


def reciprocals(problem: MBConvProblem) -> tuple[int, int]:
    """Of an image's rows, and of its strips."""
    return reciprocal(problem.H), reciprocal(-(-problem.W // STRIP))


def reciprocal(divisor: int) -> int:
    """(2³² − 1) / divisor, in the bits of a signed number as arguments have them.

    >>> reciprocal(1), reciprocal(56)
    (-1, 76695844)
    """
    found = (2**32 - 1) // divisor
    return found - 2**32 if found >= 2**31 else found


def pack(problem: MBConvProblem, config: Config, parameters: MBConvParameters) -> Buffers:
    """The chunks in the order of consumption; the other biases."""
    tiled = config.defines["ORDER"] == TILED
    return pack_chunks(problem, config.defines["CHUNK"], parameters, rows=(0, 2, 1) if tiled else (0, 1, 2))


def pack_chunks(problem: MBConvProblem, chunk: int, parameters: MBConvParameters, rows: tuple[int, int, int]) -> Buffers:
    """[chunk][expansion | its bias | filters, their rows in this order | projection]; the other biases."""
    half, C, p = np.float32(0.5), problem.C, parameters
    order = lane_order(C)
    bias = np.zeros((16, problem.hidden), np.float32)
    bias[0] = p.expand_b * half
    stream = [
        core_matrices(bits(p.expand_w * half, "fp16")[order], C, chunk),
        core_matrices(bits(bias, "fp16"), 16, chunk),
        group_pairs(bits(p.conv_w * half, "fp16")[:, rows, :, :]),
        core_matrices(bits(p.project_w, "fp16")[:, order], chunk, C),
    ]
    blob = as_bytes(lane_bias(p.conv_b * half, chunk), bits(p.project_b, "fp16"))
    return as_bytes(np.concatenate([part.reshape(problem.hidden // chunk, -1) for part in stream], 1)), blob


def lane_order(C: int) -> Bits:
    """Channel at each column of a product: so that a lane's eight columns of 32 are eight neighbouring channels.

    >>> lane_order(32)[:10].tolist()
    [0, 1, 8, 9, 16, 17, 24, 25, 2, 3]
    """
    column = np.arange(C)
    block, lane, pair = column % 32 // 8, column % 8 // 2, column % 2
    return (column // 32 * 32 + 8 * lane + 2 * block + pair).astype(np.uint16)


def group_pairs(conv_w: Bits) -> Bits:
    """[pair of groups][first two rows of one, of the other; the third row of one, zeros, of the other]; a row is [kx][8 n][8 k]."""
    w = conv_w.reshape(-1, 2, 8, 3, 3, 8).transpose(0, 1, 3, 4, 2, 5)  # pair, group, row, kx, n, k
    zeros = np.zeros_like(w[:, 0, 0])
    parts = [w[:, 0, 0], w[:, 0, 1], w[:, 1, 0], w[:, 1, 1], w[:, 0, 2], zeros, w[:, 1, 2]]
    return np.ascontiguousarray(np.stack(parts, 1))


def moved_bytes(problem: MBConvProblem, config: Config) -> int:
    """A column on either side of every strip, the rows above and below every range. What is read again for the identity is in L2."""
    rows = config.tile_rows
    if config.defines["ORDER"] != TILED:
        return walked_bytes(problem, rows)
    read = problem.N * reached(problem.W, STRIP, kernel=3) * reached(problem.H, rows, kernel=3)
    return ELEMENT_BYTES * problem.C * read + problem.output_bytes


def walked_bytes(problem: MBConvProblem, rows: int) -> int:
    """Read and written by walks down so many output rows each."""
    columns = reached(problem.W, STRIP, kernel=3)
    width = columns / -(-problem.W // STRIP)
    ends = sum(2 for start in range(0, sequence(problem), rows) if start % problem.H)
    return ELEMENT_BYTES * problem.C * (problem.N * columns * problem.H + round(width * ends)) + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
