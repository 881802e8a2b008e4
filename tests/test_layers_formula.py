"""A formula gives the same numbers through every door: integers, symbols, arrays."""

import dataclasses
import doctest
import importlib
import math
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from perfmodel import layers
from perfmodel.layers import dims
from perfmodel.layers.activation import Activation
from perfmodel.layers.catalog import BLOCKS, CONV2D_CASES, FORMULAS, formulas_table
from perfmodel.layers.conv2d import Conv2d, conv2d_formula
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import C, H, K, N, Shape, W, b
from perfmodel.layers.graph import GraphBuilder
from perfmodel.layers.layer import Count, Formula, Weight
from tests.brute_force import examples

EVERY_FORMULA = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


def expressions(formula: Formula) -> list[sympy.Expr]:
    """The formula's expressions in the order of `numbers`."""
    weights = (weight.elements for weight in formula.weights)
    parts = (formula.macs, formula.vector_ops, formula.special_ops, *formula.reads, formula.writes, *weights)
    return [sympy.sympify(part) for part in parts]


def numbers(count: Count) -> list[object]:
    return [count.macs, count.vector_ops, count.special_ops, *count.reads, count.writes, *count.weights]


def bindings(formula: Formula, largest: int) -> st.SearchStrategy[dict[sympy.Symbol, int]]:
    return st.fixed_dictionaries({symbol: st.integers(1, largest) for symbol in formula.symbols})


@EVERY_FORMULA
@examples(15)
@given(data=st.data())
def test_integers_are_exact_whatever_their_size(formula: Formula, data: st.DataObject) -> None:
    binding = data.draw(bindings(formula, 10**12))
    got = numbers(formula.bind(binding))
    assert got == [expression.xreplace(binding) for expression in expressions(formula)]
    assert all(type(number) is int for number in got)


@EVERY_FORMULA
def test_huge_dimensions_do_not_overflow(formula: Formula) -> None:
    dimension = 10**20
    got = numbers(formula.bind(dict.fromkeys(formula.symbols, dimension)))
    assert got == [int(expression.subs(dict.fromkeys(formula.symbols, dimension))) for expression in expressions(formula)]
    assert max(got) > 2**63  # beyond what 64 bits hold


@EVERY_FORMULA
@examples(10)
@given(data=st.data())
def test_arrays_give_what_their_elements_give(formula: Formula, data: st.DataObject) -> None:
    """Half of the dimensions vary along one axis, half along the other: the result covers all combinations."""
    drawn = [(symbol, data.draw(st.lists(st.integers(1, 60), min_size=3, max_size=3))) for symbol in formula.symbols]
    shapes = {symbol: (3, 1) if place % 2 else (1, 3) for place, (symbol, _) in enumerate(drawn)}
    arrays = {symbol: np.array(values, dtype=np.int64).reshape(shapes[symbol]) for symbol, values in drawn}
    got = [np.broadcast_to(number, (3, 3)) for number in numbers(formula.bind(arrays))]
    assert all(array.dtype.kind == "i" for array in got)
    for row in range(3):
        for column in range(3):
            single = {symbol: int(np.broadcast_to(array, (3, 3))[row, column]) for symbol, array in arrays.items()}
            assert [int(array[row, column]) for array in got] == numbers(formula.bind(single))


@EVERY_FORMULA
@examples(5)
@given(data=st.data())
def test_binding_in_two_steps_is_binding_at_once(formula: Formula, data: st.DataObject) -> None:
    """Symbols for some dimensions first, numbers for them later."""
    binding = data.draw(bindings(formula, 1000))
    doubled = {symbol: 2 * symbol for symbol in formula.symbols}
    symbolic = numbers(formula.bind(doubled))
    at_once = formula.bind({symbol: 2 * value for symbol, value in binding.items()})
    assert [sympy.sympify(x).subs(binding) for x in symbolic] == numbers(at_once)


