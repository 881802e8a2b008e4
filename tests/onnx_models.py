"""ONNX files made node by node, for tests: good ones, and what an attacker would send."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.full(shape, 0.5, dtype=np.float32), name)


def model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto] = [],  # noqa: B006 - never changed
    *,
    shape: tuple[int | str, ...] = (1, 3, 16, 16),
    output: str = "y",
    opset: int = OPSET,
    **more: object,
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [y], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)


def small() -> onnx.ModelProto:
    """A convolution, a norm, x·sigmoid(x), a residual block's sum, a mean and a linear layer."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="/stem/Conv"),
        helper.make_node("BatchNormalization", ["a", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Sigmoid", ["n"], ["s"]),
        helper.make_node("Mul", ["n", "s"], ["z"]),
        helper.make_node("Conv", ["z", "w2"], ["c"], pads=[1, 1, 1, 1], name="/next/Conv"),
        helper.make_node("Add", ["c", "z"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Shape", ["p"], ["size"]),
        helper.make_node("Gather", ["size", "zero"], ["n0"]),
        helper.make_node("Unsqueeze", ["n0", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["p", "target"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    numbers = [
        numpy_helper.from_array(np.array(0, dtype=np.int64), "zero"),
        numpy_helper.from_array(np.array([0], dtype=np.int64), "axis"),
        numpy_helper.from_array(np.array([-1], dtype=np.int64), "rest"),
    ]
    norms = [weight(name, 8) for name in "gbmv"]
    weights = [weight("w", 8, 3, 3, 3), weight("w2", 8, 8, 3, 3), weight("w3", 10, 8), weight("b3", 10), *norms, *numbers]
    return model(nodes, weights, shape=("batch", 3, 16, 16))


def resnet18() -> onnx.ModelProto:
    """ResNet-18 with norms folded and 32 images, its nodes named by kind and number, as PyTorch's exporter named them for years."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(x: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> str:
        number = len(nodes)
        weights.append(weight(f"w{number}", outputs, inputs, kernel, kernel))
        weights.append(weight(f"b{number}", outputs))
        return node("Conv", x, f"w{number}", f"b{number}", strides=[stride] * 2, pads=[kernel // 2] * 4)

    x = node("Relu", conv("x", 3, 64, 7, 2))
    x = node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for outputs in (64, 128, 256, 512):
        for stride in (1 if outputs == 64 else 2, 1):
            z = node("Relu", conv(x, inputs, outputs, 3, stride))
            z = conv(z, outputs, outputs)
            shortcut = x if inputs == outputs else conv(x, inputs, outputs, 1, stride)
            x, inputs = node("Relu", node("Add", z, shortcut)), outputs
    x = node("Flatten", node("GlobalAveragePool", x))
    weights.extend((weight("fc", 1000, 512), weight("fc_bias", 1000)))
    return model(nodes, weights, shape=(32, 3, 224, 224), output=node("Gemm", x, "fc", "fc_bias", transB=1))


def saved(folder: Path, proto: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path
