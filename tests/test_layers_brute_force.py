"""Each layer's counts against plain loops that compute it, and those loops against NumPy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from scipy import special, stats

from perfmodel.layers.activation import ELEMENT_OPS, Activation
from perfmodel.layers.arithmetic import Add, BiasAdd, Multiply, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.catalog import BLOCKS, FORMULAS
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.copy import Copy, Input
from perfmodel.layers.dims import Shape, adaptive_windows, extent_read, output_size
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.layers.layer import Layer, ShapeError
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from perfmodel.layers.softmax import Softmax
from perfmodel.layers.upsample import Upsample
from tests.brute_force import EPSILON, Array, Scalar, Tally, check_counts, examples, make_weights
from tests.brute_force_imported import ACTIVATIONS, COMPUTE, LEAK
from tests.small_networks import small_block

sizes = st.integers(1, 7)
batches = st.integers(1, 2)
channels = st.integers(1, 5)
images = st.builds(Shape, batches, channels, sizes, sizes)


def values(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).uniform(-2.0, 2.0, shape)


def computed(layer: Layer, *inputs: Array) -> tuple[Array, list[Array]]:
    """Check the layer's counts; return its result and the weights that were used."""
    weights = make_weights(layer, np.random.default_rng(1))
    return check_counts(layer, inputs, weights), weights


