"""Placing texts so that none covers another."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox


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
