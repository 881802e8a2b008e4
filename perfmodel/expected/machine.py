"""The figures of a machine that the terms use: from its documents, and where it was measured, from the measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from perfmodel.expected.features import RATES
from perfmodel.hardware.spec import DeviceSpec, Peak

STARTUPS: tuple[str, ...] = (
    "product", "convolution", "depthwise_3x3", "depthwise_5x5", "depthwise_7x7",
    "grouped", "grouped_padded", "norm", "norm_autocast", "row_norm",
    "broadcast", "reduce", "concat", "window",
)  # fmt: skip
"""Kinds of library kernels whose start `perfmodel hardware measure` takes: `STARTUPS[i]`_startup_s."""
STEP_DEPTH: float = 64
"""Of a product's sums: what a library's kernel brings to shared memory at a time."""

FULL_RATE_OPS_PER_CLOCK: float = 1024
"""fp16 operations per clock and multiprocessor with fp32 sums, from which on a part counts as full-rate: data-centre parts have 1024
(Volta) to 4096 (Hopper), GeForce and workstation parts, which halve the rate of fp32 sums or have narrower units, 512."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What limits kernels on one machine, for one type of matrix product."""

    name: str
    peak_ops_per_s: float
    """Datasheet's dense peak."""
    sustained_ops_per_s: float | None
    """What library products sustain under load, where it was measured."""
    full_rate: bool
    """Whether the matrix unit is so wide that power, not its width, holds library products."""
    bandwidth_bytes_per_s: float
    """Datasheet's; the attained fractions of the stack's constants are relative to it."""
    copy_bytes_per_s: float | None
    """Measured: sustained copy, bytes read and written."""
    l2_bytes: float
    l2_bytes_per_s: float | None
    """Measured; None: what is found in L2 costs nothing."""
    multiprocessors: float
    clock_hz: float
    vector_ops_per_s: float
    special_per_s: float
    gap_s: float | None
    """Measured: the least that a kernel adds to a replayed graph, from the end of the one before to its own."""
    host_s: tuple[float, float, float, float] | None
    """Measured: host seconds per call of a convolution, matrix product, norm, and anything else."""
    element_rates: tuple[float, ...]
    """Measured: elements per second of each of RATES, on data in L2; infinite where it was not measured."""
    rows_per_s: float | None
    """Measured: rows of a layer norm."""
    depthwise_ops_per_s: tuple[tuple[int, float], ...]
    """Measured: (kernel size, operations per second) of depthwise convolutions on data in L2."""
    convolution_ops_per_s: float | None
    """Measured: what a 3×3 convolution of the library sustains."""
    startup_s: tuple[tuple[str, float], ...]
    """Measured: (kind of STARTUPS, seconds that its kernel takes beyond the gap where it has next to nothing to do)."""
    step_s: tuple[float, float]
    """Measured: what one more step of depth (STEP_DEPTH) costs a product of one tile: 1×1, and k×k; 0 where it was not measured."""
    grouped_elements_per_s: tuple[float, float]
    """Measured: of grouped convolutions whose kernel exists, and of those that are padded; infinite where it was not measured."""

    @classmethod
    def of(cls, device: DeviceSpec, peak: Peak) -> Self:
        """The figures of a device. Raises HardwareError naming the first that a term needs and the device lacks."""
        measured = {entry.quantity: entry.value for entry in device.measured}
        host = tuple(measured.get(f"host_{kind}_s") for kind in ("convolution", "matrix", "norm", "other"))
        # a chain of unlike modules takes the host longer than chains of like ones do: its caches see the code of all
        apart = sum(measured.get(f"host_{kind}_s", 0.0) for kind in ("convolution", "norm", "other"))
        mixed = max(1.0, measured.get("host_block_s", 0.0) / apart) if apart else 1.0
        depthwise = tuple(
            (taps, measured[key]) for taps in (3, 5, 7) if (key := f"depthwise_{taps}x{taps}_ops_per_s") in measured
        )
        return cls(
            name=device.slug,
            peak_ops_per_s=peak.ops_per_s,
            sustained_ops_per_s=measured.get(f"sustained_matrix_{peak.dtype}_ops_per_s"),
            full_rate=peak.unit == "matrix" and peak.ops_per_clock_per_multiprocessor >= FULL_RATE_OPS_PER_CLOCK,
            bandwidth_bytes_per_s=device.memory.dram_bandwidth_bytes_per_s,
            copy_bytes_per_s=measured.get("dram_copy_bytes_per_s"),
            l2_bytes=device.memory.largest_cache_bytes or device.require("memory.l2_bytes"),
            l2_bytes_per_s=measured.get("l2_read_bytes_per_s"),
            multiprocessors=device.chip.multiprocessors,
            clock_hz=device.chip.boost_clock_hz,
            vector_ops_per_s=device.vector_peak("fp32").ops_per_s,
            special_per_s=device.special_peak("fp32").ops_per_s,
            gap_s=measured.get("kernel_floor_s"),
            host_s=tuple(mixed * one for one in host) if None not in host else None,  # type: ignore[operator,arg-type]
            element_rates=tuple(measured.get(f"{kind}_elements_per_s", math.inf) for kind in RATES),
            rows_per_s=measured.get("layer_norm_rows_per_s"),
            depthwise_ops_per_s=depthwise,
            convolution_ops_per_s=measured.get(f"convolution_{peak.dtype}_ops_per_s"),
            startup_s=tuple(
                (kind, max(0.0, measured[key] - measured.get("kernel_floor_s", 0.0)))
                for kind in STARTUPS
                if (key := f"{kind}_startup_s") in measured
            ),
            step_s=(measured.get("product_step_s", 0.0), measured.get("convolution_step_s", 0.0)),
            grouped_elements_per_s=(
                measured.get("grouped_elements_per_s", math.inf),
                measured.get("grouped_padded_elements_per_s", math.inf),
            ),
        )
