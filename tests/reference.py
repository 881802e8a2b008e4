"""What fused programs are compared with: a graph computed layer by layer with NumPy, in float64; and exact values of expressions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import reduce
from math import erf

import numpy as np
import numpy.typing as npt
import sympy

from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, Multiply, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Dim, Shape
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.interpreter import Counters, Interpreter
from perfmodel.machine.program import Program
from perfmodel.machine.steps import steps_of
from perfmodel.machine.totals import Totals, totals

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
        case "gelu_tanh":
            return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
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


def graph_of(blocks: Sequence[Block], images: Dim, height: Dim, width: Dim) -> Graph:
    """Blocks b0, b1 … one after the other."""
    builder = GraphBuilder()
    x = builder.input(Shape(images, blocks[0].in_channels, height, width))
    for number, block in enumerate(blocks):
        x = builder.block(block, x, name=f"b{number}")
    return builder.graph()


def layers_of(graph: Graph) -> list[str]:
    """All layers but the input."""
    return [name for name in graph.nodes if name != "input"]


def programs_of(graph: Graph, tiling: Tiling) -> tuple[Program, ...]:
    """The fused programs of a whole graph, for elements of two bytes."""
    return fused_programs(graph, layers_of(graph), tiling, element_bytes=2)


def assert_equal(counters: Counters, total: Totals) -> None:
    """What was done is what was derived, to the last element and byte."""
    assert counters.macs == total.macs
    assert counters.vector_ops == total.vector_ops
    assert counters.special_ops == total.special_ops
    assert counters.loaded == dict(total.loaded)
    assert counters.stored == dict(total.stored)
    assert counters.peak_local_bytes == total.peak_local_bytes


def count(programs: Sequence[Program]) -> list[Counters]:
    """Run programs one after the other, on ones, for their counts."""
    done = []
    data: dict[str, Array] = {}
    for program in programs:
        for tensor in program.tensors:
            if tensor.role in ("input", "weight"):
                data.setdefault(tensor.name, np.ones(tensor.shape))
        interpreter = Interpreter(program, {t.name: data[t.name] for t in program.tensors if t.name in data})
        data.update(interpreter.run())
        done.append(interpreter.counters)
    return done


def check(graph: Graph, tiling: Tiling, seed: int = 0) -> list[tuple[Program, Totals]]:
    """Run the fused programs of a graph: every stored tensor is the reference's, every count is the derived total."""
    weights = weights_for(graph, seed)
    x = np.random.default_rng(seed).normal(size=graph.nodes["input"].shape)
    expected = run(graph, {"input": x}, weights)
    order = list(graph.nodes)
    last_layer = {step.name: max(step.layers, key=order.index) for step in steps_of(graph, layers_of(graph)) if not step.gate}
    data: dict[str, Array] = {**weights, "input": x}
    checked = []
    for program in programs_of(graph, tiling):
        given = {tensor.name: data[tensor.name] for tensor in program.tensors if tensor.name in data}
        interpreter = Interpreter(program, given)
        stored = interpreter.run()
        total = totals(program)
        assert_equal(interpreter.counters, total)
        for name, value in stored.items():
            layer = name.removesuffix(".sums")
            reference = expected[last_layer.get(layer, order[-1])]
            if layer != name:
                reference = reference.sum(axis=(2, 3), keepdims=True)
            np.testing.assert_allclose(value, reference, rtol=1e-9, atol=1e-9, err_msg=name)
        data.update(stored)
        checked.append((program, total))
    assert order[-1] in last_layer.values() or steps_of(graph, layers_of(graph))[-1].gate
    return checked


def evaluate(expression: Dim, values: Mapping[sympy.Symbol, int], known: dict[sympy.Expr, Fraction] | None = None) -> Fraction:
    """A sympy expression for whole numbers, in exact fractions. `known` remembers the parts that expressions share."""
    known = {} if known is None else known
    if not isinstance(expression, sympy.Basic):
        return Fraction(expression)
    if expression not in known:
        if expression.is_Symbol:
            known[expression] = Fraction(values[expression])
        elif expression.is_Rational:
            known[expression] = Fraction(int(expression.p), int(expression.q))
        else:
            parts = [evaluate(part, values, known) for part in expression.args]
            known[expression] = _apply(expression, parts)
    return known[expression]


def _apply(expression: sympy.Expr, parts: list[Fraction]) -> Fraction:
    match expression:
        case sympy.Add():
            return sum(parts, Fraction(0))
        case sympy.Mul():
            return reduce(lambda left, right: left * right, parts)
        case sympy.Pow():
            base, exponent = parts
            assert exponent.denominator == 1
            return base ** int(exponent)
        case sympy.floor():
            return Fraction(math.floor(parts[0]))
        case sympy.ceiling():
            return Fraction(math.ceil(parts[0]))
        case sympy.Min():
            return min(parts)
        case sympy.Max():
            return max(parts)
        case _:
            raise AssertionError(expression)
