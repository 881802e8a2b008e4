"""Fused programs run: what they store is what the layers compute, and what they do is what was derived, to the last element."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder, Tensor
from perfmodel.layers.layer import ShapeError
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.interpreter import FUNCTIONS, Interpreter
from perfmodel.machine.program import Allocate, For, Load, Node, ProgramError, Region, Store
from perfmodel.machine.steps import FUSED_ACTIVATIONS, FusionError
from tests.brute_force import examples
from tests.reference import activate, check, count, graph_of, programs_of

FIELDS: dict[str, dict[str, list[Any]]] = {
    "basic": {},
    "bottleneck": {"hidden_channels": [4], "se_channels": [None, 2]},
    "resnext": {"hidden_channels": [8], "group_width": [2, 4], "se_channels": [None, 3]},
    "regnety": {"hidden_channels": [8], "group_width": [4, 1], "se_channels": [2]},
    "mbconv": {"hidden_channels": [16], "group_width": [1, 4], "kernel": [3, 5], "se_channels": [None, 2]},
    "depthwise_separable": {"hidden_channels": [8], "kernel": [3, 5], "se_channels": [None, 2]},
    "fused_mbconv": {"hidden_channels": [16], "kernel": [3, 5], "se_channels": [None, 2]},
    "conv_residual": {"kernel": [3, 5]},
    "convfirst": {"hidden_channels": [16], "group_width": [1, 4], "kernel": [3, 5]},
    "convnext": {"hidden_channels": [16], "kernel": [7, 3]},
}
"""What each kind of block is tried with."""

MODES = ("tiles", "rows")
TILED = Tiling(mode="tiles", rows=2, columns=2, chunk=8, resident_weights=False)
ACTIVATIONS = ("relu", "relu6", "silu", "hard_swish", "gelu")


def blocks_of(kind: str, **fixed: Any) -> list[Block]:
    """Every combination of a kind's fields."""
    fields = {"in_channels": [8], "out_channels": [8], "stride": [1], **FIELDS[kind]} | {k: [v] for k, v in fixed.items()}
    return [BLOCKS[kind](**dict(zip(fields, values, strict=True))) for values in itertools.product(*fields.values())]


@st.composite
def any_block(draw: st.DrawFn, kind: str, in_channels: int = 8, *, gated: bool = True) -> Block:
    """A block of that kind: strides, widths, kernels, activations."""
    fields = {name: draw(st.sampled_from(values)) for name, values in FIELDS[kind].items()}
    if kind == "depthwise_separable":
        fields["hidden_channels"] = in_channels
    if kind == "regnety" and not gated:
        kind = "resnext"
    if not gated:
        fields.pop("se_channels", None)
    if kind in ("mbconv", "depthwise_separable", "fused_mbconv"):
        fields["activation"] = draw(st.sampled_from(ACTIVATIONS))
        fields["se_gate"] = draw(st.sampled_from(["sigmoid", "hard_sigmoid"]))
    same = kind == "convnext"  # which has neither stride nor another width
    return BLOCKS[kind](
        in_channels=in_channels,
        out_channels=in_channels if same else draw(st.sampled_from([in_channels, 8, 12])),
        stride=1 if same else draw(st.integers(1, 2)),
        **fields,
    )


@st.composite
def tilings(draw: st.DrawFn, most: int = 10) -> Tiling:
    """Tiles from one pixel to more than the image; chunks from a group to more than all channels.

    Chunks that run through grouped convolutions are some whole groups; others may be of any size.
    """
    through = draw(st.booleans())
    return Tiling(
        mode=draw(st.sampled_from(MODES)),
        rows=draw(st.integers(1, most)),
        columns=draw(st.integers(1, most)),
        chunk=draw(st.sampled_from([4, 8, 12, 40] if through else [1, 3, 4, 5, 8, 40])),
        resident_weights=draw(st.booleans()),
        chunk_through=through,
    )


sizes = st.integers(1, 9)


def graph_or_skip(blocks: list[Block], images: int, height: int, width: int) -> Graph:
    """Shapes that leave nothing of the image are no case."""
    try:
        return graph_of(blocks, images, height, width)
    except ShapeError:
        assume(False)
        raise


