"""The steps of a fused kernel: a block's layers with norms folded, and what is elementwise attached to the step that makes its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from perfmodel.errors import PerfmodelError
from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, Multiply, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, Node
from perfmodel.layers.layer import Layer
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import GlobalAveragePool

FUSED_ACTIVATIONS: Final = frozenset({"relu", "relu6", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "gelu", "gelu_tanh"})
"""Activations that fused programs have; others keep their block on schedule layer."""


class FusionError(PerfmodelError):
    """Layers that no fused program can carry out: names them, and what to do."""

    def __init__(self, sentence: str, *, lasting: bool = False) -> None:
        super().__init__(sentence)
        self.lasting = lasting
        """Whether no more layers before these could help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """An elementwise function applied to a step's result: an activation, `bias`, `scale`, or `add` of another tensor."""

    function: str
    operand: str = ""
    """The vector or the tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A convolution, layer norm or global mean, and its epilogue. Its result is a tensor of that name."""

    name: str
    layer: Conv2d | LayerNorm | GlobalAveragePool
    source: str
    source_shape: Shape
    shape: Shape
    layers: tuple[str, ...]
    """The network's layers that it carries out."""
    epilogue: tuple[Epilogue, ...] = ()
    gate: str = ""
    """A tensor N×C×1×1 by which the source is multiplied first."""

    @property
    def is_channelwise(self) -> bool:
        """Whether each group of outputs needs only its own group of inputs, so that channels can be done in chunks all the way."""
        return isinstance(self.layer, Conv2d) and self.layer.conv_class in ("depthwise_conv", "grouped_conv")

    @property
    def keeps_channels(self) -> bool:
        """Whether the same channels that go in come out."""
        return self.is_channelwise and bool(self.source_shape.C == self.shape.C)


def has_fused_form(layer: Layer) -> bool:
    """Whether a layer of that kind can be a step, or part of one, at all."""
    known = (Conv2d, Linear, LayerNorm, GlobalAveragePool, BatchNorm, Activation, Scale, Add, Multiply)
    return isinstance(layer, known)


def steps_of(graph: Graph, names: Sequence[str]) -> tuple[Step, ...]:
    """The steps that carry out the layers `names` of `graph`, in order. Raises FusionError for a layer that fits none."""
    return _Reader(graph, names).read()


class _Reader:
    """`_made` maps every layer to the step whose result stands for its output."""

    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        self._graph = graph
        self._names = tuple(names)
        self._steps: dict[str, Step] = {}
        self._made: dict[str, str] = {}
        self._gated: dict[str, tuple[str, str]] = {}

    def read(self) -> tuple[Step, ...]:
        for name in self._names:
            self._take(self._graph.nodes[name])
        for name in self._gated:
            if any(reader.name not in self._steps for reader in self._graph.consumers[name]) or not self._graph.consumers[name]:
                raise FusionError(f"layer {name} (multiply) does not gate a convolution alone; leave it on schedule layer")
        return tuple(self._steps.values())

    def _tensor(self, name: str) -> str:
        return self._made.get(name, name)

    def _take(self, node: Node) -> None:
        match node.layer:
            case Conv2d() as layer:
                self._start(node, layer, bias=layer.bias)
            case Linear() as layer:
                conv = Conv2d(in_channels=layer.in_channels, out_channels=layer.out_channels)
                self._start(node, conv, bias=layer.bias)
            case LayerNorm() | GlobalAveragePool() as layer:
                self._start(node, layer, bias=False)
            case BatchNorm():
                self._fold(node)
            case Activation() as layer if layer.function in FUSED_ACTIVATIONS:
                self._attach(node, node.inputs[0], Epilogue(function=layer.function))
            case Scale():
                self._attach(node, node.inputs[0], Epilogue(function="scale", operand=f"{node.name}.weight"))
            case Add():
                self._add(node)
            case Multiply():
                self._gated[node.name] = (self._tensor(node.inputs[0]), self._tensor(node.inputs[1]))
            case _:
                raise FusionError(f"layer {node.name} ({node.layer.kind}) has no fused form; leave it on schedule layer")

    def _start(self, node: Node, layer: Conv2d | LayerNorm | GlobalAveragePool, *, bias: bool) -> None:
        source, gate = self._tensor(node.inputs[0]), ""
        if node.inputs[0] in self._gated:
            source, gate = self._gated[node.inputs[0]]
            if not isinstance(layer, Conv2d) or layer.conv_class != "pointwise_conv":
                raise FusionError(f"layer {node.name} reads a gated tensor but is no 1×1 convolution; leave it on schedule layer")
        if isinstance(layer, Conv2d):
            layer = replace(layer, bias=False)
        self._steps[node.name] = Step(
            name=node.name,
            layer=layer,
            source=source,
            source_shape=node.input_shapes[0],
            shape=node.shape,
            layers=(node.name, node.inputs[0]) if gate else (node.name,),
            epilogue=(Epilogue(function="bias", operand=f"{node.name}.bias"),) if bias else (),
            gate=gate,
        )
        self._made[node.name] = node.name

    def _fold(self, node: Node) -> None:
        """A norm becomes the bias of the convolution that it alone reads."""
        step = self._steps.get(self._tensor(node.inputs[0]))
        if step is None or not isinstance(step.layer, Conv2d) or step.epilogue or len(self._graph.consumers[node.inputs[0]]) > 1:
            raise FusionError(
                f"batch norm {node.name} does not follow a convolution that it could fold into; leave it on schedule layer"
            )
        self._extend(step, node, Epilogue(function="bias", operand=f"{step.name}.bias"))

    def _attach(self, node: Node, source: str, epilogue: Epilogue) -> None:
        step = self._steps.get(self._tensor(source))
        if step is None or len(self._graph.consumers[source]) > 1:
            raise FusionError(f"layer {node.name} has no step of its own to join; leave it on schedule layer")
        self._extend(step, node, epilogue)

    def _add(self, node: Node) -> None:
        """A sum joins the later of the two steps that make its operands."""
        order = list(self._steps)
        places = [order.index(self._tensor(name)) if self._tensor(name) in order else -1 for name in node.inputs]
        late, early = (0, 1) if places[0] >= places[1] else (1, 0)
        self._attach(node, node.inputs[late], Epilogue(function="add", operand=self._tensor(node.inputs[early])))

    def _extend(self, step: Step, node: Node, epilogue: Epilogue) -> None:
        self._steps[step.name] = replace(step, epilogue=(*step.epilogue, epilogue), layers=(*step.layers, node.name))
        self._made[node.name] = step.name
