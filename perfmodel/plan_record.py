"""The JSON that `perfmodel plan` prints: the cut, the reason for each, and the prediction under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict

from perfmodel.record import PredictionRecord

if TYPE_CHECKING:
    from perfmodel.planning import Plan, PlannedSegment

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CutRecord(_Record):
    """Why a segment ends where it does; `together_s` is its latency if it were fused with what reads its result, where that fits."""

    kind: str
    reason: str
    together_s: float | None


class SegmentRecord(_Record):
    """Layers that are fused; `layer_…` is what the same layers come to on schedule `layer`."""

    name: str
    layers: list[str]
    fused: list[str]
    kernels: list[str]
    latency_s: float
    layer_latency_s: float
    dram_bytes: int
    layer_dram_bytes: int
    workspace_bytes: int
    cut: CutRecord

    @classmethod
    def of(cls, segment: PlannedSegment) -> Self:
        """The record of a segment."""
        reason = segment.reason
        return cls(
            name=segment.name,
            layers=list(segment.layers),
            fused=list(segment.pieces),
            kernels=[time.kernel.name for time in segment.times],
            latency_s=segment.latency_s,
            layer_latency_s=segment.alone_s,
            dram_bytes=segment.dram_bytes,
            layer_dram_bytes=segment.alone_bytes,
            workspace_bytes=segment.workspace_bytes,
            cut=CutRecord(kind=reason.kind, reason=reason.sentence, together_s=reason.together_s),
        )


class PlanRecord(_Record):
    """A whole plan. Latencies are waterline latencies of the whole batch; `fused` names the kernels of schedule `layer` in a segment."""

    schema_version: int
    model: str
    hardware: str
    batch: int
    latency_s: float
    layer_latency_s: float
    block_latency_s: float
    lower_bound_s: float
    gap: float
    complete: bool
    given: bool
    longest: int
    visited: int
    considered: int
    costed: int
    segments: list[SegmentRecord]
    prediction: PredictionRecord

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The record of a plan."""
        return cls(
            schema_version=SCHEMA_VERSION,
            model=plan.prediction.network.name,
            hardware=plan.prediction.device.slug,
            batch=plan.prediction.network.batch,
            latency_s=plan.latency_s,
            layer_latency_s=plan.layer.latency_s,
            block_latency_s=plan.block.latency_s,
            lower_bound_s=plan.lower_bound_s,
            gap=plan.gap,
            complete=plan.complete,
            given=plan.given,
            longest=plan.longest,
            visited=plan.visited,
            considered=plan.considered,
            costed=plan.costed,
            segments=[SegmentRecord.of(segment) for segment in plan.segments],
            prediction=PredictionRecord.of(plan.prediction),
        )
