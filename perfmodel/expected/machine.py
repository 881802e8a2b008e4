"""The figures of a machine that the terms use: from its documents, and from its measurement or that of a machine like it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from perfmodel.expected.carried import figures_of, is_full_rate, sustained_quantity
from perfmodel.expected.features import RATES
from perfmodel.hardware.spec import DeviceSpec, Peak

STARTUPS: tuple[str, ...] = (
    "product", "convolution", "depthwise_3x3", "depthwise_5x5", "depthwise_7x7",
    "grouped", "grouped_padded", "norm", "norm_autocast", "row_norm",
    "broadcast", "reduce", "concat", "window",
)  # fmt: skip
"""Kinds of library kernels whose start `perfmodel hardware measure` takes: `STARTUPS[i]`_startup_s."""
CHAINS: tuple[str, ...] = ("chain", "chain_clamp", "chain_special", "chain_reduce")
"""Kinds of kernels that a compiler writes, whose elements per second from DRAM `perfmodel hardware measure` takes."""
WIDTHS: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
"""Channels at which it takes convolutions."""
NARROW_INPUTS: tuple[tuple[int, int, int], ...] = ((16, 3, 1), (16, 7, 1), (32, 3, 1), (32, 7, 1), (64, 7, 2))
"""Results, kernel size and stride at which it takes convolutions of an image's three channels; for the last the library has a kernel of its
own (`image_first_layer`)."""
STEP_DEPTH: float = 64
"""Of a product's sums: what a library's kernel brings to shared memory at a time."""


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
    """Measured: the least that a kernel adds to a replayed graph of unlike kernels, from the end of the one before to its own; where these
    were not measured, of like ones, which add less: their code is at hand."""
    cold_s: float
    """Measured: by how much the latency of DRAM is longer than that of L2; 0 where they were not measured."""
    stream_gap_s: float
    """Measured: what it adds beyond that in a stream whose host is ahead; 0 where it was not measured."""
    host_s: tuple[float, ...] | None
    """Measured: host seconds per call of each kind of features.HOST_…, in their order."""
    host_compiled_s: tuple[float, float, float, float] | None
    """Measured: host seconds that compiled code takes for a call of it, a library's convolution or product, a kernel of its own, and each
    weight that one of these reads. Where weights were not measured apart, a kernel's seconds have those of a norm."""
    element_rates: tuple[float, ...]
    """Measured: elements per second of each of RATES, on data in L2; infinite where it was not measured."""
    dram_rates: tuple[float, ...]
    """The same on data from DRAM."""
    norm_row_s: float | None
    """Measured: what one more row for each thread costs a batch norm that leaves most of the chip idle."""
    rows_per_s: float | None
    """Measured: rows of a layer norm."""
    dram_rows_per_s: float | None
    """The same from DRAM."""
    pool_outputs_per_s: tuple[tuple[int, float], ...]
    """Measured: (taps, results per second) of pooling windows; none or two of them."""
    product_bytes_per_s: float | None
    """Measured: what library products of 1×1 move from and to DRAM."""
    narrow_outputs_per_s: float
    """Measured: results of a convolution of an image's three channels; infinite where it was not measured."""
    narrow_inputs: tuple[tuple[int, int, float], ...]
    """Measured: (channels, kernel size, results per second) of the same, as in NARROW_INPUTS; all of them or none."""
    chains: tuple[tuple[str, float], ...]
    """Measured: (kind of CHAINS, elements per second of the compiler's own kernels)."""
    near_chain: float
    """Measured: the same of a norm and relu on data in L2; infinite where it was not measured."""
    chain_startup_s: float
    """Measured: seconds that a compiler's kernel takes beyond the gap where it has next to nothing to do."""
    concat_block_s: float
    """Measured: what one more block of threads costs a concatenation, if it has nothing to do; 0 where it was not measured."""
    depthwise_ops_per_s: tuple[tuple[int, float], ...]
    """Measured: (kernel size, operations per second) of depthwise convolutions on data in L2."""
    convolution_ops_per_s: float | None
    """Measured: what a 3×3 convolution of the library sustains."""
    convolution_widths: tuple[tuple[int, float], ...]
    """Measured: (channels, operations per second) of the same at several widths, narrowest first."""
    startup_s: tuple[tuple[str, float], ...]
    """Measured: (kind of STARTUPS, seconds that its kernel takes beyond the gap where it has next to nothing to do)."""
    step_s: tuple[float, float]
    """Measured: what one more step of depth (STEP_DEPTH) costs a product of one tile: 1×1, and k×k; 0 where it was not measured."""
    grouped_elements_per_s: tuple[float, float]
    """Measured: of grouped convolutions whose kernel exists, and of those that are padded; infinite where it was not measured."""

    @classmethod
    def of(cls, device: DeviceSpec, peak: Peak) -> Self:
        """The figures of a device, measured or carried. Raises HardwareError naming the first that a term needs and the device lacks."""
        measured = figures_of(device)
        host = _host_s(measured)
        depthwise = tuple(
            (taps, measured[key]) for taps in (3, 5, 7) if (key := f"depthwise_{taps}x{taps}_ops_per_s") in measured
        )
        return cls(
            name=device.slug,
            peak_ops_per_s=peak.ops_per_s,
            sustained_ops_per_s=measured.get(sustained_quantity(peak.dtype)),
            full_rate=is_full_rate(peak),
            bandwidth_bytes_per_s=device.memory.dram_bandwidth_bytes_per_s,
            copy_bytes_per_s=measured.get("dram_copy_bytes_per_s"),
            l2_bytes=device.memory.largest_cache_bytes or device.require("memory.l2_bytes"),
            l2_bytes_per_s=measured.get("l2_read_bytes_per_s"),
            multiprocessors=device.chip.multiprocessors,
            clock_hz=device.chip.boost_clock_hz,
            vector_ops_per_s=device.vector_peak("fp32").ops_per_s,
            special_per_s=device.special_peak("fp32").ops_per_s,
            gap_s=_gap_s(measured),
            cold_s=_cold_s(measured),
            stream_gap_s=_stream_gap_s(measured),
            host_s=host,
            host_compiled_s=_host_compiled_s(measured),
            element_rates=tuple(measured.get(f"{kind}_elements_per_s", math.inf) for kind in RATES),
            dram_rates=tuple(measured.get(f"{kind}_dram_elements_per_s", math.inf) for kind in RATES),
            norm_row_s=measured.get("norm_row_s"),
            rows_per_s=measured.get("layer_norm_rows_per_s"),
            dram_rows_per_s=measured.get("layer_norm_dram_rows_per_s"),
            pool_outputs_per_s=_pool_outputs_per_s(measured),
            product_bytes_per_s=measured.get("product_dram_bytes_per_s"),
            narrow_outputs_per_s=measured.get("narrow_input_outputs_per_s", math.inf),
            narrow_inputs=_narrow_inputs(measured),
            chains=tuple((kind, measured[key]) for kind in CHAINS if (key := f"{kind}_dram_elements_per_s") in measured),
            near_chain=measured.get("chain_elements_per_s", math.inf),
            chain_startup_s=_beyond_gap(measured, "chain"),
            concat_block_s=measured.get("concat_block_s", 0.0),
            depthwise_ops_per_s=depthwise,
            convolution_ops_per_s=measured.get(f"convolution_{peak.dtype}_ops_per_s"),
            convolution_widths=tuple(
                (width, measured[key]) for width in WIDTHS if (key := f"convolution_{width}_{peak.dtype}_ops_per_s") in measured
            ),
            startup_s=tuple((kind, _beyond_gap(measured, kind)) for kind in STARTUPS if f"{kind}_startup_s" in measured),
            step_s=(measured.get("product_step_s", 0.0), measured.get("convolution_step_s", 0.0)),
            grouped_elements_per_s=(
                measured.get("grouped_elements_per_s", math.inf),
                measured.get("grouped_padded_elements_per_s", math.inf),
            ),
        )


