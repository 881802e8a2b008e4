"""The JSON that a prediction prints: one object with a fixed set of fields, each with its unit in its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from perfmodel.prediction import Prediction
    from perfmodel.waterline import KernelTime

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AccessRecord(_Record):
    """A tensor that a kernel reads or writes."""

    tensor: str
    role: str
    dtype: str
    elements: int
    bytes: int


class KernelRecord(_Record):
    """One kernel."""

    name: str
    kind: str
    layers: list[str]
    block: str | None
    macs: int
    ops: int
    vector_ops: int
    special_ops: int
    dram_bytes_read: int
    dram_bytes_written: int
    workspace_bytes: int
    operational_intensity: float
    bound_by: str
    latency_s: float
    arithmetic_s: float
    memory_s: float
    rate_s: float
    exposed_s: float
    gap_s: float
    path: str | None
    diagnosis: str | None
    share: float
    tiling: str | None
    reads: list[AccessRecord]
    writes: list[AccessRecord]

    @classmethod
    def of(cls, time: KernelTime, total_s: float) -> Self:
        kernel, cost = time.kernel, time.kernel.cost
        accesses = [
            [AccessRecord(tensor=a.tensor, role=a.role, dtype=a.dtype, elements=a.elements, bytes=a.bytes) for a in side]
            for side in (kernel.reads, kernel.writes)
        ]
        return cls(
            name=kernel.name,
            kind=kernel.kind,
            layers=list(kernel.layers),
            block=kernel.block,
            macs=cost.macs,
            ops=cost.ops,
            vector_ops=cost.vector_ops,
            special_ops=cost.special_ops,
            dram_bytes_read=cost.dram_bytes_read,
            dram_bytes_written=cost.dram_bytes_written,
            workspace_bytes=cost.workspace_bytes,
            operational_intensity=cost.operational_intensity,
            bound_by=time.bound_by,
            latency_s=time.latency_s,
            arithmetic_s=time.arithmetic_s,
            memory_s=time.memory_s,
            rate_s=time.rate_s,
            exposed_s=time.exposed_s,
            gap_s=time.gap_s,
            path=time.path,
            diagnosis=time.diagnosis,
            share=time.latency_s / total_s if total_s else 0.0,
            tiling=kernel.tiling,
            reads=accesses[0],
            writes=accesses[1],
        )


class CoverageRecord(_Record):
    """How much of the network is understood; `macs_fraction` is null where an operation of unknown MACs is not."""

    operations: int
    unsupported_operations: int
    macs_fraction: float | None
    bytes_fraction: float


class PredictionRecord(_Record):
    """A whole prediction. Latencies are for the whole batch; `macs` are multiply-accumulates and `ops` = 2 · `macs`.

    Those of the prediction are the network's; those of a kernel are what it executes, which in a fused program may count a halo twice.
    """

    schema_version: int
    model: str
    hardware: str
    batch: int
    resolution: int
    dtype: str
    autocast: str | None
    layout: str
    schedule: str
    tier: str
    params: int
    macs: int
    ops: int
    vector_ops: int
    special_ops: int
    dram_bytes_read: int
    dram_bytes_written: int
    operational_intensity: float
    ideal_latency_s: float
    latency_s: float
    latency_low_s: float | None
    latency_high_s: float | None
    roofline_latency_s: float
    waterline_latency_s: float
    bound_latency_s: float | None
    efficiency: float
    throughput_per_s: float
    bottleneck: str
    assumptions: list[str]
    unsupported: list[str]
    coverage: CoverageRecord
    kernels: list[KernelRecord]

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """The record of a prediction."""
        cost, total_s = prediction.cost, prediction.latency_s
        return cls(
            schema_version=SCHEMA_VERSION,
            model=prediction.network.name,
            hardware=prediction.device.slug,
            batch=prediction.network.batch,
            resolution=prediction.network.resolution,
            dtype=prediction.precision.dtype,
            autocast=prediction.precision.autocast,
            layout=prediction.layout,
            schedule=prediction.schedule,
            tier=prediction.tier,
            params=prediction.network.params,
            macs=prediction.network.macs,
            ops=prediction.ops,
            vector_ops=cost.vector_ops,
            special_ops=cost.special_ops,
            dram_bytes_read=cost.dram_bytes_read,
            dram_bytes_written=cost.dram_bytes_written,
            operational_intensity=prediction.operational_intensity,
            ideal_latency_s=prediction.ideal_latency_s,
            latency_s=total_s,
            latency_low_s=prediction.latency_low_s,
            latency_high_s=prediction.latency_high_s,
            roofline_latency_s=prediction.roofline_latency_s,
            waterline_latency_s=prediction.waterline_latency_s,
            bound_latency_s=prediction.bound_latency_s,
            efficiency=prediction.efficiency,
            throughput_per_s=prediction.throughput_per_s,
            bottleneck=prediction.bottleneck,
            assumptions=list(prediction.assumptions),
            unsupported=list(prediction.unsupported),
            coverage=CoverageRecord(
                operations=prediction.coverage.operations,
                unsupported_operations=prediction.coverage.unsupported_operations,
                macs_fraction=prediction.coverage.macs_fraction,
                bytes_fraction=prediction.coverage.bytes_fraction,
            ),
            kernels=[KernelRecord.of(time, total_s) for time in prediction.times],
        )
