"""Exported PyTorch modules, operation by operation, as programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from perfmodel.importers.program import (
    Op,
    Operand,
    Program,
    Source,
    Value,
    checked,
    einsum_sizes,
)
from perfmodel.importers.pytorch_aliases import Aliases
from perfmodel.importers.pytorch_module import torch_module

_UNARY: Final = {
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "silu": "silu",
    "leaky_relu": "leaky_relu",
    "elu": "elu",
    "mish": "mish",
    "softplus": "softplus",
    "tanh": "tanh",
    "exp": "exp",
    "log": "log",
    "erf": "erf",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "reciprocal": "reciprocal",
    "sin": "sin",
    "cos": "cos",
    "square": "square",
    "abs": "abs",
    "neg": "negate",
    "round": "round",
    "floor": "round",
    "ceil": "round",
    "sign": "round",
}
_BINARY: Final = {
    "add": "add",
    "sub": "subtract",
    "rsub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "maximum": "maximum",
    "minimum": "minimum",
    "pow": "power",
    "eq": "compare",
    "ne": "compare",
    "lt": "compare",
    "le": "compare",
    "gt": "compare",
    "ge": "compare",
    "logical_and": "compare",
    "logical_or": "compare",
    "bitwise_and": "compare",
    "bitwise_or": "compare",
}
_REDUCE: Final = {
    "mean": "mean",
    "sum": "sum",
    "amax": "max",
    "amin": "min",
    "max": "max",
    "min": "min",
    "prod": "product",
    "var": "variance",
    "std": "variance",
    "linalg_vector_norm": "norm",
    "norm": "norm",
    "argmax": "max",
    "argmin": "min",
}
_IDENTITY: Final = frozenset(
    {
        *("dropout", "feature_dropout", "alpha_dropout", "alias", "detach"),
        *("lift_fresh_copy", "lift_fresh", "identity", "bernoulli"),
    }
)
_RESHAPE: Final = frozenset(
    {"reshape", "view", "_unsafe_view", "reshape_as", "view_as", "flatten", "unflatten", "unsqueeze", "squeeze"}
)
_MAIN: Final = frozenset({"conv", "conv_transpose", "linear", "batch_norm", "layer_norm", "group_norm"})
"""Of a module's operations, the one that carries its name alone."""
_NO_TENSOR: Final = frozenset(
    {"_assert_tensor_metadata", "_assert_scalar", "sym_size", "sym_constrain_range_for_size", "_assert_async"}
)
_ONCE: Final = frozenset({"wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint"})
"""Operations that run the one graph that is among their arguments, once, on the arguments behind it."""


