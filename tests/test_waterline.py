"""The waterline: its formula, its laws, and its two limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.hardware.catalog import load, names
from perfmodel.hardware.spec import HardwareError
from perfmodel.kernel import Kernel
from perfmodel.layers.cost import Cost
from perfmodel.waterline import KernelTime, Limits, kernel_times, waterline_s

RATES = st.floats(1e9, 1e16)
WORK = st.lists(st.tuples(st.integers(0, 10**15), st.integers(1, 10**12)), min_size=1, max_size=30)


def kernel(ops: int, dram_bytes: int) -> Kernel:
    cost = Cost(macs=ops // 2, read_activation_bytes=dram_bytes)
    return Kernel(name="k", kind="conv", layers=("k",), block=None, reads=(), writes=(), cost=cost)


@settings(derandomize=True, deadline=None)
@given(WORK, RATES, RATES)
def test_a_sequence_takes_the_sum_of_its_kernels_maxima(work: list[tuple[int, int]], peak: float, bandwidth: float) -> None:
    limits = Limits(peak_ops_per_s=peak, bandwidth_bytes_per_s=bandwidth)
    expected = 0.0
    for ops, dram_bytes in work:
        arithmetic, memory = ops / peak, dram_bytes / bandwidth
        expected += memory if memory > arithmetic else arithmetic
    assert waterline_s(limits, work) == pytest.approx(expected, rel=1e-12)


@settings(derandomize=True, deadline=None)
@given(WORK, RATES, RATES)
def test_the_waterline_lies_between_the_roofline_of_the_totals_and_the_sum_of_both_times(
    work: list[tuple[int, int]], peak: float, bandwidth: float
) -> None:
    limits = Limits(peak_ops_per_s=peak, bandwidth_bytes_per_s=bandwidth)
    ops, dram_bytes = (sum(column) for column in zip(*work, strict=True))
    total = waterline_s(limits, work)
    assert total >= limits.latency_s(ops, dram_bytes) * (1 - 1e-12)
    assert total <= (ops / peak + dram_bytes / bandwidth) * (1 + 1e-12)


@settings(derandomize=True, deadline=None)
@given(WORK, RATES, RATES)
def test_the_plot_s_areas_give_latency_and_efficiency(work: list[tuple[int, int]], peak: float, bandwidth: float) -> None:
    """Column area + water = peak · latency (design: 'our reading' of the waterline plot)."""
    limits = Limits(peak_ops_per_s=peak, bandwidth_bytes_per_s=bandwidth)
    height = limits.op_byte_ratio
    columns = sum(ops for ops, _ in work)
    water = sum(max(0.0, height - ops / dram_bytes) * dram_bytes for ops, dram_bytes in work)
    assert (columns + water) / peak == pytest.approx(waterline_s(limits, work), rel=1e-9)


def test_one_kernel_is_its_roofline() -> None:
    limits = Limits(peak_ops_per_s=100.0, bandwidth_bytes_per_s=10.0)
    assert limits.latency_s(1000, 50) == 10.0
    assert limits.latency_s(100, 50) == 5.0
    assert limits.op_byte_ratio == 10.0


def test_a_roofline_of_totals_hides_a_memory_bound_kernel_behind_a_compute_bound_one() -> None:
    limits = Limits(peak_ops_per_s=1.0, bandwidth_bytes_per_s=1.0)
    work = [(10, 0), (0, 10)]
    assert waterline_s(limits, work) == 20.0
    assert limits.latency_s(10, 10) == 10.0


def test_arrays_and_numbers_agree() -> None:
    limits = Limits(peak_ops_per_s=3e12, bandwidth_bytes_per_s=2e11, cached_bytes=1e6)
    ops, dram_bytes = np.array([1e9, 1e12, 0.0]), np.array([1e8, 1e6, 5e5])
    expected = [limits.latency_s(float(o), float(d)) for o, d in zip(ops, dram_bytes, strict=True)]
    assert limits.latency_s(ops, dram_bytes).tolist() == expected


def test_bytes_below_the_cache_cost_nothing_in_the_bound_and_never_less() -> None:
    limits = Limits(peak_ops_per_s=1.0, bandwidth_bytes_per_s=1.0, cached_bytes=100.0)
    assert limits.memory_s(99) == 0.0
    assert limits.memory_s(150) == 50.0


def test_a_tie_is_the_arithmetic_s() -> None:
    assert KernelTime(kernel=kernel(2, 1), arithmetic_s=1.0, memory_s=1.0).bound_by == "arithmetic"
    assert KernelTime(kernel=kernel(2, 1), arithmetic_s=1.0, memory_s=1.1).bound_by == "memory"


def test_kernel_times_keep_order_and_name_the_bound() -> None:
    limits = Limits(peak_ops_per_s=2.0, bandwidth_bytes_per_s=1.0)
    times = kernel_times([kernel(20, 1), kernel(2, 9)], limits)
    assert [(time.latency_s, time.bound_by) for time in times] == [(10.0, "arithmetic"), (9.0, "memory")]


@pytest.mark.parametrize("name", names())
def test_the_bound_is_never_above_the_waterline(name: str) -> None:
    device = load(name)
    peak = device.matrix_peak("fp16") if device.kind == "gpu" else device.peak[0]
    strict = Limits.waterline(device, peak)
    try:
        bound = Limits.bound(device, peak)
    except HardwareError as error:
        assert "chip.max_clock_hz" in str(error) or "memory.l2_bytes" in str(error)
        return
    assert bound.peak_ops_per_s >= strict.peak_ops_per_s
    assert bound.bandwidth_bytes_per_s >= strict.bandwidth_bytes_per_s
    assert bound.cached_bytes > 0


def test_h200_s_waterline_stands_at_its_published_ratio() -> None:
    device = load("h200")
    assert Limits.waterline(device, device.matrix_peak("fp16")).op_byte_ratio == pytest.approx(989.5e12 / 4.8e12, rel=1e-3)
