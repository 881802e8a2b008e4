"""ONNX files made node by node, for tests: good ones, and what an attacker would send."""

from pathlib import Path

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


def saved(folder: Path, proto: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path
