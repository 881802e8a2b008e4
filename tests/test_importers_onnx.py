"""Reading ONNX files: what they mean, and what hostile ones may not do."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import perfmodel
from perfmodel.cli import run
from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.importers.program import ImportedModelError
from perfmodel.layers.activation import Activation
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.layers.rearrange import Rearrange, View
from perfmodel.layers.rms_norm import RmsNorm
from perfmodel.network import Network
from perfmodel.precision import Precision
from perfmodel.schedule import SCHEDULES, kernels
from tests.brute_force import examples
from tests.onnx_models import model, saved, small, weight


def imported(folder: Path, proto: onnx.ModelProto, **sizes: int) -> Network:
    return perfmodel.from_onnx(saved(folder, proto), **sizes)


def kinds(network: Network) -> list[str]:
    return [node.layer.kind for node in network.graph.nodes.values()]


def layers(network: Network, kind: type) -> list[object]:
    return [node.layer for node in network.graph.nodes.values() if isinstance(node.layer, kind)]


def test_a_small_file_costs_what_the_same_network_built_by_hand_costs(tmp_path: Path) -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(4, 3, 16, 16))
    z = builder.conv_norm(x, 8, kernel=3, activation="silu")
    r = builder.residual(builder.conv(z, 8, kernel=3), z)
    builder.linear(builder.add(GlobalAveragePool(), r, name="mean"), 10)
    expected = builder.graph()
    network = imported(tmp_path, small(), batch=4)
    assert network.params == expected.params
    for schedule in SCHEDULES:
        ours, theirs = (kernels(graph, Precision(), schedule) for graph in (network.graph, expected))
        assert [(kernel.kind, kernel.cost) for kernel in ours] == [(kernel.kind, kernel.cost) for kernel in theirs]


def test_an_open_batch_is_one_and_can_be_any(tmp_path: Path) -> None:
    network = imported(tmp_path, small())
    assert (network.batch, network.resolution) == (1, 16)
    larger = network.at(7, 32)
    assert larger.graph.nodes["input"].shape == Shape(7, 3, 32, 32)
    fixed = 8 * 10  # the linear layer sees one pixel whatever the image
    assert larger.macs - 7 * fixed == 4 * 7 * (network.macs - fixed)


def test_names_are_those_of_the_file_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    proto = small()
    proto.graph.node[4].name = "\x1b[31mred"
    names = list(imported(tmp_path, proto).graph.nodes)
    assert "stem.Conv" in names
    assert "\\x1b[31mred" in names


# -- meaning -----------------------------------------------------------------------------------------------------------


def scalar(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, dtype=np.float32), name)


def spelled(folder: Path, *steps: tuple[str, list[str], str], **attributes: object) -> Network:
    """The nodes (operator, inputs, output); an input that is a number becomes a constant of the file."""
    constants: dict[str, onnx.TensorProto] = {}
    nodes = []
    for operator, inputs, output in steps:
        for item in inputs:
            if item.replace(".", "").replace("-", "").isdigit():
                constants[item] = scalar(item, float(item))
        extra = {key: value for key, value in attributes.items() if operator in ("ReduceMean",)}
        nodes.append(helper.make_node(operator, inputs, [output], **extra))
    proto = model(nodes, list(constants.values()), output=steps[-1][2])
    return imported(folder, proto)


SPELLINGS = {
    "silu": [[("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "y")], [("Sigmoid", ["x"], "s"), ("Mul", ["s", "x"], "y")]],
    "hard_swish": [
        [("Add", ["x", "3"], "a"), ("Clip", ["a", "0", "6"], "c"), ("Mul", ["x", "c"], "m"), ("Div", ["m", "6"], "y")],
        [("Add", ["x", "3"], "a"), ("Clip", ["a", "0", "6"], "c"), ("Div", ["c", "6"], "d"), ("Mul", ["x", "d"], "y")],
        [("Add", ["3", "x"], "a"), ("Clip", ["a", "0", "6"], "c"), ("Mul", ["c", "0.16666667"], "d"), ("Mul", ["d", "x"], "y")],
        [("HardSwish", ["x"], "y")],
    ],
    "hard_sigmoid": [[("Add", ["x", "3"], "a"), ("Clip", ["a", "0", "6"], "c"), ("Div", ["c", "6"], "y")]],
    "relu6": [[("Clip", ["x", "0", "6"], "y")], [("Relu", ["x"], "a"), ("Min", ["a", "6"], "y")]],
    "gelu": [
        [("Div", ["x", "1.41421356"], "d"), ("Erf", ["d"], "e"), ("Add", ["e", "1"], "a"),
         ("Mul", ["x", "a"], "m"), ("Mul", ["m", "0.5"], "y")],
        [("Mul", ["x", "0.70710678"], "d"), ("Erf", ["d"], "e"), ("Add", ["1", "e"], "a"),
         ("Mul", ["x", "0.5"], "h"), ("Mul", ["h", "a"], "y")],
    ],
    "gelu_tanh": [
        [
            *(("Mul", ["x", "x"], "x2"), ("Mul", ["x2", "x"], "x3"), ("Mul", ["x3", "0.044715"], "c"), ("Add", ["x", "c"], "i")),
            *(("Mul", ["i", "0.79788456"], "k"), ("Tanh", ["k"], "t"), ("Add", ["t", "1"], "a"), ("Mul", ["x", "0.5"], "h")),
            ("Mul", ["h", "a"], "y"),
        ],
        [
            *(("Pow", ["x", "3"], "x3"), ("Mul", ["0.044715", "x3"], "c"), ("Add", ["x", "c"], "i"), ("Mul", ["0.79788456", "i"], "k")),
            *(("Tanh", ["k"], "t"), ("Add", ["1", "t"], "a"), ("Mul", ["x", "a"], "h"), ("Mul", ["0.5", "h"], "y")),
        ],
    ],
    "mish": [[("Softplus", ["x"], "s"), ("Tanh", ["s"], "t"), ("Mul", ["x", "t"], "y")]],
}  # fmt: skip


@pytest.mark.parametrize(("function", "steps"), [(name, steps) for name, all_ in SPELLINGS.items() for steps in all_])
def test_activations_are_known_by_what_they_compute(
    tmp_path: Path, function: str, steps: list[tuple[str, list[str], str]]
) -> None:
    network = spelled(tmp_path, *steps)
    assert layers(network, Activation) == [Activation(function=function)]
    assert len(network.graph.nodes) == 2


def test_what_is_not_an_activation_stays_arithmetic(tmp_path: Path) -> None:
    network = spelled(tmp_path, ("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "m"), ("Mul", ["m", "2"], "y"))
    assert kinds(network) == ["input", "activation", "pointwise"]


def test_an_activation_whose_parts_are_read_elsewhere_is_left_alone(tmp_path: Path) -> None:
    network = spelled(tmp_path, ("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "m"), ("Add", ["m", "s"], "y"))
    assert [layer.function for layer in layers(network, Activation)] == ["sigmoid"]


NORMED = (("ReduceMean", ["x"], "mean"), ("Sub", ["x", "mean"], "d"))
VARIANCES = (
    (("Pow", ["d", "2"], "q"), ("ReduceMean", ["q"], "v")),
    (("Mul", ["d", "d"], "q"), ("ReduceMean", ["q"], "v")),
)
ROOTS = (
    (("Add", ["v", "0.00001"], "e"), ("Sqrt", ["e"], "r"), ("Div", ["d", "r"], "y")),
    (("Add", ["0.00001", "v"], "e"), ("Sqrt", ["e"], "r"), ("Reciprocal", ["r"], "i"), ("Mul", ["d", "i"], "y")),
)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("root", ROOTS)
def test_layer_norm_written_out(tmp_path: Path, variance: tuple[object, ...], root: tuple[object, ...]) -> None:
    network = spelled(tmp_path, *NORMED, *variance, *root, axes=[1])
    assert [node.layer for node in network.graph.nodes.values()][1:] == [LayerNorm(channels=3)]


def test_layer_norm_takes_its_weights(tmp_path: Path) -> None:
    steps = [*NORMED, *VARIANCES[0], *ROOTS[0][:2], ("Div", ["d", "r"], "n"), ("Mul", ["n", "g"], "s"), ("Add", ["s", "b"], "y")]
    constants = [scalar("2", 2.0), scalar("0.00001", 1e-5), weight("g", 3, 1, 1), weight("b", 3, 1, 1)]
    nodes = [helper.make_node(op, i, [o], **({"axes": [1]} if op == "ReduceMean" else {})) for op, i, o in steps]
    network = imported(tmp_path, model(nodes, constants))
    assert [node.layer for node in network.graph.nodes.values()][1:] == [LayerNorm(channels=3)]
    assert network.params == 6


def test_rms_norm_written_out(tmp_path: Path) -> None:
    steps = [("Mul", ["x", "x"], "q"), ("ReduceMean", ["q"], "v"),
             ("Add", ["v", "0.00001"], "e"), ("Sqrt", ["e"], "r"), ("Div", ["x", "r"], "y")]  # fmt: skip
    network = spelled(tmp_path, *steps, axes=[1])
    assert [node.layer for node in network.graph.nodes.values()][1:] == [RmsNorm(channels=3)]


def test_a_scale_and_a_shift_behind_a_convolution_are_a_norm_that_folds(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "scale"], ["s"]),
        helper.make_node("Add", ["s", "shift"], ["y"]),
    ]
    network = imported(tmp_path, model(nodes, [weight("w", 8, 3, 3, 3), weight("scale", 1, 8, 1, 1), weight("shift", 8, 1, 1)]))
    assert layers(network, BatchNorm) == [BatchNorm(channels=8)]
    assert len(kernels(network.graph, Precision(), "layer")) == 1


def test_a_product_and_a_sum_are_a_linear_layer(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["y"])]
    network = imported(tmp_path, model(nodes, [weight("w", 16, 5), weight("b", 5)], shape=(2, 7, 16)))
    assert layers(network, Linear) == [Linear(in_channels=16, out_channels=5, bias=True)]
    assert network.macs == 2 * 7 * 16 * 5


def test_channel_shuffle_is_one_copy(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 2, 2, 16, 16]), "five")
    back = numpy_helper.from_array(np.array([1, 4, 16, 16]), "four")
    nodes = [
        helper.make_node("Reshape", ["x", "five"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["b", "four"], ["y"]),
    ]
    network = imported(tmp_path, model(nodes, [shape, back], shape=(1, 4, 16, 16)))
    assert kinds(network) == ["input", "rearrange"]
    (kernel,) = kernels(network.graph, Precision(), "eager")
    assert (kernel.cost.dram_bytes_read, kernel.cost.dram_bytes_written) == (2 * 4 * 256, 2 * 4 * 256)


def test_flattening_and_splitting_cost_nothing(tmp_path: Path) -> None:
    halves = numpy_helper.from_array(np.array([2, 2]), "halves")
    nodes = [
        helper.make_node("Split", ["x", "halves"], ["a", "b"], axis=1),
        helper.make_node("Mul", ["a", "b"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
    ]
    network = imported(tmp_path, model(nodes, [halves, weight("w", 10, 512)], shape=(1, 4, 16, 16)))
    assert kinds(network) == ["input", "view", "view", "multiply", "linear"]
    product, linear = kernels(network.graph, Precision(), "eager")
    assert product.cost.dram_bytes_read == 2 * 4 * 256  # both halves: the whole input once
    assert linear.cost.dram_bytes_read == 2 * (512 + 5120)


def test_a_convolution_of_half_the_channels_copies_them_first_where_frameworks_do(tmp_path: Path) -> None:
    halves = numpy_helper.from_array(np.array([2, 2]), "halves")
    nodes = [helper.make_node("Split", ["x", "halves"], ["a", "b"], axis=1), helper.make_node("Conv", ["a", "w"], ["y"])]
    network = imported(tmp_path, model(nodes, [halves, weight("w", 8, 2, 1, 1)], shape=(1, 4, 16, 16)))
    assert [kernel.kind for kernel in kernels(network.graph, Precision(), "eager")] == ["slice", "pointwise_conv"]
    assert [kernel.kind for kernel in kernels(network.graph, Precision(), "layer")] == ["pointwise_conv"]


def test_padding_before_a_convolution_is_the_ideal_librarys_own(tmp_path: Path) -> None:
    pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "pads")
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["y"], strides=[2, 2]),
    ]
    network = imported(tmp_path, model(nodes, [pads, weight("w", 8, 3, 3, 3)]))
    assert [kernel.kind for kernel in kernels(network.graph, Precision(), "eager")] == ["fill", "pad", "conv"]
    (kernel,) = kernels(network.graph, Precision(), "layer")
    assert kernel.cost.read_activation_bytes == 2 * 3 * 256  # of the image, without a border


@pytest.mark.parametrize(("weights", "groups"), [((8, 2, 3, 3), 1), ((8, 3, 3, 3), 0), ((0, 3, 3, 3), 1), ((8, 1, 3, 3), 3)])
def test_a_convolution_that_does_not_fit_its_input_is_refused(tmp_path: Path, weights: tuple[int, ...], groups: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="stem", group=groups)
    with pytest.raises(ImportedModelError) as caught:
        imported(tmp_path, model([node], [weight("w", *weights)]))
    text = str(caught.value)
    assert "\n" not in text
    assert "node 'stem' (Conv) cannot take" in text


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding(tmp_path: Path, automatic: str) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=automatic, strides=[2, 2])
    (layer,) = layers(imported(tmp_path, model([node], [weight("w", 8, 3, 3, 3)])), Conv2d)
    assert isinstance(layer, Conv2d)
    assert layer.padding == ((0, 1, 0, 1) if automatic == "SAME_UPPER" else (1, 0, 1, 0))


def test_instance_norm_is_a_group_norm_of_one_channel_each(tmp_path: Path) -> None:
    node = helper.make_node("InstanceNormalization", ["x", "g", "b"], ["y"])
    network = imported(tmp_path, model([node], [weight("g", 3), weight("b", 3)]))
    assert layers(network, GroupNorm) == [GroupNorm(channels=3, groups=3)]


# -- coverage ----------------------------------------------------------------------------------------------------------


def unknown() -> onnx.ModelProto:
    proto = model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Wobble", ["c"], ["u"], name="odd", domain="my.own"),
            helper.make_node("Relu", ["u"], ["y"]),
        ],
        [weight("w", 8, 3, 3, 3)],
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 8, 16, 16]))
    return proto


@pytest.mark.parametrize("schedule", ["eager", "pointwise", "layer", "block"])
def test_what_is_not_understood_is_listed_and_its_tensors_are_counted(tmp_path: Path, schedule: str) -> None:
    network = imported(tmp_path, unknown())
    prediction = perfmodel.predict(network, "h200", schedule=schedule)
    assert prediction.unsupported == ("my.own.Wobble (odd)",)
    (kernel,) = [kernel for kernel in prediction.kernels if kernel.kind == "unsupported"]
    assert kernel.layers == ("odd",)
    assert (kernel.cost.dram_bytes_read, kernel.cost.dram_bytes_written) == (2 * 8 * 256, 2 * 8 * 256)
    coverage = prediction.coverage
    assert (coverage.operations, coverage.unsupported_operations, coverage.macs_fraction) == (3, 1, None)
    assert coverage.bytes_fraction == pytest.approx(1 - kernel.cost.dram_bytes / prediction.cost.dram_bytes)


def test_what_a_branch_reads_from_outside_of_it_is_not_lost(tmp_path: Path) -> None:
    """An If reads a convolution's result by name, inside of its branches alone, and stands before it in the file."""

    def branch(operation: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("q", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operation, ["a"], ["q"])], "branch", [], [result])

    proto = model(
        [
            helper.make_node("If", ["which"], ["r"], then_branch=branch("Relu"), else_branch=branch("Sigmoid"), name="choice"),
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["r", "v"], ["y"]),
        ],
        [weight("w", 8, 3, 3, 3), weight("v", 4, 8, 1, 1), numpy_helper.from_array(np.array(True), "which")],
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 8, 16, 16]))
    network = imported(tmp_path, proto)
    assert network.macs == 256 * (8 * 3 * 9 + 4 * 8)
    assert [node.name for node in network.unsupported] == ["choice"]


