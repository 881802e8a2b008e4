"""Spans against brute force: the rows that each turn of a loop covers, and their sums, in numbers, arrays and symbols."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import assume, given
from hypothesis import strategies as st

from perfmodel.layers.dims import output_size
from perfmodel.machine.span import Loop, Span, ceil_div, clip, clipped_sum, hull, tiles, window
from tests.brute_force import examples
from tests.reference import evaluate

EXTENT, TILE, COUNT, SLOPE, OFFSET, LIMIT = sympy.symbols("H p count slope offset limit", integer=True, positive=True)


@dataclass(frozen=True)
class Window:
    """A sliding window along one axis."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def outputs(self, extent: Any) -> Any:
        return output_size(extent, self.kernel, self.stride, self.before + self.after, self.dilation)

    def covered(self, outputs: range, extent: int) -> set[int]:
        """Every row of the image from the first tap to the last, of each output."""
        starts = [position * self.stride - self.before for position in outputs]
        return {row for start in starts for row in range(start, start + self.reach) if 0 <= row < extent}

    def span(self, outputs: Span, extent: Any, *, rolling: bool = False) -> Span:
        return window(
            outputs,
            kernel=self.kernel,
            stride=self.stride,
            padding_before=self.before,
            dilation=self.dilation,
            extent=extent,
            rolling=rolling,
        )


@st.composite
def windows(draw: st.DrawFn, kernels: tuple[int, int] = (1, 7)) -> Window:
    """Kernels 1 … 7 with less padding than the window is wide."""
    kernel, dilation = draw(st.integers(*kernels)), draw(st.integers(1, 3))
    pads = st.integers(0, dilation * (kernel - 1))
    return Window(kernel=kernel, stride=draw(st.integers(1, 4)), dilation=dilation, before=draw(pads), after=draw(pads))


extents = st.integers(1, 33)
tile_sizes = st.integers(1, 36)

FIXED = (
    Window(1, 1, 1, 0, 0),
    Window(1, 2, 1, 0, 0),
    Window(2, 3, 1, 0, 0),
    Window(3, 1, 1, 1, 1),
    Window(3, 2, 1, 1, 1),
    Window(3, 2, 1, 0, 1),
    Window(3, 1, 2, 2, 2),
    Window(4, 3, 2, 1, 5),
    Window(5, 1, 1, 2, 2),
    Window(5, 2, 1, 2, 2),
    Window(7, 1, 1, 3, 3),
    Window(7, 4, 1, 3, 2),
    Window(7, 2, 3, 9, 9),
)
"""Kernels that the symbolic and array tests go through for every size."""


def sizes(w: Window, most: int = 14) -> list[tuple[int, int]]:
    """(image, tile) of every size that leaves an output: images smaller than the kernel and tiles larger than the image, too."""
    return [(h, p) for h in range(1, most) for p in range(1, most + 2) if w.outputs(h) >= 1 and w.stride <= h]


def parts(span: Span) -> list[range]:
    """What it covers at each turn."""
    assert span.loop is not None
    return [range(span.lo(turn), max(span.lo(turn), span.hi(turn))) for turn in range(span.loop.count)]


def end_to_end(rows: set[int]) -> range:
    return range(min(rows), max(rows) + 1) if rows else range(0)


# -- sums of clipped terms


@examples(400)
@given(st.integers(0, 40), st.integers(1, 12), st.integers(-60, 60), st.integers(0, 50))
def test_a_clipped_sum_is_the_sum_of_its_terms(count: int, slope: int, offset: int, limit: int) -> None:
    assert clipped_sum(count, slope, offset, limit) == sum(min(limit, max(0, slope * v + offset)) for v in range(count))


def test_clipped_sums_of_arrays_are_the_sums_of_their_elements() -> None:
    count, slope, offset, limit = (x.ravel() for x in np.mgrid[0:12, 1:7, -15:16:3, 0:25:4])
    found = clipped_sum(count, slope, offset, limit)
    drawn = zip(*(x.tolist() for x in (count, slope, offset, limit)), strict=True)
    assert found.tolist() == [clipped_sum(*values) for values in drawn]
    assert found.dtype.kind == "i"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clipped_sum_in_symbols_has_the_value_of_the_sum(sign: int) -> None:
    expression = clipped_sum(COUNT, SLOPE, sign * OFFSET, LIMIT)
    draw = np.random.default_rng(0)
    for _ in range(150):
        count, slope, offset, limit = (int(x) for x in draw.integers(1, (30, 9, 40, 50)))
        values = {COUNT: count, SLOPE: slope, OFFSET: offset, LIMIT: limit}
        assert evaluate(expression, values) == clipped_sum(count, slope, sign * offset, limit)


