"""Every layer computed one scalar at a time, with every operation counted and every touched element recorded.

Nothing here knows the library's formulas. A `Scalar` cannot be added, multiplied or compared without its `Tally` noticing; a
`Tensor` remembers which of its elements were read and written. The loops compute the true values, so that a test can hold them
against NumPy: a loop that skipped work would give wrong numbers.

What counts: a multiply-accumulate of a convolution or matrix product is one MAC, padding taps included; everywhere else an
addition, subtraction, multiplication or comparison is one vector operation (a fused multiply-add is two), and an evaluation of
exp, tanh, erf, 1/x or 1/√x is one special operation. Index arithmetic is free.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from hypothesis import settings

from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, BiasAdd, Multiply, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.conv_transpose2d import ConvTranspose2d
from perfmodel.layers.copy import Copy
from perfmodel.layers.dims import Shape
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer import Layer
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from perfmodel.layers.rms_norm import RmsNorm
from perfmodel.layers.softmax import Softmax
from perfmodel.layers.upsample import Upsample

Array: TypeAlias = npt.NDArray[np.float64]

EPSILON = 1e-5
"""What norms add to a variance."""


def examples(count: int) -> settings:
    """Settings of a property test: the same `count` examples on every run, and no clock."""
    return settings(max_examples=count, derandomize=True, deadline=None)


@dataclass
class Tally:
    """Operations done so far."""

    macs: int = 0
    vector_ops: int = 0
    special_ops: int = 0


class Scalar:
    """A number whose arithmetic is counted."""

    __slots__ = ("tally", "value")

    def __init__(self, value: float, tally: Tally) -> None:
        self.value = value
        self.tally = tally

    def _vector(self, value: float) -> Scalar:
        self.tally.vector_ops += 1
        return Scalar(value, self.tally)

    def _special(self, value: float) -> Scalar:
        self.tally.special_ops += 1
        return Scalar(value, self.tally)

    def __add__(self, other: Scalar | float) -> Scalar:
        return self._vector(self.value + plain(other))

    def __sub__(self, other: Scalar | float) -> Scalar:
        return self._vector(self.value - plain(other))

    def __mul__(self, other: Scalar | float) -> Scalar:
        return self._vector(self.value * plain(other))

    def maximum(self, other: Scalar | float) -> Scalar:
        return self._vector(max(self.value, plain(other)))

    def minimum(self, other: Scalar | float) -> Scalar:
        return self._vector(min(self.value, plain(other)))

    def exp(self) -> Scalar:
        return self._special(math.exp(self.value))

    def tanh(self) -> Scalar:
        return self._special(math.tanh(self.value))

    def erf(self) -> Scalar:
        return self._special(math.erf(self.value))

    def special(self, function: Callable[[float], float]) -> Scalar:
        """Any other function of one number that takes a special-function unit."""
        return self._special(function(self.value))

    def vector(self, function: Callable[[float], float]) -> Scalar:
        """Any other function of one number that takes one instruction."""
        return self._vector(function(self.value))

    def reciprocal(self) -> Scalar:
        return self._special(1.0 / self.value)

    def reciprocal_root(self) -> Scalar:
        return self._special(1.0 / math.sqrt(self.value))

    def accumulate(self, left: Scalar, right: Scalar) -> Scalar:
        """self + left · right on the matrix unit: one MAC."""
        self.tally.macs += 1
        return Scalar(self.value + left.value * right.value, self.tally)


def plain(number: Scalar | float) -> float:
    return number.value if isinstance(number, Scalar) else number


Index: TypeAlias = tuple[int, ...]


class Tensor:
    """Memory that remembers which elements were read and written. An element is written once."""

    def __init__(self, tally: Tally, shape: tuple[int, ...], values: Array | None = None) -> None:
        self.tally = tally
        self.shape = shape
        self.read: set[Index] = set()
        self.written: set[Index] = set()
        self._values: dict[Index, float] = {} if values is None else {i: float(values[i]) for i in np.ndindex(shape)}

    @classmethod
    def of(cls, tally: Tally, values: Array) -> Tensor:
        return cls(tally, values.shape, values)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def indices(self) -> Iterator[Index]:
        return itertools.product(*map(range, self.shape))

    def __getitem__(self, index: Index) -> Scalar:
        self.read.add(index)
        return Scalar(self._values[index], self.tally)

    def __setitem__(self, index: Index, value: Scalar) -> None:
        assert index not in self.written, f"element {index} is written twice"
        assert all(0 <= i < n for i, n in zip(index, self.shape, strict=True)), f"element {index} is outside of {self.shape}"
        self.written.add(index)
        self._values[index] = value.value

    def tap(self, index: Index, padding: float) -> Scalar:
        """The element at `index`, or the constant `padding` if that lies outside: no memory is touched then."""
        if all(0 <= i < n for i, n in zip(index, self.shape, strict=True)):
            return self[index]
        return Scalar(padding, self.tally)

    def constant(self, value: float) -> Scalar:
        return Scalar(value, self.tally)

    def array(self) -> Array:
        result = np.empty(self.shape)
        for index, value in self._values.items():
            result[index] = value
        return result


def conv2d(layer: Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return convolved(layer, x, weight.shape, lambda n, *place: weight[place], bias)


def convolved(
    layer: Conv2d, x: Tensor, shape: tuple[int, ...], weight: Callable[..., Scalar], bias: Tensor | None = None
) -> Tensor:
    """With the weight of image n at (k, c, r, s), of the `shape` K, C/g, R, S."""
    top, bottom, left, right = layer.padding or (0, 0, 0, 0)
    images, _, height, width = x.shape
    outputs, group_width, rows, columns = shape
    # the last position of a window is the last one whose taps all lie inside of the padded image
    ys = range(-top, height + bottom - layer.dilation[0] * (rows - 1), layer.stride[0])
    xs = range(-left, width + right - layer.dilation[1] * (columns - 1), layer.stride[1])
    per_group = outputs * group_width // x.shape[1]  # output channels that share a group of input channels
    y = Tensor(x.tally, (images, outputs, len(ys), len(xs)))
    for n, k, p, q in y.indices():
        total = y.constant(0.0)
        for c, r, s in itertools.product(range(group_width), range(rows), range(columns)):
            place = (n, k // per_group * group_width + c, ys[p] + r * layer.dilation[0], xs[q] + s * layer.dilation[1])
            total = total.accumulate(x.tap(place, 0.0), weight(n, k, c, r, s))
        y[n, k, p, q] = total + bias[k,] if bias else total
    return y


def linear(layer: Linear, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    images, channels, height, width = x.shape
    y = Tensor(x.tally, (images, weight.shape[0], height, width))
    for n, k, h, w in y.indices():
        total = y.constant(0.0)
        for c in range(channels):
            total = total.accumulate(x[n, c, h, w], weight[k, c])
        y[n, k, h, w] = total + bias[k,] if bias else total
    return y


def batch_norm(layer: BatchNorm, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    for c in range(x.shape[1]):
        slope = gamma[c,] * (variance[c,] + EPSILON).reciprocal_root()
        offset = beta[c,] - mean[c,] * slope
        for n, h, w in itertools.product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3])):
            y[n, c, h, w] = x[n, c, h, w] * slope + offset
    return y


def layer_norm(layer: LayerNorm, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    images, channels, height, width = x.shape
    for n, h, w in itertools.product(range(images), range(height), range(width)):
        total = y.constant(0.0)
        for c in range(channels):
            total = total + x[n, c, h, w]
        mean = total * (1.0 / channels)
        centred = [x[n, c, h, w] - mean for c in range(channels)]
        total = y.constant(0.0)
        for value in centred:
            total = total + value * value
        scale = (total * (1.0 / channels) + EPSILON).reciprocal_root()
        for c, value in enumerate(centred):
            y[n, c, h, w] = value * scale * gamma[c,] + beta[c,]
    return y


def _hard_sigmoid(x: Scalar) -> Scalar:
    return (x + 3.0).maximum(0.0).minimum(6.0) * (1.0 / 6.0)


def _silu(x: Scalar) -> Scalar:
    half = x * 0.5
    return half + half * half.tanh()


def _gelu(x: Scalar) -> Scalar:
    half = x * 0.5
    return half + half * (x * math.sqrt(0.5)).erf()


def _gelu_tanh(x: Scalar) -> Scalar:
    half = x * 0.5
    slope = math.sqrt(2.0 / math.pi)
    return half + half * (x * (x * x * (0.044715 * slope) + slope)).tanh()


ACTIVATIONS: dict[str, Callable[[Scalar], Scalar]] = {
    "relu": lambda x: x.maximum(0.0),
    "relu6": lambda x: x.maximum(0.0).minimum(6.0),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "sigmoid": lambda x: (x * 0.5).tanh() * 0.5 + 0.5,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
"""Each function in the form that layers/activation.py documents."""


def activation(layer: Activation, x: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    for index in y.indices():
        y[index] = ACTIVATIONS[layer.function](x[index])
    return y


def add(layer: Add, x: Tensor, other: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    for index in y.indices():
        y[index] = x[index] + other[index]
    return y


def multiply(layer: Multiply, x: Tensor, factor: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    broadcast = factor.shape != x.shape
    for n, c, h, w in y.indices():
        y[n, c, h, w] = x[n, c, h, w] * (factor[n, c, 0, 0] if broadcast else factor[n, c, h, w])
    return y


def scale(layer: Scale, x: Tensor, weight: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    for index in y.indices():
        y[index] = x[index] * weight[index[1],]
    return y


def bias_add(layer: BiasAdd, x: Tensor, bias: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    for index in y.indices():
        y[index] = x[index] + bias[index[1],]
    return y


def _window_starts(layer: MaxPool | AveragePool, size: int, axis: int) -> list[int]:
    """Where windows start along an axis: wherever they fit into the padded image; in ceil mode also where the one before ends
    short of its end, unless the window would see nothing but padding.
    """
    kernel, stride, pad = layer.kernel[axis], layer.stride[axis], layer.padding[axis]
    end = size + pad
    starts = range(-pad, size, stride)
    return [a for a in starts if a + kernel <= end or (layer.ceil_mode and a - stride + kernel < end)]


def max_pool(layer: MaxPool, x: Tensor) -> Tensor:
    ys, xs = _window_starts(layer, x.shape[2], 0), _window_starts(layer, x.shape[3], 1)
    y = Tensor(x.tally, (*x.shape[:2], len(ys), len(xs)))
    for n, c, p, q in y.indices():
        best = y.constant(-math.inf)
        for r, s in itertools.product(range(layer.kernel[0]), range(layer.kernel[1])):
            best = best.maximum(x.tap((n, c, ys[p] + r, xs[q] + s), -math.inf))
        y[n, c, p, q] = best
    return y


def average_pool(layer: AveragePool, x: Tensor) -> Tensor:
    height, width = x.shape[2] + layer.padding[0], x.shape[3] + layer.padding[1]
    ys, xs = _window_starts(layer, x.shape[2], 0), _window_starts(layer, x.shape[3], 1)
    y = Tensor(x.tally, (*x.shape[:2], len(ys), len(xs)))
    for n, c, p, q in y.indices():
        total = y.constant(0.0)
        for r, s in itertools.product(range(layer.kernel[0]), range(layer.kernel[1])):
            total = total + x.tap((n, c, ys[p] + r, xs[q] + s), 0.0)
        rows, columns = min(layer.kernel[0], height - ys[p]), min(layer.kernel[1], width - xs[q])
        y[n, c, p, q] = total * (1.0 / (rows * columns))
    return y


def adaptive_average_pool(layer: AdaptiveAveragePool, x: Tensor) -> Tensor:
    y = Tensor(x.tally, (*x.shape[:2], *layer.output))
    for n, c, p, q in y.indices():
        rows, columns = (
            range(math.floor(i * size / out), math.ceil((i + 1) * size / out))
            for i, size, out in zip((p, q), x.shape[2:], layer.output, strict=True)
        )
        total = y.constant(0.0)
        for h, w in itertools.product(rows, columns):
            total = total + x[n, c, h, w]
        y[n, c, p, q] = total * (1.0 / (len(rows) * len(columns)))
    return y


def global_average_pool(layer: GlobalAveragePool, x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    y = Tensor(x.tally, (images, channels, 1, 1))
    for n, c in itertools.product(range(images), range(channels)):
        total = y.constant(0.0)
        for h, w in itertools.product(range(height), range(width)):
            total = total + x[n, c, h, w]
        y[n, c, 0, 0] = total * (1.0 / (height * width))
    return y


def concat(layer: Concat, *parts: Tensor) -> Tensor:
    images, _, height, width = parts[0].shape
    y = Tensor(parts[0].tally, (images, sum(part.shape[1] for part in parts), height, width))
    first = 0
    for part in parts:
        for n, c, h, w in part.indices():
            y[n, first + c, h, w] = part[n, c, h, w]
        first += part.shape[1]
    return y


def _between(left: Scalar, right: Scalar, position: float) -> Scalar:
    return left + (right - left) * position


def _source(index: int, factor: int, size: int) -> tuple[int, int, float]:
    """The two pixels that pixel `index` of the enlarged image lies between, and where (pixel centres at half integers)."""
    place = max(0.0, (index + 0.5) / factor - 0.5)
    before = int(place)
    return before, min(before + 1, size - 1), place - before


def upsample(layer: Upsample, x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    y = Tensor(x.tally, (images, channels, height * layer.factor, width * layer.factor))
    for n, c, p, q in y.indices():
        if layer.mode == "nearest":
            y[n, c, p, q] = x[n, c, p // layer.factor, q // layer.factor]
            continue
        upper, lower, down = _source(p, layer.factor, height)
        left, right, across = _source(q, layer.factor, width)
        above = _between(x[n, c, upper, left], x[n, c, upper, right], across)
        below = _between(x[n, c, lower, left], x[n, c, lower, right], across)
        y[n, c, p, q] = _between(above, below, down)
    return y


def softmax(layer: Softmax, x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    y = Tensor(x.tally, x.shape)
    for n, h, w in itertools.product(range(images), range(height), range(width)):
        best = y.constant(-math.inf)
        for c in range(channels):
            best = best.maximum(x[n, c, h, w])
        powers = [(x[n, c, h, w] - best).exp() for c in range(channels)]
        total = y.constant(0.0)
        for power in powers:
            total = total + power
        share = total.reciprocal()
        for c, power in enumerate(powers):
            y[n, c, h, w] = power * share
    return y


def copy(layer: Copy, x: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    for index in y.indices():
        y[index] = x[index]
    return y


COMPUTE: dict[type[Layer], Callable[..., Tensor]] = {
    Conv2d: conv2d,
    Linear: linear,
    BatchNorm: batch_norm,
    LayerNorm: layer_norm,
    Activation: activation,
    Add: add,
    Multiply: multiply,
    Scale: scale,
    BiasAdd: bias_add,
    MaxPool: max_pool,
    AveragePool: average_pool,
    AdaptiveAveragePool: adaptive_average_pool,
    GlobalAveragePool: global_average_pool,
    Concat: concat,
    Upsample: upsample,
    Softmax: softmax,
    Copy: copy,
}
"""How to compute each type of layer."""


def make_weights(layer: Layer, random: np.random.Generator) -> list[Array]:
    """Weights of random values, in the order and of the shapes that a framework keeps them in."""
    match layer:
        case Conv2d():
            shapes = [(layer.out_channels, layer.group_width, *layer.kernel), *([(layer.out_channels,)] if layer.bias else [])]
        case Linear():
            shapes = [(layer.out_channels, layer.in_channels), *([(layer.out_channels,)] if layer.bias else [])]
        case BatchNorm():
            shapes = [(layer.channels,)] * 4
        case LayerNorm() | GroupNorm():
            shapes = [(layer.channels,)] * 2
        case ConvTranspose2d():
            groups = layer.in_channels // layer.group_width
            shapes = [(layer.in_channels, layer.out_channels // groups, *layer.kernel)]
            shapes += [(layer.out_channels,)] if layer.bias else []
        case Scale() | BiasAdd() | RmsNorm():
            shapes = [(layer.channels,)]
        case _:
            shapes = []
    return [random.uniform(0.5, 2.0, shape) for shape in shapes]  # positive: some are variances


def check_counts(layer: Layer, inputs: Sequence[Array], weights: Sequence[Array]) -> Array:
    """Compute `layer` by brute force, assert that the library counted exactly what happened, and return the result."""
    tally = Tally()
    sources = [Tensor.of(tally, values) for values in inputs]
    parameters = [Tensor.of(tally, values) for values in weights]
    result = COMPUTE[type(layer)](layer, *sources, *parameters)

    shapes = [Shape(*values.shape) for values in inputs]
    count = layer.count(*shapes)
    assert result.shape == layer.output_shape(*shapes)
    assert (tally.macs, tally.vector_ops, tally.special_ops) == (count.macs, count.vector_ops, count.special_ops)
    assert [len(source.read) for source in sources] == list(count.reads)
    assert len(result.written) == result.size == count.writes
    assert [len(parameter.read) for parameter in parameters] == list(count.weights)
    assert [parameter.size for parameter in parameters] == list(count.weights)
    exists = sum(tensor.size for tensor in (*sources, *parameters, result))
    assert layer.formula.footprint_bytes(3).xreplace(layer.binding(*shapes)) == 3 * exists
    return result.array()