def test_a_table_is_read_where_the_input_says(tmp_path: Path) -> None:
    proto = model([helper.make_node("Gather", ["table", "x"], ["y"])], [weight("table", 1000, 64)], shape=(2, 16))
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    (kernel,) = kernels(imported(tmp_path, proto).graph, Precision(), "layer", device=load("h200"))
    assert kernel.cost.dram_bytes == 2 * 2 * 2 * 16 * 64  # fp16, read and written: no more of the table than is looked up


def test_schedule_auto_takes_a_network_that_adds_a_part_of_a_tensor(tmp_path: Path) -> None:
    """As in Res2Net: the sum of a convolution's result and of the next part goes into the next convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Split", ["a"], ["p0", "p1"], axis=1),
        helper.make_node("Conv", ["p0", "w0"], ["r0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["r0"], ["s0"]),
        helper.make_node("Add", ["s0", "p1"], ["t"]),
        helper.make_node("Conv", ["t", "w1"], ["y"], pads=[1, 1, 1, 1]),
    ]
    proto = model(nodes, [weight("w", 64, 3, 1, 1), weight("w0", 32, 32, 3, 3), weight("w1", 32, 32, 3, 3)], shape=(1, 3, 56, 56))
    network = imported(tmp_path, proto)
    fused = kernels(network.graph, Precision(), "auto", device=load("h200"))
    assert sum(kernel.cost.macs for kernel in fused) == network.macs == 56 * 56 * (64 * 3 + 2 * 32 * 32 * 9)
    made = {access.tensor for kernel in fused for access in kernel.writes} | {"input"}
    assert {access.tensor for kernel in fused for access in kernel.reads if access.role == "activation"} <= made


def test_the_command_line_says_what_is_covered_and_strict_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path, unknown()))
    assert run(["predict", path, "--hardware", "h200"]) == 0
    assert "2 of 3 operations understood" in " ".join(capsys.readouterr().out.split())
    assert run(["predict", path, "--hardware", "h200", "--strict"]) == 4
    assert "my.own.Wobble (odd)" in capsys.readouterr().err
    assert run(["predict", str(saved(tmp_path, small(), "good.onnx")), "--hardware", "h200", "--strict"]) == 0
    assert "100 % of the MACs and of the bytes" in " ".join(capsys.readouterr().out.split())


def test_every_command_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path, small()))
    assert run(["compare", path, "resnet18", "--hardware", "h200", "--batch", "2"]) == 0
    assert run(["networks", path]) == 0
    assert "stem.Conv" in capsys.readouterr().out
    for plot in ("waterline", "roofline"):
        assert run(["plot", plot, path, "--hardware", "h200", "--output", str(tmp_path / f"{plot}.svg")]) == 0
        assert (tmp_path / f"{plot}.svg").stat().st_size > 1000


def test_views_of_views_are_parts_of_one_tensor(tmp_path: Path) -> None:
    starts, ends, axes = (numpy_helper.from_array(np.array([n]), name) for n, name in ((0, "s"), (2, "e"), (1, "a")))
    nodes = [
        helper.make_node("Slice", ["x", "s", "e", "a"], ["h"]),
        helper.make_node("Slice", ["h", "s", "one", "a"], ["q"]),
        helper.make_node("Relu", ["q"], ["y"]),
    ]
    network = imported(tmp_path, model(nodes, [starts, ends, axes, numpy_helper.from_array(np.array([1]), "one")]))
    assert [type(node.layer) for node in network.graph.nodes.values()][1:3] == [View, View]
    (kernel,) = kernels(network.graph, Precision(), "eager")
    assert [(access.tensor, access.elements) for access in kernel.reads] == [("input", 256)]
    assert layers(network, Rearrange) == []


# -- hostile files -----------------------------------------------------------------------------------------------------


def refused(path: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one sentence, no traceback."""
    assert run(["predict", str(path), "--hardware", "h200"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("perfmodel: ")
    assert all(word in captured.err for word in words), captured.err


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(tmp_path / "none.onnx", "cannot read", capsys=capsys)
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "no ONNX graph", capsys=capsys)
    (tmp_path / "text.onnx").write_text("hello, this is no model")
    refused(tmp_path / "text.onnx", "not an ONNX file", capsys=capsys)
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "not a file", capsys=capsys)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(tmp_path: Path, kept: float, capsys: pytest.CaptureFixture[str]) -> None:
    data = small().SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(data[: int(len(data) * kept)])
    refused(tmp_path / "cut.onnx", "cut.onnx", capsys=capsys)


