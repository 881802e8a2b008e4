"""What a set of errors says: the figures that every comparison reports."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict


class Summary(BaseModel):
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
    """Rank correlation of prediction and measurement, both per image; None for fewer than 3 rows."""
    within_10: float
    """Share of rows within 10 %."""

    @classmethod
    def of(cls, predicted: npt.ArrayLike, measured: npt.ArrayLike, per: npt.ArrayLike = 1.0) -> Self:
        """From latencies; `per` divides both before they are ranked (the batch size)."""
        from scipy.stats import spearmanr

        p, m = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
        error = p / m - 1
        per = np.asarray(per, dtype=np.float64)
        rank = float(spearmanr(p / per, m / per).statistic) if len(p) > 2 else None
        return cls(
            n=len(p),
            mape=float(np.mean(abs(error))),
            median_ape=float(np.median(abs(error))),
            p90_ape=float(np.quantile(abs(error), 0.9)),
            max_ape=float(np.max(abs(error))),
            bias=float(np.mean(error)),
            spearman=rank if rank is not None and np.isfinite(rank) else None,
            within_10=float(np.mean(abs(error) <= 0.1)),
        )
