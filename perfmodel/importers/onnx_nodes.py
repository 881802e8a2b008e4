"""The nodes of an ONNX graph as operations of a program: shapes by ONNX's own inference, sizes by folding what is made of numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from perfmodel.errors import shown
from perfmodel.importers.onnx_folding import FEW, FOLDS, Array, constant
from perfmodel.importers.program import ImportedModelError, Op, Operand, Program, Source, Value, checked, einsum_sizes

_UNARY: Final = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "HardSwish": "hard_swish",
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "Selu": "elu",
    "Celu": "elu",
    "Mish": "mish",
    "Softplus": "softplus",
    "Tanh": "tanh",
    "Exp": "exp",
    "Log": "log",
    "Erf": "erf",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Sin": "sin",
    "Cos": "cos",
    "Abs": "abs",
    "Neg": "negate",
    "Round": "round",
    "Floor": "round",
    "Ceil": "round",
    "Sign": "round",
    "Not": "negate",
}
_BINARY: Final = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Pow": "power",
    "Max": "maximum",
    "Min": "minimum",
    "Sum": "add",
    "Mod": "divide",
    "Equal": "compare",
    "Less": "compare",
    "LessOrEqual": "compare",
    "Greater": "compare",
    "GreaterOrEqual": "compare",
    "And": "compare",
    "Or": "compare",
    "Xor": "compare",
    "Where": "select",
    "PRelu": "select",
}
_REDUCE: Final = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "product",
    "ReduceL2": "norm",
    "ReduceSumSquare": "norm",
    "ArgMax": "max",
    "ArgMin": "min",
}
_IDENTITY: Final = frozenset({"Identity", "Dropout", "Cast", "CastLike"})
_RESHAPE: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_FLOATS: Final = (1, 10, 11, 16)  # float, float16, double, bfloat16


class Reader:
    """Walks the nodes once. `_known` has the contents of small tensors that are made of numbers, `_shapes` every tensor's shape."""

    def __init__(
        self, onnx: Any, proto: Any, opsets: Mapping[str, int], inputs: Mapping[str, tuple[int, ...]], name: str
    ) -> None:
        self._onnx = onnx
        self._graph = proto.graph
        self._opsets = opsets
        self._imports = list(proto.opset_import)
        self._program = Program(name=name, values={}, ops=[], inputs=tuple(inputs), outputs=())
        self._known: dict[str, Array] = {}
        self._types: dict[str, Any] = {}
        self._alias: dict[str, str] = {}
        self._declared = {value.name: value.type for value in (*proto.graph.value_info, *proto.graph.output)}
        self._input_shapes = inputs

    def read(self) -> Program:
        """The program; raises ImportedModelError, and what NumPy and protobuf raise for contents that make no sense."""
        for value in self._graph.input:
            if value.name in self._input_shapes:
                self._declare(value.name, value.type.tensor_type.elem_type, self._input_shapes[value.name], "activation")
        for tensor in self._graph.initializer:
            self._stored(tensor)
        for sparse in self._graph.sparse_initializer:
            self._declare(sparse.values.name, sparse.values.data_type, tuple(sparse.dims), "parameter")
        for node in self._graph.node:
            self._node(node)
        results = [self._real(value.name) for value in self._graph.output]
        self._program.outputs = tuple(dict.fromkeys(name for name in results if name in self._program.values))
        return self._program

    # -- values ----------------------------------------------------------------------------------------------------

    def _declare(self, name: str, dtype: int, shape: Sequence[int], source: Source) -> None:
        sizes = checked(name, shape)
        self._program.values[name] = Value(name=name, shape=sizes, source=source, floating=dtype in _FLOATS)
        self._types[name] = self._onnx.helper.make_tensor_type_proto(dtype, sizes)

    def _stored(self, tensor: Any) -> None:
        shape = checked(tensor.name, tensor.dims)
        self._declare(tensor.name, tensor.data_type, shape, "parameter" if tensor.data_type in _FLOATS else "constant")
        if math.prod(shape) <= FEW and tensor.data_location != self._onnx.TensorProto.EXTERNAL:
            self._known[tensor.name] = self._onnx.numpy_helper.to_array(tensor)

    def _real(self, name: str) -> str:
        return self._alias.get(name, name)

    def _shape(self, operand: Operand) -> tuple[int, ...]:
        return self._program.values[operand].shape if isinstance(operand, str) else ()

    def _operand(self, name: str) -> Operand:
        """A tensor by name; a single number as that number."""
        name = self._real(name)
        known = self._known.get(name)
        return float(known.reshape(-1)[0]) if known is not None and known.size == 1 else name

    def _numbers(self, node: Any, index: int) -> list[int] | None:
        """The contents of an input that says sizes or axes; None where it is left out. Raises where it depends on the image."""
        if index >= len(node.input) or not node.input[index]:
            return None
        known = self._known.get(self._real(node.input[index]))
        if known is None:
            raise ImportedModelError(
                f"node '{shown(node.name or node.output[0])}' ({shown(node.op_type)}) takes sizes that depend on the image's contents"
            )
        return [int(item) for item in known.reshape(-1)]

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _node(self, node: Any) -> None:
        attributes = {a.name: self._onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
        standard = node.domain in ("", "ai.onnx")
        if standard and self._folded(node, attributes):
            return
        if standard and node.op_type in _IDENTITY:
            self._alias[node.output[0]] = self._real(node.input[0])
            source = self._real(node.input[0])
            if node.op_type == "Cast" and source in self._types:
                self._cast(node, source, attributes)
            return
        self._infer(node)
        method: Callable[[Any, dict[str, Any]], None] | None = getattr(self, f"_on_{node.op_type}", None) if standard else None
        if method is not None:
            method(node, attributes)
        elif standard and node.op_type in _UNARY:
            self._emit(node, "activation", [self._real(node.input[0])], function=_UNARY[node.op_type])
        elif standard and node.op_type in _BINARY:
            self._binary(node)
        elif standard and node.op_type in _REDUCE:
            self._reduce(node, attributes)
        elif standard and node.op_type in _RESHAPE:
            before, after = (self._shape(self._real(name)) for name in (node.input[0], node.output[0]))
            if math.prod(before) != math.prod(after):
                sizes = " to ".join("×".join(map(str, shape)) for shape in (before, after))
                raise ImportedModelError(f"node '{shown(node.name or node.output[0])}' ({node.op_type}) cannot take {sizes}")
            self._emit(node, "reshape", [self._real(node.input[0])])
        else:
            self._unknown(node)

    def _cast(self, node: Any, source: str, attributes: dict[str, Any]) -> None:
        """A change of type: the same tensor for costs, but another type for those that read it."""
        name = node.output[0]
        shape = self._shape(source)
        del self._alias[name]
        self._declare(name, int(attributes["to"]), shape, self._program.values[source].source)
        self._emit(node, "reshape", [source])

    def _infer(self, node: Any) -> None:
        """Declare the outputs of a node with the shapes that ONNX infers, or else those that the file states."""
        found: Mapping[str, Any] = {}
        reason = ""
        types = {name: self._types[self._real(name)] for name in node.input if name and self._real(name) in self._types}
        data = {
            name: self._onnx.numpy_helper.from_array(np.asarray(self._known[self._real(name)]), name)
            for name in types
            if self._real(name) in self._known
        }
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            schema = self._onnx.defs.get_schema(node.op_type, self._opsets.get(domain, 1), domain)
            found = self._onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._imports)
        except Exception as error:  # ONNX raises several kinds of its own, for unknown operators and for wrong ones
            reason = shown(" ".join(str(error).split()), 160)
        for name in node.output:
            if not name:
                continue
            sizes = _sizes(found.get(name))
            kind = found.get(name) if sizes is not None else self._declared.get(name)
            sizes = sizes if sizes is not None else _sizes(kind)
            if sizes is None or kind is None:
                raise ImportedModelError(
                    f"the shape of '{shown(name)}', which node '{shown(node.name or node.output[0])}' ({shown(node.op_type)}) makes, "
                    f"is not known{f': {reason}' if reason else '; run onnx.shape_inference on the file, or export it with fixed sizes'}"
                )
            self._declare(name, kind.tensor_type.elem_type, sizes, "activation")

    def _name(self, node: Any) -> str:
        """The module that a node comes from, where its exporter said so; otherwise the node's own name."""
        for entry in node.metadata_props:
            if entry.key == "pkg.torch.onnx.name_scopes":
                scopes = re.findall(r"'([^']*)'", entry.value[:2000])
                if len(scopes) > 1 and scopes[-2]:
                    return shown(scopes[-2] if node.op_type in _LEAVES else ".".join((scopes[-2], node.op_type.lower())), 120)
        return shown((node.name or node.output[0]).strip("/").replace("/", "."), 120)

    def _emit(self, node: Any, kind: str, inputs: Sequence[Operand], **attributes: Any) -> None:
        outputs = tuple(name for name in node.output if name in self._program.values)
        if kind != "unknown":
            outputs = outputs[:1]
        self._program.ops.append(
            Op(kind=kind, name=self._name(node), inputs=tuple(inputs), outputs=outputs, attributes=attributes)
        )

    def _unknown(self, node: Any) -> None:
        names = dict.fromkeys(self._real(name) for name in read_by(node) if name)
        tensors = [name for name in names if name in self._program.values]
        domain = f"{shown(node.domain)}." if node.domain else ""
        self._emit(node, "unknown", tensors, operation=f"{domain}{shown(node.op_type)}")

    def _binary(self, node: Any) -> None:
        inputs = [self._operand(name) for name in node.input if name]
        self._emit(node, "pointwise", inputs, function=_BINARY[node.op_type], rounded=node.op_type == "Mod")

    def _reduce(self, node: Any, attributes: dict[str, Any]) -> None:
        x = self._real(node.input[0])
        rank = len(self._shape(x))
        axes = (
            attributes.get("axes")
            or ([attributes.get("axis", 0)] if node.op_type.startswith("Arg") else None)
            or self._numbers(node, 1)
        )
        if not axes and attributes.get("noop_with_empty_axes"):
            self._emit(node, "reshape", [x])
            return
        chosen = tuple(sorted(int(axis) % rank for axis in axes)) if axes else tuple(range(rank))
        self._emit(node, "reduce", [x], function=_REDUCE[node.op_type], axes=chosen)

    # -- matrix products -------------------------------------------------------------------------------------------

    def _inputs(self, node: Any) -> list[Operand]:
        return [self._real(name) for name in node.input if name]

    def _on_Conv(self, node: Any, a: dict[str, Any]) -> None:
        x, weight = self._real(node.input[0]), self._real(node.input[1])
        size, filters, groups = self._shape(x), self._shape(weight), int(a.get("group", 1))
        fits = groups > 0 and 0 not in filters and filters[0] % groups == 0 and size[1] == filters[1] * groups
        if len(size) == len(filters) > 2 and not fits:
            sizes = " with weights ".join("×".join(map(str, shape)) for shape in (size, filters))
            raise ImportedModelError(
                f"node '{shown(node.name or node.output[0])}' (Conv) cannot take {sizes} in {groups} groups; C must be the weights' "
                "second size times the groups"
            )
        kernel = filters[2:]
        rank = len(kernel)
        stride = tuple(a.get("strides") or (1,) * rank)
        dilation = tuple(a.get("dilations") or (1,) * rank)
        padding = self._padding(a, size[2:], kernel, stride, dilation)
        self._emit(
            node,
            "conv",
            self._inputs(node),
            stride=stride,
            dilation=dilation,
            padding=padding,
            groups=groups,
            zero_bias=len(node.input) > 2 and self._is_zero(node.input[2]),
        )

    def _is_zero(self, name: str) -> bool:
        known = self._known.get(self._real(name))
        return known is not None and not np.any(known)

    def _padding(
        self, a: dict[str, Any], size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
    ) -> tuple[tuple[int, int], ...]:
        automatic = a.get("auto_pad", b"NOTSET")
        if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
            pads = []
            for extent, k, s, d in zip(size, kernel, stride, dilation, strict=True):
                total = max(0, (-(-extent // s) - 1) * s + d * (k - 1) + 1 - extent)
                small, large = total // 2, total - total // 2
                pads.append((small, large) if automatic == b"SAME_UPPER" else (large, small))
            return tuple(pads)
        flat = [int(pad) for pad in a.get("pads") or (0,) * (2 * len(kernel))]
        if automatic == b"VALID":
            flat = [0] * (2 * len(kernel))
        return tuple(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))

    def _on_ConvTranspose(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "conv_transpose", self._inputs(node), groups=int(a.get("group", 1)))

    def _on_Gemm(self, node: Any, a: dict[str, Any]) -> None:
        inputs = self._inputs(node)
        if a.get("transA") or not self._program.is_parameter(inputs[1]):
            self._unknown(node)
            return
        self._emit(node, "linear", inputs, transposed=not a.get("transB"), biased=True)

    def _on_MatMul(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "matmul", self._inputs(node))

    def _on_Einsum(self, node: Any, a: dict[str, Any]) -> None:
        names = [self._real(name) for name in node.input]
        sizes = einsum_sizes(a["equation"].decode(errors="replace"), [self._shape(name) for name in names])
        if sizes is None:
            self._unknown(node)
        else:
            self._emit(node, "matmul", names, sizes=sizes)

    # -- norms, activations, windows -------------------------------------------------------------------------------

    def _on_BatchNormalization(self, node: Any, a: dict[str, Any]) -> None:
        if a.get("training_mode"):
            self._unknown(node)
            return
        self._emit(node, "batch_norm", self._inputs(node)[:3])

    def _on_InstanceNormalization(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "group_norm", self._inputs(node), groups=self._shape(self._real(node.input[0]))[1])

    def _on_GroupNormalization(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "group_norm", self._inputs(node), groups=int(a["num_groups"]))

    def _on_LayerNormalization(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "layer_norm", self._inputs(node), axes=self._from(node, a))

    def _on_RMSNormalization(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rms_norm", self._inputs(node), axes=self._from(node, a))

    def _from(self, node: Any, a: dict[str, Any]) -> tuple[int, ...]:
        rank = len(self._shape(self._real(node.input[0])))
        return tuple(range(int(a.get("axis", -1)) % rank, rank))

    def _on_Gelu(self, node: Any, a: dict[str, Any]) -> None:
        tanh = a.get("approximate", b"none") == b"tanh"
        self._emit(node, "activation", [self._real(node.input[0])], function="gelu_tanh" if tanh else "gelu")

    def _on_Swish(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "activation", [self._real(node.input[0])], function="silu")

    def _on_HardSigmoid(self, node: Any, a: dict[str, Any]) -> None:
        slope, offset = float(a.get("alpha", 0.2)), float(a.get("beta", 0.5))
        self._emit(node, "activation", [self._real(node.input[0])], function="hard_sigmoid", slope=slope, offset=offset)

    def _on_Clip(self, node: Any, a: dict[str, Any]) -> None:
        limits: list[Any] = [a.get("min"), a.get("max")]
        for place, name in enumerate(list(node.input)[1:3]):
            limits[place] = self._operand(name) if name else None
        if any(isinstance(limit, str) for limit in limits):
            self._unknown(node)
            return
        self._emit(node, "activation", [self._real(node.input[0])], function="clamp", low=limits[0], high=limits[1])

    def _on_Softmax(self, node: Any, a: dict[str, Any]) -> None:
        rank = len(self._shape(self._real(node.input[0])))
        default = 1 if self._opsets[""] < 13 else -1
        self._emit(node, "softmax", [self._real(node.input[0])], axis=int(a.get("axis", default)) % max(rank, 1))

    _on_LogSoftmax = _on_Softmax

    def _on_MaxPool(self, node: Any, a: dict[str, Any]) -> None:
        self._pool(node, a, "max")

    def _on_AveragePool(self, node: Any, a: dict[str, Any]) -> None:
        self._pool(node, a, "average")

    def _pool(self, node: Any, a: dict[str, Any], function: str) -> None:
        x = self._real(node.input[0])
        kernel = tuple(int(k) for k in a["kernel_shape"])
        stride = tuple(int(s) for s in a.get("strides") or (1,) * len(kernel))
        dilation = tuple(a.get("dilations") or (1,) * len(kernel))
        pads = self._padding(a, self._shape(x)[2:], kernel, stride, dilation)
        if len(kernel) != 2 or set(dilation) != {1} or len(node.output) > 1 or any(before != after for before, after in pads):
            self._unknown(node)
            return
        self._emit(
            node,
            "pool",
            [x],
            function=function,
            kernel=kernel,
            stride=stride,
            padding=tuple(before for before, _ in pads),
            ceil_mode=bool(a.get("ceil_mode", 0)),
        )

    def _on_GlobalAveragePool(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "adaptive_pool", [self._real(node.input[0])], function="average")

    def _on_GlobalMaxPool(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "adaptive_pool", [self._real(node.input[0])], function="max")

    def _on_Resize(self, node: Any, a: dict[str, Any]) -> None:
        mode = {b"nearest": "nearest", b"linear": "bilinear"}.get(a.get("mode", b"nearest"), "other")
        self._emit(node, "resize", [self._real(node.input[0])], mode=mode)

    _on_Upsample = _on_Resize

    # -- moving and viewing ----------------------------------------------------------------------------------------

    def _on_Transpose(self, node: Any, a: dict[str, Any]) -> None:
        rank = len(self._shape(self._real(node.input[0])))
        order = tuple(int(axis) for axis in a.get("perm") or reversed(range(rank)))
        self._emit(node, "permute", [self._real(node.input[0])], order=order)

    def _on_Expand(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "expand", [self._real(node.input[0])])

    def _on_Concat(self, node: Any, a: dict[str, Any]) -> None:
        names = [name for name in map(self._real, node.input) if math.prod(self._shape(name))]
        self._emit(node, "concat", names, axis=int(a["axis"]) % len(self._shape(node.output[0])))

    def _on_Split(self, node: Any, a: dict[str, Any]) -> None:
        for name in node.output:
            self._program.ops.append(
                Op(kind="slice", name=self._name(node), inputs=(self._real(node.input[0]),), outputs=(name,))
            )

    def _on_Slice(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "slice", [self._real(node.input[0])])

    def _on_Gather(self, node: Any, a: dict[str, Any]) -> None:
        x, index = self._real(node.input[0]), self._known.get(self._real(node.input[1]))
        if index is not None and index.ndim == 0:
            self._emit(node, "slice", [x], dropped=int(a.get("axis", 0)) % len(self._shape(x)))
        elif index is not None and index.ndim == 1 and np.all(np.diff(index) == 1):
            self._emit(node, "slice", [x])
        else:
            self._emit(node, "gather", self._inputs(node))

    def _on_GatherND(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "gather", self._inputs(node))

    _on_GatherElements = _on_GatherND

    def _on_Pad(self, node: Any, a: dict[str, Any]) -> None:
        x = self._real(node.input[0])
        flat = a.get("pads") or self._numbers(node, 1) or []
        rank = len(self._shape(x))
        axes = self._numbers(node, 3) if len(node.input) > 3 and node.input[3] else list(range(rank))
        sides = [(0, 0)] * rank
        for place, axis in enumerate(axes or ()):
            sides[axis % rank] = (int(flat[place]), int(flat[place + len(axes or ())]))
        value = self._operand(node.input[2]) if len(node.input) > 2 and node.input[2] else a.get("value", 0.0)
        zeros = a.get("mode", b"constant") == b"constant" and value == 0.0
        self._emit(node, "pad", [x], sides=tuple(sides), zeros=zeros)

    def _copied(self, node: Any, a: dict[str, Any]) -> None:
        purpose = {"DepthToSpace": "pixel_shuffle", "SpaceToDepth": "pixel_unshuffle", "Tile": "repeat"}[node.op_type]
        self._emit(node, "rearrange", [self._real(node.input[0])], purpose=purpose)

    _on_DepthToSpace = _copied
    _on_SpaceToDepth = _copied
    _on_Tile = _copied

    # -- sizes and indices -----------------------------------------------------------------------------------------

    def _folded(self, node: Any, a: dict[str, Any]) -> bool:
        """Compute a node that is made of numbers alone (or of shapes), if its result is small; whether it was."""
        if node.op_type == "Constant":
            value = constant(self._onnx, a)
            if value is None:
                return False
            self._keep(node.output[0], value)
            return True
        if node.op_type in ("Shape", "Size"):
            shape = self._shape(self._real(node.input[0]))
            part = np.array(shape[slice(a.get("start", 0), a.get("end"))], dtype=np.int64)
            self._keep(node.output[0], part if node.op_type == "Shape" else np.array(math.prod(shape), dtype=np.int64))
            return True
        names = [self._real(name) if name else "" for name in node.input]
        if node.op_type not in FOLDS or any(name and name not in self._known for name in names):
            return False
        arguments = [self._known[name] if name else None for name in names]
        if sum(argument.size for argument in arguments if argument is not None) > FEW:
            return False
        with np.errstate(all="ignore"):
            result = FOLDS[node.op_type](arguments, a)
        if result is None:
            return False
        results = result if isinstance(result, list) else [result]
        if len(results) < len(node.output) or any(item.size > FEW for item in results):
            return False
        stored = any(self._program.values[name].source == "parameter" for name in names if name)
        for name, item in zip(node.output, results, strict=False):
            self._keep(name, np.asarray(item), "parameter" if stored else "constant")
        return True

    def _keep(self, name: str, value: Array, source: Source = "constant") -> None:
        self._known[name] = value
        dtype = self._onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        self._declare(name, dtype, value.shape, source)


def read_by(node: Any) -> Iterator[str]:
    """What a node reads, and what its subgraphs (of an If or a Loop) read, of which some may be their own."""
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        yield from inner.input
        for attribute in inner.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
                yield from (value.name for value in graph.output)


_LEAVES: Final = frozenset({"Conv", "Gemm", "BatchNormalization", "LayerNormalization", "MatMul"})


def _sizes(kind: Any) -> tuple[int, ...] | None:
    """The shape in a type, if it is that of a tensor and every size is a number."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(int(dim.dim_value) for dim in dims)
