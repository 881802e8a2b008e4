"""The geometry of the waterline plot, before anything is drawn: one column per kernel, and the water between it and the line."""

from __future__ import annotations

from dataclasses import dataclass, replace

from perfmodel.kernel import Kernel
from perfmodel.prediction import Prediction
from perfmodel.waterline import Bound, KernelTime, Limits, kernel_times


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One kernel: as wide as its DRAM bytes, as high as its operational intensity, so that its area is its ops."""

    time: KernelTime
    """On the waterline, whatever the tier of the prediction."""
    x0_bytes: float
    """DRAM bytes of all kernels before it."""
    width_bytes: float
    height_ops_per_byte: float
    ops: float
    """The area: width · height."""
    water_ops: float
    """Ops that the machine could have done while it moved the bytes: max(0, B · width − ops)."""

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        return self.time.kernel

    @property
    def bound(self) -> Bound:
        """What holds it: memory where the column ends below the line."""
        return self.time.bound_by

    @property
    def x1_bytes(self) -> float:
        """Its right edge."""
        return self.x0_bytes + self.width_bytes


def on_waterline(prediction: Prediction) -> Prediction:
    """The same kernels under tier waterline, whose roof and line the plots draw."""
    if prediction.tier == "waterline":
        return prediction
    times = kernel_times(prediction.kernels, Limits.waterline(prediction.device, prediction.peak))
    return replace(prediction, tier="waterline", times=times)


def columns(prediction: Prediction) -> tuple[Column, ...]:
    """The columns in execution order; the line lies at B = `prediction.op_byte_ratio`.

    Waterline latency = Σ (ops + water) / peak; attainable efficiency = Σ ops / Σ (ops + water).
    """
    level = prediction.op_byte_ratio
    drawn: list[Column] = []
    x0 = 0.0
    for time in on_waterline(prediction).times:
        cost = time.kernel.cost
        column = Column(
            time=time,
            x0_bytes=x0,
            width_bytes=float(cost.dram_bytes),
            height_ops_per_byte=float(cost.operational_intensity),
            ops=float(cost.ops),
            water_ops=max(0.0, level * float(cost.dram_bytes) - float(cost.ops)),
        )
        drawn.append(column)
        x0 = column.x1_bytes
    return tuple(drawn)
