"""What primitive operations mean: norms and products written out, and what folds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perfmodel.importers.activations import recognise_activations
from perfmodel.importers.program import Op, Operand, Program, fold_constants


def recognise(program: Program) -> None:
    """Rewrite `program` in place: constants folded, then norms, biases and activations found in what computes them."""
    fold_constants(program)
    program.without_dead_operations()
    for rule in (_norms, _biases, _affine_norms, _unbiased):
        _Rewriter(program).apply(rule)
        program.without_dead_operations()
    recognise_activations(program)
    program.without_dead_operations()


class _Rewriter:
    """Applies a rule to every operation; a rule returns what to put in its place."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.makers = program.makers()
        self._users = program.users()

    def apply(self, rule: Any) -> None:
        """Replace each operation for which `rule(self, op)` returns another."""
        for index, op in enumerate(self.program.ops):
            better = rule(self, op)
            if better is not None:
                self.program.ops[index] = better
                self.makers[better.output] = better

    def shape(self, operand: Operand) -> tuple[int, ...]:
        return self.program.values[operand].shape if isinstance(operand, str) else ()

    def maker(self, operand: Operand, kind: str, function: str | None = None) -> Op | None:
        """The operation that makes `operand`, before conversions of its type, if it is of that kind and function."""
        op = self.makers.get(self.unconverted(operand)) if isinstance(operand, str) else None
        if op is None or op.kind != kind or (function is not None and op.attributes.get("function") != function):
            return None
        return op

    def unconverted(self, name: str) -> str:
        """The value before conversions of its type."""
        while (op := self.makers.get(name)) is not None and op.kind == "convert":
            name = op.tensors[0]
        return name

    def readers(self, name: str) -> list[Op]:
        """The operations that read a value, as they were before this rule."""
        return self._users[name]

    def alone(self, name: str) -> bool:
        """Whether one operation reads a value, and it is no result."""
        return len(self._users[name]) == 1 and name not in self.program.outputs

    def split(self, op: Op) -> tuple[str, Operand] | None:
        """The activation and the parameter (or number) that a binary operation combines."""
        if len(op.inputs) != 2:
            return None
        for x, other in (op.inputs, op.inputs[::-1]):
            if (
                isinstance(x, str)
                and not self.program.is_parameter(x)
                and (not isinstance(other, str) or self.program.is_parameter(other))
            ):
                return x, other
        return None


def _norms(r: _Rewriter, op: Op) -> Op | None:
    """(x − mean)·(variance + ε)^-½ and x·(mean(x²) + ε)^-½, with the weight and bias that follow."""
    if op.kind != "pointwise":
        return None
    core = _normalised(r, op)
    if core is not None:
        return core
    function = op.attributes.get("function")
    parts = r.split(op) if function in ("multiply", "add") else None
    if parts is None or not isinstance(parts[1], str):
        return None
    norm = r.maker(parts[0], "layer_norm") or r.maker(parts[0], "rms_norm")
    if norm is None or not norm.attributes.get("found") or not r.alone(parts[0]):
        return None
    size = _product(r.shape(norm.output)[axis] for axis in norm.attributes["axes"])
    place = 1 if function == "multiply" else 2
    if len(norm.inputs) != place or r.program.values[parts[1]].elements != size or (place == 2 and norm.kind == "rms_norm"):
        return None
    return replace(norm, inputs=(*norm.inputs, parts[1]), outputs=op.outputs)


def _normalised(r: _Rewriter, op: Op) -> Op | None:
    centred, spread = _ratio(r, op)
    if centred is None or spread is None:
        return None
    sub = r.maker(centred, "pointwise", "subtract")
    mean = r.maker(sub.inputs[1], "reduce", "mean") if sub is not None else None
    if sub is not None and mean is not None and mean.inputs[0] == sub.inputs[0]:
        squares = r.maker(spread, "reduce", "mean")
        variance = r.maker(spread, "reduce", "variance")
        again = r.maker(_squared(r, squares.inputs[0]) or 0.0, "pointwise", "subtract") if squares is not None else None
        measured = (again is not None and again.inputs == sub.inputs) or (
            variance is not None and variance.inputs[0] == sub.inputs[0]
        )
        if not measured:
            return None
        x, axes, kind = sub.inputs[0], mean.attributes["axes"], "layer_norm"
    else:
        squares = r.maker(spread, "reduce", "mean")
        if squares is None or _squared(r, squares.inputs[0]) != centred:
            return None
        x, axes, kind = centred, squares.attributes["axes"], "rms_norm"
    return Op(
        kind=kind, name=op.name, inputs=(r.unconverted(str(x)),), outputs=op.outputs, attributes={"axes": axes, "found": True}
    )


