"""What sizes and indices are computed with in ONNX graphs: small tensors of numbers, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

FEW: Final = 4096
"""Elements of a tensor that is small enough to be sizes or indices, and is therefore computed."""

Array = Any


def constant(onnx: Any, a: dict[str, Any]) -> Array | None:
    """The contents of a Constant node, if they are few and in the file."""
    if "value" in a:
        tensor = a["value"]
        if math.prod(tensor.dims) > FEW or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(tensor)
    for key, dtype in (
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_float", np.float32),
        ("value_floats", np.float32),
    ):
        if key in a:
            return np.array(a[key], dtype=dtype)
    return None


def _axes(arguments: list[Array], a: dict[str, Any]) -> list[int]:
    return [
        int(axis)
        for axis in (a.get("axes") or (arguments[1].reshape(-1) if len(arguments) > 1 and arguments[1] is not None else []))
    ]


def _sliced(arguments: list[Array], a: dict[str, Any]) -> Array:
    x, starts, ends = arguments[0], arguments[1].reshape(-1), arguments[2].reshape(-1)
    axes = arguments[3].reshape(-1) if len(arguments) > 3 and arguments[3] is not None else range(len(starts))
    steps = arguments[4].reshape(-1) if len(arguments) > 4 and arguments[4] is not None else [1] * len(starts)
    where: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        stop: int | None = int(end)
        if step < 0 and end < -x.shape[int(axis)]:
            stop = None
        where[int(axis)] = slice(int(start), stop, int(step))
    return x[tuple(where)]


def _unsqueezed(arguments: list[Array], a: dict[str, Any]) -> Array:
    x = arguments[0]
    axes = _axes(arguments, a)
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = np.expand_dims(x, axis)
    return x


def _filled(arguments: list[Array], a: dict[str, Any]) -> Array | None:
    shape = [int(size) for size in arguments[0].reshape(-1)]
    if any(size < 0 for size in shape) or math.prod(shape) > FEW:
        return None
    value = a.get("value")
    if value is None:
        return np.zeros(shape, dtype=np.float32)
    import onnx.numpy_helper as helper

    return np.full(shape, helper.to_array(value).reshape(-1)[0])


def _ranged(arguments: list[Array], a: dict[str, Any]) -> Array | None:
    start, stop, step = (item.reshape(-1)[0] for item in arguments)
    if step == 0 or abs((stop - start) / step) > FEW:
        return None
    return np.arange(start, stop, step)


def _expanded(arguments: list[Array], a: dict[str, Any]) -> Array | None:
    shape = np.broadcast_shapes(arguments[0].shape, tuple(int(size) for size in arguments[1].reshape(-1)))
    return None if math.prod(shape) > FEW else np.broadcast_to(arguments[0], shape)


def _reshaped(arguments: list[Array], a: dict[str, Any]) -> Array:
    shape = [int(size) for size in arguments[1].reshape(-1)]
    kept = [arguments[0].shape[axis] if size == 0 and not a.get("allowzero") else size for axis, size in enumerate(shape)]
    return arguments[0].reshape(kept)


def _clipped(arguments: list[Array], a: dict[str, Any]) -> Array:
    low, high = ((arguments[i] if len(arguments) > i else None) for i in (1, 2))
    return np.clip(arguments[0], a.get("min") if low is None else low, a.get("max") if high is None else high)


def _divided(arguments: list[Array], a: dict[str, Any]) -> Array | None:
    left, right = arguments
    if not np.issubdtype(left.dtype, np.integer):
        return left / right
    return None if not np.all(right) else (left // right).astype(left.dtype)


def _cast_to(arguments: list[Array], a: dict[str, Any]) -> Array | None:
    from onnx import helper

    try:
        return arguments[0].astype(helper.tensor_dtype_to_np_dtype(int(a["to"])))
    except (KeyError, TypeError, ValueError):
        return None


def _split_up(arguments: list[Array], a: dict[str, Any]) -> Array | None:
    sizes = a.get("split") or (arguments[1].reshape(-1) if len(arguments) > 1 and arguments[1] is not None else None)
    if sizes is None:
        return None
    return list(np.split(arguments[0], np.cumsum([int(size) for size in sizes])[:-1], axis=int(a.get("axis", 0))))


FOLDS: Final[Mapping[str, Callable[[list[Array], dict[str, Any]], Array | None]]] = {
    "Identity": lambda x, a: x[0],
    "Cast": _cast_to,
    "Add": lambda x, a: x[0] + x[1],
    "Sub": lambda x, a: x[0] - x[1],
    "Mul": lambda x, a: x[0] * x[1],
    "Div": _divided,
    "Mod": lambda x, a: None if not np.all(x[1]) else np.mod(x[0], x[1]),
    "Neg": lambda x, a: -x[0],
    "Floor": lambda x, a: np.floor(x[0]),
    "Ceil": lambda x, a: np.ceil(x[0]),
    "Sqrt": lambda x, a: np.sqrt(x[0]),
    "Min": lambda x, a: np.minimum.reduce(np.broadcast_arrays(*x)),
    "Max": lambda x, a: np.maximum.reduce(np.broadcast_arrays(*x)),
    "Clip": _clipped,
    "Pow": lambda x, a: np.power(x[0], x[1]),
    "Abs": lambda x, a: np.abs(x[0]),
    "Equal": lambda x, a: np.asarray(x[0] == x[1]),
    "Greater": lambda x, a: np.asarray(x[0] > x[1]),
    "Less": lambda x, a: np.asarray(x[0] < x[1]),
    "Not": lambda x, a: np.logical_not(x[0]),
    "And": lambda x, a: np.logical_and(x[0], x[1]),
    "Or": lambda x, a: np.logical_or(x[0], x[1]),
    "Where": lambda x, a: np.where(x[0], x[1], x[2]),
    "Gather": lambda x, a: np.take(x[0], x[1].astype(np.int64), axis=int(a.get("axis", 0))),
    "Concat": lambda x, a: np.concatenate(x, axis=int(a["axis"])),
    "Slice": _sliced,
    "Unsqueeze": _unsqueezed,
    "Squeeze": lambda x, a: np.squeeze(x[0], axis=tuple(_axes(x, a)) or None),
    "Reshape": _reshaped,
    "Transpose": lambda x, a: np.transpose(x[0], a.get("perm")),
    "ConstantOfShape": _filled,
    "Range": _ranged,
    "Expand": _expanded,
    "Split": _split_up,
    "ReduceProd": lambda x, a: np.prod(x[0], axis=tuple(_axes(x, a)) or None, keepdims=bool(a.get("keepdims", 1))),
    "ReduceSum": lambda x, a: np.sum(x[0], axis=tuple(_axes(x, a)) or None, keepdims=bool(a.get("keepdims", 1))),
}
"""What sizes are computed with."""
