"""Spans: the part of an axis that a tile covers, as the loop over tiles runs; and their exact sums over the loop.

A span's ends are affine in the loop's counter and clipped to the tensor, so that tiles at the edges are smaller. Sums over the loop have
closed forms in floors and minima, exact for every size, so that the totals of a whole program do. They hold for Python integers, arrays of
them (many tilings at once) and sympy expressions alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy

from perfmodel.layers.dims import Dim, is_symbolic, maximum, minimum


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A counted loop: `counter` runs from 0 to `count` − 1."""

    counter: str
    count: Dim
    parallel: bool
    what: str
    """What it runs over, for people."""
    turns: Dim = None
    """extent / tile, not rounded: how often it would run if tiles always fitted; `count` if not given."""

    @property
    def interior_count(self) -> Dim:
        """The count for tiles that always fit."""
        return self.count if self.turns is None else self.turns


def ceil_div(left: Dim, right: Dim) -> Dim:
    """⌈left / right⌉."""
    return sympy.ceiling(left / right) if is_symbolic(left, right) else -((-left) // right)


def half(product: Dim) -> Dim:
    """Half of an even number."""
    return product / 2 if isinstance(product, sympy.Basic) else product // 2


def clip(value: Dim, low: Dim, high: Dim) -> Dim:
    """`value`, but at least `low` and at most `high`."""
    return maximum(low, minimum(high, value))


def clipped_sum(count: Dim, slope: Dim, offset: Dim, limit: Dim) -> Dim:
    """Σ over v = 0 … count − 1 of clip(slope·v + offset, 0, limit), for slope > 0 and limit ≥ 0."""
    first_positive = clip(ceil_div(-offset, slope), 0, count)
    first_over = clip((limit - offset) // slope + 1, 0, count)
    between = first_over - first_positive
    pairs = first_over * (first_over - 1) - first_positive * (first_positive - 1)
    return offset * between + slope * half(pairs) + limit * (count - first_over)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The half-open range [lo, hi) of an axis at each turn of a loop.

    lo(v) = clip(slope·v + lo_offset, 0, extent) and hi(v) = clip(slope·v + hi_offset, 0, reach): `reach` is where the last turn ends,
    at most `extent`. A *rolling* span starts where it ended at the turn before (0 at the first): the rows that are new.
    Without a loop it is [0, extent).
    """

    extent: Dim
    """Size of the axis."""
    loop: Loop | None = None
    slope: Dim = 0
    lo_offset: Dim = 0
    hi_offset: Dim = 0
    reach: Dim = 0
    rolling: bool = False

    def hi(self, turn: int) -> Dim:
        """Where it ends at that turn."""
        if self.loop is None:
            return self.extent
        return clip(self.slope * turn + self.hi_offset, 0, self.reach)

    def lo(self, turn: int) -> Dim:
        """Where it starts at that turn."""
        if self.loop is None:
            return 0
        if self.rolling:
            return 0 if turn == 0 else self.hi(turn - 1)
        return clip(self.slope * turn + self.lo_offset, 0, self.extent)

    def total(self) -> Dim:
        """Σ of its length over the turns of its loop."""
        if self.loop is None:
            return self.extent
        count = self.loop.count
        if self.rolling:
            return clip(self.slope * (count - 1) + self.hi_offset, 0, self.reach)
        ends = clipped_sum(count, self.slope, self.hi_offset, self.reach)
        return ends - clipped_sum(count, self.slope, self.lo_offset, self.extent)

    def interior_total(self) -> Dim:
        """The same if tiles always fitted and none was clipped at an edge: the limit of a large image."""
        if self.loop is None or self.rolling or self.loop.interior_count is sympy.S.One:
            return self.extent
        return self.loop.interior_count * (self.hi_offset - self.lo_offset)

    def touched(self) -> Dim:
        """How many places it covers in all, each counted once."""
        if self.loop is None:
            return self.extent
        return minimum(self.total(), replace(self, rolling=True).total())

    def capacity(self) -> Dim:
        """The most it can cover at any turn, as a buffer for it is sized: its unclipped length, at most the axis."""
        if self.loop is None:
            return self.extent
        if self.rolling:  # the first turn fills the window, later ones add a slope's worth
            return minimum(self.reach, maximum(self.slope, self.hi_offset))
        return minimum(self.extent, self.hi_offset - self.lo_offset)

    def text(self) -> str:
        """As in pseudo-code: the whole axis, or its two ends in the loop's counter."""
        if self.loop is None:
            return ":"
        v = self.loop.counter
        if self.rolling:
            return f"up to {_affine(self.slope, v, self.hi_offset)}"
        return f"{_affine(self.slope, v, self.lo_offset)} : {_affine(self.slope, v, self.hi_offset)}"


def _affine(slope: Dim, counter: str, offset: Dim) -> str:
    scaled = counter if slope == 1 else f"{_factor(slope)}·{counter}"
    if offset == 0:
        return scaled
    text = str(offset)
    return f"{scaled}{text.replace('-', '−', 1)}" if text.startswith("-") else f"{scaled}+{text}"


def _factor(value: Dim) -> str:
    text = str(value)
    return f"({text})" if any(sign in text for sign in "+-") else text


def tiles(counter: str, extent: Dim, tile: Dim, *, parallel: bool, what: str) -> tuple[Loop, Span]:
    """A loop over tiles of an axis, and the part of the axis that each covers; the last may be smaller."""
    turns = extent / tile if is_symbolic(extent, tile) else None
    loop = Loop(counter=counter, count=ceil_div(extent, tile), parallel=parallel, what=what, turns=turns)
    return loop, Span(extent=extent, loop=loop, slope=tile, lo_offset=0, hi_offset=tile, reach=extent)


def window(
    outputs: Span, *, kernel: int, stride: int, padding_before: int, dilation: int, extent: Dim, rolling: bool = False
) -> Span:
    """The input rows (or columns) that a sliding window needs for the outputs that `outputs` covers."""
    if outputs.loop is None:
        return Span(extent=extent)
    reach_of_kernel = dilation * (kernel - 1) + 1 - padding_before

    def end(position: Dim) -> Dim:
        return (position - 1) * stride + reach_of_kernel

    return Span(
        extent=extent,
        loop=outputs.loop,
        slope=outputs.slope * stride,
        lo_offset=outputs.lo_offset * stride - padding_before,
        hi_offset=end(outputs.hi_offset),
        reach=minimum(extent, end(outputs.reach)),
        rolling=rolling,
    )


def hull(left: Span, right: Span) -> Span:
    """The smallest span of the same loop that covers both; they advance at the same pace, being of one tensor."""
    if left.loop is None or right.loop is None:
        return left if left.loop is None else right
    return Span(
        extent=left.extent,
        loop=left.loop,
        slope=left.slope,
        lo_offset=minimum(left.lo_offset, right.lo_offset),
        hi_offset=maximum(left.hi_offset, right.hi_offset),
        reach=maximum(left.reach, right.reach),
        rolling=left.rolling,
    )
