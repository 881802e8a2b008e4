"""Which element type every tensor has: one type throughout, or what automatic mixed precision leaves on each edge."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.units import text

STORED_AS: Final = MappingProxyType(
    {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8", "fp8": "fp8"}
)
"""Types a network can run in, and the type its tensors are stored in."""

AUTOCAST_TYPES: Final = ("fp16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The types of a network: `dtype` throughout; or, with `autocast`, fp32 parameters with matrix products in the autocast type.

    Automatic mixed precision follows PyTorch: convolutions and matrix products cast their operands; softmax runs in fp32; elementwise
    operations take the widest of their operands; layer norm runs in the autocast type, as timm's benchmarks have it (`--fast-norm`).
    """

    dtype: str = "fp16"
    autocast: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in STORED_AS:
            raise UnknownNameError("data type", self.dtype, STORED_AS)
        if self.autocast is None:
            return
        if self.autocast not in AUTOCAST_TYPES:
            raise UnknownNameError("autocast type", self.autocast, AUTOCAST_TYPES)
        if self.dtype != "fp32":
            raise PerfmodelError(
                f"autocast runs an fp32 network, so it cannot be combined with the type {self.dtype}; leave the type out"
            )

    @classmethod
    def of(cls, dtype: str | None, autocast: str | None) -> Precision:
        """From what a user gave: fp16 by default, fp32 under autocast."""
        precise = None if autocast is None else text("autocast", autocast)
        default = "fp16" if precise is None else "fp32"
        return cls(dtype=default if dtype is None else text("dtype", dtype), autocast=precise)

    @property
    def matrix(self) -> str:
        """The type that the matrix unit multiplies in: which of a machine's peaks counts."""
        return self.autocast or self.dtype

    @property
    def matrix_storage(self) -> str:
        """The type in which operands and results of convolutions and matrix products are stored."""
        return STORED_AS[self.matrix]

    @property
    def storage(self) -> str:
        """The type of the network's input."""
        return STORED_AS[self.dtype]

    @property
    def parameter(self) -> str:
        """The type of biases and of norms' and scales' parameters; 8-bit networks keep these in fp32."""
        return "fp32" if self.storage in ("int8", "fp8") else self.storage

    def __str__(self) -> str:
        return f"autocast {self.autocast}" if self.autocast else self.dtype
