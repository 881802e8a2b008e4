"""Graphs of layers: names, shapes, blocks, what they add up to, and what they refuse."""

from dataclasses import dataclass
from typing import ClassVar, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import UnknownNameError
from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, Multiply
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.convnext import ConvNeXtBlock
from perfmodel.layers.blocks.mbconv import DepthwiseSeparable, FusedMBConv, MBConv
from perfmodel.layers.blocks.residual import BasicBlock, Bottleneck
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import C, H, N, Shape, W
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.layer import Layer, ShapeError
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import AveragePool, GlobalAveragePool, MaxPool
from perfmodel.layers.upsample import Upsample
from tests.brute_force import examples

odd = st.sampled_from([1, 3, 5, 7])


def start(channels: int = 4, size: int = 8) -> tuple[GraphBuilder, Tensor]:
    builder = GraphBuilder()
    return builder, builder.input(Shape(2, channels, size, size))


def test_scopes_prefix_names() -> None:
    builder, x = start()
    with builder.scope("stage"), builder.scope("0"), builder.scope(""):
        inner = builder.conv(x, 4)
    outer = builder.conv(inner, 4)
    assert (x.name, inner.name, outer.name) == ("input", "stage.0.conv", "conv")
    assert list(builder.graph().nodes) == ["input", "stage.0.conv", "conv"]


def test_a_scope_ends_when_its_layers_fail() -> None:
    builder, x = start()
    with pytest.raises(ShapeError), builder.scope("stage"):
        builder.add(BatchNorm(channels=5), x, name="bn")
    with pytest.raises(ShapeError):
        builder.block(BasicBlock(in_channels=5, out_channels=5), x, name="block")
    y = builder.conv(x, 4)
    assert y.name == "conv"
    assert builder.graph().nodes["conv"].block is None


@examples(40)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "a.b", "b"]), st.sampled_from(["c", "c_2", "c_3", "b.c"])), max_size=12))
def test_names_are_unique(added: list[tuple[str, str]]) -> None:
    builder, x = start()
    names = ["input"]
    for scope, name in added:
        with builder.scope(scope):
            x = builder.activation(x, "relu", name=name)
        assert x.name.startswith(f"{scope}.{name}" if scope else name)
        names.append(x.name)
    y = builder.activation(x, "relu", name="end")
    assert len(set(names)) == len(names)
    assert list(builder.graph().nodes) == [*names, y.name]


def test_repeated_names_are_numbered() -> None:
    builder, x = start()
    assert [builder.conv(x, 4).name for _ in range(3)] == ["conv", "conv_2", "conv_3"]


def test_shapes_flow_through_the_builder() -> None:
    builder, x = start(channels=6, size=9)
    assert builder.conv(x, 10, kernel=3, stride=2).shape == Shape(2, 10, 5, 5)
    assert builder.conv(x, 10, kernel=3, padding=0).shape == Shape(2, 10, 7, 7)
    assert builder.conv(x, 6, kernel=7, group_width=1).shape == Shape(2, 6, 9, 9)
    assert builder.linear(x, 3).shape == Shape(2, 3, 9, 9)
    assert builder.add(Upsample(factor=3), x, name="up").shape == Shape(2, 6, 27, 27)
    assert builder.add(Concat(inputs=2), x, x, name="cat").shape == Shape(2, 12, 9, 9)
    assert builder.add(MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1)), x, name="pool").shape == Shape(2, 6, 5, 5)
    assert builder.add(MaxPool(kernel=(2, 2), stride=(2, 2), ceil_mode=True), x, name="pool").shape == Shape(2, 6, 5, 5)
    assert builder.add(GlobalAveragePool(), x, name="mean").shape == Shape(2, 6, 1, 1)
    assert builder.multiply(x, builder.add(GlobalAveragePool(), x, name="mean")).shape == x.shape
    assert builder.residual(x, x).shape == builder.scale(x).shape == x.shape


def test_conv_norm_activates_only_where_asked() -> None:
    builder, x = start()
    builder.conv_norm(x, 8, kernel=3, name="a", norm_name="a.bn")
    builder.conv_norm(x, 8, kernel=3, activation="relu", name="b", norm_name="b.bn")
    graph = builder.graph()
    assert list(graph.nodes) == ["input", "a", "a.bn", "b", "b.bn", "b.bn.act"]
    assert not graph.nodes["a"].layer.bias


