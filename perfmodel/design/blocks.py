"""Spaces of single residual blocks: every quantity of millions of designs by the generated functions of their formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sympy

from perfmodel.design.space import Array, Axis, Evaluated, Space, SpaceError, decoded
from perfmodel.errors import UnknownNameError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers import dims
from perfmodel.layers.catalog import BLOCKS, block_of
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.precision import Precision
from perfmodel.sweep import block_expressions, block_function
from perfmodel.waterline import Limits, waterline_s

AXES: Final = ("block", "kernel", "batch", "size", "group_width", "expansion", "channels")
"""In this order: kinds and kernels change the formulas, so they run slowest."""
_SYMBOL_OF: Final = {"batch": "N", "expansion": "e", "group_width": "g", "channels": "C"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What one kind of block needs of a design to exist, and which choices it has."""

    narrowing: int
    """Its channels are this many times those of its bottleneck, K."""
    expands: bool
    groups: sympy.Expr | None
    """Channels that the group width must divide, as a formula; None where nothing is grouped by choice."""
    has_kernel: bool
    has_mean: bool

    @classmethod
    @cache
    def of(cls, name: str) -> Kind:
        """The kind of that name. Raises UnknownNameError."""
        if name not in BLOCKS:
            raise UnknownNameError("block", name, BLOCKS)
        block = BLOCKS[name].symbolic()
        builder = GraphBuilder()
        builder.block(block, builder.input(Shape(dims.N, block.in_channels, dims.H, dims.W)), name=name)
        graph = builder.graph()
        convolutions = [node.layer for node in graph.nodes.values() if isinstance(node.layer, Conv2d)]
        grouped = [layer.in_channels for layer in convolutions if dims.expression(layer.group_width) == dims.g]
        in_channels = dims.expression(block.in_channels)
        symbols = set().union(*(dims.expression(node.shape.C).free_symbols for node in graph.nodes.values()))
        return cls(
            narrowing=int(in_channels / dims.K) if in_channels.has(dims.K) else 1,
            expands=dims.e in symbols,
            groups=dims.expression(grouped[0]) if grouped else None,
            has_kernel=hasattr(block, "kernel"),
            has_mean=any(node.layer.kind == "global_average_pool" for node in graph.nodes.values()),
        )


@dataclass(frozen=True, kw_only=True)
class BlockSpace(Space):
    """Blocks of several kinds at stride 1, as many channels out as in: `block_of` builds each, alone, on a square input.

    `kernels` None is each kind's usual kernel. Squeeze-and-excitation squeezes to a quarter, a bottleneck narrows as ResNet's and ResNeXt's
    do. Raises UnknownNameError, ScheduleError, HardwareError, and SpaceError for values that a kind cannot have.
    """

    blocks: tuple[str, ...]
    channels: tuple[int, ...]
    expansions: tuple[int, ...] = (4,)
    group_widths: tuple[int, ...] = (8,)
    kernels: tuple[int, ...] | None = None
    sizes: tuple[int, ...]
    batches: tuple[int, ...] = (1,)
    devices: tuple[DeviceSpec, ...]
    dtype: str = "fp16"
    schedule: str = "layer"

    def __post_init__(self) -> None:
        for name in self.blocks:
            block_function(name, self.schedule, self.dtype)
            if Kind.of(name).has_mean and min(self.sizes) < 2:
                raise SpaceError(f"{name} has a mean over the image, which needs sizes of at least 2; leave out size 1")
        for device in self.devices:
            device.matrix_peak(Precision(dtype=self.dtype).matrix)
        for kernel in self.kernels or ():
            if kernel % 2 == 0:
                raise SpaceError(f"a kernel must be odd to keep the size of its image, not {kernel}")

    @cached_property
    def axes(self) -> tuple[Axis, ...]:  # type: ignore[override]
        """In the order of AXES."""
        values: tuple[tuple[Any, ...], ...] = (
            self.blocks,
            self.kernels or (0,),
            self.batches,
            self.sizes,
            self.group_widths,
            self.expansions,
            self.channels,
        )
        return tuple(Axis(name=name, values=given) for name, given in zip(AXES, values, strict=True))

    @cached_property
    def described(self) -> Mapping[str, Any]:
        return {
            "kind": "blocks",
            "axes": {axis.name: list(axis.values) for axis in self.axes},
            "devices": [device.model_dump(mode="json") for device in self.devices],
            "dtype": self.dtype,
            "schedule": self.schedule,
        }

    @cached_property
    def limits(self) -> tuple[Limits, ...]:
        """The rates of each device."""
        matrix = Precision(dtype=self.dtype).matrix
        return tuple(Limits.waterline(device, device.matrix_peak(matrix)) for device in self.devices)

    @cached_property
    def inner(self) -> int:
        """Designs of one kind and kernel, which have consecutive numbers."""
        return math.prod(self.shape[2:])

    def design(self, number: int) -> dict[str, str | int]:
        found = super().design(number)
        if self.kernels is None:
            del found["kernel"]
        return found

    def network(self, number: int) -> Network:
        given = self.design(number)
        channels, size, batch = (int(given[name]) for name in ("channels", "size", "batch"))
        name = str(given["block"])
        block = block_of(
            name,
            channels,
            expansion=int(given["expansion"]),
            group_width=int(given["group_width"]),
            kernel=int(given["kernel"]) if "kernel" in given else None,
        )
        builder = GraphBuilder()
        builder.block(block, builder.input(Shape(batch, channels, size, size)), name=name)
        return Network(name=name, graph=builder.graph(), batch=batch, resolution=size)

    def evaluate(self, index: npt.NDArray[np.int64], wanted: frozenset[str]) -> Evaluated:
        segments = index // self.inner
        first, last = int(segments.min()), int(segments.max())
        if first == last:
            return self._segment(first, index, wanted)
        parts = [(np.flatnonzero(segments == segment), int(segment)) for segment in np.unique(segments)]
        evaluated = [(where, self._segment(segment, index[where], wanted)) for where, segment in parts]
        valid = np.empty(len(index), dtype=bool)
        values: dict[str, Array] = {name: np.empty(len(index)) for name in evaluated[0][1].values}
        for where, part in evaluated:
            valid[where] = part.valid
            for name, value in part.values.items():
                values[name][where] = value
        return Evaluated(valid=valid, values=values)

    def segment_kind(self, segment: int) -> tuple[str, int | None]:
        """The kind and kernel of the designs whose number divided by `inner` is `segment`."""
        block, kernel = divmod(segment, self.shape[1])
        return self.blocks[block], None if self.kernels is None else self.kernels[kernel]

    def _segment(self, segment: int, index: npt.NDArray[np.int64], wanted: frozenset[str]) -> Evaluated:
        name, kernel = self.segment_kind(segment)
        kind = Kind.of(name)
        inner_axes = self.axes[2:]
        places = _places(index - segment * self.inner, self.shape[2:])
        values: dict[str, Array] = {"block": float(self.blocks.index(name)), "kernel": float(kernel or 0)}
        for axis, place in zip(inner_axes, places, strict=True):
            numbers = np.array(axis.values, dtype=np.float64)
            values[axis.name] = numbers[place]
        valid = np.ones(len(index), dtype=bool)
        if kernel is not None and not kind.has_kernel:
            valid[:] = kernel == 3
        for axis, place in zip(inner_axes, places, strict=True):
            if len(axis.values) > 1 and ignored(kind, axis.name):
                valid &= place == 0
        symbols = bindings(kind, values)
        if kind.groups is not None:
            valid &= np.remainder(_number(kind.groups, symbols), symbols["g"]) == 0
        if kind.narrowing > 1:
            valid &= np.remainder(symbols["C"], kind.narrowing) == 0
        function = block_function(name, self.schedule, self.dtype, kernel)
        costs = function.costs(**{symbol: symbols[symbol] for symbol in function.symbols})
        latency_s = [waterline_s(limits, costs) for limits in self.limits] if _needs_latency(wanted) else []
        if wanted & {"macs", "ops", "intensity"} or any(item.startswith("efficiency") for item in wanted):
            values["ops"] = sum(ops for ops, _ in costs)
        if wanted & {"bytes", "intensity"}:
            values["bytes"] = sum(moved for _, moved in costs)
        if "params" in wanted:
            values["params"] = _params(name, self.schedule, self.dtype, kernel)(symbols)
        if latency_s:
            self._finish(wanted, values, latency_s, [limits.peak_ops_per_s for limits in self.limits])
        else:
            self._finish(wanted, values, [np.nan] * len(self.devices), [1.0] * len(self.devices))
        full = {item: np.broadcast_to(value, index.shape) for item, value in values.items() if item in wanted}
        return Evaluated(valid=valid, values=full)


