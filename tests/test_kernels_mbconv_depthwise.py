"""mbconv_depthwise: what it serves, its strips and rows walked in NumPy on the packed weights, and that it compiles."""

from __future__ import annotations

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
from perfmodel.validation.fused.problem import DeviceLimits, GpuError
from perfmodel.validation.fused.tiles import resident_blocks
from perfmodel.validation.gpu import this_device

H200 = DeviceLimits(
    name="H200",
    compute_capability=(9, 0),
    multiprocessors=132,
    shared_bytes_per_block=232448,
    shared_bytes_per_multiprocessor=233472,
    l2_bytes=62914560,
)


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
        assert not folded_bp[:, 1:].any() and not np.concatenate(folded_be)[:, 1:].any()
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
    total, sums_of = np.zeros((N, hidden)), []
    for last_pass in (False, True) if problem.squeeze else (True,):
        gates = np.ones((N, hidden))
        if problem.squeeze and last_pass:
            mean = total / (OH * OW)
            reduce, gate = (unbits(b.view(np.uint16), problem.dtype).reshape(problem.squeeze, -1) for b in (buffers[2], buffers[4]))
            gates = sigmoid(np, silu(np, mean @ reduce.T + buffers[3].view(np.float32)) @ gate + buffers[5].view(np.float32))
        for block, first, last in depthwise.pieces(problem, strips, config.tile_rows):
            at = sum(r[2] - r[1] for r in sums_of)
            sums_of.append((block, first, last))
            n, strip = at // OH // strips.count, at // OH % strips.count
            column = strips.column(problem, strip)
            left = ((strip - 1) * (SW - 2 * pad) + SW - 1 - pad) // S + 1 if strip else 0
            assert column >= 0 and (strip == 0 or left * S - pad >= column)
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
        sums_of.clear()
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
    import dataclasses

    config = dataclasses.replace(narrow(problem, blocks), tile_rows=rows)
    p = draw(problem, 3)
    x = np.random.default_rng(1).standard_normal(problem.input_shape)
    found = walk(problem, config, depthwise.KERNEL.pack(problem, config, p), x)
    np.testing.assert_allclose(found, reference(np, x, p, problem), rtol=1e-4, atol=1e-4)
