"""A network: a graph of layers under a name, at one batch size and image size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from perfmodel.errors import PerfmodelError
from perfmodel.layers.dims import Dim
from perfmodel.layers.graph import Graph, Node
from perfmodel.layers.unsupported import Unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a schedule cuts into kernels."""

    name: str
    graph: Graph
    batch: Dim
    resolution: Dim
    """Height and width of the square input image."""
    trained: int | None = None
    """Trained parameters, where they are known otherwise than from the layers: some layers share them, some were folded into others."""
    rebuild: Callable[[int, int], Network] | None = field(default=None, compare=False, repr=False)
    """(batch, resolution) → the network at that size, where it can be had."""

    @property
    def params(self) -> Dim:
        """Trained parameters."""
        return self.graph.params if self.trained is None else self.trained

    @property
    def imported(self) -> bool:
        """Whether it comes from outside of the catalogue."""
        return self.rebuild is not None

    @property
    def unsupported(self) -> tuple[Node, ...]:
        """The nodes that are not understood: their tensors are counted, their arithmetic is not."""
        return tuple(node for node in self.graph.nodes.values() if isinstance(node.layer, Unsupported))

    def at(self, batch: int, resolution: int) -> Network:
        """The network at another batch and image size; raises PerfmodelError where it is fixed to its own."""
        if (batch, resolution) == (self.batch, self.resolution):
            return self
        if self.rebuild is None:
            raise PerfmodelError(
                f"the network {self.name} already has its batch and resolution; build it with others to change them"
            )
        return self.rebuild(batch, resolution)

    @property
    def macs(self) -> Dim:
        """Multiply-accumulates of convolutions and matrix products, whole batch."""
        return self.graph.macs
