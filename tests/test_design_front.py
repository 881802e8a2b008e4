"""The front is that of the definition, however its designs are cut and ordered."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from perfmodel.design.front import Front, undominated


def by_definition(values: np.ndarray) -> list[int]:
    """O(n²): no other is at least as good in all and better in one, or equal and earlier."""
    keep = []
    for i, mine in enumerate(values):
        beaten = False
        for j, other in enumerate(values):
            if (other <= mine).all() and ((other < mine).any() or j < i):
                beaten = True
        if not beaten:
            keep.append(i)
    return keep


# few distinct numbers, so that ties and equal designs are common
VALUES = st.integers(1, 4).flatmap(
    lambda m: arrays.arrays(np.float64, st.tuples(st.integers(0, 40), st.just(m)), elements=st.integers(-3, 6).map(float))
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(VALUES)
def test_the_front_is_that_of_the_definition(values: np.ndarray) -> None:
    front = Front.of(np.arange(len(values)), values)
    assert sorted(front.index.tolist()) == by_definition(values)
    assert (front.values == values[front.index]).all()


@settings(derandomize=True, max_examples=200, deadline=None)
@given(VALUES, st.randoms(use_true_random=False), st.integers(1, 7))
def test_parts_in_any_order_give_the_same_front(values: np.ndarray, draw: object, parts: int) -> None:
    whole = Front.of(np.arange(len(values)), values)
    pieces = np.array_split(np.arange(len(values)), parts)
    draw.shuffle(pieces)  # type: ignore[attr-defined]
    front = Front.empty(values.shape[1])
    for piece in pieces:
        front = front.merged(Front.of(piece, values[piece]))
    assert front.index.tolist() == whole.index.tolist()
    assert front.values.tobytes() == whole.values.tobytes()


@settings(derandomize=True, max_examples=200, deadline=None)
@given(VALUES, st.integers(1, 5))
def test_probes_drop_nothing_of_the_front(values: np.ndarray, probes: int) -> None:
    front = Front.of(np.arange(len(values)), values)
    if not len(values):
        return
    kept = undominated(list(values.T), front.probes(probes))
    assert set(front.index.tolist()) <= set(kept.tolist())
    dropped = sorted(set(range(len(values))) - set(kept.tolist()))
    for place in dropped:
        assert ((front.values <= values[place]).all(axis=1) & (front.values < values[place]).any(axis=1)).any()


def test_many_designs_of_three_objectives() -> None:
    draw = np.random.default_rng(0)
    values = draw.random((3000, 3))
    values /= np.linalg.norm(values, axis=1, keepdims=True)  # on a sphere none dominates another
    values *= draw.choice([1.0, 1.02, 1.2], 3000)[:, None]
    front = Front.of(np.arange(3000), values)
    better = (values[:, None, :] <= values[None, :, :]).all(axis=2)
    np.fill_diagonal(better, val=False)
    assert sorted(front.index.tolist()) == np.flatnonzero(~better.any(axis=0)).tolist()
    assert 1000 < len(front.index) < 2500
