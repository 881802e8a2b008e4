"""mbconv_rows: what it serves, how its rows are shared out, and its packed weights read back as the matrix instructions read them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.mbconv import rows, tiles
from perfmodel.validation.fused.mbconv.family import FAMILY
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import draw
from perfmodel.validation.fused.packing import bits, unbits
from tests.gpus import H200


def configured(**sizes):
    problem = MBConvProblem(**{"N": 1, "H": 14, "W": 14, "C": 64, "expansion": 4, **sizes})
    return problem, rows.configure(problem, H200)


def half(values):
    return unbits(bits(values, "fp16"), "fp16")


def by_descriptor(data, start, K, N, lbo, sbo):
    """A K×N operand in shared memory, K-major, without swizzle: core matrices of 8 rows of N by 16 bytes."""
    k, n = np.meshgrid(np.arange(K), np.arange(N), indexing="ij")
    at = start + k // 8 * lbo + n // 8 * sbo + n % 8 * 16 + k % 8 * 2
    return data.view(np.uint16)[at // 2].view(np.float16).astype(np.float32)


@pytest.mark.parametrize("C", [64, 96, 128, 256])
def test_stream(C):
    problem, config = configured(C=C, N=1 if C == 256 else 128)
    tiled = config.defines["ORDER"] == rows.TILED
    check_stream(rows.KERNEL, problem, config, config.defines["CHUNK"], (0, 2, 1) if tiled else (0, 1, 2))


def check_stream(kernel, problem, config, chunk, rows_of):
    """The packed weights of a kernel that takes the filters' rows in this order."""
    C, p = problem.C, draw(problem, 5)
    stream, blob = kernel.pack(problem, config, p)
    order = rows.lane_order(C)
    expand, bias, filters = C * chunk * 2, chunk * 32, chunk // 16 * 2688
    item = 2 * expand + bias + filters
    assert len(stream) == problem.hidden // chunk * item
    for j in range(problem.hidden // chunk):
        at, columns = j * item, slice(j * chunk, (j + 1) * chunk)
        # the bias is 16 more rows of the expansion, of which the first multiplies the A operand's column of ones
        B = by_descriptor(stream, at, C + 16, chunk, chunk // 8 * 128, 128)
        np.testing.assert_array_equal(B[:C], half(p.expand_w[order][:, columns] / 2))
        np.testing.assert_array_equal(B[C], half(p.expand_b[columns] / 2))
        assert not B[C + 1 :].any()
        B = by_descriptor(stream, at + expand + bias + filters, chunk, C, C // 8 * 128, 128)
        np.testing.assert_array_equal(B, p.project_w[columns][:, order])
        for pair in range(chunk // 16):
            start = at + expand + bias + pair * 2688
            for member in range(2):
                first = columns.start + 16 * pair + 8 * member
                w = half(p.conv_w[first : first + 8] / 2)  # n, ky, kx, k
                two = by_descriptor(stream, start + 768 * member, 16, 24, 384, 128)
                third = by_descriptor(stream, start + 1536 + 384 * member, 16, 24, 384, 128)
                for kx in range(3):
                    n = slice(8 * kx, 8 * kx + 8)
                    np.testing.assert_array_equal(two[:8, n], w[:, rows_of[0], kx].T)
                    np.testing.assert_array_equal(two[8:, n], w[:, rows_of[1], kx].T)
                    np.testing.assert_array_equal(third[8 * member : 8 * member + 8, n], w[:, rows_of[2], kx].T)
                    assert not third[8 - 8 * member : 16 - 8 * member, n].any()
    biases = blob.view(np.float16).astype(np.float32)
    lanes = biases[: problem.hidden].reshape(-1, 4, chunk // 8, 2)  # chunk, lane, block, pair
    np.testing.assert_array_equal(lanes.transpose(0, 2, 1, 3).reshape(-1), half(p.conv_b / 2))
    np.testing.assert_array_equal(biases[problem.hidden :], half(p.project_b))


def test_lane_order_gives_a_lane_neighbouring_channels():
    """A lane holds columns 2q and 2q + 1 of each block of eight."""
    order = rows.lane_order(64).reshape(2, 4, 4, 2)  # 32 channels, block, lane, pair
    for part in range(2):
        for lane in range(4):
            assert order[part, :, lane].reshape(-1).tolist() == list(range(32 * part + 8 * lane, 32 * part + 8 * lane + 8))


def steps_of(problem, config: Config, grid: int):
    """As the source walks, in the sequence of all strips: the rows of h and of y of each block (warpgroup, where they are alone)."""
    d, H = config.defines, problem.H
    groups, total = d["WARPGROUPS"], rows.sequence(problem)
    clusters = grid // d["SPLIT"]
    found = []
    for block in range(clusters):
        if d["ORDER"] == rows.TILED:
            height = 4 * groups
            down = (max(H - 2, 1) + height - 3) // (height - 2)
            for tile in range(block, total // H * down, clusters):
                base, first = tile // down * H, tile % down * (height - 2)
                h = [base + first + w for w in range(height) if first + w < H]
                y = [
                    base + first + w
                    for w in range(height)
                    if first + w < H and (w > 0 or first == 0) and (w < height - 1 or first + w == H - 1)
                ]
                found.append((h, y))
            continue
        if d["ORDER"] == rows.STRIPS:
            assert H % 4 == 0
            for start in range(block * groups * H, min((block + 1) * groups * H, total), H):
                steps = list(
                    range(start, start + H)
                )  # whole steps of h, each of the rows of y above it; the last row of y comes behind them
                found.append((steps, [s - 1 for s in steps if s > start] + [start + H - 1]))
            continue
        first = block * config.tile_rows
        last = min(first + config.tile_rows, total)
        above = int(first % H != 0)
        alone = d["ORDER"] == rows.RESIDENT
        height = 4 if alone else 4 * groups
        steps = (last - first + above + 1 + (2 * (groups - 1) if alone else 0) + height - 1) // height
        if alone and d["SPLIT"] > 1:
            steps = groups
        for group in range(groups if alone else 1):
            mine, start, lowest, highest = steps, first - above, first, last
            if alone:
                each, more = divmod(steps, groups)
                mine = each + (group < more)
                start = first - above + 4 * (group * each + min(group, more)) - 2 * group
                lowest = start + 1 if group else first
                highest = min(last, start + 4 * mine - 1)
            h = [s for s in range(start, start + height * mine) if s < total]
            y = [s - 1 for s in range(start, start + height * mine) if lowest < s <= highest]
            found.append((h, y))
    return found


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(1, 9),
    H=st.integers(1, 40),
    W=st.integers(1, 40),
    C=st.sampled_from([64, 96, 128, 256]),
    sms=st.integers(1, 132),
)
def test_every_row_is_written_once_where_its_neighbours_are(N, H, W, C, sms):
    problem = MBConvProblem(N=N, H=H, W=W, C=C, expansion=4)
    device = replace(H200, multiprocessors=sms)
    config = rows.configure(problem, device)
    if isinstance(config, str):  # 256 channels, and more rows than clusters share
        assert C == 256
        assert "more than the multiprocessors" in config
        return
    (launch,) = rows.KERNEL.launches(problem, config, device)
    assert launch.grid[0] <= sms
    check_walks(problem, steps_of(problem, config, launch.grid[0]))


def check_walks(problem, walks):
    """Every row is written once, by a walk that has its neighbours' rows of the hidden tensor."""
    H, written = problem.H, []
    for h, y in walks:
        have = set(h)
        for row in y:
            for neighbour in (row - 1, row + 1):
                inside = neighbour // H == row // H and neighbour >= 0
                assert not inside or neighbour in have
            assert row in have
        written += y
    assert sorted(written) == list(range(rows.sequence(problem)))


@pytest.mark.parametrize(("C", "e"), [(C, e) for C in (64, 96, 128, 256) for e in range(1, 9)])
def test_fits_or_says_why(C, e):
    problem, config = configured(C=C, expansion=e, N=1 if C == 256 else 128)
    if isinstance(config, str):
        assert config.count(".") <= 1
        assert any(character.isdigit() for character in config)
    else:
        assert config.shared_bytes <= H200.shared_bytes_per_block
        assert config.defines["CHUNK"] * config.defines["SPLIT"] <= problem.hidden
    if e == 4:
        assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"dtype": "bf16"}, "fp16, not bf16"),
        ({"group_width": 1}, "not 3×3 in groups of 1"),
        ({"stride": 2}, "with stride 2"),
        ({"squeeze": 16}, "no squeeze-and-excitation"),
        ({"out_channels": 128}, "as many channels"),
        ({"C": 72}, "not 72"),
    ],
)
def test_refuses(form, why):
    _, config = configured(**form)
    assert isinstance(config, str)
    assert why in config


@pytest.mark.parametrize(
    ("N", "H", "W", "order"),
    [
        (128, 56, 56, rows.STRIPS),
        (171, 8, 42, rows.STRIPS),  # the last block has one strip
        (128, 55, 56, rows.RESIDENT),  # a strip is no whole steps
        (64, 56, 56, rows.RESIDENT),  # half of the blocks would idle
        (133, 56, 56, rows.RESIDENT),  # more strips than warpgroups
    ],
)
def test_a_strip_to_a_warpgroup_where_that_is_fewer_steps(N, H, W, order):
    problem, config = configured(N=N, H=H, W=W)
    assert config.defines["ORDER"] == order
    (launch,) = rows.KERNEL.launches(problem, config, H200)
    assert launch.grid[0] <= H200.multiprocessors
    check_walks(problem, steps_of(problem, config, launch.grid[0]))


@pytest.mark.parametrize("chunks", [4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_half_a_chunk_are_there(chunks, seed):
    """GROUP_AHEAD: places and barriers of a warpgroup on its own as the source has them, its warps in turn at random.

    Behind the first barrier of a chunk lie the rows of two groups, behind the second those of the others; a strip's last row finds the
    last step's.
    """
    rng, steps, entries = random.Random(seed), 5, chunks + 2
    rows_at: dict[tuple[object, ...], tuple[int, int]] = {}
    inside, passed = Counter[str](), Counter[str]()

    def meet():
        turn = passed["warps"]
        inside["warps"] += 1
        if inside["warps"] == 4:
            inside["warps"] = 0
            passed["warps"] += 1
        while passed["warps"] == turn:
            yield

    def place(warp, chunk, half):
        """Where a warp's row goes of a chunk, counted from the first step's first on."""
        return ("pairs", chunk % 2, warp, half) if warp < 2 else ("kept", chunk % entries, warp - 2, half)

    def above(warp, back, chunk, half):
        """Where the row is that is so many above a warp's own: in this step, or two entries on, which the step before has left."""
        return place(warp - back, chunk, half) if warp >= back else ("kept", (chunk + 2) % entries, warp - back + 2, half)

    def walk(warp):
        for chunk in range(steps * chunks):
            step, j = divmod(chunk, chunks)
            for half in range(2):
                rows_at[place(warp, chunk, half)] = (4 * step + warp, j)
                yield
                yield from meet()
                for back in (1, 2):
                    wanted = 4 * step + warp - back
                    assert wanted < 0 or rows_at[above(warp, back, chunk, half)] == (wanted, j)
                    yield

    warps = [walk(warp) for warp in range(4)]
    while warps:
        warp = rng.choice(warps)
        for _ in range(rng.choice((1, 1, 30))):
            if next(warp, warp) is warp:
                warps.remove(warp)
                break
    for j in range(chunks):
        for warp, half in itertools.product((2, 3), range(2)):
            assert rows_at["kept", ((steps - 1) * chunks + j) % entries, warp - 2, half] == (4 * steps - 4 + warp, j)


def test_groups_go_ahead_in_warpgroups_on_their_own_alone():
    """A chain's rows are handed on at a chunk's first barrier, where two groups of GROUP_AHEAD's are not yet written."""
    made = [(1, layout) for found in rows.LAYOUTS.values() for layout in found]
    made += [shared for found in rows.SHARED_LAYOUTS.values() for shared in found]
    ahead = [(split, layout) for split, layout in made if layout.overlap == rows.GROUP_AHEAD]
    assert ahead
    assert all(split == 1 and layout.resident and layout.chunk == 32 for split, layout in ahead)


def test_small_batches_are_split_among_clusters():
    """One image of 256 channels is one tile or two: clusters share its hidden channels, where tiles are too few to fill the device."""
    splits = {N: configured(C=256, N=N)[1].defines["SPLIT"] for N in (1, 16)}
    assert splits[1] >= splits[16] > 1
    for N, name in ((1, rows.NAME), (16, rows.NAME), (128, tiles.NAME)):
        assert FAMILY.choose(configured(C=256, N=N)[0], H200).kernel == name


@given(dividend=st.integers(0, 2**31 - 1), divisor=st.integers(1, 2**31 - 1))
def test_reciprocals_divide(dividend, divisor):
    """As the source does: the high word of a product, and one more where the rest allows it."""
    quotient = dividend * (rows.reciprocal(divisor) % 2**32) >> 32
    quotient += dividend - quotient * divisor >= divisor
    assert quotient == dividend // divisor