def test_a_cycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"], name="second")]
    refused(saved(tmp_path, model(nodes, output="b")), "cycle", capsys=capsys)


def test_nodes_in_no_order_are_sorted(tmp_path: Path) -> None:
    proto = small()
    reverse = list(proto.graph.node)[::-1]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reverse]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert imported(tmp_path, proto).macs == imported(tmp_path, small()).macs


def test_a_name_that_nothing_makes_or_that_is_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(saved(tmp_path, model([helper.make_node("Relu", ["ghost"], ["y"])])), "nothing makes", capsys=capsys)
    twice = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])]
    refused(saved(tmp_path, model(twice)), "made twice", capsys=capsys)


@pytest.mark.parametrize("shape", [(1, 3, 2**31 + 1, 16), (2**62, 3, 16, 16), (1, 2**20, 2**20, 2**20), (1, 3, -5, 16)])
def test_huge_and_negative_dimensions(tmp_path: Path, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    proto = model([node], shape=shape)
    if shape[2] < 0:
        assert imported(tmp_path, proto).resolution == 224  # as if it were left open
        return
    refused(saved(tmp_path, proto), "no machine holds", capsys=capsys)


def test_a_huge_constant_is_never_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = numpy_helper.from_array(np.array([2**40, 2**10], dtype=np.int64), "size")
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["big"]), helper.make_node("Add", ["x", "big"], ["y"])]
    refused(saved(tmp_path, model(nodes, [size])), capsys=capsys)


