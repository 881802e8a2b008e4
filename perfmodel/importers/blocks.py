"""Residual blocks by their structure: layers that are, node for node, what one of the known blocks would have built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, Multiply, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.conv_residual import ConvResidual
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.convnext import ConvNeXtBlock
from perfmodel.layers.blocks.mbconv import DepthwiseSeparable, FusedMBConv, MBConv
from perfmodel.layers.blocks.residual import BasicBlock, Bottleneck, RegNetYBlock, ResNeXtBlock
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder, Node, Tensor
from perfmodel.layers.layer import ShapeError
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import GlobalAveragePool

_NAME = "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gate:
    """A squeeze-and-excitation."""

    channels: int
    activation: str
    gate: str
    linear: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """A convolution with the norm, the activation and the gate behind it."""

    conv: Conv2d
    folded: bool
    """Its norm is in its bias."""
    activation: str | None
    se: _Gate | None

    @property
    def kernel(self) -> int:
        return self.conv.kernel[0]

    @property
    def is_pointwise(self) -> bool:
        return self.conv.conv_class == "pointwise_conv" and self.conv.stride == (1, 1)

    @property
    def is_grouped(self) -> bool:
        return bool(self.conv.group_width != self.conv.in_channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A block in a graph: which layer of the graph is which of the block's."""

    block: Block
    folded: bool
    source: str
    layers: dict[str, str]
    """Name in the graph → name in the block."""


def find_blocks(graph: Graph) -> Graph:
    """The same graph with residual blocks known as such; their layers take the names that they have in the block.

    A block is named after the module that all its layers are in, where there is one and it holds no other block.
    """
    found: list[_Found] = []
    taken: dict[str, _Found] = {}
    for node in graph.nodes.values():
        if node.name in taken or not isinstance(node.layer, Conv2d):
            continue
        for block, folded in _proposals(graph, node):
            match = _matched(graph, block, folded, node.inputs[0], node.input_shapes[0], taken)
            if match is not None:
                found.append(match)
                taken.update(dict.fromkeys(match.layers, match))
                break
    return _rebuilt(graph, taken) if found else graph


# -- what a block could be ---------------------------------------------------------------------------------------------


def _only(graph: Graph, node: Node) -> Node | None:
    readers = graph.consumers[node.name]
    return readers[0] if len(readers) == 1 else None


def _gate_after(graph: Graph, node: Node) -> tuple[_Gate, Node] | None:
    """The squeeze-and-excitation of `node`'s output and the product that applies it."""
    readers = graph.consumers[node.name]
    mean = next((reader for reader in readers if isinstance(reader.layer, GlobalAveragePool)), None)
    product = next((reader for reader in readers if isinstance(reader.layer, Multiply)), None)
    if len(readers) != 2 or mean is None or product is None:
        return None
    inner: list[Node] = [mean]
    while len(inner) <= 4:
        following = _only(graph, inner[-1])
        if following is None:
            return None
        inner.append(following)
    _, reduce, act, expand, gate = inner
    if _only(graph, gate) is not product or not isinstance(act.layer, Activation) or not isinstance(gate.layer, Activation):
        return None
    if not isinstance(reduce.layer, Conv2d | Linear) or type(expand.layer) is not type(reduce.layer):
        return None
    found = _Gate(
        channels=reduce.layer.out_channels,
        activation=act.layer.function,
        gate=gate.layer.function,
        linear=isinstance(reduce.layer, Linear),
    )
    return found, product


def _units(graph: Graph, start: Node) -> list[_Unit]:
    """Up to three convolutions in a row, from `start` on, each with its norm."""
    units: list[_Unit] = []
    node: Node | None = start
    normed: Node | None
    while node is not None and isinstance(node.layer, Conv2d) and len(units) < 3:
        conv = node.layer
        normed = _only(graph, node)
        if normed is not None and isinstance(normed.layer, BatchNorm):
            node = normed
        elif not conv.bias:
            break
        following = _only(graph, node)
        folded, activation = node is not normed, None
        if following is not None and isinstance(following.layer, Activation):
            activation, node = following.layer.function, following
        gate = _gate_after(graph, node)
        if gate is not None:
            node = gate[1]
        units.append(_Unit(conv=conv, folded=folded, activation=activation, se=None if gate is None else gate[0]))
        node = _only(graph, node)
    return units


