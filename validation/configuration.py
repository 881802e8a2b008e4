"""Which kernel and which tile a ConvFirst problem gets on a device, and the launch that follows: pure functions of the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from perfmodel.validation.problem import (
    ELEMENT_BYTES,
    GROUP_WIDTH,
    DeviceLimits,
    GpuError,
    Problem,
    require_shared,
)

Kernel = Literal["convfirst_c64", "convfirst_stream", "convfirst_generic"]
HOPPER: Final = (9, 0)
LARGEST_PATCHED_SIDE: Final = 1016
"""convfirst_c64 packs patch coordinates of 8×8 pixels into 8 bits."""
LARGEST_PATCHED_BATCH: Final = 32767
LARGEST_BOX_ROWS: Final = 256
STREAM_TILE: Final = 192
LARGEST_RING: Final = 9
SMALLEST_RING: Final = 4
STREAM_CHUNK: Final = 32
GENERIC_WARPS: Final = 8
GENERIC_CHUNK: Final = 64
GENERIC_SLAB: Final = 64
SHARING_ACCUMULATORS: Final = 80
"""fp32 registers of a thread, for both products, up to which two blocks of the generic kernel share a multiprocessor's registers."""
LARGEST_ACCUMULATORS: Final = 144
"""Of one block alone, without spills."""
RESERVED_SHARED_BYTES: Final = 1024
"""What the system keeps of a multiprocessor's shared memory for each block."""
L2_BYTES_PER_CLOCK: Final = 21.0
"""Read by one multiprocessor when all of them read: 5.5 TB/s over 132 at 1.98 GHz. This and the next two only rank tiles."""
MACS_PER_CLOCK: Final = 1270.0
"""Of one multiprocessor by mma.sync in fp16: 62 % of what wgmma reaches."""
WAVEFRONT_BYTES: Final = 128
"""Of shared memory or the L1 cache, in a clock."""
OVERLAP: Final = 0.75
"""Time of blocks that share a multiprocessor, over the sum of what each would take alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A kernel and its tile; `constants` are what specialises the source."""

    kernel: Kernel
    tile_rows: int
    """Of output pixels; the streamed kernel's tile is 1 row of the flattened image."""
    tile_columns: int
    threads: int
    shared_bytes: int
    blocks_per_multiprocessor: int
    constants: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """The kernel's name with its specialisation, as profilers show it."""
        short = {name: "".join(word[0] for word in name.lower().split("_")) for name, _ in self.constants}
        return "_".join((self.kernel, *(f"{short[name]}{value}" for name, value in self.constants if name != "SHARED_BYTES")))

    @property
    def defines(self) -> dict[str, int]:
        """The constants by name."""
        return dict(self.constants)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a kernel starts."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]
    """The sizes that follow the pointers: N, H, W."""
    dependent: bool
    """Whether it may start while the grid before it drains: it waits for that grid's results itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBox:
    """A bulk tensor copy: the dimensions of the tensor (fastest first), its strides in bytes without the first, and the box."""

    dims: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    box: tuple[int, ...]


def choose_config(problem: Problem, device: DeviceLimits, *, only: Kernel | None = None) -> Config:
    """The Hopper kernel whose conditions hold, else the generic one. `only` names a kernel; raises GpuError where it cannot serve.

    >>> h200 = DeviceLimits(name="H200", compute_capability=(9, 0), multiprocessors=132, shared_bytes_per_block=232448,
    ...                     shared_bytes_per_multiprocessor=233472, l2_bytes=62914560)
    >>> choose_config(Problem(N=128, H=56, W=56, C=64, expansion=4), h200).name
    'convfirst_c64_e4_w4'
    """
    makers = {"convfirst_c64": _c64, "convfirst_stream": _stream, "convfirst_generic": _generic}
    if only is not None:
        made = makers[only](problem, device)
        if isinstance(made, str):
            raise GpuError(f"{only} does not serve {problem.name} on {device.name}: {made}")
        return made
    for maker in makers.values():
        if isinstance(made := maker(problem, device), Config):
            return made
    raise AssertionError("the generic kernel serves or raises")


def launch_of(problem: Problem, config: Config, device: DeviceLimits) -> Launch:
    """Grid, block and arguments."""
    grid: tuple[int, int, int]
    if config.kernel == "convfirst_generic":
        tiles = problem.N * -(-problem.H // config.tile_rows) * -(-problem.W // config.tile_columns)
        columns = _output_columns(problem.C, config.defines["WARPS_M"], config.defines["BLOCKS_PER_WARP"])
        grid = (tiles, columns, 1)
    elif config.kernel == "convfirst_stream":
        grid = (min(device.multiprocessors, -(-problem.pixels // STREAM_TILE)), 1, 1)
    else:
        patches = problem.N * -(-problem.H // 8) * -(-problem.W // 8)
        grid = (min(device.multiprocessors, -(-patches // config.defines["WARPGROUPS"])), 1, 1)
    return Launch(
        grid=grid,
        block=(config.threads, 1, 1),
        shared_bytes=config.shared_bytes,
        arguments=(problem.N, problem.H, problem.W),
        dependent=config.kernel != "convfirst_generic",
    )


def boxes_of(problem: Problem, config: Config) -> tuple[TensorBox, TensorBox] | None:
    """The bulk tensor copies of input and output; None for a kernel that uses none."""
    N, H, W, C = problem.N, problem.H, problem.W, problem.C
    pixel = ELEMENT_BYTES * C
    if config.kernel == "convfirst_c64":
        image, image_strides = (C, W, H, N), (pixel, pixel * W, pixel * W * H)
        return (
            TensorBox(dims=image, strides_bytes=image_strides, box=(64, 10, 10, 1)),
            TensorBox(dims=image, strides_bytes=image_strides, box=(64, 8, 1, 1)),
        )
    if config.kernel == "convfirst_stream":
        rows = config.defines["LEAD"] + STREAM_TILE + config.defines["TRAIL"]
        flat = (C, problem.pixels)
        return (
            TensorBox(dims=flat, strides_bytes=(pixel,), box=(64, rows)),
            TensorBox(dims=flat, strides_bytes=(pixel,), box=(64, 64)),
        )
    return None


def _hopper_only(problem: Problem, device: DeviceLimits) -> str | None:
    if device.compute_capability != HOPPER:
        return f"it needs compute capability 9.0 and this is {'.'.join(map(str, device.compute_capability))}"
    if problem.dtype != "fp16":
        return f"it computes in fp16, not {problem.dtype}"
    return None


def c64_shared_bytes(expansion: int, warpgroups: int) -> int:
    """Weights, two biases, and for each warpgroup two halo tiles and their barriers."""
    blob = 2 * 64 * 64 * expansion * ELEMENT_BYTES + 4 * 9 * 512 + 64 * expansion * ELEMENT_BYTES + 4 * 64
    return _up(blob, 1024) + warpgroups * 2 * (_up(10 * 10 * 64 * ELEMENT_BYTES, 1024) + 8)


def _c64(problem: Problem, device: DeviceLimits) -> Config | str:
    if why := _hopper_only(problem, device):
        return why
    if problem.C != 64:
        return f"it has 64 channels, not {problem.C}"
    if max(problem.H, problem.W) > LARGEST_PATCHED_SIDE or problem.N > LARGEST_PATCHED_BATCH:
        return f"its images are at most {LARGEST_PATCHED_SIDE} pixels a side and its batch at most {LARGEST_PATCHED_BATCH}"
    for warpgroups in (4, 3):
        shared_bytes = c64_shared_bytes(problem.expansion, warpgroups)
        if shared_bytes <= device.shared_bytes_per_block:
            return Config(
                kernel="convfirst_c64",
                tile_rows=8,
                tile_columns=8,
                threads=128 * warpgroups,
                shared_bytes=shared_bytes,
                blocks_per_multiprocessor=1,
                constants=(("EXPANSION", problem.expansion), ("WARPGROUPS", warpgroups), ("SHARED_BYTES", shared_bytes)),
            )
    return f"its weights need {shared_bytes} B of shared memory, and there are {device.shared_bytes_per_block} B"


def stream_shared_bytes(C: int, expansion: int, lead: int, trail: int, ring: int) -> int:
    """Two tiles with their halo and at least one row of zeros, the ring, the filters, the biases, the barriers."""
    rows = _up(lead + STREAM_TILE + trail + 1, 8)
    tiles = 2 * (C // 64) * rows * 128
    return tiles + ring * C * STREAM_CHUNK * ELEMENT_BYTES + C // 8 * 1280 + expansion * C * 2 + 4 * C + 8 * (2 * ring + 4)


def _stream(problem: Problem, device: DeviceLimits) -> Config | str:
    if why := _hopper_only(problem, device):
        return why
    if problem.C != 128:
        return f"it has 128 channels, not {problem.C}"
    lead, trail = _up(problem.W + 1, 8), problem.W + 1
    if lead + STREAM_TILE + trail > LARGEST_BOX_ROWS:
        return (
            f"a tile with the halo of {problem.W} columns is {lead + STREAM_TILE + trail} rows, and a box has {LARGEST_BOX_ROWS}"
        )
    items = 2 * problem.hidden // STREAM_CHUNK
    for ring in range(min(LARGEST_RING, items - 1), SMALLEST_RING - 1, -1):
        shared_bytes = stream_shared_bytes(problem.C, problem.expansion, lead, trail, ring)
        if shared_bytes <= device.shared_bytes_per_block:
            return Config(
                kernel="convfirst_stream",
                tile_rows=1,
                tile_columns=STREAM_TILE,
                threads=512,
                shared_bytes=shared_bytes,
                blocks_per_multiprocessor=1,
                constants=(
                    ("CHANNELS", problem.C),
                    ("EXPANSION", problem.expansion),
                    ("LEAD", lead),
                    ("TRAIL", trail),
                    ("RING_SLOTS", ring),
                    ("SHARED_BYTES", shared_bytes),
                ),
            )
    return f"its tiles and a ring of {SMALLEST_RING} slots do not fit {device.shared_bytes_per_block} B of shared memory"


def generic_shared_bytes(C: int, rows: int, columns: int, M: int) -> int:
    """The convolution's result, and the larger of a slab of the halo tile and two chunks of the hidden tensor."""
    slab = (rows + 2) * (columns + 2) * (GENERIC_SLAB * ELEMENT_BYTES + 16)
    return M * (_up(C, 16) * ELEMENT_BYTES + 16) + max(slab, 2 * M * (GENERIC_CHUNK * ELEMENT_BYTES + 16))


