"""What a piece of work costs, on no particular machine: one frozen record that adds and scales, symbolic or numeric alike."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from perfmodel.layers.dims import maximum

OPS_PER_MAC = 2
"""A multiply-accumulate is one multiplication and one addition. The only place where MACs become ops."""

Quantity = Any
"""int | float | numpy.ndarray | sympy.Expr: sympy has no type information, so the checker can hold no more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Arithmetic and DRAM traffic of a kernel, a layer, a block or a network.

    `Cost()` is zero; `+` adds every field except `workspace_bytes`, of which it keeps the maximum (workspaces of kernels that run one
    after the other are not held together); `*` repeats the work.
    """

    macs: Quantity = 0
    """Multiply-accumulates of convolutions and matrix products."""
    vector_ops: Quantity = 0
    """Additions, multiplications, comparisons of everything else (a fused multiply-add is two)."""
    special_ops: Quantity = 0
    """Evaluations of a transcendental function (exp, tanh, erf, reciprocal, reciprocal square root)."""
    read_activation_bytes: Quantity = 0
    read_weight_bytes: Quantity = 0
    read_halo_bytes: Quantity = 0
    """Input bytes read more than once because neighbouring tiles need the same pixels."""
    written_activation_bytes: Quantity = 0
    written_weight_bytes: Quantity = 0
    """Copies of weights that a framework makes on the way (a cast to another type)."""
    workspace_bytes: Quantity = 0
    """Local memory held at once."""

    def __add__(self, other: Cost) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost) if f.name != "workspace_bytes"}
        return Cost(**total, workspace_bytes=maximum(self.workspace_bytes, other.workspace_bytes))

    def __radd__(self, other: object) -> Cost:
        return self if other == 0 else NotImplemented  # sum() starts from 0

    def __mul__(self, times: Quantity) -> Cost:
        scaled = {f.name: getattr(self, f.name) * times for f in fields(Cost) if f.name != "workspace_bytes"}
        return Cost(**scaled, workspace_bytes=self.workspace_bytes)

    __rmul__ = __mul__

    @property
    def ops(self) -> Quantity:
        """Operations of the matrix unit: 2 · MACs."""
        return OPS_PER_MAC * self.macs

    @property
    def dram_bytes_read(self) -> Quantity:
        """Bytes read from device memory."""
        return self.read_activation_bytes + self.read_weight_bytes + self.read_halo_bytes

    @property
    def dram_bytes_written(self) -> Quantity:
        """Bytes written to device memory."""
        return self.written_activation_bytes + self.written_weight_bytes

    @property
    def dram_bytes(self) -> Quantity:
        """DRAM traffic: bytes read and written."""
        return self.dram_bytes_read + self.dram_bytes_written

    @property
    def operational_intensity(self) -> Quantity:
        """Ops per DRAM byte; 0 where nothing is moved."""
        if isinstance(self.dram_bytes, int | float) and self.dram_bytes == 0:
            return 0.0
        return self.ops / self.dram_bytes
