"""Residual blocks found by structure: a built-in network stripped of its blocks and names gets them back."""

from dataclasses import replace

import pytest

from perfmodel.hardware.catalog import load
from perfmodel.importers.blocks import find_blocks
from perfmodel.layers.activation import Activation
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder, Tensor
from perfmodel.networks import catalog
from perfmodel.precision import Precision
from perfmodel.schedule import kernels
from tests.small_networks import small_block


def stripped(graph: Graph, *, folded: bool = False) -> Graph:
    """The same layers under numbers for names, in no block; `folded` puts norms into the biases of their convolutions."""
    builder = GraphBuilder()
    made: dict[str, Tensor] = {}
    for number, node in enumerate(graph.nodes.values()):
        inputs = [Tensor(name=made[n].name, shape=s) for n, s in zip(node.inputs, node.input_shapes, strict=True)]
        layer = node.layer
        if folded and isinstance(layer, BatchNorm):
            made[node.name] = made[node.inputs[0]]
            continue
        if folded and isinstance(layer, Conv2d) and any(isinstance(r.layer, BatchNorm) for r in graph.consumers[node.name]):
            fields = {name: getattr(layer, name) for name in ("in_channels", "out_channels", "kernel", "stride", "padding")}
            layer = Conv2d(**fields, group_width=layer.group_width, bias=True)
        made[node.name] = builder.add(layer, *inputs, name=f"n{number}")
    return builder.graph()


def plain(block: Block) -> Block:
    """The block with its defaults spelled out: a squeeze-and-excitation's activation is the block's own where none is given."""
    if getattr(block, "se_channels", None) and getattr(block, "se_activation", "") is None:
        return replace(block, se_activation=block.activation)  # type: ignore[call-arg,attr-defined]
    return block


def blocks_of(graph: Graph) -> list[tuple[Block, int]]:
    """Each block with the number of its layers, in order."""
    return [(block, sum(node.block == name for node in graph.nodes.values())) for name, block in graph.blocks.items()]


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenetv3_small_100", "efficientnetv2_s", "convnext_atto", "regnety_004"]
)
def test_a_network_gets_its_blocks_back(name: str) -> None:
    graph = catalog.build(name).graph
    found = find_blocks(stripped(graph))
    assert blocks_of(found) == blocks_of(graph)
    for schedule in ("eager", "layer"):
        ours, theirs = (kernels(g, Precision(), schedule) for g in (found, graph))
        assert [(k.kind, k.cost) for k in ours] == [(k.kind, k.cost) for k in theirs]


def with_block(kind: str, *, after: str | None = None, extra_reader: bool = False) -> Graph:
    builder = GraphBuilder()
    x = builder.conv_norm(builder.input(Shape(2, 3, 16, 16)), 8, kernel=3, activation="silu", name="stem")
    y = builder.block(small_block(kind), x, name="block")
    if after:
        builder.add(Activation(function=after), y, name="after")
    if extra_reader:
        inner = next(node for node in builder.graph().nodes.values() if node.block == "block")
        builder.add(Activation(function="tanh"), Tensor(name=inner.name, shape=inner.shape), name="spy")
    return builder.graph()


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_kind_of_block_is_found(kind: str) -> None:
    graph = with_block(kind)
    (block,) = graph.blocks.values()
    found = find_blocks(stripped(graph))
    assert list(found.blocks.values()) == [plain(block)]


@pytest.mark.parametrize("kind", BLOCKS)
def test_norms_may_be_folded_already(kind: str) -> None:
    graph = with_block(kind)
    folded = find_blocks(stripped(graph, folded=True))
    (block,) = graph.blocks.values()
    assert list(folded.blocks.values()) == [plain(block)]
    device = load("h200")
    ours, theirs = (kernels(g, Precision(), "block", device=device) for g in (folded, graph))
    assert [(k.kind, k.cost) for k in ours] == [(k.kind, k.cost) for k in theirs]


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_whose_inner_tensor_is_read_elsewhere_is_none(kind: str) -> None:
    found = find_blocks(stripped(with_block(kind, extra_reader=True)))
    assert kind not in {block.kind for block in found.blocks.values()}


def test_a_network_without_blocks_is_left_as_it_is() -> None:
    graph = catalog.build("vgg16").graph
    assert find_blocks(graph) is graph


def test_blocks_are_named_after_their_module_where_it_holds_nothing_else() -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(1, 8, 8, 8))
    with builder.scope("layer1.0"):
        y = builder.conv_norm(x, 8, kernel=3, activation="relu", name="conv1", norm_name="bn1")
        y = builder.conv_norm(y, 8, kernel=3, name="conv2", norm_name="bn2")
        x = builder.activation(builder.residual(y, x), "relu")
    builder.conv(x, 4, name="head")
    assert list(find_blocks(builder.graph()).blocks) == ["layer1.0"]
