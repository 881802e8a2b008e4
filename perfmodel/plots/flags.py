"""Names at the tops of upright lines, in rows and on sides such that none covers another or another's line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.text import Annotation
from matplotlib.transforms import Bbox


@dataclass(slots=True, kw_only=True)
class Flag:
    """The name of a mark at the top of its line: to its right or left, in a row that counts from below."""

    text: Annotation
    x_px: float
    width_px: float
    right: bool = True
    row: int = 0

    @property
    def span(self) -> tuple[float, float]:
        """From the line to the end of the name."""
        return (self.x_px, self.x_px + self.width_px) if self.right else (self.x_px - self.width_px, self.x_px)

    def meets(self, other: Flag) -> bool:
        """Whether one covers the other, or the other's line, which reaches up to its row."""
        (a0, a1), (b0, b1) = self.span, other.span
        covers = self.row == other.row and a0 < b1 and b0 < a1
        crossed = self.row <= other.row and a0 < other.x_px < a1
        crosses = other.row <= self.row and b0 < self.x_px < b1
        return covers or crossed or crosses


def raise_flags(flags: Sequence[Flag], inside: Bbox) -> int:
    """Give each flag, from the right, the lowest row and the side where it meets none before; the number of rows."""
    raised: list[Flag] = []
    for flag in sorted(flags, key=lambda flag: -flag.x_px):
        for place in range(2 * len(flags) + 2):
            flag.row, flag.right = place // 2, place % 2 == 0
            left, right = flag.span
            free = inside.x0 <= left and right <= inside.x1 and not any(flag.meets(other) for other in raised)
            # A line further left may rise as high as it must, so no name may lie in its way.
            if free and (flag.right or not any(left < other.x_px < right for other in flags)):
                break
        else:
            flag.row, flag.right = max((other.row for other in raised), default=-1) + 1, flag.x_px < (inside.x0 + inside.x1) / 2
        raised.append(flag)
    return max((flag.row for flag in flags), default=-1) + 1