def test_windows_of_a_size_that_would_take_long_to_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[3, 3])
    refused(saved(tmp_path, model([node], shape=(1, 1, 2**20, 2**20))), "in a row", capsys=capsys)


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "a/../../b", "", "C:\\weights", "\\\\host\\share", "link/weights"]
)
def test_external_data_may_not_leave_the_folder(tmp_path: Path, location: str, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    proto = small()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    refused(saved(home, proto), "outside of the model's folder", capsys=capsys)


def test_external_data_is_not_needed(tmp_path: Path) -> None:
    proto = small()
    for tensor in proto.graph.initializer[:3]:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights/all.bin")
    assert imported(tmp_path, proto).macs == imported(tmp_path, small(), batch=1).macs


@pytest.mark.parametrize(("opset", "word"), [(999, "opset 999"), (10, "opset 10"), (0, "opset none")])
def test_opsets_out_of_range(tmp_path: Path, opset: int, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    proto = small()
    proto.opset_import[0].version = opset
    refused(saved(tmp_path, proto), word, capsys=capsys)


@pytest.mark.parametrize("opset", [11, 13, onnx.defs.onnx_opset_version()])
def test_opsets_in_range(tmp_path: Path, opset: int) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    assert imported(tmp_path, model(nodes, [weight("w", 8, 3, 1, 1)], opset=opset)).macs == 256 * 3 * 8


def test_missing_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = helper.make_node("Wobble", ["x"], ["y"], domain="my.own")
    refused(saved(tmp_path, model([lost])), "shape of 'y'", "Wobble", capsys=capsys)
    proto = small()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    refused(saved(tmp_path, proto), "has no shape", capsys=capsys)
    open_width = model([helper.make_node("Relu", ["x"], ["y"])], shape=(1, "length", 16))
    refused(saved(tmp_path, open_width), "open size (length)", capsys=capsys)


def test_a_size_that_the_file_cannot_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    shape = numpy_helper.from_array(np.array([1, 768]), "s")
    path = saved(tmp_path, model([node], [shape]))
    assert run(["predict", str(path), "--hardware", "h200", "--batch", "2"]) == 2
    assert "made for an input of 1×3×16×16" in capsys.readouterr().err


def test_functions_that_call_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    loop = helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], opsets)
    proto = model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[loop])
    proto.opset_import.append(opsets[1])
    refused(saved(tmp_path, proto), "calls itself", capsys=capsys)


