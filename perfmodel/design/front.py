"""The exact Pareto front of designs: of equal ones that with the lowest number; the same in whatever order and parts they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
"""One row per design, one column per objective; less is better."""
Indices = npt.NDArray[np.int64]

_BLOCK: Final = 512
_PROBES: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Designs none of which another one dominates: is at least as good in every objective and better in one, or equal and earlier."""

    index: Indices
    """Numbers of the designs, sorted by their objectives, the first objective first."""
    values: Values

    @classmethod
    def empty(cls, objectives: int) -> Front:
        """No design yet."""
        return cls(index=np.empty(0, np.int64), values=np.empty((0, objectives)))

    @classmethod
    def of(cls, index: Indices, values: Values) -> Front:
        """The front of these designs."""
        order = np.lexsort((index, *values.T[::-1]))
        index, values = index[order], values[order]
        keep = _keep(values)
        return cls(index=index[keep], values=values[keep])

    def merged(self, other: Front) -> Front:
        """The front of the designs of both."""
        if not len(other.index):
            return self
        if not len(self.index):
            return other
        joined = np.concatenate([self.index, other.index]), np.concatenate([self.values, other.values])
        return Front.of(*joined)

    def probes(self, most: int = _PROBES) -> Values:
        """A few of its members, spread over it, each moved by the least step in its first objective.

        What is no better than a probe in any objective is dominated for certain, and never merely equal.
        """
        if not len(self.index):
            return self.values
        chosen = np.unique(np.linspace(0, len(self.index) - 1, most).round().astype(np.int64))
        probes = self.values[chosen].copy()
        probes[:, 0] = np.nextafter(probes[:, 0], np.inf)
        return probes


def _keep(values: Values) -> npt.NDArray[np.bool_]:
    """Which rows of lexicographically sorted `values` (equal rows by number) stay: only earlier rows can dominate or equal a row."""
    count, objectives = values.shape
    if objectives == 1:
        first: npt.NDArray[np.bool_] = np.arange(count) == 0
        return first
    if objectives == 2:
        best = np.concatenate([[np.inf], np.minimum.accumulate(values[:-1, 1])]) if count else np.empty(0)
        return np.asarray(values[:, 1] < best)
    keep = np.zeros(count, dtype=bool)
    kept = values[:0]
    for start in range(0, count, _BLOCK):
        block = values[start : start + _BLOCK]
        alive = np.flatnonzero(~_covered(block, kept))
        block = block[alive]
        inner = (block[:, None, :] <= block[None, :, :]).all(axis=2)  # [i, j]: i is no worse than j
        covered = np.triu(inner, 1).any(axis=0)
        keep[start + alive[~covered]] = True
        kept = np.concatenate([kept, block[~covered]])
    return keep


def _covered(rows: Values, by: Values) -> npt.NDArray[np.bool_]:
    """Which rows some row of `by` is no worse than in every objective."""
    covered = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(by), _BLOCK):
        better = by[None, start : start + _BLOCK, :] <= rows[:, None, :]
        np.logical_or(covered, np.any(np.all(better, axis=2), axis=1), out=covered)
    return covered


def undominated(columns: list[Any], probes: Values) -> npt.NDArray[np.int64]:
    """Places of designs that no probe dominates; `columns` are the objectives as arrays of one length."""
    places = np.arange(len(columns[0]))
    for probe in probes:
        worse = columns[0] >= probe[0]
        for column, bound in zip(columns[1:], probe[1:], strict=True):
            worse &= column >= bound
        left = np.flatnonzero(~worse)
        if len(left) < len(worse):
            places, columns = places[left], [column[left] for column in columns]
        if not len(places):
            break
    return places