def test_consumers_and_outputs() -> None:
    builder, x = start()
    a = builder.conv(x, 4, name="a")
    b = builder.conv(x, 4, name="b")
    builder.residual(a, b, name="sum")
    builder.add(Multiply(), a, a, name="square")
    graph = builder.graph()
    consumers = {name: [node.name for node in nodes] for name, nodes in graph.consumers.items()}
    assert consumers == {"input": ["a", "b"], "a": ["sum", "square"], "b": ["sum"], "sum": [], "square": []}
    assert graph.outputs == ("sum", "square")
    assert graph.nodes["square"].inputs == ("a", "a")


def test_params_leave_running_statistics_out() -> None:
    builder, x = start(channels=3)
    y = builder.conv_norm(x, 8, kernel=5, name="conv", norm_name="bn")
    y = builder.add(LayerNorm(channels=8), y, name="ln")
    y = builder.scale(y, name="gamma")
    builder.linear(y, 7, name="fc")
    graph = builder.graph()
    assert {name: (elements, weight.trained) for name, weight, elements in graph.weights()} == {
        "conv.weight": (8 * 3 * 25, True),
        "bn.weight": (8, True),
        "bn.bias": (8, True),
        "bn.running_mean": (8, False),
        "bn.running_var": (8, False),
        "ln.weight": (8, True),
        "ln.bias": (8, True),
        "gamma.weight": (8, True),
        "fc.weight": (8 * 7, True),
        "fc.bias": (7, True),
    }
    assert graph.params == 8 * 3 * 25 + 2 * 8 + 2 * 8 + 8 + 8 * 7 + 7


def test_macs_and_activations_are_of_convolutions_and_products() -> None:
    builder, x = start(channels=3, size=8)
    y = builder.conv_norm(x, 8, kernel=3, stride=2, activation="relu")
    y = builder.add(GlobalAveragePool(), y, name="mean")
    builder.linear(y, 10)
    graph = builder.graph()
    assert graph.macs == 2 * (4 * 4 * 8 * 3 * 9 + 8 * 10)
    assert graph.activations == 2 * (4 * 4 * 8 + 10)
    assert graph.macs == sum(node.count().macs for node in graph.nodes.values())


def test_blocks_are_recorded() -> None:
    builder, x = start()
    x = builder.conv(x, 4, name="stem")
    with builder.scope("stage"):
        x = builder.block(BasicBlock(in_channels=4, out_channels=4), x, name="0")
        x = builder.block(ConvFirst(in_channels=4, out_channels=4, hidden_channels=8, group_width=2), x, name="1")
    builder.conv(x, 4, name="head")
    graph = builder.graph()
    assert {name: block.kind for name, block in graph.blocks.items()} == {"stage.0": "basic", "stage.1": "convfirst"}
    assert {node.block for node in graph.nodes.values() if node.name.startswith("stage.0.")} == {"stage.0"}
    assert {node.block for node in graph.nodes.values() if node.name.startswith("stage.1.")} == {"stage.1"}
    assert {name for name, node in graph.nodes.items() if node.block is None} == {"input", "stem", "head"}


def test_blocks_of_one_name_stay_apart() -> None:
    builder, x = start()
    for out_channels in (4, 8, 8):
        x = builder.block(BasicBlock(in_channels=x.shape.C, out_channels=out_channels), x, name="block")
    graph = builder.graph()
    assert {name: block.out_channels for name, block in graph.blocks.items()} == {"block": 4, "block_2": 8, "block_3": 8}
    for name in graph.blocks:
        assert next(node.name for node in graph.nodes.values() if node.block == name) == f"{name}.conv1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice(Block):
    """Two blocks in one."""

    kind: ClassVar[str] = "twice"

    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        for name in ("first", "second"):
            x = builder.block(BasicBlock(in_channels=self.in_channels, out_channels=self.out_channels), x, name=name)
        return builder.activation(x, "relu", name="last")

    @classmethod
    def symbolic(cls) -> Self:
        return cls(in_channels=C, out_channels=C)


def test_a_layer_belongs_to_the_innermost_of_nested_blocks() -> None:
    builder, x = start()
    builder.block(Twice(in_channels=4, out_channels=4), x, name="outer")
    graph = builder.graph()
    assert {name: block.kind for name, block in graph.blocks.items()} == {
        "outer": "twice",
        "outer.first": "basic",
        "outer.second": "basic",
    }
    assert graph.nodes["outer.first.conv1"].block == "outer.first"
    assert graph.nodes["outer.second.act"].block == "outer.second"
    assert graph.nodes["outer.last"].block == "outer"


