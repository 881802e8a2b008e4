"""mbconv_depthwise: what it serves, its strips and rows walked in NumPy on the packed weights, and that it compiles."""

from __future__ import annotations

import dataclasses
import doctest

import numpy as np
import pytest

from perfmodel.validation.checks import check
from perfmodel.validation.compile import compile_unit, unit_of
from perfmodel.validation.fused.mbconv import depthwise
from perfmodel.validation.fused.mbconv.family import FAMILY
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import draw, reference, sigmoid, silu
from perfmodel.validation.fused.packing import unbits
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.fused.tiles import resident_blocks
from perfmodel.validation.gpu import this_device
from tests.gpus import H200


def a_problem(**changes) -> MBConvProblem:
    return MBConvProblem(**{"N": 128, "H": 56, "W": 56, "C": 64, "expansion": 4, "group_width": 1, **changes})


def words(problem) -> str:
    return problem.name


def narrow(problem, blocks: int, rows: tuple[int, int] = (8, 2), folded: bool = True):
    """The configuration for strips of so many blocks of eight columns."""
    split = next(split for split in depthwise.SPLITS if depthwise.groups_of(problem, split) <= depthwise.WARPGROUPS)
    return depthwise.offer(problem, H200, depthwise.Strips.of(problem, 8 * blocks), split, rows, folded).config


# -- the walk --------------------------------------------------------------------------------------------------------------