@EVERY_FORMULA
def test_cost_and_footprint_are_bytes_of_the_same_elements(formula: Formula) -> None:
    cost = formula.cost()
    weights = sum(weight.elements for weight in formula.weights)
    assert (cost.macs, cost.vector_ops, cost.special_ops) == (formula.macs, formula.vector_ops, formula.special_ops)
    assert sympy.expand(cost.dram_bytes - b * (sum(formula.reads) + weights + formula.writes)) == 0
    assert sympy.expand(formula.footprint_bytes() - b * (sum(formula.inputs) + weights + formula.writes)) == 0
    assert sympy.expand(formula.cost(4).dram_bytes - cost.dram_bytes.subs(b, 4)) == 0
    everything_read = {dims.H_r: H, dims.W_r: W}  # what exists is read if no stride skips any of it
    assert sympy.expand((formula.footprint_bytes() - cost.dram_bytes).subs(everything_read)) == 0


@EVERY_FORMULA
def test_every_symbol_is_explained(formula: Formula) -> None:
    for symbol in formula.symbols:
        assert symbol.is_integer
        assert symbol.is_positive
        assert dims.meaning(symbol)


def test_meaning_of_numbered_symbols_names_the_input() -> None:
    first, second = dims.numbered(C, 2)
    assert dims.meaning(first) == "input channels, input 1"
    assert dims.meaning(second) == "input channels, input 2"
    assert dims.meaning(C) == "input channels"


def test_a_formula_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    original = sympy.lambdify
    monkeypatch.setattr(sympy, "lambdify", lambda *args, **options: compiled.append(args) or original(*args, **options))
    formula = Formula(macs=N * C, inputs=(N,), reads=(N,), writes=C, weights=(Weight(name="weight", elements=C * N),))
    for size in range(1, 5):
        assert formula.bind({N: size, C: 3}).macs == 3 * size
    assert formula.bind({N: np.arange(4), C: 2}).macs.tolist() == [0, 2, 4, 6]
    assert len(compiled) == 1


def test_layers_of_one_kind_share_their_formula() -> None:
    narrow = Conv2d(in_channels=3, out_channels=5, kernel=(3, 3))
    wide = Conv2d(in_channels=300, out_channels=60, kernel=(1, 7), group_width=10)
    assert narrow.formula is wide.formula is conv2d_formula(bias=False)
    assert Activation(function="silu").formula is Activation(function="silu").formula


def test_conv2d_cases_are_the_convolution_with_symbols_bound() -> None:
    layers_of_case = {
        "pointwise_conv": (Conv2d(in_channels=6, out_channels=4), {C: 6, K: 4}),
        "full_conv": (Conv2d(in_channels=6, out_channels=4, kernel=(3, 5)), {C: 6, K: 4, dims.R: 3, dims.S: 5}),
        "grouped_conv": (
            Conv2d(in_channels=6, out_channels=4, kernel=(3, 5), group_width=3),
            {C: 6, K: 4, dims.R: 3, dims.S: 5, dims.g: 3},
        ),
        "depthwise_conv": (
            Conv2d(in_channels=6, out_channels=6, kernel=(3, 5), group_width=1),
            {C: 6, dims.R: 3, dims.S: 5},
        ),
    }
    assert set(layers_of_case) == set(CONV2D_CASES)
    pixels = {N: 2, H: 7, W: 5, dims.P: 7, dims.Q: 5, dims.H_r: 7, dims.W_r: 5}
    for name, (layer, sizes) in layers_of_case.items():
        count = layer.count(Shape(2, 6, 7, 5))
        case = [
            expression.subs(CONV2D_CASES[name]).subs(sizes | pixels) for expression in expressions(conv2d_formula(bias=False))
        ]
        assert case == numbers(count)


