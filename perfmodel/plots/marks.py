"""The points of the roofline plot, before anything is drawn: kernels by operational intensity and attained rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perfmodel.plots import style
from perfmodel.prediction import Prediction
from perfmodel.units import percent
from perfmodel.waterline import Bound, KernelTime

LIKE: Final = 0.02
"""Step of the logarithm of the intensity within which kernels share a marker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Kernels of one bound and of like intensity: one marker, so that coinciding kernels do not hide each other's time."""

    bound: Bound
    ops: float
    dram_bytes: float
    latency_s: float
    kernels: int

    @property
    def intensity(self) -> float:
        """Ops per DRAM byte."""
        return self.ops / self.dram_bytes

    @property
    def rate_ops_per_s(self) -> float:
        """Ops per second that they attain under the model."""
        return self.ops / self.latency_s


def marks(prediction: Prediction) -> list[Mark]:
    """The kernels with matrix operations, those whose intensity agrees to about 2 % together; longest first."""
    groups: dict[tuple[Bound, int], list[KernelTime]] = {}
    for time in prediction.times:
        if time.kernel.cost.ops > 0 and time.latency_s > 0:
            step = round(math.log(float(time.kernel.cost.operational_intensity)) / LIKE)
            groups.setdefault((time.bound_by, step), []).append(time)
    found = [
        Mark(
            bound=bound,
            ops=float(sum(time.kernel.cost.ops for time in times)),
            dram_bytes=float(sum(time.kernel.cost.dram_bytes for time in times)),
            latency_s=sum(time.latency_s for time in times),
            kernels=len(times),
        )
        for (bound, _), times in groups.items()
    ]
    return sorted(found, key=lambda mark: -mark.latency_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutOps:
    """The kernels of one prediction that have no matrix operations, and so no place on a logarithmic axis."""

    said: str
    share: float
    """Of the time."""


def without_ops(predictions: Sequence[Prediction]) -> list[WithoutOps]:
    """One for each prediction that has such kernels."""
    _, own = style.common(predictions)
    found = []
    for prediction, words in zip(predictions, own, strict=True):
        held = [time for time in prediction.times if time.kernel.cost.ops == 0]
        if held:
            share = sum(time.latency_s for time in held) / prediction.latency_s if prediction.latency_s else 0.0
            who = f"{style.sentence(words) or style.plain(prediction.network.name)}: " if len(predictions) > 1 else ""
            said = f"{who}no matrix operations: {style.count(len(held), 'kernel')}, {percent(share)} of the time"
            found.append(WithoutOps(said=said, share=share))
    return found
