"""What a fused kernel is asked to do, on what kind of device, and how much work that is: records, and nothing that needs a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from perfmodel.errors import PerfmodelError
from perfmodel.units import si

GROUP_WIDTH: Final = 8
ELEMENT_BYTES: Final = 2
LARGEST_EXPANSION: Final = 8
LARGEST_PIXELS: Final = 2**31 - 1

DType = Literal["fp16", "bf16"]
DTYPES: Final[tuple[DType, ...]] = get_args(DType)


class GpuError(PerfmodelError):
    """What keeps a kernel from running here: no GPU, no CuPy, an old driver, an architecture or a problem that no kernel serves."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One ConvFirst block: grouped 3×3 of width 8 → expand → SiLU → project → + input, stride 1, on an N×H×W×C tensor.

    >>> Problem(N=128, H=56, W=56, C=64, expansion=4).name
    'convfirst_e4_fp16_n128_c64_h56_w56'
    """

    N: int
    H: int
    W: int
    C: int
    expansion: int
    dtype: DType = "fp16"

    def __post_init__(self) -> None:
        for name in ("N", "H", "W", "C", "expansion"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise GpuError(f"{name} is {getattr(self, name)}; a positive whole number is needed")
        if self.C % GROUP_WIDTH:
            below = self.C // GROUP_WIDTH * GROUP_WIDTH
            offer = f"{below} or {below + GROUP_WIDTH}" if below else f"{GROUP_WIDTH}"
            raise GpuError(
                f"C is {self.C}, not a multiple of {GROUP_WIDTH}, the group width of the convolution; pad it to {offer}"
            )
        if self.expansion > LARGEST_EXPANSION:
            raise GpuError(f"expansion is {self.expansion}; the kernels serve 1 to {LARGEST_EXPANSION}")
        if self.dtype not in DTYPES:
            raise GpuError(f"dtype is {self.dtype}; the kernels serve {' and '.join(DTYPES)}")
        if self.pixels > LARGEST_PIXELS:
            raise GpuError(f"{self.pixels} pixels; the kernels count at most {LARGEST_PIXELS}: split the batch")

    @property
    def pixels(self) -> int:
        """N·H·W."""
        return self.N * self.H * self.W

    @property
    def hidden(self) -> int:
        """Hidden channels, e·C."""
        return self.expansion * self.C

    @property
    def tensor_bytes(self) -> int:
        """Footprint of the input, and of the output: 2·N·H·W·C."""
        return ELEMENT_BYTES * self.pixels * self.C

    @property
    def weight_bytes(self) -> int:
        """Footprint of the weights as the user has them: 2·(9·8·C + 2·e·C²), and biases in fp32."""
        return ELEMENT_BYTES * (9 * GROUP_WIDTH * self.C + 2 * self.hidden * self.C) + 4 * (2 * self.C + self.hidden)

    @property
    def macs(self) -> int:
        """N·H·W·C·(9·8 + 2·e·C)."""
        return self.pixels * self.C * (9 * GROUP_WIDTH + 2 * self.hidden)

    @property
    def name(self) -> str:
        """One word, for records."""
        return f"convfirst_e{self.expansion}_{self.dtype}_n{self.N}_c{self.C}_h{self.H}_w{self.W}"


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
        if self.compute_capability < (8, 0):
            major, minor = self.compute_capability
            raise GpuError(f"{self.name} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or later")

    @property
    def architecture(self) -> str:
        """As the compiler names it; Hopper's own instructions need the suffix."""
        major, minor = self.compute_capability
        return f"sm_{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")


def require_shared(problem: Problem, device: DeviceLimits, needed_bytes: int, what: str) -> None:
    """Raise, with the numbers, where a block of the kernel needs more shared memory than a device has."""
    if needed_bytes > device.shared_bytes_per_block:
        raise GpuError(
            f"{problem.name}: {what} needs {si(needed_bytes, 'B')} of shared memory for each block, and {device.name} has "
            f"{si(device.shared_bytes_per_block, 'B')}; use fewer channels"
        )