# -- blocks


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_form_of_a_block_runs_as_derived(kind: str) -> None:
    """Stride, projection, squeeze-and-excitation, groups, kernels, modes, weights: each with each."""
    forms = [(1, 8)] if kind == "convnext" else [(1, 8), (2, 8), (1, 12), (2, 12)]
    cases = 0
    for stride, out_channels in forms:
        for block in blocks_of(kind, stride=stride, out_channels=out_channels):
            graph = graph_of([block], 1, 5, 6)
            for mode, resident in itertools.product(MODES, (False, True)):
                tiling = Tiling(mode=mode, rows=2, columns=3, chunk=12, resident_weights=resident, chunk_through=cases % 3 > 0)
                check(graph, tiling, seed=cases)
                cases += 1
    assert cases >= 8


@pytest.mark.parametrize("kind", BLOCKS)
@examples(40)
@given(st.data())
def test_drawn_blocks_run_as_derived(kind: str, data: st.DataObject) -> None:
    block = data.draw(any_block(kind))
    graph = graph_or_skip([block], data.draw(st.integers(1, 2)), data.draw(sizes), data.draw(sizes))
    check(graph, data.draw(tilings()), seed=data.draw(st.integers(0, 99)))


def test_an_activation_without_a_fused_form_keeps_its_block_unfused() -> None:
    assert frozenset(FUNCTIONS) >= FUSED_ACTIVATIONS
    (block,) = blocks_of("convfirst", activation="mish", kernel=3, group_width=4)
    graph = graph_of([block], 1, 4, 3)
    layers = [name for name, node in graph.nodes.items() if node.block]
    with pytest.raises(FusionError, match="has no fused form"):
        fused_programs(graph, layers, Tiling(mode="tiles", rows=2, columns=2, chunk=8, resident_weights=True), element_bytes=2)


