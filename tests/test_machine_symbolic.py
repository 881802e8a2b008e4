"""One program with symbols for its sizes: its totals, with numbers put in, are what concrete programs do."""

import itertools
import math
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import sympy

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.dims import C, C_se, H, K, N, W, e, g
from perfmodel.layers.graph import Graph
from perfmodel.layers.layer import ShapeError
from perfmodel.machine.fused import Tiling
from perfmodel.machine.interpreter import Counters
from perfmodel.machine.program import Program
from perfmodel.machine.totals import Totals, totals
from tests.reference import assert_equal, count, evaluate, graph_of, programs_of
from tests.small_networks import small_block

ROWS, COLUMNS, CHUNK = sympy.symbols("p q k", integer=True, positive=True)
WALKS = tuple(itertools.product(("tiles", "rows"), (False, True)))
"""Mode, and whether weights are resident."""


def formed(kind: str, form: str) -> Block:
    """A kind's symbolic block: as the library has it, with a stride (and so a projection or no shortcut), or with its gate."""
    block = BLOCKS[kind].symbolic()
    match form:
        case "strided":
            return replace(block, stride=2)
        case "gated":
            return replace(block, se_channels=C_se)
        case _:
            return block


def forms() -> list[tuple[str, str]]:
    """Every kind as it is, and the further forms that it has."""
    found = []
    for kind, block in BLOCKS.items():
        names = {field.name for field in fields(block)}
        found.append((kind, "plain"))
        if kind != "convnext":
            found.append((kind, "strided"))
        if "se_channels" in names and kind != "regnety":
            found.append((kind, "gated"))
    return found


@cache
def symbolic(kind: str, form: str, mode: str, resident: bool) -> tuple[Program, ...]:
    tiling = Tiling(mode=mode, rows=ROWS, columns=COLUMNS, chunk=CHUNK, resident_weights=resident)
    return programs_of(graph_of([formed(kind, form)], N, H, W), tiling)


@cache
def derived(kind: str, form: str, mode: str, resident: bool) -> tuple[Totals, ...]:
    return tuple(totals(program) for program in symbolic(kind, form, mode, resident))