def _ratio(r: _Rewriter, op: Op) -> tuple[str | None, str | None]:
    """(a, b) of a / √(b + ε), in its spellings."""
    function = op.attributes.get("function")
    if function not in ("divide", "multiply") or len(op.tensors) != 2:
        return None, None
    left, right = op.tensors
    for a, root in [(left, right)] if function == "divide" else [(left, right), (right, left)]:
        source = r.maker(root, "activation", "sqrt" if function == "divide" else "rsqrt")
        if source is None and function == "multiply":
            inverse = r.maker(root, "activation", "reciprocal")
            over = r.maker(root, "pointwise", "divide")
            inner = (
                inverse.inputs[0]
                if inverse is not None
                else over.inputs[1]
                if over is not None and over.inputs[0] == 1.0
                else None
            )
            source = r.maker(inner, "activation", "sqrt") if inner is not None else None
        total = r.maker(source.inputs[0], "pointwise", "add") if source is not None else None
        tensors = total.tensors if total is not None else ()
        if total is not None:
            spread = [name for name in tensors if not r.program.is_parameter(name)]
            if len(spread) == 1:
                return a, spread[0]
    return None, None


def _squared(r: _Rewriter, name: Operand) -> Operand | None:
    """x where `name` is x²."""
    if (op := r.maker(name, "activation", "square")) is not None:
        return op.inputs[0]
    if (op := r.maker(name, "pointwise", "power")) is not None and op.inputs[1] == 2.0:
        return op.inputs[0]
    if (op := r.maker(name, "pointwise", "multiply")) is not None and op.inputs[0] == op.inputs[1]:
        return op.inputs[0]
    return None


def _biases(r: _Rewriter, op: Op) -> Op | None:
    """A matrix product with a parameter is a linear layer, and a parameter per output that is added to it its bias."""
    if (
        op.kind == "matmul"
        and "sizes" not in op.attributes
        and r.program.is_parameter(op.inputs[1])
        and len(r.shape(op.inputs[1])) == 2
    ):
        return replace(op, kind="linear", attributes={"transposed": True})
    if op.kind != "pointwise" or op.attributes.get("function") != "add":
        return None
    parts = r.split(op)
    linear = r.maker(parts[0], "linear") if parts is not None else None
    if (
        parts is None
        or linear is None
        or len(linear.inputs) != 2
        or not linear.attributes.get("transposed")
        or not r.alone(parts[0])
    ):
        return None
    if r.shape(parts[1]) != r.shape(linear.output)[-1:]:
        return None
    return replace(linear, inputs=(*linear.inputs, parts[1]), outputs=op.outputs)


def _affine_norms(r: _Rewriter, op: Op) -> Op | None:
    """x·a + c with a and c per channel behind a convolution: a batch norm whose statistics are already in its parameters."""
    if op.kind != "pointwise" or op.attributes.get("function") not in ("add", "subtract"):
        return None
    outer = r.split(op)
    if outer is None or not isinstance(outer[1], str) or (op.attributes["function"] == "subtract" and op.inputs[0] != outer[0]):
        return None
    scaled = r.maker(outer[0], "pointwise", "multiply")
    inner = r.split(scaled) if scaled is not None else None
    if inner is None or not isinstance(inner[1], str) or not r.alone(outer[0]) or not r.alone(inner[0]):
        return None
    if r.maker(inner[0], "conv") is None:
        return None
    shape = r.shape(op.output)
    if not all(_per_channel(r.shape(vector), shape) for vector in (inner[1], outer[1])):
        return None
    return Op(kind="batch_norm", name=op.name, inputs=(inner[0], inner[1], outer[1]), outputs=op.outputs)


def _unbiased(r: _Rewriter, op: Op) -> Op | None:
    """Exporters give a convolution before a batch norm a bias of zeros, which it did not have."""
    if op.kind == "conv" and len(op.inputs) == 3 and op.attributes.get("zero_bias") and r.alone(op.output):
        (reader,) = r.readers(op.output)
        if reader.kind == "batch_norm":
            return replace(op, inputs=op.inputs[:2])
    return None


def _per_channel(vector: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a parameter has one element for each of an image's channels."""
    padded = (1,) * (len(shape) - len(vector)) + vector
    return len(shape) >= 3 and padded == (1, shape[1], *(1,) * (len(shape) - 2))


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
