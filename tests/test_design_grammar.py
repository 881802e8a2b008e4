"""The language of constraints: reads what it should, refuses the rest in one sentence, and means what Python's arithmetic means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.design.grammar import (
    MOST_CHARACTERS,
    GrammarError,
    Number,
    amount,
    bind,
    evaluate,
    in_c,
    names_of,
    parse_condition,
    parse_number,
)
from perfmodel.errors import PerfmodelError, UnknownNameError

VARIABLES = {"a": 3.0, "b": 5.0, "c[1]": 7.0, "c[h200]": 0.5}
ATOMS = st.sampled_from(["2", "0.5", "1e3", *VARIABLES])


@st.composite
def numbers(draw: st.DrawFn, depth: int = 3) -> str:
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind <= 1:
        return draw(ATOMS)
    if kind == 2:
        return f"({draw(numbers(depth - 1))})"
    if kind == 3:
        return f"-{draw(numbers(depth - 1))}"
    if kind == 4:
        return f"{draw(st.sampled_from(['min', 'max']))}({draw(numbers(depth - 1))}, {draw(numbers(depth - 1))})"
    sign = draw(st.sampled_from(["+", "-", "*", " + ", " - "]))
    return f"{draw(numbers(depth - 1))}{sign}{draw(numbers(depth - 1))}"


def in_python(text: str) -> str:
    """The same text with Python's names for its variables."""
    return text.replace("c[1]", "c1").replace("c[h200]", "ch")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(numbers())
def test_arithmetic_means_what_it_means_in_python(text: str) -> None:
    expected = eval(in_python(text), {"min": min, "max": max}, {"a": 3.0, "b": 5.0, "c1": 7.0, "ch": 0.5})
    assert evaluate(parse_number(text), VARIABLES) == pytest.approx(expected, rel=1e-12)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(numbers(), numbers(), numbers(), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.sampled_from(["and", "or"]))
def test_conditions_mean_what_they_mean_in_python(left: str, middle: str, right: str, sign: str, joint: str) -> None:
    text = f"not {left} {sign} {middle} {joint} {left} <= {middle} < {right}"
    expected = eval(in_python(text), {"min": min, "max": max}, {"a": 3.0, "b": 5.0, "c1": 7.0, "ch": 0.5})
    assert bool(evaluate(parse_condition(text), VARIABLES)) == expected


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_whole_division_and_its_rest_are_exact(left: int, right: int) -> None:
    values = {"a": np.array([float(left)]), "b": np.array([float(right)])}
    assert evaluate(parse_number("a // b"), values)[0] == left // right
    assert evaluate(parse_number("a % b"), values)[0] == left % right


@pytest.mark.parametrize(
    "text", ["latency < 0.001", "bytes < 5M", "-latency > -1ms", "bytes / macs < 2B", "1us <= latency <= 1ms"]
)
def test_units_that_suit_or_are_none_are_accepted(text: str) -> None:
    assert names_of(parse_condition(text)) <= {"latency", "bytes", "macs"}


def test_units_are_factors() -> None:
    assert parse_number("0.1ms") == Number(0.1 * 1e-3)
    assert parse_number("2GiB") == Number(2 * 2.0**30)
    assert parse_number("4.5G") == Number(4.5e9)
    assert amount("350us", ("s",), "--latency") == pytest.approx(350e-6)
    assert amount("16 MiB", ("B",), "--memory") == 2.0**24


def test_arrays_are_evaluated_element_by_element() -> None:
    values = {"a": np.array([1.0, 2.0, 3.0]), "b": 2.0}
    assert evaluate(parse_condition("a == b or a > 2 and not b > 2"), values).tolist() == [False, True, True]
    assert evaluate(parse_number("max(a, b) - min(a, b)"), values).tolist() == [1.0, 0.0, 1.0]


def test_categories_are_compared_by_their_place() -> None:
    tree = bind(parse_condition("block == 'mbconv' or block != convfirst"), ["channels"], {"block": ("convfirst", "mbconv")})
    assert evaluate(tree, {"block": np.array([0.0, 1.0])}).tolist() == [False, True]
    assert names_of(tree) == {"block"}


def test_c_says_the_same() -> None:
    assert in_c(parse_condition("a < 2 and b != 1"), {"a": "x", "b": "y"}) == "((x < 2.0) && (y != 1.0))"
    assert in_c(parse_number("a % 2 + -b"), {"a": "x", "b": "y"}) == "((x - 2.0 * floor(x / 2.0)) + (-y))"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty text"),
        ("channels", "is not a condition"),
        ("channels >=", "a number or a name is expected at character 12"),
        ("channels > 3 4", "an operator is expected"),
        ("(channels > 3", "')' is expected"),
        ("min(channels > 3", "')' is expected"),
        ("channels > 3zz", "unknown unit 'zz'"),
        ("latency < 1MB", "stands between a duration and bytes"),
        ("latency[h200] < 1us + 2B", "stands between a duration and bytes"),
        ("bytes < max(1ms, bytes)", "stands between a duration and bytes"),
        ("channels < 2ms", "stands between a count and a duration"),
        ("channels < 1e400", "the number at character 12 is too large"),
        ("channels ; 3", "cannot be read"),
        ("__import__('os').system('true') > 0", "cannot be read"),
        ("channels[0:3] > 1", "cannot be read"),
        ("channels.real > 1", "cannot be read"),
        ("lambda: 1 > 0", "cannot be read"),
        ("(a > 1) + 2 > 3", "stands between numbers"),
        ("a and b > 2", "stands between conditions"),
        ("(" * 60 + "a > 1" + ")" * 60, "nested more than"),
        ("a > 1" + " and a > 1" * MOST_CHARACTERS, "too long"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_condition(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_condition, parse_number):
        try:
            read(text)
        except PerfmodelError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("repeats", [1, MOST_CHARACTERS // 2 - 1])
def test_long_sums_are_no_danger(repeats: int) -> None:
    tree = parse_number("1" + "+1" * repeats)
    assert evaluate(bind(tree, [], {}), {}) == 1 + repeats


@pytest.mark.parametrize(
    ("text", "said"),
    [("chanels > 3", "did you mean channels?"), ("block == 'mbcnv'", "did you mean mbconv?")],
)
def test_unknown_names_are_offered_the_nearest(text: str, said: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean") as caught:
        bind(parse_condition(text), ["channels"], {"block": ("convfirst", "mbconv")})
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["block > 3", "'mbconv' == 3", "channels == 'mbconv'"])
def test_categories_are_no_numbers(text: str) -> None:
    with pytest.raises(GrammarError):
        bind(parse_condition(text), ["channels"], {"block": ("convfirst", "mbconv")})


@pytest.mark.parametrize("text", ["5", "5 parsecs", "-5ms", "0ms", "1e999s", "ms", "5ms5"])
def test_amounts_need_their_unit(text: str) -> None:
    with pytest.raises(GrammarError, match="--latency"):
        amount(text, ("s",), "--latency")
