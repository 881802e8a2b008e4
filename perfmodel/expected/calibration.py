"""Fitting the constants of a stack to measured latencies: robust, with priors, and tested on what was left out. SciPy loads inside."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from perfmodel.expected.constants import NAMES, CalibrationError, Constants, Prior
from perfmodel.expected.features import Features, Floats, Integers
from perfmodel.expected.machine import Machine
from perfmodel.expected.terms import ALL, kernel_seconds

SCALE: Final = 0.06
"""Of log(predicted / measured), beyond which a row pulls less: soft-L1's knee."""
FOLDS: Final = 10
QUANTILES: Final = (0.05, 0.95)
LEAST_ROWS: Final = 20
TOLERANCE: Final = 1e-5
"""Relative, of the cost and of the constants' logarithms: far finer than they are known."""

UNBOUNDED: Final = ("row_clocks", "unaligned", "grouped_passes", "gap_s")
FRACTIONS: Final = (0.02, 1.99)
"""Between which the other constants are sought."""

COMPILED_ROW_CLOCKS: Final = Prior(value=120.0, sigma=0.4)
"""The same where a compiler writes the norm: it has several rows in flight per block."""

PRIORS: Final[Mapping[str, Prior]] = MappingProxyType(
    {
        "matrix_rate": Prior(value=1.0, sigma=0.2),
        "matrix_bandwidth": Prior(value=0.87, sigma=0.1),
        "depthwise_bandwidth": Prior(value=0.75, sigma=0.2),
        "pointwise_bandwidth": Prior(value=0.92, sigma=0.1),
        "broadcast_bandwidth": Prior(value=0.85, sigma=0.1),
        "move_bandwidth": Prior(value=0.6, sigma=0.2),
        "unhidden": Prior(value=0.3, sigma=0.4),
        "l2_share": Prior(value=0.33, sigma=0.2),
        "row_clocks": Prior(value=278.0, sigma=0.1),
        "unaligned": Prior(value=2.0, sigma=0.2),
        "grouped_passes": Prior(value=3.0, sigma=0.3),
        "gap_s": Prior(value=1e-6, sigma=0.7),
    }
)
"""What a constant is taken to be where the data does not say: several are not identifiable on one device (the share of a 6 MB L2), and
would otherwise ruin the transfer to another. `row_clocks` is what `perfmodel hardware measure` found on an H200 (9.4e8 rows/s of PyTorch's
layer norm at its 132 multiprocessors and 1.98 GHz); the others are rounded values of a feasibility study, with the width of our doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Networks measured on one machine: their kernels, their latencies, and what they are told apart by."""

    machine: Machine
    features: tuple[Features, ...]
    """One entry per row."""
    latency_s: Floats
    compiled: bool = False
    """Whether a compiler writes the kernels between library calls (schedule pointwise)."""

    def __post_init__(self) -> None:
        if len(self.features) != len(self.latency_s):
            raise ValueError("one latency per network")

    def at(self, rows: Integers) -> Measurements:
        """Some of the rows."""
        return Measurements(
            machine=self.machine,
            features=tuple(self.features[i] for i in rows),
            latency_s=self.latency_s[np.asarray(rows)],
            compiled=self.compiled,
        )

    def compressed(self) -> Measurements:
        """The same, for fitting: equal kernels counted."""
        return replace(self, features=tuple(one if (one.count > 1).any() else one.compressed() for one in self.features))


def expected_s(given: Measurements, constants: Constants, terms: AbstractSet[str] = ALL) -> Floats:
    """Predicted latency of each row."""
    joined = Features.joined(given.features)
    return joined.total(kernel_seconds(joined, given.machine, constants, terms, compiled=given.compiled).latency_s)


