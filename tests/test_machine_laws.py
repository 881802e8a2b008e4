"""Laws of fused programs: nothing is moved less than once; depth first nothing twice; what tiles do twice is their halo."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.graph import Graph
from perfmodel.layers.layer import ShapeError
from perfmodel.machine.fused import Tiling
from perfmodel.machine.program import GlobalTensor, Program
from perfmodel.machine.totals import Totals, totals
from tests.brute_force import examples
from tests.reference import graph_of, programs_of
from tests.small_networks import small_block

SPATIAL_FIRST = ("convfirst", "convnext", "depthwise_separable", "fused_mbconv", "conv_residual")
"""Blocks whose only spatial convolution reads the input: tiles compute nothing twice."""


def tiling(mode: str = "tiles", rows: Any = 4, columns: Any = 4, chunk: Any = 8, *, resident: bool = True) -> Tiling:
    return Tiling(mode=mode, rows=rows, columns=columns, chunk=chunk, resident_weights=resident)


def costs(graph: Graph, how: Tiling) -> list[tuple[Program, Totals]]:
    return [(program, totals(program)) for program in programs_of(graph, how)]


def summed(graph: Graph, how: Tiling, of: str) -> Any:
    return sum(getattr(total, of) for _, total in costs(graph, how))


@st.composite
def cases(draw: st.DrawFn, kind: str) -> tuple[Graph, Tiling]:
    """A block of that kind on an image of up to 40×40, and a tiling."""
    out_channels = 8 if kind == "convnext" else draw(st.sampled_from([8, 16]))
    block = small_block(kind, 8, out_channels, 1 if kind == "convnext" else draw(st.integers(1, 2)))
    sizes = st.integers(1, 40)
    try:
        graph = graph_of([block], draw(st.integers(1, 3)), draw(sizes), draw(sizes))
    except ShapeError:
        assume(False)
        raise
    tiles = st.integers(1, 45)
    chunk = draw(st.sampled_from([4, 8, 12, 16, 64]))
    return graph, tiling(draw(st.sampled_from(["tiles", "rows"])), draw(tiles), draw(tiles), chunk, resident=draw(st.booleans()))


def elements_of(graph: Graph, name: str) -> int:
    found = graph.nodes[name].shape.elements
    assert isinstance(found, int)
    return found


def nominal(graph: Graph) -> tuple[int, int, int]:
    """MACs, vector and special operations of a graph whose batch norms are folded: each is the addition of a bias."""
    vector_ops, special_ops = 0, 0
    for name, node in graph.nodes.items():
        cost = graph.counts[name]
        folded = isinstance(node.layer, BatchNorm)
        vector_ops += cost.writes if folded else cost.vector_ops
        special_ops += 0 if folded else cost.special_ops
    return graph.macs, vector_ops, special_ops


def arithmetic(found: list[tuple[Program, Totals]]) -> tuple[int, int, int]:
    """MACs, vector and special operations of all programs."""
    macs, vector_ops, special_ops = zip(*((t.macs, t.vector_ops, t.special_ops) for _, t in found), strict=True)
    return sum(macs), sum(vector_ops), sum(special_ops)


def rows_read(graph: Graph, program: Program, name: str) -> tuple[set[int], set[int]]:
    """The rows and columns of an input that some layer of the program reads: a 1×1 convolution of stride 2 skips every other."""
    found: tuple[set[int], set[int]] = (set(), set())
    if name != "input":
        return found
    shape = graph.nodes[name].shape
    for reader in graph.consumers[name]:
        if reader.name not in program.layers:
            continue
        for axis, size in enumerate((shape.H, shape.W)):
            if not isinstance(reader.layer, Conv2d):
                found[axis].update(range(size))
                continue
            layer, outputs = reader.layer, (reader.shape.H, reader.shape.W)[axis]
            before = (layer.padding or (0, 0, 0, 0))[2 * axis]
            taps = (
                position * layer.stride[axis] - before + tap for position in range(outputs) for tap in range(layer.kernel[axis])
            )
            found[axis].update(row for row in taps if 0 <= row < size)
    return found


def compulsory(graph: Graph, program: Program, tensor: GlobalTensor) -> tuple[int, int]:
    """(elements of an input that are read at all, elements up to the last that is read)."""
    rows, columns = rows_read(graph, program, tensor.name)
    if not rows:
        return tensor.elements, tensor.elements
    channels = tensor.shape[0] * tensor.shape[1]
    return channels * len(rows) * len(columns), channels * (max(rows) + 1) * (max(columns) + 1)


# -- never less than once


@pytest.mark.parametrize("kind", BLOCKS)
@examples(40)
@given(st.data())
def test_traffic_is_never_below_compulsory(kind: str, data: st.DataObject) -> None:
    graph, how = data.draw(cases(kind))
    found = costs(graph, how)
    for program, total in found:
        for tensor in program.tensors:
            match tensor.role:
                case "weight" if how.resident_weights:
                    assert total.loaded[tensor.name] == tensor.elements
                case "weight":
                    assert total.loaded[tensor.name] >= tensor.elements
                case "input":
                    assert total.loaded[tensor.name] >= compulsory(graph, program, tensor)[0]
                case "output":
                    assert total.stored[tensor.name] == tensor.elements
                case "sums":
                    assert total.stored[tensor.name] >= tensor.elements
    assert all(done >= least for done, least in zip(arithmetic(found), nominal(graph), strict=True))


def assert_nothing_twice(graph: Graph, how: Tiling) -> None:
    found = costs(graph, how)
    for program, total in found:
        for tensor in program.tensors:
            if tensor.role == "input":
                assert total.loaded[tensor.name] == compulsory(graph, program, tensor)[1]
            elif tensor.role == "weight" and how.resident_weights:
                assert total.loaded[tensor.name] == tensor.elements
    assert arithmetic(found) == nominal(graph)


@pytest.mark.parametrize("kind", BLOCKS)
@examples(40)
@given(st.data())
def test_depth_first_by_whole_rows_does_nothing_twice(kind: str, data: st.DataObject) -> None:
    graph, how = data.draw(cases(kind))
    assert_nothing_twice(graph, tiling("rows", how.rows, 99, how.chunk, resident=how.resident_weights))


@pytest.mark.parametrize("kind", BLOCKS)
@examples(25)
@given(st.data())
def test_one_tile_for_the_image_does_nothing_twice(kind: str, data: st.DataObject) -> None:
    graph, how = data.draw(cases(kind))
    whole = tiling("tiles", 40 + how.rows, 40 + how.columns, how.chunk, resident=how.resident_weights)
    assert_nothing_twice(graph, whole)
    if graph.nodes["input"].shape.N == 1:  # not even weights
        for program, total in costs(graph, whole):
            assert all(total.loaded[t.name] == t.elements for t in program.tensors if t.role == "weight")


@pytest.mark.parametrize("kind", BLOCKS)
@examples(25)
@given(st.data())
def test_strips_do_less_than_tiles(kind: str, data: st.DataObject) -> None:
    """Of the same columns: a strip's rows are never done twice. But it loads the rows that a stride skips, small tiles do not."""
    graph, how = data.draw(cases(kind))
    strips = tiling("rows", how.rows, how.columns, how.chunk, resident=how.resident_weights)
    tiles = tiling("tiles", how.rows, how.columns, how.chunk, resident=how.resident_weights)
    for (program, strip), (_, tile) in zip(costs(graph, strips), costs(graph, tiles), strict=True):
        assert strip.macs <= tile.macs
        assert strip.loaded.keys() == tile.loaded.keys()
        for tensor in program.tensors:
            least, dense = compulsory(graph, program, tensor)
            if tensor.name in tile.loaded and least == dense:
                assert strip.loaded[tensor.name] <= tile.loaded[tensor.name]