def a_operand(words, K, M):
    """[M, K] of a block of rows as the descriptors read it: core matrices of eight rows by 16 bytes, those along K side by side last."""
    return words.reshape(K // 8, M // 8, 8, 8).transpose(1, 2, 0, 3).reshape(M, K)


def unpacked(problem, config, buffers):
    """(We, taps, bias, be, Wp) of all hidden channels, as fp32, halved where the kernel's are."""
    d = config.defines
    steps, parts, taps = -(-problem.C // 16), -(-problem.outputs // 64), problem.kernel**2
    groups, split, more = d["WARPGROUPS"], d["SPLIT"], 16 * d["FOLDED"]
    folded_be, folded_bp = [], 0
    entries = depthwise.entries(problem)
    expand, tables, project = [], [], []
    for stream in buffers[0].reshape(split, -1):
        first, second = groups * (16 * steps + more) * 128, groups * 4 * entries * 64
        halves = unbits(stream[:first].view(np.uint16), problem.dtype).reshape(groups, -1)
        both = [a_operand(part, 16 * steps + more, 64) for part in halves]
        expand += [part[:, : 16 * steps] for part in both]
        folded_be += [part[:, 16 * steps :] for part in both]
        lanes = stream[first : first + second].view(np.float32).reshape(groups * 4, entries, 8, 2)
        tables.append(lanes.transpose(0, 3, 2, 1).reshape(-1, entries))  # channel l, then l + 8, of each warp
        halves = unbits(stream[first + second :].view(np.uint16), problem.dtype).reshape(parts, -1)
        both = np.concatenate([a_operand(part, 64 * groups + more, 64) for part in halves])
        project.append(both[:, : 64 * groups])
        folded_bp = folded_bp + both[:, 64 * groups :]
    table = np.concatenate(tables)
    if more:  # the biases against a one and zeros
        np.testing.assert_array_equal(np.concatenate(folded_be)[:, 0], table[:, taps + 1])
        np.testing.assert_array_equal(folded_bp[: problem.outputs, 0], buffers[1].view(np.float32))
        assert not folded_bp[:, 1:].any()
        assert not np.concatenate(folded_be)[:, 1:].any()
    return np.concatenate(expand), table[:, :taps], table[:, taps], table[:, taps + 1], np.concatenate(project, 1)


def twice(xp, u):
    return silu(xp, 2 * u)


def walk(problem, config, buffers, x):
    """As the source does it: every block down its pieces of strips, rows of sums passed on; every output is written once."""
    we, taps, bias, be, wp = unpacked(problem, config, buffers)
    strips, K, S, pad = depthwise.strips_of(problem, config), problem.kernel, problem.stride, problem.kernel // 2
    (N, H, W, C), (_, OH, OW, CO) = problem.input_shape, problem.output_shape
    SW, waiting = strips.width, K - 1 if S == 1 else pad
    places, hidden = SW // S, len(we)
    y, written = np.zeros((N, OH, OW, CO)), np.zeros((N, OH, OW), int)
    total = np.zeros((N, hidden))
    for last_pass in (False, True) if problem.squeeze else (True,):
        gates = np.ones((N, hidden))
        if problem.squeeze and last_pass:
            mean = total / (OH * OW)
            reduce, gate = (
                unbits(b.view(np.uint16), problem.dtype).reshape(problem.squeeze, -1) for b in (buffers[2], buffers[4])
            )
            gates = sigmoid(np, silu(np, mean @ reduce.T + buffers[3].view(np.float32)) @ gate + buffers[5].view(np.float32))
        at = 0
        for _, first, last in depthwise.pieces(problem, strips, config.tile_rows):
            n, strip = at // OH // strips.count, at // OH % strips.count
            column = strips.column(problem, strip)
            left = ((strip - 1) * (SW - 2 * pad) + SW - 1 - pad) // S + 1 if strip else 0
            assert column >= 0
            assert strip == 0 or left * S - pad >= column
            right = OW if column + SW >= W else (column + SW - 1 - pad) // S + 1
            top, bottom = max(first * S - pad, 0), (last - 1) * S + pad
            sums = [np.repeat(bias[:, None], places, 1) for _ in range(waiting)]
            emitted = first
            for row in range(top, bottom + 1):
                h = np.zeros((hidden, SW + 2 * pad))
                if row < H:
                    pixels = np.zeros((we.shape[1], SW))
                    inside = min(SW, W - column)
                    pixels[:C, :inside] = x[n, row, column : column + inside].T
                    h[:, pad : pad + SW] = twice(np, we @ pixels + be[:, None])
                    h[:, pad + inside :] = 0
                rows = [sum(taps[:, ky * K + k, None] * h[:, k : k + S * places : S] for k in range(K)) for ky in range(K)]
                if S == 2 and (row - pad) % 2:
                    sums = [one + rows[K - 2 - S * i] for i, one in enumerate(sums)]
                    continue
                out = twice(np, sums[0] + rows[K - 1]) * gates[n][:, None]
                sums = [
                    (sums[i + 1] if i + 1 < waiting else np.repeat(bias[:, None], places, 1)) + rows[K - 1 - S * (i + 1)]
                    for i in range(waiting)
                ]
                if row - pad < first * S:
                    continue
                o, own = (row - pad) // S, slice(left - column // S, right - column // S)
                assert o == emitted
                emitted += 1
                if not last_pass:
                    total[n] += out[:, own].sum(1)
                    continue
                written[n, o, left:right] += 1
                y[n, o, left:right] = (wp @ out[:, own])[:CO].T + buffers[1].view(np.float32)
            assert emitted == last
            at += last - first
    assert (written == 1).all()
    return y + x if problem.has_identity else y


WALKS = [
    (a_problem(N=2, H=6, W=16), 2),
    (a_problem(N=3, H=5, W=37), 3),
    (a_problem(N=2, H=7, W=37, kernel=5), 3),
    (a_problem(N=2, H=9, W=37, stride=2, out_channels=72), 3),
    (a_problem(N=2, H=8, W=36, kernel=5, stride=2), 2),
    (a_problem(N=2, H=9, W=35, kernel=5, stride=2), 3),
    (a_problem(N=3, H=5, W=20, squeeze=6), 2),
    (a_problem(N=2, H=5, W=9, C=24, expansion=5, squeeze=6, dtype="bf16"), 2),
    (a_problem(N=2, H=5, W=9, C=88, squeeze=6), 2),
    (a_problem(N=1, H=1, W=1), 2),
    (a_problem(N=1, H=2, W=1, stride=2, kernel=5), 2),
]


@pytest.mark.parametrize("rows", [1, 2, 4, 7, 100])
@pytest.mark.parametrize(("problem", "blocks"), WALKS, ids=[problem.name for problem, _ in WALKS])
def test_walk_is_the_block(problem, blocks, rows):
    """Whatever the part of the rows that a block has."""
    config = dataclasses.replace(narrow(problem, blocks), tile_rows=rows)
    p = draw(problem, 3)
    x = np.random.default_rng(1).standard_normal(problem.input_shape)
    found = walk(problem, config, depthwise.KERNEL.pack(problem, config, p), x)
    np.testing.assert_allclose(found, reference(np, x, p, problem), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("problem", [a_problem(N=2, H=5, W=9, dtype="bf16"), a_problem(N=2, H=5, W=9, C=88)], ids=words)
def test_biases_may_stay_beside_the_products(problem):
    config = narrow(problem, 2, folded=False)
    p, x = draw(problem, 3), np.random.default_rng(1).standard_normal(problem.input_shape)
    found = walk(problem, config, depthwise.KERNEL.pack(problem, config, p), x)
    np.testing.assert_allclose(found, reference(np, x, p, problem), rtol=1e-4, atol=1e-4)
    assert config.shared_bytes < narrow(problem, 2).shared_bytes


# -- choice ----------------------------------------------------------------------------------------------------------------


def test_examples():
    assert doctest.testmod(depthwise).failed == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group_width": 8}, "channel by channel, not in groups of 8"),
        ({"C": 136, "H": 14, "W": 14, "expansion": 3}, "at most 128 channels, not 136"),
        ({"C": 128, "expansion": 5}, "at most 512 hidden channels, not 640"),
        ({"out_channels": 136}, "at most 128 channels, not 136"),
    ],
)
def test_refusals_give_numbers(changes, words):
    with pytest.raises(GpuError, match=words):
        FAMILY.choose(a_problem(**changes), H200, only=depthwise.NAME)


def test_want_of_shared_memory_gives_numbers():
    small = dataclasses.replace(H200, shared_bytes_per_block=102400)
    with pytest.raises(GpuError, match=r"its weights and rows need \d{6} of 102400 B of shared memory"):
        FAMILY.choose(a_problem(C=128), small, only=depthwise.NAME)


def test_only_hopper():
    ada = dataclasses.replace(H200, compute_capability=(8, 9), shared_bytes_per_block=101376)
    with pytest.raises(GpuError, match=r"needs compute capability 9\.0 and this is 8\.9"):
        FAMILY.choose(a_problem(), ada, only=depthwise.NAME)
    assert FAMILY.choose(a_problem(), ada).kernel == "mbconv_generic"


@pytest.mark.parametrize(
    ("changes", "width", "rows", "blocks"),
    [
        ({}, 56, 56, 128),  # a whole image to a block: 54 rows would be fewer, in two pieces that take 58
        ({"squeeze": 16}, 56, 56, 128),
        ({"N": 16}, 56, 7, 128),
        ({"N": 1}, 16, 2, 112),
        ({"kernel": 5}, 32, 112, 128),
        ({"stride": 2, "out_channels": 128}, 56, 28, 128),
        ({"C": 128, "H": 28, "W": 28}, 32, 56, 128),  # clusters of two
    ],
)
def test_strips_that_the_model_takes(changes, width, rows, blocks):
    problem = a_problem(**changes)
    config = FAMILY.choose(problem, H200)
    assert (config.kernel, 8 * config.defines["BLOCKS"], config.tile_rows) == (depthwise.NAME, width, rows)
    launches = depthwise.launches(problem, config, H200)
    grids = [blocks, problem.N, blocks] if problem.squeeze else [blocks]
    assert [launch.grid for launch in launches] == [(grid, 1, 1) for grid in grids]
    assert [launch.constants for launch in launches] == [
        (("PASS", number),) for number in ((1, 2, 3) if problem.squeeze else (0,))
    ]


SHAPES = [
    a_problem(N=N, H=size, W=size, C=C, expansion=e, kernel=kernel, stride=stride)
    for N in (1, 9, 128)
    for size, C, e in ((56, 64, 4), (13, 24, 6), (112, 16, 1), (28, 128, 4), (57, 88, 4))
    for kernel in (3, 5)
    for stride in (1, 2)
]


@pytest.mark.parametrize("problem", SHAPES, ids=words)
def test_what_is_chosen_holds_the_kernels_conditions(problem):
    config = FAMILY.choose(problem, H200, only=depthwise.NAME)
    d, strips = config.defines, depthwise.strips_of(problem, config)
    assert d["WARPGROUPS"] * d["SPLIT"] * 64 >= problem.hidden
    assert config.threads == 128 * (d["WARPGROUPS"] + 1) <= 640
    launched = 65536 // config.threads // 8 * 8
    if d["REGISTERS"]:  # what one role takes the others give
        assert d["WARPGROUPS"] * d["REGISTERS"] + d["PROJECT_REGISTERS"] <= (d["WARPGROUPS"] + 1) * launched
    ahead = d["X_SLOTS"] - (1 + problem.kernel // 2 if problem.has_identity else 1)
    assert ahead >= 2  # rows of x in flight
    assert strips.column(problem, strips.count - 1) + strips.width >= problem.W
    assert d["MASKED"] == (strips.column(problem, strips.count - 1) + strips.width > problem.W)
    sequence = depthwise.sequence(problem, strips)
    blocks = -(-sequence // config.tile_rows)
    assert blocks * d["SPLIT"] <= resident_blocks(132, d["SPLIT"])
    pieces = list(depthwise.pieces(problem, strips, config.tile_rows))
    assert sum(last - first for _, first, last in pieces) == sequence
    assert {block for block, _, _ in pieces} == set(range(blocks))
    assert all(0 <= first < last <= problem.output_shape[1] for _, first, last in pieces)


@pytest.mark.parametrize("squeeze", [None, 16])
def test_no_two_blocks_share_a_multiprocessor(squeeze):
    """Small ones reserve more than they use, but for the launch of gates."""
    problem = a_problem(C=32, H=112, W=112, kernel=5, stride=2, out_channels=64, squeeze=squeeze)
    config = FAMILY.choose(problem, H200, only=depthwise.NAME)
    assert 2 * config.shared_bytes < H200.shared_bytes_per_multiprocessor
    reserved = [launch.shared_bytes for launch in depthwise.launches(problem, config, H200) if launch.constants != (("PASS", 2),)]
    of_block = 1024  # the system's own
    assert all(2 * (held + of_block) > H200.shared_bytes_per_multiprocessor for held in reserved)
    assert all(config.shared_bytes <= held <= H200.shared_bytes_per_block for held in reserved)


def test_sums_of_blocks_and_images_have_places_of_their_own():
    """Block plus image, as the source stores them."""
    problem = a_problem(N=9, H=5, W=37, squeeze=4)
    for rows in (1, 2, 3, 7, 11, 100):
        config = dataclasses.replace(narrow(problem, 3), tile_rows=rows)
        strips = depthwise.strips_of(problem, config)
        at, places = 0, {}
        for block, first, last in depthwise.pieces(problem, strips, rows):
            image = at // (problem.output_shape[1] * strips.count)
            assert places.setdefault(block + image, (block, image)) == (block, image)
            at += last - first
        sums, gates = depthwise.scratch(problem, config)
        assert sums.bytes >= 4 * 256 * (max(places) + 1)
        assert gates.bytes == 4 * 256 * 9


def test_moved_bytes_by_counting():
    """Every row that a piece reads, over the columns of its strips; twice with squeeze-and-excitation."""
    problem = a_problem(N=3, H=9, W=37, squeeze=4)
    config = dataclasses.replace(narrow(problem, 3), tile_rows=4)
    rows = 0
    for _, first, last in depthwise.pieces(problem, depthwise.strips_of(problem, config), 4):
        rows += len({y for o in range(first, last) for y in (o - 1, o, o + 1)} & set(range(9)))
    assert depthwise.moved_bytes(problem, config) == 2 * 2 * 64 * (rows * (37 + 2) // 2) + problem.output_bytes


# -- compiling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"squeeze": 16},
        {"kernel": 5},
        {"kernel": 5, "squeeze": 16},
        {"stride": 2, "out_channels": 128},
        {"kernel": 5, "stride": 2, "N": 16},
        {"C": 128, "H": 28, "W": 28, "squeeze": 32},
        {"C": 96},
        {"C": 24, "expansion": 6, "N": 1},
    ],
    ids=str,
)
def test_compiles_without_spills(tmp_path, changes, dtype):
    problem = a_problem(dtype=dtype, **changes)
    config = FAMILY.choose(problem, H200)
    for launch in depthwise.launches(problem, config, H200):
        done = compile_unit(unit_of(config, "sm_90a", launch.constants), cache=tmp_path)
        assert done.unit.name.encode() in done.cubin
        assert done.spilled_bytes == 0
        assert not done.serialised
        assert "C7507" not in done.log  # registers are given and taken as asked
        assert done.registers <= 65536 // config.threads


# -- where there is a GPU --------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("problem", [problem for problem, _ in WALKS], ids=words)
def test_right(problem):
    try:
        device = this_device()
    except GpuError as error:
        pytest.skip(f"needs a GPU: {error}")
    if not device.is_hopper:
        pytest.skip("needs compute capability 9.0")
    assert check(problem, depthwise.NAME, seeds=(0,))["passed"]
