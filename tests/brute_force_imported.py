"""The layers that only imported networks have, one scalar at a time, beside those of brute_force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from perfmodel.layers.attention import Attention
from perfmodel.layers.conv_transpose2d import ConvTranspose2d
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.matmul import MatMul
from perfmodel.layers.pad import Pad
from perfmodel.layers.pointwise import Pointwise
from perfmodel.layers.rearrange import Rearrange
from perfmodel.layers.reduce import Reduce
from perfmodel.layers.rms_norm import RmsNorm
from perfmodel.layers.sample_conv2d import SampleConv2d
from tests.brute_force import ACTIVATIONS, COMPUTE, EPSILON, Scalar, Tensor, convolved

LEAK = 0.01


def _mish(x: Scalar) -> Scalar:
    t = x.exp()
    n = t * (t + 2.0)
    return x * n * (n + 2.0).reciprocal()


ACTIVATIONS.update(
    {
        "clamp": lambda x: x.maximum(-1.0).minimum(1.0),
        "leaky_relu": lambda x: x.maximum(x * LEAK),
        "elu": lambda x: x.maximum(0.0) + (x.exp() - 1.0).minimum(0.0),
        "mish": _mish,
        "softplus": lambda x: (x.exp() + 1.0).special(math.log),
        "tanh": Scalar.tanh,
        "exp": Scalar.exp,
        "erf": Scalar.erf,
        "reciprocal": Scalar.reciprocal,
        "rsqrt": Scalar.reciprocal_root,
        "log": lambda x: x.special(math.log),
        "sqrt": lambda x: x.special(math.sqrt),
        "sin": lambda x: x.special(math.sin),
        "cos": lambda x: x.special(math.cos),
        "square": lambda x: x * x,
        "abs": lambda x: x.vector(abs),
        "negate": lambda x: x.vector(lambda value: -value),
        "round": lambda x: x.vector(round),
    }
)


def sample_conv2d(layer: SampleConv2d, x: Tensor, weights: Tensor) -> Tensor:
    each = layer.each
    shape = (each.out_channels, each.group_width, *each.kernel)
    return convolved(each, x, shape, lambda n, k, c, r, s: weights[n, ((k * shape[1] + c) * shape[2] + r) * shape[3] + s, 0, 0])


def matmul(layer: MatMul, rows: Tensor, matrix: Tensor) -> Tensor:
    images, inner, height, width = rows.shape
    matrices, columns, _, _ = matrix.shape
    y = Tensor(rows.tally, (images, columns, height, width))
    for n, k, h, w in y.indices():
        total = y.constant(0.0)
        for c in range(inner):
            total = total.accumulate(rows[n, c, h, w], matrix[n % matrices, k, c, 0])
        y[n, k, h, w] = total
    return y


def attention(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    images, width, height, columns = q.shape
    shared = k.shape[0]
    keys = list(itertools.product(range(k.shape[2]), range(k.shape[3])))
    y = Tensor(q.tally, (images, v.shape[1], height, columns))
    for n, h, w in itertools.product(range(images), range(height), range(columns)):
        scores = []
        for p, r in keys:
            total = y.constant(0.0)
            for c in range(width):
                total = total.accumulate(q[n, c, h, w], k[n % shared, c, p, r])
            scores.append(total * (1.0 / math.sqrt(width)))
        best = y.constant(-math.inf)
        for score in scores:
            best = best.maximum(score)
        powers = [(score - best).exp() for score in scores]
        total = y.constant(0.0)
        for power in powers:
            total = total + power
        share = total.reciprocal()
        weights = [power * share for power in powers]
        for d in range(v.shape[1]):
            result = y.constant(0.0)
            for weight, (p, r) in zip(weights, keys, strict=True):
                result = result.accumulate(weight, v[n % shared, d, p, r])
            y[n, d, h, w] = result
    return y


def group_norm(layer: GroupNorm, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    images, channels, height, width = x.shape
    each = channels // layer.groups
    for n, group in itertools.product(range(images), range(layer.groups)):
        places = list(itertools.product(range(group * each, (group + 1) * each), range(height), range(width)))
        total = y.constant(0.0)
        for place in places:
            total = total + x[n, *place]
        mean = total * (1.0 / len(places))
        centred = [x[n, *place] - mean for place in places]
        total = y.constant(0.0)
        for value in centred:
            total = total + value * value
        scale = (total * (1.0 / len(places)) + EPSILON).reciprocal_root()
        for place, value in zip(places, centred, strict=True):
            y[n, *place] = value * scale * gamma[place[0],] + beta[place[0],]
    return y


def rms_norm(layer: RmsNorm, x: Tensor, gamma: Tensor) -> Tensor:
    y = Tensor(x.tally, x.shape)
    images, channels, height, width = x.shape
    for n, h, w in itertools.product(range(images), range(height), range(width)):
        total = y.constant(0.0)
        for c in range(channels):
            total = total + x[n, c, h, w] * x[n, c, h, w]
        scale = (total * (1.0 / channels) + EPSILON).reciprocal_root()
        for c in range(channels):
            y[n, c, h, w] = x[n, c, h, w] * scale * gamma[c,]
    return y


def pad(layer: Pad, x: Tensor) -> Tensor:
    top, _, left, _ = layer.sides or (0, 0, 0, 0)
    y = Tensor(x.tally, tuple(layer.output))
    for n, c, h, w in y.indices():
        y[n, c, h, w] = x.tap((n, c, h - top, w - left), 0.0)
    return y


def rearrange(layer: Rearrange, x: Tensor) -> Tensor:
    y = Tensor(x.tally, tuple(layer.output))
    for target, source in zip(y.indices(), x.indices(), strict=True):
        y[target] = x[source]
    return y


def conv_transpose2d(layer: ConvTranspose2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Every input pixel adds its kernel at stride 1; what lies outside of the result is computed and cut off."""
    images, channels, height, width = x.shape
    _, per_group, rows, columns = weight.shape
    y = Tensor(x.tally, (images, layer.out_channels, *layer.size))
    totals = {index: y.constant(0.0) for index in y.indices()}
    for n, c, h, w, k, r, s in itertools.product(*map(range, (images, channels, height, width, per_group, rows, columns))):
        place = (n, c // layer.group_width * per_group + k, h + r, w + s)
        totals[place] = totals.get(place, y.constant(0.0)).accumulate(x[n, c, h, w], weight[c, k, r, s])
    for index in y.indices():
        y[index] = totals[index] + bias[index[1],] if bias else totals[index]
    return y


_STEPS: dict[str, Callable[[Scalar, Scalar], Scalar]] = {
    "sum": lambda total, x: total + x,
    "mean": lambda total, x: total + x,
    "max": Scalar.maximum,
    "min": Scalar.minimum,
    "product": lambda total, x: total * x,
    "norm": lambda total, x: total + x * x,
}
_STARTS = {"max": -math.inf, "min": math.inf, "product": 1.0}


def reduce(layer: Reduce, x: Tensor) -> Tensor:
    """Over the rows and columns of each channel."""
    y = Tensor(x.tally, tuple(layer.output))
    pixels = list(itertools.product(range(x.shape[2]), range(x.shape[3])))
    for n, c, p, q in y.indices():
        values = [x[n, c, h, w] for h, w in pixels]
        function = layer.function
        if function == "variance":
            mean = y.constant(0.0)
            for value in values:
                mean = mean + value
            mean = mean * (1.0 / len(values))
            values = [value - mean for value in values]
            function = "norm"
        total = y.constant(_STARTS.get(function, 0.0))
        for value in values:
            total = _STEPS[function](total, value)
        if layer.function in ("mean", "variance"):
            total = total * (1.0 / len(values))
        y[n, c, p, q] = total.special(math.sqrt) if layer.function == "norm" else total
    return y


_COMBINED: dict[str, Callable[..., Scalar]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "multiply_add": lambda a, b, c: a + b * c,
    "maximum": Scalar.maximum,
    "minimum": Scalar.minimum,
    "compare": lambda a, b: a.vector(lambda value: float(value > b.value)),
    "select": lambda a, b: a.vector(lambda value: value if value > 0 else b.value),
    "divide": lambda a, b: a * b.reciprocal(),
    "power": lambda a, b: (a.special(math.log) * b).exp(),
}


def pointwise(layer: Pointwise, *operands: Tensor) -> Tensor:
    y = Tensor(operands[0].tally, tuple(layer.output))
    for index in y.indices():
        values = [t[tuple(i if n > 1 else 0 for i, n in zip(index, t.shape, strict=True))] for t in operands]
        y[index] = _COMBINED[layer.function](*values)
    return y


COMPUTE.update(
    {
        MatMul: matmul,
        Attention: attention,
        GroupNorm: group_norm,
        RmsNorm: rms_norm,
        Pad: pad,
        Rearrange: rearrange,
        ConvTranspose2d: conv_transpose2d,
        Reduce: reduce,
        Pointwise: pointwise,
        SampleConv2d: sample_conv2d,
    }
)