def draw(random: np.random.Generator) -> dict[sympy.Symbol, int]:
    """Odd images, images smaller than a tile, whole groups: the channels are some groups, at least two; a chunk is some groups, too."""
    width = int(random.choice([1, 2, 3, 4]))

    def between(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    return {
        N: between(1, 2),
        H: between(1, 11),
        W: between(1, 9),
        C: width * between(2, 4),
        K: width * between(2, 3),
        g: width,
        e: between(1, 4),
        C_se: between(1, 4),
        ROWS: between(1, 12),
        COLUMNS: between(1, 10),
        CHUNK: width * between(1, 6),
    }


def concrete(block: Block, values: dict[sympy.Symbol, int]) -> Block:
    """The block with numbers for its symbols."""

    def number(value: Any) -> Any:
        return int(value.subs(values)) if isinstance(value, sympy.Basic) else value

    return replace(block, **{field.name: number(getattr(block, field.name)) for field in fields(block)})


def put_in(total: Totals, values: dict[sympy.Symbol, int]) -> Totals:
    known: dict[sympy.Expr, Any] = {}

    def number(expression: Any) -> int:
        found = evaluate(expression, values, known)
        assert found.denominator == 1
        return int(found)

    return Totals(
        macs=number(total.macs),
        vector_ops=number(total.vector_ops),
        special_ops=number(total.special_ops),
        loaded={name: number(expression) for name, expression in total.loaded.items()},
        stored={name: number(expression) for name, expression in total.stored.items()},
        peak_local_bytes=number(total.peak_local_bytes),
    )


def did(block: Block, values: dict[sympy.Symbol, int], mode: str, resident: bool) -> list[Counters]:
    graph = graph_of([block], values[N], values[H], values[W])
    tiling = Tiling(mode=mode, rows=values[ROWS], columns=values[COLUMNS], chunk=values[CHUNK], resident_weights=resident)
    return count(programs_of(graph, tiling))


@pytest.mark.parametrize(("kind", "form"), forms())
def test_symbolic_totals_are_what_concrete_programs_do(kind: str, form: str) -> None:
    random = np.random.default_rng([len(kind), len(form), 5])
    walks = WALKS[::3] if form == "strided" else WALKS
    cases = 0
    while cases < 5 * len(walks):
        values = draw(random)
        if form == "strided" and min(values[H], values[W]) < 2:
            continue
        mode, resident = walks[cases % len(walks)]
        counters = did(concrete(formed(kind, form), values), values, mode, resident)
        for counter, total in zip(counters, derived(kind, form, mode, resident), strict=True):
            assert_equal(counter, put_in(total, values))
        cases += 1


@pytest.mark.parametrize("kind", ["mbconv", "resnext", "regnety"])
def test_symbolic_totals_with_all_channels_before_a_grouped_convolution(kind: str) -> None:
    """Chunks of any size, not of whole groups: they end at the grouped convolution."""
    random = np.random.default_rng(len(kind))
    block = BLOCKS[kind].symbolic()
    for mode, resident in WALKS:
        how = Tiling(mode=mode, rows=ROWS, columns=COLUMNS, chunk=CHUNK, resident_weights=resident, chunk_through=False)
        together = [totals(program) for program in programs_of(graph_of([block], N, H, W), how)]
        for _ in range(6):
            values = draw(random) | {CHUNK: int(random.integers(1, 14))}
            graph = graph_of([concrete(block, values)], values[N], values[H], values[W])
            sized = replace(how, rows=values[ROWS], columns=values[COLUMNS], chunk=values[CHUNK])
            for counter, total in zip(count(programs_of(graph, sized)), together, strict=True):
                assert_equal(counter, put_in(total, values))


@pytest.mark.parametrize("kind", ["mbconv", "convfirst"])
@pytest.mark.parametrize(("mode", "resident"), WALKS)
def test_symbolic_totals_of_sizes_that_matter(kind: str, mode: str, resident: bool) -> None:
    """The smallest sizes one by one: one pixel, one row, tiles that just fit, that are one short, that are larger."""
    block = BLOCKS[kind].symbolic()
    for height, rows, columns in itertools.product((1, 2, 5), (1, 2, 5, 6), (1, 3, 4)):
        values = {N: 1, H: height, W: 3, C: 4, g: 2, e: 2, ROWS: rows, COLUMNS: columns, CHUNK: 4}
        (counter,) = did(concrete(block, values), values, mode, resident)
        assert_equal(counter, put_in(derived(kind, "plain", mode, resident)[0], values))


def test_sympys_own_substitution_agrees() -> None:
    """A few by sympy alone."""
    random = np.random.default_rng(7)
    for kind, mode in (("convfirst", "tiles"), ("mbconv", "tiles"), ("mbconv", "rows")):
        (total,), values = derived(kind, "plain", mode, False), draw(random)
        found = put_in(total, values)
        assert total.macs.subs(values) == found.macs
        assert total.loaded["input"].subs(values) == found.loaded["input"]
        assert total.peak_local_bytes.subs(values) == found.peak_local_bytes


def test_totals_are_made_of_the_blocks_symbols() -> None:
    for (kind, form), (mode, resident) in itertools.product(forms(), WALKS[:1]):
        total = derived(kind, form, mode, resident)[0]
        named = {N, H, W, C, K, g, e, C_se, ROWS, COLUMNS, CHUNK}
        for expression in (total.macs, total.vector_ops, total.peak_local_bytes, *total.loaded.values(), *total.stored.values()):
            assert sympy.sympify(expression).free_symbols <= named


def test_the_interior_of_convfirst_is_its_closed_form() -> None:
    """Per output pixel: 2eC² + RSgC MACs; a tile reads (p + 2)(q + 2) pixels for p·q."""
    (program,) = symbolic("convfirst", "plain", "tiles", True)
    inner = totals(program, interior=True)
    assert sympy.expand(inner.macs - N * H * W * (2 * e * C**2 + 9 * g * C)) == 0
    assert sympy.simplify(inner.loaded["input"] / (N * C * H * W) - (ROWS + 2) * (COLUMNS + 2) / (ROWS * COLUMNS)) == 0
    assert sympy.expand(inner.stored["b0.project"] - N * C * H * W) == 0


def test_the_interior_of_mbconv_recomputes_its_halo() -> None:
    (program,) = symbolic("mbconv", "plain", "tiles", True)
    inner = totals(program, interior=True)
    halo = (ROWS + 2) * (COLUMNS + 2) / (ROWS * COLUMNS)
    assert sympy.simplify(inner.macs / (N * H * W) - (e * C**2 * halo + 9 * g * e * C + e * C**2)) == 0


def test_depth_first_by_whole_rows_recomputes_nothing_in_symbols() -> None:
    for kind, nominal in (("mbconv", 2 * e * C**2 + 9 * g * e * C), ("convfirst", 2 * e * C**2 + 9 * g * C)):
        tiling = Tiling(mode="rows", rows=ROWS, columns=W, chunk=CHUNK, resident_weights=True)
        (program,) = programs_of(graph_of([BLOCKS[kind].symbolic()], N, H, W), tiling)
        total, random = totals(program), np.random.default_rng(len(kind))
        for _ in range(20):
            values = draw(random)
            assert evaluate(total.macs, values) == evaluate(N * H * W * nominal, values)
            assert evaluate(total.loaded["input"], values) == evaluate(N * C * H * W, values)


# -- many tilings at once


def tilings() -> tuple[Any, Any, Any]:
    rows, columns, chunk = np.meshgrid([1, 2, 3, 5, 8, 11], [1, 2, 4, 7, 9], [4, 8, 12, 40])
    return rows.ravel(), columns.ravel(), chunk.ravel()


def graphs() -> list[Graph]:
    return [graph_of([small_block(kind)], 2, 7, 6) for kind in BLOCKS]


@pytest.mark.parametrize(("mode", "resident"), WALKS)
def test_arrays_of_tilings_give_the_totals_of_each(mode: str, resident: bool) -> None:
    rows, columns, chunk = tilings()
    for graph in graphs():
        many = programs_of(graph, Tiling(mode=mode, rows=rows, columns=columns, chunk=chunk, resident_weights=resident))
        together = [totals(program) for program in many]
        for index in range(0, len(rows), 3):
            p, q, k = (int(x[index]) for x in (rows, columns, chunk))
            one = programs_of(graph, Tiling(mode=mode, rows=p, columns=q, chunk=k, resident_weights=resident))
            for program, total in zip(one, together, strict=True):
                assert pick(total, index, len(rows)) == totals(program)


def pick(total: Totals, index: int, length: int) -> Totals:
    """One of the tilings."""

    def at(value: Any) -> int:
        return int(np.broadcast_to(value, length)[index])

    return Totals(
        macs=at(total.macs),
        vector_ops=at(total.vector_ops),
        special_ops=at(total.special_ops),
        loaded={name: at(value) for name, value in total.loaded.items()},
        stored={name: at(value) for name, value in total.stored.items()},
        peak_local_bytes=at(total.peak_local_bytes),
    )


def test_large_tilings_do_not_overflow() -> None:
    """A batch of large images: more than 2³¹ of everything."""
    block = BLOCKS["mbconv"](in_channels=256, out_channels=256, hidden_channels=1024)
    graph = graph_of([block], 256, 512, 512)
    (program,) = programs_of(graph, Tiling(mode="tiles", rows=np.array([16, 512]), columns=16, chunk=64, resident_weights=False))
    (exact,) = programs_of(graph, Tiling(mode="tiles", rows=16, columns=16, chunk=64, resident_weights=False))
    assert pick(totals(program), 0, 2) == totals(exact)
    assert totals(exact).macs > 2**40
    assert math.log2(totals(exact).macs) < 63


def test_a_shape_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ShapeError, match="too small"):
        graph_of([replace(small_block("mbconv"), stride=2)], 1, 1, 1)
