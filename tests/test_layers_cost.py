"""The algebra of costs."""

import dataclasses

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import UnknownNameError
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import C, H, K, N
from perfmodel.layers.element import ELEMENT_BYTES, element_bytes, promote
from tests.brute_force import examples

FIELDS = [field.name for field in dataclasses.fields(Cost)]
ADDED = [name for name in FIELDS if name != "workspace_bytes"]

numeric = st.integers(0, 10**15)
symbolic = st.builds(lambda scale, symbol: scale * symbol, st.integers(0, 9), st.sampled_from([N, C, H, K, N * C]))
numeric_costs = st.builds(Cost, **dict.fromkeys(FIELDS, numeric))
costs = st.one_of(numeric_costs, st.builds(Cost, **dict.fromkeys(FIELDS, st.one_of(numeric, symbolic))))
times = st.one_of(st.integers(0, 1000), symbolic)


def expanded(cost: Cost) -> list[sympy.Expr]:
    return [sympy.expand(sympy.sympify(getattr(cost, name))) for name in FIELDS]


def same(left: Cost, right: Cost) -> bool:
    return expanded(left) == expanded(right)


@examples(50)
@given(costs)
def test_zero_changes_nothing(cost: Cost) -> None:
    assert same(cost + Cost(), cost)
    assert same(Cost() + cost, cost)
    assert same(cost * 1, cost)
    assert same(1 * cost, cost)


@examples(50)
@given(costs, costs, costs)
def test_addition_is_commutative_and_associative(first: Cost, second: Cost, third: Cost) -> None:
    assert same(first + second, second + first)
    assert same((first + second) + third, first + (second + third))


@examples(50)
@given(costs, costs, times)
def test_repetition_distributes_over_addition(first: Cost, second: Cost, count: object) -> None:
    assert same((first + second) * count, first * count + second * count)


@examples(50)
@given(costs, times, times)
def test_repetitions_add_up_and_multiply(cost: Cost, first: object, second: object) -> None:
    assert same(cost * (first + second), cost * first + cost * second)
    assert same(cost * (first * second), (cost * first) * second)
    assert same(first * cost, cost * first)


@examples(30)
@given(st.lists(costs, min_size=1, max_size=5))
def test_sum_adds_each_field_and_keeps_the_largest_workspace(parts: list[Cost]) -> None:
    total = sum(parts)
    assert isinstance(total, Cost)
    for name in ADDED:
        expected = sum(sympy.sympify(getattr(part, name)) for part in parts)
        assert sympy.expand(getattr(total, name)) == sympy.expand(expected)
    assert sympy.sympify(total.workspace_bytes) == sympy.Max(*(part.workspace_bytes for part in parts))


@examples(30)
@given(numeric_costs, numeric_costs, st.integers(0, 1000))
def test_numbers_stay_plain_integers(first: Cost, second: Cost, count: int) -> None:
    for cost in (first + second, first * count):
        assert all(type(getattr(cost, name)) is int for name in FIELDS)
    assert (first + second).workspace_bytes == max(first.workspace_bytes, second.workspace_bytes)
    assert (first * count).workspace_bytes == first.workspace_bytes


@examples(50)
@given(costs)
def test_derived_quantities(cost: Cost) -> None:
    assert cost.ops == 2 * cost.macs
    assert cost.dram_bytes_read == cost.read_activation_bytes + cost.read_weight_bytes + cost.read_halo_bytes
    assert cost.dram_bytes_written == cost.written_activation_bytes + cost.written_weight_bytes
    assert cost.dram_bytes == cost.dram_bytes_read + cost.dram_bytes_written


def test_one_type_for_symbols_and_numbers() -> None:
    symbolic_cost = Cost(macs=N * C, read_activation_bytes=N) + Cost(macs=3, workspace_bytes=C)
    assert type(symbolic_cost) is Cost
    assert symbolic_cost == Cost(macs=N * C + 3, read_activation_bytes=N, workspace_bytes=sympy.Max(0, C))
    assert symbolic_cost.workspace_bytes == C  # a positive symbol
    assert symbolic_cost.macs.subs({N: 2, C: 5}) == (Cost(macs=10) + Cost(macs=3)).macs


def test_arrays_add_and_take_maxima_element_by_element() -> None:
    first = Cost(macs=np.array([1, 2]), written_activation_bytes=np.array([4, 4]), workspace_bytes=np.array([5, 1]))
    total = first + first * 2 + Cost(workspace_bytes=3)
    assert total.macs.tolist() == [3, 6]
    assert total.workspace_bytes.tolist() == [5, 3]
    assert total.operational_intensity.tolist() == [0.5, 1.0]


def test_operational_intensity() -> None:
    assert Cost(macs=6, read_activation_bytes=3, written_activation_bytes=1).operational_intensity == 3.0
    assert Cost(macs=C * K, read_weight_bytes=2 * C * K).operational_intensity == 1
    assert Cost().operational_intensity == 0.0


def test_a_cost_adds_to_costs_only() -> None:
    with pytest.raises(TypeError):
        Cost() + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        1 + Cost()  # type: ignore[operator]


def test_a_cost_is_frozen_and_its_fields_are_named() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cost().macs = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Cost(1)  # type: ignore[misc]


def test_element_sizes() -> None:
    assert {name: element_bytes(name) for name in ELEMENT_BYTES} == {
        "fp32": 4,
        "fp16": 2,
        "bf16": 2,
        "fp8": 1,
        "int8": 1,
        "int64": 8,
    }
    with pytest.raises(UnknownNameError, match="did you mean fp16"):
        element_bytes("fp17")


@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
def test_promotion_never_narrows(dtype: str) -> None:
    assert promote(dtype) == dtype
    for other in ELEMENT_BYTES:
        assert promote(dtype, other) == promote(other, dtype)
        assert element_bytes(promote(dtype, other)) >= max(element_bytes(dtype), element_bytes(other))


def test_promotion_follows_the_frameworks() -> None:
    assert promote("fp16", "fp32") == "fp32"
    assert promote("fp16", "bf16") == "fp32"
    assert promote("int8", "fp16") == "fp16"