class Reader:
    """Walks an exported graph once; one method for each operation. `_operand` maps each of its nodes to the value that stands for it."""

    def __init__(self, name: str, exported: Any, trained: int) -> None:
        self._exported = exported
        self._program = Program(name=name, values={}, ops=[], inputs=(), outputs=(), trained=trained)
        self._operand: dict[Any, Any] = {}
        self._torch = torch_module()
        self._steps: list[str] = []
        self._aliases = Aliases()

    def read(self) -> Program:
        """The program. Raises ImportedModelError for a tensor that no machine holds."""
        signature = self._exported.graph_signature
        kinds = {spec.arg.name: str(spec.kind.name) for spec in signature.input_specs}
        results: list[str] = []
        self._aliases.add(self._exported.graph.nodes)
        for node in self._exported.graph.nodes:
            if node.op == "placeholder":
                kind = kinds.get(node.name, "USER_INPUT")
                source: Source = "activation" if kind == "USER_INPUT" else "parameter" if kind == "PARAMETER" else "constant"
                if not hasattr(node.meta.get("val"), "shape"):
                    self._operand[node] = node.meta.get("val")
                    continue
                self._operand[node] = self._value(node.name, node.meta["val"], source)
                if source == "activation":
                    self._program.inputs += (node.name,)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "get_attr":
                self._operand[node] = node.target
            elif node.op == "output":
                flat = self._torch.utils._pytree.tree_leaves(self._resolved(node.args[0]))
                results = [item for item in flat if isinstance(item, str) and item in self._program.values]
        self._program.outputs = tuple(dict.fromkeys(results))
        self._name_operations()
        return self._program

    # -- values ----------------------------------------------------------------------------------------------------

    def _value(self, name: str, fake: Any, source: Source = "activation") -> str:
        self._program.values[name] = Value(
            name=name, shape=checked(name, fake.shape), source=source, floating=bool(fake.is_floating_point())
        )
        return name

    def _resolved(self, argument: Any) -> Any:
        """An argument with each node replaced by the value, number or list that stands for it."""
        return self._torch.fx.node.map_arg(argument, lambda node: self._operand[node])

    def _shape(self, operand: Operand) -> tuple[int, ...]:
        return self._program.values[operand].shape if isinstance(operand, str) else ()

    def _emit(self, node: Any, kind: str, inputs: Sequence[Operand], **attributes: Any) -> None:
        fake = node.meta.get("val")
        single = hasattr(fake, "shape")
        fakes = [fake] if single else [item for item in (fake or ()) if hasattr(item, "shape")]
        names = [node.name] if single else [f"{node.name}.{index}" for index in range(len(fakes))]
        for name, item in zip(names, fakes, strict=True):
            self._value(name, item)
        self._operand[node] = names[0] if single else names
        if names:
            self._append(kind, node, inputs, tuple(names), **attributes)

    def _append(self, kind: str, node: Any, inputs: Sequence[Operand], outputs: tuple[str, ...], **attributes: Any) -> None:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        self._steps.append(str(node.target).partition(".")[2].partition(".")[0].strip("_") or node.name)
        self._program.ops.append(Op(kind=kind, name=path, inputs=tuple(inputs), outputs=outputs, attributes=attributes))

    def _name_operations(self) -> None:
        """Operations are called after their module; those of a module that holds others, after what they do in it."""
        holders = {""}
        for op in self._program.ops:
            parts = op.name.split(".")
            holders.update(".".join(parts[:length]) for length in range(1, len(parts)))
        several = Counter(op.name for op in self._program.ops)
        self._program.ops = [
            replace(op, name=f"{op.name}.{step}".strip("."))
            if op.name in holders or (several[op.name] > 1 and op.kind not in _MAIN)
            else op
            for op, step in zip(self._program.ops, self._steps, strict=True)
        ]

    # -- operations ------------------------------------------------------------------------------------------------

    def _call(self, node: Any) -> None:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            self._python(node)
            return
        target = str(schema.name).rpartition("::")[2]
        arguments = self._arguments(node, schema)
        in_place = target.endswith("_") and not target.endswith("__") and len(target) > 1
        base = target[:-1] if in_place else target
        known: Callable[[Any, dict[str, Any]], None] | None = getattr(self, f"_aten_{base}", None)
        if str(schema.name).startswith("aten::") and base in _NO_TENSOR:
            self._operand[node] = None
        elif not str(schema.name).startswith("aten::"):
            self._unknown(node, arguments)
        elif known is not None:
            known(node, arguments)
        elif base in _UNARY:
            self._emit(node, "activation", [arguments[next(iter(arguments))]], function=_UNARY[base])
        elif base in _BINARY:
            self._binary(node, base, arguments)
        elif base in _REDUCE and not isinstance(arguments.get("other"), str):
            self._reduce(node, base, arguments)
        elif base in _IDENTITY:
            self._operand[node] = arguments[next(iter(arguments))]
        elif base in _RESHAPE:
            self._emit(node, "reshape", [arguments[next(iter(arguments))]])
        else:
            self._unknown(node, arguments)
        if in_place:
            self._written(node, node.args[0], self._operand[node])

    def _written(self, node: Any, target: Any, result: Any) -> None:
        """Later readers of the tensor that `node` writes `result` into see it, by whatever view of the tensor they read."""
        self._operand[target] = result
        for other in self._aliases.read_after(node, target):
            before = self._operand[other]
            if self._aliases.same(other, target):
                self._operand[other] = result
            elif isinstance(before, str) and isinstance(result, str) and before != result:
                name = f"{node.name}.{other.name}"
                self._value(name, other.meta["val"])
                whole = self._program.values[before].elements == self._program.values[result].elements
                if whole:  # all of it was written, in another shape
                    self._append("reshape", node, [result], (name,))
                elif (place := self._place_of(target, other)) is not None:  # what it wrote between what was there already
                    axis, start, end = place
                    shape = self._shape(before)
                    inputs = []
                    for part, size in ((f"{name}.before", start), (result, end - start), (f"{name}.after", shape[axis] - end)):
                        if size and part is not result:
                            self._program.values[part] = Value(name=part, shape=(*shape[:axis], size, *shape[axis + 1 :]))
                            self._append("slice", node, [before], (part,))
                        inputs += [part] if size else []
                    self._append("concat", node, inputs, (name,), axis=axis)
                else:
                    self._append("unknown", node, [before, result], (name,), operation=f"{node.target} into a part of a tensor")
                self._operand[other] = name

    def _arguments(self, node: Any, schema: Any) -> dict[str, Any]:
        """All arguments by name, defaults included, with tensors as names of values."""
        bound: dict[str, Any] = {}
        for index, parameter in enumerate(schema.arguments):
            if index < len(node.args):
                given = node.args[index]
            elif parameter.name in node.kwargs:
                given = node.kwargs[parameter.name]
            else:
                given = parameter.default_value
            bound[parameter.name] = self._resolved(given)
        return bound

    def _python(self, node: Any) -> None:
        """Functions of Python itself: picking from a tuple, arithmetic on sizes; and operations whose arguments are graphs."""
        if isinstance(node.target, self._torch._ops.HigherOrderOperator):
            self._of_graphs(node)
            return
        arguments = [self._resolved(argument) for argument in node.args]
        if getattr(node.target, "__name__", "") == "getitem":
            self._operand[node] = arguments[0][arguments[1]]
            return
        value = node.meta.get("val")
        if hasattr(value, "shape"):
            self._unknown(node, {str(index): argument for index, argument in enumerate(arguments)})
            return
        self._operand[node] = value

    def _place_of(self, view: Any, whole: Any) -> tuple[int, int, int] | None:
        """Axis, start and end of a view that is a slice of a tensor along one axis; None for any other view."""
        name = str(getattr(getattr(view.target, "_schema", None), "name", ""))
        if name != "aten::slice" or view.args[0] is not whole:
            return None
        a = self._arguments(view, view.target._schema)
        shape = whole.meta["val"].shape
        axis = a["dim"] % len(shape)
        start, end, _ = slice(a["start"], a["end"]).indices(int(shape[axis]))
        return (axis, start, end) if a["step"] == 1 and start < end else None

    def _of_graphs(self, node: Any) -> None:
        """A part of the module under `autocast`, `no_grad` or the like is a graph of its own, which is read in its place.

        What chooses among several graphs, or repeats one, is not understood.
        """
        graphs = [item for item in node.args if getattr(item, "op", "") == "get_attr"]
        inner = getattr(node.graph.owning_module, str(graphs[0].target), None) if len(graphs) == 1 else None
        if str(node.target) not in _ONCE or not isinstance(inner, self._torch.fx.GraphModule):
            self._unknown(node, {str(index): self._resolved(argument) for index, argument in enumerate(node.args)})
            return
        given = list(node.args[node.args.index(graphs[0]) + 1 :])
        inputs = dict(zip((part for part in inner.graph.nodes if part.op == "placeholder"), given, strict=True))
        self._aliases.add(inner.graph.nodes)
        for part in inner.graph.nodes:
            if part.op == "placeholder":
                self._operand[part] = self._resolved(inputs[part])
            elif part.op == "get_attr":
                self._operand[part] = part.target
            elif part.op == "output":
                self._operand[node] = self._resolved(part.args[0])
            elif part.op == "call_function":
                if not part.name.startswith(f"{node.name}_"):
                    part._rename(f"{node.name}_{part.name}")  # names are unique in their own graph alone
                self._call(part)
        for part, outer in inputs.items():
            if hasattr(outer, "op") and self._operand[part] != self._operand[outer]:
                self._written(node, outer, self._operand[part])

    def _unknown(self, node: Any, arguments: dict[str, Any]) -> None:
        flat = self._torch.utils._pytree.tree_leaves(list(arguments.values()))
        tensors = [item for item in flat if isinstance(item, str) and item in self._program.values]
        self._emit(node, "unknown" if tensors else "constant", tensors, operation=str(node.target))

    def _binary(self, node: Any, base: str, a: dict[str, Any]) -> None:
        keys = list(a)
        left, right = a[keys[0]], a[keys[1]]
        if base == "rsub":
            left, right = right, left
        if base == "div" and a.get("rounding_mode"):
            self._emit(node, "pointwise", [left, right], function="divide", rounded=True)
            return
        scale = a.get("alpha", 1)
        if isinstance(scale, int | float) and scale != 1:  # a + alpha·b is a multiplication more
            between = f"{node.name}.scaled"
            self._program.values[between] = Value(name=between, shape=self._shape(right))
            self._append("pointwise", node, [right, float(scale)], (between,), function="multiply")
            right = between
        self._emit(node, "pointwise", [_number(left), _number(right)], function=_BINARY[base])

    def _reduce(self, node: Any, base: str, a: dict[str, Any]) -> None:
        x = a[next(iter(a))]
        rank = len(self._shape(x))
        given = a.get("dim")
        given = [given] if isinstance(given, int) else given
        axes = tuple(sorted(axis % rank for axis in given)) if given else tuple(range(rank))
        self._emit(node, "reduce", [x], function=_REDUCE[base], axes=axes)

    def _aten_to(self, node: Any, a: dict[str, Any]) -> None:
        """A conversion between floating-point types, which matters under autocast, where not all tensors are of one; else nothing."""
        x = a[next(iter(a))]
        value = self._program.values.get(x) if isinstance(x, str) else None
        floating = bool(node.meta["val"].is_floating_point())
        if value is not None and value.floating and floating and (a.get("dtype") is not None or "other" in a):
            self._emit(node, "convert", [x])
        else:
            self._operand[node] = x

    def _aten_contiguous(self, node: Any, a: dict[str, Any]) -> None:
        """A copy, where the tensor does not lie in the order of its axes: an image in NHWC does not."""
        if a["memory_format"] is self._torch.contiguous_format:
            self._emit(node, "contiguous", [a["self"]])
        else:
            self._operand[node] = a["self"]

    _aten_clone = _aten_contiguous

    _aten__to_copy = _aten_to
    _aten_type_as = _aten_to

    def _aten_conv2d(self, node: Any, a: dict[str, Any]) -> None:
        self._convolution(node, a, "conv")

    def _aten_conv1d(self, node: Any, a: dict[str, Any]) -> None:
        self._convolution(node, a, "conv")

    def _aten_conv3d(self, node: Any, a: dict[str, Any]) -> None:
        self._convolution(node, a, "conv")

    def _aten_convolution(self, node: Any, a: dict[str, Any]) -> None:
        if a["transposed"]:
            self._transposed(node, a)
        else:
            self._convolution(node, a, "conv")

    def _aten_conv_transpose2d(self, node: Any, a: dict[str, Any]) -> None:
        self._transposed(node, a)

    def _transposed(self, node: Any, a: dict[str, Any]) -> None:
        inputs = [a["input"], a["weight"], *([a["bias"]] if a["bias"] is not None else [])]
        self._emit(node, "conv_transpose", inputs, groups=a["groups"])

    def _convolution(self, node: Any, a: dict[str, Any], kind: str) -> None:
        kernel = self._shape(a["weight"])[2:]
        rank = len(kernel)
        stride, dilation = _spread(a["stride"], rank), _spread(a["dilation"], rank)
        if isinstance(a["padding"], str):
            total = [d * (k - 1) if a["padding"] == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
            pads = [(t // 2, t - t // 2) for t in total]
        else:
            pads = [(p, p) for p in _spread(a["padding"], rank)]
        inputs = [a["input"], a["weight"], *([a["bias"]] if a["bias"] is not None else [])]
        self._emit(node, kind, inputs, stride=stride, padding=tuple(pads), dilation=dilation, groups=a["groups"])

    def _aten_linear(self, node: Any, a: dict[str, Any]) -> None:
        inputs = [a["input"], a["weight"], *([a["bias"]] if a["bias"] is not None else [])]
        self._emit(node, "linear", inputs)

    def _aten_addmm(self, node: Any, a: dict[str, Any]) -> None:
        self._product(node, a["mat1"], a["mat2"], a["self"])

    def _aten_baddbmm(self, node: Any, a: dict[str, Any]) -> None:
        self._product(node, a["batch1"], a["batch2"], a["self"])

    def _aten_mm(self, node: Any, a: dict[str, Any]) -> None:
        self._product(node, a["self"], a["mat2"], None)

    def _aten_bmm(self, node: Any, a: dict[str, Any]) -> None:
        self._product(node, a["self"], a["mat2"], None)

    def _aten_matmul(self, node: Any, a: dict[str, Any]) -> None:
        self._product(node, a["self"], a["other"], None)

    def _product(self, node: Any, left: str, right: str, added: str | None) -> None:
        if added is None:
            self._emit(node, "matmul", [left, right])
            return
        product = f"{node.name}.product"
        self._program.values[product] = Value(name=product, shape=tuple(node.meta["val"].shape))
        self._append("matmul", node, [left, right], (product,))
        self._emit(node, "pointwise", [product, added], function="add")

    def _aten_einsum(self, node: Any, a: dict[str, Any]) -> None:
        operands = list(a["tensors"])
        sizes = einsum_sizes(a["equation"], [self._shape(x) for x in operands])
        if sizes is None:
            self._unknown(node, a)
        else:
            self._emit(node, "matmul", operands, sizes=sizes)

    def _aten_scaled_dot_product_attention(self, node: Any, a: dict[str, Any]) -> None:
        mask = a.get("attn_mask")
        self._emit(node, "attention", [a["query"], a["key"], a["value"], *([mask] if mask is not None else [])])

    def _aten_batch_norm(self, node: Any, a: dict[str, Any]) -> None:
        if a["running_mean"] is None:
            self._emit(node, "group_norm", _present(a["input"], a["weight"], a["bias"]), groups=self._shape(a["input"])[1])
            return
        self._emit(node, "batch_norm", [a["input"], *(item for item in (a["weight"], a["bias"]) if item is not None)])

    def _aten_layer_norm(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "layer_norm", _present(a["input"], a["weight"], a["bias"]), axes=self._last(a))

    def _aten_rms_norm(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rms_norm", _present(a["input"], a["weight"]), axes=self._last(a))

    def _last(self, a: dict[str, Any]) -> tuple[int, ...]:
        rank = len(self._shape(a["input"]))
        return tuple(range(rank - len(a["normalized_shape"]), rank))

    def _aten_group_norm(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "group_norm", _present(a["input"], a["weight"], a["bias"]), groups=a["num_groups"])

    def _aten_instance_norm(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "group_norm", _present(a["input"], a["weight"], a["bias"]), groups=self._shape(a["input"])[1])

    def _aten_gelu(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "activation", [a["self"]], function="gelu" if a["approximate"] == "none" else "gelu_tanh")

    def _aten_hardtanh(self, node: Any, a: dict[str, Any]) -> None:
        self._clamped(node, a["self"], a["min_val"], a["max_val"])

    def _aten_clamp(self, node: Any, a: dict[str, Any]) -> None:
        self._clamped(node, a["self"], a["min"], a["max"])

    def _aten_clamp_min(self, node: Any, a: dict[str, Any]) -> None:
        self._clamped(node, a["self"], a["min"], None)

    def _aten_clamp_max(self, node: Any, a: dict[str, Any]) -> None:
        self._clamped(node, a["self"], None, a["max"])

    def _clamped(self, node: Any, x: str, low: Any, high: Any) -> None:
        if isinstance(low, str) or isinstance(high, str):
            self._emit(node, "pointwise", _present(x, low, high), function="maximum")
            return
        self._emit(node, "activation", [x], function="clamp", low=low, high=high)

    def _aten_prelu(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "pointwise", [a["self"], a["weight"]], function="select")

    def _aten_glu(self, node: Any, a: dict[str, Any]) -> None:
        x, axis = a["self"], a["dim"] % len(self._shape(a["self"]))
        half = self._shape(x)[axis] // 2
        parts = self._slices(node, x, axis, [half, half])
        gate = f"{node.name}.gate"
        self._program.values[gate] = Value(name=gate, shape=self._shape(parts[1]))
        self._append("activation", node, [parts[1]], (gate,), function="sigmoid")
        self._emit(node, "pointwise", [parts[0], gate], function="multiply")

    def _aten_where(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "pointwise", [_number(item) for item in a.values()], function="select")

    def _aten_masked_fill(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "pointwise", [a["self"], a["mask"]], function="select")

    def _aten_addcmul(self, node: Any, a: dict[str, Any]) -> None:
        factors = [_number(a["tensor1"]), _number(a["tensor2"])]
        self._emit(node, "pointwise", [_number(a["self"]), *factors], function="multiply_add")

    def _aten_softmax(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "softmax", [a["self"]], axis=a["dim"] % max(1, len(self._shape(a["self"]))))

    _aten__softmax = _aten_softmax
    _aten_log_softmax = _aten_softmax

    def _aten_logical_not(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "activation", [a["self"]], function="negate")

    _aten_bitwise_not = _aten_logical_not

    def _aten_max_pool2d(self, node: Any, a: dict[str, Any]) -> None:
        self._pool(node, a, "max")

    def _aten_avg_pool2d(self, node: Any, a: dict[str, Any]) -> None:
        self._pool(node, a, "average")

    def _pool(self, node: Any, a: dict[str, Any], function: str) -> None:
        kernel = _spread(a["kernel_size"], 2)
        if any(d != 1 for d in _spread(a.get("dilation", 1), 2)):
            self._unknown(node, a)
            return
        self._emit(
            node,
            "pool",
            [a["self"]],
            function=function,
            kernel=kernel,
            stride=_spread(a["stride"], 2) if a["stride"] else kernel,
            padding=_spread(a["padding"], 2),
            ceil_mode=bool(a["ceil_mode"]),
        )

    def _aten_adaptive_avg_pool2d(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "adaptive_pool", [a["self"]], function="average")

    def _aten_adaptive_max_pool2d(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "adaptive_pool", [a["self"]], function="max")

    def _aten_adaptive_avg_pool1d(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "adaptive_pool", [a["self"]], function="average")

    def _resize(self, node: Any, a: dict[str, Any], mode: str) -> None:
        self._emit(node, "resize", [a[next(iter(a))]], mode=mode)

    def _aten_upsample_nearest2d(self, node: Any, a: dict[str, Any]) -> None:
        self._resize(node, a, "nearest")

    def _aten_upsample_bilinear2d(self, node: Any, a: dict[str, Any]) -> None:
        self._resize(node, a, "bilinear")

    # -- moving and viewing ----------------------------------------------------------------------------------------

    def _aten_permute(self, node: Any, a: dict[str, Any]) -> None:
        rank = len(self._shape(a["self"]))
        self._emit(node, "permute", [a["self"]], order=tuple(axis % rank for axis in a["dims"]))

    def _aten_transpose(self, node: Any, a: dict[str, Any]) -> None:
        order = list(range(len(self._shape(a["self"]))))
        first, second = a["dim0"] % len(order), a["dim1"] % len(order)
        order[first], order[second] = second, first
        self._emit(node, "permute", [a["self"]], order=tuple(order))

    def _aten_t(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "permute", [a["self"]], order=tuple(reversed(range(len(self._shape(a["self"]))))))

    _aten_numpy_T = _aten_t

    def _aten_expand(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "expand", [a["self"]])

    _aten_expand_as = _aten_expand
    _aten_broadcast_to = _aten_expand

    def _aten_cat(self, node: Any, a: dict[str, Any]) -> None:
        tensors = [x for x in a["tensors"] if math.prod(self._shape(x))]
        self._emit(node, "concat", tensors, axis=a["dim"] % max(1, len(node.meta["val"].shape)))

    _aten_concat = _aten_cat

    def _aten_stack(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "stack", list(a["tensors"]), axis=a["dim"] % len(node.meta["val"].shape))

    def _aten_pad(self, node: Any, a: dict[str, Any]) -> None:
        flat = list(a["pad"])
        rank = len(self._shape(a["self"]))
        sides = [(0, 0)] * rank
        for position in range(len(flat) // 2):
            sides[rank - 1 - position] = (flat[2 * position], flat[2 * position + 1])
        self._emit(node, "pad", [a["self"]], sides=tuple(sides), zeros=a["mode"] == "constant" and not a["value"], mode=a["mode"])

    _aten_constant_pad_nd = lambda self, node, a: self._aten_pad(node, {**a, "mode": "constant"})  # noqa: E731

    def _aten_roll(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["self"]], purpose="roll")

    def _aten_flip(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["self"]], purpose="flip")

    def _aten_repeat(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["self"]], purpose="repeat")

    def _aten_pixel_shuffle(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["self"]], purpose="pixel_shuffle")

    def _aten_pixel_unshuffle(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["self"]], purpose="pixel_unshuffle")

    def _aten_channel_shuffle(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["self"]], purpose="channel_shuffle")

    def _aten_im2col(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["self"]], purpose="im2col")

    def _aten_copy(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "rearrange", [a["src"]], purpose="copy")

    def _aten_unfold(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "expand", [a["self"]])  # overlapping windows of one tensor: a view

    def _gather(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "gather", [a["self"], a["index"]])

    _aten_index_select = _gather
    _aten_gather = _gather

    def _aten_embedding(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "gather", [a["weight"], a["indices"]])

    def _aten_index(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "gather", _present(a["self"], *a["indices"]))

    def _aten_slice(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "slice", [a["self"]])

    def _aten_narrow(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "slice", [a["self"]])

    def _aten_select(self, node: Any, a: dict[str, Any]) -> None:
        self._emit(node, "slice", [a["self"]], dropped=a["dim"] % len(self._shape(a["self"])))

    def _slices(self, node: Any, x: str, axis: int, sizes: Sequence[int], *, drop: bool = False) -> list[str]:
        shape = self._shape(x)
        names = []
        for index, size in enumerate(sizes):
            name = f"{node.name}.{index}"
            part = shape[:axis] + (() if drop else (size,)) + shape[axis + 1 :]
            self._program.values[name] = Value(name=name, shape=part)
            self._append("slice", node, [x], (name,), **({"dropped": axis} if drop else {}))
            names.append(name)
        return names

    def _parts(self, node: Any, a: dict[str, Any], *, drop: bool = False) -> None:
        x = a["self"]
        axis = a["dim"] % len(self._shape(x))
        sizes = [1] * len(node.meta["val"]) if drop else [int(fake.shape[axis]) for fake in node.meta["val"]]
        self._operand[node] = self._slices(node, x, axis, sizes, drop=drop)

    def _aten_split(self, node: Any, a: dict[str, Any]) -> None:
        self._parts(node, a)

    _aten_split_with_sizes = _aten_split
    _aten_chunk = _aten_split
    _aten_tensor_split = _aten_split
    _aten_unsafe_chunk = _aten_split

    def _aten_unbind(self, node: Any, a: dict[str, Any]) -> None:
        self._parts(node, a, drop=True)


def _spread(given: Any, rank: int) -> tuple[int, ...]:
    """One number for each axis, of one number for all or a list."""
    values = [given] if isinstance(given, int) else list(given)
    return tuple(int(v) for v in (values * rank if len(values) == 1 else values))


def _present(*items: Any) -> list[Any]:
    return [item for item in items if item is not None]


def _number(item: Any) -> Operand:
    return item if isinstance(item, str) else float(item)