def numpy_conv(layer: Conv2d, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Convolution by views of shifted windows and one tensor contraction per group."""
    top, bottom, left, right = layer.padding or (0, 0, 0, 0)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    span = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel, strict=True)]
    windows = sliding_window_view(padded, span, axis=(2, 3))
    windows = windows[:, :, :: layer.stride[0], :: layer.stride[1], :: layer.dilation[0], :: layer.dilation[1]]
    groups = x.shape[1] // weight.shape[1]
    parts = zip(np.split(windows, groups, axis=1), np.split(weight, groups, axis=0), strict=True)
    result = np.concatenate([np.einsum("ncpqrs,kcrs->nkpq", part, filters) for part, filters in parts], axis=1)
    return result if bias is None else result + bias[:, None, None]


@st.composite
def windows_along_an_axis(draw: st.DrawFn, max_dilation: int = 2) -> tuple[int, int, int, int, int, int]:
    """(kernel, stride, dilation, padding before, padding behind, size) of a window that fits its image at least once."""
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, max_dilation))
    before, behind = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    least = max(1, stride, dilation * (kernel - 1) + 1 - before - behind)
    return kernel, stride, dilation, before, behind, draw(st.integers(least, max(least, 7)))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Conv2d, Shape]:
    rows, columns = draw(windows_along_an_axis()), draw(windows_along_an_axis())
    groups, group_width, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layer = Conv2d(
        in_channels=groups * group_width,
        out_channels=groups * per_group,
        kernel=(rows[0], columns[0]),
        stride=(rows[1], columns[1]),
        dilation=(rows[2], columns[2]),
        padding=(rows[3], rows[4], columns[3], columns[4]),
        group_width=group_width,
        bias=draw(st.booleans()),
    )
    return layer, Shape(draw(batches), groups * group_width, rows[5], columns[5])


@examples(300)
@given(convolutions())
def test_conv2d(case: tuple[Conv2d, Shape]) -> None:
    layer, shape = case
    x = values(shape)
    result, weights = computed(layer, x)
    np.testing.assert_allclose(result, numpy_conv(layer, x, *weights), atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv2d(in_channels=3, out_channels=4, kernel=(3, 3)), Shape(2, 3, 5, 7)),  # padding that keeps the size
        (Conv2d(in_channels=2, out_channels=2, kernel=(1, 1), stride=(2, 2)), Shape(1, 2, 7, 7)),  # skips rows and columns
        (Conv2d(in_channels=1, out_channels=1, kernel=(2, 2), stride=(3, 3)), Shape(1, 1, 7, 6)),
        (Conv2d(in_channels=6, out_channels=6, kernel=(7, 7), group_width=1, bias=True), Shape(1, 6, 7, 7)),
        (Conv2d(in_channels=4, out_channels=6, kernel=(3, 1), dilation=(3, 1), group_width=2), Shape(1, 4, 5, 3)),
        # every tap of the first and last output falls into the padding
        (Conv2d(in_channels=1, out_channels=1, kernel=(1, 1), padding=(2, 3, 0, 1)), Shape(1, 1, 2, 2)),
        # a stride of 2 between taps 2 apart never sees the odd rows
        (Conv2d(in_channels=1, out_channels=1, kernel=(3, 3), stride=(2, 2), dilation=(2, 2)), Shape(1, 1, 7, 7)),
    ],
)
def test_conv2d_by_hand(layer: Conv2d, shape: Shape) -> None:
    x = values(shape)
    result, weights = computed(layer, x)
    np.testing.assert_allclose(result, numpy_conv(layer, x, *weights), atol=1e-12)


@examples(500)
@given(windows_along_an_axis(max_dilation=3))
def test_extent_read_counts_the_rows_that_some_tap_reads(window: tuple[int, ...]) -> None:
    kernel, stride, dilation, before, behind, size = window
    outputs = output_size(size, kernel, stride, before + behind, dilation)
    touched = [0] * size
    starts = [start for start in range(-before, size + behind) if start + dilation * (kernel - 1) < size + behind][::stride]
    assert outputs == len(starts)
    for start, tap in itertools.product(starts, range(kernel)):
        if 0 <= start + tap * dilation < size:
            touched[start + tap * dilation] = 1
    assert extent_read(size, kernel, stride, before, dilation, outputs) == sum(touched)


def test_windows_that_see_padding_only_read_nothing() -> None:
    assert extent_read(2, kernel=1, stride=5, padding_before=3, dilation=1, outputs=1) == 0
    assert extent_read(2, kernel=1, stride=1, padding_before=3, dilation=1, outputs=1) == 0
    assert extent_read(2, kernel=2, stride=1, padding_before=3, dilation=1, outputs=2) == 0
    assert extent_read(2, kernel=2, stride=1, padding_before=3, dilation=1, outputs=3) == 1


@examples(40)
@given(images, st.integers(1, 6), st.booleans())
def test_linear(shape: Shape, outputs: int, bias: bool) -> None:
    x = values(shape)
    result, weights = computed(Linear(in_channels=shape.C, out_channels=outputs, bias=bias), x)
    expected = np.moveaxis(np.moveaxis(x, 1, -1) @ weights[0].T + (weights[1] if bias else 0.0), -1, 1)
    np.testing.assert_allclose(result, expected, atol=1e-12)


@examples(30)
@given(images)
def test_batch_norm(shape: Shape) -> None:
    x = values(shape)
    result, weights = computed(BatchNorm(channels=shape.C), x)
    gamma, beta, mean, variance = (weight[:, None, None] for weight in weights)
    np.testing.assert_allclose(result, gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta, atol=1e-12)


@examples(30)
@given(images)
def test_layer_norm(shape: Shape) -> None:
    x = values(shape)
    result, weights = computed(LayerNorm(channels=shape.C), x)
    gamma, beta = (weight[:, None, None] for weight in weights)
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(result, gamma * centred / np.sqrt(x.var(axis=1, keepdims=True) + EPSILON) + beta, atol=1e-9)


TRUE_ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "hard_sigmoid": lambda x: min(max(x / 6.0 + 0.5, 0.0), 1.0),
    "hard_swish": lambda x: x * min(max(x / 6.0 + 0.5, 0.0), 1.0),
    "sigmoid": lambda x: 1.0 / (1.0 + math.exp(-x)),
    "silu": lambda x: x / (1.0 + math.exp(-x)),
    "gelu": lambda x: x * stats.norm.cdf(x),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "clamp": lambda x: min(max(x, -1.0), 1.0),
    "leaky_relu": lambda x: x if x > 0 else LEAK * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "rsqrt": lambda x: x**-0.5,
    "reciprocal": lambda x: 1.0 / x,
    "square": lambda x: x**2,
    "abs": abs,
    "negate": lambda x: -x,
    "round": round,
    **{name: getattr(math, name) for name in ("tanh", "exp", "log", "erf", "sqrt", "sin", "cos")},
}
OF_POSITIVE_NUMBERS = ("log", "sqrt", "rsqrt", "reciprocal")


@pytest.mark.parametrize("function", ELEMENT_OPS)
@pytest.mark.parametrize("x", [-30.0, -7.5, -3.0, -1.25, -1e-3, 0.0, 0.5, 1.0, 2.75, 3.0, 6.5, 30.0])
def test_activations_compute_what_they_are_named_after(function: str, x: float) -> None:
    x = abs(x) + 0.5 if function in OF_POSITIVE_NUMBERS else x
    tally = Tally()
    result = ACTIVATIONS[function](Scalar(x, tally))
    assert result.value == pytest.approx(TRUE_ACTIVATIONS[function](x), rel=1e-9, abs=1e-12)
    assert (tally.vector_ops, tally.special_ops) == ELEMENT_OPS[function]


@examples(60)
@given(st.sampled_from(sorted(ELEMENT_OPS)), images)
def test_activation(function: str, shape: Shape) -> None:
    x = np.abs(values(shape)) + 0.5 if function in OF_POSITIVE_NUMBERS else values(shape)
    result, _ = computed(Activation(function=function), x)
    np.testing.assert_allclose(result, np.vectorize(TRUE_ACTIVATIONS[function])(x), atol=1e-12)


@examples(20)
@given(images)
def test_add(shape: Shape) -> None:
    left, right = values(shape), values(shape, seed=1)
    np.testing.assert_array_equal(computed(Add(), left, right)[0], left + right)


@examples(30)
@given(images, st.booleans())
def test_multiply(shape: Shape, per_channel: bool) -> None:
    x, factor = values(shape), values(shape._replace(H=1, W=1) if per_channel else shape, seed=1)
    np.testing.assert_array_equal(computed(Multiply(), x, factor)[0], x * factor)


@examples(20)
@given(images)
def test_scale_and_bias_add(shape: Shape) -> None:
    x = values(shape)
    scaled, (weight,) = computed(Scale(channels=shape.C), x)
    np.testing.assert_array_equal(scaled, x * weight[:, None, None])
    biased, (bias,) = computed(BiasAdd(channels=shape.C), x)
    np.testing.assert_array_equal(biased, x + bias[:, None, None])


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int], bool, Shape]:
    """(kernel, stride, padding, size) along each axis, ceil mode, input shape."""
    axes = []
    ceil_mode = draw(st.booleans())
    for _ in range(2):
        kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 4))
        padding = draw(st.integers(0, kernel // 2))
        least = max(1, stride, kernel - 2 * padding - (stride - 1 if ceil_mode else 0))
        axes.append((kernel, stride, padding, draw(st.integers(least, max(least, 8)))))
    shape = Shape(draw(batches), draw(st.integers(1, 2)), axes[0][3], axes[1][3])
    return axes[0], axes[1], ceil_mode, shape


def pool_windows(axis: tuple[int, int, int, int], ceil_mode: bool) -> list[tuple[int, int]]:
    """(start, stop) in the padded image; the textbook's output size, with windows clipped at the padded image's back."""
    kernel, stride, padding, size = axis
    steps = (size + 2 * padding - kernel) / stride
    outputs = (math.ceil if ceil_mode else math.floor)(steps) + 1
    starts = [i * stride for i in range(outputs) if not ceil_mode or i * stride < size + padding]
    return [(start, min(start + kernel, size + 2 * padding)) for start in starts]


@examples(200)
@given(pools())
def test_max_and_average_pool(case: tuple[tuple[int, int, int, int], tuple[int, int, int, int], bool, Shape]) -> None:
    rows, columns, ceil_mode, shape = case
    x = values(shape)
    kernel, stride, padding = zip(rows[:3], columns[:3], strict=True)
    around = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    places = list(itertools.product(pool_windows(rows, ceil_mode), pool_windows(columns, ceil_mode)))
    for kind, outside, reduce in ((MaxPool, -np.inf, np.max), (AveragePool, 0.0, np.mean)):
        layer = kind(kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)
        padded = np.pad(x, around, constant_values=outside)
        expected = np.stack([reduce(padded[:, :, a:b, c:d], axis=(2, 3)) for (a, b), (c, d) in places], axis=-1)
        result, _ = computed(layer, x)
        np.testing.assert_allclose(result, expected.reshape(result.shape), atol=1e-12)


@examples(150)
@given(images, st.integers(1, 9), st.integers(1, 9))
def test_adaptive_average_pool(shape: Shape, height: int, width: int) -> None:
    x = values(shape)
    result, _ = computed(AdaptiveAveragePool(output=(height, width)), x)
    for (p, rows), (q, columns) in itertools.product(
        enumerate(adaptive_windows(shape.H, height)), enumerate(adaptive_windows(shape.W, width))
    ):
        expected = x[:, :, slice(*rows), slice(*columns)].mean(axis=(2, 3))
        np.testing.assert_allclose(result[:, :, p, q], expected, atol=1e-12)


@examples(20)
@given(images)
def test_global_average_pool_is_an_adaptive_one_to_one_pixel(shape: Shape) -> None:
    x = values(shape)
    result, _ = computed(GlobalAveragePool(), x)
    np.testing.assert_allclose(result, x.mean(axis=(2, 3), keepdims=True), atol=1e-12)
    assert GlobalAveragePool().count(shape) == AdaptiveAveragePool(output=(1, 1)).count(shape)


@examples(20)
@given(images, st.lists(channels, min_size=1, max_size=4))
def test_concat(shape: Shape, more: list[int]) -> None:
    parts = [values(shape), *(values(shape._replace(C=c), seed=i) for i, c in enumerate(more))]
    result, _ = computed(Concat(inputs=len(parts)), *parts)
    np.testing.assert_array_equal(result, np.concatenate(parts, axis=1))


@examples(30)
@given(images, st.integers(1, 4), st.sampled_from(["nearest", "bilinear"]))
def test_upsample(shape: Shape, factor: int, mode: str) -> None:
    x = values(shape)
    result, _ = computed(Upsample(factor=factor, mode=mode), x)
    if mode == "nearest":
        expected = np.repeat(np.repeat(x, factor, axis=2), factor, axis=3)
    else:
        expected = x
        for axis in (2, 3):
            size = x.shape[axis]
            places = (np.arange(size * factor) + 0.5) / factor - 0.5
            expected = np.apply_along_axis(lambda line, at=places, n=size: np.interp(at, np.arange(n), line), axis, expected)
    np.testing.assert_allclose(result, expected, atol=1e-12)


@examples(30)
@given(images)
def test_softmax(shape: Shape) -> None:
    x = values(shape)
    np.testing.assert_allclose(computed(Softmax(), x)[0], special.softmax(x, axis=1), atol=1e-12)


@examples(10)
@given(images)
def test_copy(shape: Shape) -> None:
    x = values(shape)
    np.testing.assert_array_equal(computed(Copy(purpose="layout"), x)[0], x)


def computed_graph(graph: Graph, x: Array) -> dict[str, Array]:
    """Run a whole graph by brute force, checking each layer's counts on the way."""
    results: dict[str, Array] = {}
    for name, node in graph.nodes.items():
        if isinstance(node.layer, Input):
            results[name] = x
        else:
            results[name], _ = computed(node.layer, *(results[source] for source in node.inputs))
            assert results[name].shape == node.shape
    return results


@examples(10)
@given(images, st.integers(1, 3))
def test_squeeze_and_excitation(shape: Shape, squeezed: int) -> None:
    builder = GraphBuilder()
    squeeze_excitation(builder, builder.input(shape), squeezed, activation="relu")
    graph = builder.graph()
    x = values(shape)
    results = computed_graph(graph, x)

    random = np.random.default_rng(1)
    reduce, reduce_bias = make_weights(graph.nodes["se.reduce"].layer, random)
    expand, expand_bias = make_weights(graph.nodes["se.expand"].layer, np.random.default_rng(1))
    hidden = np.maximum(x.mean(axis=(2, 3)) @ reduce[:, :, 0, 0].T + reduce_bias, 0.0)
    gate = special.expit(hidden @ expand[:, :, 0, 0].T + expand_bias)
    np.testing.assert_allclose(results["se.mul"], x * gate[:, :, None, None], atol=1e-12)
    assert graph.macs == 2 * shape.N * shape.C * squeezed
    assert graph.params == 2 * shape.C * squeezed + shape.C + squeezed


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_the_sum_of_their_layers(kind: str) -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(1, 8, 4, 3))
    builder.block(small_block(kind), x, name="block")
    graph = builder.graph()
    results = computed_graph(graph, values((1, 8, 4, 3)))
    (output,) = graph.outputs
    assert results[output].shape == (1, 8, 4, 3)


def test_every_layer_kind_is_computed() -> None:
    kinds = {layer.kind for layer in COMPUTE}
    several = ("upsample", "reduce", "pointwise")

    def kind(name: str) -> str:
        stem = name.partition("_")[0]
        return "conv2d" if name == "conv2d_bias" else "activation" if name in ELEMENT_OPS else stem if stem in several else name

    assert {kind(name) for name in FORMULAS} == kinds


@examples(300)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3))
def test_a_window_that_does_not_fit_is_refused(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    layer = Conv2d(
        in_channels=1,
        out_channels=1,
        kernel=(kernel, 1),
        stride=(stride, 1),
        padding=(padding, padding, 0, 0),
        dilation=(dilation, 1),
    )
    shape = Shape(1, 1, size, 1)
    if size + 2 * padding < dilation * (kernel - 1) + 1 or stride > size:
        with pytest.raises(ShapeError, match=f"input of {size}×1"):
            layer.output_shape(shape)
    else:
        starts = range(0, size + 2 * padding - dilation * (kernel - 1), stride)
        assert len(starts) == layer.output_shape(shape).H
