"""What a generic kernel lays out in shared memory and in its stream of weights: the arithmetic of `ampere.cuh` and the sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from perfmodel.expected.fused_work import FusedWork
from perfmodel.validation.fused.configuration import Constants
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DType
from perfmodel.validation.fused.tiles import reached


def blocks(count: int, size: int) -> int:
    """⌈count / size⌉."""
    return -(-count // size)


@dataclass(frozen=True, kw_only=True)
class Work(FusedWork):
    """What of a problem decides the work of a generic kernel."""

    dtype: DType

    @property
    def input_steps(self) -> int:
        """k16 steps of the input's channels."""
        return blocks(self.C, 16)

    @property
    def depth_steps(self) -> int:
        """k16 steps of the expansion."""
        return self.input_steps * (self.taps if self.front == "taps" else 1)

    @property
    def filter_bytes(self) -> int:
        """Of eight channels' filters, as mma operands: k16 for each pair of taps, k8 for the last."""
        return self.taps // 2 * 256 + 128


def _pitch(payload: int) -> int:
    """Bytes between rows in shared memory: an odd multiple of sixteen, so that eight rows lie in different banks."""
    return payload + (16 if payload // 16 % 2 == 0 else 0)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A tile, how warps share it, and what follows. The names are those of the constants that the source is given."""

    work: Work
    tile_rows: int
    tile_columns: int
    warps_m: int
    warps_n: int
    m16_per_warp: int
    hidden_chunk: int
    expand_steps: int
    project_steps: int
    ring_slots: int
    """0: all weights stay in shared memory."""
    warp_groups: int
    hidden_splits: int
    input_buffers: int
    slab_groups: int
    blocks_per_multiprocessor: int
    output_columns: int
    """Parts of the output's channels, of which a block computes one."""

    @property
    def warps(self) -> int:
        """Of a group."""
        return self.warps_m * self.warps_n

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps * self.warp_groups

    @property
    def M(self) -> int:  # noqa: N802
        """Pixels of a tile with the idle ones."""
        return 16 * self.warps_m * self.m16_per_warp

    @cached_property
    def halo_pixels(self) -> int:
        """Input pixels that a tile reads."""
        work = self.work
        reach = (self.tile_rows - 1) * work.stride + work.kernel, (self.tile_columns - 1) * work.stride + work.kernel
        return reach[0] * reach[1]

    @property
    def m16_halo(self) -> int:
        """m16 tiles of tile and halo for each warp."""
        return blocks(self.halo_pixels, 16 * self.warps_m)

    @property
    def expanded_m16(self) -> int:
        """m16 tiles for each warp in the expansion."""
        return self.m16_halo if self.work.front == "hidden" else self.m16_per_warp

    @property
    def expand_blocks(self) -> int:
        """n8 blocks for each warp in the expansion."""
        return self.hidden_chunk // 8 // self.warps_n

    @cached_property
    def blocks_per_warp(self) -> int:
        """n8 blocks for each warp in the projection."""
        return blocks(self.work.outputs // 8, self.warps_n * self.output_columns)

    @property
    def chunks(self) -> int:
        """Of hidden channels."""
        return blocks(self.work.hidden, self.hidden_chunk)

    @property
    def expand_items(self) -> int:
        """Of a chunk in the stream of weights."""
        return blocks(self.work.depth_steps, self.expand_steps)

    @property
    def project_items(self) -> int:
        """Of a chunk in the stream of weights."""
        return self.hidden_chunk // 16 // self.project_steps

    @property
    def expand_bytes(self) -> int:
        """Of one item."""
        return self.expand_steps * self.hidden_chunk * 32

    @property
    def conv_bytes(self) -> int:
        """Of a chunk's filters and biases, where the convolution works on the hidden tensor."""
        return self.hidden_chunk // 8 * self.work.filter_bytes + self.hidden_chunk * 4 if self.work.front == "hidden" else 0

    @property
    def project_bytes(self) -> int:
        """Of one item."""
        return self.project_steps * self.blocks_per_warp * self.warps_n * 256

    @cached_property
    def chunk_bytes(self) -> int:
        """Of the stream of weights."""
        return self.expand_items * self.expand_bytes + self.conv_bytes + self.project_items * self.project_bytes

    @cached_property
    def weight_shared_bytes(self) -> int:
        """Resident weights, or the ring."""
        if self.ring_slots == 0:
            return self.chunks * self.chunk_bytes
        return self.ring_slots * max(self.expand_bytes, self.conv_bytes, self.project_bytes)

    @cached_property
    def group_shared_bytes(self) -> int:
        """Input, what the convolution leaves, and the chunk after its activation."""
        work = self.work
        input_pitch, chunk_pitch = work.input_steps * 32 + 16, self.hidden_chunk * 2 + 16
        if work.front == "input":
            slab = self.halo_pixels * _pitch(self.slab_groups * 16)
            return self.M * input_pitch + self.chunk_buffers * self.M * chunk_pitch + self.input_buffers * slab
        output = 0 if work.residual else self.tile_rows * self.tile_columns * _pitch(work.outputs * 2)
        held = self.input_buffers * max(self.halo_pixels * input_pitch, output)
        if work.front == "taps":
            return held + self.chunk_buffers * self.M * chunk_pitch
        return held + (self.halo_pixels + self.M) * chunk_pitch

    @property
    def gates_bytes(self) -> int:
        """Of the launch that turns an image's sums into gates: sums of parts of the tiles, then the channels between the two products."""
        hidden = self.chunks * self.hidden_chunk
        return 4 * (max(self.threads // (hidden // 4), 1) * hidden + self.work.squeeze)

    @property
    def chunk_buffers(self) -> int:
        """Of the chunk after its activation; it stays in registers where a warp has all columns."""
        return 0 if self.warps_n == 1 else 1 if self.ring_slots else 2

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        return self.weight_shared_bytes + self.warp_groups * self.group_shared_bytes

    @property
    def accumulators(self) -> int:
        """fp32 registers of a thread for both products."""
        return 4 * (self.m16_per_warp * self.blocks_per_warp + self.expanded_m16 * self.expand_blocks)

    @cached_property
    def tiles(self) -> int:
        """Of the whole output."""
        return self.work.N * self.tiles_of_image

    @property
    def tiles_of_image(self) -> int:
        """Of one image."""
        return blocks(self.work.rows, self.tile_rows) * blocks(self.work.columns, self.tile_columns)

    @property
    def partial_bytes(self) -> int:
        """Of what blocks that share a tile leave for each other: fp32 sums."""
        if self.hidden_splits == 1:
            return 16
        return (
            self.tiles
            * self.output_columns
            * self.hidden_splits
            * self.m16_per_warp
            * self.blocks_per_warp
            * 16
            * 32
            * self.warps
        )

    @property
    def constants(self) -> Constants:
        """For the source."""
        work = self.work
        found = [
            ("BF16", int(work.dtype == "bf16")),
            ("CHANNELS", work.C),
            ("OUT_CHANNELS", work.outputs),
            ("HIDDEN", work.hidden),
            ("TILE_ROWS", self.tile_rows),
            ("TILE_COLUMNS", self.tile_columns),
            ("WARPS_M", self.warps_m),
            ("WARPS_N", self.warps_n),
            ("M16_PER_WARP", self.m16_per_warp),
            ("BLOCKS_PER_WARP", self.blocks_per_warp),
            ("HIDDEN_CHUNK", self.hidden_chunk),
            ("EXPAND_STEPS", self.expand_steps),
            ("PROJECT_STEPS", self.project_steps),
            ("RING_SLOTS", self.ring_slots),
            ("WARP_GROUPS", self.warp_groups),
            ("HIDDEN_SPLITS", self.hidden_splits),
            ("INPUT_BUFFERS", self.input_buffers),
            ("BLOCKS_PER_MULTIPROCESSOR", self.blocks_per_multiprocessor),
        ]
        if work.front == "input":
            found.append(("SLAB_GROUPS", self.slab_groups))
        else:
            found += [("STRIDE", work.stride), ("RESIDUAL", int(work.residual))]
        if work.front == "hidden":
            found += [("KERNEL", work.kernel), ("M16_HALO", self.m16_halo), ("SQUEEZED", work.squeeze)]
        return (*found, ("SHARED_BYTES", self.shared_bytes))

    @classmethod
    def of(cls, work: Work, constants: dict[str, int]) -> Layout:
        """Back from the constants."""
        across = constants["WARPS_N"] * constants["BLOCKS_PER_WARP"]
        return cls(
            work=work,
            slab_groups=constants.get("SLAB_GROUPS", 1),
            output_columns=blocks(work.outputs // 8, across),
            **{
                name.lower(): constants[name]
                for name in (
                    "TILE_ROWS", "TILE_COLUMNS", "WARPS_M", "WARPS_N", "M16_PER_WARP", "HIDDEN_CHUNK", "EXPAND_STEPS", "PROJECT_STEPS",
                    "RING_SLOTS", "WARP_GROUPS", "HIDDEN_SPLITS", "INPUT_BUFFERS", "BLOCKS_PER_MULTIPROCESSOR",
                )
            },
        )  # fmt: skip

    @property
    def moved_bytes(self) -> int:
        """Input that the tiles read inside of the image, halos for every tile, and the output; no weights."""
        work = self.work
        rows = reached(work.H, self.tile_rows, kernel=work.kernel, stride=work.stride)
        columns = reached(work.W, self.tile_columns, kernel=work.kernel, stride=work.stride)
        read = ELEMENT_BYTES * work.N * work.C * rows * columns * (2 if work.squeeze else 1)
        return read + ELEMENT_BYTES * work.N * work.rows * work.columns * work.outputs