def _gap_s(measured: Mapping[str, float]) -> float | None:
    return measured.get("unlike_floor_s", measured.get("kernel_floor_s"))


def _cold_s(measured: Mapping[str, float]) -> float:
    far, near = (measured.get(f"{memory}_latency_s") for memory in ("dram", "l2"))
    return 0.0 if far is None or near is None else max(0.0, far - near)


def _stream_gap_s(measured: Mapping[str, float]) -> float:
    """Of like kernels, beyond what unlike ones add to a graph: waiting for the stream, a kernel's code arrives."""
    like, unlike = measured.get("kernel_floor_s", 0.0), _gap_s(measured) or 0.0
    return max(0.0, like + measured.get("stream_gap_s", 0.0) - unlike)


def _beyond_gap(measured: Mapping[str, float], kind: str) -> float:
    """Starts are measured of like kernels in a row; that of a norm is one of three unlike kernels, of which two floors were taken away."""
    like = measured.get("kernel_floor_s", 0.0)
    gaps = 3 * (_gap_s(measured) or 0.0) - 2 * like if kind == "norm" else like
    return max(0.0, measured.get(f"{kind}_startup_s", 0.0) - gaps)


def _pool_outputs_per_s(measured: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """(taps, results per second) of both windows; nothing where one is missing, through which no line can be drawn."""
    found = tuple((kernel**2, measured[key]) for kernel in (2, 3) if (key := f"pool_{kernel}x{kernel}_outputs_per_s") in measured)
    return found if len(found) == 2 else ()


def _narrow_inputs(measured: Mapping[str, float]) -> tuple[tuple[int, int, float], ...]:
    """(channels, kernel size, results per second) of each; nothing where one is missing, without which no line can be drawn."""
    found = tuple(
        (width, size, measured[key])
        for width, size, _ in NARROW_INPUTS
        if (key := f"narrow_input_{width}_{size}x{size}_outputs_per_s") in measured
    )
    return found if len(found) == len(NARROW_INPUTS) else ()


def knows_host(device: DeviceSpec) -> bool:
    """Whether waiting for the host that issues its kernels is counted on a device."""
    measured = figures_of(device)
    return _host_s(measured) is not None or _host_compiled_s(measured) is not None


def _host_s(measured: Mapping[str, float]) -> tuple[float, ...] | None:
    """Seconds per call of each kind of features.HOST_…; None where they were not measured."""
    convolution, matrix, norm, other = (measured.get(f"host_{kind}_s") for kind in ("convolution", "matrix", "norm", "other"))
    if convolution is None or matrix is None or norm is None or other is None:
        return None
    operator, inner = (measured.get(f"host_{kind}_s", other) for kind in ("operator", "inner"))
    # a chain of unlike modules takes the host longer than chains of like ones do: its caches see the code of all
    mixed = max(1.0, measured.get("host_block_s", 0.0) / (convolution + norm + other))
    return tuple(mixed * one for one in (convolution, matrix, norm, other, operator, inner, 0.0))


def _host_compiled_s(measured: Mapping[str, float]) -> tuple[float, float, float, float] | None:
    call, convolution, kernel = (measured.get(f"host_compiled_{kind}_s") for kind in ("call", "convolution", "kernel"))
    if call is None or convolution is None or kernel is None:
        return None
    return (call, convolution, kernel, measured.get("host_compiled_input_s", 0.0))
