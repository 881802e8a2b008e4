"""convfirst_generic.cu: mma.sync, any channels that are a multiple of eight, fp16 and bf16, compute capability 8.0 and later."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from perfmodel.validation.fused.choice import Offer, best
from perfmodel.validation.fused.configuration import Config, Launch, pointers
from perfmodel.validation.fused.convfirst.problem import GROUP_WIDTH, ConvFirstProblem
from perfmodel.validation.fused.convfirst.reference import ConvFirstParameters
from perfmodel.validation.fused.family import Buffers, Kernel
from perfmodel.validation.fused.packing import as_bytes, bits, fragments, up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, too_much_shared
from perfmodel.validation.fused.tiles import reached

NAME: Final = "convfirst_generic"
WARPS: Final = 8
CHUNK: Final = 64
SLAB: Final = 64
SHARING_ACCUMULATORS: Final = 80
"""fp32 registers of a thread, for both products, up to which two blocks share a multiprocessor's registers."""
LARGEST_ACCUMULATORS: Final = 144
"""Of one block alone, without spills."""
RESERVED_SHARED_BYTES: Final = 1024
"""What the system keeps of a multiprocessor's shared memory for each block."""


def shared_bytes(C: int, rows: int, columns: int, M: int) -> int:
    """The convolution's result, and the larger of a slab of the halo tile and two chunks of the hidden tensor."""
    slab = (rows + 2) * (columns + 2) * (SLAB * ELEMENT_BYTES + 16)
    return M * (up(C, 16) * ELEMENT_BYTES + 16) + max(slab, 2 * M * (CHUNK * ELEMENT_BYTES + 16))


def _warps_along_pixels(M: int) -> int:
    return {16: 1, 32: 1, 64: 2, 128: 4}[M]


