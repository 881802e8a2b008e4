"""The network catalogue as tables."""

from __future__ import annotations

from typing import Any

from perfmodel.network import Network
from perfmodel.networks.catalog import build, entries, find
from perfmodel.networks.entry import NetworkEntry
from perfmodel.report.table import Column, Table, count


def catalog_table() -> Table:
    """Every network, at its default image size."""
    columns = (
        Column(key="model", heading="name", right=False),
        Column(key="family", heading="family", right=False),
        Column(key="resolution", heading="image"),
        Column(key="params", heading="parameters", show=lambda value: f"{value:,}"),
        Column(key="macs", heading="MACs", show=count),
        Column(key="top1_percent", heading="top-1 %"),
        Column(key="weights", heading="published weights", right=False),
    )
    return Table(
        title="networks (per image, 1000 classes)", columns=columns, rows=[_listed(entry) for entry in entries().values()]
    )


def _listed(entry: NetworkEntry) -> tuple[Any, ...]:
    network = build(entry.name)
    accuracy = entry.accuracy[0] if entry.accuracy else None
    known = (accuracy.top1_percent, accuracy.weights) if accuracy else (None, None)
    return (entry.name, entry.family, entry.resolution, network.params, network.macs, *known)


def layer_table(name: str, network: Network) -> Table:
    """Every layer of one network, with its shape, parameters and arithmetic."""
    entry = None if network.imported else find(name)
    accuracy = entry.accuracy if entry else ()
    columns = (
        Column(key="layer", heading="layer", right=False),
        Column(key="kind", heading="kind", right=False),
        Column(key="output", heading="output N×C×H×W", right=False),
        Column(key="params", heading="parameters", show=lambda value: f"{value:,}"),
        Column(key="macs", heading="MACs", show=count),
        Column(key="vector_ops", heading="vector ops", show=count),
        Column(key="special_ops", heading="special ops", show=count),
    )
    rows = []
    for node in network.graph.nodes.values():
        counts = network.graph.counts[node.name]
        params = sum(
            elements for weight, elements in zip(node.layer.formula.weights, counts.weights, strict=True) if weight.trained
        )
        rows.append((node.name, node.layer.kind, str(node.shape), params, counts.macs, counts.vector_ops, counts.special_ops))
    published = tuple(
        f"published top-1 {a.top1_percent} % at {a.resolution} ({a.weights}: {a.recipe}; {a.source})" for a in accuracy
    )
    about = (
        entry.description if entry else f"imported; {len(network.graph.blocks)} residual blocks recognised",
        f"{network.params:,} parameters, {count(network.macs)} MACs for {network.batch} × {network.resolution}×{network.resolution}",
    )
    after = (*published, *(f"not understood: {node.layer.describe()} ({node.name})" for node in network.unsupported))
    return Table(title=f"{network.name}, layer by layer", columns=columns, rows=rows, before=about, after=after)
