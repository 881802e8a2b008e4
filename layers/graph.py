"""A graph of layers: tensors flow from the input through branches and residual edges to the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, Multiply, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.copy import Input
from perfmodel.layers.dims import Dim, Shape
from perfmodel.layers.layer import Count, Layer, ShapeError, Weight
from perfmodel.layers.linear import Linear

if TYPE_CHECKING:
    from perfmodel.layers.blocks.block import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One layer in a graph. Its output tensor carries its name."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    """Names of the nodes whose outputs it reads."""
    input_shapes: tuple[Shape, ...]
    shape: Shape
    """Shape of its output."""
    block: str | None = None
    """Name of the innermost block that it belongs to."""

    def count(self) -> Count:
        """Arithmetic and elements moved."""
        return self.layer.count(*self.input_shapes)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in an order in which they can run, and the blocks they were composed from."""

    nodes: Mapping[str, Node]
    blocks: Mapping[str, Block]
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The name that a layer had in the model it was imported from, where it is another: profilers of that model use it."""

    @cached_property
    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """The nodes that read each node's output, in order."""
        found: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Nodes whose output nobody reads: the results of the graph."""
        return tuple(name for name, readers in self.consumers.items() if not readers)

    @cached_property
    def counts(self) -> dict[str, Count]:
        """Arithmetic and elements moved by each node."""
        return {name: node.count() for name, node in self.nodes.items()}

    def weights(self) -> Iterator[tuple[str, Weight, Dim]]:
        """(tensor name, weight, number of elements) of every parameter tensor."""
        for name, node in self.nodes.items():
            for weight, elements in zip(node.layer.formula.weights, self.counts[name].weights, strict=True):
                yield f"{name}.{weight.name}", weight, elements

    @property
    def params(self) -> Dim:
        """Trained parameters (running statistics of norms are not trained)."""
        return sum(elements for _, weight, elements in self.weights() if weight.trained)

    @property
    def macs(self) -> Dim:
        """Multiply-accumulates of all convolutions and matrix products."""
        return sum(count.macs for count in self.counts.values())

    @property
    def activations(self) -> Dim:
        """Output elements of all convolutions and matrix products."""
        return sum(self.counts[name].writes for name, node in self.nodes.items() if node.layer.role == "matrix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A handle on a node's output while a graph is being built."""

    name: str
    shape: Shape


