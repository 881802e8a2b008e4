"""DRAM traffic of a fused block against the local memory it may use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import Shape
from perfmodel.layers.element import element_bytes
from perfmodel.layers.graph import GraphBuilder
from perfmodel.precision import Precision
from perfmodel.schedule import kernels
from perfmodel.tiling import Candidates, Machine, candidates

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityCurve:
    """The least DRAM traffic of a block that each amount of local memory allows: a staircase down to the compulsory traffic."""

    block: Block
    shape: Shape
    """Of its input."""
    precision: Precision
    local_bytes: Array
    """Amounts at which the traffic falls, rising; below the first one nothing fits."""
    dram_bytes: Array
    """The traffic from that amount on."""
    unfused_bytes: float
    """Traffic of the same block on schedule `layer`."""
    compulsory_bytes: float
    """The least with any amount: each input, weight and output once, and what a global mean forces through DRAM."""

    def at(self, capacity_bytes: float) -> float | None:
        """The least traffic with that much local memory; None where nothing fits."""
        index = int(np.searchsorted(self.local_bytes, capacity_bytes, side="right")) - 1
        return None if index < 0 else float(self.dram_bytes[index])


def capacity_curve(block: Block, shape: Shape, *, dtype: str = "fp16", cache_bytes: float = np.inf) -> CapacityCurve:
    """The curve of `block` on an input of `shape`; weights that are loaded again come from a cache of `cache_bytes` where they fit it.

    Raises FusionError where the block has no fused form, ShapeError where the input does not fit.
    """
    precision = Precision(dtype=dtype)
    builder = GraphBuilder()
    builder.block(block, builder.input(shape), name=block.kind)
    graph = builder.graph()
    layers = [name for name, node in graph.nodes.items() if node.block is not None]
    machine = Machine(processors=1, local_bytes=np.inf, cache_bytes=cache_bytes, peak_ops_per_s=1.0, bandwidth_bytes_per_s=1.0)
    found = candidates(graph, layers, machine, element_bytes=element_bytes(precision.storage), name=block.kind)
    steps = [_staircase(costed) for costed in found]
    amounts = np.unique(np.concatenate([local for local, _ in steps]))
    amounts = amounts[amounts >= max(local[0] for local, _ in steps)]
    total = sum((dram[np.searchsorted(local, amounts, side="right") - 1] for local, dram in steps), np.zeros(len(amounts)))
    keep = np.concatenate([[True], np.diff(total) < 0])
    unfused = sum((kernel.cost for kernel in kernels(graph, precision)), Cost())
    return CapacityCurve(
        block=block,
        shape=shape,
        precision=precision,
        local_bytes=amounts[keep],
        dram_bytes=total[keep],
        unfused_bytes=float(unfused.dram_bytes),
        compulsory_bytes=float(total[-1]),
    )


def _staircase(costed: Candidates) -> tuple[Array, Array]:
    """(local memory, least traffic with at most that much) of one program's tilings, by rising local memory."""
    order = np.lexsort((costed.dram_bytes, costed.local_bytes))
    local, dram = costed.local_bytes[order], np.minimum.accumulate(costed.dram_bytes[order])
    first = np.concatenate([[True], np.diff(dram) < 0])
    return local[first], dram[first]
