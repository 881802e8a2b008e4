"""mbconv_chain.cu: warpgroups that walk down one range of rows, each below the one before, with two chunks of hidden channels in flight."""

from __future__ import annotations

from typing import Final

from perfmodel.validation.fused.choice import Offer, estimated_clocks
from perfmodel.validation.fused.configuration import Config, Launch, pointers
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.mbconv import rows
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import MBConvParameters
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits

NAME: Final = "mbconv_chain"
WARPGROUPS: Final = {96: 3, 128: 2}
"""By channels: as many as find registers for two chunks each."""
TOGETHER: Final = 2
"""Warpgroups whose registers hold the convolution of all groups of a chunk, under whose gathering the next expansion runs. With more of
them it is issued last, and waited for behind the next barrier."""
CHUNK: Final = 32
"""Hidden channels at a time."""
SLOTS: Final = 4
"""Of the ring of weights: a chunk's filters and projection, with the expansion of the chunk after the next."""
CHUNKS: Final = (8, 12, 16)
"""That the source serves, whole turns of the ring: with fewer three warpgroups spill, of more the instructions of a step do not fit into
their cache."""
X_SHARED: Final = frozenset({128})
"""By channels: where x of the next step comes through shared memory. Three warpgroups have no registers for its copying."""
LAST_ROW: Final = 0.4
"""Of a step, about: without the expansion, and without other rows to share the time."""


def shared_bytes(C: int, hidden: int) -> int:
    """Ring, rows handed on, a row of zeros, x, biases, barriers, as the source lays them out."""
    warpgroups, row, chunks = WARPGROUPS[C], CHUNK * 32, hidden // CHUNK
    near = 8 if chunks % 8 == 0 else 6  # a step's chunks are whole turns of what is handed on
    ring = SLOTS * (2 * C * CHUNK * ELEMENT_BYTES + rows.filter_bytes(CHUNK))
    handed = 2 * ((2 * warpgroups - 1) * near + chunks + near)
    x = 4 * warpgroups * rows.WARP_ROWS * C * ELEMENT_BYTES if C in X_SHARED else 0
    return ring + (handed + 1) * row + x + ELEMENT_BYTES * (hidden + C) + 8 * (2 * SLOTS + (warpgroups - 1) * near)


def range_rows(problem: MBConvProblem, blocks: int) -> int:
    """Output rows of a block: as few as fill so many blocks, or whole strips where that makes its walk shorter."""
    fewest = -(-rows.sequence(problem) // blocks)
    whole = -(-fewest // problem.H) * problem.H
    return min((fewest, whole), key=lambda found: steps(problem, found))


def steps(problem: MBConvProblem, found: int) -> float:
    """Of a walk down so many output rows."""
    whole, last_row = walk(problem, found)
    return whole + LAST_ROW * last_row


def walk(problem: MBConvProblem, found: int) -> tuple[int, bool]:
    """Whole steps down so many output rows; whether one row's convolution and projection are left after them, at the end of a strip.

    Every warpgroup takes part in every step, whether it has rows in it or not.
    """
    at_once = 4 * WARPGROUPS[problem.C]
    if found % problem.H:
        return -(-(found + 2) // at_once), False
    return (found // at_once, True) if found % at_once == 0 else (-(-(found + 1) // at_once), False)


def configure(problem: MBConvProblem, device: DeviceLimits) -> Config | str:
    """The one layout, where no other kernel's is estimated to be faster."""
    if why := rows.unserved(problem, device, WARPGROUPS):
        return why
    if (chunks := problem.hidden // CHUNK) not in CHUNKS:
        return f"it keeps two chunks in flight, of {' or '.join(map(str, CHUNKS))}, not {chunks}"
    if (needed := shared_bytes(problem.C, problem.hidden)) > device.shared_bytes_per_block:
        return f"its weights and rows need {needed} of {device.shared_bytes_per_block} B of shared memory"
    own = offer(problem, device, needed)
    clocks = estimated_clocks(problem, (own, *rows.offers(problem, device)[0]), device)
    if clocks[1:].min(initial=clocks[0]) < clocks[0]:
        return f"it is estimated at {clocks[0]:.0f} clocks and {rows.NAME} at {clocks[1:].min():.0f}"
    return own.config


def offer(problem: MBConvProblem, device: DeviceLimits, needed: int) -> Offer:
    """As the machine sees it: a range goes on in the next strip."""
    of_block, warpgroups = range_rows(problem, device.multiprocessors), WARPGROUPS[problem.C]
    config = Config(
        kernel=NAME,
        tile_rows=of_block,
        tile_columns=rows.STRIP,
        threads=128 * (warpgroups + 1),
        shared_bytes=needed,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", problem.C),
            ("EXPANSION", problem.expansion),
            ("WARPGROUPS", warpgroups),
            ("X_SHARED", int(problem.C in X_SHARED)),
            ("SHARED_BYTES", needed),
        ),
    )
    return rows.seen(problem, config, height=min(of_block, problem.H), at_once=4 * warpgroups, warpgroups=warpgroups, chunk=CHUNK)


def blocks(problem: MBConvProblem, config: Config) -> int:
    """One for each range of rows."""
    return -(-rows.sequence(problem) // config.tile_rows)


def launches(problem: MBConvProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A block for each range of rows."""
    del device
    N, H, W, _ = problem.input_shape
    return (
        Launch(
            grid=(blocks(problem, config), 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=pointers(weights=2),
            arguments=(N, H, W, config.tile_rows, rows.sequence(problem), *rows.reciprocals(problem)),
            dependent=True,
        ),
    )


def pack(problem: MBConvProblem, config: Config, parameters: MBConvParameters) -> Buffers:
    """The chunks in the order of consumption; the other biases."""
    del config
    return rows.pack_chunks(problem, CHUNK, parameters, rows=(0, 1, 2))


def moved_bytes(problem: MBConvProblem, config: Config) -> int:
    """A column on either side of every strip, the rows above and below every range. What is read again for the identity is in L2."""
    return rows.walked_bytes(problem, config.tile_rows)


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
