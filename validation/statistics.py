"""What a set of errors says: the figures that every comparison reports."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict


def rank_correlation(left: npt.ArrayLike, right: npt.ArrayLike) -> float | None:
    """Spearman's; None for fewer than 3 rows, and where one side is the same in all of them: there is no order to agree on."""
    from scipy.stats import spearmanr

    sides = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if len(sides[0]) < 3 or not all(np.ptp(side) > 0 for side in sides):
        return None
    return float(spearmanr(*sides).statistic)


def rank_text(rank: float | None) -> str:
    """For tables."""
    return "–" if rank is None else f"{rank:.4f}"


class Errors(BaseModel):
    """Errors of predictions as fractions of the measurement, predicted / measured − 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    mape: float
    """Mean of the absolute errors."""
    median_ape: float
    p90_ape: float
    max_ape: float
    bias: float
    """Mean error: above 0 where predictions are too long."""
    spearman: float | None
    """Rank correlation of prediction and measurement, both per image; None where `rank_correlation` has none."""

    @property
    def errors(self) -> dict[str, Any]:
        """These figures alone, by their names."""
        return {name: getattr(self, name) for name in Errors.model_fields}


class Summary(Errors):
    """The same, and how many are near."""

    within_10: float
    """Share of rows within 10 %."""

    @classmethod
    def of(cls, predicted: npt.ArrayLike, measured: npt.ArrayLike, per: npt.ArrayLike = 1.0) -> Self:
        """From latencies; `per` divides both before they are ranked (the batch size)."""
        p, m = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
        error = p / m - 1
        per = np.asarray(per, dtype=np.float64)
        return cls(
            n=len(p),
            mape=float(np.mean(abs(error))),
            median_ape=float(np.median(abs(error))),
            p90_ape=float(np.quantile(abs(error), 0.9)),
            max_ape=float(np.max(abs(error))),
            bias=float(np.mean(error)),
            spearman=rank_correlation(p / per, m / per),
            within_10=float(np.mean(abs(error) <= 0.1)),
        )
