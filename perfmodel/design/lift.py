"""Which stages of a network lie under water, and what would lift each: more bandwidth, fusion, or a larger batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from perfmodel.design.subject import QuestionError, Subject
from perfmodel.design.thresholds import balance
from perfmodel.prediction import Prediction
from perfmodel.schedule import BLOCK
from perfmodel.waterline import KernelTime

BATCH_FACTOR = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLift:
    """A stage, how deep it lies, and what would lift it."""

    stage: str
    kernels: int
    latency_s: float
    share: float
    """Of the network's latency."""
    operational_intensity: float
    memory_bound_share: float
    """Of the stage's latency, in memory-bound kernels; under water above one half."""
    worst_kind: str
    """The kind of kernel that loses most arithmetic."""
    bandwidth_factor: float | None
    """How many times the bandwidth makes arithmetic hold at least half of its time; None: none does."""
    fused_latency_s: float
    fused_memory_bound_share: float
    fused_bandwidth_factor: float | None
    batched_memory_bound_share: float
    """With BATCH_FACTOR times the batch."""

    @property
    def under_water(self) -> bool:
        """Whether memory holds the kernels that take most of its time."""
        return self.memory_bound_share > 0.5

    @property
    def lifted_by(self) -> tuple[str, ...]:
        """Single changes after which it is no longer under water."""
        found = []
        if not self.under_water:
            return ()
        if self.fused_memory_bound_share <= 0.5:
            found.append("fusion")
        if self.batched_memory_bound_share <= 0.5:
            found.append(f"batch ×{BATCH_FACTOR}")
        if self.bandwidth_factor is not None:
            found.append(f"bandwidth ×{self.bandwidth_factor:.3g}")
        fused, alone = self.fused_bandwidth_factor, self.bandwidth_factor
        if self.fused_memory_bound_share > 0.5 and fused is not None and alone is not None and fused < 0.99 * alone:
            found.append(f"fusion and bandwidth ×{fused:.3g}")
        return tuple(found)


def stage_of(name: str) -> str:
    """The stage that a block or layer belongs to, from its name: what stands before the number of the block.

    >>> stage_of("stages.0.blocks.1"), stage_of("blocks.3.0.expand"), stage_of("layer1.2"), stage_of("s2.b1"), stage_of("conv_stem")
    ('stages.0', 'blocks.3', 'layer1', 's2', 'conv_stem')
    """
    match = re.match(r"(?:stages\.\d+|blocks\.\d+|layer\d+|s\d+|features\.\d+)", name)
    return match[0] if match else name.split(".", maxsplit=1)[0]


def lift(subject: Subject) -> tuple[StageLift, ...]:
    """Stage by stage, in the order they run."""
    now, fused = subject.prediction, subject.under(BLOCK).prediction
    batched = subject.at("batch", subject.batch * BATCH_FACTOR).prediction
    stages, fused_stages, batched_stages = map(_stages, (now, fused, batched))
    found = []
    for stage, times in stages.items():
        total = sum(time.latency_s for time in times)
        kinds: dict[str, float] = {}
        for time in times:
            kinds[time.kernel.kind] = kinds.get(time.kernel.kind, 0.0) + time.latency_s - time.arithmetic_s
        ops = sum(time.kernel.cost.ops for time in times)
        moved = sum(time.kernel.cost.dram_bytes for time in times)
        found.append(
            StageLift(
                stage=stage,
                kernels=len(times),
                latency_s=total,
                share=total / now.latency_s,
                operational_intensity=float(ops / moved),
                memory_bound_share=_memory_bound(times),
                worst_kind=max(kinds, key=lambda kind: kinds[kind]),
                bandwidth_factor=_bandwidth_factor(times, now),
                fused_latency_s=sum(time.latency_s for time in fused_stages[stage]),
                fused_memory_bound_share=_memory_bound(fused_stages[stage]),
                fused_bandwidth_factor=_bandwidth_factor(fused_stages[stage], now),
                batched_memory_bound_share=_memory_bound(batched_stages[stage]),
            )
        )
    return tuple(found)


def _stages(prediction: Prediction) -> Mapping[str, list[KernelTime]]:
    grouped = groupby(prediction.times, key=lambda time: stage_of(time.kernel.block or time.kernel.name))
    found: dict[str, list[KernelTime]] = {}
    for stage, times in grouped:
        found.setdefault(stage, []).extend(times)
    return found


def _memory_bound(times: list[KernelTime]) -> float:
    total = sum(time.latency_s for time in times)
    return sum(time.latency_s for time in times if time.bound_by == "memory") / total if total else 0.0


def _bandwidth_factor(times: list[KernelTime], prediction: Prediction) -> float | None:
    try:
        ratio = balance([(float(time.kernel.cost.ops), float(time.kernel.cost.dram_bytes)) for time in times])
    except QuestionError:
        return None
    return prediction.op_byte_ratio / ratio