@examples(50)
@given(st.tuples(odd, odd), st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(1, 9))
def test_default_padding_keeps_the_size(kernel: tuple[int, int], dilation: tuple[int, int], size: int) -> None:
    layer = Conv2d(in_channels=1, out_channels=1, kernel=kernel, dilation=dilation)
    assert layer.output_shape(Shape(1, 1, size, size)) == Shape(1, 1, size, size)


@pytest.mark.parametrize(
    ("block", "identity"),
    [
        (BasicBlock(in_channels=4, out_channels=4), True),
        (BasicBlock(in_channels=4, out_channels=4, stride=2), False),
        (BasicBlock(in_channels=4, out_channels=8), False),
        (Bottleneck(in_channels=4, out_channels=8, hidden_channels=2), False),
        (MBConv(in_channels=4, out_channels=4, hidden_channels=8), True),
        (MBConv(in_channels=4, out_channels=6, hidden_channels=8), False),
        (FusedMBConv(in_channels=4, out_channels=4, hidden_channels=8, stride=2), False),
        (DepthwiseSeparable(in_channels=4, out_channels=4, hidden_channels=4), True),
        (ConvFirst(in_channels=4, out_channels=4, hidden_channels=8, group_width=2), True),
        (ConvNeXtBlock(in_channels=4, out_channels=4, hidden_channels=16), True),
    ],
)
def test_the_input_is_the_shortcut_where_stride_and_channels_allow(block: object, identity: bool) -> None:
    builder, x = start()
    out = builder.block(block, x, name="block")
    graph = builder.graph()
    assert block.has_identity is identity
    assert out.shape == Shape(2, block.out_channels, 8 // block.stride, 8 // block.stride)
    adds = [node for node in graph.nodes.values() if isinstance(node.layer, Add)]
    assert any("input" in node.inputs for node in adds) is identity
    if block.kind in ("basic", "bottleneck"):  # these project the shortcut; inverted residuals go without
        assert ("block.downsample.conv" in graph.nodes) is not identity
    else:
        assert bool(adds) is identity


def test_squeeze_and_excitation_is_scoped() -> None:
    builder, x = start(channels=8)
    y = squeeze_excitation(builder, x, 2, activation="silu", gate="hard_sigmoid")
    graph = builder.graph()
    assert list(graph.nodes) == ["input", "se.mean", "se.reduce", "se.act", "se.expand", "se.gate", "se.mul"]
    assert y.shape == x.shape
    assert graph.nodes["se.mul"].inputs == ("input", "se.gate")
    assert graph.nodes["se.gate"].layer == Activation(function="hard_sigmoid")


@pytest.mark.parametrize(
    ("layer", "shapes", "sentence"),
    [
        (BatchNorm(channels=5), [Shape(2, 4, 8, 8)], "batch_norm expects 5 input channels but its input 2×4×8×8 has 4"),
        (LayerNorm(channels=5), [Shape(2, 4, 8, 8)], "layer_norm expects 5 input channels"),
        (Linear(in_channels=3, out_channels=2), [Shape(2, 4, 8, 8)], "linear expects 3 input channels"),
        (Conv2d(in_channels=3, out_channels=2), [Shape(2, 4, 8, 8)], "conv2d expects 3 input channels"),
        (Add(), [Shape(2, 4, 8, 8), Shape(2, 4, 4, 4)], "inputs of different shape (2×4×8×8 and 2×4×4×4)"),
        (Add(), [Shape(2, 4, 8, 8), Shape(2, 4, 1, 1)], "inputs of different shape"),
        (Multiply(), [Shape(2, 4, 8, 8), Shape(2, 4, 8, 1)], "must be of the same shape or 2×4×1×1"),
        (Multiply(), [Shape(2, 4, 8, 8), Shape(1, 4, 1, 1)], "2×4×8×8 cannot be multiplied by 1×4×1×1"),
        (Concat(inputs=2), [Shape(2, 4, 8, 8), Shape(2, 3, 8, 7)], "2×4×8×8 and 2×3×8×7 differ in more than their channels"),
        (Concat(inputs=3), [Shape(2, 4, 8, 8), Shape(2, 3, 8, 8)], "concat reads 3 tensors but was given 2"),
        (Add(), [Shape(2, 4, 8, 8)], "add reads 2 tensors but was given 1"),
        (Activation(function="relu"), [Shape(2, 4, 8, 8)] * 2, "activation reads 1 tensors but was given 2"),
        (
            Conv2d(in_channels=4, out_channels=4, kernel=(9, 9), padding=(0, 0, 0, 0)),
            [Shape(2, 4, 8, 8)],
            "kernel=9×9, stride=1×1, padding=0×0×0×0, dilation=1×1, group_width=4, bias=False) leaves nothing of an input of 8×8",
        ),
        (MaxPool(kernel=(2, 2), stride=(2, 2)), [Shape(2, 4, 1, 8)], "leaves nothing of an input of 1×8"),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_its_dimensions(layer: Layer, shapes: list[Shape], sentence: str) -> None:
    builder = GraphBuilder()
    tensors = [builder.input(shape) for shape in shapes]
    with pytest.raises(ShapeError) as error, builder.scope("stage"):
        builder.add(layer, *tensors, name="culprit")
    assert str(error.value).startswith("layer stage.culprit: ")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"in_channels": 6, "group_width": 4}, "6 input channels do not divide into groups of 4"),
        (
            {"in_channels": 6, "out_channels": 8, "group_width": 2},
            "8 output channels do not divide into the 3 groups that 6 input channels make at a group width of 2",
        ),
        ({"in_channels": 6, "group_width": 12}, "6 input channels do not divide into groups of 12"),
        ({"in_channels": 0}, "in_channels must be a positive whole number, not 0"),
        ({"out_channels": -1}, "out_channels must be a positive whole number, not -1"),
        ({"out_channels": 2.0}, "out_channels must be a positive whole number, not 2.0"),
        ({"out_channels": True}, "out_channels must be a positive whole number, not True"),
        ({"stride": (1, 0)}, "stride must be a positive whole number, not 0"),
        ({"dilation": (0, 1)}, "dilation must be a positive whole number, not 0"),
        ({"padding": (0, 0, -1, 0)}, "padding must be four whole numbers of at least 0"),
        ({"padding": (1, 1)}, "padding must be four whole numbers of at least 0, not (1, 1)"),
        ({"padding": (0.5, 0, 0, 0)}, "padding must be four whole numbers of at least 0"),
    ],
)
def test_impossible_convolutions_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ShapeError) as error:
        Conv2d(**({"in_channels": 4, "out_channels": 12} | arguments))
    assert sentence in str(error.value)


