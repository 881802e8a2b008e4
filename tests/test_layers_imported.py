"""The layers that only imported networks have, against plain loops that compute them, and those loops against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from perfmodel.layers.attention import Attention
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.conv_transpose2d import ConvTranspose2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer import Layer, ShapeError
from perfmodel.layers.matmul import MatMul
from perfmodel.layers.pad import Pad
from perfmodel.layers.parameter import Parameter
from perfmodel.layers.pointwise import OPERAND_OPS, Pointwise
from perfmodel.layers.rearrange import Rearrange, View
from perfmodel.layers.reduce import REDUCE_OPS, Reduce
from perfmodel.layers.rms_norm import RmsNorm
from perfmodel.layers.sample_conv2d import SampleConv2d
from perfmodel.layers.unsupported import Unsupported
from perfmodel.layers.upsample import Resize, Upsample
from tests.brute_force import EPSILON, Array, check_counts, examples, make_weights
from tests.brute_force_imported import COMPUTE

few = st.integers(1, 4)
images = st.builds(Shape, st.integers(1, 2), few, few, few)


def values(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).uniform(0.5, 2.0, shape)


def computed(layer: Layer, *inputs: Array) -> tuple[Array, list[Array]]:
    weights = make_weights(layer, np.random.default_rng(1))
    return check_counts(layer, inputs, weights), weights


@examples(30)
@given(images, few, st.booleans())
def test_matmul(shape: Shape, columns: int, shared: bool) -> None:
    rows, matrix = values(shape), values((1 if shared else shape.N, columns, shape.C, 1), seed=1)
    expected = np.einsum("nchw,nkc->nkhw", rows, np.broadcast_to(matrix[..., 0], (shape.N, columns, shape.C)))
    np.testing.assert_allclose(computed(MatMul(), rows, matrix)[0], expected, atol=1e-12)


def test_matmul_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="cannot be multiplied"):
        MatMul().output_shape(Shape(2, 8, 4, 1), Shape(2, 3, 7, 1))


@examples(30)
@given(images, few, few, st.booleans())
def test_attention(shape: Shape, keys: int, width: int, shared: bool) -> None:
    heads = 1 if shared else shape.N
    q, k, v = values(shape), values((heads, shape.C, keys, 1), seed=1), values((heads, width, keys, 1), seed=2)
    scores = np.einsum("nchw,ncp->nhwp", q, np.broadcast_to(k[..., 0], (shape.N, shape.C, keys))) / np.sqrt(shape.C)
    weights = special.softmax(scores, axis=-1)
    expected = np.einsum("nhwp,ndp->ndhw", weights, np.broadcast_to(v[..., 0], (shape.N, width, keys)))
    np.testing.assert_allclose(computed(Attention(), q, k, v)[0], expected, atol=1e-9)


def test_attention_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="belong together"):
        Attention().output_shape(Shape(2, 8, 4, 1), Shape(2, 8, 5, 1), Shape(2, 8, 6, 1))


@examples(30)
@given(images, few, few, st.integers(1, 2), st.sampled_from([1, 3]))
def test_sample_conv2d(shape: Shape, outputs: int, width: int, stride: int, kernel: int) -> None:
    """Image by image, with the weights of each."""
    shape = shape._replace(C=shape.C * width, H=max(shape.H, stride), W=max(shape.W, stride))
    x = values(shape)
    each = Conv2d(
        in_channels=shape.C,
        out_channels=outputs * shape.C // width,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        group_width=width,
    )
    weights = values(Shape(shape.N, each.out_channels * width * kernel**2, 1, 1), seed=1)
    result, _ = computed(SampleConv2d(each=each), x, weights)
    pad = kernel // 2
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))), (kernel, kernel), axis=(2, 3)
    )
    grouped = windows[:, :, ::stride, ::stride].reshape(shape.N, shape.C // width, width, *result.shape[2:], kernel, kernel)
    filters = weights.reshape(shape.N, shape.C // width, outputs, width, kernel, kernel)
    expected = np.einsum("ngchwrs,ngkcrs->ngkhw", grouped, filters).reshape(result.shape)
    np.testing.assert_allclose(result, expected, atol=1e-9)


@examples(30)
@given(images, few)
def test_group_norm(shape: Shape, groups: int) -> None:
    shape = shape._replace(C=shape.C * groups)
    x = values(shape)
    result, (gamma, beta) = computed(GroupNorm(channels=shape.C, groups=groups), x)
    rows = x.reshape(shape.N, groups, -1)
    normal = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + EPSILON)
    expected = normal.reshape(shape) * gamma[:, None, None] + beta[:, None, None]
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_groups_must_divide_channels() -> None:
    with pytest.raises(ShapeError, match="divide into 4 groups"):
        GroupNorm(channels=6, groups=4)


@examples(30)
@given(images)
def test_rms_norm(shape: Shape) -> None:
    x = values(shape)
    result, (gamma,) = computed(RmsNorm(channels=shape.C), x)
    expected = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + EPSILON) * gamma[:, None, None]
    np.testing.assert_allclose(result, expected, atol=1e-9)


@examples(30)
@given(images, st.tuples(*[st.integers(0, 3)] * 4))
def test_pad(shape: Shape, sides: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = sides
    x = values(shape)
    output = Shape(shape.N, shape.C, shape.H + top + bottom, shape.W + left + right)
    expected = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    np.testing.assert_array_equal(computed(Pad(output=output, sides=sides), x)[0], expected)


@examples(20)
@given(images)
def test_rearrange(shape: Shape) -> None:
    x = values(shape)
    output = Shape(shape.N, shape.C * shape.H, shape.W, 1)
    np.testing.assert_array_equal(computed(Rearrange(purpose="transpose", output=output), x)[0], x.reshape(output))


@examples(30)
@given(images, few, few, few, st.booleans())
def test_conv_transpose2d(shape: Shape, groups: int, per_group: int, kernel: int, bias: bool) -> None:
    shape = shape._replace(C=shape.C * groups)
    x = values(shape)
    layer = ConvTranspose2d(
        in_channels=shape.C,
        out_channels=groups * per_group,
        kernel=(kernel, 1),
        size=(shape.H + kernel - 1, shape.W),
        group_width=shape.C // groups,
        bias=bias,
    )
    result, weights = computed(layer, x)
    expected = np.zeros((shape.N, groups * per_group, *layer.size))
    filters = weights[0].reshape(groups, shape.C // groups, per_group, kernel)
    for row in range(kernel):
        part = np.einsum("ngchw,gck->ngkhw", x.reshape(shape.N, groups, -1, shape.H, shape.W), filters[..., row])
        expected[:, :, row : row + shape.H] += part.reshape(shape.N, -1, shape.H, shape.W)
    np.testing.assert_allclose(result, expected + (weights[1][:, None, None] if bias else 0.0), atol=1e-12)


REDUCED = {"product": "prod", "variance": "var"}


@pytest.mark.parametrize("function", REDUCE_OPS)
@examples(15)
@given(shape=images)
def test_reduce(function: str, shape: Shape) -> None:
    x = values(shape)
    result, _ = computed(Reduce(function=function, output=Shape(shape.N, shape.C, 1, 1)), x)
    if function == "norm":
        expected = np.sqrt((x**2).sum(axis=(2, 3), keepdims=True))
    else:
        expected = getattr(np, REDUCED.get(function, function))(x, axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(result, expected, atol=1e-9)


ARITHMETIC = {
    "compare": lambda a, b: (a > b).astype(float),
    "select": lambda a, b: np.where(a > 0, a, b),
}


@pytest.mark.parametrize("function", OPERAND_OPS)
@examples(15)
@given(shape=images, broadcast=st.tuples(st.booleans(), st.booleans()))
def test_pointwise(function: str, shape: Shape, broadcast: tuple[bool, bool]) -> None:
    """Operands of one image, or one pixel, are read once."""
    left = values(shape)
    right = values(shape._replace(N=1 if broadcast[0] else shape.N, C=1 if broadcast[1] else shape.C), seed=1)
    if function == "multiply_add":  # of three operands
        result, _ = computed(Pointwise(function=function, operands=3, output=shape), left, left, right)
        np.testing.assert_allclose(result, left + left * right, rtol=1e-9)
        return
    expected = ARITHMETIC.get(function, getattr(np, function, None))(left, right)
    result, _ = computed(Pointwise(function=function, operands=2, output=shape), left, right)
    np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_every_imported_layer_is_computed() -> None:
    assert {MatMul, Attention, GroupNorm, RmsNorm, Pad, Rearrange, ConvTranspose2d, Reduce, Pointwise, SampleConv2d} <= set(
        COMPUTE
    )


@examples(20)
@given(images)
def test_a_view_moves_nothing_and_a_parameter_is_there(shape: Shape) -> None:
    view = View(output=shape).count(shape)
    assert (view.macs, view.vector_ops, view.special_ops, view.writes) == (0, 0, 0, 0)
    parameter = Parameter(shape=shape)
    assert parameter.count().weights == (shape.elements,)
    assert parameter.count().reads == ()


@examples(20)
@given(st.lists(images, min_size=1, max_size=4), images)
def test_what_is_not_understood_reads_and_writes_its_tensors(inputs: list[Shape], output: Shape) -> None:
    count = Unsupported(operation="x", inputs=len(inputs), output=output).count(*inputs)
    assert count.reads == tuple(shape.elements for shape in inputs)
    assert count.writes == output.elements
    assert (count.macs, count.vector_ops, count.special_ops) == (0, 0, 0)


@examples(20)
@given(images, st.integers(1, 3), st.sampled_from(["nearest", "bilinear"]))
def test_resizing_by_a_whole_factor_is_upsampling(shape: Shape, factor: int, mode: str) -> None:
    resized = Resize(size=(shape.H * factor, shape.W * factor), mode=mode)
    enlarged = Upsample(factor=factor, mode=mode)
    assert resized.output_shape(shape) == enlarged.output_shape(shape)
    assert resized.count(shape) == enlarged.count(shape)
