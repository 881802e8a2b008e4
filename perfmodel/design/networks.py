"""Spaces of whole networks: the cost of each block that can occur once, in tables; of each network as sums of looked-up values.

The sum runs over kernels in the order in which they run, so that a latency is that of `predict` to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.design.space import Array, Axis, Evaluated, Space, SpaceError
from perfmodel.design.staged import (
    HAS_EXPANSION,
    HAS_GROUPS,
    HAS_KERNEL,
    MAKERS,
    BlockChoice,
    Stage,
    StagedNetwork,
    add_head,
    add_stem,
    make_block,
)
from perfmodel.errors import UnknownNameError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.layer import ShapeError
from perfmodel.network import Network
from perfmodel.precision import Precision
from perfmodel.schedule import BLOCK, SCHEDULES, check, kernels
from perfmodel.waterline import Limits

MOST_ENTRIES: Final = 1_000_000
"""Blocks that a space's tables may hold: what a few minutes can build."""
_STAGE_AXES: Final = ("block", "channels", "depth", "expansion", "group_width", "kernel")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChoices:
    """What one stage can be."""

    blocks: tuple[str, ...]
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    expansions: tuple[int, ...] = (4,)
    group_widths: tuple[int, ...] = (8,)
    kernels: tuple[int, ...] = (3,)
    stride: int = 2
    squeeze_excitation: bool = False

    def axes(self, number: int) -> tuple[Axis, ...]:
        """Its axes, under the number of the stage, from 1."""
        values: tuple[Any, ...] = (self.blocks, self.channels, self.depths, self.expansions, self.group_widths, self.kernels)
        return tuple(Axis(name=f"{name}[{number}]", values=given) for name, given in zip(_STAGE_AXES, values, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a network with kernels of its own."""

    times_s: tuple[tuple[float, ...], ...]
    """Of each kernel, by device."""
    ops: int
    params: int
    dram_bytes: tuple[int, ...]
    """By device: a fused program is tiled for one."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Segments as arrays over their code."""

    times_s: list[list[Array]]
    """[device][kernel]; a segment with fewer kernels takes no time in those it lacks."""
    ops: Array
    params: Array
    dram_bytes: list[Array]
    exists: Array


@dataclass(frozen=True, kw_only=True)
class NetworkSpace(Space):
    """Networks of stages (see perfmodel.design.staged).

    `stems` None is half of the first stage's channels, `heads` None twice the last stage's. Raises SpaceError, UnknownNameError,
    HardwareError.
    """

    stages: tuple[StageChoices, ...]
    resolutions: tuple[int, ...]
    batch: int = 1
    stems: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    classes: int = 1000
    activation: str = "silu"
    devices: tuple[DeviceSpec, ...]
    dtype: str = "fp16"
    schedule: str = "layer"

    def __post_init__(self) -> None:
        if check(self.schedule) not in (*SCHEDULES, BLOCK):
            raise SpaceError(
                f"a network is a sum of its blocks on the schedules {', '.join((*SCHEDULES, BLOCK))} only, not on {self.schedule}"
            )
        for stage in self.stages:
            for kind in stage.blocks:
                if kind not in MAKERS:
                    raise UnknownNameError("block of a stage", kind, MAKERS)
            for kernel in stage.kernels:
                if kernel % 2 == 0:
                    raise SpaceError(f"a kernel must be odd to keep the size of its image, not {kernel}")
        entries = sum(prod(table) for pair in self._table_shapes for table in pair)
        if entries > MOST_ENTRIES:
            raise SpaceError(
                f"the stages of this space have {entries:.3g} different blocks, of which tables can hold {MOST_ENTRIES:.3g}; give "
                "channels, kernels or resolutions fewer values"
            )

    @cached_property
    def axes(self) -> tuple[Axis, ...]:  # type: ignore[override]
        """resolution, stem, head (where they are choices), then those of each stage."""
        stem = () if self.stems is None else (Axis(name="stem", values=self.stems),)
        head = () if self.heads is None else (Axis(name="head", values=self.heads),)
        resolution = Axis(name="resolution", values=self.resolutions)
        return (resolution, *stem, *head, *(axis for number, stage in enumerate(self.stages, 1) for axis in stage.axes(number)))

    @cached_property
    def described(self) -> Mapping[str, Any]:
        return {
            "kind": "networks",
            "axes": {axis.name: list(axis.values) for axis in self.axes},
            "stages": [asdict(stage) for stage in self.stages],
            "batch": self.batch,
            "classes": self.classes,
            "activation": self.activation,
            "devices": [device.model_dump(mode="json") for device in self.devices],
            "dtype": self.dtype,
            "schedule": self.schedule,
        }

    def network(self, number: int) -> Network:
        given = self.design(number)
        stages = []
        for place, stage in enumerate(self.stages, 1):
            block, channels, depth, expansion, group_width, kernel = (given[f"{name}[{place}]"] for name in _STAGE_AXES)
            choice = self._choice(stage, str(block), int(expansion), int(group_width), int(kernel))
            stages.append(Stage(choice=choice, channels=int(channels), depth=int(depth), stride=stage.stride))
        staged = StagedNetwork(
            stem=int(given.get("stem", stages[0].channels // 2)),
            stages=tuple(stages),
            head=int(given.get("head", 2 * stages[-1].channels)),
            classes=self.classes,
            activation=self.activation,
        )
        return staged.build(batch=self.batch, resolution=int(given["resolution"]), name=f"design-{number}")

    def _choice(self, stage: StageChoices, kind: str, expansion: int, group_width: int, kernel: int) -> BlockChoice:
        return BlockChoice(
            kind=kind,
            expansion=expansion,
            group_width=group_width,
            kernel=kernel,
            squeeze_excitation=stage.squeeze_excitation,
            activation=self.activation,
        )

    @cached_property
    def _segments(self) -> dict[Any, Segment | None]:
        """Parts that have been built."""
        return {}

    # -- tables ----------------------------------------------------------------------------------------------------

    @cached_property
    def _table_shapes(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Of each stage: how many values the axes of its first block and of its other blocks have."""
        shapes, before = [], 1 if self.stems is None else len(self.stems)
        for stage in self.stages:
            own = tuple(
                map(len, (stage.blocks, stage.channels, stage.expansions, stage.group_widths, stage.kernels, self.resolutions))
            )
            shapes.append(((before, *own), own))
            before = len(stage.channels)
        return shapes

    @cached_property
    def _sizes(self) -> list[list[int]]:
        """Height of what enters the stem (0), each stage (1 …) and the head, by resolution."""
        sizes = [list(self.resolutions)]
        sizes.append([(size - 1) // 2 + 1 for size in sizes[-1]])
        for stage in self.stages:
            sizes.append([(size - 1) // stage.stride + 1 for size in sizes[-1]])
        return sizes

    @cached_property
    def tables(self) -> tuple[_Table, list[tuple[_Table, _Table]], _Table]:
        """The stem's, each stage's (first block, other blocks), the head's."""
        stages = []
        for number, stage in enumerate(self.stages):
            first = self._table(self._first_blocks(number, stage))
            others = self._table(self._other_blocks(number, stage))
            stages.append((first, others))
        return self._table(self._stem_parts()), stages, self._table(self._head_parts())

    def _stem_parts(self) -> Iterator[Segment | None]:
        widths = [width // 2 for width in self.stages[0].channels] if self.stems is None else list(self.stems)
        for width, size in product(widths, self._sizes[0]):

            def add(builder: GraphBuilder, x: Tensor, width: int = width) -> Tensor:
                return add_stem(builder, x, width, self.activation)

            yield self._segment(("stem", width, size), Shape(self.batch, 3, size, size), add)

    def _head_parts(self) -> Iterator[Segment | None]:
        for channels in self.stages[-1].channels:
            for head, size in product([2 * channels] if self.heads is None else self.heads, self._sizes[-1]):

                def add(builder: GraphBuilder, x: Tensor, head: int = head) -> Tensor:
                    return add_head(builder, x, head, self.classes, self.activation)

                yield self._segment(("head", channels, head, size), Shape(self.batch, channels, size, size), add)

    def _first_blocks(self, number: int, stage: StageChoices) -> Iterator[Segment | None]:
        if number == 0 and self.stems is None:
            before: tuple[int | None, ...] = (None,)  # half of the block's own channels
        else:
            before = self.stems or () if number == 0 else self.stages[number - 1].channels
        for entering, kind, channels, expansion, group_width, kernel, size in product(
            before, stage.blocks, stage.channels, stage.expansions, stage.group_widths, stage.kernels, self._sizes[number + 1]
        ):
            in_channels = channels // 2 if entering is None else entering
            yield self._block(stage, (kind, expansion, group_width, kernel), in_channels, channels, stage.stride, size)

    def _other_blocks(self, number: int, stage: StageChoices) -> Iterator[Segment | None]:
        for kind, channels, expansion, group_width, kernel, size in product(
            stage.blocks, stage.channels, stage.expansions, stage.group_widths, stage.kernels, self._sizes[number + 2]
        ):
            yield self._block(stage, (kind, expansion, group_width, kernel), channels, channels, 1, size)

    def _block(
        self, stage: StageChoices, chosen: tuple[str, int, int, int], in_channels: int, out_channels: int, stride: int, size: int
    ) -> Segment | None:
        kind, expansion, group_width, kernel = chosen
        repeats = (
            (kind not in HAS_EXPANSION and expansion != stage.expansions[0])
            or (kind not in HAS_GROUPS and group_width != stage.group_widths[0])
            or (kind not in HAS_KERNEL and kernel != 3)
        )
        if repeats:
            return None
        try:
            block = make_block(self._choice(stage, *chosen), in_channels, out_channels, stride)
        except ShapeError:
            return None
        return self._segment(
            (block, size),
            Shape(self.batch, in_channels, size, size),
            lambda builder, x: builder.block(block, x, name="block"),
        )

    def _segment(self, key: Any, shape: Shape, add: Callable[[GraphBuilder, Tensor], Tensor]) -> Segment | None:
        """The part of a network that `add` appends; None where it cannot be built."""
        if key in self._segments:
            return self._segments[key]
        try:
            found: Segment | None = self._made(shape, add)
        except ShapeError:
            found = None
        self._segments[key] = found
        return found

    def _made(self, shape: Shape, add: Callable[[GraphBuilder, Tensor], Tensor]) -> Segment:
        builder = GraphBuilder()
        add(builder, builder.input(shape))
        graph, precision = builder.graph(), Precision(dtype=self.dtype)
        work = [kernels(graph, precision, self.schedule, device=device) for device in self._tiled_for]
        by_device = work if len(work) == len(self.devices) else work * len(self.devices)
        return Segment(
            times_s=tuple(
                tuple(float(limits.latency_s(kernel.cost.ops, kernel.cost.dram_bytes)) for kernel in cut)
                for limits, cut in zip(self.limits, by_device, strict=True)
            ),
            ops=2 * int(graph.macs),
            params=int(graph.params),
            dram_bytes=tuple(sum(int(kernel.cost.dram_bytes) for kernel in cut) for cut in by_device),
        )

    @cached_property
    def _tiled_for(self) -> Sequence[DeviceSpec]:
        """Devices for which kernels differ: all on schedule `block`, else one stands for all."""
        return self.devices if self.schedule.lower() == BLOCK else self.devices[:1]

    @cached_property
    def limits(self) -> tuple[Limits, ...]:
        """The rates of each device."""
        matrix = Precision(dtype=self.dtype).matrix
        return tuple(Limits.waterline(device, device.matrix_peak(matrix)) for device in self.devices)

    def _table(self, parts: Iterator[Segment | None]) -> _Table:
        segments = list(parts)
        devices = range(len(self.devices))
        longest = [max((len(part.times_s[d]) for part in segments if part), default=0) for d in devices]

        def column(value: Callable[[Segment], float]) -> Array:
            return np.array([value(part) if part else 0.0 for part in segments], dtype=np.float64)

        def time(device: int, kernel: int) -> Array:
            return column(lambda part: part.times_s[device][kernel] if kernel < len(part.times_s[device]) else 0.0)

        return _Table(
            times_s=[[time(device, kernel) for kernel in range(longest[device])] for device in devices],
            ops=column(lambda part: part.ops),
            params=column(lambda part: part.params),
            dram_bytes=[column(lambda part, d=d: part.dram_bytes[d]) for d in devices],  # type: ignore[misc]
            exists=np.array([part is not None for part in segments]),
        )

    # -- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self, index: npt.NDArray[np.int64], wanted: frozenset[str]) -> Evaluated:
        place = dict(zip((axis.name for axis in self.axes), self.places(index), strict=True))
        values: dict[str, Array] = {}
        for axis in self.axes:
            if axis.name in wanted:
                numbers = np.arange(len(axis.values)) if axis.is_category else np.array(axis.values)
                values[axis.name] = numbers.astype(np.float64)[place[axis.name]]
        stem, stages, head = self.tables
        codes = self.codes(place, np.ravel_multi_index)
        depths = [np.array(stage.depths)[place[f"depth[{number}]"]] for number, stage in enumerate(self.stages, 1)]
        valid = stem.exists[codes[0]] & head.exists[codes[-1]]
        for (first, others), (code, other), depth in zip(stages, codes[1:-1], depths, strict=True):
            valid &= first.exists[code] & (others.exists[other] | (depth == 1))

        def summed(column: Callable[[_Table], Array]) -> Array:
            total = column(stem)[codes[0]] + column(head)[codes[-1]]
            for (first, others), (code, other), depth in zip(stages, codes[1:-1], depths, strict=True):
                total += column(first)[code] + (depth - 1) * column(others)[other]
            return total

        efficiency = any(name.startswith("efficiency") for name in wanted)
        if wanted & {"ops", "macs", "intensity"} or efficiency:
            values["ops"] = summed(lambda table: table.ops)
        if wanted & {"bytes", "intensity"}:
            values["bytes"] = summed(lambda table: table.dram_bytes[0])
        if "params" in wanted:
            values["params"] = summed(lambda table: table.params)
        latency_s = [
            self._latency_s(device, codes, depths) if self._needs(spec, wanted) else np.empty(0)
            for device, spec in enumerate(self.devices)
        ]
        self._finish(wanted, values, latency_s, [limits.peak_ops_per_s for limits in self.limits])
        return Evaluated(valid=valid, values={name: value for name, value in values.items() if name in wanted})

    def _needs(self, device: DeviceSpec, wanted: frozenset[str]) -> bool:
        names = {f"latency[{device.slug}]", f"efficiency[{device.slug}]"}
        return bool(wanted & (names | {"latency", "efficiency"} if len(self.devices) == 1 else names))

    def codes(self, place: Mapping[str, Any], ravel: Callable[[Sequence[Any], Sequence[int]], Any]) -> list[Any]:
        """Where the stem, the two kinds of block of each stage, and the head lie in their tables, from places on the axes.

        `ravel` combines places on axes of some lengths into one number: of arrays, or of the text of a program.
        """
        resolutions = len(self.resolutions)
        widths, width_name = (len(self.stages[0].channels), "channels[1]") if self.stems is None else (len(self.stems), "stem")
        codes: list[Any] = [ravel((place[width_name], place["resolution"]), (widths, resolutions))]
        before: tuple[str, ...] = () if self.stems is None else ("stem",)
        for number, (first, others) in enumerate(self._table_shapes, 1):
            own = [f"{name}[{number}]" for name in ("block", "channels", "expansion", "group_width", "kernel")]
            inner = [place[name] for name in (*own, "resolution")]
            entering = [place[name] for name in before]
            codes.append((ravel((*entering, *inner), first[1 - len(before) :]), ravel(inner, others)))
            before = (f"channels[{number}]",)
        heads = [] if self.heads is None else [place["head"]]
        sizes = [] if self.heads is None else [len(self.heads)]
        codes.append(ravel((place[before[0]], *heads, place["resolution"]), (len(self.stages[-1].channels), *sizes, resolutions)))
        return codes

    def _latency_s(self, device: int, codes: list[Any], depths: list[Array]) -> Array:
        """Kernel after kernel in the order they run: floating-point sums depend on it."""
        stem, stages, head = self.tables
        total = np.zeros(len(depths[0]))
        for column in stem.times_s[device]:
            total += column[codes[0]]
        for (first, others), (code, other), depth in zip(stages, codes[1:-1], depths, strict=True):
            for column in first.times_s[device]:
                total += column[code]
            deepest, shallowest = int(depth.max()), int(depth.min())
            repeated = [column[other] for column in others.times_s[device]] if deepest > 1 else []
            for position in range(1, deepest):
                if position < shallowest:
                    for time_s in repeated:
                        total += time_s
                else:
                    there = depth > position
                    for time_s in repeated:
                        total += np.where(there, time_s, 0.0)
        for column in head.times_s[device]:
            total += column[codes[-1]]
        return total