def _warps_along_pixels(M: int) -> int:
    return {16: 1, 32: 1, 64: 2, 128: 4}[M]


def _accumulators(M: int, blocks: int) -> int:
    """Of a thread, for `blocks` blocks of eight output channels and its share of a chunk of the hidden tensor."""
    warps_m = _warps_along_pixels(M)
    return 4 * max(1, M // 16 // warps_m) * (blocks + GENERIC_CHUNK // 8 // (GENERIC_WARPS // warps_m))


def _most_blocks(M: int) -> int:
    return (LARGEST_ACCUMULATORS - _accumulators(M, 0)) // (_accumulators(M, 1) - _accumulators(M, 0))


def _blocks_per_warp(C: int, M: int) -> int:
    """Blocks of eight output channels that a warp accumulates, at most what its registers hold."""
    across = GENERIC_WARPS // _warps_along_pixels(M)
    return min(-(-C // GROUP_WIDTH // across), _most_blocks(M))


def _output_columns(C: int, warps_m: int, blocks_per_warp: int) -> int:
    return math.ceil(C // GROUP_WIDTH / (GENERIC_WARPS // warps_m * blocks_per_warp))


def _generic_tiles(problem: Problem, device: DeviceLimits) -> Iterator[tuple[float, int, Config]]:
    """Every tile that fits, with the time it ranks by (in clocks) and its idle pixels."""
    for M in (16, 32, 64, 128):
        for rows in range(1, min(problem.H, M) + 1):
            columns = min(problem.W, M // rows)
            if max(rows, columns) > 8 * min(rows, columns) and rows < problem.H and columns < problem.W:
                continue
            shared_bytes = generic_shared_bytes(problem.C, rows, columns, M)
            if shared_bytes > device.shared_bytes_per_block:
                continue
            warps_m, blocks = _warps_along_pixels(M), _blocks_per_warp(problem.C, M)
            fit = device.shared_bytes_per_multiprocessor // (shared_bytes + RESERVED_SHARED_BYTES)
            resident = max(1, min(fit, 2 if _accumulators(M, blocks) <= SHARING_ACCUMULATORS else 1))
            output_columns = _output_columns(problem.C, warps_m, blocks)
            tiles = problem.N * -(-problem.H // rows) * -(-problem.W // columns)
            rounds = -(-tiles * output_columns // (device.multiprocessors * resident))
            alone = _clocks(problem, config_sizes=(rows, columns, M, warps_m, blocks))
            clocks = rounds * resident * alone * (OVERLAP if resident > 1 else 1)
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
                ("SHARED_BYTES", shared_bytes),
            )
            config = Config(
                kernel="convfirst_generic",
                tile_rows=rows,
                tile_columns=columns,
                threads=32 * GENERIC_WARPS,
                shared_bytes=shared_bytes,
                blocks_per_multiprocessor=resident,
                constants=constants,
            )
            yield clocks, M - rows * columns, config


def _clocks(problem: Problem, config_sizes: tuple[int, int, int, int, int]) -> float:
    """Of one block alone: matrix instructions, wavefronts of their operands, and reads of the L2 cache, one after the other.

    A warp reads 512 B of shared memory for each 16 rows and k16 of A, and 256 B of the L1 cache for each n8 and k16 of B.
    """
    rows, columns, M, warps_m, blocks = config_sizes
    across, rows_per_warp = GENERIC_WARPS // warps_m, max(1, M // 16 // warps_m)
    chunks, steps = -(-problem.hidden // GENERIC_CHUNK), -(-problem.C // 16)
    expand = steps * (512 * rows_per_warp + 256 * (GENERIC_CHUNK // 8 // across))
    project = GENERIC_CHUNK // 16 * (512 * rows_per_warp + 256 * blocks)
    read = ELEMENT_BYTES * problem.C * (72 + 2 * problem.hidden + (rows + 2) * (columns + 2) + rows * columns)
    macs = M * (72 * problem.C + chunks * GENERIC_CHUNK * 16 * steps + chunks * GENERIC_CHUNK * 8 * blocks * across)
    return macs / MACS_PER_CLOCK + GENERIC_WARPS * chunks * (expand + project) / WAVEFRONT_BYTES + read / L2_BYTES_PER_CLOCK


def _generic(problem: Problem, device: DeviceLimits) -> Config:
    """The tile with the least estimated time, in whole rounds of blocks; among equals the one with the fewest idle pixels."""
    found = list(_generic_tiles(problem, device))
    if not found:
        require_shared(problem, device, generic_shared_bytes(problem.C, 1, min(problem.W, 16), 16), "the smallest tile")
        raise AssertionError("the smallest tile fits")
    return min(found, key=lambda one: one[:2])[2]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
