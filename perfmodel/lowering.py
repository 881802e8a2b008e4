"""From layers to the operations that a software stack really runs: what it folds, splits, casts and copies, and in which types.

The rules of eager PyTorch and of torch.compile were read off traces of what they launch; docs/schedules.md lists them with their
consequences. The ideal library of schedule `layer` is a definition, not an observation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import BiasAdd, Scale
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.copy import Copy, Input
from perfmodel.layers.cost import Quantity
from perfmodel.layers.dims import Shape
from perfmodel.layers.element import element_bytes, promote
from perfmodel.layers.graph import Graph, Node
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer import Count, Layer, Role
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pad import Pad
from perfmodel.layers.parameter import Parameter
from perfmodel.layers.pointwise import Pointwise
from perfmodel.layers.pooling import MaxPool
from perfmodel.layers.rearrange import Rearrange, View
from perfmodel.layers.reduce import Reduce
from perfmodel.layers.sample_conv2d import SampleConv2d
from perfmodel.layers.softmax import Softmax
from perfmodel.precision import Precision

TensorRole = Literal["activation", "weight", "halo"]
"""halo: what a fused kernel reads of an activation beyond reading it once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A tensor that an operation or kernel reads or writes."""

    tensor: str
    elements: Quantity
    dtype: str
    role: TensorRole = "activation"
    part: str | None = None
    """Which part of the tensor, where it is not all of it: parts of different names are different elements."""
    of: Quantity = None
    """Elements of the whole tensor, where this is a part."""
    across: bool = False
    """Read in another order than the one it lies in: NCHW by a step that runs in NHWC, or the other way round."""

    @property
    def bytes(self) -> Quantity:
        """Bytes moved."""
        return self.elements * element_bytes(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One step of a software stack, before steps are fused into kernels."""

    name: str
    kind: str
    """Case of the convolution, function of the activation, or kind of layer."""
    role: Role
    layers: tuple[str, ...]
    """The network's layers that it carries out."""
    block: str | None
    shape: Shape
    """Shape of its result."""
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    macs: Quantity
    vector_ops: Quantity
    special_ops: Quantity
    layer: Layer | None = None
    """Whose work it is; None for the cast of a weight."""
    input_shapes: tuple[Shape, ...] = ()
    materialised: bool = False
    """The stack writes the result to memory even where its reader could have been fused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a software stack does to a network before it runs it."""

    name: str
    folds_norms: bool
    """A norm after a convolution becomes the convolution's bias."""
    splits_bias: bool
    """A convolution's bias is added by an operation of its own."""
    casts: bool
    """Changes of type are operations of their own; otherwise operands are read in the type they have, and weights are stored cast."""
    casts_all_weights: bool
    """Casts of the weights of elementwise operations and norms are operations of their own, too, not only those of matrix products."""
    writes_pool_indices: bool
    """Max pooling writes the int64 position of each maximum, too."""
    materialises_gated_norms: bool
    """The fp32 norm before a SiLU or hard-swish that no convolution reads is written to memory."""
    converts_layout: bool
    """In NCHW, data is copied to NHWC and back around k×k and grouped convolutions on the matrix unit."""
    prepares_half_norms: bool
    """In a network that is in a half type throughout, a batch norm first converts its statistics, in two small kernels."""
    splits_group_norms: bool
    """A group norm is two kernels: its moments, then the normalisation, which reads the tensor again."""
    chooses_layout: bool
    """Given NCHW, the stack goes to NHWC unless grouped convolutions make up too much of the arithmetic."""
    keeps_orders: bool
    """A tensor lies in the order in which it was made: group norms, reflecting borders and stacks make NCHW of NHWC, the next convolution
    copies it back, and what combines both reads one of them across."""
    runs_fp32_list: bool
    """Autocast's list of what runs in fp32: powers, sums and the like write fp32, some after a cast of their input."""
    inlines_repeats: bool
    """Who reads a tensor that was broadcast and reshaped reads what was broadcast."""
    fills_padding: bool
    """A constant border is written by filling the whole result first."""
    copies_slices: bool
    """A convolution that reads a part of a tensor's channels has it copied first."""
    folds_padding: bool
    """Zeros that are padded before a convolution become the convolution's own padding."""


