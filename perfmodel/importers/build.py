"""From recognised operations to layers: a graph that schedules cut as they cut that of a built-in network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from perfmodel.errors import shown
from perfmodel.importers.program import ImportedModelError, Op, Operand, Program
from perfmodel.importers.views import Strides, contiguous, dense, in_order, reshaped
from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, BiasAdd, Multiply, Scale
from perfmodel.layers.attention import Attention
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.conv_transpose2d import ConvTranspose2d
from perfmodel.layers.copy import Copy
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder, Tensor
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer import Layer, ShapeError
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.matmul import MatMul
from perfmodel.layers.pad import Pad
from perfmodel.layers.parameter import Parameter
from perfmodel.layers.pointwise import Pointwise
from perfmodel.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from perfmodel.layers.rearrange import Rearrange, View
from perfmodel.layers.reduce import Reduce
from perfmodel.layers.rms_norm import RmsNorm
from perfmodel.layers.sample_conv2d import SampleConv2d
from perfmodel.layers.softmax import Softmax
from perfmodel.layers.unsupported import Unsupported
from perfmodel.layers.upsample import OUTPUT_OPS, Resize, Upsample


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handle:
    """Where a value of the program is in the graph."""

    node: str
    """The node whose output it is, or is a view of."""
    shape: tuple[int, ...]
    """Its own shape; `base` before it was broadcast."""
    base: tuple[int, ...]
    strides: Strides
    axis: int
    """Which of its axes are channels, as far as one can tell."""

    @property
    def elements(self) -> int:
        """Elements that exist, however often they are broadcast."""
        return math.prod(self.base)


def as_shape(sizes: Sequence[int], axis: int) -> Shape:
    """A tensor of any rank as images: the first axis N, `axis` the channels, all others H and W.

    >>> as_shape((2, 49, 96), 2)
    Shape(N=2, C=96, H=49, W=1)
    """
    if not sizes:
        return Shape(1, 1, 1, 1)
    axis %= len(sizes)
    images = sizes[0] if axis != 0 else 1
    rest = [size for place, size in enumerate(sizes) if place not in (0, axis)]
    height = math.prod(rest[:-1]) if len(rest) > 1 else (rest[0] if rest else 1)
    width = rest[-1] if len(rest) > 1 else 1
    return Shape(images, sizes[axis], height, width)


def build(program: Program) -> Graph:
    """The graph of a recognised program. Raises ImportedModelError where it has no operation that depends on its input."""
    return _Builder(program).run()


_MOST_PIXELS: Final = 1 << 14


class _Builder:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._graph = GraphBuilder()
        self._handles: dict[str, _Handle] = {}

    def run(self) -> Graph:
        for name in self._program.inputs:
            shape = self._program.values[name].shape
            axis = 1 if len(shape) in (2, 4) else len(shape) - 1
            tensor = self._graph.input(as_shape(shape, axis), "input" if len(self._program.inputs) == 1 else name)
            self._handles[name] = self._fresh(tensor, shape, axis)
        for op in self._program.ops:
            method: Callable[[Op], None] = getattr(self, f"_{op.kind}", self._unknown)
            try:
                method(op)
            except ShapeError:
                self._unknown(op)
        try:
            return self._graph.graph()
        except ShapeError:
            raise ImportedModelError(f"{self._program.name} does nothing with its input; check what it returns") from None

    # -- tensors ---------------------------------------------------------------------------------------------------

    def _fresh(self, tensor: Tensor, shape: tuple[int, ...], axis: int, strides: Strides | None = None) -> _Handle:
        axis = axis % len(shape) if shape else 0
        return _Handle(node=tensor.name, shape=shape, base=shape, strides=strides or dense(shape, axis), axis=axis)

    def _shape(self, operand: Operand) -> tuple[int, ...]:
        return self._program.values[operand].shape if isinstance(operand, str) else ()

    def _handle(self, name: str) -> _Handle:
        """The handle of a value; a parameter enters the graph when it is first read as an operand."""
        if name not in self._handles:
            value = self._program.values[name]
            axis = 1 if len(value.shape) == 4 else len(value.shape) - 1
            layer = Parameter(
                shape=as_shape(value.shape, axis),
                trained=value.source == "parameter",
                scalar=len(value.shape) == 0,
                converted=value.converted,
            )
            tensor = self._graph.add(layer, name=name.removeprefix("p_"))
            self._handles[name] = self._fresh(tensor, value.shape, axis)
        return self._handles[name]

    def _tensor(self, name: str, axis: int | None = None) -> Tensor:
        """A value as a layer reads it, with `axis` as its channels."""
        handle = self._handle(name)
        if handle.base != handle.shape:
            return Tensor(name=handle.node, shape=Shape(1, handle.elements, 1, 1))
        return Tensor(name=handle.node, shape=as_shape(handle.shape, handle.axis if axis is None else axis))

    def _put(self, op: Op, layer: Layer, *inputs: Tensor, axis: int, strides: Strides | None = None) -> None:
        shape = self._shape(op.output)
        made = layer.output_shape(*(tensor.shape for tensor in inputs))
        if made.elements != math.prod(shape):
            raise ShapeError(f"{op.kind} {op.name} makes {made}, where the model has {shape}")
        self._handles[op.output] = self._fresh(self._graph.add(layer, *inputs, name=op.name), shape, axis, strides)

    def _same(self, op: Op, handle: _Handle, *, shape: tuple[int, ...] | None = None, axis: int = 0, strides: Strides) -> None:
        """`op` is a view: its result is the same tensor under other axes."""
        shape = self._shape(op.output) if shape is None else shape
        self._handles[op.output] = _Handle(node=handle.node, shape=shape, base=shape, strides=strides, axis=axis)

    def _out(self, op: Op, axis: int) -> Shape:
        return as_shape(self._shape(op.output), axis)

    # -- matrix products -------------------------------------------------------------------------------------------

    def _conv(self, op: Op) -> None:
        weight = self._shape(op.inputs[1])
        kernel = weight[2:]
        if not 1 <= len(kernel) <= 2 or len(self._shape(op.inputs[0])) != len(weight):
            self._unknown(op)
            return
        a = op.attributes
        self._bound(op, kernel, a["stride"], a["dilation"])
        if not self._program.is_parameter(op.inputs[1]) and len(kernel) == 2:
            self._sample_conv(op, kernel)
            return
        flat = len(kernel) == 1  # one-dimensional: an image of one column
        pads = (*a["padding"], (0, 0)) if flat else a["padding"]
        layer = Conv2d(
            in_channels=self._shape(op.inputs[0])[1],
            out_channels=weight[0],
            kernel=(kernel[0], 1 if flat else kernel[1]),
            stride=(a["stride"][0], 1 if flat else a["stride"][1]),
            padding=(*pads[0], *pads[1]),
            dilation=(a["dilation"][0], 1 if flat else a["dilation"][1]),
            group_width=weight[1],
            bias=len(op.inputs) > 2,
            computed_weights=isinstance(op.inputs[1], str) and self._program.values[op.inputs[1]].computed,
        )
        self._put(op, layer, self._tensor(str(op.inputs[0]), 1), axis=1)

    def _sample_conv(self, op: Op, kernel: tuple[int, ...]) -> None:
        """A convolution of one image that holds all images' channels, with computed weights: each image with weights of its own."""
        x, weights = self._handle(str(op.inputs[0])), self._handle(str(op.inputs[1]))
        images = self._shape(self._program.inputs[0])[0]
        _, channels, height, width = x.shape
        shape = self._shape(op.output)
        if x.shape[0] != 1 or channels % images or shape[1] % images or len(op.inputs) > 2:
            self._unknown(op)
            return
        a = op.attributes
        each = Conv2d(
            in_channels=channels // images,
            out_channels=shape[1] // images,
            kernel=(kernel[0], kernel[1]),
            stride=a["stride"],
            padding=(*a["padding"][0], *a["padding"][1]),
            dilation=a["dilation"],
            group_width=self._shape(op.inputs[1])[1],
        )
        inputs = (
            Tensor(name=x.node, shape=Shape(images, channels // images, height, width)),
            Tensor(name=weights.node, shape=Shape(images, weights.elements // images, 1, 1)),
        )
        self._put(op, SampleConv2d(each=each), *inputs, axis=1, strides=contiguous(shape))

    def _conv_transpose(self, op: Op) -> None:
        weight, out = self._shape(op.inputs[1]), self._shape(op.output)
        if len(weight) != 4 or len(out) != 4:
            self._unknown(op)
            return
        layer = ConvTranspose2d(
            in_channels=weight[0],
            out_channels=out[1],
            kernel=(weight[2], weight[3]),
            size=(out[2], out[3]),
            group_width=weight[0] // op.attributes["groups"],
            bias=len(op.inputs) > 2,
        )
        self._put(op, layer, self._tensor(str(op.inputs[0]), 1), axis=1)

    def _linear(self, op: Op) -> None:
        x, weight = str(op.inputs[0]), op.inputs[1]
        if not self._program.is_parameter(weight):
            self._unknown(op) if len(op.inputs) > 2 else self._matmul(replace(op, attributes={"transposed": True}))
            return
        layer = Linear(
            in_channels=self._shape(x)[-1],
            out_channels=self._shape(op.output)[-1],
            bias=len(op.inputs) > 2,
        )
        self._put(op, layer, self._tensor(x, -1), axis=-1)

    def _matmul(self, op: Op) -> None:
        left, right = (str(item) for item in op.inputs[:2])
        first, second = self._shape(left), self._shape(right)
        if "sizes" in op.attributes:
            batch, rows, inner, columns = op.attributes["sizes"]
            batch_b = batch
        else:
            if op.attributes.get("transposed"):
                second = (*second[:-2], *second[-2:][::-1])
            first = first if len(first) > 1 else (1, *first)
            second = second if len(second) > 1 else (*second, 1)
            (rows, inner), columns = first[-2:], second[-1]
            batch = math.prod(self._shape(op.output)) // (rows * columns) if rows * columns else 0
            batch_b = math.prod(second[:-2])
        a, b = self._handle(left), self._handle(right)
        product = self._graph.add(
            MatMul(),
            Tensor(name=a.node, shape=Shape(batch, inner, rows, 1)),
            Tensor(name=b.node, shape=Shape(batch_b, columns, inner, 1)),
            name=op.name,
        )
        self._handles[op.output] = self._fresh(product, self._shape(op.output), -1, contiguous(self._shape(op.output)))

    def _attention(self, op: Op) -> None:
        names = [str(item) for item in op.inputs[:3]]
        shapes = []
        for name in names:
            *_, length, width = self._shape(name)
            shapes.append(Shape(max(1, self._handle(name).elements // (length * width)), width, length, 1))
        tensors = [Tensor(name=self._handle(name).node, shape=shape) for name, shape in zip(names, shapes, strict=True)]
        out = self._shape(op.output)
        result = self._graph.add(Attention(), *tensors, name=op.name)
        # fused kernels write heads next to each other, so that joining them is a view
        strides = _permuted(contiguous(_permuted(out, (0, 2, 1, 3))), (0, 2, 1, 3)) if len(out) == 4 else contiguous(out)
        self._handles[op.output] = self._fresh(result, out, -1, strides)

    def _bound(self, op: Op, *windows: Sequence[int]) -> None:
        """Refuse a window of a size that no network has, and whose rows would take long to count."""
        most = max((*self._shape(op.output)[2:], *(size for window in windows for size in window)))
        if most > _MOST_PIXELS:
            raise ImportedModelError(
                f"layer {shown(op.name)} works on windows or images of {most} pixels in a row, which is more than {_MOST_PIXELS}"
            )

    # -- norms and activations -------------------------------------------------------------------------------------

    def _batch_norm(self, op: Op) -> None:
        x = str(op.inputs[0])
        self._put(op, BatchNorm(channels=self._shape(x)[1]), self._tensor(x, 1), axis=1, strides=self._handle(x).strides)

    def _layer_norm(self, op: Op) -> None:
        self._pixel_norm(op, LayerNorm)

    def _rms_norm(self, op: Op) -> None:
        self._pixel_norm(op, RmsNorm)

    def _pixel_norm(self, op: Op, kind: type[LayerNorm | RmsNorm]) -> None:
        x = str(op.inputs[0])
        shape, axes = self._shape(x), [axis % len(self._shape(x)) for axis in op.attributes["axes"]]
        strides = self._handle(x).strides
        if len(axes) == 1:
            self._put(op, kind(channels=shape[axes[0]]), self._tensor(x, axes[0]), axis=axes[0], strides=strides)
            return
        channels = math.prod(shape[axis] for axis in axes)
        rows = Tensor(name=self._handle(x).node, shape=Shape(math.prod(shape) // channels, channels, 1, 1))
        self._put(op, kind(channels=channels), rows, axis=self._handle(x).axis, strides=strides)

    def _group_norm(self, op: Op) -> None:
        x = str(op.inputs[0])
        layer = GroupNorm(channels=self._shape(x)[1], groups=op.attributes["groups"])
        self._put(op, layer, self._tensor(x, 1), axis=1, strides=self._handle(x).strides)

    def _activation(self, op: Op) -> None:
        x = str(op.inputs[0])
        function = op.attributes["function"]
        if function == "clamp":
            low, high = op.attributes.get("low"), op.attributes.get("high")
            function = "clamp" if low != 0 else "relu" if high is None else "relu6" if high == 6 else "clamp"
        self._elementwise(op, Activation(function=function), x)

    def _elementwise(self, op: Op, layer: Layer, x: str) -> None:
        handle = self._handle(x)
        if handle.base != handle.shape:  # done once for all copies
            tensor = self._graph.add(layer, Tensor(name=handle.node, shape=as_shape(handle.base, handle.axis)), name=op.name)
            self._handles[op.output] = replace(handle, node=tensor.name)
            return
        self._put(op, layer, self._tensor(x), axis=handle.axis, strides=_kept(handle))

    def _convert(self, op: Op) -> None:
        self._elementwise(op, Copy(purpose="cast"), str(op.inputs[0]))

    def _contiguous(self, op: Op) -> None:
        """A view where the tensor lies in the order of its axes; a copy of an image in NHWC, or of what was permuted."""
        x = str(op.inputs[0])
        handle = self._handle(x)
        ordered = contiguous(handle.shape)
        lies = [(size, stride) for size, stride in zip(handle.shape, handle.strides, strict=True) if size > 1]
        wanted = [(size, stride) for size, stride in zip(handle.shape, ordered, strict=True) if size > 1]
        if lies == wanted:
            self._same(op, handle, axis=handle.axis, strides=handle.strides)
        elif handle.base != handle.shape or handle.strides != dense(handle.shape, handle.axis):
            self._copy(op, "transpose", handle.axis)
        else:
            self._put(op, Copy(purpose="layout"), self._tensor(x), axis=handle.axis, strides=ordered)

    def _softmax(self, op: Op) -> None:
        x, axis = str(op.inputs[0]), op.attributes["axis"]
        self._put(op, Softmax(), self._tensor(x, axis), axis=axis, strides=_kept(self._handle(x)))

    # -- elementwise arithmetic ------------------------------------------------------------------------------------

    def _pointwise(self, op: Op) -> None:
        function, out = op.attributes["function"], self._shape(op.output)
        names = list(op.tensors)
        if not names:
            self._constant(op)
            return
        if not self._program.values[op.output].floating and not any(self._program.values[name].floating for name in names):
            self._same(op, self._handle(names[0]), strides=contiguous(out), axis=len(out) - 1)  # arithmetic on sizes and indices
            return
        full = [name for name in names if self._full(name, out)]
        lead = full[0] if full else names[0]
        axis = self._handle(lead).axis if full else (1 if len(out) == 4 else len(out) - 1)
        strides = _kept(self._handle(lead)) if full else None
        layer = self._named_arithmetic(op, function, names, full, axis)
        if layer is not None:
            kind, operands = layer
            self._put(op, kind, *operands, axis=axis, strides=strides)
            return
        layer_ = Pointwise(function=function, operands=len(names), output=as_shape(out, axis))
        operands = [
            self._tensor(name, axis)
            if name in full
            else Tensor(name=self._handle(name).node, shape=Shape(1, self._handle(name).elements, 1, 1))
            for name in names
        ]
        self._put(op, layer_, *operands, axis=axis, strides=strides)

    def _full(self, name: str, out: tuple[int, ...]) -> bool:
        handle = self._handles.get(name)
        return handle is not None and handle.base == out and not self._program.is_parameter(name)

    def _named_arithmetic(
        self, op: Op, function: str, names: list[str], full: list[str], axis: int
    ) -> tuple[Layer, list[Tensor]] | None:
        """The layers that schedules and blocks know by name, where the operands are theirs."""
        if len(op.inputs) != 2 or not full or function not in ("add", "multiply"):
            return None
        out = self._shape(op.output)
        if len(names) == 2 and names[0] == names[1]:
            return (Activation(function="square"), [self._tensor(names[0])]) if function == "multiply" else None
        if len(full) == 2:
            layer: Layer = Add() if function == "add" else Multiply()
            return layer, [self._tensor(name, axis) for name in names]
        if len(names) == 1:
            return None
        other = names[1] if names[0] == full[0] else names[0]
        x = self._tensor(full[0], axis)
        if self._program.is_parameter(other):
            sizes = (1,) * (len(out) - len(self._shape(other))) + self._shape(other)
            if sizes != tuple(size if place == axis else 1 for place, size in enumerate(out)):
                return None
            kind = Scale if function == "multiply" else BiasAdd
            return kind(channels=out[axis], converted=self._program.values[other].converted), [x]
        handle = self._handle(other)
        gate = tuple(size if place in (0, axis) else 1 for place, size in enumerate(out))
        if function == "multiply" and len(handle.base) == len(out) and handle.base == gate:
            return Multiply(), [x, Tensor(name=handle.node, shape=Shape(out[0], out[axis], 1, 1))]
        return None

    # -- reductions and windows ------------------------------------------------------------------------------------

    def _reduce(self, op: Op) -> None:
        x = str(op.inputs[0])
        handle, function = self._handle(x), op.attributes["function"]
        rank = len(self._shape(x))
        axes = set(op.attributes["axes"])
        out = self._shape(op.output)
        if function == "mean" and rank >= 3 and axes == set(range(1, rank)) - {handle.axis}:
            self._put(op, GlobalAveragePool(), self._tensor(x), axis=handle.axis if len(out) == rank else 1)
            return
        left = [place for place in range(rank) if len(out) == rank or place not in axes]
        axis = left.index(handle.axis) if handle.axis in left else len(out) - 1
        # a reduction's result lies in the order of what it was made of
        strides = in_order(out, [handle.strides[place] for place in left]) if len(left) == len(out) else None
        self._put(op, Reduce(function=function, output=as_shape(out, axis)), self._tensor(x), axis=axis, strides=strides)

    def _pool(self, op: Op) -> None:
        a, x = op.attributes, str(op.inputs[0])
        shape = self._shape(x)
        if len(shape) != 4:
            self._unknown(op)
            return
        if a["function"] == "average" and a["kernel"] == shape[2:] and not any(a["padding"]):
            self._put(op, GlobalAveragePool(), self._tensor(x, 1), axis=1)
            return
        self._bound(op, a["kernel"], a["stride"], (1, 1))
        kind = MaxPool if a["function"] == "max" else AveragePool
        layer = kind(kernel=a["kernel"], stride=a["stride"], padding=a["padding"], ceil_mode=a["ceil_mode"])
        self._put(op, layer, self._tensor(x, 1), axis=1)

    def _adaptive_pool(self, op: Op) -> None:
        x = str(op.inputs[0])
        rank, axis = len(self._shape(x)), 1
        output = self._shape(op.output)[2:]
        if math.prod(output) == 1:
            layer: Layer = (
                GlobalAveragePool()
                if op.attributes["function"] == "average"
                else Reduce(function="max", output=self._out(op, axis))
            )
        elif op.attributes["function"] == "average" and rank == 4:
            layer = AdaptiveAveragePool(output=(output[0], output[1]))
        else:
            self._unknown(op)
            return
        self._put(op, layer, self._tensor(x, axis), axis=axis)

    def _resize(self, op: Op) -> None:
        x, mode = str(op.inputs[0]), op.attributes["mode"]
        before, after = self._shape(x)[2:], self._shape(op.output)[2:]
        if mode not in OUTPUT_OPS or len(after) != 2:
            self._unknown(op)
            return
        factor = after[0] // before[0]
        whole = factor > 0 and after == (before[0] * factor, before[1] * factor)
        layer = Upsample(factor=factor, mode=mode) if whole else Resize(size=(after[0], after[1]), mode=mode)
        self._put(op, layer, self._tensor(x, 1), axis=1)

    # -- moving and viewing ----------------------------------------------------------------------------------------

    def _reshape(self, op: Op) -> None:
        x = str(op.inputs[0])
        handle, target = self._handle(x), self._shape(op.output)
        axis = _axis_after(handle.shape, handle.axis, target)
        strides = reshaped(handle.shape, handle.strides, target) if handle.base == handle.shape else None
        if strides is not None and handle.shape and target[axis] != handle.shape[handle.axis]:
            step = handle.strides[handle.axis]  # channels that were split: the innermost of what they became
            axis = next((place for place, size in enumerate(target) if size > 1 and strides[place] == step), axis)
        if handle.base != handle.shape:
            if math.prod(handle.base) == math.prod(target):
                self._same(op, handle, axis=axis, strides=contiguous(target))
            elif tuple(s for s in handle.base if s != 1) and _only_ones(handle.shape, target):
                base = _with_ones(handle, target)
                self._handles[op.output] = replace(handle, shape=target, base=base, axis=axis, strides=contiguous(target))
            else:
                self._copy(op, "repeat", axis)
            return
        if strides is None and len(target) == 2 and target[0] == handle.shape[0]:
            strides = contiguous(target)  # flattened for a matrix product, whose weights can be stored in the order the image has
        if strides is None:
            self._copy(op, "transpose", axis)
        else:
            self._same(op, handle, axis=axis, strides=strides)

    def _copy(self, op: Op, purpose: str, axis: int, source: str | None = None) -> None:
        shape = self._shape(op.output)
        layer = Rearrange(purpose=purpose, output=as_shape(shape, axis), image=len(shape) == 4)
        self._put(op, layer, self._tensor(str(op.inputs[0]) if source is None else source), axis=axis, strides=contiguous(shape))

    def _permute(self, op: Op) -> None:
        handle, order = self._handle(str(op.inputs[0])), op.attributes["order"]
        shape = _permuted(handle.shape, order)
        self._handles[op.output] = _Handle(
            node=handle.node,
            shape=shape,
            base=_permuted(handle.base, order),
            strides=_permuted(handle.strides, order),
            axis=order.index(handle.axis),
        )

    def _expand(self, op: Op) -> None:
        handle, shape = self._handle(str(op.inputs[0])), self._shape(op.output)
        extra = len(shape) - len(handle.shape)
        if extra < 0 or math.prod(shape) < handle.elements:
            self._copy(op, "gather", len(shape) - 1)
            return
        base = (1,) * extra + handle.base
        if any(b not in (1, s) for b, s in zip(base, shape, strict=True)):  # overlapping windows
            self._handles[op.output] = _Handle(
                node=handle.node, shape=shape, base=handle.base, strides=contiguous(shape), axis=len(shape) - 1
            )
            return
        strides = (0,) * extra + handle.strides
        self._handles[op.output] = _Handle(node=handle.node, shape=shape, base=base, strides=strides, axis=handle.axis + extra)

    def _slice(self, op: Op) -> None:
        handle, shape = self._handle(str(op.inputs[0])), self._shape(op.output)
        dropped = op.attributes.get("dropped")
        axis, strides = handle.axis, handle.strides
        if dropped is not None:
            strides = strides[:dropped] + strides[dropped + 1 :]
            axis = min(axis - 1 if dropped < axis else axis, max(len(shape) - 1, 0))
        if math.prod(shape) == math.prod(handle.shape):
            self._same(op, handle, axis=axis, strides=strides)
            return
        source = self._tensor(str(op.inputs[0]))
        part = self._graph.add(View(output=as_shape(shape, axis)), source, name=op.name)
        self._handles[op.output] = self._fresh(part, shape, axis, strides)

    def _concat(self, op: Op) -> None:
        names, axis = list(op.tensors), op.attributes["axis"]
        if len(names) == 1:
            handle = self._handle(names[0])
            self._same(op, handle, axis=handle.axis, strides=handle.strides)
            return
        own = self._handle(names[0]).axis
        tensors = [Tensor(name=self._handle(name).node, shape=as_shape(self._shape(name), axis)) for name in names]
        self._put(op, Concat(inputs=len(names)), *tensors, axis=own)

    def _stack(self, op: Op) -> None:
        tensors = [
            Tensor(name=self._handle(name).node, shape=Shape(1, math.prod(self._shape(name)), 1, 1)) for name in op.tensors
        ]
        shape = self._shape(op.output)
        if len(tensors) == 1:
            self._same(op, self._handle(op.tensors[0]), axis=len(shape) - 1, strides=contiguous(shape))
            return
        self._put(op, Concat(inputs=len(tensors), stacked=True), *tensors, axis=-1, strides=contiguous(shape))

    def _pad(self, op: Op) -> None:
        x, sides = str(op.inputs[0]), op.attributes["sides"]
        handle = self._handle(x)
        if all(side == (0, 0) for side in sides):
            self._same(op, handle, axis=handle.axis, strides=handle.strides)
            return
        if any(min(side) < 0 for side in sides):
            if all(max(side) <= 0 for side in sides):
                self._slice(op)
            else:
                self._copy(op, "pad", handle.axis)
            return
        image = len(sides) == 4 and sides[0] == sides[1] == (0, 0) and op.attributes["zeros"]
        layer = Pad(
            output=self._out(op, handle.axis),
            sides=(*sides[2], *sides[3]) if image else None,
            reflected=op.attributes.get("mode", "constant") != "constant",
        )
        self._put(op, layer, self._tensor(x), axis=handle.axis)

    def _rearrange(self, op: Op) -> None:
        self._copy(op, op.attributes["purpose"], self._handle(str(op.inputs[0])).axis)

    def _gather(self, op: Op) -> None:
        """As many elements of a tensor as the result has are read; of a table of parameters, where the input says which."""
        source = next(name for name in op.tensors if not self._program.is_parameter(name))
        self._copy(op, "gather", len(self._shape(op.output)) - 1, source)

    def _constant(self, op: Op) -> None:
        for name in op.outputs:
            value = self._program.values[name]
            axis = 1 if len(value.shape) == 4 else len(value.shape) - 1
            tensor = self._graph.add(Parameter(shape=as_shape(value.shape, axis), trained=False), name=op.name)
            self._handles[name] = self._fresh(tensor, value.shape, axis)

    # -- what is not understood ------------------------------------------------------------------------------------

    def _unknown(self, op: Op) -> None:
        sizes = [math.prod(self._shape(name)) for name in op.outputs]
        inputs = [
            Tensor(name=self._handle(name).node, shape=Shape(1, self._handle(name).elements, 1, 1))
            for name in dict.fromkeys(op.tensors)
        ]
        operation = str(op.attributes.get("operation", op.kind))
        layer = Unsupported(operation=operation, inputs=len(inputs), output=Shape(1, sum(sizes), 1, 1))
        whole = self._graph.add(layer, *inputs, name=op.name)
        for name in op.outputs:
            shape = self._shape(name)
            axis = 1 if len(shape) == 4 else len(shape) - 1
            part = whole
            if len(sizes) > 1:
                part = self._graph.add(View(output=as_shape(shape, axis)), whole, name=f"{op.name}.part")
            self._handles[name] = self._fresh(part, shape, axis)


def _permuted(items: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    return tuple(items[axis] for axis in order)


def _kept(handle: _Handle) -> Strides | None:
    """Strides that an elementwise kernel gives its result: its input's, unless that has gaps."""
    steps = sorted((stride, size) for stride, size in zip(handle.strides, handle.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in steps:
        if stride != expected:
            return None
        expected *= size
    return handle.strides


def _axis_after(shape: tuple[int, ...], axis: int, target: tuple[int, ...]) -> int:
    """Where the channels are after a reshape: where the same run of elements is, otherwise second in an image and last elsewhere."""
    if shape:
        before = math.prod(shape[:axis])
        for place, size in enumerate(target):
            if size == shape[axis] and math.prod(target[:place]) == before:
                return place
    return 1 if len(target) == 4 else max(len(target) - 1, 0)


def _only_ones(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether two shapes differ by axes of size 1 alone."""
    return [s for s in shape if s != 1] == [s for s in target if s != 1]


def _with_ones(handle: _Handle, target: tuple[int, ...]) -> tuple[int, ...]:
    """The base of a broadcast tensor after axes of size 1 came or went."""
    real = iter([b for b, s in zip(handle.base, handle.shape, strict=True) if s != 1])
    return tuple(1 if size == 1 else next(real) for size in target)