class GraphBuilder:
    """Builds a graph by adding layers in the order in which they run.

    >>> g = GraphBuilder()
    >>> x = g.input(Shape(1, 3, 224, 224))
    >>> x = g.conv(x, 64, kernel=7, stride=2, name="conv1")
    >>> g.graph().macs
    118013952
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._blocks: dict[str, Block] = {}
        self._scope: list[str] = []
        self._block: list[str] = []
        self._norms_folded = False

    def input(self, shape: Shape, name: str = "input") -> Tensor:
        """The graph's input."""
        return self.add(Input(shape=shape), name=name)

    def add(self, layer: Layer, *inputs: Tensor, name: str) -> Tensor:
        """Append `layer`, reading `inputs`, under `name` within the current scope; raises ShapeError naming the layer that does not fit."""
        full_name = self._qualified(name)
        shapes = tuple(tensor.shape for tensor in inputs)
        if len(shapes) != len(layer.formula.inputs):
            raise ShapeError(
                f"layer {full_name}: {layer.kind} reads {len(layer.formula.inputs)} tensors but was given {len(shapes)}"
            )
        try:
            shape = layer.output_shape(*shapes)
        except ShapeError as error:
            raise ShapeError(f"layer {full_name}: {error}") from None
        self._nodes[full_name] = Node(
            name=full_name,
            layer=layer,
            inputs=tuple(tensor.name for tensor in inputs),
            input_shapes=shapes,
            shape=shape,
            block=self._block[-1] if self._block else None,
        )
        return Tensor(name=full_name, shape=shape)

    def _qualified(self, name: str) -> str:
        stem = ".".join([*self._scope, name])
        if stem not in self._nodes:
            return stem
        number = 2
        while f"{stem}_{number}" in self._nodes:
            number += 1
        return f"{stem}_{number}"

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of what is added inside with `name.`; an empty name adds nothing."""
        if name:
            self._scope.append(name)
        try:
            yield
        finally:
            if name:
                self._scope.pop()

    def block(self, block: Block, x: Tensor, *, name: str, norms_folded: bool = False) -> Tensor:
        """Append all layers of a residual block under the scope `name` and remember which block they came from.

        A second block of one name is numbered, as layers are. With `norms_folded` each batch norm is in the bias of its convolution
        already, as exporters leave it.
        """
        stem, number = name, 2
        while ".".join([*self._scope, name]) in self._blocks:
            name, number = f"{stem}_{number}", number + 1
        with self.scope(name):
            full_name = ".".join(self._scope)
            self._blocks[full_name] = block
            self._block.append(full_name)
            self._norms_folded = norms_folded
            try:
                return block.build(self, x)
            finally:
                self._block.pop()
                self._norms_folded = False

    def conv(
        self,
        x: Tensor,
        out_channels: Dim,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        group_width: Dim = None,
        bias: bool = False,
        name: str = "conv",
    ) -> Tensor:
        """A square convolution; padding defaults to what keeps the size at stride 1."""
        layer = Conv2d(
            in_channels=x.shape.C,
            out_channels=out_channels,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=None if padding is None else (padding,) * 4,
            group_width=group_width,
            bias=bias,
        )
        return self.add(layer, x, name=name)

    def conv_norm(
        self,
        x: Tensor,
        out_channels: Dim,
        *,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        group_width: Dim = None,
        activation: str | None = None,
        name: str = "conv",
        norm_name: str = "bn",
    ) -> Tensor:
        """Convolution without bias → batch norm → activation, if one is named."""
        folded = self._norms_folded
        x = self.conv(
            x, out_channels, kernel=kernel, stride=stride, padding=padding, group_width=group_width, bias=folded, name=name
        )
        if not folded:
            x = self.add(BatchNorm(channels=out_channels), x, name=norm_name)
        return self.activation(x, activation, name=f"{norm_name}.act") if activation else x

    def activation(self, x: Tensor, function: str, *, name: str = "act") -> Tensor:
        """An activation function."""
        return self.add(Activation(function=function), x, name=name)

    def flatten(self, x: Tensor) -> Tensor:
        """The same tensor with all pixels of all channels as channels of one pixel: a view, which is no layer."""
        return Tensor(name=x.name, shape=Shape(x.shape.N, x.shape.C * x.shape.H * x.shape.W, 1, 1))

    def linear(self, x: Tensor, out_channels: Dim, *, bias: bool = True, name: str = "fc") -> Tensor:
        """A fully connected layer at every pixel."""
        return self.add(Linear(in_channels=x.shape.C, out_channels=out_channels, bias=bias), x, name=name)

    def residual(self, x: Tensor, shortcut: Tensor, *, name: str = "add") -> Tensor:
        """x + shortcut."""
        return self.add(Add(), x, shortcut, name=name)

    def multiply(self, x: Tensor, factor: Tensor, *, name: str = "mul") -> Tensor:
        """x · factor."""
        return self.add(Multiply(), x, factor, name=name)

    def scale(self, x: Tensor, *, name: str = "scale") -> Tensor:
        """x times a trained factor per channel."""
        return self.add(Scale(channels=x.shape.C), x, name=name)

    def graph(self) -> Graph:
        """The finished graph; raises ShapeError if it is empty."""
        if len(self._nodes) < 2:
            raise ShapeError("a network needs an input and at least one layer")
        return Graph(nodes=dict(self._nodes), blocks=dict(self._blocks))