def fit(
    given: Measurements | Sequence[Measurements],
    terms: AbstractSet[str] = ALL,
    fixed: Mapping[str, float] | None = None,
    near: Constants | None = None,
) -> Constants:
    """The constants that bring predictions nearest to the measurements, of one machine or of several together.

    Minimises Σ soft_l1((log predicted − log measured)/SCALE) + Σ ((log c − log prior)/σ)² over the logarithms of the constants that are
    not `fixed`, from `near` (the priors) on. The features may be compressed. Raises CalibrationError where there are too few rows.
    """
    from scipy.optimize import least_squares

    sets = [given] if isinstance(given, Measurements) else list(given)
    count = sum(len(one.features) for one in sets)
    if count < LEAST_ROWS:
        raise CalibrationError(f"{count} measured networks are too few to fit constants to; at least {LEAST_ROWS} are needed")
    work = [(Features.joined(one.features), one.machine, np.log(one.latency_s), one.compiled) for one in sets]
    held = dict(fixed or {})
    free = [name for name in NAMES if name not in held]
    priors = {**PRIORS, "row_clocks": COMPILED_ROW_CLOCKS} if all(one.compiled for one in sets) else PRIORS
    start = np.log([priors[name].value for name in free])
    sigma = np.array([priors[name].sigma for name in free])

    def values(logs: Floats) -> dict[str, float]:
        return {**held, **dict(zip(free, map(float, np.exp(logs)), strict=True))}

    def residuals(logs: Floats) -> Floats:
        constants = Constants.model_construct(None, **values(logs))
        rows = []
        for joined, machine, measured, compiled in work:
            predicted = joined.total(kernel_seconds(joined, machine, constants, terms, compiled=compiled).latency_s)
            scaled = (np.log(predicted) - measured) / SCALE
            # soft-L1 of the rows as the square of what is returned, so that the priors beside them stay quadratic
            rows.append(np.sign(scaled) * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1)))
        return np.concatenate([*rows, (logs - start) / sigma])

    limits = np.log([(1e-9, 1e5) if name in UNBOUNDED else FRACTIONS for name in free])
    begin = start if near is None else np.log([getattr(near, name) for name in free])
    begin = np.clip(begin, limits[:, 0] + 1e-6, limits[:, 1] - 1e-6)
    found = least_squares(residuals, begin, bounds=(limits[:, 0], limits[:, 1]), ftol=TOLERANCE, xtol=TOLERANCE)
    return Constants.model_validate(values(found.x))


def folds(families: Sequence[Hashable], count: int = FOLDS) -> Integers:
    """Which fold each row is in: families whole, the largest dealt out first, so that folds are of like size."""
    sizes: dict[Hashable, int] = {}
    for family in families:
        sizes[family] = sizes.get(family, 0) + 1
    loads = [0] * count
    fold_of: dict[Hashable, int] = {}
    for family in sorted(sizes, key=lambda name: (-sizes[name], str(name))):
        fold_of[family] = int(np.argmin(loads))
        loads[fold_of[family]] += sizes[family]
    return np.array([fold_of[family] for family in families], dtype=np.int64)


def left_out(given: Measurements, groups: Integers, terms: AbstractSet[str] = ALL) -> Floats:
    """Predicted latency of each row by constants fitted without its group."""
    given = given.compressed()
    near = fit(given, terms)
    predicted = np.empty(len(given.features))
    for group in np.unique(groups):
        inside, outside = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        predicted[inside] = expected_s(given.at(inside), fit(given.at(outside), terms, near=near), terms)
    return predicted


def quantiles(predicted: Floats, measured: Floats) -> tuple[float, float]:
    """measured / predicted, at the ends of the interval."""
    low, high = np.quantile(measured / predicted, QUANTILES)
    return float(low), float(high)


def coverage(predicted: Floats, measured: Floats, groups: Integers) -> float:
    """Share of rows inside an interval whose quantiles come from the other groups; `predicted` is of constants that left the row out."""
    inside = 0
    for group in np.unique(groups):
        low, high = quantiles(predicted[groups != group], measured[groups != group])
        ratio = measured[groups == group] / predicted[groups == group]
        inside += int(np.sum((ratio >= low) & (ratio <= high)))
    return inside / len(measured)
