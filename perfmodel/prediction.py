"""From a network and a machine to a prediction: latency, what holds it, and how far it is from the ideal."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from perfmodel.coverage import Coverage
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec, Document, HardwareError, Peak
from perfmodel.importers.model import network as build
from perfmodel.kernel import NOT_FUSED, Kernel
from perfmodel.layers.cost import OPS_PER_MAC, Cost
from perfmodel.layers.graph import Node
from perfmodel.layers.unsupported import Unsupported
from perfmodel.network import Network
from perfmodel.networks.catalog import whole_batch, whole_resolution
from perfmodel.precision import Precision
from perfmodel.schedule import AUTO, BLOCK, Partition, check, kernels
from perfmodel.units import si, text
from perfmodel.waterline import Bound, KernelTime, Limits, kernel_times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Tier = Literal["waterline", "bound", "expected"]
TIERS: Final = ("waterline", "bound", "expected")


class TierError(PerfmodelError):
    """A tier that does not exist, or that this device or schedule has no figures for."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How long a network takes on a machine, kernel by kernel.

    `latency_s` is that of `tier`; `waterline_latency_s`, `roofline_latency_s` and, where the device's figures allow it, `bound_latency_s`
    are always there to compare.
    """

    network: Network
    device: DeviceSpec
    precision: Precision
    layout: str
    schedule: str
    tier: Tier
    peak: Peak
    times: tuple[KernelTime, ...]
    """Per kernel, under `tier`, in execution order."""
    waterline_latency_s: float
    bound_latency_s: float | None
    """None where the device lacks a figure that the bound needs; `assumptions` says which."""
    assumptions: tuple[str, ...]
    unsupported: tuple[str, ...] = ()
    """Each operation of the network that is not understood, and where it is."""
    latency_low_s: float | None = None
    """Tier `expected`: 5 % of networks that the constants had not seen took less; None under other tiers."""
    latency_high_s: float | None = None
    """Tier `expected`: 5 % took more."""

    @functools.cached_property
    def coverage(self) -> Coverage:
        """How much of the network is understood."""
        return Coverage.of(self.network, self.kernels)

    @functools.cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels in execution order."""
        return tuple(time.kernel for time in self.times)

    @functools.cached_property
    def cost(self) -> Cost:
        """What the kernels do in all; a fused program may compute a halo more than once, so its MACs can exceed the network's."""
        return sum((kernel.cost for kernel in self.kernels), Cost())

    @property
    def ops(self) -> int:
        """Operations of the network: 2 · its MACs, however often a schedule computes them."""
        return OPS_PER_MAC * int(self.network.macs)

    @property
    def recomputed_ops(self) -> int:
        """Operations that fused programs do beyond the network's."""
        return int(self.cost.ops) - self.ops

    @property
    def operational_intensity(self) -> float:
        """Operations of the network per byte of DRAM traffic."""
        return self.ops / self.cost.dram_bytes if self.cost.dram_bytes else 0.0

    @property
    def latency_s(self) -> float:
        """Σ over kernels, by the tier asked for."""
        return sum(time.latency_s for time in self.times)

    @property
    def ideal_latency_s(self) -> float:
        """ops / peak: the latency at a computational efficiency of 1."""
        return self.ops / self.peak.ops_per_s

    @property
    def efficiency(self) -> float:
        """Computational efficiency: ideal latency / latency. The efficiency gap is its reciprocal."""
        return self.ideal_latency_s / self.latency_s if self.latency_s else 0.0

    @property
    def roofline_latency_s(self) -> float:
        """One roofline on the totals, which lets compute-bound kernels hide memory-bound ones."""
        return float(Limits.waterline(self.device, self.peak).latency_s(self.cost.ops, self.cost.dram_bytes))

    @property
    def op_byte_ratio(self) -> float:
        """Peak ops/s ÷ DRAM bytes/s of the machine in this type: the height of the waterline."""
        return Limits.waterline(self.device, self.peak).op_byte_ratio

    @property
    def throughput_per_s(self) -> float:
        """Images per second."""
        return self.network.batch / self.latency_s if self.latency_s else 0.0

    def share_bound_by(self, bound: Bound) -> float:
        """Fraction of the latency spent in kernels that `bound` holds."""
        held = sum(time.latency_s for time in self.times if time.bound_by == bound)
        return held / self.latency_s if self.latency_s else 0.0

    @property
    def bottleneck(self) -> Bound:
        """What holds the kernels that take most of the time; of equal shares the arithmetic's."""
        return max(get_args(Bound), key=self.share_bound_by)

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain data, in the fields of its JSON schema (perfmodel.record.PredictionRecord)."""
        from perfmodel.record import PredictionRecord

        return PredictionRecord.of(self).model_dump()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The prediction as one JSON object (perfmodel.record.PredictionRecord)."""
        from perfmodel.record import PredictionRecord

        return PredictionRecord.of(self).model_dump_json(indent=indent)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per kernel; needs the extra `pandas`."""
        try:
            import pandas as pd
        except ImportError:
            raise PerfmodelError("to_dataframe needs pandas; install it with: pip install 'perfmodel[pandas]'") from None
        return pd.DataFrame(self.to_dict()["kernels"])

    def plot_waterline(self, ax: Axes | None = None) -> Axes:
        """The waterline plot, on `ax` or a new figure's."""
        from perfmodel.plots.waterline import plot_waterline

        return plot_waterline(self, ax=ax)

    def _repr_html_(self) -> str:
        from perfmodel.report.predictions import prediction_html

        return prediction_html(self)


