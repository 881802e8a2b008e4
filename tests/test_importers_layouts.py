"""What a model's code asks for beyond its layers: conversions of type, orders of elements, weights of each image; and batches changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from perfmodel.importers.build import build
from perfmodel.importers.model import network_of
from perfmodel.importers.program import Op, Program, Value
from perfmodel.importers.rebatch import TRACED_BATCH, rebatched
from perfmodel.importers.recognise import recognise
from perfmodel.importers.views import in_order
from perfmodel.layers.arithmetic import Scale
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer import ShapeError
from perfmodel.layers.pad import Pad
from perfmodel.layers.sample_conv2d import SampleConv2d
from perfmodel.lowering import EAGER, Operation, lower
from perfmodel.precision import Precision
from perfmodel.schedule import kernels

MIXED = Precision.of(None, "fp16")
N = TRACED_BATCH
Step = tuple[str, Sequence[Any], tuple[int, ...], dict[str, Any]]


def program(steps: Sequence[Step], parameters: dict[str, tuple[int, ...]], size: int = 8) -> Program:
    """Steps t0, t1, …, each (kind, operands, shape of its result, attributes), on an image x of 8 channels."""
    values = {"x": Value(name="x", shape=(N, 8, size, size))}
    values |= {name: Value(name=name, shape=shape, source="parameter") for name, shape in parameters.items()}
    ops = []
    for index, (kind, inputs, shape, attributes) in enumerate(steps):
        name = f"t{index}"
        values[name] = Value(name=name, shape=shape)
        ops.append(Op(kind=kind, name=name, inputs=tuple(inputs), outputs=(name,), attributes=attributes))
    return Program(name="test", values=values, ops=ops, inputs=("x",), outputs=(ops[-1].outputs[0],))


def graph_of(steps: Sequence[Step], parameters: dict[str, tuple[int, ...]]) -> Graph:
    made = program(steps, parameters)
    recognise(made)
    return build(made)


IMAGE = (N, 8, 8, 8)
CONV: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}


def eager(graph: Graph) -> tuple[Operation, ...]:
    return lower(graph, MIXED, EAGER)


def types(operation: Operation) -> list[str]:
    return [access.dtype for access in (*operation.reads, *operation.writes)]


def test_a_conversion_goes_to_fp32_and_the_next_one_back() -> None:
    """`x.float()` and `.to(x.dtype)` are exported alike; of what is in fp32 already, the second means the activations' type."""
    graph = graph_of(
        [
            ("conv", ["x", "w"], IMAGE, CONV),
            ("convert", ["t0"], IMAGE, {}),
            ("reduce", ["t1"], (N, 8, 1, 1), {"function": "variance", "axes": (2, 3)}),
            ("convert", ["t2"], (N, 8, 1, 1), {}),
            ("pointwise", ["t0", "t3"], IMAGE, {"function": "divide"}),
        ],
        {"w": (8, 8, 1, 1)},
    )
    run = {operation.name: operation for operation in eager(graph)}
    assert types(run["t1"]) == ["fp16", "fp32"]
    assert types(run["t2"]) == ["fp32", "fp32"]
    assert types(run["t3"]) == ["fp32", "fp16"]
    assert types(run["t4"]) == ["fp16", "fp16", "fp16"]
    ideal = lower(graph, Precision(), EAGER)
    assert {"t1", "t3"} & {operation.name for operation in ideal} == {"t1", "t3"}, "in a half network they are copies, too"
    assert all(operation.kind != "cast" for operation in lower(graph, Precision(dtype="fp32"), EAGER))


@pytest.mark.parametrize("converted", [True, False])
def test_a_converted_parameter_does_not_widen_what_it_multiplies(converted: bool) -> None:
    steps: list[Step] = [("conv", ["x", "w"], IMAGE, CONV), ("reshape", ["v"], (1, 8, 1, 1), {})]
    if converted:
        steps.append(("convert", ["t1"], (1, 8, 1, 1), {}))
    steps.append(("pointwise", ["t0", f"t{len(steps) - 1}"], IMAGE, {"function": "multiply"}))
    graph = graph_of(steps, {"w": (8, 8, 1, 1), "v": (8,)})
    (scale,) = (node.layer for node in graph.nodes.values() if isinstance(node.layer, Scale))
    assert scale.converted == converted
    assert eager(graph)[-1].writes[0].dtype == ("fp16" if converted else "fp32")


def test_powers_are_cast_to_fp32_and_sums_write_it() -> None:
    graph = graph_of(
        [
            ("conv", ["x", "w"], IMAGE, CONV),
            ("pointwise", ["t0", 3.0], IMAGE, {"function": "power"}),
            ("reduce", ["t0"], (N, 8, 8), {"function": "sum", "axes": (1,)}),
            ("stack", ["t2", "t2"], (N, 2, 8, 8), {"axis": 1}),
            ("reduce", ["t1"], (N, 8, 1, 1), {"function": "mean", "axes": (2, 3)}),
            ("pointwise", ["t3", "t4"], IMAGE, {"function": "select"}),
        ],
        {"w": (8, 8, 1, 1)},
    )
    run = {operation.name: types(operation) for operation in eager(graph)}
    assert run["t1.cast"] == ["fp16", "fp32"]
    assert run["t1"] == ["fp32", "fp32"]
    assert run["t2"] == ["fp16", "fp32"]


