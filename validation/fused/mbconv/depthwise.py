"""mbconv_depthwise.cu: channels stay with their threads, which walk down strips of the image; sums pass from row to row in registers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from perfmodel.layers.layer import ShapeError
from perfmodel.validation.fused.choice import Offer, best
from perfmodel.validation.fused.configuration import Config, Launch, Operand, Scratch
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import MBConvParameters
from perfmodel.validation.fused.packing import Floats, as_bytes, bits, core_matrices
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits
from perfmodel.validation.fused.tiles import resident_blocks

NAME: Final = "mbconv_depthwise"
GROUP: Final = 64
"""Hidden channels of a warpgroup: the rows of its matrix instruction."""
WARPGROUPS: Final = 4
"""At most, beside the one that projects."""
STRIPS: Final[dict[tuple[int, int], tuple[int, ...]]] = {
    (3, 1): (56, 48, 40, 32, 24, 16),
    (5, 1): (32, 24, 16),
    (3, 2): (56, 48, 40, 32, 24, 16),
    (5, 2): (56, 48, 40, 32, 24, 16),
}
"""Columns, by kernel and stride: what a thread's registers hold of it is a row of h and the rows of sums that wait."""
SPLITS: Final = (1, 2)
"""Blocks of a cluster that share the hidden channels: as few as have a warpgroup for each 64 of them."""
RING_ROWS: Final = ((8, 2), (7, 2), (6, 2), (5, 2))
"""Of x and of g in shared memory, the first that fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips:
    """How an image is cut."""

    width: int
    """Columns of the input, halo included."""
    count: int
    """Of an image."""
    kernel: int
    stride: int

    @classmethod
    def of(cls, problem: MBConvProblem, width: int) -> Strips:
        """Neighbouring strips overlap by the halo; the borders of the image need none."""
        halo = problem.kernel // 2 * 2
        count = 1 if width >= problem.W else -(-(problem.W - halo) // (width - halo))
        return cls(width=width, count=count, kernel=problem.kernel, stride=problem.stride)

    def column(self, problem: MBConvProblem, strip: int) -> int:
        """Of the input, where a strip starts: the last one ends where the image does, if that is wide enough; a multiple of the stride."""
        last = -(-max(problem.W - self.width, 0) // self.stride) * self.stride
        return min(strip * (self.width - self.kernel // 2 * 2), last)

    def masked(self, problem: MBConvProblem) -> bool:
        """Whether the last one reaches beyond the image."""
        return self.column(problem, self.count - 1) + self.width > problem.W

    def places(self) -> int:
        """Of output pixels in shared memory: a thread's columns, in blocks of eight over its four lanes."""
        own = self.width // 4 // self.stride
        return -(-own // 2) * 8


def shared_bytes(problem: MBConvProblem, strips: Strips, split: int, rows: tuple[int, int], folded: bool) -> int:
    """Rings of x and g, both matrices, filters and biases, a row of the output, barriers, as the source lays them out."""
    slabs, parts = -(-problem.C // GROUP), -(-problem.outputs // GROUP)
    groups, (x_rows, g_rows) = groups_of(problem, split), rows
    ring = x_rows * slabs * strips.width * 128 + g_rows * groups * strips.places() * 128
    matrices = groups * -(-problem.C // 16) * 2048 + parts * groups * 8192
    if folded:
        matrices += (groups + parts) * 2048 + (1 + strips.masked(problem)) * strips.width * 32
    table = groups * 4 * entries(problem) * 64
    handed = strips.places() * 256 if split > 1 else 0
    out = strips.places() * ((parts if split == 1 else 1) * 128 + 16)
    return ring + matrices + table + out + handed + 8 * (2 * x_rows + 2 * g_rows + 3)


def entries(problem: MBConvProblem) -> int:
    """Of the table for a channel: filter, two biases, with squeeze-and-excitation a place for the gate."""
    return problem.kernel**2 + 2 + (problem.squeeze is not None)


def groups_of(problem: MBConvProblem, split: int) -> int:
    """Warpgroups of a block that have hidden channels."""
    return -(-problem.hidden // (GROUP * split))


def configure(problem: MBConvProblem, device: DeviceLimits) -> Config | str:
    """The strip that fits and that the machine model finds fastest."""
    if not device.is_hopper:
        return f"it needs compute capability 9.0 and this is {'.'.join(map(str, device.compute_capability))}"
    if problem.group_width != 1:
        return f"it convolves channel by channel, not in groups of {problem.group_width}"
    split = next((split for split in SPLITS if groups_of(problem, split) <= WARPGROUPS), 0)
    if not split:
        return f"it has at most {GROUP * WARPGROUPS * SPLITS[-1]} hidden channels, not {problem.hidden}"
    if problem.C > 2 * GROUP or problem.outputs > 2 * GROUP:
        return f"it has at most {2 * GROUP} channels, not {max(problem.C, problem.outputs)}"
    offers, least = [], 0
    for width in STRIPS[problem.kernel, problem.stride]:
        strips = Strips.of(problem, width)
        for rows, folded in itertools.product(RING_ROWS, (True, False)):
            needed = shared_bytes(problem, strips, split, rows, folded)
            least = min(least or needed, needed)
            if needed <= device.shared_bytes_per_block and rows[0] >= problem.kernel // 2 + 3:
                offers.append(offer(problem, device, strips, split, rows, folded))
                break
    if not offers:
        return f"its weights and rows need {least} of {device.shared_bytes_per_block} B of shared memory"
    try:
        return best(replace(problem, squeeze=None), offers, device)  # both launches walk alike
    except ShapeError:  # the model's layers refuse an image narrower than the stride
        return offers[-1].config


def pieces(problem: MBConvProblem, strips: Strips, rows: int) -> Iterator[tuple[int, int, int]]:
    """(block, first output row, row after the last) of every piece of a strip that a block of so many rows walks down."""
    height, total, at = problem.output_shape[1], sequence(problem, strips), 0
    while at < total:
        end = min(at // rows * rows + rows, at // height * height + height, total)
        yield at // rows, at % height, at % height + end - at
        at = end


def reached_rows(problem: MBConvProblem, first: int, last: int) -> tuple[int, int]:
    """Of the input, inside of the image and in all: what the output rows first … last - 1 of a strip need."""
    pad = problem.kernel // 2
    top, bottom = max(first * problem.stride - pad, 0), (last - 1) * problem.stride + pad
    return min(bottom, problem.H - 1) - top + 1, bottom - top + 1


def steps(problem: MBConvProblem, strips: Strips, rows: int) -> int:
    """Rows of h of the block that has the most."""
    found: dict[int, int] = {}
    for block, first, last in pieces(problem, strips, rows):
        found[block] = found.get(block, 0) + reached_rows(problem, first, last)[1]
    return max(found.values())


def rows_of_block(problem: MBConvProblem, strips: Strips, blocks: int) -> int:
    """Output rows of a block (cluster) of so many at most: as few as that allows, or more where that makes its walk shorter."""
    fewest = -(-sequence(problem, strips) // blocks)
    height = problem.output_shape[1]
    whole = -(-fewest // height) * height if fewest > height else next(r for r in range(fewest, height + 1) if height % r == 0)
    return min((fewest, whole), key=lambda rows: steps(problem, strips, rows))


def offer(problem: MBConvProblem, device: DeviceLimits, strips: Strips, split: int, rows: tuple[int, int], folded: bool) -> Offer:
    """One width of strip."""
    resident = resident_blocks(device.multiprocessors, split)
    of_block = rows_of_block(problem, strips, max(1, resident // split))
    groups, needed = groups_of(problem, split), shared_bytes(problem, strips, split, rows, folded)
    registers = registers_of(problem, strips, groups)
    config = Config(
        kernel=NAME,
        tile_rows=of_block,
        tile_columns=-(-problem.output_shape[2] // strips.count),
        threads=128 * (groups + 1),
        shared_bytes=needed,
        blocks_per_multiprocessor=1,
        constants=(
            ("BF16", int(problem.dtype == "bf16")),
            ("CHANNELS", problem.C),
            ("OUT_CHANNELS", problem.outputs),
            ("KERNEL", problem.kernel),
            ("STRIDE", problem.stride),
            ("RESIDUAL", int(problem.has_identity)),
            ("SQUEEZED", problem.squeeze or 0),
            ("BLOCKS", strips.width // 8),
            ("WARPGROUPS", groups),
            ("SPLIT", split),
            ("X_SLOTS", rows[0]),
            ("G_SLOTS", rows[1]),
            ("REGISTERS", registers[0]),
            ("PROJECT_REGISTERS", registers[1]),
            ("FOLDED", int(folded)),
            ("MASKED", int(strips.masked(problem))),
            ("OVERLAPS", int(strips.count > 1)),
            ("SHARED_BYTES", needed),
        ),
    )
    return Offer(
        config=config,
        chunk=problem.hidden,
        tile=(min(of_block, problem.output_shape[1]), config.tile_columns),
        filled=problem.W / (strips.count * strips.width),
        operand_bytes=steps(problem, strips, of_block) * row_operand_bytes(problem, strips, groups, folded),
        blocks_per_tile=split,
        macs_share=1 / split,
        multiprocessors=resident,
    )


def row_operand_bytes(problem: MBConvProblem, strips: Strips, groups: int, folded: bool) -> int:
    """Read from shared memory by the matrix instructions of a row, both operands: m64nNk16 reads 64 and N rows of 32 bytes."""
    expand = groups * (-(-problem.C // 16) + folded) * (64 + strips.width)
    project = -(-problem.outputs // GROUP) * (4 * groups + folded) * (64 + strips.places())
    return 32 * (expand + project // problem.stride)


def registers_of(problem: MBConvProblem, strips: Strips, groups: int) -> tuple[int, int]:
    """Of a thread that convolves, of one that projects, where they need not be the same: together what the launch gives them.

    What they hold: a row of h with its neighbours and the rows of sums that wait, for two channels; fp32 sums of the projection.
    """
    pad, own = problem.kernel // 2, strips.width // 4
    waiting = (2 * pad if problem.stride == 1 else pad) * (own // problem.stride)
    convolving, projecting = 2 * (own + 2 * pad + waiting), -(-problem.outputs // GROUP) * strips.places() // 2
    if groups == WARPGROUPS and convolving > 72 and projecting <= 28:
        return 104, 64
    return (120, 152) if groups == WARPGROUPS - 1 and projecting > 48 else (0, 0)


def strips_of(problem: MBConvProblem, config: Config) -> Strips:
    """Back from the constants."""
    return Strips.of(problem, 8 * config.defines["BLOCKS"])


def sequence(problem: MBConvProblem, strips: Strips) -> int:
    """Output rows of all strips of all images."""
    return problem.N * strips.count * problem.output_shape[1]


def first_asked(config: Config) -> int:
    """Rows of x that a block asks for before it waits for the first: those on their way, less those that are to be there."""
    v = config.defines
    ahead = v["X_SLOTS"] - (v["KERNEL"] // 2 + 1 if v["RESIDUAL"] else 1)
    return ahead - min((ahead + 1) // 2, v["G_SLOTS"] + 1) + 1


def rotates(problem: MBConvProblem) -> bool:
    """Whether rows of sums change places by name, as the source decides it where nothing is gated (ROTATES)."""
    return problem.stride == 1 and problem.kernel == 3


def passes(problem: MBConvProblem) -> Iterator[int]:
    """PASS of each launch."""
    yield from (1, 2, 3) if problem.squeeze else (0,)


def launches(problem: MBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A block for each part of the sequence of rows; with squeeze-and-excitation three launches: sums, gates, all.

    A block reserves at least half of a multiprocessor's shared memory: where two fit, blocks of the next launch, which may start
    before this one ends, share a multiprocessor while others stay empty.
    """
    N, H, W, _ = problem.input_shape
    strips = strips_of(problem, config)
    blocks = -(-sequence(problem, strips) // config.tile_rows)
    alone = max(config.shared_bytes, device.shared_bytes_per_multiprocessor // 2)
    operands = [Operand(buffer="x"), Operand(buffer="y")]
    operands += [Operand(buffer="weights", index=index) for index in range(6 if problem.squeeze else 2)]
    operands += [Operand(buffer="scratch", index=index) for index in range(2)] if problem.squeeze else []
    return tuple(
        Launch(
            grid=(N if number == 2 else blocks * config.defines["SPLIT"], 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=4 * (hidden_of(config) + (problem.squeeze or 0)) if number == 2 else alone,
            operands=tuple(operands),
            arguments=(N, H, W, config.tile_rows, strips.count),
            dependent=True,
            constants=(("PASS", number),),
        )
        for number in passes(problem)
    )


def scratch(problem: MBConvProblem, config: Config) -> tuple[Scratch, ...]:
    """With squeeze-and-excitation the sums of each block and image, and gates. A block's place is its number and the image's added up."""
    if not problem.squeeze:
        return ()
    blocks = -(-sequence(problem, strips_of(problem, config)) // config.tile_rows)
    return tuple(Scratch(bytes=4 * hidden_of(config) * rows) for rows in (problem.N + blocks, problem.N))


def hidden_of(config: Config) -> int:
    """Hidden channels with those that fill the last warpgroup."""
    return GROUP * config.defines["WARPGROUPS"] * config.defines["SPLIT"]


def pack(problem: MBConvProblem, config: Config, parameters: MBConvParameters) -> Buffers:
    """[block of a cluster][expansion by warpgroup | filters and biases by warp | projection]; the output's bias."""
    p, half, split = parameters, np.float32(0.5), config.defines["SPLIT"]
    each = config.defines["WARPGROUPS"] * GROUP
    hidden = split * each
    steps, parts = -(-problem.C // 16), -(-problem.outputs // GROUP)

    def padded(values: Floats, *shape: int) -> Floats:
        found = np.zeros(shape, np.float32)
        found[tuple(slice(size) for size in values.shape)] = values
        return found

    def with_bias(values: Floats, bias: Floats) -> Floats:
        """The bias as the first of sixteen more rows, where it is folded."""
        return np.concatenate([values, padded(bias[None], 16, len(bias))]) if config.defines["FOLDED"] else values

    weights = with_bias(padded(p.expand_w * half, 16 * steps, hidden), padded(p.expand_b * half, hidden))
    expand = core_matrices(bits(weights, problem.dtype), len(weights), GROUP)
    project = []
    for rank, rows in enumerate(padded(p.project_w, hidden, parts * GROUP).reshape(split, each, -1)):
        bias = padded(p.project_b, parts * GROUP).reshape(parts, GROUP) * (
            np.arange(parts)[:, None] % split == rank
        )  # added once
        weights = with_bias(rows, bias.reshape(-1))
        project.append(core_matrices(bits(weights, problem.dtype), len(weights), GROUP))
    taps = p.conv_w.reshape(problem.hidden, -1)
    table = np.concatenate([taps, p.conv_b[:, None], p.expand_b[:, None]], 1) * half
    lanes = by_lane(padded(table, hidden, entries(problem)))
    stream = np.concatenate([as_bytes(part).reshape(split, -1) for part in (expand, lanes, np.stack(project))], 1)
    found = (as_bytes(stream), as_bytes(p.project_b))
    if p.reduce_w is None or p.reduce_b is None or p.gate_w is None or p.gate_b is None:
        return found
    squeeze = len(p.reduce_b)
    return (
        *found,
        as_bytes(bits(padded(p.reduce_w.T, squeeze, hidden), problem.dtype)),
        as_bytes(p.reduce_b),
        as_bytes(bits(padded(p.gate_w, squeeze, hidden), problem.dtype)),
        as_bytes(padded(p.gate_b, hidden)),
    )


def by_lane(table: Floats) -> npt.NDArray[np.float32]:
    """[channel][entry] → [warp][entry][lane][2]: a lane of eight has the channels l and l + 8 of a warp's sixteen.

    >>> by_lane(np.arange(16, dtype=np.float32)[:, None])[0, 0, 1].tolist()
    [1.0, 9.0]
    """
    channels, entries = table.shape
    return np.ascontiguousarray(table.reshape(channels // 16, 2, 8, entries).transpose(0, 3, 2, 1))


def moved_bytes(problem: MBConvProblem, config: Config) -> int:
    """Strips with their halo and rows above and below every block's part, twice with squeeze-and-excitation, and the output."""
    strips = strips_of(problem, config)
    columns = problem.W + (strips.count - 1) * (problem.kernel // 2 * 2)
    read = sum(reached_rows(problem, first, last)[0] for _, first, last in pieces(problem, strips, config.tile_rows))
    passes = 2 if problem.squeeze else 1
    return passes * ELEMENT_BYTES * problem.C * (read * columns // strips.count) + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes, scratch=scratch)
