"""The curves and the devices of the capacity plot, before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from perfmodel.capacity import CapacityCurve, capacity_curve
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.layers.layer import ShapeError
from perfmodel.plots import style
from perfmodel.precision import Precision
from perfmodel.schedule import kernels
from perfmodel.units import si

DEVICES: Final = ("t4", "v100", "rtx3090", "a100", "h200", "mi300x")
"""Marked where no others are asked for: every capacity that the catalogue has."""
CAPACITY: Final = "chip.shared_memory_per_block_bytes"
"""The figure of a device that is its capacity here."""
READING: Final = (
    "A step is another tiling: the least traffic of any that fits. Weights that are loaded again come from a cache (solid) or from DRAM"
    " (dashed). Compulsory: each input, weight and output once, and what a global mean forces through DRAM."
)

_NAMES_IN_TITLE: Final = 44
_LEFT: Final = 1.15
_RIGHT: Final = 1.4
"""Room of the axis beyond what is drawn; the name of the last device stands there."""

MOST_MACS: Final = 2**50
"""Of a block, that a curve is made for: beyond it the traffic of its worst tiling is no exact 64-bit number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCurves:
    """One block in a capacity plot: its traffic where weights that are loaded again come from a cache, and where from DRAM."""

    label: str
    macs: int
    """Of the whole batch, each counted once."""
    cached: CapacityCurve
    uncached: CapacityCurve

    @property
    def below_unfused_bytes(self) -> tuple[float | None, float | None]:
        """Local memory from which the traffic is below that of schedule `layer`, cached and uncached; None: never."""
        cached, uncached = (
            next((float(at) for at, dram in zip(c.local_bytes, c.dram_bytes, strict=True) if dram < c.unfused_bytes), None)
            for c in (self.cached, self.uncached)
        )
        return cached, uncached