def _accumulators(M: int, blocks: int) -> int:
    """Of a thread, for `blocks` blocks of eight output channels and its share of a chunk of the hidden tensor."""
    warps_m = _warps_along_pixels(M)
    return 4 * max(1, M // 16 // warps_m) * (blocks + CHUNK // 8 // (WARPS // warps_m))


def _most_blocks(M: int) -> int:
    return (LARGEST_ACCUMULATORS - _accumulators(M, 0)) // (_accumulators(M, 1) - _accumulators(M, 0))


def _blocks_per_warp(C: int, M: int) -> int:
    """Blocks of eight output channels that a warp accumulates, at most what its registers hold."""
    across = WARPS // _warps_along_pixels(M)
    return min(-(-C // GROUP_WIDTH // across), _most_blocks(M))


def _output_columns(C: int, warps_m: int, blocks_per_warp: int) -> int:
    return math.ceil(C // GROUP_WIDTH / (WARPS // warps_m * blocks_per_warp))


def offers(problem: ConvFirstProblem, device: DeviceLimits) -> Iterator[Offer]:
    """Every tile that fits: 16 to 128 rows of matrix instructions, and pixels that are not too long and thin."""
    for M in (16, 32, 64, 128):
        for rows in range(1, min(problem.H, M) + 1):
            columns = min(problem.W, M // rows)
            if max(rows, columns) > 8 * min(rows, columns) and rows < problem.H and columns < problem.W:
                continue
            needed = shared_bytes(problem.C, rows, columns, M)
            if needed <= device.shared_bytes_per_block:
                yield _offer(problem, device, rows, columns, M, needed)


def _offer(problem: ConvFirstProblem, device: DeviceLimits, rows: int, columns: int, M: int, needed: int) -> Offer:
    """A warp reads 512 B of shared memory for each 16 rows and k16 of A, and 256 B of the L1 cache for each n8 and k16 of B."""
    warps_m, blocks = _warps_along_pixels(M), _blocks_per_warp(problem.C, M)
    across, rows_per_warp = WARPS // warps_m, max(1, M // 16 // warps_m)
    chunks, steps = -(-problem.hidden // CHUNK), -(-problem.C // 16)
    expand = steps * (512 * rows_per_warp + 256 * (CHUNK // 8 // across))
    project = CHUNK // 16 * (512 * rows_per_warp + 256 * blocks)
    fit = device.shared_bytes_per_multiprocessor // (needed + RESERVED_SHARED_BYTES)
    resident = max(1, min(fit, 2 if _accumulators(M, blocks) <= SHARING_ACCUMULATORS else 1))
    constants = (
        ("BF16", int(problem.dtype == "bf16")),
        ("CHANNELS", problem.C),
        ("EXPANSION", problem.expansion),
        ("TILE_ROWS", rows),
        ("TILE_COLUMNS", columns),
        ("M", M),
        ("WARPS_M", warps_m),
        ("BLOCKS_PER_WARP", blocks),
        ("BLOCKS_PER_MULTIPROCESSOR", resident),
        ("SHARED_BYTES", needed),
    )
    config = Config(
        kernel=NAME,
        tile_rows=rows,
        tile_columns=columns,
        threads=32 * WARPS,
        shared_bytes=needed,
        blocks_per_multiprocessor=resident,
        constants=constants,
    )
    first, second = (
        72 + chunks * CHUNK,
        chunks * CHUNK * blocks * across * 8 / problem.C,
    )  # MACs of a pixel and channel, filled up
    return Offer(
        config=config,
        chunk=min(CHUNK, problem.hidden),
        filled=rows * columns / M,
        operand_bytes=WARPS * chunks * (expand + project),
        blocks_per_tile=_output_columns(problem.C, warps_m, blocks),
        macs_share=(first + second) / (72 + 2 * problem.hidden),
    )


def configure(problem: ConvFirstProblem, device: DeviceLimits) -> Config | str:
    """The tile that `choice.best` takes of all that fit."""
    found = tuple(offers(problem, device))
    if not found:
        return too_much_shared(device, shared_bytes(problem.C, 1, min(problem.W, 16), 16), "the smallest tile")
    return best(problem, found, device)


def launches(problem: ConvFirstProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A block for each tile and each part of the output channels."""
    del device
    N, H, W, C = problem.input_shape
    tiles = N * -(-H // config.tile_rows) * -(-W // config.tile_columns)
    return (
        Launch(
            grid=(tiles, _output_columns(C, config.defines["WARPS_M"], config.defines["BLOCKS_PER_WARP"]), 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=pointers(weights=5),
            arguments=(N, H, W),
        ),
    )


def pack(problem: ConvFirstProblem, config: Config, parameters: ConvFirstParameters) -> Buffers:
    """Filters, expansion and projection in the order of mma's B fragments; the two biases."""
    C, hidden, G, p = problem.C, problem.hidden, problem.C // GROUP_WIDTH, parameters
    chunks = -(-hidden // CHUNK)
    across = WARPS // config.defines["WARPS_M"] * config.defines["BLOCKS_PER_WARP"]
    output_blocks = -(-G // across) * across
    conv = bits(p.conv_w, problem.dtype).reshape(G, 8, 9, 8).transpose(0, 2, 3, 1)  # g, tap, k, n
    conv_fragments = np.zeros((G, 9 * 64), np.uint16)
    for g in range(G):
        pairs = fragments(conv[g, :8].reshape(64, 8), 4, 1)
        last = fragments(conv[g, 8], 1, 1)[..., :2]
        conv_fragments[g] = np.concatenate([pairs.reshape(-1), last.reshape(-1)])
    expand = fragments(bits(p.expand_w, problem.dtype), -(-C // 16), chunks * CHUNK // 8)
    expand = expand.reshape(expand.shape[0], chunks, CHUNK // 8, 32, 4).transpose(1, 0, 2, 3, 4)
    project = fragments(bits(p.project_w, problem.dtype), chunks * CHUNK // 16, output_blocks)
    expand_b = np.zeros(chunks * CHUNK, np.float32)
    expand_b[:hidden] = p.folded_bias()
    return as_bytes(conv_fragments), as_bytes(expand), as_bytes(project), as_bytes(expand_b), as_bytes(p.project_b)


def moved_bytes(problem: ConvFirstProblem, config: Config) -> int:
    """Tiles with a pixel of halo, and the output."""
    rows = reached(problem.H, config.tile_rows, kernel=3)
    columns = reached(problem.W, config.tile_columns, kernel=3)
    return ELEMENT_BYTES * problem.N * problem.C * rows * columns + problem.output_bytes


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=pack, moved_bytes=moved_bytes)
