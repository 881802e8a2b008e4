"""What specialises a kernel's source and what starts it: records that a family fills by pure functions of the sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Constants = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A kernel and its tile; `constants` are what specialises the source."""

    kernel: str
    """The source: `kernels/<kernel>.cu`."""
    tile_rows: int
    """Of output pixels; 1 for a tile of the flattened image."""
    tile_columns: int
    threads: int
    shared_bytes: int
    blocks_per_multiprocessor: int
    constants: Constants

    @property
    def name(self) -> str:
        """The kernel's name with its specialisation, as profilers show it."""
        return "_".join((self.kernel, *short_names(self.constants)))

    @property
    def defines(self) -> dict[str, int]:
        """The constants by name."""
        return dict(self.constants)


def short_names(constants: Constants) -> tuple[str, ...]:
    """Initials and value of each constant.

    >>> short_names((("RING_SLOTS", 9), ("CHANNELS", 128), ("SHARED_BYTES", 1024)))
    ('rs9', 'c128')
    """
    return tuple(
        "".join(word[0] for word in name.lower().split("_")) + str(value) for name, value in constants if name != "SHARED_BYTES"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBox:
    """A bulk tensor copy: the dimensions of the tensor (fastest first), its strides in bytes without the first, and the box."""

    dims: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    box: tuple[int, ...]
    swizzle_bytes: Literal[0, 32, 64, 128] = 128
    dtype: Literal["fp16", "bf16"] = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A buffer as an argument of a kernel: its address, or with a box a tensor map by value."""

    buffer: Literal["x", "y", "weights", "scratch"]
    index: int = 0
    """Of the packed weights, or of the scratch buffers."""
    box: TensorBox | None = None


def pointers(weights: int) -> tuple[Operand, ...]:
    """x, y, and the first so many packed weights, as addresses."""
    return (Operand(buffer="x"), Operand(buffer="y"), *(Operand(buffer="weights", index=i) for i in range(weights)))


def mapped(x: TensorBox, y: TensorBox, weights: int) -> tuple[Operand, ...]:
    """x and y as tensor maps, and the first so many packed weights as addresses."""
    return (Operand(buffer="x", box=x), Operand(buffer="y", box=y), *pointers(weights)[2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A device buffer of a block, for what its launches or their blocks leave for each other; zeros when the block is made."""

    bytes: int
    zeroed: bool = False
    """Whether it is filled with zeros again, in the stream, before the first launch of every call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a kernel starts. The arguments are the operands in their order, then the whole numbers."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    operands: tuple[Operand, ...]
    arguments: tuple[int, ...]
    """The sizes that follow the operands, such as N, H, W."""
    dependent: bool = False
    """Whether it may start while the grid before it drains: it waits for that grid's results itself."""
    cluster: int = 1
    """Blocks of a cluster, as the source compiles them in: above eight the driver must be asked to allow it."""
    constants: Constants = ()
    """Beside the configuration's, where a block takes several launches: which of them this is."""
