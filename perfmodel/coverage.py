"""How much of an imported network is understood: the part of its operations, MACs and bytes that rules were found for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.kernel import Kernel
from perfmodel.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Counts of a network's layers and of the bytes that its kernels move.

    An operation that is not understood is a kernel of its own that reads its inputs and writes its outputs. Its arithmetic is counted as
    none, so where there is one the MACs are those of what is understood, and nobody knows which part of all MACs that is.
    """

    operations: int
    """Layers that do something: views, inputs and parameters are not counted."""
    unsupported_operations: int
    macs: int
    """MACs of what is understood."""
    bytes_fraction: float
    """DRAM bytes of kernels that are understood, of all; exact."""

    @property
    def macs_fraction(self) -> float | None:
        """1 where every operation is understood; None where one is not, since its MACs are unknown."""
        return None if self.unsupported_operations else 1.0

    @classmethod
    def of(cls, network: Network, kernels: Sequence[Kernel]) -> Coverage:
        """The coverage of a network that was cut into these kernels."""
        unknown = {node.name for node in network.unsupported}
        moved = sum(int(kernel.cost.dram_bytes) for kernel in kernels)
        not_understood = sum(int(kernel.cost.dram_bytes) for kernel in kernels if unknown.intersection(kernel.layers))
        return cls(
            operations=sum(node.layer.role not in ("input", "view") for node in network.graph.nodes.values()),
            unsupported_operations=len(unknown),
            macs=int(network.macs),
            bytes_fraction=1.0 if not moved else 1.0 - not_understood / moved,
        )

    def __str__(self) -> str:
        understood = self.operations - self.unsupported_operations
        if not self.unsupported_operations:
            return f"all {self.operations} operations understood: 100 % of the MACs and of the bytes"
        return (
            f"{understood} of {self.operations} operations understood: they move {100 * self.bytes_fraction:.4g} % of the bytes; "
            f"the MACs of the other {self.unsupported_operations} are unknown and counted as none"
        )