@pytest.mark.parametrize("function", sorted(FUSED_ACTIVATIONS))
def test_every_activation_runs(function: str) -> None:
    x = np.linspace(-9, 9, 181)
    np.testing.assert_allclose(FUNCTIONS[function](x), activate(function, x), rtol=1e-9, atol=1e-12)
    (block,) = blocks_of("convfirst", activation=function, kernel=3, group_width=4)
    check(graph_of([block], 1, 4, 3), Tiling(mode="tiles", rows=2, columns=2, chunk=8, resident_weights=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_done_image_by_image(mode: str) -> None:
    (block,) = blocks_of("convfirst", kernel=3, group_width=4)
    tiling = Tiling(mode=mode, rows=2, columns=3, chunk=8, resident_weights=False)
    ((_, one),) = check(graph_of([block], 1, 5, 5), tiling)
    ((_, many),) = check(graph_of([block], 3, 5, 5), tiling)
    assert (many.macs, many.loaded["input"]) == (3 * one.macs, 3 * one.loaded["input"])
    assert many.peak_local_bytes == one.peak_local_bytes


# -- chains


@st.composite
def chains(draw: st.DrawFn, *, gated_first: bool = False) -> list[Block]:
    """Two or three blocks, each as wide as the one before it left off."""
    found: list[Block] = []
    channels = 8
    for number in range(draw(st.integers(2, 3))):
        kind = "regnety" if gated_first and number == 0 else draw(st.sampled_from(sorted(set(BLOCKS) - {"regnety"})))
        found.append(draw(any_block(kind, channels, gated=gated_first and number == 0)))
        channels = found[-1].out_channels
    return found


@examples(150)
@given(chains(), st.integers(1, 2), st.integers(1, 12), st.integers(1, 9), tilings())
def test_chains_of_blocks_run_as_derived(blocks: list[Block], images: int, height: int, width: int, tiling: Tiling) -> None:
    graph = graph_or_skip(blocks, images, height, width)
    ((program, total),) = check(graph, tiling)
    assert [t.name for t in program.tensors if t.role == "input"] == ["input"]
    assert len(total.stored) == 1
    if tiling.mode == "rows" and tiling.columns >= width:  # one strip
        assert total.loaded["input"] == graph.nodes["input"].shape.elements
        assert total.macs == graph.macs


@examples(40)
@given(chains(gated_first=True), st.integers(1, 9), st.integers(1, 9), tilings())
def test_a_chain_after_a_global_mean(blocks: list[Block], height: int, width: int, tiling: Tiling) -> None:
    check(graph_or_skip(blocks, 2, height, width), tiling)


# -- any convolutions


def convolution(draw: st.DrawFn, builder: GraphBuilder, x: Tensor, name: str) -> Tensor:
    """Any kernel, stride, dilation and padding, different along the two axes."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    group_width = draw(st.sampled_from([None, None, 1, 2, 4]))
    layer = Conv2d(
        in_channels=x.shape.C,
        out_channels=draw(st.sampled_from([x.shape.C, 4, 8] if group_width is None else [x.shape.C, 2 * x.shape.C])),
        kernel=kernel,
        stride=draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2), (3, 2)])),
        padding=tuple(draw(st.integers(0, reach[axis])) for axis in (0, 0, 1, 1)),
        dilation=dilation,
        group_width=group_width,
        bias=draw(st.booleans()),
    )
    return builder.add(layer, x, name=name)


@st.composite
def convolutions(draw: st.DrawFn) -> Graph:
    """A few convolutions with branches that meet again; sometimes gated in the midst."""
    builder = GraphBuilder()
    tensors = [builder.input(Shape(1, 4, draw(sizes), draw(sizes)))]
    try:
        for number in range(draw(st.integers(1, 4))):
            source = tensors[-1] if draw(st.integers(0, 4)) else draw(st.sampled_from(tensors))
            x = convolution(draw, builder, source, f"c{number}")
            if draw(st.booleans()):
                x = builder.activation(x, draw(st.sampled_from(ACTIVATIONS)), name=f"act{number}")
            fitting = [y for y in tensors if y.shape == x.shape]
            if fitting and draw(st.integers(0, 2)):
                x = builder.residual(x, draw(st.sampled_from(fitting)), name=f"add{number}")
            elif draw(st.integers(0, 5)) == 0:
                tensors.append(x)  # read as it is, too, by some
                x = squeeze_excitation(builder, x, 2, activation="silu", name=f"se{number}")
                x = builder.conv(x, draw(st.sampled_from([x.shape.C, 8])), name=f"after{number}")
            tensors.append(x)
    except ShapeError:
        assume(False)
    return builder.graph()


@examples(300)
@given(convolutions(), tilings(), st.integers(0, 99))
def test_any_convolutions_run_as_derived_or_are_refused(graph: Graph, tiling: Tiling, seed: int) -> None:
    try:
        programs_of(graph, tiling)
    except FusionError:
        return
    check(graph, tiling, seed)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_what_follows_a_gated_product(mode: str, kernel: int, stride: int) -> None:
    """The next convolution needs rows of the product before and behind its own, or skips some: each is loaded and gated once."""
    builder = GraphBuilder()
    x = builder.conv(builder.input(Shape(1, 8, 9, 6)), 8, name="first")
    x = builder.conv(squeeze_excitation(builder, x, 2, activation="silu"), 8, name="gated")
    builder.conv(x, 8, kernel=kernel, stride=stride, name="last")
    _, (_, total) = check(builder.graph(), Tiling(mode=mode, rows=2, columns=9, chunk=4, resident_weights=False))
    if mode == "rows":
        assert total.loaded["first"] <= 8 * 9 * 6


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_two_full_products_before_the_mean(mode: str, kernel: int) -> None:
    """The second begins chunks of its own; the first is done before it."""
    builder = GraphBuilder()
    x = builder.conv(builder.input(Shape(1, 8, 5, 6)), 16, kernel=kernel, name="a")
    x = builder.conv(x, 8, kernel=kernel, name="b")
    x = squeeze_excitation(builder, x, 2, activation="relu")
    builder.conv(x, 8, name="c")
    check(builder.graph(), Tiling(mode=mode, rows=2, columns=3, chunk=4, resident_weights=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_grouped_convolution_that_widens(mode: str) -> None:
    builder = GraphBuilder()
    x = builder.conv(builder.input(Shape(1, 8, 5, 6)), 8, name="a")
    x = builder.conv(x, 16, kernel=3, group_width=2, name="b")
    builder.conv(x, 8, name="c")
    check(builder.graph(), Tiling(mode=mode, rows=2, columns=3, chunk=4, resident_weights=False))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", [1, 2])
def test_a_ring_holds_the_rows_that_a_stride_skips(mode: str, kernel: int) -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(1, 4, 11, 7))
    left = builder.conv(x, 4, kernel=kernel, stride=3, padding=0, name="left")
    builder.residual(builder.conv(x, 4, kernel=kernel, stride=3, padding=0, name="right"), left)
    check(builder.graph(), Tiling(mode=mode, rows=1, columns=9, chunk=4, resident_weights=False))


@pytest.mark.parametrize("mode", MODES)
def test_an_activation_of_the_mean(mode: str) -> None:
    builder = GraphBuilder()
    x = builder.conv(builder.input(Shape(2, 8, 3, 4)), 8, name="first")
    mean = builder.activation(builder.add(GlobalAveragePool(), x, name="mean"), "silu")
    builder.conv(builder.multiply(x, mean), 8, name="last")
    check(builder.graph(), Tiling(mode=mode, rows=2, columns=2, chunk=4, resident_weights=False))


@pytest.mark.parametrize("mode", MODES)
def test_a_norm_first_and_a_norm_last(mode: str) -> None:
    tiling = Tiling(mode=mode, rows=2, columns=2, chunk=4, resident_weights=False)
    for first in (True, False):
        builder = GraphBuilder()
        x = builder.input(Shape(1, 8, 5, 5))
        x = builder.add(LayerNorm(channels=8), x, name="norm") if first else builder.conv(x, 8, kernel=3, name="conv")
        x = builder.conv(x, 8, name="conv") if first else builder.add(LayerNorm(channels=8), x, name="norm")
        check(builder.graph(), tiling)


# -- the machine's limits


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", BLOCKS)
def test_local_memory_is_just_enough_or_too_little(kind: str, mode: str) -> None:
    graph = graph_of(blocks_of(kind)[:1], 1, 5, 5)
    tiling = Tiling(mode=mode, rows=2, columns=3, chunk=8, resident_weights=False)
    for program, total in check(graph, tiling):
        given = {t.name: np.ones(t.shape) for t in program.tensors if t.role in ("input", "weight")}
        enough = Interpreter(program, given, local_bytes=total.peak_local_bytes)
        enough.run()
        assert enough.counters.peak_local_bytes == total.peak_local_bytes
        short = total.peak_local_bytes - 1
        with pytest.raises(ProgramError, match=f"' needs {total.peak_local_bytes} bytes of local memory in all, .* has {short}"):
            Interpreter(program, given, local_bytes=short).run()


def test_a_ring_smaller_by_one_row_is_too_small() -> None:
    """The sizes of ring buffers are tight: the program breaks with any row less."""

    def shrink(node: Node) -> Node:
        if isinstance(node, For):
            return replace(node, body=tuple(shrink(inner) for inner in node.body))
        if isinstance(node, Allocate) and node.buffer.ring:
            channels, rows, columns = node.buffer.holds.spans
            less = replace(rows, lo_offset=rows.lo_offset + 1)
            return replace(node, buffer=replace(node.buffer, holds=Region(spans=(channels, less, columns))))
        return node

    (block,) = blocks_of("convfirst", kernel=3, group_width=4)
    tiling = Tiling(mode="rows", rows=2, columns=9, chunk=8, resident_weights=True)
    (program,) = programs_of(graph_of([block], 1, 9, 9), tiling)
    assert count([program])
    smaller = replace(program, body=tuple(shrink(node) for node in program.body))
    with pytest.raises(ProgramError, match=r"no longer held|holds at most"):
        count([smaller])


# -- what a program reads and writes


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_program_declares_what_it_moves(kind: str) -> None:
    for block in blocks_of(kind):
        for program in programs_of(graph_of([block], 1, 6, 6), TILED):
            moved = {s.tensor for _, s in program.statements() if isinstance(s, Load | Store)}
            assert moved == set(program.tensors)
            stored = {s.tensor for _, s in program.statements() if isinstance(s, Store)}
            assert all(t.role == ("sums" if t.name.endswith(".sums") else "output") for t in stored)
            assert program.tensor(program.tensors[0].name) is program.tensors[0]
            with pytest.raises(ProgramError, match="has no tensor nothing"):
                program.tensor("nothing")


@pytest.mark.parametrize("kind", ["mbconv", "regnety", "depthwise_separable", "fused_mbconv", "bottleneck"])
def test_squeeze_and_excitation_splits_a_block_at_its_mean(kind: str) -> None:
    (block, *_) = blocks_of(kind, se_channels=2)
    graph = graph_of([block], 1, 6, 6)
    head, tail = programs_of(graph, TILED)
    names = {t.name: t.role for t in head.tensors}
    sums = [name for name, role in names.items() if role == "sums"]
    assert len(sums) == 1
    assert {t.name: t.role for t in tail.tensors}[sums[0]] == "input"
    assert names[sums[0].removesuffix(".sums")] == "output"
    assert head.layers | tail.layers == set(graph.nodes) - {"input"}
    assert not head.layers & tail.layers