def test_functions_that_multiply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty functions, each of which calls the next one ten times: 10²⁰ nodes if they were written out."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [helper.make_function("own", "F20", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)]
    for level in range(19, -1, -1):
        names = ["a", *(f"t{i}" for i in range(9)), "b"]
        calls = [helper.make_node(f"F{level + 1}", [names[i]], [names[i + 1]], domain="own") for i in range(10)]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], calls, opsets))
    proto = model([helper.make_node("F0", ["x"], ["y"], domain="own")], functions=functions)
    proto.opset_import.append(opsets[1])
    refused(saved(tmp_path, proto), "functions written out", capsys=capsys)


GOOD = small().SerializeToString()


@examples(400)
@given(data=st.data())
def test_fuzz_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes changed, cut out or repeated: the answer is a network or a sentence, never another exception."""
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["change", "delete", "repeat"])):
            case "change":
                mutated[place] = data.draw(st.integers(0, 255))
            case "delete":
                del mutated[place : place + data.draw(st.integers(1, 40))]
            case "repeat":
                mutated[place:place] = mutated[place : place + data.draw(st.integers(1, 40))]
        if not mutated:
            break
    answered(tmp_path_factory, bytes(mutated))


WILD = st.one_of(st.integers(-3, 20), st.sampled_from([2**31, 2**40, 2**62, -(2**40)]))
OPERATORS = st.sampled_from(
    [
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "AveragePool", "Reshape", "Transpose", "Slice", "Gather", "Pad"),
        *("Concat", "Split", "Expand", "Tile", "Resize", "ReduceMean", "Softmax", "LayerNormalization", "Einsum", "Squeeze"),
        *("Unsqueeze", "Flatten", "DepthToSpace", "Range", "ConstantOfShape", "Cast", "Clip", "If", "Loop", "Where", "Mod"),
    ]
)


@examples(400)
@given(data=st.data())
def test_fuzz_structure(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Well-formed files whose nodes, attributes and sizes make no sense."""
    proto = small()
    for _ in range(data.draw(st.integers(1, 4))):
        node = data.draw(st.sampled_from(list(proto.graph.node)))
        match data.draw(st.sampled_from(["operator", "attribute", "input", "dims", "constant", "image"])):
            case "operator":
                node.op_type = data.draw(OPERATORS)
            case "attribute":
                names = [
                    "strides",
                    "pads",
                    "dilations",
                    "group",
                    "kernel_shape",
                    "axis",
                    "axes",
                    "perm",
                    "transB",
                    "blocksize",
                    "to",
                ]
                name = data.draw(st.sampled_from(names))
                value = data.draw(st.one_of(WILD, st.lists(WILD, min_size=1, max_size=5)))
                node.attribute.append(helper.make_attribute(name, value))
            case "input" if node.input:
                known = [name for other in proto.graph.node for name in other.output] + ["x", "w", "rest", ""]
                node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(known))
            case "dims":
                tensor = data.draw(st.sampled_from(list(proto.graph.initializer)))
                tensor.dims[:] = data.draw(st.lists(WILD, max_size=5))
            case "constant":
                tensor = next(t for t in proto.graph.initializer if t.name == "rest")
                tensor.CopyFrom(numpy_helper.from_array(np.array(data.draw(st.lists(WILD, max_size=4)), dtype=np.int64), "rest"))
            case _:
                dim = data.draw(st.sampled_from(list(proto.graph.input[0].type.tensor_type.shape.dim)))
                dim.dim_value = data.draw(WILD)
    answered(tmp_path_factory, proto.SerializeToString())


def answered(factory: pytest.TempPathFactory, content: bytes) -> None:
    path = factory.mktemp("fuzz") / "model.onnx"
    path.write_bytes(content)
    try:
        network = perfmodel.from_onnx(path)
        for schedule in SCHEDULES:
            assert all(math.isfinite(kernel.cost.dram_bytes) for kernel in kernels(network.graph, Precision(), schedule))
    except PerfmodelError as error:
        assert error.exit_code == 2
        assert str(error)
        assert "\n" not in str(error)
    finally:
        path.unlink()


def test_the_error_is_one_that_callers_can_name(tmp_path: Path) -> None:
    with pytest.raises(ImportedModelError):
        perfmodel.from_onnx(tmp_path / "none.onnx")
