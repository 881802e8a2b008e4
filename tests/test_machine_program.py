"""Small programs by hand: every rule of the machine has an error that names the statement; how programs print; what cannot fuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy

from perfmodel.errors import PerfmodelError
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import C, H, N, Shape, W
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import GlobalAveragePool, MaxPool
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.interpreter import Interpreter
from perfmodel.machine.program import (
    Allocate,
    Buffer,
    Convolve,
    Copy,
    For,
    Free,
    GlobalTensor,
    Load,
    Map,
    Node,
    Normalise,
    Program,
    ProgramError,
    Reduce,
    Region,
    Statement,
    Store,
    Zero,
)
from perfmodel.machine.span import Loop, Span, tiles, window
from perfmodel.machine.steps import FusionError
from perfmodel.machine.totals import totals
from tests.reference import check, convolve, graph_of, layers_of, programs_of
from tests.small_networks import small_block

IMAGES = Loop(counter="n", count=2, parallel=True, what="images")
CHANNELS, ROWS, COLUMNS = Span(extent=3), Span(extent=6), Span(extent=5)
ALL = Region(spans=(CHANNELS, ROWS, COLUMNS))
X = GlobalTensor(name="x", role="input", shape=(2, 3, 6, 5), element_bytes=2)
Y = GlobalTensor(name="y", role="output", shape=(2, 3, 6, 5), element_bytes=2)
VECTOR = GlobalTensor(name="v", role="weight", shape=(3,), element_bytes=2)
TILE = Buffer(name="tile", holds=ALL, element_bytes=2)
ALLOCATE = Allocate(buffer=TILE)
LOAD = Load(buffer="tile", tensor=X, region=ALL)
STORE = Store(buffer="tile", tensor=Y, region=ALL)
SILU = Map(function="silu", target="tile", region=ALL)


def per_image(*body: Node, tensors: tuple[GlobalTensor, ...] = (X, Y)) -> Program:
    return Program(name="small", tensors=tensors, body=(For(loop=IMAGES, body=body),))


def run(program: Program, *, local_bytes: int | None = None, **given: Any) -> dict[str, Any]:
    needed = [t for t in program.tensors if t.role in ("input", "weight")]
    tensors = {t.name: np.arange(np.prod(t.shape), dtype=float).reshape(t.shape) for t in needed}
    return Interpreter(program, {**tensors, **given}, local_bytes=local_bytes).run()


def refuses(program: Program, statement: Statement, what: str, **options: Any) -> None:
    """The interpreter stops at that statement, names it and says why."""
    with pytest.raises(ProgramError, match=re.escape(f"program small: '{statement.text()}' {what}")):
        run(program, **options)


def mistyped(program: Program, statement: Statement, what: str) -> None:
    """The same, found before the program runs: the words are a pattern."""
    with pytest.raises(ProgramError, match=re.escape(f"program small: '{statement.text()}' ") + f".*{what}"):
        run(program)


ONCE = Loop(counter="k", count=1, parallel=False, what="once")


def first(extent: int, count: int) -> Span:
    """The first places of an axis, in the loop ONCE."""
    return Span(extent=extent, loop=ONCE, slope=count, hi_offset=count, reach=max(count, extent))


def once(*body: Node) -> For:
    return For(loop=ONCE, body=body)


def test_a_program_by_hand() -> None:
    """x is loaded, doubled and stored: 90 elements each of two images."""
    double = Map(function="add", target="tile", region=ALL, operand="tile")
    program = per_image(ALLOCATE, LOAD, double, STORE)
    interpreter = Interpreter(program, {"x": np.full((2, 3, 6, 5), 1.5)}, local_bytes=180)
    np.testing.assert_array_equal(interpreter.run()["y"], np.full((2, 3, 6, 5), 3.0))
    assert vars(interpreter.counters) == {
        "macs": 0,
        "vector_ops": 180,
        "special_ops": 0,
        "loaded": {"x": 180},
        "stored": {"y": 180},
        "peak_local_bytes": 180,
    }
    assert [(len(loops), statement) for loops, statement in program.statements()] == [
        (1, ALLOCATE),
        (1, LOAD),
        (1, double),
        (1, STORE),
    ]


# -- reading and writing local memory


def test_reading_what_was_not_written() -> None:
    refuses(per_image(ALLOCATE, STORE), STORE, "reads a part of tile that was not written")
    refuses(per_image(ALLOCATE, SILU), SILU, "reads a part of tile that was not written")


def test_reading_more_than_was_written() -> None:
    half = replace(LOAD, region=Region(spans=(CHANNELS, ROWS, first(5, 2))))
    refuses(per_image(ALLOCATE, once(half), STORE), STORE, "reads a part of tile that was not written")


def test_what_a_turn_held_is_not_held_after_it() -> None:
    """Buffers of a turn are given back at its end."""
    refuses(per_image(once(ALLOCATE, LOAD), SILU), SILU, "uses tile, which is not allocated")


@pytest.mark.parametrize(
    "statement",
    [
        LOAD,
        STORE,
        SILU,
        Free(buffer="tile"),
        Zero(buffer="tile", region=ALL),
        Copy(target="tile", source="other", region=ALL),
        Reduce(target="sum", source="tile", region=ALL),
        Normalise(target="tile", region=ALL, weight="w", bias="b"),
    ],
    ids=lambda statement: type(statement).__name__,
)
def test_unknown_buffers(statement: Statement) -> None:
    refuses(per_image(statement), statement, "uses")
    with pytest.raises(ProgramError, match=r"uses (tile|other|sum|w), which is not allocated"):
        run(per_image(statement))


def test_unknown_operands() -> None:
    for function, operand in (("bias", "v"), ("scale", "v"), ("add", "other"), ("gate", "other")):
        statement = Map(function=function, target="tile", region=ALL, operand=operand)
        refuses(per_image(ALLOCATE, LOAD, statement), statement, f"uses {operand}, which is not allocated")


def test_a_buffer_that_was_given_back() -> None:
    refuses(per_image(ALLOCATE, LOAD, Free(buffer="tile"), STORE), STORE, "uses tile, which is not allocated")
    free = Free(buffer="tile")
    refuses(per_image(ALLOCATE, free, free), free, "uses tile, which is not allocated")


def test_a_buffer_twice() -> None:
    refuses(per_image(ALLOCATE, ALLOCATE), ALLOCATE, "sets aside what is already held")


def test_buffers_of_other_sizes() -> None:
    """An axis shorter than the region, and fewer axes."""
    short = Allocate(buffer=replace(TILE, holds=Region(spans=(CHANNELS, Span(extent=4), COLUMNS))))
    mistyped(per_image(short, LOAD), LOAD, "axis 1 of tile")
    flat = Allocate(buffer=replace(TILE, holds=Region(spans=(CHANNELS, ROWS))))
    mistyped(per_image(flat, LOAD), LOAD, "tile .* axes")


def test_operands_of_other_sizes() -> None:
    vector = Allocate(buffer=Buffer(name="v", holds=Region(spans=(Span(extent=2),)), element_bytes=2))
    bias = Map(function="bias", target="tile", region=ALL, operand="v")
    mistyped(per_image(ALLOCATE, LOAD, vector, bias), bias, "axis 0 of v")


def walk(tile: int = 2) -> tuple[Loop, Span]:
    return tiles("i", 6, tile, parallel=False, what="groups of rows")


def test_more_than_a_buffer_can_hold_at_once() -> None:
    loop, rows = walk()
    wide = window(rows, kernel=3, stride=1, padding_before=1, dilation=1, extent=6)
    buffer = Allocate(buffer=replace(TILE, holds=Region(spans=(CHANNELS, rows, COLUMNS))))
    load = Load(buffer="tile", tensor=X, region=Region(spans=(CHANNELS, wide, COLUMNS)))
    refuses(per_image(For(loop=loop, body=(buffer, load))), load, "tile holds at most 2 along axis 1, not 3")


@pytest.mark.parametrize("kept", [2, 3, 4, 6])
def test_a_ring_keeps_its_newest_rows(kept: int) -> None:
    """Windows of four rows that advance by two, of rows that are loaded two at a time: a ring of four is just enough."""
    loop, rows = walk()
    new = replace(rows, rolling=True)
    older = replace(rows, lo_offset=-2)
    ring = Buffer(
        name="ring", holds=Region(spans=(CHANNELS, replace(rows, lo_offset=2 - kept), COLUMNS)), element_bytes=2, ring=True
    )
    load = Load(buffer="ring", tensor=X, region=Region(spans=(CHANNELS, new, COLUMNS)))
    result = Buffer(name="tile", holds=Region(spans=(CHANNELS, older, COLUMNS)), element_bytes=2)
    copy = Copy(target="tile", source="ring", region=Region(spans=(CHANNELS, older, COLUMNS)))
    store = Store(buffer="tile", tensor=Y, region=load.region)
    turn = For(loop=loop, body=(load, Allocate(buffer=result), copy, store))
    program = per_image(Allocate(buffer=ring), turn)
    if kept < 4:
        refuses(program, copy, "reads a part of ring that was not written, or is no longer held")
    else:
        np.testing.assert_array_equal(run(program)["y"], np.arange(180.0).reshape(2, 3, 6, 5))
    assert totals(program).loaded == {"x": 180}


# -- local memory


def test_more_than_local_memory() -> None:
    program = per_image(ALLOCATE, LOAD, STORE)
    run(program, local_bytes=180)
    refuses(program, ALLOCATE, "needs 180 bytes of local memory in all, but the machine has 179", local_bytes=179)


def test_what_was_given_back_makes_room() -> None:
    second = Allocate(buffer=replace(TILE, name="second"))
    program = per_image(ALLOCATE, LOAD, STORE, Free(buffer="tile"), second)
    run(program, local_bytes=180)
    assert totals(program).peak_local_bytes == 180
    both = per_image(ALLOCATE, LOAD, STORE, second)
    refuses(both, second, "needs 360 bytes of local memory in all, but the machine has 359", local_bytes=359)
    assert totals(both).peak_local_bytes == 360


# -- global memory


def test_outside_of_a_tensor() -> None:
    region = Region(spans=(CHANNELS, first(6, 7), COLUMNS))
    load, store = replace(LOAD, region=region), replace(STORE, region=region)
    refuses(per_image(ALLOCATE, once(load)), load, "reaches 7 on an axis of x that has 6")
    refuses(per_image(ALLOCATE, LOAD, once(store)), store, "reaches 7 along axis 1 of tile, which has 6")


def test_regions_of_a_larger_tensor() -> None:
    region = Region(spans=(CHANNELS, Span(extent=7), COLUMNS))
    buffer = Allocate(buffer=replace(TILE, holds=region))
    load, zero, store = replace(LOAD, region=region), Zero(buffer="tile", region=region), replace(STORE, region=region)
    mistyped(per_image(buffer, load), load, "axis 1 of x")
    mistyped(per_image(buffer, zero, store), store, "axis 1 of y")


def test_other_axes_than_a_tensor_has() -> None:
    load = Load(buffer="tile", tensor=X, region=Region(spans=(CHANNELS, ROWS)))
    mistyped(per_image(ALLOCATE, load), load, "x .* axes")


def convolution(weighted: Conv2d, **fields: Any) -> tuple[Program, Convolve]:
    """All of x convolved into y at once, with weights for the layer `weighted`; `fields` change the statement."""
    weight = GlobalTensor(name="w", role="weight", shape=(3, weighted.group_width, *weighted.kernel), element_bytes=2)
    sizes = Region(spans=tuple(Span(extent=size) for size in weight.shape))
    held = Allocate(buffer=Buffer(name="weight", holds=sizes, element_bytes=2))
    statement = Convolve(target="out", source="tile", weight="weight", layer=weighted, region=ALL, source_extents=(6, 5))
    statement = replace(statement, **fields)
    body = (ALLOCATE, LOAD, held, Load(buffer="weight", tensor=weight, region=sizes), Allocate(buffer=replace(TILE, name="out")))
    return per_image(*body, statement, replace(STORE, buffer="out"), tensors=(X, weight, Y)), statement


def test_a_convolution_by_hand() -> None:
    layer = Conv2d(in_channels=3, out_channels=3, kernel=(3, 3), group_width=1)
    program, _ = convolution(layer)
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=X.shape), draw.normal(size=(3, 1, 3, 3))
    np.testing.assert_allclose(run(program, x=x, w=w)["y"], convolve(x, w, layer), atol=1e-12)
    assert totals(program).macs == 2 * 3 * 6 * 5 * 9


def test_badly_typed_convolutions() -> None:
    depthwise = Conv2d(in_channels=3, out_channels=3, kernel=(3, 3), group_width=1)
    for fields, what in (
        ({"layer": replace(depthwise, kernel=(5, 3))}, "axis 2 of weight"),
        ({"layer": Conv2d(in_channels=3, out_channels=3, kernel=(3, 3))}, "axis 1 of weight"),
        ({"layer": Conv2d(in_channels=6, out_channels=6, kernel=(3, 3), group_width=1)}, "outputs of out"),
        ({"source_extents": (7, 5)}, "axis 1 of tile"),
        ({"inputs": CHANNELS}, "sums over part of the inputs of a convolution that has groups"),
        ({"weight": "tile"}, "tile .* axes"),
    ):
        program, statement = convolution(depthwise, **fields)
        mistyped(program, statement, what)


def test_storing_twice() -> None:
    refuses(per_image(ALLOCATE, LOAD, STORE, STORE), STORE, "writes a part of y a second time")


def test_adding_up_twice_is_meant() -> None:
    add = replace(STORE, tensor=replace(Y, role="sums"), add=True)
    program = per_image(ALLOCATE, LOAD, add, add, tensors=(X, add.tensor))
    np.testing.assert_array_equal(run(program, x=np.ones((2, 3, 6, 5)))["y"], np.full((2, 3, 6, 5), 2.0))


def test_leaving_outputs_unwritten() -> None:
    half = replace(STORE, region=Region(spans=(CHANNELS, ROWS, first(5, 2))))
    with pytest.raises(ProgramError, match="program small leaves 108 elements of y unwritten"):
        run(per_image(ALLOCATE, LOAD, once(half)))


def test_reading_an_output_or_writing_an_input() -> None:
    load = replace(LOAD, tensor=Y)
    refuses(per_image(ALLOCATE, LOAD, STORE, load), load, "reads y, which this program writes")
    store = replace(STORE, tensor=X)
    refuses(per_image(ALLOCATE, LOAD, store), store, "writes x, which is given")


def test_tensors_that_the_program_does_not_declare() -> None:
    refuses(per_image(ALLOCATE, LOAD, tensors=(Y,)), LOAD, "uses x, which is no tensor of the program")
    refuses(per_image(ALLOCATE, LOAD, STORE, tensors=(X,)), STORE, "uses y, which is no tensor of the program")


def test_missing_tensors_and_tensors_of_another_shape() -> None:
    program = per_image(ALLOCATE, LOAD, STORE)
    with pytest.raises(ProgramError, match=re.escape("program small needs the tensor x (2, 3, 6, 5)")):
        Interpreter(program, {}).run()
    with pytest.raises(ProgramError, match=re.escape("x is (2, 3, 5, 6), but the program's is (2, 3, 6, 5)")):
        run(program, x=np.zeros((2, 3, 5, 6)))


def test_activations_need_a_loop_over_images() -> None:
    program = Program(name="small", tensors=(X, Y), body=(ALLOCATE, LOAD))
    with pytest.raises(ProgramError, match="no loop over images"):
        run(program)


def test_unknown_functions() -> None:
    statement = Map(function="frobnicate", target="tile", region=ALL)
    refuses(per_image(ALLOCATE, LOAD, statement), statement, "has no function frobnicate")
    with pytest.raises(PerfmodelError, match="frobnicate"):
        totals(per_image(ALLOCATE, LOAD, statement))


# -- totals


def test_a_loop_that_is_not_around_the_statement() -> None:
    loop, rows = walk()
    load = replace(LOAD, region=Region(spans=(CHANNELS, rows, COLUMNS)))
    program = per_image(ALLOCATE, For(loop=loop, body=()), load)
    refuses(program, load, "uses the loop over groups of rows outside of it")
    with pytest.raises(ProgramError, match=re.escape(f"'{load.text()}' uses the loop over groups of rows outside of it")):
        totals(program)


def test_two_spans_of_one_loop() -> None:
    loop = Loop(counter="i", count=5, parallel=False, what="the diagonal")
    one = Span(extent=5, loop=loop, slope=1, hi_offset=1, reach=5)
    load = replace(LOAD, region=Region(spans=(CHANNELS, replace(one, extent=6), one)))
    program = per_image(ALLOCATE, For(loop=loop, body=(load,)))
    with pytest.raises(ProgramError, match=re.escape(f"'{load.text()}' has two spans of the loop over the diagonal; its cost")):
        totals(program)


def test_giving_back_what_is_not_held() -> None:
    with pytest.raises(ProgramError, match="'free tile' gives back what is not held"):
        totals(per_image(Free(buffer="tile")))
    with pytest.raises(ProgramError, match="'free tile' gives back what is not held"):
        totals(per_image(once(ALLOCATE), Free(buffer="tile")))


def test_a_statement_counts_once_per_turn_of_each_loop_around_it() -> None:
    loop, rows = walk(4)
    load = replace(LOAD, region=Region(spans=(CHANNELS, rows, COLUMNS)))
    again = Loop(counter="k", count=7, parallel=False, what="again and again")
    program = per_image(For(loop=again, body=(For(loop=loop, body=(ALLOCATE, load)),)))
    assert totals(program).loaded == {"x": 2 * 7 * 3 * 6 * 5}


# -- printing


STATEMENTS: dict[type, tuple[Statement, str]] = {
    Allocate: (ALLOCATE, "tile = buffer [3×6×5] of 2 bytes"),
    Free: (Free(buffer="tile"), "free tile"),
    Load: (LOAD, "tile = load x[n, :, :, :]"),
    Store: (STORE, "store y[n, :, :, :] = tile"),
    Zero: (Zero(buffer="tile", region=ALL), "tile[:, :, :] = 0"),
    Convolve: (
        Convolve(
            target="t",
            source="s",
            weight="w",
            layer=Conv2d(in_channels=8, out_channels=8, kernel=(3, 5), stride=(2, 2), group_width=4),
            region=ALL,
            source_extents=(6, 5),
        ),
        "t[:, :, :] = conv3×5(s, w, stride 2, groups of 4)",
    ),
    Map: (SILU, "tile[:, :, :] = silu(tile)"),
    Copy: (Copy(target="a", source="b", region=ALL), "a[:, :, :] = b"),
    Normalise: (Normalise(target="t", region=ALL, weight="w", bias="b"), "t[:, :, :] = layer_norm(t, w, b)"),
    Reduce: (Reduce(target="t", source="s", region=ALL), "t = sum over pixels of s[:, :, :]"),
}


def test_every_statement_has_text() -> None:
    assert set(STATEMENTS) == set(Statement.__args__)
    for statement, text in STATEMENTS.values():
        assert statement.text() == text


def test_further_texts() -> None:
    def mapped(function: str) -> str:
        return Map(function=function, target="t", region=Region(spans=(CHANNELS,)), operand="o", divisor=30).text()

    assert [mapped(function) for function in ("bias", "add", "scale", "gate", "divide")] == [
        "t[:] += o",
        "t[:] += o",
        "t[:] *= o",
        "t[:] *= o",
        "t[:] /= 30",
    ]
    assert replace(STORE, add=True).text() == "store y[n, :, :, :] += tile"
    assert Load(buffer="b", tensor=VECTOR, region=Region(spans=(CHANNELS,))).text() == "b = load v[:]"
    assert Allocate(buffer=replace(TILE, ring=True)).text() == "tile = ring buffer [3×6×5] of 2 bytes"
    pointwise = replace(STATEMENTS[Convolve][0], layer=Conv2d(in_channels=3, out_channels=3), inputs=CHANNELS)
    assert pointwise.text() == "t[:, :, :] += matmul(s[:], w)"


CONVFIRST = BLOCKS["convfirst"](in_channels=8, out_channels=8, hidden_channels=32, group_width=4)
MBCONV = BLOCKS["mbconv"](in_channels=8, out_channels=8, hidden_channels=32, group_width=4)
BY_TILES = Tiling(mode="tiles", rows=4, columns=6, chunk=8, resident_weights=False)


def printed(block: Any, tiling: Tiling, *sizes: Any) -> list[str]:
    (program,) = programs_of(graph_of([block], *(sizes or (2, 32, 30))), tiling)
    return str(program).splitlines()


def test_convfirst_prints_as_pseudo_code() -> None:
    assert printed(CONVFIRST, BY_TILES) == [
        "program block(input[2, 8, 32, 30], b0.project[2, 8, 32, 30])",
        "  # tiles of 4×6; channels in chunks of 8; weights loaded for each tile",
        "  parallel for n in 0 … 2−1:  # images",
        "    parallel for i in 0 … 8−1:  # tiles of rows",
        "      parallel for j in 0 … 5−1:  # tiles of columns",
        "        input_tile = buffer [8×6×8] of 2 bytes",
        "        input_tile = load input[n, :, 4·i−1 : 4·i+5, 6·j−1 : 6·j+7]",
        "        spatial_tile = buffer [8×4×6] of 2 bytes",
        "        for h in 0 … 1−1:  # chunks of channels",
        "          spatial_weight = buffer [8×4×3×3] of 2 bytes",
        "          spatial_weight = load b0.spatial.weight[8·h : 8·h+8, :, :, :]",
        "          spatial_tile[8·h : 8·h+8, 4·i : 4·i+4, 6·j : 6·j+6] = conv3×3(input_tile, spatial_weight, groups of 4)",
        "          spatial_bias = buffer [8] of 2 bytes",
        "          spatial_bias = load b0.spatial.bias[8·h : 8·h+8]",
        "          spatial_tile[8·h : 8·h+8, 4·i : 4·i+4, 6·j : 6·j+6] += spatial_bias",
        "        project_tile_sum = buffer [8×4×6] of 4 bytes",
        "        project_tile_sum[:, 4·i : 4·i+4, 6·j : 6·j+6] = 0",
        "        for h in 0 … 4−1:  # chunks of channels",
        "          expand_tile_chunk = buffer [8×4×6] of 2 bytes",
        "          expand_weight = buffer [8×8×1×1] of 2 bytes",
        "          expand_weight = load b0.expand.weight[8·h : 8·h+8, :, :, :]",
        "          expand_tile_chunk[8·h : 8·h+8, 4·i : 4·i+4, 6·j : 6·j+6] = matmul(spatial_tile, expand_weight)",
        "          expand_bias = buffer [8] of 2 bytes",
        "          expand_bias = load b0.expand.bias[8·h : 8·h+8]",
        "          expand_tile_chunk[8·h : 8·h+8, 4·i : 4·i+4, 6·j : 6·j+6] += expand_bias",
        "          expand_tile_chunk[8·h : 8·h+8, 4·i : 4·i+4, 6·j : 6·j+6] = silu(expand_tile_chunk)",
        "          project_weight = buffer [8×8×1×1] of 2 bytes",
        "          project_weight = load b0.project.weight[:, 8·h : 8·h+8, :, :]",
        "          project_tile_sum[:, 4·i : 4·i+4, 6·j : 6·j+6] += matmul(expand_tile_chunk[8·h : 8·h+8], project_weight)",
        "        project_bias = buffer [8] of 2 bytes",
        "        project_bias = load b0.project.bias[:]",
        "        project_tile_sum[:, 4·i : 4·i+4, 6·j : 6·j+6] += project_bias",
        "        project_tile_sum[:, 4·i : 4·i+4, 6·j : 6·j+6] += input_tile",
        "        store b0.project[n, :, 4·i : 4·i+4, 6·j : 6·j+6] = project_tile_sum",
        "        free spatial_tile",
        "        free input_tile",
    ]


def test_mbconv_prints_as_pseudo_code() -> None:
    lines = [line.strip() for line in printed(MBCONV, BY_TILES)]
    order = [
        "input_tile = load input[n, :, 4·i−1 : 4·i+5, 6·j−1 : 6·j+7]",
        "for h in 0 … 4−1:  # chunks of channels",
        "expand_tile_chunk = buffer [8×6×8] of 2 bytes",
        "expand_tile_chunk[8·h : 8·h+8, 4·i−1 : 4·i+5, 6·j−1 : 6·j+7] = matmul(input_tile, expand_weight)",
        "spatial_tile_chunk[8·h : 8·h+8, 4·i : 4·i+4, 6·j : 6·j+6] = conv3×3(expand_tile_chunk, spatial_weight, groups of 4)",
        "project_tile_sum[:, 4·i : 4·i+4, 6·j : 6·j+6] += matmul(spatial_tile_chunk[8·h : 8·h+8], project_weight)",
        "store b0.project[n, :, 4·i : 4·i+4, 6·j : 6·j+6] = project_tile_sum",
    ]
    places = [lines.index(line) for line in order]
    assert places == sorted(places)


def test_depth_first_prints_its_rings() -> None:
    tiling = Tiling(mode="rows", rows=2, columns=30, chunk=8, resident_weights=True)
    lines = [line.strip() for line in printed(MBCONV, tiling)]
    order = [
        "# depth first, strips of 30 columns, 2 rows at a time; channels in chunks of 8; weights resident",
        "expand_weight = load b0.expand.weight[:, :, :, :]",
        "expand_tile = ring buffer [32×4×30] of 2 bytes",
        "for i in 0 … 16−1:  # groups of rows",
        "input_tile = load input[n, :, up to 2·i+3, 30·j−1 : 30·j+31]",
        "store b0.project[n, :, up to 2·i+2, 30·j : 30·j+30] = project_tile_sum",
    ]
    places = [lines.index(line) for line in order]
    assert places == sorted(places)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("mode", ["tiles", "rows"])
def test_printing_is_the_same_every_time(kind: str, mode: str) -> None:
    tiling = replace(BY_TILES, mode=mode)
    first, second = (programs_of(graph_of([small_block(kind)], 1, 9, 9), tiling) for _ in range(2))
    for program, again in zip(first, second, strict=True):
        text = str(program)
        assert text == str(again)
        assert text.endswith("\n")
        assert max(map(len, text.splitlines())) < 160
        shown = [line.strip() for line in text.splitlines()]
        assert all(statement.text() in shown for _, statement in program.statements())


def test_symbols_print_as_symbols() -> None:
    block = BLOCKS["convfirst"].symbolic()
    p, q, k = sympy.symbols("p q k", integer=True, positive=True)
    tiling = Tiling(mode="tiles", rows=p, columns=q, chunk=k, resident_weights=True)
    lines = [line.strip() for line in printed(block, tiling, N, H, W)]
    assert lines[0] == "program block(input[N, C, H, W], b0.project[N, C, H, W])"
    assert lines[1] == "# tiles of p×q; channels in chunks of k; weights resident"
    assert "input_tile = load input[n, :, p·i−1 : p·i+p + 1, q·j−1 : q·j+q + 1]" in lines
    assert C in block.in_channels.free_symbols


# -- what has no fused form


def refused(build: Callable[[GraphBuilder, Tensor], object], message: str) -> None:
    for mode in ("tiles", "rows"):
        builder = GraphBuilder()
        build(builder, builder.input(Shape(1, 8, 6, 6)))
        graph = builder.graph()
        tiling = Tiling(mode=mode, rows=2, columns=2, chunk=8, resident_weights=False)
        with pytest.raises(FusionError, match=message):
            fused_programs(graph, layers_of(graph), tiling, element_bytes=2, name="part")


def mean(builder: GraphBuilder, x: Tensor) -> Tensor:
    return builder.add(GlobalAveragePool(), x, name="mean")


def test_layers_without_a_fused_form() -> None:
    def pool(b: GraphBuilder, x: Tensor) -> None:
        b.add(MaxPool(kernel=(2, 2), stride=(2, 2)), b.conv(x, 8), name="pool")

    def concat(b: GraphBuilder, x: Tensor) -> None:
        b.add(Concat(inputs=2), b.conv(x, 8), x, name="cat")

    refused(pool, r"layer pool \(max_pool\) has no fused form; leave it on schedule layer")
    refused(concat, r"layer cat \(concat\) has no fused form; leave it on schedule layer")


def test_norms_that_cannot_fold() -> None:
    def first(b: GraphBuilder, x: Tensor) -> None:
        b.conv(b.add(BatchNorm(channels=8), x, name="bn"), 8)

    def after_activation(b: GraphBuilder, x: Tensor) -> None:
        b.add(BatchNorm(channels=8), b.activation(b.conv(x, 8), "relu"), name="bn")

    def after_bias(b: GraphBuilder, x: Tensor) -> None:
        b.add(BatchNorm(channels=8), b.conv(x, 8, bias=True), name="bn")

    def of_two_readers(b: GraphBuilder, x: Tensor) -> None:
        y = b.conv(x, 8)
        b.residual(b.add(BatchNorm(channels=8), y, name="bn"), y)

    def of_a_norm(b: GraphBuilder, x: Tensor) -> None:
        b.add(BatchNorm(channels=8), b.add(LayerNorm(channels=8), x, name="ln"), name="bn")

    for build in (first, after_activation, after_bias, of_two_readers, of_a_norm):
        refused(build, "batch norm bn does not follow a convolution that it could fold into; leave it on schedule layer")


def test_layer_norms_of_what_others_read() -> None:
    def shared(b: GraphBuilder, x: Tensor) -> None:
        y = b.conv(b.add(LayerNorm(channels=8), x, name="ln"), 8)
        b.residual(y, x)

    refused(shared, "ln normalises a tensor that others read, too")


def test_elementwise_layers_with_nothing_to_join() -> None:
    refused(lambda b, x: b.conv(b.activation(x, "relu", name="act"), 8), "layer act has no step of its own to join")
    refused(lambda b, x: b.residual(x, x, name="sum"), "layer sum has no step of its own to join")


def test_means_that_gate_nothing() -> None:
    def head(b: GraphBuilder, x: Tensor) -> None:
        b.linear(mean(b, b.conv(x, 8)), 10)

    refused(head, "part, from its mean on does not gate a tensor with its global mean; leave it on schedule layer")
    refused(mean, "part, up to its mean has no layers before its global mean")


@pytest.mark.parametrize("mode", ["tiles", "rows"])
@pytest.mark.parametrize("resident", [False, True])
def test_each_global_mean_starts_a_program(mode: str, resident: bool) -> None:
    """Squeeze-and-excitation blocks in a row: what follows one mean and leads to the next is one program."""
    blocks = [small_block("mbconv", 8, 8, 2), small_block("mbconv", 8, 12, 1), small_block("mbconv", 12, 8, 2)]
    tiling = Tiling(mode=mode, rows=2, columns=3, chunk=4, resident_weights=resident)
    checked = check(graph_of(blocks, 2, 9, 7), tiling)
    assert [program.name.removeprefix("block, ") for program, _ in checked] == [
        "up to its mean", "from its mean 1 to the next", "from its mean 2 to the next", "from its mean 3 on",
    ]  # fmt: skip
    _, second, _, _ = (program for program, _ in checked)
    assert {"b0.project.bn", "b1.expand", "b1.expand.bn"} <= second.layers


def test_a_residual_that_skips_a_mean() -> None:
    def twice(b: GraphBuilder, x: Tensor) -> None:
        for number in range(2):
            x = b.block(small_block("mbconv"), x, name=f"b{number}")

    refused(twice, "part needs b0.project after its global mean, but it is not in global memory then")


def test_products_that_are_no_gates() -> None:
    def square(b: GraphBuilder, x: Tensor) -> None:
        y = b.conv(x, 8)
        b.conv(b.multiply(y, y), 8, name="last")

    def at_the_end(b: GraphBuilder, x: Tensor) -> None:
        squeeze_excitation(b, b.conv(x, 8), 2, activation="relu")

    def read_twice(b: GraphBuilder, x: Tensor) -> None:
        y = squeeze_excitation(b, b.conv(x, 8), 2, activation="relu")
        b.residual(b.conv(y, 8, name="last"), y)

    refused(square, "last is gated by conv, which no global mean makes")
    refused(at_the_end, "layer se.mul .* does not gate a convolution alone")
    refused(read_twice, "layer se.mul .* does not gate a convolution alone")


def test_a_tensor_that_is_read_gated_and_as_it_is() -> None:
    def build(b: GraphBuilder, x: Tensor) -> None:
        y = b.conv(x, 8)
        b.residual(b.conv(squeeze_excitation(b, y, 2, activation="relu"), 8, name="last"), y)

    refused(build, "conv is read both gated and as it is")


@pytest.mark.parametrize("layer", ["depthwise", "full", "norm"])
def test_gates_before_other_than_pointwise_convolutions(layer: str) -> None:
    def build(b: GraphBuilder, x: Tensor) -> None:
        y = squeeze_excitation(b, b.conv(x, 8), 2, activation="relu")
        if layer == "norm":
            b.add(LayerNorm(channels=8), y, name="last")
        else:
            b.conv(y, 8, kernel=3, group_width=1 if layer == "depthwise" else None, name="last")

    refused(build, "layer last reads a gated tensor but is no 1×1 convolution")


def test_what_is_needed_after_the_mean_must_be_in_global_memory() -> None:
    def shortcut(b: GraphBuilder, x: Tensor) -> None:
        for number, kind in enumerate(("basic", "regnety")):
            x = b.block(small_block(kind), x, name=f"b{number}")

    def mean_of_an_earlier(b: GraphBuilder, x: Tensor) -> None:
        early = b.conv(x, 8, name="early")
        late = b.conv(early, 8, name="late")
        b.conv(b.multiply(late, b.conv(mean(b, early), 8, name="gate")), 8, name="last")

    refused(shortcut, "part needs b0.conv2 after its global mean, but it is not in global memory then")
    refused(mean_of_an_earlier, "part needs early.sums after its global mean")


def test_two_results() -> None:
    def build(b: GraphBuilder, x: Tensor) -> None:
        b.conv(x, 8, name="left")
        b.conv(x, 8, name="right")

    refused(build, "part has two results, left and right")


def test_branches_of_different_strides() -> None:
    """Both 1×1: strides 2 and 3 leave two of four rows."""
    builder = GraphBuilder()
    x = builder.input(Shape(1, 8, 4, 4))
    builder.residual(builder.conv(x, 8, stride=2, name="two"), builder.conv(x, 8, stride=3, name="three"))
    with pytest.raises(FusionError, match="input in part is read by branches of different strides"):
        fused_programs(builder.graph(), layers_of(builder.graph()), BY_TILES, element_bytes=2, name="part")


def test_no_layers() -> None:
    with pytest.raises(FusionError, match="has no layers"):
        fused_programs(graph_of([CONVFIRST], 1, 4, 4), [], BY_TILES, element_bytes=2)


@pytest.mark.parametrize("mode", ["tiles", "rows"])
def test_an_accumulator_between_two_blocks_becomes_a_tile_and_is_given_back(mode: str) -> None:
    (program,) = programs_of(graph_of([CONVFIRST, CONVFIRST], 1, 9, 9), replace(BY_TILES, mode=mode))
    statements = [statement for _, statement in program.statements()]
    (place,) = [index for index, statement in enumerate(statements) if isinstance(statement, Copy)]
    copy = statements[place]
    assert isinstance(copy, Copy)
    assert statements[place + 1] == Free(buffer=copy.source)
    sizes = {s.buffer.name: s.buffer.element_bytes for s in statements if isinstance(s, Allocate)}
    assert (sizes[copy.source], sizes[copy.target]) == (4, 2)
