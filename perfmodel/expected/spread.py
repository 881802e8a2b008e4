"""How far off a device may be whose rates were carried to it: the interval of measured ones, widened by what differs from one to another.

The evidence is what others published of such devices, beside what was predicted of them from their documents and carried rates alone.
Networks on one device are off together, so it is devices that count: of n of them, each with its mean ln(measured / expected), a further
one's lies, nine times in ten, within m ± t₀.₉₅(n − 1) · s · √(1 + 1/n) of their mean m, s the deviation from one to another. What networks
do on one device is in the interval of the stack already; the two are independent, and add up as squares do.
"""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from perfmodel.expected.carried import carried_figures
from perfmodel.expected.constants import Intervals
from perfmodel.hardware.spec import DeviceSpec

FILE: Final = "spread.toml"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Spread(BaseModel):
    """How unlike each other devices are whose rates were carried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[str, ...]
    """Of measurements, one for each device."""
    source: str
    schedule: str
    """Which they were made and predicted under; devices are taken to be as unlike under others."""
    date: str
    revision: str
    least_batch: int
    """Of the rows: below it the host sets the latency."""
    rows: int
    devices: dict[str, Positive]
    """Of each: the geometric mean of measured / expected over its rows."""
    middle: Positive
    """Of these: their geometric mean."""
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """Nine further devices of ten lie between middle / factor and middle · factor."""
    coverage: Annotated[float, Field(ge=0, le=1)]
    """Share of rows inside the interval that the other devices alone give."""


@cache
def spread() -> Spread:
    """What is shipped."""
    text = (resources.files("perfmodel.expected") / FILE).read_text(encoding="utf-8")
    return Spread.model_validate(tomllib.loads(text))


def widened(intervals: Intervals, middle: float, factor: float) -> tuple[float, float]:
    """The ends of the interval on a further device, ÷ expected."""
    apart = math.log(factor)
    low = math.log(middle) - math.hypot(apart, min(0.0, math.log(intervals.low)))
    high = math.log(middle) + math.hypot(apart, max(0.0, math.log(intervals.high)))
    return math.exp(low), math.exp(high)


def interval_of(intervals: Intervals, device: DeviceSpec) -> tuple[float, float]:
    """The ends of the interval on a device, ÷ expected: a stack's, widened where rates were carried to the device."""
    if not carried_figures(device):
        return intervals.low, intervals.high
    found = spread()
    return widened(intervals, found.middle, found.factor)
