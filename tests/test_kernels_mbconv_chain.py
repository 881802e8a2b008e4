"""mbconv_chain: what it serves, how its rows are shared out, and its packed weights."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.mbconv import chain, rows
from perfmodel.validation.fused.mbconv.family import FAMILY
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from tests.gpus import H200
from tests.test_kernels_mbconv_rows import check_stream, check_walks


def configured(**sizes):
    problem = MBConvProblem(**{"N": 128, "H": 28, "W": 28, "C": 128, "expansion": 4, **sizes})
    return problem, chain.configure(problem, H200)


@pytest.mark.parametrize("C", chain.WARPGROUPS)
def test_stream(C):
    problem, config = configured(C=C)
    check_stream(chain.KERNEL, problem, config, chain.CHUNK, (0, 1, 2))


def walks_of(problem, config: Config):
    """As the source walks, in the sequence of all strips: the rows of h and of y of each block."""
    total, H, height = rows.sequence(problem), problem.H, 4 * config.defines["WARPGROUPS"]
    for first in range(0, total, config.tile_rows):
        last = min(first + config.tile_rows, total)
        above = int(first % H != 0)
        # the last row of a strip, behind whole steps, has no step of its own
        tail = last % H == 0 and (last - first + above) % height == 0
        steps = (last - first + above + (not tail) + height - 1) // height
        start = first - above
        h = [s for s in range(start, start + height * steps) if s < total]
        yield h, [s - 1 for s in range(start, start + height * steps + tail) if first < s <= last]


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(1, 9),
    H=st.integers(1, 40),
    W=st.integers(1, 40),
    C=st.sampled_from(sorted(chain.WARPGROUPS)),
    sms=st.integers(1, 132),
)
def test_every_row_is_written_once_where_its_neighbours_are(N, H, W, C, sms):
    problem = MBConvProblem(N=N, H=H, W=W, C=C, expansion=4)
    device = replace(H200, multiprocessors=sms)
    config = chain.offer(problem, device, chain.shared_bytes(C, problem.hidden)).config
    (launch,) = chain.KERNEL.launches(problem, config, device)
    assert launch.grid[0] <= sms
    check_walks(problem, walks_of(problem, config))


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"dtype": "bf16"}, "fp16, not bf16"),
        ({"stride": 2}, "with stride 2"),
        ({"C": 64}, "96 or 128 channels, not 64"),
        ({"expansion": 1}, "not 4"),
        ({"C": 96, "expansion": 2}, "not 6"),
        ({"C": 96, "expansion": 3}, "not 9"),
        ({"expansion": 5}, "8 or 12 or 16, not 20"),
        ({"N": 16}, "mbconv_rows at"),
    ],
)
def test_refuses(form, why):
    _, config = configured(**form)
    assert isinstance(config, str)
    assert why in config


def test_refuses_what_does_not_fit():
    problem, config = configured()
    assert isinstance(config, Config)
    small = replace(H200, shared_bytes_per_block=config.shared_bytes - 1)
    assert (
        chain.configure(problem, small)
        == f"its weights and rows need {config.shared_bytes} of {config.shared_bytes - 1} B of shared memory"
    )


@pytest.mark.parametrize(
    ("C", "H", "N", "name"),
    [(96, 56, 1, rows.NAME), (96, 56, 128, chain.NAME), (128, 28, 16, rows.NAME), (128, 28, 128, chain.NAME)],
)
def test_serves_large_batches(C, H, N, name):
    assert FAMILY.choose(MBConvProblem(N=N, H=H, W=H, C=C, expansion=4), H200).kernel == name


@pytest.mark.parametrize(("groups", "chunks"), [(2, 16), (2, 12), (2, 8), (3, 12)])
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_rings_hold_what_is_read(groups, chunks, tail, seed):
    """Slots, phases and places as the source has them, for warps and copies that take turns at random: what is read is what was meant.

    With `tail` a strip's last row comes behind the last step: chunks by turns, sums where rows of h were.
    """
    rng, steps = random.Random(seed), 5
    near = 8 if chunks % 8 == 0 else 6
    segments, total = chunks // near, steps * chunks
    together = groups == 2
    full, empty = [[0, 0] for _ in range(chain.SLOTS)], [[0, 0] for _ in range(chain.SLOTS)]  # phases that are complete, arrivals
    handed = {(g, i): [0, 0] for g in range(groups - 1) for i in range(near)}
    weights: dict[tuple[int, str], int] = {}
    rows_at: dict[tuple[object, ...], object] = {}
    inside, passed = Counter[str](), Counter[str]()  # warps at a named barrier, and how often it was passed

    def arrive(barrier, count):
        barrier[1] += 1
        if barrier[1] == count:
            barrier[:] = [barrier[0] + 1, 0]

    def done(barrier, parity):  # as mbarrier.try_wait: the phase of this parity is complete
        return barrier[0] % 2 != parity

    def meet(name, warps):
        turn = passed[name]
        inside[name] += 1
        if inside[name] == warps:
            inside[name] = 0
            passed[name] += 1
        while passed[name] == turn:
            yield False

    def parity(n):
        """Of the phase that brings item n."""
        step, j = divmod(n, chunks)
        return (j // 4 + ((n & 3) >= 2) + (step if chunks // 4 % 2 else 0)) & 1

    def place(group, warp, step, j):
        """Where a warp's row of h of a chunk goes."""
        if warp < 2:
            return ("pairs", group, j % near, warp)
        if group < groups - 1:
            return ("near", group, j % near, warp - 2)
        return ("far", (j // near - step) % (segments + 1) * near + j % near, warp - 2)

    def above(group, warp, back, step, j):
        """Where the row lies that is so many above a warp's own."""
        if warp >= back:
            return place(group, warp - back, step, j)
        return place((group - 1) % groups, warp - back + 4, step - (group == 0), j)

    def sums_of(group):
        """Of the last row: C·64 bytes for each warpgroup but the first, from the first one's entries of 2,048 on."""
        each = {3: 96, 2: 128}[groups] * 64 // 2048
        return [("pairs", 0, entry, warp) for entry in range((group - 1) * each, group * each) for warp in range(2)]

    def producer():
        for n in range(-2, total + chunks * tail):
            slot, use = n & 3, (n >> 2) + ((n & 3) >= 2)
            while not done(empty[slot], use & 1 ^ 1):
                yield False
            for _ in range(rng.randrange(6)):
                yield True
            if n < total:
                weights[slot, "expansion"] = n + 2
            if n >= 0:
                weights[slot, "rest"] = n
            arrive(full[slot], 1)
            yield True

    def consumer(group, warp):
        row = 4 * group + warp

        def activate(n):
            step, j = divmod(n, chunks)
            rows_at[place(group, warp, step, j)] = (row + step * 4 * groups, j)
            if warp >= 2 and group < groups - 1:
                arrive(handed[group, j % near], 2)

        for n, slot in ((0, 2), (1, 3)):
            while not done(full[slot], 0):
                yield False
            assert weights[slot, "expansion"] == n
            if n == 0:
                activate(0)
                yield True
        for n in range(total):
            step, j = divmod(n, chunks)
            yield from meet(f"warpgroup {group}", 4)
            if group > 0 and warp < 2:
                while not done(handed[group - 1, j % near], (j // near + (step if segments % 2 else 0)) & 1):
                    yield False
            if warp == 0:
                arrive(empty[j & 3 ^ 2], groups)
            yield True
            if together or n == 0:
                while not done(full[j & 3], parity(n)):
                    yield False
            for back in (1, 2):
                wanted = row + step * 4 * groups - back
                assert wanted < 0 or rows_at[above(group, warp, back, step, j)] == (wanted, j)
                yield True
            activate(n + 1)
            yield True
            assert weights[j & 3, "rest"] == n
            if not together and (n + 1 < total or tail):  # the next chunk's, under this chunk's convolution
                while not done(full[n + 1 & 3], parity(n + 1)):
                    yield False
            yield True
            assert weights[j & 3, "expansion"] == n + 2
        if tail:
            yield from last_row(group, warp)

    def last_row(group, warp):
        left = 0

        def fetch(j):
            for of_warp in (2, 3):
                assert rows_at[place(groups - 1, of_warp, steps - 1, j)] == (4 * groups * steps - 4 + of_warp, j)

        def leave_before(j):
            nonlocal left
            for n in range(left, j if warp == 0 else left):
                while not done(full[n & 3], parity(total + n)):
                    yield False
                arrive(empty[n & 3], groups)
                left = n + 1
                yield True

        yield from meet(f"warpgroup {group}", 4)
        if warp == 0:
            arrive(empty[2], groups)
            arrive(empty[3], groups)
        yield True
        fetch(group)
        for j in range(group, chunks, groups):
            while not done(full[j & 3], parity(total + j)):
                yield False
            assert weights[j & 3, "rest"] == total + j
            yield True
            if j + groups < chunks:
                fetch(j + groups)
            yield from meet(f"warpgroup {group}", 4)
            yield from leave_before(j)
            yield True
            assert weights[j & 3, "rest"] == total + j
        yield from leave_before(chunks - chain.SLOTS)
        if group > 0 and warp == 0:
            for at in sums_of(group):
                rows_at[at] = group
        yield True
        yield from meet("block", 4 * groups)
        assert all(rows_at[at] == other for other in range(1, groups) for at in sums_of(other))

    actors = [producer(), *(consumer(group, warp) for group in range(groups) for warp in range(4))]
    stalled = 0
    while actors:
        actor = rng.choice(actors)
        for _ in range(rng.choice((1, 1, 30))):
            moved = next(actor, None)
            if not moved:
                break
        if moved is None:
            actors.remove(actor)
        stalled = 0 if moved or moved is None else stalled + 1
        assert stalled < 2000, "nobody moves"
