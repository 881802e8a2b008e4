"""The same imported network at another batch size, without exporting it again."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Node
from perfmodel.layers.layer import Layer
from perfmodel.layers.parameter import Parameter
from perfmodel.network import Network

TRACED_BATCH: Final = 13
"""A batch that is exported to be changed: a prime that is no extent of a network, so that whatever it divides came from the batch."""


def rebatched(network: Network, batch: int) -> Network:
    """`network`, which was imported at TRACED_BATCH, for `batch` images.

    In each shape the extent that holds the images is scaled: the first, or all there is of a tensor that is counted flat.

    Raises ValueError for a network of another batch.
    """
    if network.batch != TRACED_BATCH:
        raise ValueError(f"only a network of batch {TRACED_BATCH} can be rebatched, not one of {network.batch}")

    def shape(old: Shape) -> Shape:
        if old.N % TRACED_BATCH == 0:
            return old._replace(N=old.N // TRACED_BATCH * batch)
        flat = old.N == old.H == old.W == 1 and old.C % TRACED_BATCH == 0
        return old._replace(C=old.C // TRACED_BATCH * batch) if flat else old

    def layer(old: Layer) -> Layer:
        if isinstance(old, Parameter):
            return old
        changed: dict[str, Any] = {
            field.name: shape(value) for field in fields(old) if isinstance(value := getattr(old, field.name), Shape)
        }
        return replace(old, **changed) if changed else old

    def node(old: Node) -> Node:
        own = old.shape if isinstance(old.layer, Parameter) else shape(old.shape)
        inputs = tuple(
            given if isinstance(network.graph.nodes[name].layer, Parameter) else shape(given)
            for name, given in zip(old.inputs, old.input_shapes, strict=True)
        )
        return replace(old, layer=layer(old.layer), input_shapes=inputs, shape=own)

    nodes = {name: node(old) for name, old in network.graph.nodes.items()}
    return replace(network, graph=replace(network.graph, nodes=nodes), batch=batch)
