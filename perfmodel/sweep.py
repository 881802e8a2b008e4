"""Many designs at once: the same formulas, generated into one function of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import sympy

from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.formulas import block_kernels
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers import dims
from perfmodel.layers.catalog import BLOCKS
from perfmodel.precision import Precision
from perfmodel.schedule import FUSED, SCHEDULES, ScheduleError
from perfmodel.waterline import Limits, waterline_s

Array = Any
"""numpy.ndarray or cupy.ndarray of float64."""

CHUNK_DESIGNS: Final = 1 << 14
"""Designs evaluated at a time: their intermediates fit a core's cache, and memory stays bounded however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFunction:
    """A block under a schedule as a function of its dimensions: ops and DRAM bytes of each kernel."""

    symbols: tuple[str, ...]
    """The dimensions it takes, by name: N, H, W, C, e, g …"""
    kernels: tuple[str, ...]
    call: Any
    """(dimension, …) → [ops of kernel 1, bytes of kernel 1, ops of kernel 2, …]."""

    def costs(self, **dimensions: Array) -> list[tuple[Array, Array]]:
        """(ops, DRAM bytes) of each kernel."""
        flat = self.call(*(dimensions[name] for name in self.symbols))
        return list(zip(flat[::2], flat[1::2], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockExpressions:
    """What every generated function of a block is made from, whatever it is generated for (NumPy, CuPy or CUDA)."""

    kernels: tuple[str, ...]
    work: tuple[sympy.Expr, ...]
    """Ops of kernel 1, DRAM bytes of kernel 1, ops of kernel 2, …"""
    params: sympy.Expr
    """Trained parameters."""


@cache
def block_expressions(kind: str, schedule: str = "layer", dtype: str = "fp16", kernel: int | None = None) -> BlockExpressions:
    """A block's kernels and parameters in symbols, each expression in the form it is computed in.

    `kernel` None is the size of the spatial kernel that the block usually has. Raises UnknownNameError and ScheduleError.
    """
    if kind not in BLOCKS:
        raise UnknownNameError("block", kind, BLOCKS)
    if schedule.lower() in FUSED:
        raise ScheduleError(
            f"sweeps take the schedules {', '.join(SCHEDULES)}; a fused block's tiling is chosen for each design alone"
        )
    work, params = block_kernels(kind, schedule, Precision(dtype=dtype), kernel)
    return BlockExpressions(
        kernels=tuple(part.name for part in work),
        work=tuple(
            sympy.factor_terms(x)
            for part in work
            for x in (dims.expression(part.cost.ops), dims.expression(part.cost.dram_bytes))
        ),
        params=sympy.factor_terms(dims.expression(params)),
    )


@cache
def block_function(kind: str, schedule: str = "layer", dtype: str = "fp16", kernel: int | None = None) -> BlockFunction:
    """The generated function of a block's kernels (common subexpressions shared), made once per block, schedule, type and kernel."""
    made = block_expressions(kind, schedule, dtype, kernel)
    free: set[sympy.Symbol] = set().union(*(x.free_symbols for x in made.work))
    symbols = sorted(free, key=str)
    return BlockFunction(
        symbols=tuple(map(str, symbols)),
        kernels=made.kernels,
        call=sympy.lambdify(symbols, list(made.work), modules="math", cse=True),
    )


def sweep_block(
    kind: str, hardware: str | DeviceSpec, dimensions: Mapping[str, Array], *, schedule: str = "layer", dtype: str = "fp16"
) -> Array:
    """Waterline latency in seconds of each design of a block.

    `dimensions` gives every symbol of the block (see `block_function(kind).symbols`) as a number or an array; arrays broadcast against
    each other, and the result has their common shape. Images have more than one pixel, and group widths
    divide channels: a sweep does not check what only whole numbers can break. Evaluated in chunks of CHUNK_DESIGNS. Raises
    PerfmodelError for a missing, unknown or non-positive dimension.

    >>> widths = np.array([32, 64, 128])
    >>> sweep_block("convfirst", "h200", dict(N=128, H=56, W=56, C=widths, e=4, g=8)).shape
    (3,)
    """
    function = block_function(kind, schedule, dtype)
    device = hardware if isinstance(hardware, DeviceSpec) else load(hardware)
    limits = Limits.waterline(device, device.matrix_peak(Precision(dtype=dtype).matrix))
    arrays = _checked(kind, function, dimensions)
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise PerfmodelError(f"the dimensions of {kind} do not broadcast against each other: {shapes}") from None
    varying = {name: _flat(array, shape) for name, array in arrays.items() if array.size > 1}
    fixed = {name: float(array.reshape(-1)[0]) for name, array in arrays.items() if array.size == 1}
    count = int(np.prod(shape))
    like = next(iter(varying.values()), np.empty(1))
    latency_s = np.empty_like(like, shape=count)  # of the inputs' own kind: NumPy's or CuPy's
    for start in range(0, count, CHUNK_DESIGNS):
        part = slice(start, start + CHUNK_DESIGNS)
        chunk = {name: array[part] for name, array in varying.items()}
        latency_s[part] = waterline_s(limits, function.costs(**fixed, **chunk))
    return latency_s.reshape(shape)


def _flat(array: Array, shape: tuple[int, ...]) -> Array:
    """The array broadcast to `shape` and laid out in one dimension, without a copy where it already is."""
    return (array if array.shape == shape else np.broadcast_to(array, shape, subok=True)).reshape(-1)


def _checked(kind: str, function: BlockFunction, dimensions: Mapping[str, Array]) -> dict[str, Array]:
    for name in dimensions:
        if name not in function.symbols:
            raise UnknownNameError(f"dimension of {kind}", name, function.symbols)
    missing = [name for name in function.symbols if name not in dimensions]
    if missing:
        raise PerfmodelError(f"{kind} needs the dimensions {', '.join(missing)}, too")
    arrays = {name: _as_float(name, value) for name, value in dimensions.items()}
    for name, array in arrays.items():
        if array.size == 0 or not bool(((array > 0) & (array < np.inf)).all()):
            raise PerfmodelError(f"dimension {name} of {kind} must be positive and finite everywhere, and not empty")
    return arrays


def _as_float(name: str, value: Array) -> Array:
    try:
        return value.astype(np.float64) if hasattr(value, "astype") else np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise PerfmodelError(f"dimension {name} must be a number or an array of numbers, not {value!r}") from None
