"""Numbers as people read and write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfmodelError
from perfmodel.units import percent, seconds, si


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.8e12, "B/s", "4.80 TB/s"),
        (0.00181, "s", "1.81 ms"),
        (0, "B", "0 B"),
        (999.6e3, "B", "1.00 MB"),
        (999.4e3, "B", "999 kB"),
        (12.34e-6, "s", "12.3 µs"),
        (1, "", "1.00 "),
        (-2.5e3, "x", "-2.50 kx"),
        (3e-12, "s", "0.00300 ns"),
        (1e300, "s", "1.00e+300 s"),
        (-1e22, "B", "-1.00e+22 B"),
        (1e-300, "s", "1.00e-300 s"),
    ],
)
def test_prefixes(value: float, unit: str, text: str) -> None:
    assert si(value, unit) == text


@settings(derandomize=True, deadline=None)
@given(st.floats(1e-9, 1e18))
def test_a_shown_number_reads_back_within_half_of_its_last_digit(value: float) -> None:
    scale = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9}
    number, _, prefix = si(value, "").partition(" ")
    assert float(number) * scale[prefix] == pytest.approx(value, rel=0.0051)


def test_percent() -> None:
    assert percent(0.5841) == "58.4 %"
    assert percent(1) == "100 %"
    assert percent(0) == "0.0 %"
    assert percent(-0.0004) == "0.0 %"
    assert percent(-0.5841) == "-58.4 %"


@pytest.mark.parametrize(
    ("text", "value"), [("2ms", 2e-3), ("350 us", 350e-6), ("0.1s", 0.1), ("1e3ns", 1e-6), ("5µs", 5e-6), (" 1.5 ms ", 1.5e-3)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "2", "ms", "-2ms", "0ms", "nan s", "2 m", "2ms2", "1e999s", "infs", "２ms"])
def test_what_is_not_a_duration_is_said(text: str) -> None:
    with pytest.raises(PerfmodelError):
        seconds(text)
