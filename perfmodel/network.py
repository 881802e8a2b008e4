"""A network: a graph of layers under a name, at one batch size and image size."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.layers.dims import Dim
from perfmodel.layers.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a schedule cuts into kernels."""

    name: str
    graph: Graph
    batch: Dim
    resolution: Dim
    """Height and width of the square input image."""

    @property
    def params(self) -> Dim:
        """Trained parameters."""
        return self.graph.params

    @property
    def macs(self) -> Dim:
        """Multiply-accumulates of convolutions and matrix products, whole batch."""
        return self.graph.macs