@pytest.mark.parametrize("kind", [MaxPool, AveragePool])
@pytest.mark.parametrize("padding", [(2, 0), (0, 2), (-1, 0)])
def test_pooling_padding_is_at_most_half_of_the_kernel(kind: type[Layer], padding: tuple[int, int]) -> None:
    assert kind(kernel=(3, 3), stride=(1, 1), padding=(1, 1)).padding == (1, 1)
    with pytest.raises(ShapeError, match="must be from 0 to half of the kernel"):
        kind(kernel=(3, 3), stride=(1, 1), padding=padding)


def test_unknown_functions_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown activation 'sillu'; did you mean silu"):
        Activation(function="sillu")
    with pytest.raises(UnknownNameError, match=r"unknown upsampling mode 'bicubic'; known: bilinear, nearest"):
        Upsample(mode="bicubic")


@pytest.mark.parametrize(
    ("arguments", "conv_class"),
    [
        ({}, "pointwise_conv"),
        ({"kernel": (3, 3)}, "conv"),
        ({"kernel": (1, 3)}, "conv"),
        ({"kernel": (3, 3), "group_width": 4}, "grouped_conv"),
        ({"group_width": 4}, "grouped_conv"),
        ({"kernel": (3, 3), "group_width": 1}, "depthwise_conv"),
    ],
)
def test_cases_of_the_convolution(arguments: dict[str, object], conv_class: str) -> None:
    assert Conv2d(in_channels=8, out_channels=8, **arguments).conv_class == conv_class


def test_an_empty_network_is_refused() -> None:
    with pytest.raises(ShapeError, match="an input and at least one layer"):
        GraphBuilder().graph()
    with pytest.raises(ShapeError, match="an input and at least one layer"):
        start()[0].graph()


def test_a_finished_graph_does_not_grow() -> None:
    builder, x = start()
    builder.conv(x, 4)
    graph = builder.graph()
    builder.conv(x, 4)
    assert list(graph.nodes) == ["input", "conv"]


def test_symbolic_shapes_flow_too() -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(N, C, H, W))
    y = builder.conv_norm(x, 2 * C, kernel=3, activation="relu")
    assert y.shape == Shape(N, 2 * C, H, W)
    graph = builder.graph()
    assert graph.macs == 18 * N * C**2 * H * W
    assert graph.params == 18 * C**2 + 4 * C
    with pytest.raises(ShapeError, match="N×C×H×W and N×2\\*C×H×W"):
        builder.residual(x, y)
