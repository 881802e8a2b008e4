"""A kernel: one launch, the tensors it moves, and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perfmodel.layers.cost import Cost
from perfmodel.lowering import Access, Operation

NOT_FUSED: Final = "not fused: "
"""How the `tiling` of a kernel starts that kept schedule `layer`; the reason follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One launch: the operations it carries out, the tensors it reads and writes in DRAM, and their cost."""

    name: str
    kind: str
    layers: tuple[str, ...]
    block: str | None
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    cost: Cost
    """Its bytes are the sum over `reads` and `writes`, exactly."""
    tiling: str | None = None
    """How a fused program walks the image, and why; None for a kernel that is not one."""
    operations: tuple[Operation, ...] = ()
    """The steps it carries out, in order; none for a fused program, whose steps are its own."""
