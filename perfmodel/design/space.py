"""Spaces of designs: axes with their values, numbered designs, and what the designs of some numbers cost as arrays."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.network import Network

Array = Any
"""An array of float64 or bool, one element per design."""

MOST_DESIGNS: Final = 2**62


class SpaceError(PerfmodelError):
    """A space that is empty, contradicts itself, or cannot be searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One choice of a designer, and what it can be."""

    name: str
    values: tuple[str, ...] | tuple[int, ...]

    @property
    def is_category(self) -> bool:
        """Whether its values are names."""
        return isinstance(self.values[0], str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What some designs cost: an array of each quantity that was asked for, and which designs exist at all."""

    valid: Array
    """False where a design cannot be built (groups that do not divide its channels), or only repeats another one: a block without groups
    is counted at the first group width alone."""
    values: Mapping[str, Array]
    """By name. A category is its place among its axis' values."""


def decoded(index: npt.NDArray[np.int64], shape: Sequence[int]) -> tuple[Any, ...]:
    """Where each design lies on axes of these lengths, the last one running fastest: as `numpy.unravel_index`, by fast divisions."""
    places: list[Any] = []
    for length in reversed(shape):
        if length == 1:
            places.append(np.zeros_like(index))
            continue
        above = index // length  # by a scalar: NumPy multiplies and shifts
        places.append(index - above * length)
        index = above
    return tuple(reversed(places))


def encoded(places: Sequence[Any], shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """The numbers of designs at these places: what `decoded` undoes, on any number of axes."""
    index: Any = np.int64(0)
    for place, length in zip(places, shape, strict=True):
        index = index * length + place
    return np.asarray(index)


class Space(ABC):
    """Every combination of its axes' values is a design with a number; the last axis runs fastest."""

    axes: tuple[Axis, ...]
    devices: tuple[DeviceSpec, ...]
    dtype: str
    schedule: str

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: the choices; tables and the like are made anew there."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]

    @property
    @abstractmethod
    def described(self) -> Mapping[str, Any]:
        """The whole space as plain data."""

    @abstractmethod
    def evaluate(self, index: npt.NDArray[np.int64], wanted: frozenset[str]) -> Evaluated:
        """The quantities named in `wanted` of the designs with these numbers."""

    @abstractmethod
    def network(self, number: int) -> Network:
        """One design, built layer by layer as any other network. Raises ShapeError where it does not exist."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis has."""
        return tuple(len(axis.values) for axis in self.axes)

    @cached_property
    def size(self) -> int:
        """Number of combinations."""
        size = math.prod(self.shape)
        if size > MOST_DESIGNS:
            raise SpaceError(f"the space has {size:.3g} designs, more than can be numbered; give its axes fewer values")
        return size

    @cached_property
    def checksum(self) -> str:
        """Of everything that the results depend on."""
        text = json.dumps(self.described, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """The axes whose values are names, with their values."""
        return {axis.name: tuple(map(str, axis.values)) for axis in self.axes if axis.is_category}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What conditions and objectives can name, categories aside: axes, then costs."""
        one = ("latency", "efficiency") if len(self.devices) == 1 else ()
        per_device = [f"{what}[{device.slug}]" for what in ("latency", "efficiency") for device in self.devices]
        axes = [axis.name for axis in self.axes if not axis.is_category]
        return (*axes, "macs", "ops", "params", "bytes", "intensity", *one, *per_device)

    def places(self, index: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
        """Where each design lies on each axis."""
        return decoded(index, self.shape)

    def design(self, number: int) -> dict[str, str | int]:
        """One design by the names of the axes."""
        places = decoded(np.array([number]), self.shape)
        return {axis.name: axis.values[int(place[0])] for axis, place in zip(self.axes, places, strict=True)}

    def _finish(
        self, wanted: frozenset[str], values: dict[str, Array], latency_s: Sequence[Array], peaks: Sequence[float]
    ) -> None:
        """Add what follows from ops, bytes and latencies, which `values` has under `ops` and `bytes`."""
        if "macs" in wanted:
            values["macs"] = values["ops"] / 2
        if "intensity" in wanted:
            values["intensity"] = values["ops"] / values["bytes"]
        for device, latency, peak in zip(self.devices, latency_s, peaks, strict=True):
            names = [f"latency[{device.slug}]", "latency"] if len(self.devices) == 1 else [f"latency[{device.slug}]"]
            for name in names:
                values[name] = latency
                efficiency = name.replace("latency", "efficiency")
                if efficiency in wanted:
                    values[efficiency] = values["ops"] / peak / latency