EAGER: Final = Stack(
    name="PyTorch eager",
    folds_norms=False,
    splits_bias=True,
    casts=True,
    casts_all_weights=True,
    writes_pool_indices=True,
    materialises_gated_norms=False,
    converts_layout=True,
    prepares_half_norms=True,
    splits_group_norms=True,
    chooses_layout=False,
    keeps_orders=True,
    runs_fp32_list=True,
    inlines_repeats=False,
    fills_padding=True,
    copies_slices=True,
    folds_padding=False,
)
COMPILED: Final = Stack(
    name="torch.compile",
    folds_norms=False,
    splits_bias=True,
    casts=True,
    casts_all_weights=False,
    writes_pool_indices=False,
    materialises_gated_norms=True,
    converts_layout=False,
    prepares_half_norms=False,
    splits_group_norms=True,
    chooses_layout=True,
    keeps_orders=False,
    runs_fp32_list=True,
    inlines_repeats=True,
    fills_padding=False,
    copies_slices=True,
    folds_padding=False,
)
LIBRARY: Final = Stack(
    name="ideal per-layer library",
    folds_norms=True,
    splits_bias=False,
    casts=False,
    casts_all_weights=False,
    writes_pool_indices=False,
    materialises_gated_norms=False,
    converts_layout=False,
    prepares_half_norms=False,
    splits_group_norms=False,
    chooses_layout=False,
    keeps_orders=False,
    runs_fp32_list=False,
    inlines_repeats=False,
    fills_padding=False,
    copies_slices=False,
    folds_padding=True,
)

_GATED: Final = ("silu", "hard_swish")


SUMS_IN_FP32: Final = ("sum", "product", "norm")
"""Reductions that autocast lets write fp32, whatever they read."""
CAST_TO_FP32: Final = ("power", "exp", "log", "softplus", "reciprocal", "rsqrt")
"""Functions whose operand autocast casts to fp32 first."""


def _moments(node: Node, layer: GroupNorm) -> Access:
    """Mean and deviation of each group of each image."""
    return Access(tensor=f"{node.name}.moments", elements=2 * node.shape.N * layer.groups, dtype="fp32")


def _is_cast_to_fp32(layer: Layer) -> bool:
    """Whether autocast runs the operation in fp32 (PyTorch's `AT_FORALL_FP32`); norms are in it, too, but timm's fast norms leave it."""
    return isinstance(layer, Pointwise | Activation) and layer.function in CAST_TO_FP32


def operation_kind(layer: Layer) -> str:
    """The name under which an operation is reported: more telling than its layer's kind where there are cases."""
    match layer:
        case Conv2d():
            return layer.conv_class
        case SampleConv2d():
            return f"sample_{layer.grouped.conv_class}"
        case Activation():
            return layer.function
        case Copy() | Rearrange():
            return layer.purpose
        case _:
            return layer.kind


def lower(graph: Graph, precision: Precision, stack: Stack, *, layout: str = "nhwc") -> tuple[Operation, ...]:
    """The operations that `stack` runs for `graph`, in order, with the type of every tensor."""
    return _Lowering(graph, precision, stack, layout).run()


GROUPED_COST: Final = 1.358
NARROWING_COST: Final = 0.725
SMALL_COST: Final = 0.783
OTHER_COST: Final = 0.823
SMALL_CHANNELS: Final = 64
"""torch.compile (PyTorch 2.4, inductor): its estimate of a convolution's time in NHWC over that in NCHW, by kind."""


def stays_in_nchw(graph: Graph) -> bool:
    """Whether torch.compile leaves a network in NCHW: its estimate of the time in NHWC, weighted by arithmetic, exceeds that in NCHW."""
    total = weighted = 0.0
    for node in graph.nodes.values():
        layer = node.layer
        if not isinstance(layer, Conv2d):
            continue
        if layer.conv_class == "grouped_conv":
            cost = GROUPED_COST
        elif layer.out_channels <= SMALL_CHANNELS and layer.group_width <= SMALL_CHANNELS:
            cost = SMALL_COST
        elif layer.out_channels * 2 <= layer.group_width and layer.kernel[0] > 1:
            cost = NARROWING_COST
        else:
            cost = OTHER_COST
        macs = float(graph.counts[node.name].macs)
        total += macs
        weighted += cost * macs
    return weighted > total


