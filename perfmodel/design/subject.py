"""What a question is about: a block or a network on a device, with one of its choices left open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Self

from perfmodel.design.blocks import Kind, ignored
from perfmodel.design.families import scale_of, scaled_network
from perfmodel.design.footprint import footprint_bytes
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.kernel import Kernel
from perfmodel.layers import dims
from perfmodel.layers.catalog import MOST_CHANNELS, MOST_KERNEL, block_of
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.layers.layer import ShapeError
from perfmodel.network import Network
from perfmodel.networks.catalog import MAX_BATCH, MAX_RESOLUTION, find
from perfmodel.precision import Precision
from perfmodel.prediction import Prediction, predict
from perfmodel.schedule import kernels

MOST_DEPTH: Final = 4096
NARROWED: Final = (64, 32, 16, 8, 4, 2, 1)
"""Times the width of its groups, channels that any block can have: the first are multiples of every factor by which one narrows."""
_BLOCK_UNKNOWNS: Final = ("channels", "size", "batch", "depth", "expansion", "group_width", "kernel")
_NETWORK_UNKNOWNS: Final = ("resolution", "batch", "width", "depth")


class QuestionError(PerfmodelError):
    """A question that cannot be asked of this block or network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one value of the open choice gives."""

    latency_s: float
    macs: int
    params: int
    traffic_bytes: int
    """DRAM bytes read and written."""
    memory_bytes: int
    """Footprint: weights, and activations that exist at the same time."""


@dataclass(frozen=True, kw_only=True)
class Subject(ABC):
    """Base of blocks and networks under a question."""

    device: DeviceSpec
    batch: int = 1
    dtype: str | None = None
    schedule: str = "layer"

    @property
    @abstractmethod
    def name(self) -> str:
        """Its kind or model."""

    @property
    @abstractmethod
    def unknowns(self) -> tuple[str, ...]:
        """Choices that it has."""

    @abstractmethod
    def network(self) -> Network:
        """It, built. Raises ShapeError."""

    @abstractmethod
    def described(self, unknown: str = "") -> Mapping[str, Any]:
        """Its choices but the unknown one."""

    @abstractmethod
    def allowed(self, unknown: str, step: int | None) -> Sequence[int]:
        """The values that `unknown` can have, rising. Raises QuestionError and UnknownNameError."""

    @abstractmethod
    def counts(self, unknown: str) -> str:
        """What the number of `unknown` counts."""

    def at(self, unknown: str, value: int) -> Self:
        """It with the choice made."""
        choice: dict[str, Any] = {unknown: value}
        return replace(self, **choice)

    def on(self, device: DeviceSpec) -> Self:
        """It on another device."""
        return replace(self, device=device)

    def under(self, schedule: str) -> Self:
        """It under another schedule."""
        return replace(self, schedule=schedule)

    @cached_property
    def prediction(self) -> Prediction:
        """It, predicted."""
        return predict(self.network(), self.device, dtype=self.dtype, schedule=self.schedule)

    def outcome(self) -> Outcome:
        """What it costs."""
        prediction = self.prediction
        return Outcome(
            latency_s=prediction.latency_s,
            macs=int(prediction.network.macs),
            params=int(prediction.network.params),
            traffic_bytes=int(prediction.cost.dram_bytes),
            memory_bytes=footprint_bytes(prediction.kernels),
        )

    def _step(self, unknown: str, least: int, most: int, step: int | None) -> range:
        if step is not None and step < 1:
            raise QuestionError(f"the step of {unknown} must be at least 1, not {step}")
        by = least if step is None else step
        if by % least:
            raise QuestionError(f"{unknown} of {self.name} goes in steps of {least}, of which {by} is no multiple")
        return range(by, most + 1, by)


@dataclass(frozen=True, kw_only=True)
class BlockSubject(Subject):
    """A residual block of the catalogue at stride 1, or `depth` of them in a row."""

    kind: str
    channels: int = 64
    size: int = 56
    expansion: int = 4
    group_width: int = 8
    kernel: int | None = None
    depth: int = 1

    def __post_init__(self) -> None:
        Kind.of(self.kind)

    @property
    def name(self) -> str:
        """Its kind."""
        return self.kind

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Choices that the kind has."""
        kind = Kind.of(self.kind)
        has = {"expansion": kind.expands, "group_width": kind.groups is not None, "kernel": kind.has_kernel}
        return tuple(name for name in _BLOCK_UNKNOWNS if has.get(name, True))

    def counts(self, unknown: str) -> str:
        """What the number counts."""
        return {"size": "height and width", "depth": "blocks in a row", "expansion": "times the channels"}.get(unknown, unknown)

    def described(self, unknown: str = "") -> Mapping[str, Any]:
        """Its choices but the unknown one."""
        kind = Kind.of(self.kind)
        given = {name: getattr(self, name) for name in _BLOCK_UNKNOWNS if name != unknown and not ignored(kind, name)}
        return {name: value for name, value in given.items() if value is not None and (name != "depth" or value > 1)}

    def allowed(self, unknown: str, step: int | None) -> Sequence[int]:
        """Channels in steps that groups and narrowing divide, odd kernels, group widths that divide."""
        if unknown not in self.unknowns:
            raise UnknownNameError(f"choice of {self.kind}", unknown, self.unknowns)
        most = {"size": MAX_RESOLUTION, "batch": MAX_BATCH, "depth": MOST_DEPTH, "expansion": MOST_CHANNELS}
        if unknown in most:
            values = self._step(unknown, 1, most[unknown], step)
            return values[values.index(2) :] if unknown == "size" and Kind.of(self.kind).has_mean and 1 in values else values
        if unknown in ("kernel", "group_width") and step is not None:
            raise QuestionError(f"{unknown} has no step: kernels are odd, and group widths divide the channels; leave --step out")
        if unknown == "kernel":
            return range(1, min(MOST_KERNEL, 2 * self.size - 1) + 1, 2)
        if unknown == "group_width":
            widest = self.channels * (self.expansion if self.kind == "mbconv" else 1)
            found = [width for width in range(1, widest + 1) if widest % width == 0 and self._obstacle(group_width=width) is None]
            if not found:
                raise QuestionError(f"with any group width, {self._obstacle(group_width=1)}")
            return found
        return self._step(unknown, self._least_channels(), MOST_CHANNELS, step)

    def _least_channels(self) -> int:
        """What every possible number of channels is a multiple of.

        Groups and narrowing must divide it, so the least of them divides what they all divide.
        """
        none = f"no number of channels of {self.kind} up to {MOST_CHANNELS} divides into groups of {self.group_width}"
        fitting = (times * self.group_width for times in NARROWED if times * self.group_width <= MOST_CHANNELS)
        all_divide = next(fitting, None)
        if all_divide is None:
            raise QuestionError(none)
        if (why := self._obstacle(channels=all_divide)) is not None:
            raise QuestionError(f"with any number of channels, {why}")
        divisors = (width for width in range(1, all_divide + 1) if all_divide % width == 0)
        return next(width for width in divisors if self._obstacle(channels=width) is None)

    def _obstacle(self, **choices: Any) -> str | None:
        """Why there is no such block; None where there is."""
        try:
            replace(self, size=max(2, self.size), batch=1, **choices)._graph_of_one()
        except ShapeError as error:
            return str(error)
        return None

    def _graph_of_one(self) -> GraphBuilder:
        block = block_of(self.kind, self.channels, expansion=self.expansion, group_width=self.group_width, kernel=self.kernel)
        builder = GraphBuilder()
        builder.block(block, builder.input(Shape(self.batch, self.channels, self.size, self.size)), name=self.kind)
        return builder

    def network(self) -> Network:
        """One block; `outcome` repeats it."""
        if self.size < 2 and Kind.of(self.kind).has_mean:
            raise QuestionError(f"{self.kind} has a mean over the image; give a size of at least 2")
        return Network(name=self.kind, graph=self._graph_of_one().graph(), batch=self.batch, resolution=self.size)

    def outcome(self) -> Outcome:
        """What `depth` of them cost."""
        one = super().outcome()
        weights = int(sum(kernel.cost.read_weight_bytes for kernel in self.prediction.kernels))
        return Outcome(
            latency_s=self.depth * one.latency_s,
            macs=self.depth * one.macs,
            params=self.depth * one.params,
            traffic_bytes=self.depth * one.traffic_bytes,
            memory_bytes=one.memory_bytes + (self.depth - 1) * weights,
        )


