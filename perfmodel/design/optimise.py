"""Spaces too large to be searched whole: scipy's differential evolution, and steps along the axes from what it finds.

Every design that is looked at goes into the same front, so the result is the exact front of the designs seen, and no more than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.design.front import Front, Values
from perfmodel.design.search import Search, SearchResult, run
from perfmodel.design.space import SpaceError, decoded, encoded

_POPULATION = 64
_INFEASIBLE = 1e6
_AUGMENT = 1e-3
"""Weight of the sum beside the maximum in a scalarised objective, which keeps out weakly dominated designs."""


def optimise(
    search: Search, *, evaluations: int = 2_000_000, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> SearchResult:
    """The front of about `evaluations` designs, chosen by differential evolution towards different mixes of the objectives.

    A space of no more designs is evaluated whole. Raises SpaceError where no design that it looked at meets the constraints.
    """
    from scipy.optimize import differential_evolution

    if search.space.size <= evaluations:
        return run(search, progress=progress)
    search_whole: Any = differential_evolution  # its types know no vectorised functions
    space, began = search.space, time.perf_counter()
    archive = _Archive(search, progress)
    archive.see(np.sort(np.random.default_rng(seed).integers(0, space.size, min(evaluations // 4, 1 << 18))))
    if not len(archive.front.index):
        raise SpaceError(f"no design that was looked at meets the constraints: {search.conflict()}")
    mixes = list(_mixes(len(search.objectives), seed))
    varying = [place for place, size in enumerate(space.shape) if size > 1]
    share = max(_POPULATION * 4, (evaluations // 2) // len(mixes))
    for number, mix in enumerate(mixes):
        low, span = archive.ranges()

        def scalarised(x: npt.NDArray[np.float64], mix: Values = mix, low: Values = low, span: Values = span) -> Values:
            met, values = archive.see(_numbers(search, varying, x))
            scaled = np.where(met[:, None], (values - low) / span, 0.0) * mix
            return np.where(met, scaled.max(axis=1) + _AUGMENT * scaled.sum(axis=1), _INFEASIBLE)

        search_whole(
            scalarised,
            bounds=[(0, space.shape[place] - 1) for place in varying],
            integrality=np.ones(len(varying), dtype=bool),
            popsize=max(1, _POPULATION // len(varying)),
            maxiter=max(1, share // max(_POPULATION, len(varying)) - 1),
            vectorized=True,
            updating="deferred",
            polish=False,
            init="sobol",
            rng=np.random.default_rng(seed + number),
        )
    archive.climb(evaluations)
    return SearchResult(
        search=search,
        front=archive.front,
        evaluated=archive.evaluated,
        valid=archive.valid,
        feasible=archive.feasible,
        exhaustive=False,
        seconds=time.perf_counter() - began,
        backend="numpy, differential evolution",
    )


class _Archive:
    """Every design that was looked at, as their front."""

    def __init__(self, search: Search, progress: Callable[[int, int], None] | None) -> None:
        self._search, self._progress = search, progress
        self.front = Front.empty(len(search.objectives))
        self.evaluated = self.valid = self.feasible = 0

    def see(self, index: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], Values]:
        """(which meet all constraints, objectives) of these designs; they join the front."""
        exists, met, columns = self._search.costs(index)
        values = np.stack(columns, axis=1)
        self.evaluated += len(index)
        self.valid += int(np.count_nonzero(exists))
        self.feasible += int(np.count_nonzero(met))
        self.front = self.front.merged(Front.of(index[met], values[met]))
        if self._progress is not None:
            self._progress(self.evaluated, len(self.front.index))
        return met, values

    def ranges(self) -> tuple[Values, Values]:
        """The least value of each objective on the front, and how far it goes."""
        low, high = self.front.values.min(axis=0), self.front.values.max(axis=0)
        return low, np.where(high > low, high - low, 1.0)

    def climb(self, evaluations: int) -> None:
        """Step from each design of the front to its neighbours on every axis until none is better."""
        shape, done = self._search.space.shape, set[int]()
        while fresh := [number for number in self.front.index.tolist() if number not in done]:
            if self.evaluated >= evaluations:
                return
            done.update(fresh)
            places = np.stack(decoded(np.array(fresh), shape), axis=1)
            steps = [places + sign * np.eye(len(shape), dtype=np.int64)[axis] for axis in range(len(shape)) for sign in (-1, 1)]
            near = np.concatenate(steps)
            near = near[((near >= 0) & (near < np.array(shape))).all(axis=1)]
            self.see(np.unique(encoded(list(near.T), shape)))


def _numbers(search: Search, varying: list[int], x: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Numbers of the designs at places `x`, one column per design."""
    places = [np.zeros(x.shape[1], dtype=np.int64) for _ in search.space.shape]
    for row, place in zip(x, varying, strict=True):
        places[place] = np.rint(row).astype(np.int64)
    return encoded(places, search.space.shape)


def _mixes(objectives: int, seed: int) -> Iterator[Values]:
    """Weights of the objectives: one; evenly spaced between two; drawn for more."""
    if objectives == 1:
        yield np.ones(1)
    elif objectives == 2:
        for share in np.linspace(0.02, 0.98, 13):
            yield np.array([share, 1 - share])
    else:
        yield from np.random.default_rng(seed).dirichlet(np.ones(objectives), 8 * objectives)