def test_contiguous_copies_an_image_in_nhwc_and_nothing_else() -> None:
    steps: list[Step] = [
        ("conv", ["x", "w"], IMAGE, CONV),
        ("contiguous", ["t0"], IMAGE, {}),
        ("contiguous", ["t1"], IMAGE, {}),
        ("activation", ["t2"], IMAGE, {"function": "relu"}),
        ("conv", ["t3", "w"], IMAGE, CONV),
    ]
    graph = graph_of(steps, {"w": (8, 8, 1, 1)})
    kinds = [operation.kind for operation in eager(graph) if operation.kind != "cast"]
    assert kinds == ["pointwise_conv", "layout", "relu", "layout", "pointwise_conv"]
    across = [access.across for operation in eager(graph) if operation.kind == "layout" for access in operation.reads]
    assert across == [True, True]
    assert all(operation.kind != "layout" for operation in lower(graph, MIXED, EAGER, layout="nchw"))


def test_a_border_that_mirrors_is_made_in_nchw_and_a_constant_one_by_filling() -> None:
    def kinds(*, reflected: bool) -> list[str]:
        g = GraphBuilder()
        x = g.conv(g.input(Shape(2, 8, 8, 8)), 8, name="before")
        x = g.add(Pad(output=Shape(2, 8, 10, 10), reflected=reflected), x, name="pad")
        g.conv(x, 8, kernel=3, name="after")
        return [operation.kind for operation in lower(g.graph(), Precision(), EAGER)]

    assert kinds(reflected=True) == ["pointwise_conv", "layout", "pad", "layout", "conv"]
    assert kinds(reflected=False) == ["pointwise_conv", "fill", "pad", "conv"]


@pytest.mark.parametrize("computed", [True, False])
def test_standardised_weights_keep_a_network_in_nchw_behind_a_group_norm(computed: bool) -> None:
    g = GraphBuilder()
    x = g.add(GroupNorm(channels=8, groups=2), g.input(Shape(2, 8, 8, 8)), name="norm1")
    x = g.add(Conv2d(in_channels=8, out_channels=8, computed_weights=computed), x, name="conv")
    g.add(GroupNorm(channels=8, groups=2), x, name="norm2")
    layouts = [operation.name for operation in lower(g.graph(), Precision(), EAGER) if operation.kind == "layout"]
    assert layouts == (["norm1.to_nchw"] if computed else ["norm1.to_nchw", "conv.from_nchw", "norm2.to_nchw"])


def test_a_convolution_with_weights_of_each_image() -> None:
    layer = SampleConv2d(each=Conv2d(in_channels=8, out_channels=16))
    images, weights = Shape(4, 8, 6, 6), Shape(4, 8 * 16, 1, 1)
    count = layer.count(images, weights)
    assert count.macs == 4 * 8 * 16 * 36
    assert count.reads == (4 * 8 * 36, 4 * 8 * 16)
    assert count.writes == 4 * 16 * 36
    with pytest.raises(ShapeError, match="weights"):
        layer.output_shape(images, Shape(1, 8 * 16, 1, 1))
    graph = graph_of(
        [
            ("conv", ["x", "w"], IMAGE, CONV),
            ("reduce", ["t0"], (N, 8, 1, 1), {"function": "mean", "axes": (2, 3)}),
            ("reshape", ["t1"], (N, 8), {}),
            ("linear", ["t2", "v"], (N, 64), {}),
            ("reshape", ["t3"], (N * 8, 8, 1, 1), {}),
            ("reshape", ["t0"], (1, N * 8, 8, 8), {}),
            ("conv", ["t5", "t4"], (1, N * 8, 8, 8), {**CONV, "groups": N}),
        ],
        {"w": (8, 8, 1, 1), "v": (64, 8)},
    )
    (found,) = (node for node in graph.nodes.values() if isinstance(node.layer, SampleConv2d))
    assert found.shape == Shape(N, 8, 8, 8)
    assert graph.counts[found.name].macs == N * 8 * 8 * 64


def test_tensors_that_are_counted_flat_grow_with_the_batch() -> None:
    steps: list[Step] = [
        ("conv", ["x", "w"], IMAGE, CONV),
        ("activation", ["t0"], IMAGE, {"function": "relu"}),
        ("stack", ["t0", "t1"], (N, 2, 8, 8, 8), {"axis": 1}),
        ("reduce", ["t2"], IMAGE, {"function": "mean", "axes": (1,)}),
    ]
    network = network_of(program(steps, {"w": (8, 8, 1, 1)}), N, 8, lambda batch, resolution: network)
    larger = rebatched(network, 4 * N)
    for schedule in ("eager", "pointwise"):
        small, large = (
            sum(kernel.cost.read_activation_bytes + kernel.cost.written_activation_bytes for kernel in run)
            for run in (kernels(one.graph, MIXED, schedule) for one in (network, larger))
        )
        assert large == 4 * small


def test_strides_in_a_given_order() -> None:
    assert in_order((2, 3, 4), (1, 8, 2)) == (1, 8, 2)
    assert in_order((2, 3), (5, 5)) == (3, 1)