@dataclass(frozen=True, kw_only=True)
class NetworkSubject(Subject):
    """A network of the catalogue, made wider or deeper where its family has a rule for it."""

    model: str
    resolution: int | None = None
    classes: int = 1000
    autocast: str | None = None
    layout: str = "nhwc"
    width: int | None = None
    depth: int | None = None

    @property
    def name(self) -> str:
        """The model's."""
        return find(self.model).name

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Choices of a network."""
        return _NETWORK_UNKNOWNS

    def counts(self, unknown: str) -> str:
        """What the number counts."""
        if unknown in ("width", "depth"):
            return scale_of(self.model, unknown)[1].what
        return {"resolution": "height and width"}.get(unknown, unknown)

    def described(self, unknown: str = "") -> Mapping[str, Any]:
        """Its choices but the unknown one."""
        own = {"resolution": self.resolution or find(self.model).resolution, "batch": self.batch}
        given = {**own, "width": self.width, "depth": self.depth}
        return {name: value for name, value in given.items() if name != unknown and value is not None}

    def allowed(self, unknown: str, step: int | None) -> Sequence[int]:
        """Every size and batch, and the widths and depths of its family."""
        if unknown not in self.unknowns:
            raise UnknownNameError("choice of a network", unknown, self.unknowns)
        if unknown in ("width", "depth"):
            values = scale_of(self.model, unknown)[1].values
            return self._step(unknown, values.step, values[-1], step)
        if unknown == "batch":
            return self._step(unknown, 1, MAX_BATCH, step)
        sizes = self._step(unknown, 1, MAX_RESOLUTION, step)
        least = next((place for place, size in enumerate(sizes) if self._can_be(size)), None)
        if least is None:
            raise QuestionError(f"{self.name} cannot be built at any resolution in steps of {sizes.step}")
        return sizes[least:]

    def _can_be(self, resolution: int) -> bool:
        try:
            replace(self, resolution=resolution).network()
        except ShapeError:
            return False
        return True

    def network(self) -> Network:
        """It, built."""
        scales = {name: value for name, value in (("width", self.width), ("depth", self.depth)) if value is not None}
        size = self.resolution or find(self.model).resolution
        return scaled_network(self.model, scales, batch=self.batch, resolution=size, classes=self.classes)

    @cached_property
    def prediction(self) -> Prediction:
        """It, predicted."""
        return predict(
            self.network(), self.device, dtype=self.dtype, autocast=self.autocast, layout=self.layout, schedule=self.schedule
        )

    def symbolic_kernels(self) -> tuple[Kernel, ...]:
        """Its kernels with a symbol for the batch, as many and in the order of the prediction's."""
        scales = {name: value for name, value in (("width", self.width), ("depth", self.depth)) if value is not None}
        size = self.resolution or find(self.model).resolution
        network = scaled_network(self.model, scales, batch=dims.N, resolution=size, classes=self.classes)
        return kernels(network.graph, precision_of(self), self.schedule, layout=self.layout)


def precision_of(subject: Subject) -> Precision:
    """The types it computes in."""
    return Precision.of(subject.dtype, getattr(subject, "autocast", None))