def predict(
    model: str | Network,
    hardware: str | PathLike[str] | DeviceSpec,
    *,
    batch: int | None = None,
    resolution: int | None = None,
    dtype: str | None = None,
    autocast: str | None = None,
    layout: str = "nhwc",
    schedule: str | Partition = "layer",
    tier: str = "waterline",
    graph: bool = False,
    calibration: str | PathLike[str] | None = None,
) -> Prediction:
    """Predict the latency of `model` on `hardware`.

    `model` is a name of the catalogue, `timm:NAME`, a file `.onnx` or `package.module:function` (which is run), built for `batch`
    images (1) of `resolution` pixels (the network's own); or a Network, at its own sizes unless others are given; `hardware`
    a name, a TOML file, or a DeviceSpec; `dtype` the type of every tensor (fp16 if neither it nor `autocast` is given); `autocast` runs
    an fp32 network in mixed precision. `schedule` is a name or a partition (the layers of each kernel, as a list of lists). Tier
    `expected` takes the constants of the schedule's software stack, or those in the TOML file `calibration`; `graph` says that its kernels
    are launched by replaying a CUDA graph. Raises a PerfmodelError whose sentence says what is wrong.

    >>> predict("resnet50", "h200", batch=128).bottleneck
    'memory'
    """
    tier, layout = _tier(tier), text("layout", layout)
    precision = Precision.of(dtype, autocast)
    if tier != "expected" and (graph or calibration is not None):
        said = "graph replay is a matter" if graph else "a calibration has constants"
        raise TierError(f"{said} of tier expected, and tier {tier} has no use for it; choose tier expected, or leave it out")
    if not isinstance(schedule, list | tuple):
        schedule = check(text("schedule", schedule))
    device = hardware if isinstance(hardware, DeviceSpec) else load(hardware)
    peak = device.matrix_peak(precision.matrix)
    if isinstance(model, Network):
        network = model.at(
            model.batch if batch is None else whole_batch(batch),
            model.resolution if resolution is None else whole_resolution(resolution),
        )
    else:
        network = build(text("model", model), batch=batch, resolution=resolution)
    return place(
        network,
        device,
        precision,
        peak,
        kernels(network.graph, precision, schedule, layout=layout, device=device),
        schedule,
        layout,
        tier,
        graph=graph,
        calibration=calibration,
    )


def _tier(given: str) -> str:
    tier = text("tier", given)
    if tier not in TIERS:
        raise UnknownNameError("tier", tier, TIERS)
    return tier