# -- what tiles do twice


@pytest.mark.parametrize("kind", SPATIAL_FIRST)
@examples(25)
@given(st.data())
def test_conv_first_recomputes_nothing(kind: str, data: st.DataObject) -> None:
    graph, how = data.draw(cases(kind))
    assert summed(graph, how, "macs") == graph.macs


def windows(extent: int, tile: int, border: int) -> int:
    """Rows of all tiles with their borders, clipped to the image."""
    return sum(min(extent, start + tile + border) - max(0, start - border) for start in range(0, extent, tile))


@examples(150)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 45), st.integers(1, 45), st.sampled_from([1, 3, 5, 7]))
def test_mbconv_recomputes_the_expansion_of_its_halo(height: int, width: int, rows: int, columns: int, kernel: int) -> None:
    block = BLOCKS["mbconv"](in_channels=8, out_channels=8, hidden_channels=24, group_width=2, kernel=kernel)
    graph = graph_of([block], 2, height, width)
    done = windows(height, rows, kernel // 2) * windows(width, columns, kernel // 2)
    ((_, total),) = costs(graph, tiling("tiles", rows, columns))
    assert total.macs - graph.macs == 2 * 8 * 24 * (done - height * width)
    assert total.loaded["input"] == 2 * 8 * done
    ((_, strips),) = costs(graph, tiling("rows", rows, columns))
    assert strips.macs - graph.macs == 2 * 8 * 24 * height * (windows(width, columns, kernel // 2) - width)


@pytest.mark.parametrize("kernel", [3, 5])
def test_an_interior_tile_of_mbconv(kernel: int) -> None:
    """One more tile along each axis, less one more along either: the cost of a tile with a halo on all sides."""
    p, q, channels, hidden, group_width = 6, 4, 16, 64, 8
    block = BLOCKS["mbconv"](
        in_channels=channels, out_channels=channels, hidden_channels=hidden, group_width=group_width, kernel=kernel
    )

    def macs(down: int, across: int) -> Any:
        return summed(graph_of([block], 1, down * p, across * q), tiling("tiles", p, q), "macs")

    expansion = channels * hidden * (p + kernel - 1) * (q + kernel - 1)
    rest = p * q * (kernel**2 * group_width * hidden + hidden * channels)
    assert macs(5, 5) - macs(5, 4) - macs(4, 5) + macs(4, 4) == expansion + rest


@pytest.mark.parametrize(("p", "q"), [(16, 16), (8, 4), (1, 1), (5, 9)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_halo_of_a_large_image(p: int, q: int, kernel: int) -> None:
    block = BLOCKS["convfirst"](in_channels=8, out_channels=8, hidden_channels=16, group_width=4, kernel=kernel)
    limit = Fraction((p + kernel - 1) * (q + kernel - 1), p * q)
    gaps = []
    for many in (8, 32, 128, 512):
        graph = graph_of([block], 1, many * p, many * q)
        ((_, total),) = costs(graph, tiling("tiles", p, q))
        gaps.append(limit - Fraction(int(total.loaded["input"]), elements_of(graph, "input")))
    assert all(gap > 0 for gap in gaps)  # the image's border has no halo
    assert all(later * 7 < gap * 2 for gap, later in itertools.pairwise(gaps))
    assert gaps[-1] < limit / 100


@pytest.mark.parametrize("kind", BLOCKS)
def test_larger_tiles_that_divide_the_image_move_less(kind: str) -> None:
    graph = graph_of([small_block(kind)], 1, 48, 48)
    for smaller, larger in ((1, 2), (2, 4), (4, 12), (12, 24), (24, 48)):
        few, many = (costs(graph, tiling("tiles", size, size, resident=False)) for size in (larger, smaller))
        for (_, less), (_, more) in zip(few, many, strict=True):
            assert less.macs <= more.macs
            assert all(less.loaded[name] <= more.loaded[name] for name in more.loaded)


# -- intensity


def intensity(block: Block, size: int, how: Tiling, *, batch: int = 1) -> Fraction:
    """Operations per byte of activations: weights left out."""
    ((program, total),) = costs(graph_of([block], batch, size, size), how)
    moved = sum(total.loaded[t.name] * t.element_bytes for t in program.tensors if t.role == "input")
    moved += sum(total.stored[t.name] * t.element_bytes for t in program.tensors if t.role == "output")
    return Fraction(int(2 * total.macs), int(moved))


def block_of(kind: str, channels: int, expansion: int, group_width: int | None = None) -> Block:
    fields = {} if group_width is None else {"group_width": group_width}
    return BLOCKS[kind](in_channels=channels, out_channels=channels, hidden_channels=expansion * channels, **fields)


@pytest.mark.parametrize(
    ("block", "size", "expected"),
    [
        (block_of("convfirst", 64, 6, 8), 64, 6 * 64 + 9 * 8 // 2),
        (block_of("mbconv", 256, 4, 8), 16, 4 * 256 + 4 * 9 * 8 // 2),
        (block_of("fused_mbconv", 32, 4), 20, 4 * 32 * (9 + 1) // 2),
    ],
    ids=["convfirst", "mbconv", "fused_mbconv"],
)
def test_fused_intensity_is_the_closed_form(block: Block, size: int, expected: int) -> None:
    """Depth first, or in one tile: 420 operations per byte for ConvFirst C=64 e=6, 1168 for MBConv C=256 e=4."""
    assert intensity(block, size, tiling("rows", 1, size)) == expected
    assert intensity(block, size, tiling("rows", 5, size + 3), batch=32) == expected
    assert intensity(block, size, tiling("tiles", size, size)) == expected


def test_the_halo_lowers_intensity_by_what_it_reads() -> None:
    """16×16 tiles and a 3×3 kernel read (18/16)² = 1.27 times the input."""
    found = intensity(block_of("convfirst", 64, 6, 8), 16 * 1024, tiling("tiles", 16, 16))
    assert float(found) == pytest.approx(420 * 2 / (1 + (18 / 16) ** 2), rel=1e-3)


def test_weights_weigh_less_as_the_batch_grows() -> None:
    block, how = block_of("mbconv", 256, 4, 8), tiling("rows", 4, 16)

    def with_weights(batch: int) -> float:
        ((program, total),) = costs(graph_of([block], batch, 16, 16), how)
        moved = sum(total.loaded.values()) + sum(total.stored.values())
        assert all(t.element_bytes == 2 for t in program.tensors)
        return float(2 * total.macs / (2 * moved))

    found = [with_weights(batch) for batch in (1, 8, 64, 512, 4096)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(1168, rel=2e-3)


# -- local memory


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("mode", ["tiles", "rows"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_local_memory_grows_with_every_size_of_the_tiling(kind: str, mode: str, resident: bool) -> None:
    sizes = np.arange(1, 16)
    chunks = np.arange(4, 28, 4)
    for stride in (1,) if kind == "convnext" else (1, 2):
        graph = graph_of([small_block(kind, stride=stride)], 1, 13, 11)
        rows, columns, chunk = np.meshgrid(sizes, sizes, chunks, indexing="ij")
        for _, total in costs(graph, tiling(mode, rows, columns, chunk, resident=resident)):
            held = np.broadcast_to(total.peak_local_bytes, rows.shape)
            for axis in range(3):
                assert (np.diff(held, axis=axis) >= 0).all(), axis


@pytest.mark.parametrize("mode", ["tiles", "rows"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_local_memory_does_not_grow_with_the_image(kind: str, mode: str) -> None:
    """Once the image is larger than the tile with its halo: not with its size, not with the batch."""
    small, large = (graph_of([small_block(kind)], batch, size, size) for batch, size in ((1, 32), (8, 64)))
    for (_, less), (_, more) in zip(costs(small, tiling(mode)), costs(large, tiling(mode)), strict=True):
        assert less.peak_local_bytes == more.peak_local_bytes


def test_the_local_memory_of_convfirst_by_hand() -> None:
    """4×4 tiles, 8 → 16 → 8 channels in chunks of 8, weights loaded for each tile; bytes of two, sums of four."""
    (block,) = [BLOCKS["convfirst"](in_channels=8, out_channels=8, hidden_channels=16, group_width=4)]
    ((_, total),) = costs(graph_of([block], 1, 32, 32), tiling("tiles", 4, 4, 8, resident=False))
    input_tile, spatial_tile, sums, chunk = 8 * 6 * 6 * 2, 8 * 4 * 4 * 2, 8 * 4 * 4 * 4, 8 * 4 * 4 * 2
    expand, project, bias = 8 * 8 * 2, 8 * 8 * 2, 8 * 2
    assert total.peak_local_bytes == input_tile + spatial_tile + sums + chunk + expand + bias + project
    assert total.macs == 32 * 32 * (9 * 4 * 8 + 2 * 8 * 16)
    assert total.vector_ops == 32 * 32 * (8 + 16 * (1 + 3) + 8 + 8)
    assert total.special_ops == 32 * 32 * 16
    assert total.loaded["input"] == 8 * (6 * 8 - 2) ** 2
    assert total.loaded["b0.expand.weight"] == 64 * 8 * 16
    assert total.stored == {"b0.project": 8 * 32 * 32}


def test_the_local_memory_of_depth_first_convfirst_by_hand() -> None:
    """Groups of two whole rows: a ring of four rows of the input, which the residual reads, too."""
    block = BLOCKS["convfirst"](in_channels=8, out_channels=8, hidden_channels=16, group_width=4)
    ((_, total),) = costs(graph_of([block], 1, 32, 20), tiling("rows", 2, 20, 8))
    weights = 2 * (8 * 4 * 9 + 8 + 16 * 8 + 16 + 8 * 16 + 8)
    ring, spatial_tile, sums, chunk = 8 * 4 * 20 * 2, 8 * 2 * 20 * 2, 8 * 2 * 20 * 4, 8 * 2 * 20 * 2
    assert total.peak_local_bytes == weights + ring + spatial_tile + sums + chunk
