"""A quantity of a machine as it was measured."""

from __future__ import annotations

import statistics

from pydantic import BaseModel, ConfigDict


class Sample(BaseModel):
    """One quantity as it was measured: every repeat, and under which clock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantity: str
    kernel: str
    values: tuple[float, ...]
    """In the unit that the quantity's name ends with."""
    clock_hz: float | None = None
    power_w: float | None = None
    detail: str | None = None
    """Size or shape, where one quantity is measured at several; of a difference of times, how often it drowned in noise."""
    work: float | None = None
    """Of one launch, in the unit that the quantity counts per second, where a launch takes only microseconds."""
    date: str | None = None
    """Where it is not the day of the run that it is recorded with."""

    @property
    def median(self) -> float:
        """Of the repeats."""
        return statistics.median(self.values)

    def without(self, floor_s: float) -> float:
        """The median rate, less the time that any launch takes: what a launch of much more work attains."""
        if self.work is None:
            return self.median
        return self.work / max(self.work / self.median - floor_s, 0.1 * self.work / self.median)
