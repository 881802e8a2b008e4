"""What a fused kernel is asked to do, and on what kind of device: records, and nothing that needs a GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, get_args

from perfmodel.errors import PerfmodelError
from perfmodel.layers.blocks.block import Block
from perfmodel.units import si

ELEMENT_BYTES: Final = 2
CHANNEL_MULTIPLE: Final = 8
"""Sixteen bytes of a half type: what the kernels read at once."""
LARGEST_EXPANSION: Final = 8
LARGEST_PIXELS: Final = 2**31 - 1

DType = Literal["fp16", "bf16"]
DTYPES: Final[tuple[DType, ...]] = get_args(DType)


class GpuError(PerfmodelError):
    """What keeps a kernel from running here: no GPU, no CuPy, an old driver, an architecture or a problem that no kernel serves."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(ABC):
    """A residual block on an N×H×W×C tensor, its hidden tensor e·C wide; each family adds what else decides the work."""

    family: ClassVar[str]

    N: int
    H: int
    W: int
    C: int
    expansion: int
    dtype: DType = "fp16"

    def __post_init__(self) -> None:
        for name in ("N", "H", "W", "C", "expansion"):
            self.require_positive(name)
        self.require_channels("C")
        if self.expansion > LARGEST_EXPANSION:
            raise GpuError(f"expansion is {self.expansion}; the kernels serve 1 to {LARGEST_EXPANSION}")
        if self.dtype not in DTYPES:
            raise GpuError(f"dtype is {self.dtype}; the kernels serve {' and '.join(DTYPES)}")
        if self.pixels > LARGEST_PIXELS:
            raise GpuError(f"{self.pixels} pixels; the kernels count at most {LARGEST_PIXELS}: split the batch")

    def require_positive(self, name: str) -> None:
        """Raise unless the field is a positive whole number."""
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise GpuError(f"{name} is {value}; a positive whole number is needed")

    def require_channels(self, name: str) -> None:
        """Raise unless the field is a multiple of eight."""
        value = getattr(self, name)
        if value % CHANNEL_MULTIPLE:
            below = value // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
            offer = f"{below} or {below + CHANNEL_MULTIPLE}" if below else f"{CHANNEL_MULTIPLE}"
            raise GpuError(
                f"{name} is {value}, not a multiple of {CHANNEL_MULTIPLE}, which the kernels read at once; pad it to {offer}"
            )

    @property
    def pixels(self) -> int:
        """Of the input, N·H·W."""
        return self.N * self.H * self.W

    @property
    def hidden(self) -> int:
        """Hidden channels, e·C."""
        return self.expansion * self.C

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """N, H, W, C."""
        return (self.N, self.H, self.W, self.C)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """N, H, W, C of the result."""
        return self.input_shape

    @property
    def input_bytes(self) -> int:
        """Footprint of the input."""
        return ELEMENT_BYTES * self.pixels * self.C

    @property
    def output_bytes(self) -> int:
        """Footprint of the output."""
        N, H, W, C = self.output_shape
        return ELEMENT_BYTES * N * H * W * C

    @abstractmethod
    def layers_block(self) -> Block:
        """The same block in the model's terms, from which its MACs and bytes follow."""

    @property
    def suffix(self) -> str:
        """What a family adds to the name."""
        return ""

    @classmethod
    def fields_of_suffix(cls, words: Mapping[str, int]) -> Mapping[str, Any]:
        """What a family adds to the name, read back: letters and number of each word; raises GpuError for one that it does not add."""
        for word in words:
            raise GpuError(f"{cls.family} has no '{word}'")
        return {}

    @property
    def name(self) -> str:
        """One word, for records."""
        return f"{self.family}_e{self.expansion}_{self.dtype}_n{self.N}_c{self.C}_h{self.H}_w{self.W}{self.suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimits:
    """What the choice of a kernel depends on."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_bytes_per_block: int
    """Opt-in maximum."""
    shared_bytes_per_multiprocessor: int
    l2_bytes: int

    def __post_init__(self) -> None:
        for name, least in (
            ("multiprocessors", 1),
            ("shared_bytes_per_block", 0),
            ("shared_bytes_per_multiprocessor", 0),
            ("l2_bytes", 1),
        ):
            if not getattr(self, name) >= least:
                raise GpuError(f"{name} of {self.name} is {getattr(self, name)}; at least {least} is needed")
        if self.compute_capability < (8, 0):
            major, minor = self.compute_capability
            raise GpuError(f"{self.name} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or later")

    @property
    def architecture(self) -> str:
        """As the compiler names it; Hopper's own instructions need the suffix."""
        major, minor = self.compute_capability
        return f"sm_{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")

    @property
    def is_hopper(self) -> bool:
        """Whether kernels of compute capability 9.0 run here; their instructions exist on no other."""
        return self.compute_capability == (9, 0)


def other_channels(problem: Problem, served: Collection[int]) -> str | None:
    """Why a kernel that is written for some numbers of channels does not serve; None where it does."""
    if problem.C in served:
        return None
    *first, last = map(str, served)
    return f"it has {', '.join(first)}{' or ' if first else ''}{last} channels, not {problem.C}"


def hopper_only(problem: Problem, device: DeviceLimits, served: Collection[int] = ()) -> str | None:
    """Why a kernel that uses Hopper's own instructions in fp16, for these numbers of channels, does not serve; None where it does."""
    if not device.is_hopper:
        return f"it needs compute capability 9.0 and this is {'.'.join(map(str, device.compute_capability))}"
    if problem.dtype != "fp16":
        return f"it computes in fp16, not {problem.dtype}"
    return other_channels(problem, served) if served else None


def too_much_shared(device: DeviceLimits, needed_bytes: int, what: str) -> str:
    """The sentence for a kernel whose least shared memory a device does not have."""
    return (
        f"{what} needs {si(needed_bytes, 'B')} of shared memory for each block, and {device.name} has "
        f"{si(device.shared_bytes_per_block, 'B')}; use fewer channels"
    )
