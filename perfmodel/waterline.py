"""The waterline: latency of a sequence of kernels, each held by arithmetic or by memory; and the roofline of their totals.

One kernel takes max(ops / peak, bytes / bandwidth). A sequence takes the sum over its kernels. A single roofline on the totals would let
compute-bound kernels hide memory-bound ones that run before or after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perfmodel.hardware.spec import DeviceSpec, Peak
from perfmodel.kernel import Kernel
from perfmodel.layers.cost import Quantity
from perfmodel.layers.dims import maximum

Bound = Literal["arithmetic", "memory", "rate", "launch"]
"""What holds a kernel. The waterline knows the first two; `rate` (elements, rows or special functions per clock) and `launch` (the time
before the kernel exceeds its own) come from tier `expected`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The two rates that hold a kernel, and how many of its bytes a cache may save it."""

    peak_ops_per_s: float
    bandwidth_bytes_per_s: float
    cached_bytes: float = 0.0
    """Bytes per kernel that need not touch DRAM: 0 on the waterline, one cache in a lower bound."""

    @property
    def op_byte_ratio(self) -> float:
        """Operational intensity at which a kernel passes from memory-bound to compute-bound: the height of the waterline."""
        return self.peak_ops_per_s / self.bandwidth_bytes_per_s

    @classmethod
    def waterline(cls, device: DeviceSpec, peak: Peak) -> Limits:
        """Datasheet peak, and every byte from DRAM."""
        return cls(peak_ops_per_s=peak.ops_per_s, bandwidth_bytes_per_s=device.memory.dram_bandwidth_bytes_per_s)

    @classmethod
    def bound(cls, device: DeviceSpec, peak: Peak) -> Limits:
        """What no honest measurement undercuts: the peak at the highest clock, and each kernel's bytes lowered by one cache.

        Clocks exceed the one that a datasheet's peak is quoted at, and what the kernel before wrote may still be in the cache. Raises
        HardwareError naming the figure where the device has no highest clock or no cache size.
        """
        return cls(
            peak_ops_per_s=device.highest_ops_per_s(peak),
            bandwidth_bytes_per_s=device.memory.highest_bandwidth_bytes_per_s,
            cached_bytes=device.memory.largest_cache_bytes or device.require("memory.l2_bytes"),
        )

    def arithmetic_s(self, ops: Quantity) -> Quantity:
        """Time of the arithmetic alone."""
        return ops / self.peak_ops_per_s

    def memory_s(self, dram_bytes: Quantity) -> Quantity:
        """Time of the DRAM traffic alone."""
        return maximum(dram_bytes - self.cached_bytes, 0.0) / self.bandwidth_bytes_per_s

    def latency_s(self, ops: Quantity, dram_bytes: Quantity) -> Quantity:
        """Roofline of one kernel, max(ops / peak, bytes / bandwidth); numbers or arrays of them."""
        return maximum(self.arithmetic_s(ops), self.memory_s(dram_bytes))


def waterline_s(limits: Limits, kernels: Sequence[tuple[Quantity, Quantity]]) -> Quantity:
    """Σ max(opsᵢ / peak, bytesᵢ / bandwidth) over (ops, bytes) of kernels that run one after the other; numbers or arrays."""
    return sum(limits.latency_s(ops, dram_bytes) for ops, dram_bytes in kernels)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """A kernel on a machine: how long, and which of the two held it."""

    kernel: Kernel
    arithmetic_s: float
    memory_s: float
    rate_s: float = 0.0
    """Held by elements, rows or special functions per clock; tier `expected`."""
    exposed_s: float = 0.0
    """Of the shorter of arithmetic and memory, what the longer does not hide; tier `expected`."""
    gap_s: float = 0.0
    """What passes before the kernel starts; tier `expected`."""
    path: str | None = None
    """How the software stack carries it out; tier `expected`."""
    diagnosis: str | None = None
    """Why it is slow for its size, where a rule names it; tier `expected`."""

    @property
    def kernel_s(self) -> float:
        """From its start to its end: the longest of what holds it, and what that does not hide."""
        return max(self.arithmetic_s, self.memory_s, self.rate_s) + self.exposed_s

    @property
    def latency_s(self) -> float:
        """Its share of the network's latency."""
        return self.kernel_s + self.gap_s

    @property
    def bound_by(self) -> Bound:
        """What holds it; a tie is the arithmetic's, since more bandwidth would not help."""
        if self.gap_s > self.kernel_s:
            return "launch"
        if self.rate_s > max(self.arithmetic_s, self.memory_s):
            return "rate"
        return "memory" if self.memory_s > self.arithmetic_s else "arithmetic"


def kernel_times(kernels: Sequence[Kernel], limits: Limits) -> tuple[KernelTime, ...]:
    """Each kernel's two times under `limits`, in order."""
    return tuple(
        KernelTime(
            kernel=kernel,
            arithmetic_s=float(limits.arithmetic_s(kernel.cost.ops)),
            memory_s=float(limits.memory_s(kernel.cost.dram_bytes)),
        )
        for kernel in kernels
    )
