"""Placing texts so that none covers another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

Segments = NDArray[np.float64]
"""Straight lines in pixels: segment, end, axis."""

Place = tuple[float, float, str, str]
"""Where a text stands from its point: offset in points to the right and up, horizontal and vertical alignment."""


class Labels:
    """Texts in an axes; each is kept only where it stays inside and covers none that was kept before."""

    def __init__(self, ax: Axes, *, taken: Iterable[Bbox] = (), gap_px: float = 1.5) -> None:
        self._inside = ax.get_window_extent()
        self._taken = list(taken)
        self._gap_px = gap_px

    def keep(self, text: Text) -> bool:
        """Keep `text` where it fits; otherwise remove it from its axes."""
        box = text.get_window_extent()
        if self.free(box):
            self._taken.append(box)
            text.set_in_layout(False)
            return True
        text.remove()
        return False

    def place(self, text: Annotation, places: Iterable[Place], *lines: Segments) -> bool:
        """Keep `text` at the first place that is free, and clear of the lines; otherwise leave it to the caller."""
        for dx, dy, ha, va in places:
            text.xyann = (dx, dy)
            text.set(ha=ha, va=va)
            box = text.get_window_extent()
            if self.free(box) and not any(crossed(box, each) for each in lines):
                self._taken.append(box)
                text.set_in_layout(False)
                return True
        return False

    def free(self, box: Bbox) -> bool:
        """Whether nothing was kept there, and the place is inside the axes."""
        inside = (
            box.x0 >= self._inside.x0 - 1
            and box.x1 <= self._inside.x1 + 1
            and box.y0 >= self._inside.y0 - 1
            and box.y1 <= self._inside.y1 + 1
        )
        wide = box.padded(self._gap_px)
        return inside and not any(wide.overlaps(other) for other in self._taken)

    def take(self, box: Bbox) -> None:
        """Let nothing else be put there."""
        self._taken.append(box)


def as_segments(points_px: Any) -> Segments:
    """The segments of a line through points."""
    points = np.asarray(points_px, dtype=float).reshape(-1, 2)
    return np.stack([points[:-1], points[1:]], axis=1)


def crossed(box: Bbox, segments: Segments) -> bool:
    """Whether any of the segments passes through the box."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):  # a segment along an axis is inside for all t, or for none
        low, high = (box.min - start) / along, (box.max - start) / along
    enter = np.fmin(low, high).max(axis=1, initial=0.0)
    leave = np.fmax(low, high).min(axis=1, initial=1.0)
    return bool((enter <= leave).any())


# -- callouts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1


@dataclass(frozen=True, slots=True, kw_only=True)
class Callout:
    """A name beside the top of an upright line that stands on what it names."""

    key: int
    x_px: float
    foot_px: float
    """The lowest that the name may stand."""
    width_px: float
    height_px: float


def call_out(
    callouts: Sequence[Callout], inside: Box, ground: Callable[[float, float], float], taken: Sequence[Box], *, gap_px: float
) -> dict[int, Box] | None:
    """Where each name stands, by key: as low as it can, right of its line or else left; None where one finds no place.

    No name covers another, a line, what is taken, or the ground, whose greatest height between two points `ground` gives.
    """
    for lowest_first in (True, False):  # a name left of its line is lower, but may bar the way of lines further left
        names: dict[int, Box] = {}
        lines: list[Box] = []
        for each in sorted(callouts, key=lambda each: -each.x_px):  # from the right, since most names stand right of their lines
            heights = np.arange(each.foot_px + gap_px, inside.y1 - each.height_px + 0.01, each.height_px / 3)
            sides = (each.x_px + gap_px, each.x_px - gap_px - each.width_px)
            places = [(x, float(y)) for y in heights for x in sides]
            for x, y in places if lowest_first else [*places[::2], *places[1::2]]:
                name = Box(x, y, x + each.width_px, y + each.height_px)
                wide = Box(name.x0 - gap_px / 2, name.y0 - gap_px / 2, name.x1 + gap_px / 2, name.y1 + gap_px / 2)
                line = Box(each.x_px - 0.5, each.foot_px, each.x_px + 0.5, name.y1)
                if (
                    name.x0 >= inside.x0
                    and name.x1 <= inside.x1
                    and ground(name.x0, name.x1) <= wide.y0
                    and not any(wide.meets(other) for other in (*names.values(), *lines, *taken))
                    and not any(line.meets(other) for other in (*names.values(), *taken))
                ):
                    names[each.key] = name
                    lines.append(line)
                    break
            else:
                break
        if len(names) == len(callouts):
            return names
    return None
