"""A graph of layers computed directly with NumPy, layer by layer, in float64: what fused programs are compared with."""

from __future__ import annotations

from math import erf

import numpy as np
import numpy.typing as npt

from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, Multiply, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.graph import Graph
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import GlobalAveragePool

Array = npt.NDArray[np.float64]
EPSILON = 1e-6


def convolve(x: Array, weight: Array, layer: Conv2d) -> Array:
    """One output at a time: the definition."""
    top, bottom, left, right = layer.padding or (0, 0, 0, 0)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (kernel_h, kernel_w), (stride_h, stride_w), (dilation_h, dilation_w) = layer.kernel, layer.stride, layer.dilation
    height = (padded.shape[2] - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
    width = (padded.shape[3] - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
    out = np.zeros((x.shape[0], weight.shape[0], height, width))
    per_group = weight.shape[0] // (x.shape[1] // layer.group_width)
    for k in range(weight.shape[0]):
        first = (k // per_group) * layer.group_width
        group = padded[:, first : first + layer.group_width]
        for p in range(height):
            for q in range(width):
                rows = slice(p * stride_h, p * stride_h + dilation_h * (kernel_h - 1) + 1, dilation_h)
                columns = slice(q * stride_w, q * stride_w + dilation_w * (kernel_w - 1) + 1, dilation_w)
                out[:, k, p, q] = (group[:, :, rows, columns] * weight[k]).sum(axis=(1, 2, 3))
    return out


def activate(function: str, x: Array) -> Array:
    """Activation functions by their textbook definitions."""
    sigmoid = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    match function:
        case "relu":
            return np.where(x > 0, x, 0)
        case "relu6":
            return np.where(x > 6, 6, np.where(x > 0, x, 0))
        case "sigmoid":
            return sigmoid
        case "silu":
            return x * sigmoid
        case "hard_sigmoid":
            return np.where(x < -3, 0, np.where(x > 3, 1, x / 6 + 0.5))
        case "hard_swish":
            return x * np.where(x < -3, 0, np.where(x > 3, 1, x / 6 + 0.5))
        case "gelu":
            return 0.5 * x * (1 + np.vectorize(erf)(x / 2**0.5))
        case _:
            raise AssertionError(function)


def weights_for(graph: Graph, seed: int) -> dict[str, Array]:
    """Drawn weights, named as fused programs name them: batch norms appear as the bias that they fold into."""
    draw = np.random.default_rng(seed)
    drawn: dict[str, Array] = {}
    for node in graph.nodes.values():
        match node.layer:
            case Conv2d() as layer:
                drawn[f"{node.name}.weight"] = draw.normal(size=(layer.out_channels, layer.group_width, *layer.kernel))
                drawn[f"{node.name}.bias"] = draw.normal(size=layer.out_channels)
            case Linear() as layer:
                drawn[f"{node.name}.weight"] = draw.normal(size=(layer.out_channels, layer.in_channels, 1, 1))
                drawn[f"{node.name}.bias"] = draw.normal(size=layer.out_channels)
            case LayerNorm() as layer:
                drawn[f"{node.name}.weight"] = draw.normal(size=layer.channels)
                drawn[f"{node.name}.bias"] = draw.normal(size=layer.channels)
            case Scale() as layer:
                drawn[f"{node.name}.weight"] = draw.normal(size=layer.channels)
    return drawn


def run(graph: Graph, inputs: dict[str, Array], weights: dict[str, Array]) -> dict[str, Array]:
    """Every layer's output. A convolution's bias is added by itself if it has one, by the norm behind it otherwise."""
    values = dict(inputs)
    for node in graph.nodes.values():
        if node.name in values:
            continue
        xs = [values[name] for name in node.inputs]
        match node.layer:
            case Conv2d() as layer:
                y = convolve(xs[0], weights[f"{node.name}.weight"], layer)
                values[node.name] = y + weights[f"{node.name}.bias"][:, None, None] if layer.bias else y
            case Linear() as layer:
                y = np.einsum("kc,nchw->nkhw", weights[f"{node.name}.weight"][:, :, 0, 0], xs[0])
                values[node.name] = y + weights[f"{node.name}.bias"][:, None, None] if layer.bias else y
            case BatchNorm():
                values[node.name] = xs[0] + weights[f"{node.inputs[0]}.bias"][:, None, None]
            case LayerNorm():
                mean, variance = xs[0].mean(axis=1, keepdims=True), xs[0].var(axis=1, keepdims=True)
                scale, shift = (weights[f"{node.name}.{name}"][:, None, None] for name in ("weight", "bias"))
                values[node.name] = (xs[0] - mean) / np.sqrt(variance + EPSILON) * scale + shift
            case Activation() as layer:
                values[node.name] = activate(layer.function, xs[0])
            case Scale():
                values[node.name] = xs[0] * weights[f"{node.name}.weight"][:, None, None]
            case Add():
                values[node.name] = xs[0] + xs[1]
            case Multiply():
                values[node.name] = xs[0] * xs[1]
            case GlobalAveragePool():
                values[node.name] = xs[0].mean(axis=(2, 3), keepdims=True)
            case _:
                raise AssertionError(node.layer.kind)
    return values
