"""Predicted against measured, drawn: every mark inside, the furthest named, errors that add up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.validation.agreement_plot import NAMED, Case, agreement_plot

TIMES = st.floats(min_value=1e-6, max_value=1e6)
PAIRS = st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=30)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(pairs=PAIRS, beside=PAIRS)
def test_every_mark_is_inside_and_every_error_is_counted(
    pairs: list[tuple[float, float]], beside: list[tuple[float, float]]
) -> None:
    cases = [Case(measured=x, predicted=y, names=(str(number),)) for number, (x, y) in enumerate(pairs)]
    left, right = agreement_plot("t", "s", {"one": cases}, beside={"other": beside}).axes
    (low, high), (bottom, top) = left.get_xlim(), left.get_ylim()
    assert all(low < x < high and bottom < y < top for x, y in [*pairs, *beside])
    assert sum(bar.get_height() for bar in right.patches) == len(cases)


def test_the_furthest_are_named_as_briefly_as_tells_them_apart() -> None:
    near = [Case(measured=1.0, predicted=1.01, names=("near",)) for _ in range(40)]
    far = [Case(measured=1.0, predicted=2.0 + n, names=("a" if n < 2 else f"b{n}", f"batch {n}")) for n in range(NAMED)]
    left, _ = agreement_plot("t", "s", {"near": near, "far": far}).axes
    assert [text.get_text() for text in left.texts] == ["a, batch 0", "a, batch 1", *(f"b{n}" for n in range(2, NAMED))]


def test_of_few_cases_few_are_named() -> None:
    cases = [Case(measured=1.0, predicted=1.0 + n, names=(str(n),)) for n in range(8)]
    left, _ = agreement_plot("t", "s", {"one": cases}).axes
    assert [text.get_text() for text in left.texts] == ["6", "7"]
    assert cases[1].error == pytest.approx(1.0)