def _proposals(graph: Graph, start: Node) -> Iterator[tuple[Block, bool]]:
    """Blocks whose first convolution could be `start`, those with more layers first, and whether their norms are folded."""
    units = _units(graph, start)
    folded = bool(units) and units[0].folded
    for block in _blocks_of(graph, start, units):
        yield block, folded


def _blocks_of(graph: Graph, start: Node, units: list[_Unit]) -> Iterator[Block]:
    channels = start.input_shapes[0].C
    if len(units) >= 3:
        yield from _of_three(channels, *units[:3])
    if len(units) >= 2:
        yield from _of_two(channels, *units[:2])
    if units and units[0].activation and not units[0].is_grouped and channels == units[0].conv.out_channels:
        yield ConvResidual(
            in_channels=channels,
            out_channels=channels,
            kernel=units[0].kernel,
            activation=units[0].activation,
        )
    yield from _convnext(graph, start)


def _of_three(channels: int, first: _Unit, second: _Unit, third: _Unit) -> Iterator[Block]:
    out, hidden, stride = third.conv.out_channels, first.conv.out_channels, second.conv.stride[0]
    if not third.is_pointwise:
        return
    if first.is_grouped and not first.activation and second.is_pointwise and second.activation:
        yield ConvFirst(
            in_channels=channels,
            out_channels=out,
            stride=first.conv.stride[0],
            hidden_channels=second.conv.out_channels,
            kernel=first.kernel,
            group_width=first.conv.group_width,
            activation=second.activation,
        )
    if not first.is_pointwise or not first.activation or first.activation != second.activation:
        return
    se = second.se
    kind = (RegNetYBlock if se else ResNeXtBlock) if second.is_grouped or (se and hidden == out) else Bottleneck
    yield kind(
        in_channels=channels,
        out_channels=out,
        stride=stride,
        hidden_channels=hidden,
        group_width=second.conv.group_width if second.is_grouped else None,
        se_channels=se.channels if se else None,
        se_linear=bool(se and se.linear),
    )
    if second.is_grouped:
        yield MBConv(
            in_channels=channels,
            out_channels=out,
            stride=stride,
            hidden_channels=hidden,
            kernel=second.kernel,
            group_width=second.conv.group_width,
            activation=first.activation,
            se_channels=se.channels if se else None,
            se_activation=se.activation if se else None,
            se_gate=se.gate if se else "sigmoid",
            se_linear=bool(se and se.linear),
        )


def _of_two(channels: int, first: _Unit, second: _Unit) -> Iterator[Block]:
    out, stride, se = second.conv.out_channels, first.conv.stride[0], first.se
    if first.activation == "relu" and not first.is_grouped and not se and not second.is_grouped and second.kernel == 3:
        yield BasicBlock(in_channels=channels, out_channels=out, stride=stride)
    if not first.activation or second.activation or not second.is_pointwise:
        return
    fields = {
        "in_channels": channels,
        "out_channels": out,
        "stride": stride,
        "hidden_channels": first.conv.out_channels,
        "kernel": first.kernel,
        "activation": first.activation,
        "se_channels": se.channels if se else None,
        "se_activation": se.activation if se else None,
        "se_gate": se.gate if se else "sigmoid",
        "se_linear": bool(se and se.linear),
    }
    if first.conv.conv_class == "depthwise_conv":
        yield DepthwiseSeparable(**fields)
    elif first.conv.conv_class == "conv":
        yield FusedMBConv(**fields)


def _convnext(graph: Graph, start: Node) -> Iterator[Block]:
    following: list[Node] = []
    node = _only(graph, start)
    while node is not None and len(following) < 6:
        following.append(node)
        node = _only(graph, node)
    if len(following) < 6:
        return
    norm, first, _act, second, scale, add = following
    if not isinstance(norm.layer, LayerNorm) or not isinstance(scale.layer, Scale) or not isinstance(add.layer, Add):
        return
    if isinstance(first.layer, Conv2d | Linear) and type(second.layer) is type(first.layer) and isinstance(start.layer, Conv2d):
        yield ConvNeXtBlock(
            in_channels=start.layer.in_channels,
            out_channels=start.layer.in_channels,
            hidden_channels=first.layer.out_channels,
            kernel=start.layer.kernel[0],
            conv_mlp=isinstance(first.layer, Conv2d),
        )


# -- whether it is -----------------------------------------------------------------------------------------------------


