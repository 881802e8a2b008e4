"""mbconv_tiles: what it serves, its tiles, and its packed weights read back as the matrix instructions read them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.mbconv import rows, tiles
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import draw
from perfmodel.validation.fused.packing import bits, unbits
from tests.gpus import H200
from tests.test_kernels_mbconv_rows import by_descriptor


def hopper(multiprocessors=132):
    return replace(H200, multiprocessors=multiprocessors)


def half(values):
    return unbits(bits(values, "fp16"), "fp16")


def problem_of(**sizes):
    return MBConvProblem(**{"N": 128, "H": 14, "W": 14, "C": 256, "expansion": 4, **sizes})


def test_stream():
    problem = problem_of()
    config = tiles.configure(problem, hopper())
    p = draw(problem, 5)
    stream, blob = tiles.KERNEL.pack(problem, config, p)
    C, chunk, order = 256, tiles.CHUNK, rows.lane_order(256)
    expand = C * chunk * 2
    item = 2 * expand + tiles.FILTER_BYTES
    assert len(stream) == problem.hidden // chunk * item
    for j in range(problem.hidden // chunk):
        at, columns = j * item, slice(j * chunk, (j + 1) * chunk)
        for part in range(2):  # the halves that are loaded apart
            k = slice(part * C // 2, (part + 1) * C // 2)
            B = by_descriptor(stream, at + part * expand // 2, C // 2, chunk, chunk // 8 * 128, 128)
            np.testing.assert_array_equal(B, half(p.expand_w[k, columns] / 2))
            k = slice(columns.start + part * chunk // 2, columns.start + (part + 1) * chunk // 2)
            B = by_descriptor(stream, at + expand + tiles.FILTER_BYTES + part * expand // 2, chunk // 2, C, C // 8 * 128, 128)
            np.testing.assert_array_equal(B, p.project_w[k][:, order])
        B = by_descriptor(stream, at + expand, 8, chunk, 0, 128)
        np.testing.assert_array_equal(B[0], half(p.expand_b[columns] / 2))
        assert not B[1:].any()
    assert len(blob) == 2 * (problem.hidden + C)


def tiles_of(problem, grid):
    """As the source walks: the rows of h, and of y, of each tile, in the sequence of all strips."""
    down = (max(problem.H - 2, 1) + tiles.ROWS - 3) // (tiles.ROWS - 2)
    strips = problem.N * -(-problem.W // rows.STRIP)
    for block in range(grid):
        for tile in range(block, strips * down, grid):
            base, first = tile // down * problem.H, tile % down * (tiles.ROWS - 2)
            h = [first + w for w in range(tiles.ROWS) if first + w < problem.H]
            y = [row for row in h if (row > first or first == 0) and (row < first + tiles.ROWS - 1 or row == problem.H - 1)]
            yield [base + row for row in h], [base + row for row in y]


@settings(max_examples=60, deadline=None)
@given(N=st.integers(1, 9), H=st.integers(1, 40), W=st.integers(1, 40), sms=st.integers(1, 16))
def test_every_row_is_written_once_where_its_neighbours_are(N, H, W, sms):
    problem = problem_of(N=N, H=H, W=W)
    config = tiles.configure(problem, hopper(sms))
    count = N * -(-W // rows.STRIP) * tiles.down(problem)
    if isinstance(config, str):
        assert f"{count} tiles" in config
        assert 2 * count <= sms
        return
    (launch,) = tiles.KERNEL.launches(problem, config, hopper(sms))
    assert launch.grid[0] == min(sms, count)
    written = []
    for h, y in tiles_of(problem, launch.grid[0]):
        for row in y:
            assert all(near in h for near in (row - 1, row + 1) if near >= 0 and near // H == row // H)
        written += y
    assert sorted(written) == list(range(N * -(-W // rows.STRIP) * H))


@pytest.mark.parametrize("e", range(1, 9))
def test_fits(e):
    config = tiles.configure(problem_of(expansion=e), hopper())
    assert isinstance(config, Config)
    assert config.shared_bytes <= hopper().shared_bytes_per_block


def test_says_how_much_shared_memory_it_needs():
    small = replace(hopper(), shared_bytes_per_block=101376)
    assert tiles.configure(problem_of(), small) == "its weights and rows need 224792 of 101376 B of shared memory"


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"dtype": "bf16"}, "fp16, not bf16"),
        ({"group_width": 1}, "not 3×3 in groups of 1"),
        ({"stride": 2}, "with stride 2"),
        ({"squeeze": 16}, "no squeeze-and-excitation"),
        ({"out_channels": 128}, "as many channels"),
        ({"C": 72}, "not 72"),
        ({"N": 1}, "2 tiles, which are at most half of 132"),
    ],
)
def test_refuses(form, why):
    config = tiles.configure(problem_of(**form), hopper())
    assert isinstance(config, str)
    assert why in config