@examples(100)
@given(st.integers(-50, 50), st.integers(1, 20), st.integers(0, 20))
def test_small_arithmetic(left: int, right: int, high: int) -> None:
    assert ceil_div(left, right) == int(np.ceil(left / right)) == evaluate(ceil_div(sympy.Integer(left), right), {})
    assert clip(left, 0, high) == int(np.clip(left, 0, high))


def test_exact_evaluation_agrees_with_sympys_own() -> None:
    w = Window(5, 2, 1, 2, 2)
    _, outputs = tiles("i", w.outputs(EXTENT), TILE, parallel=True, what="tiles")
    expression = w.span(outputs, EXTENT).total()
    for h, p in sizes(w)[::7]:
        assert expression.subs({EXTENT: h, TILE: p}) == int(evaluate(expression, {EXTENT: h, TILE: p}))


# -- tiles and windows over them


@examples(300)
@given(extents, tile_sizes)
def test_tiles_cut_an_axis_into_parts(extent: int, tile: int) -> None:
    loop, span = tiles("i", extent, tile, parallel=True, what="tiles")
    assert (loop.counter, loop.parallel, loop.what) == ("i", True, "tiles")
    covered = [row for part in parts(span) for row in part]
    assert covered == list(range(extent))
    assert all(1 <= len(part) <= tile for part in parts(span))
    assert span.total() == extent
    assert span.capacity() == min(tile, extent)


@examples(500)
@given(windows(), extents, tile_sizes)
def test_a_window_covers_what_its_outputs_need(w: Window, extent: int, tile: int) -> None:
    outputs = w.outputs(extent)
    assume(outputs >= 1 and w.stride <= extent)
    _, span = tiles("i", outputs, tile, parallel=True, what="tiles")
    needed = w.span(span, extent)
    found = parts(needed)
    assert found == [end_to_end(w.covered(part, extent)) for part in parts(span)]
    assert needed.total() == sum(map(len, found))
    longest = max(map(len, found))
    assert longest <= needed.capacity() <= min(extent, (tile - 1) * w.stride + w.reach)
    ends = [(needed.slope * v + needed.lo_offset, needed.slope * v + needed.hi_offset) for v in range(len(found))]
    inside = any(lo >= 0 and hi <= extent for lo, hi in ends)
    assert needed.capacity() == longest or not inside


@examples(300)
@given(windows(), extents, tile_sizes)
def test_rolling_parts_are_a_partition(w: Window, extent: int, tile: int) -> None:
    outputs = w.outputs(extent)
    assume(outputs >= 1 and w.stride <= extent)
    _, span = tiles("i", outputs, tile, parallel=False, what="groups")
    rolling, whole = w.span(span, extent, rolling=True), w.span(span, extent)
    once = [row for part in parts(rolling) for row in part]
    assert once == list(range(max(part.stop for part in parts(whole))))
    assert rolling.total() == len(once)
    assert all(part.stop == other.stop for part, other in zip(parts(rolling), parts(whole), strict=True))
    assert max(map(len, parts(rolling))) <= rolling.capacity() <= extent


@examples(300)
@given(windows(), extents, tile_sizes)
def test_touched_counts_every_covered_row_once(w: Window, extent: int, tile: int) -> None:
    outputs = w.outputs(extent)
    assume(outputs >= 1 and w.stride <= extent)
    _, span = tiles("i", outputs, tile, parallel=False, what="tiles")
    needed = w.span(span, extent)
    assert needed.touched() == len({row for part in parts(needed) for row in part})


@examples(400)
@given(st.lists(windows(), min_size=2, max_size=3), extents, tile_sizes)
def test_windows_over_windows(stack: list[Window], extent: int, tile: int) -> None:
    """What a chain of layers needs of its input: each layer's rows are those that the next one covers."""
    axis = [extent]
    for w in stack:
        axis.append(w.outputs(axis[-1]))
        assume(axis[-1] >= 1 and w.stride <= axis[-2])
    _, span = tiles("i", axis[-1], tile, parallel=True, what="tiles")
    rows = parts(span)
    for w, size in zip(reversed(stack), reversed(axis[:-1]), strict=True):
        span = w.span(span, size)
        rows = [end_to_end(w.covered(part, size)) for part in rows]
        assert parts(span) == rows
        assert span.total() == sum(map(len, rows))
        assert span.capacity() >= max(map(len, rows))


