"""The records: what a device answers, what it refuses, and that nothing in it can change."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from perfmodel import hardware
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware import DEFAULT_ACCUMULATE, DTYPES, DeviceSpec, HardwareError, Measured


def device(**changes: Any) -> DeviceSpec:
    """A machine of round numbers: 10 cores × 1 GHz, 100 GB/s."""
    peaks = changes.pop("peak", None) or [peak("matrix", "fp16", "fp32", 1000), peak("vector", "fp32", "fp32", 100)]
    data: dict[str, Any] = {
        "slug": "mine",
        "name": "Mine",
        "vendor": "Me",
        "kind": "gpu",
        "architecture": "Own",
        "released": "2025",
        "documents": {"paper": {"title": "A paper", "publisher": "Me", "date": "2025-01"}},
        "chip": {"multiprocessors": 10, "multiprocessor_name": "core", "boost_clock_hz": 1e9, "source": "paper"},
        "memory": {
            "kind": "GDDR6", "dram_bytes": 16e9, "dram_bandwidth_bytes_per_s": 100e9, "source": "paper",
        },
        "peak": peaks,
    }  # fmt: skip
    for path, value in changes.items():
        table, _, field = path.partition("__")
        if field:
            data[table] = {**data[table], field: value}
        else:
            data[table] = value
    return DeviceSpec.model_validate(data)


def peak(unit: str, dtype: str, accumulate: str, width: float, **more: Any) -> dict[str, Any]:
    clock = more.get("clock_hz", 1e9)
    return {
        "unit": unit,
        "dtype": dtype,
        "accumulate": accumulate,
        "ops_per_s": 10 * width * clock,
        "ops_per_clock_per_multiprocessor": width,
        "source": "paper",
        **more,
    }


def test_the_default_accumulate_is_that_of_the_frameworks() -> None:
    assert set(DEFAULT_ACCUMULATE) == set(DTYPES)
    assert {dtype for dtype in DTYPES if DEFAULT_ACCUMULATE[dtype] == "int32"} == {"int8", "int4"}
    assert DEFAULT_ACCUMULATE["fp64"] == "fp64"


def test_matrix_peak_takes_the_accumulate_that_is_asked_for() -> None:
    machine = device(peak=[peak("matrix", "fp16", "fp16", 1000), peak("matrix", "fp16", "fp32", 500)])
    assert machine.matrix_peak("fp16").ops_per_s == 5e12
    assert machine.matrix_peak("fp16", "fp32").ops_per_s == 5e12
    assert machine.matrix_peak("fp16", "fp16").ops_per_s == 10e12
    assert machine.op_byte_ratio("fp16") == 50
    assert machine.op_byte_ratio("fp16", "fp16") == 100


def test_matrix_peak_falls_back_to_the_vector_units_and_says_so() -> None:
    machine = device(peak=[peak("vector", "fp32", "fp32", 100), peak("vector", "fp16", "fp16", 200)])
    assert machine.matrix_peak("fp32").unit == "vector"
    assert machine.matrix_peak("fp16").unit == "vector"  # its sums are fp16, as the record says
    assert machine.matrix_peak("fp16").accumulate == "fp16"
    with pytest.raises(HardwareError, match="fp16 products that accumulate in fp32"):
        machine.matrix_peak("fp16", "fp32")


def test_a_matrix_unit_without_that_accumulate_is_not_replaced_by_the_vector_units() -> None:
    machine = device(peak=[peak("matrix", "fp16", "fp32", 1000), peak("vector", "fp16", "fp16", 200)])
    with pytest.raises(HardwareError, match=r"mine \(Mine\) has no known peak for fp16 products that accumulate in fp16"):
        machine.matrix_peak("fp16", "fp16")


def test_fp32_is_plain_fma_never_tf32() -> None:
    for name in ("a100", "h200", "rtx4090"):
        assert hardware.load(name).matrix_peak("fp32").unit == "vector"
    assert hardware.load("mi300x").matrix_peak("fp32").unit == "matrix"  # AMD multiplies true fp32 there
    for name in ("v100", "t4", "rtx2080ti", "mi250x", "epyc-9654"):
        with pytest.raises(HardwareError, match=f"^{name} .*tf32 products"):
            hardware.load(name).matrix_peak("tf32")


def test_a_missing_type_names_the_device_the_type_and_what_it_has() -> None:
    with pytest.raises(HardwareError) as caught:
        hardware.load("rtx2080ti").matrix_peak("bf16")
    message = str(caught.value)
    assert message.startswith("rtx2080ti (NVIDIA GeForce RTX 2080 Ti) has no known peak for bf16")
    assert "matrix fp16 (accumulate fp32)" in message
    assert isinstance(caught.value, PerfmodelError)


@pytest.mark.parametrize("call", ["matrix_peak", "vector_peak", "special_peak", "op_byte_ratio"])
def test_an_unknown_type_offers_the_nearest(call: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown number type 'fp17'; did you mean fp16"):
        getattr(device(), call)("fp17")
    with pytest.raises(UnknownNameError, match="unknown accumulate type 'fp33'"):
        device().matrix_peak("fp16", "fp33")


def test_max_clock_ratio_is_over_the_clock_of_the_peak() -> None:
    machine = device(chip__max_clock_hz=1.5e9, peak=[peak("matrix", "fp16", "fp32", 1000, clock_hz=0.75e9)])
    assert machine.max_clock_ratio(machine.matrix_peak("fp16")) == 2
    assert machine.clock_of(machine.matrix_peak("fp16")) == 0.75e9
    with pytest.raises(HardwareError, match=r"mine: chip\.max_clock_hz is not known"):
        device().max_clock_ratio(device().matrix_peak("fp16"))


def test_the_highest_rates_are_never_below_the_published_ones() -> None:
    h200 = hardware.load("h200")
    assert h200.memory.highest_bandwidth_bytes_per_s == 6016 / 8 * 6.402e9 > h200.memory.dram_bandwidth_bytes_per_s
    assert h200.highest_ops_per_s(h200.matrix_peak("fp16")) == pytest.approx(132 * 4096 * 1.98e9, rel=1e-3)
    for name in hardware.names():
        machine = hardware.load(name)
        assert machine.memory.highest_bandwidth_bytes_per_s >= machine.memory.dram_bandwidth_bytes_per_s
        for each in machine.peak if machine.chip.max_clock_hz else ():
            assert machine.highest_ops_per_s(each) >= each.ops_per_s
    with pytest.raises(HardwareError, match=r"chip\.max_clock_hz"):
        device().highest_ops_per_s(device().peak[0])


def test_require_names_the_number_that_is_missing() -> None:
    assert device().require("chip.boost_clock_hz") == 1e9
    assert device().require("peak.matrix.fp16.fp32.ops_per_s") == 1e13
    for path in ("chip.shared_memory_per_block_bytes", "board.power_w", "peak.matrix.fp8.fp32.ops_per_s"):
        with pytest.raises(HardwareError, match=f"mine: {path} is not known"):
            device().require(path)
    for path in ("chip", "", "chip.", "chip.speed", "memory.kind", "peak.ops_per_s", "name", "chip.source", "a.b.c"):
        with pytest.raises(HardwareError, match="is no number of a device"):
            device().require(path)
        with pytest.raises(HardwareError, match="is no number of a device"):
            device().source_of(path)


def test_source_of_follows_the_overrides() -> None:
    h200 = hardware.load("h200")
    assert h200.source_of("memory.dram_bandwidth_bytes_per_s").title == "NVIDIA H200 Tensor Core GPU, datasheet"
    assert "one H200" in h200.source_of("memory.l2_bytes").title
    assert h200.source_of("peak.special.fp32.fp32.ops_per_s").publisher == "NVIDIA"


def test_records_are_frozen_to_the_bottom() -> None:
    h200 = hardware.load("h200")
    for record, field in [(h200, "name"), (h200.chip, "multiprocessors"), (h200.peak[0], "ops_per_s")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, field, 1)
    with pytest.raises(TypeError, match="frozen"):
        h200.documents["new"] = h200.documents["h200_datasheet"]  # type: ignore[index]
    with pytest.raises(TypeError, match="frozen"):
        h200.memory.sources.clear()  # type: ignore[attr-defined]
    assert isinstance(h200.peak, tuple)


def test_records_hash_copy_pickle_and_round_trip() -> None:
    h200 = hardware.load("h200")
    for other in (copy.deepcopy(h200), pickle.loads(pickle.dumps(h200))):
        assert other == h200
        assert hash(other) == hash(h200)
    assert DeviceSpec.model_validate_json(h200.model_dump_json()) == h200
    assert DeviceSpec.model_validate(h200.model_dump()) == h200
    assert h200 != hardware.load("gh200")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chip__source": "other"}, r"chip\.source names document 'other'"),
        ({"chip__sources": {"boost_clock_hz": "other"}}, r"chip\.sources\.boost_clock_hz names document 'other'"),
        ({"chip__sources": {"max_clock_hz": "paper"}}, "'max_clock_hz', which is no number given"),
        ({"documents__more": {"title": "t", "publisher": "p", "date": "2025"}}, "documents.more stands behind no"),
        ({"chip__base_clock_hz": 2e9}, r"chip\.base_clock_hz .* is above"),
        ({"chip__max_clock_hz": 0.5e9}, r"chip\.max_clock_hz .* is below"),
        ({"peak": [peak("matrix", "fp16", "fp32", 1000, sparse_ops_per_s=1e13)]}, "sparse_ops_per_s .* is not above"),
        ({"peak": [peak("matrix", "fp16", "fp32", 1000, ops_per_s=2e13)]}, r"fp32\.ops_per_s is 2e\+13, but 10"),
        ({"peak": [peak("matrix", "fp16", "fp32", 1000)] * 2}, r"peak\.matrix\.fp16\.fp32 is given twice"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        device(**changes)


def test_a_bandwidth_that_is_not_bus_times_rate_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"memory\.dram_bandwidth_bytes_per_s is 1e\+11, but 256 bits"):
        device(
            memory={
                "kind": "GDDR6", "dram_bytes": 16e9, "dram_bandwidth_bytes_per_s": 100e9, "source": "paper",
                "dram_bus_width_bits": 256, "dram_transfers_per_s": 16e9,
            }
        )  # fmt: skip


def test_the_largest_cache() -> None:
    assert device().memory.largest_cache_bytes is None
    assert device(memory__l2_bytes=6_000_000).memory.largest_cache_bytes == 6_000_000
    both = device(memory__l2_bytes=6_000_000, memory__last_level_cache_bytes=96_000_000)
    assert both.memory.largest_cache_bytes == 96_000_000


MEASURED: dict[str, Any] = {
    "quantity": "dram_read_bandwidth_bytes_per_s",
    "value": 91e9,
    "kernel": "copy of 4 GiB, 256 threads a block, 16 bytes a thread",
    "date": "2025-02-03",
    "driver": "570.1",
    "clock_hz": 1e9,
    "where": "results/mine/copy.json",
}


def test_measured_numbers_stand_apart() -> None:
    machine = device(measured=[MEASURED])
    assert machine.measured == (Measured(**MEASURED),)
    assert machine.require("memory.dram_bandwidth_bytes_per_s") == 100e9
    assert all(not path.startswith("measured") for path, _, _ in machine.numbers())


def test_a_quantity_is_measured_once() -> None:
    with pytest.raises(ValidationError, match=r"measured\.dram_read_bandwidth_bytes_per_s is given twice"):
        device(measured=[MEASURED, {**MEASURED, "value": 92e9}])


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": "bandwidth"},
        {"quantity": "bandwidth_gb_per_s_"},
        {"quantity": ""},
        {"value": 0.0},
        {"value": -1.0},
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": 1e-300},
        {"value": 1e300},
        {"clock_hz": 1980.0},
        {"date": "yesterday"},
        {"kernel": ""},
        {"unit": "GB/s"},
    ],
)
def test_measured_numbers_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Measured(**{**MEASURED, **changes})