def place(
    network: Network,
    device: DeviceSpec,
    precision: Precision,
    peak: Peak,
    work: Sequence[Kernel],
    schedule: str | Partition,
    layout: str,
    tier: str,
    *,
    graph: bool = False,
    calibration: str | PathLike[str] | None = None,
) -> Prediction:
    """Put kernels on a machine: the part of `predict` after the network has been cut."""
    waterline = Limits.waterline(device, peak)
    on_waterline = kernel_times(work, waterline)
    bound_latency_s: float | None = None
    assumptions = [*_assumptions(device, precision, peak, schedule, layout), *_unfused(work, schedule)]
    times = on_waterline
    try:
        within_bound = kernel_times(work, Limits.bound(device, peak))
        bound_latency_s = sum(time.latency_s for time in within_bound)
        if tier == "bound":
            times = within_bound
            assumptions.append(f"tier bound: {_granted(device, peak)}")
    except HardwareError as error:
        if tier == "bound":
            raise
        assumptions.append(f"no bound: {error}")
    low_s = high_s = None
    if tier == "expected":
        from perfmodel.expected.block_tier import expect_block  # these bring NumPy, which the other tiers do without
        from perfmodel.expected.tier import expect

        name = schedule if isinstance(schedule, str) else "partition"
        if name == BLOCK:
            expectation = expect_block(work, network.graph.nodes, device, peak, precision, layout, calibration=calibration)
        else:
            expectation = expect(work, device, peak, precision, name, layout, graph=graph, calibration=calibration)
        times, low_s, high_s = expectation.times, expectation.low_s, expectation.high_s
        assumptions += expectation.assumptions
    return Prediction(
        network=network,
        device=device,
        precision=precision,
        layout=layout,
        schedule=schedule if isinstance(schedule, str) else "partition",
        tier=cast(Tier, tier),
        peak=peak,
        times=times,
        waterline_latency_s=sum(time.latency_s for time in on_waterline),
        bound_latency_s=bound_latency_s,
        assumptions=tuple(assumptions),
        latency_low_s=low_s,
        latency_high_s=high_s,
        unsupported=tuple(f"{_operation(node)} ({node.name})" for node in network.unsupported),
    )


def _operation(node: Node) -> str:
    return node.layer.operation if isinstance(node.layer, Unsupported) else node.layer.kind


def _assumptions(device: DeviceSpec, precision: Precision, peak: Peak, schedule: str | Partition, layout: str) -> tuple[str, ...]:
    unit = "matrix unit" if peak.unit == "matrix" else "vector unit (the device has no matrix unit for this type)"
    said = [
        f"peak {si(peak.ops_per_s, 'op/s', 4)} dense {peak.dtype} with {peak.accumulate} accumulation on the {unit}"
        f" ({_cited(device.source_of(f'{peak.path}.ops_per_s'))})",
        f"DRAM bandwidth {si(device.memory.dram_bandwidth_bytes_per_s, 'B/s')}"
        f" ({_cited(device.source_of('memory.dram_bandwidth_bytes_per_s'))})",
    ]
    said += [f"{title} ({device.slug} is no real machine)" for title in device.hypothetical]
    if precision.autocast:
        said.append(
            f"autocast {precision.autocast}: fp32 parameters; convolutions and linear layers in {precision.autocast}; layer norm in"
            f" {precision.autocast} (fast norm); softmax in fp32"
        )
    if layout == "nchw" and schedule not in ("eager", "pointwise"):
        said.append("layout nchw changes the kernels of schedules eager and pointwise only")
    return tuple(said)


def _granted(device: DeviceSpec, peak: Peak) -> str:
    """What the bound grants beyond the waterline, with the numbers; its efficiency is measured against the datasheet's peak still."""
    limits = Limits.bound(device, peak)
    return (
        f"{si(limits.peak_ops_per_s, 'op/s', 4)} at the highest clock, {si(limits.bandwidth_bytes_per_s, 'B/s')}, and "
        f"{si(limits.cached_bytes, 'B')} of each kernel's bytes from the cache; ideal latency and efficiency are against the datasheet's "
        "peak, which it can exceed"
    )


def _unfused(work: Sequence[Kernel], schedule: str | Partition) -> tuple[str, ...]:
    """Which kernels of schedules `block` and `auto` are not fused programs, and why."""
    if not any(kernel.tiling for kernel in work):
        return ()
    outside = [kernel.name for kernel in work if kernel.tiling is None]
    why_outside = "fusing them does not pay or is not possible" if schedule == AUTO else "being in no block"
    said = [f"on schedule layer, {why_outside}: {', '.join(outside)}"] if outside else []
    blocks: dict[str, dict[str | None, None]] = {}
    for kernel in work:
        if kernel.tiling and kernel.tiling.startswith(NOT_FUSED):
            blocks.setdefault(kernel.tiling.removeprefix(NOT_FUSED), {})[kernel.block] = None
    return (*said, *(f"on schedule layer, {why}: {', '.join(map(str, names))}" for why, names in blocks.items()))


def _cited(document: Document) -> str:
    return f"{document.title}, {document.date}"