@examples(300)
@given(windows(), windows(), extents, tile_sizes)
def test_a_hull_covers_both(first: Window, second: Window, extent: int, tile: int) -> None:
    second = Window(second.kernel, first.stride, second.dilation, second.before, second.after)
    outputs = min(first.outputs(extent), second.outputs(extent))
    assume(outputs >= 1 and first.stride <= extent)
    _, span = tiles("i", outputs, tile, parallel=True, what="tiles")
    left, right = first.span(span, extent), second.span(span, extent)
    both = hull(left, right)
    expected = [end_to_end({*a, *b}) for a, b in zip(parts(left), parts(right), strict=True)]
    assert parts(both) == expected
    assert both.total() == sum(map(len, expected))
    assert both.capacity() >= max(map(len, expected))
    assert hull(right, left) == both


def test_whole_axes() -> None:
    whole = Span(extent=9)
    loop = Loop(counter="i", count=3, parallel=True, what="tiles")
    part = Span(extent=9, loop=loop, slope=3, hi_offset=3, reach=9)
    assert (whole.lo(5), whole.hi(5), whole.total(), whole.capacity(), whole.touched(), whole.text()) == (0, 9, 9, 9, 9, ":")
    assert hull(whole, part) == whole == hull(part, whole)
    assert window(whole, kernel=3, stride=1, padding_before=1, dilation=1, extent=9) == whole


# -- many at once, and in symbols


def spans_of(w: Window, extent: Any, tile: Any, *, rolling: bool) -> Span:
    _, outputs = tiles("i", w.outputs(extent), tile, parallel=True, what="tiles")
    return w.span(outputs, extent, rolling=rolling)


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("w", FIXED, ids=str)
def test_arrays_of_sizes_give_each_sizes_numbers(w: Window, rolling: bool) -> None:
    pairs = sizes(w)
    extent, tile = np.array(pairs).T
    many = spans_of(w, extent, tile, rolling=rolling)
    each = [spans_of(w, h, p, rolling=rolling) for h, p in pairs]
    assert many.total().tolist() == [span.total() for span in each]
    assert many.capacity().tolist() == [span.capacity() for span in each]
    assert many.touched().tolist() == [span.touched() for span in each]
    for turn in range(3):
        assert np.broadcast_to(many.lo(turn), len(pairs)).tolist() == [span.lo(turn) for span in each]
        assert many.hi(turn).tolist() == [span.hi(turn) for span in each]


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("w", FIXED, ids=str)
def test_symbols_give_every_sizes_numbers(w: Window, rolling: bool) -> None:
    def numbers(span: Span) -> list[Any]:
        return [span.total(), span.capacity(), *(end for turn in range(2) for end in (span.lo(turn), span.hi(turn)))]

    symbolic = numbers(spans_of(w, EXTENT, TILE, rolling=rolling))
    for h, p in sizes(w):
        found = [evaluate(expression, {EXTENT: h, TILE: p}) for expression in symbolic]
        assert found == numbers(spans_of(w, h, p, rolling=rolling))


def test_a_hull_in_symbols() -> None:
    wide, narrow = Window(5, 1, 1, 2, 2), Window(1, 1, 1, 0, 0)
    both = hull(spans_of(wide, EXTENT, TILE, rolling=False), spans_of(narrow, EXTENT, TILE, rolling=False))
    total = both.total()
    for h, p in sizes(wide):
        expected = hull(spans_of(wide, h, p, rolling=False), spans_of(narrow, h, p, rolling=False)).total()
        assert evaluate(total, {EXTENT: h, TILE: p}) == expected


@pytest.mark.parametrize("w", FIXED, ids=str)
def test_the_interior_total_is_the_limit_of_a_large_image(w: Window) -> None:
    span = spans_of(w, EXTENT, TILE, rolling=False)
    interior, total = span.interior_total(), span.total()
    for p in (1, 3, 8):
        gaps = []
        for outputs in (2**6 * p, 2**12 * p):
            h = (outputs - 1) * w.stride + w.reach - w.before - w.after
            values = {EXTENT: h, TILE: p}
            gaps.append(abs(evaluate(interior, values) / evaluate(total, values) - 1))
        assert gaps[1] * 2**5 <= gaps[0] < 1


def test_text_names_the_counter() -> None:
    span = spans_of(Window(3, 1, 1, 1, 1), EXTENT, TILE, rolling=False)
    assert span.text() == "p·i−1 : p·i+p + 1"
    assert spans_of(Window(3, 1, 1, 1, 1), 20, 1, rolling=False).text() == "i−1 : i+2"
    assert spans_of(Window(3, 2, 1, 1, 1), 20, 4, rolling=True).text() == "up to 8·i+8"