@pytest.mark.parametrize("kind", BLOCKS)
def test_symbolic_counts_of_a_block_are_its_numeric_ones(kind: str) -> None:
    """The block with symbols, numbers substituted last, against the same block built from numbers."""
    symbolic = BLOCKS[kind].symbolic()
    sizes = {C: 16, K: 16, dims.e: 4, dims.g: 8, dims.C_se: 3}
    fields = {field.name: getattr(symbolic, field.name) for field in dataclasses.fields(symbolic)}
    numeric = type(symbolic)(
        **{name: int(value.subs(sizes)) if isinstance(value, sympy.Basic) else value for name, value in fields.items()}
    )
    assert isinstance(numeric.in_channels, int)
    graphs = []
    for block, shape in (
        (symbolic, Shape(N, symbolic.in_channels, H, W)),
        (numeric, Shape(2, numeric.in_channels, 9, 7)),
    ):
        builder = GraphBuilder()
        builder.block(block, builder.input(shape), name=kind)
        graphs.append(builder.graph())
    pixels = {N: 2, H: 9, W: 7}
    for name, count in graphs[1].counts.items():
        assert [sympy.sympify(x).subs(sizes | pixels) for x in numbers(graphs[0].counts[name])] == numbers(count)
    assert sympy.sympify(graphs[0].macs).subs(sizes | pixels) == graphs[1].macs
    assert sympy.sympify(graphs[0].params).subs(sizes | pixels) == graphs[1].params


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(H, 3, 1, H), (H, 2, 2, H), (H, 1, 2, dims.P), (H, 2, 3, 2 * dims.P), (H, 7, 4, H)],
)
def test_extent_read_of_a_large_image(size: sympy.Expr, kernel: int, stride: int, expected: sympy.Expr) -> None:
    assert dims.extent_read(size, kernel, stride, kernel // 2, 1, dims.P) == expected


@examples(50)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(1, 2), st.integers(20, 40))
def test_output_size_of_symbols_arrays_and_integers(
    kernel: int, stride: int, before: int, behind: int, dilation: int, size: int
) -> None:
    window = (kernel, stride, before + behind, dilation)
    expected = len(range(-before, size + behind - dilation * (kernel - 1), stride))
    assert dims.output_size(size, *window) == expected
    assert dims.output_size(H, *window).subs(H, size) == expected
    assert dims.output_size(np.array([size, size]), *window).tolist() == [expected, expected]


@examples(100)
@given(st.integers(1, 40), st.integers(1, 40))
def test_adaptive_windows_cover_the_image_and_differ_little(size: int, outputs: int) -> None:
    windows = dims.adaptive_windows(size, outputs)
    assert len(windows) == outputs
    assert windows[0][0] == 0
    assert windows[-1][1] == size
    assert set().union(*(range(start, stop) for start, stop in windows)) == set(range(size))
    for start, stop in windows:
        assert math.floor(size / outputs) <= stop - start <= math.floor(size / outputs) + 2
        assert stop > start
    if size % outputs == 0:
        assert {stop - start for start, stop in windows} == {size // outputs}


def test_the_page_of_formulas_is_what_the_formulas_say() -> None:
    page = (Path(__file__).parents[1] / "docs" / "formulas.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- generated:formulas -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert found
    assert found[1] == formulas_table(), "docs/formulas.md is out of date: put the output of formulas_table() between its marks"


@EVERY_FORMULA
def test_the_table_reads_as_mathematics(formula: Formula) -> None:
    """Each printed cell, read back, is the formula."""
    name = next(name for name, known in FORMULAS.items() if known is formula)
    row = next(line for line in formulas_table().splitlines() if line.startswith(f"| `{name}` |"))
    macs, vector, special, reads, writes, weights = (cell.strip() for cell in row.split("|")[2:-1])
    named = {str(symbol): symbol for symbol in formula.symbols}
    cells = [
        macs,
        vector,
        special,
        *reads.split(", "),
        writes,
        *(part.split(" ")[1] for part in weights.split(", ") if part != "–"),
    ]
    assert [sympy.sympify(cell.replace("·", "*"), locals=named) for cell in cells] == expressions(formula)


def modules() -> list[str]:
    return [layers.__name__, *(module.name for module in pkgutil.walk_packages(layers.__path__, f"{layers.__name__}."))]


def test_every_file_of_the_layers_is_found() -> None:
    folder = Path(layers.__path__[0])
    assert len(modules()) == len(list(folder.rglob("*.py")))


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0 or name != "perfmodel.layers.graph"


def test_zero_work_costs_nothing() -> None:
    nothing = Formula(inputs=(), reads=(), writes=0)
    assert nothing.cost() == Cost()


def test_text_is_never_parsed_as_an_expression() -> None:
    with pytest.raises(sympy.SympifyError):
        dims.expression("__import__('os').getcwd()")
    assert dims.expression(3) == 3