@cache
def _template(block: Block, shape: Shape, folded: bool) -> Graph | None:
    """What the block builds, or None where it cannot read such an image."""
    builder = GraphBuilder()
    try:
        builder.block(block, builder.input(shape), name=_NAME, norms_folded=folded)
        return builder.graph()
    except ShapeError:
        return None


def _matched(graph: Graph, block: Block, folded: bool, source: str, shape: Shape, taken: dict[str, _Found]) -> _Found | None:
    """Where the block is in the graph, reading `source`; None if it is not there, or if something else reads its inner tensors."""
    template = _template(block, shape, folded)
    if template is None:
        return None
    pattern = [node for node in template.nodes.values() if node.layer.role != "input"]
    entry = next(name for name, node in template.nodes.items() if node.layer.role == "input")
    places: dict[str, str] = {entry: source}
    if not _placed(graph, pattern, 0, places, taken):
        return None
    layers = {there: here for here, there in places.items() if here != entry}
    (end,) = template.outputs
    output = places[end]
    for name in layers:
        if name != output and any(reader.name not in layers for reader in graph.consumers[name]):
            return None
    last, readers = graph.nodes[output].layer, graph.consumers[output]
    if len(readers) == 1 and not isinstance(last, Activation):
        if isinstance(readers[0].layer, Activation):
            return None  # no block ends before its last activation
        if isinstance(readers[0].layer, Add) and not isinstance(last, Add):
            return None  # a branch that is added to another: not one of these blocks
    return _Found(block=block, folded=folded, source=source, layers=layers)


def _placed(graph: Graph, pattern: list[Node], index: int, places: dict[str, str], taken: dict[str, _Found]) -> bool:
    """Find a place for the block's layers from `index` on, by trying every reader of what they read."""
    if index == len(pattern):
        return True
    wanted = pattern[index]
    inputs = [places[name] for name in wanted.inputs]
    for node in graph.consumers[inputs[0]]:
        same = list(node.inputs) == inputs or (isinstance(wanted.layer, Add) and list(node.inputs) == inputs[::-1])
        if not same or node.layer != wanted.layer or node.name in taken or node.name in places.values():
            continue
        places[wanted.name] = node.name
        if _placed(graph, pattern, index + 1, places, taken):
            return True
        del places[wanted.name]
    return False


def _rebuilt(graph: Graph, taken: dict[str, _Found]) -> Graph:
    builder = GraphBuilder()
    names: dict[str, str] = {}
    homes = _homes(graph, taken)
    done: set[int] = set()
    for node in graph.nodes.values():
        match = taken.get(node.name)
        if match is None:
            inputs = [Tensor(name=names[n], shape=s) for n, s in zip(node.inputs, node.input_shapes, strict=True)]
            names[node.name] = builder.add(node.layer, *inputs, name=node.name).name
        elif id(match) not in done:
            done.add(id(match))
            home = homes[id(match)]
            shape = next(n.input_shapes[0] for n in map(graph.nodes.__getitem__, match.layers) if match.source in n.inputs)
            builder.block(match.block, Tensor(name=names[match.source], shape=shape), name=home, norms_folded=match.folded)
            names.update({there: f"{home}.{here.removeprefix(f'{_NAME}.')}" for there, here in match.layers.items()})
    origins = {name: there for there, name in names.items() if name != there}
    return replace(builder.graph(), origins=origins)


def _homes(graph: Graph, taken: dict[str, _Found]) -> dict[int, str]:
    """A name for each block: the module that holds all its layers and nothing else, or a number."""
    blocks = list({id(match): match for match in taken.values()}.values())
    shared: dict[str, int] = {}
    for name in graph.nodes:
        parts = name.split(".")
        for length in range(1, len(parts)):
            prefix = ".".join(parts[:length])
            shared[prefix] = shared.get(prefix, 0) + 1
    homes: dict[int, str] = {}
    for number, match in enumerate(blocks):
        paths = [name.split(".")[:-1] for name in match.layers]
        common = [items[0] for items in zip(*paths, strict=False) if len(set(items)) == 1]
        home = ".".join(_leading(paths)) if common else ""
        if not home or shared.get(home, 0) != len(match.layers) or home in homes.values():
            home = f"{_NAME}{number}"
        homes[id(match)] = home
    return homes


def _leading(paths: list[list[str]]) -> list[str]:
    """The parts that all paths begin with."""
    leading: list[str] = []
    for items in zip(*paths, strict=False):
        if len(set(items)) > 1:
            break
        leading.append(items[0])
    return leading