class _Lowering:
    """Walks the graph once.

    `_tensor` maps each layer to the tensor that now stands for its output; `_dtype` is each tensor's type as the framework promotes it,
    which is the type it is stored in unless `_stored` says otherwise.
    """

    def __init__(self, graph: Graph, precision: Precision, stack: Stack, layout: str) -> None:
        self._graph = graph
        self._precision = precision
        self._stack = stack
        self._layout = layout
        self._operations: list[Operation] = []
        self._tensor: dict[str, str] = {}
        self._dtype: dict[str, str] = {}
        self._stored: dict[str, str] = {}
        self._part_of: dict[str, tuple[str, Quantity]] = {}
        self._repeats: dict[str, Quantity] = {}
        """Elements of tensors that are read as if they had more."""
        self._nchw: set[str] = set()
        self._orders = stack.keeps_orders and layout == "nhwc"
        self._copies_around_convolutions = layout == "nchw" and (
            stack.converts_layout or (stack.chooses_layout and stays_in_nchw(graph))
        )

    def run(self) -> tuple[Operation, ...]:
        for node in self._graph.nodes.values():
            if node.name in self._tensor:
                continue  # a norm that its convolution has absorbed
            match node.layer:
                case Input():
                    self._tensor[node.name] = node.name
                    self._dtype[node.name] = self._precision.storage
                case Parameter():
                    self._tensor[node.name] = node.name
                    converted = node.layer.converted and self._precision.autocast is not None
                    self._dtype[node.name] = self._precision.matrix_storage if converted else self._precision.parameter
                case View():
                    self._view(node)
                case Rearrange(purpose="repeat") if self._stack.inlines_repeats:
                    self._repeated(node)
                case Copy():
                    self._conversion(node, node.layer)
                case Pad() if self._absorbs(node):
                    self._tensor[node.name] = self._tensor[node.inputs[0]]
                case _ if node.layer.role == "matrix":
                    self._matrix(node, node.layer)
                case _:
                    self._other(node)
        return tuple(self._operations)

    def _view(self, node: Node) -> None:
        """A part of a tensor: nothing runs, and its readers read that part of what holds it."""
        source = self._tensor[node.inputs[0]]
        self._tensor[node.name] = node.name
        self._dtype[node.name] = self._dtype[source]
        if source in self._stored:
            self._stored[node.name] = self._stored[source]
        base, whole = self._part_of.get(source, (source, node.input_shapes[0].elements))
        self._part_of[node.name] = (base, whole)

    def _repeated(self, node: Node) -> None:
        """A tensor that was broadcast: nothing runs, and its readers read what was."""
        source = self._tensor[node.inputs[0]]
        self._tensor[node.name] = source
        self._repeats.setdefault(source, node.input_shapes[0].elements)

    def _conversion(self, node: Node, layer: Copy) -> None:
        """What the network converts itself: to fp32, and what is in fp32 back to the type of the activations; from NHWC to NCHW."""
        source = self._tensor[node.inputs[0]]
        given, half = self._dtype[source], self._precision.matrix_storage
        self._tensor[node.name] = source
        if layer.purpose == "layout":
            if self._orders and source not in self._nchw:
                self._tensor[node.name] = self._to_nchw(node, source, node.input_shapes[0], node.name)
        elif self._stack.casts and half in ("fp16", "bf16") and given in (half, "fp32"):
            wanted = "fp32" if given == half else half
            self._tensor[node.name] = self._copy(node, source, node.input_shapes[0], "cast", node.name, wanted)

    def _to_nchw(self, node: Node, source: str, shape: Shape, name: str) -> str:
        """A copy in NCHW; of images of one pixel, what is there."""
        if shape.H * shape.W == 1:
            return source
        copied = self._copy(node, source, shape, "layout", name, self._dtype[source])
        self._nchw.add(copied)
        return copied

    def _absorbs(self, node: Node) -> bool:
        """Whether all that reads a padded tensor are convolutions that can pad it themselves."""
        if not (self._stack.folds_padding and isinstance(node.layer, Pad) and node.layer.sides):
            return False
        readers = self._graph.consumers[node.name]
        return bool(readers) and all(isinstance(reader.layer, Conv2d) for reader in readers)

    def _with_padding(self, node: Node, layer: Layer) -> tuple[Layer, tuple[Shape, ...], list[str]]:
        """The layer, its input shapes and the layers it carries out, with a padding before it taken in."""
        if isinstance(layer, Conv2d) and layer.padding is not None:
            pad = self._graph.nodes[node.inputs[0]]
            if isinstance(pad.layer, Pad) and pad.layer.sides is not None and self._absorbs(pad):
                sides = tuple(own + more for own, more in zip(layer.padding, pad.layer.sides, strict=True))
                shared = self._graph.consumers[pad.name][0] is not node
                padded = replace(layer, padding=(sides[0], sides[1], sides[2], sides[3]))
                return padded, pad.input_shapes, [*([] if shared else [pad.name]), node.name]
        return layer, node.input_shapes, [node.name]

    def _matrix(self, node: Node, layer: Layer) -> None:
        stack, storage = self._stack, self._precision.matrix_storage
        layer, shapes, layers = self._with_padding(node, layer)
        if isinstance(layer, Conv2d | Linear) and stack.folds_norms and (norm := self._foldable_norm(node)):
            layer = replace(layer, bias=True)
            layers.append(norm.name)
        separate_bias = stack.splits_bias and isinstance(layer, Conv2d) and layer.bias
        if separate_bias and isinstance(layer, Conv2d):
            layer = replace(layer, bias=False)

        sources = [self._cast(node, index, storage) for index in range(len(node.inputs))]
        if isinstance(layer, Conv2d) and stack.copies_slices and sources[0] in self._part_of:
            dtype = self._dtype[sources[0]]
            sources[0] = self._copy(node, sources[0], node.input_shapes[0], "slice", f"{node.name}.slice", dtype)
        in_nchw = sources[0] in self._nchw or (isinstance(layer, SampleConv2d) and self._orders)
        if in_nchw and isinstance(layer, Conv2d) and not layer.computed_weights:
            dtype = self._dtype[sources[0]]
            sources[0] = self._copy(node, sources[0], node.input_shapes[0], "layout", f"{node.name}.from_nchw", dtype)
            in_nchw = False
        converts = self._converts_layout(layer, in_nchw=in_nchw)
        if converts:
            dtype = self._dtype[sources[0]]
            sources[0] = self._converted(node, sources[0], node.input_shapes[0], f"{node.name}.to_nhwc", dtype)
        output = self._emit(node, layer, sources, node.name, storage, shapes=shapes, layers=tuple(layers))
        if converts:
            output = self._converted(node, output, node.shape, f"{node.name}.to_nchw", storage)
        if separate_bias:
            bias_add = BiasAdd(channels=node.shape.C, converted=True)  # autocast casts what a convolution is given
            output = self._emit(node, bias_add, [output], f"{node.name}.bias_add", storage, shapes=(node.shape,))
        for name in layers:
            self._tensor[name] = output
        if in_nchw:
            self._nchw.add(output)

    def _foldable_norm(self, node: Node) -> Node | None:
        """The batch norm that is the only reader of a convolution."""
        readers = self._graph.consumers[node.name]
        return readers[0] if len(readers) == 1 and isinstance(readers[0].layer, BatchNorm) else None

    def _converts_layout(self, layer: Layer, *, in_nchw: bool) -> bool:
        convolution = layer.grouped if isinstance(layer, SampleConv2d) else layer
        return (
            (in_nchw or self._copies_around_convolutions)
            and isinstance(convolution, Conv2d)
            and convolution.conv_class in ("conv", "grouped_conv")
            and self._precision.matrix != "fp32"
        )

    def _other(self, node: Node) -> None:
        autocast = self._precision.autocast
        sources = [self._tensor[name] for name in node.inputs]
        if autocast and isinstance(node.layer, LayerNorm | GroupNorm):  # timm's fast norms
            sources = [self._cast(node, 0, autocast)]
        elif autocast and isinstance(node.layer, Softmax):
            sources = [self._cast(node, 0, "fp32")]
        if autocast and self._stack.runs_fp32_list and _is_cast_to_fp32(node.layer):
            sources = [self._cast(node, 0, "fp32"), *sources[1:]]
        if self._orders and isinstance(node.layer, Pad) and node.layer.reflected and sources[0] not in self._nchw:
            sources = [self._to_nchw(node, sources[0], node.input_shapes[0], f"{node.name}.to_nchw")]
        operands = [self._dtype[source] for source, name in zip(sources, node.inputs, strict=True) if not self._is_scalar(name)]
        operands = operands or [self._dtype[source] for source in sources]
        if isinstance(node.layer, GroupNorm):
            sources = [self._before_group_norm(node, sources[0])]
        if isinstance(node.layer, Scale | BiasAdd) and not node.layer.converted:
            operands.append(self._precision.parameter)
        if autocast and self._stack.runs_fp32_list and isinstance(node.layer, Reduce) and node.layer.function in SUMS_IN_FP32:
            operands = ["fp32"]
        if self._stack.fills_padding and isinstance(node.layer, Pad) and not node.layer.reflected:
            self._fill(node, self._result_type(operands))
        if not self._stack.casts and isinstance(node.layer, LayerNorm | GroupNorm):
            operands = [self._precision.matrix_storage]  # reads the type it is given, writes its own
        if not self._stack.casts and autocast and isinstance(node.layer, Softmax):
            operands = ["fp32"]
        dtype = self._result_type(operands)
        materialised = self._is_materialised(node)
        if materialised:
            self._stored[node.name] = "fp32"
        prepared = (
            isinstance(node.layer, BatchNorm) and self._stack.prepares_half_norms and self._precision.dtype in ("fp16", "bf16")
        )
        if prepared:
            self._prepare_norm(node)
        across = self._reads_across(node, sources)
        self._tensor[node.name] = self._emit(
            node, node.layer, sources, node.name, dtype, materialised=materialised, across=across
        )
        if prepared:
            self._read_prepared(node)
        if isinstance(node.layer, GroupNorm) and self._stack.splits_group_norms:
            self._read_moments(node, node.layer)
        if self._in_nchw(node, sources):
            self._nchw.add(node.name)

    def _in_nchw(self, node: Node, sources: list[str]) -> bool:
        """Whether a result is in NCHW, in a stack that otherwise keeps NHWC: kernels write in the order of their first full operand."""
        full = self._full_operands(node, sources)
        match node.layer:
            case _ if not self._orders:
                return False
            case Rearrange():
                return node.layer.image
            case Concat():
                return node.layer.stacked or any(source in self._nchw for source in sources)
            case GroupNorm():
                return True
            case _:
                follows = node.layer.role in ("elementwise", "norm", "window") or isinstance(node.layer, Pad | Reduce)
                return follows and any(source in self._nchw for source in full[:1])

    def _reads_across(self, node: Node, sources: list[str]) -> frozenset[str]:
        """The tensors that an operation reads in another order than the one they lie in."""
        if not self._orders:
            return frozenset()
        full = self._full_operands(node, sources)
        match node.layer:
            case Concat():
                nchw = node.layer.stacked or any(source in self._nchw for source in sources)
                return frozenset(source for source in sources if (source in self._nchw) != nchw)
            case Rearrange():
                return frozenset(sources if node.layer.purpose != "repeat" else ())
            case layer if layer.role == "elementwise":
                return frozenset(source for source in full if (source in self._nchw) != (full[0] in self._nchw))
            case _:
                return frozenset()

    def _full_operands(self, node: Node, sources: list[str]) -> list[str]:
        """Operands that have as many elements as the largest: the others are broadcast, in whatever order."""
        elements = [shape.elements for shape in node.input_shapes]
        # symbols have no largest one: there an operand is whole where it has as many elements as the result
        most = max(elements, default=0) if all(isinstance(count, int) for count in elements) else node.shape.elements
        return [source for source, shape in zip(sources, node.input_shapes, strict=True) if shape.elements == most]

    def _is_scalar(self, name: str) -> bool:
        """Whether a node is a parameter of no dimension, which does not widen the others' type."""
        layer = self._graph.nodes[name].layer
        return isinstance(layer, Parameter) and layer.scalar

    def _before_group_norm(self, node: Node, source: str) -> str:
        """The tensor that a group norm normalises, after the copy and the moments that its stack makes first."""
        (shape,) = node.input_shapes
        if self._orders and source not in self._nchw:
            source = self._to_nchw(node, source, shape, f"{node.name}.to_nchw")
        if self._stack.splits_group_norms and isinstance(node.layer, GroupNorm):
            self._append_helper(
                node,
                f"{node.name}.moments",
                kind="group_norm_moments",
                role="reduction",
                shape=Shape(shape.N, node.layer.groups, 1, 2),
                reads=(self._read(source, shape.elements),),
                writes=(_moments(node, node.layer),),
                materialised=True,
            )
        return source

    def _fill(self, node: Node, dtype: str) -> None:
        """The border, which is written by filling all of the result."""
        name = f"{node.name}.fill"
        written = Access(tensor=name, elements=node.shape.elements, dtype=dtype)
        self._append_helper(node, name, kind="fill", role="copy", shape=node.shape, reads=(), writes=(written,))

    def _read_moments(self, node: Node, layer: GroupNorm) -> None:
        """The group norm that was emitted last reads its moments, which a kernel before it made: what is left of it is elementwise."""
        norm = self._operations[-1]
        self._operations[-1] = replace(norm, role="elementwise", reads=(*norm.reads, _moments(node, layer)))

    def _prepare_norm(self, node: Node) -> None:
        """The statistics of a norm in a half type as fp32: the mean copied, 1/√(σ² + ε) computed."""
        channels = node.shape.C
        for name, special_ops in (("mean", 0), ("deviation", channels)):
            source = f"{node.name}.running_{'mean' if name == 'mean' else 'var'}"
            self._append_helper(
                node,
                f"{node.name}.{name}",
                kind="norm_helper",
                role="copy",
                shape=Shape(1, channels, 1, 1),
                reads=(Access(tensor=source, elements=channels, dtype=self._precision.storage, role="weight"),),
                writes=(Access(tensor=f"{node.name}.{name}", elements=channels, dtype="fp32", role="weight"),),
                special_ops=special_ops,
            )

    def _read_prepared(self, node: Node) -> None:
        """The norm that was emitted last reads what its helpers made, and leaves them their arithmetic."""
        norm, made = self._operations[-1], {"running_mean": "mean", "running_var": "deviation"}
        reads = []
        for access in norm.reads:
            name = made.get(access.tensor.removeprefix(f"{node.name}."))
            reads.append(replace(access, tensor=f"{node.name}.{name}", dtype="fp32") if name else access)
        self._operations[-1] = replace(norm, reads=tuple(reads), special_ops=norm.special_ops - node.shape.C)

    def _result_type(self, operands: list[str]) -> str:
        storage = self._precision.storage
        if storage in ("int8", "fp8"):
            return storage  # every tensor between kernels is quantised; its parameters stay fp32
        return promote(*operands)

    def _is_materialised(self, node: Node) -> bool:
        if not (self._stack.materialises_gated_norms and isinstance(node.layer, BatchNorm | GroupNorm)):
            return False
        if self._precision.matrix_storage not in ("fp16", "bf16"):
            return False
        readers = self._graph.consumers[node.name]
        if len(readers) != 1 or not isinstance(readers[0].layer, Activation) or readers[0].layer.function not in _GATED:
            return False
        gated = self._graph.consumers[readers[0].name]
        return bool(gated) and all(reader.layer.role != "matrix" for reader in gated)

    def _cast(self, node: Node, index: int, dtype: str) -> str:
        """The tensor that holds input `index` of `node` in `dtype`; an operation of its own where the stack has them."""
        source = self._tensor[node.inputs[index]]
        if self._dtype[source] == dtype or not self._stack.casts:
            return source
        return self._copy(node, source, node.input_shapes[index], "cast", f"{node.name}.cast", dtype)

    def _copy(
        self, node: Node, source: str, shape: Shape, purpose: Literal["cast", "layout", "slice"], name: str, dtype: str
    ) -> str:
        layer = Copy(purpose=purpose)
        if purpose == "cast" and source in self._nchw:
            self._nchw.add(name)
        return self._emit(
            node, layer, [source], name, dtype, shapes=(shape,), across=frozenset([source] if purpose == "layout" else [])
        )

    def _converted(self, node: Node, source: str, shape: Shape, name: str, dtype: str) -> str:
        """A change of layout by the library, which goes through tiles and reads nothing across."""
        return self._emit(node, Copy(purpose="layout"), [source], name, dtype, shapes=(shape,))

    def _weights(self, node: Node, layer: Layer, count: Count) -> tuple[Access, ...]:
        """The weights as the operation reads them; casts them first where the stack keeps them in another type."""
        precision = self._precision
        converted = isinstance(layer, Scale | BiasAdd) and layer.converted
        in_matrix_type = layer.role == "matrix" or isinstance(layer, LayerNorm | GroupNorm) or converted
        accesses = []
        for weight, elements in zip(layer.formula.weights, count.weights, strict=True):
            name = f"{node.name}.{weight.name}"
            stored = precision.storage if weight.name == "weight" and layer.role == "matrix" else precision.parameter
            wanted = precision.matrix_storage if in_matrix_type and precision.autocast else stored
            if wanted != stored and self._stack.casts and layer.role != "matrix" and not self._stack.casts_all_weights:
                wanted = stored  # read as it is and cast on the way
            if wanted != stored and self._stack.casts:
                cast = Access(tensor=f"{name}:{wanted}", elements=elements, dtype=wanted, role="weight")
                self._append_helper(
                    node,
                    f"{name}.cast",
                    kind="cast",
                    role="copy",
                    shape=Shape(1, elements, 1, 1),
                    reads=(Access(tensor=name, elements=elements, dtype=stored, role="weight"),),
                    writes=(cast,),
                )
                accesses.append(cast)
            else:
                accesses.append(Access(tensor=name, elements=elements, dtype=wanted, role="weight"))
        return tuple(accesses)

    def _emit(
        self,
        node: Node,
        layer: Layer,
        sources: list[str],
        name: str,
        dtype: str,
        *,
        shapes: tuple[Shape, ...] | None = None,
        layers: tuple[str, ...] | None = None,
        materialised: bool = False,
        across: frozenset[str] = frozenset(),
    ) -> str:
        """Append the operation of `layer` reading tensors `sources`, and return the tensor it writes."""
        shapes = shapes or node.input_shapes
        count = layer.count(*shapes)
        weights = self._weights(node, layer, count)
        shape = layer.output_shape(*shapes)
        reads = tuple(
            self._read(tensor, elements, across=tensor in across) for tensor, elements in zip(sources, count.reads, strict=True)
        )
        writes = [Access(tensor=name, elements=count.writes, dtype=self._stored.get(name, dtype))]
        if self._stack.writes_pool_indices and isinstance(layer, MaxPool):
            writes.append(Access(tensor=f"{name}.indices", elements=count.writes, dtype="int64"))
        self._dtype[name] = dtype
        self._append(
            Operation(
                name=name,
                kind=operation_kind(layer),
                role=layer.role,
                layers=layers or (node.name,),
                block=node.block,
                shape=shape,
                reads=(*reads, *weights),
                writes=tuple(writes),
                macs=count.macs,
                vector_ops=count.vector_ops,
                special_ops=count.special_ops,
                layer=layer,
                input_shapes=shapes,
                materialised=materialised,
            )
        )
        return name

    def _read(self, tensor: str, elements: Quantity, *, across: bool = False) -> Access:
        dtype = self._stored.get(tensor, self._dtype[tensor])
        elements = self._repeats.get(tensor, elements)
        if tensor not in self._part_of:
            return Access(tensor=tensor, elements=elements, dtype=dtype, across=across)
        base, whole = self._part_of[tensor]
        return Access(tensor=base, elements=elements, dtype=dtype, part=tensor, of=whole, across=across)

    def _append_helper(
        self,
        node: Node,
        name: str,
        *,
        kind: str,
        role: Role,
        shape: Shape,
        reads: tuple[Access, ...],
        writes: tuple[Access, ...],
        special_ops: Quantity = 0,
        materialised: bool = False,
    ) -> None:
        """An operation that the framework adds to a layer, which moves or prepares its data and multiplies nothing."""
        self._append(
            Operation(
                name=name,
                kind=kind,
                role=role,
                layers=(node.name,),
                block=node.block,
                shape=shape,
                reads=reads,
                writes=writes,
                macs=0,
                vector_ops=0,
                special_ops=special_ops,
                materialised=materialised,
            )
        )

    def _append(self, operation: Operation) -> None:
        self._operations.append(operation)