def _places(index: npt.NDArray[np.int64], shape: Sequence[int]) -> list[Any]:
    """As `decoded`, with one number for an axis on which all designs lie at one place: a formula is then cheaper."""
    first, last = int(index[0]), int(index[-1])
    rising = last - first == len(index) - 1 and bool((index[1:] > index[:-1]).all())
    places: list[Any] = [0] * len(shape)
    stride = 1
    varying: list[int] = []
    for axis in reversed(range(len(shape))):
        if rising and first // stride // shape[axis] == last // stride // shape[axis] and first // stride == last // stride:
            places[axis] = first // stride % shape[axis]
        else:
            varying.append(axis)
        stride *= shape[axis]
    if varying:
        low = min(varying)  # axes within it vary, too
        for axis, place in zip(
            range(low, len(shape)), decoded(index, (math.prod(shape[: low + 1]), *shape[low + 1 :])), strict=True
        ):
            places[axis] = place
        places[low] = places[low] % shape[low]
    return places


def ignored(kind: Kind, axis: str) -> bool:
    """Whether a kind of block has no such choice."""
    return (axis == "expansion" and not kind.expands) or (axis == "group_width" and kind.groups is None)


def bindings(kind: Kind, values: Mapping[str, Array]) -> dict[str, Array]:
    """The symbols of a block's formulas from the axes' values, as `block_of` derives them."""
    symbols = {symbol: values[axis] for axis, symbol in _SYMBOL_OF.items()}
    channels = symbols["C"]
    squeezed = np.maximum(1.0, np.floor(channels / 4))
    return {**symbols, "H": values["size"], "W": values["size"], "K": channels / kind.narrowing, "C_se": squeezed}


def _needs_latency(wanted: frozenset[str]) -> bool:
    return any(item.startswith(("latency", "efficiency")) for item in wanted)


def _number(expression: sympy.Expr, symbols: Mapping[str, Array]) -> Array:
    return _lambdified(expression)(symbols)


@cache
def _lambdified(expression: sympy.Expr) -> Any:
    free: Sequence[sympy.Symbol] = sorted(expression.free_symbols, key=str)
    call = sympy.lambdify(free, expression, modules="math")
    names = list(map(str, free))
    return lambda symbols: call(*(symbols[name] for name in names))


@cache
def _params(name: str, schedule: str, dtype: str, kernel: int | None) -> Any:
    return _lambdified(block_expressions(name, schedule, dtype, kernel).params)