def block_curves(block: Block, shape: Shape, *, dtype: str = "fp16", label: str | None = None) -> BlockCurves:
    """Both curves of `block` on an input of `shape`; the label is the kind of the block if not given.

    Raises ShapeError where the input does not fit the block, and FusionError where the block has no fused form.
    """
    for what, size in (("batch", shape.N), ("size", shape.H), ("size", shape.W)):
        if type(size) is not int or size < 1:
            raise ShapeError(f"{block.kind}: the {what} must be a whole number of 1 or more, not {size!r}")
    precision = Precision(dtype=dtype)
    builder = GraphBuilder()
    try:
        builder.block(block, builder.input(shape), name=block.kind)
    except ShapeError as error:
        raise ShapeError(f"{block.kind}: {error}") from None
    macs = sum(int(kernel.cost.macs) for kernel in kernels(builder.graph(), precision))
    if macs > MOST_MACS:
        raise ShapeError(
            f"{block.kind}: {si(macs, ' MACs')} for an input of {shape} are too many; choose a smaller batch or size"
        )
    return BlockCurves(
        label=label or block.kind,
        macs=macs,
        cached=capacity_curve(block, shape, dtype=dtype),
        uncached=capacity_curve(block, shape, dtype=dtype, cache_bytes=0.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityMark:
    """Devices whose processors have the same local memory: one mark."""

    local_bytes: float
    names: tuple[str, ...]


def capacity_marks(devices: Iterable[DeviceSpec | str]) -> tuple[tuple[CapacityMark, ...], tuple[str, ...]]:
    """The marks of these devices by rising capacity, and the names of devices without a figure for it."""
    found: dict[int, list[str]] = {}
    without: list[str] = []
    for device in devices:
        spec = load(device) if isinstance(device, str) else device
        capacity = spec.chip.shared_memory_per_block_bytes
        names = without if capacity is None else found.setdefault(capacity, [])
        if short_name(spec) not in names:
            names.append(short_name(spec))
    marks = [CapacityMark(local_bytes=float(capacity), names=tuple(names)) for capacity, names in sorted(found.items())]
    return tuple(marks), tuple(without)


def short_name(device: DeviceSpec) -> str:
    """Its catalogue name, or an alias that begins it: a100 for a100-sxm-80gb."""
    return min((device.slug, *(alias for alias in device.aliases if device.slug.startswith(alias))), key=len)


def binary(size_bytes: float) -> str:
    """A size of local memory: 99 KiB, 1.5 MiB."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= factor:
            return f"{style.digits(size_bytes / factor)} {unit}"
    return f"{size_bytes:.0f} B"


class Drawn(NamedTuple):
    """One staircase of a capacity plot: of which block, whether its weights are cached, and itself."""

    block: int
    cached: bool
    curve: CapacityCurve


class CapacityScene:
    """What a capacity plot shows: curves in the unit that they are drawn in, the ranges of the axes, and what it says."""

    def __init__(self, curves: Sequence[BlockCurves], devices: Iterable[DeviceSpec | str]) -> None:
        self.curves = curves
        self.marks, self.without = capacity_marks(devices)
        self.alone = len(curves) == 1
        self.staircases = [
            Drawn(block, cached, curve)
            for block, each in enumerate(curves)
            for cached, curve in ((True, each.cached), (False, each.uncached))
        ]
        capacities = [mark.local_bytes for mark in self.marks]
        self.left = min([*(float(each.curve.local_bytes[0]) for each in self.staircases), *capacities]) / _LEFT
        self.right = max([*(float(each.curve.local_bytes[-1]) for each in self.staircases), *capacities]) * _RIGHT
        compulsory = [self.scaled(each.cached, each.cached.compulsory_bytes) for each in curves]
        highest = [self.scaled(c, max(c.unfused_bytes, float(c.dram_bytes[0]))) for c in (each.cached for each in curves)]
        on_devices = [
            self.scaled(curve, dram_bytes)
            for _, _, curve in self.staircases
            for mark in self.marks
            if (dram_bytes := curve.at(mark.local_bytes)) is not None
        ]
        self.bottom, self.top = min(compulsory) / 1.2, max([*highest, *on_devices]) * 1.3

    def scaled(self, curve: CapacityCurve, dram_bytes: float) -> float:
        """Bytes as drawn: as they are, or as a multiple of the curve's compulsory traffic where several are compared."""
        return dram_bytes if self.alone else dram_bytes / curve.compulsory_bytes

    def said(self, height: float) -> str:
        """A height in words."""
        return si(height, "B") if self.alone else f"{style.digits(height)} ×"

    @property
    def title(self) -> str:
        """The blocks, each once, or how many they are."""
        *most, last = dict.fromkeys(style.plain(each.label) for each in self.curves)
        joined = f"{', '.join(most)} and {last}" if most else last
        names = joined if not most or len(joined) <= _NAMES_IN_TITLE else style.count(len(most) + 1, "block")
        return f"{names}: DRAM traffic against local memory"

    @property
    def subtitle(self) -> str:
        """The traffic that the plot is about."""
        if not self.alone:
            said = [f"{style.plain(each.label)} {si(each.cached.compulsory_bytes, 'B')}" for each in self.curves]
            return f"as multiples of the compulsory traffic: {', '.join(said)}"
        cached, uncached = self.curves[0].cached, self.curves[0].uncached
        return (
            f"unfused, {style.digits(cached.unfused_bytes / cached.compulsory_bytes)} × the compulsory traffic; fused, just the compulsory"
            f" from {binary(cached.local_bytes[-1])} with weights in a cache, from {binary(uncached.local_bytes[-1])} without"
        )

    @property
    def caption(self) -> list[str]:
        """What the plot holds for, how to read it, and what it does not show."""
        conditions = [_conditions(each.cached) for each in self.curves]
        if len(set(conditions)) == 1:
            said = [style.sentence([*conditions[0], *map(_block_words, self.curves)])]
        else:
            said = [style.sentence([*own, _block_words(each)]) for own, each in zip(conditions, self.curves, strict=True)]
        said.append(READING)
        above = [
            f"{self.said(first)}{'' if self.alone else f' ({style.plain(self.curves[block].label)})'}"
            for block, _, curve in self.staircases
            if (first := self.scaled(curve, float(curve.dram_bytes[0]))) > self.top
        ]
        if above:
            whose = "The dashed staircase begins" if len(above) == 1 else "Dashed staircases begin"
            said.append(f"{whose} above the plot, at {', '.join(above)}.")
        if self.marks:
            said.append("Upright lines: the most local memory that one block of threads can have on the device.")
        said += [
            f"{binary(mark.local_bytes)}: {', '.join(map(style.plain, mark.names))}."
            for mark in self.marks
            if len(mark.names) > 2
        ]
        for each in self.curves:
            small = [name for mark in self.marks if each.cached.at(mark.local_bytes) is None for name in mark.names]
            if small:
                said.append(f"No tile of {style.plain(each.label)} fits: {', '.join(map(style.plain, small))}.")
        if self.without:
            said.append(f"No figure for their local memory: {', '.join(map(style.plain, self.without))}.")
        return said

    @property
    def description(self) -> str:
        """The plot in words."""
        parts = []
        for each in self.curves:
            cached, uncached = each.cached, each.uncached
            parts.append(
                f"{_block_words(each)}, {style.sentence(_conditions(cached))}: unfused {si(cached.unfused_bytes, 'B')}, compulsory"
                f" {si(cached.compulsory_bytes, 'B')}, reached from {binary(cached.local_bytes[-1])} with weights in a cache and from"
                f" {binary(uncached.local_bytes[-1])} without; {_below_words(each)}"
            )
        for mark in self.marks:
            said = [self.figures(each, mark) for each in self.staircases]
            parts.append(f"{', '.join(mark.names)} at {binary(mark.local_bytes)}: {'; '.join(dict.fromkeys(said))}")
        if self.without:
            parts.append(f"No figure for their local memory: {', '.join(self.without)}")
        return f"Capacity plot. {'. '.join(parts)}."

    def figures(self, drawn: Drawn, mark: CapacityMark) -> str:
        """The traffic of a staircase at the capacity of devices."""
        label = style.plain(self.curves[drawn.block].label)
        dram_bytes = drawn.curve.at(mark.local_bytes)
        if dram_bytes is None:
            return f"no tile of {label} fits"
        ratio = style.digits(dram_bytes / drawn.curve.compulsory_bytes)
        return f"{label}, weights from {'a cache' if drawn.cached else 'DRAM'}: {si(dram_bytes, 'B')}, {ratio} × compulsory"


def _block_words(each: BlockCurves) -> str:
    """A block in numbers: 64 channels, hidden 256, groups of 8, kernel 3×3."""
    block = each.cached.block
    same = block.in_channels == block.out_channels
    words = [f"{block.in_channels} channels" if same else f"{block.in_channels} → {block.out_channels} channels"]
    for field, said in (("hidden_channels", "hidden {}"), ("group_width", "groups of {}"), ("se_channels", "squeezed to {}")):
        value = getattr(block, field, None)
        if value is not None:
            words.append(said.format(value))
    kernel = getattr(block, "kernel", 3)
    words += [f"kernel {kernel}×{kernel}", *([f"stride {block.stride}"] if block.stride != 1 else [])]
    return f"{style.plain(each.label)}: {', '.join(words)}, {si(each.macs, ' MACs')}"


def _conditions(curve: CapacityCurve) -> tuple[str, ...]:
    return f"batch {curve.shape.N}", f"{curve.shape.H} × {curve.shape.W} pixels", f"{curve.precision}"


def _below_words(each: BlockCurves) -> str:
    """From where each staircase is below the unfused traffic."""
    said = [
        f"{'never' if below is None else f'from {binary(below)}'} with weights from {where}"
        for below, where in zip(each.below_unfused_bytes, ("a cache", "DRAM"), strict=True)
    ]
    return f"below unfused {' and '.join(said)}"
