"""The shipped catalogue: each number checked against its parts, its neighbours and independently written facts."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from perfmodel import hardware
from perfmodel.hardware import DeviceSpec, HardwareError, Peak

NAMES = hardware.names()
FOLDER = Path(hardware.__file__).parent / "devices"

DEMANDED = [
    "v100", "v100-pcie", "t4", "a10", "a30", "a40", "a100-pcie-40gb", "a100-sxm-40gb", "a100-pcie-80gb",
    "a100-sxm-80gb", "rtx-a5000", "rtx-a6000", "rtx2080ti", "rtx3080", "rtx3090", "rtx4070", "rtx4080",
    "rtx4090", "rtx5080", "rtx5090", "rtx-6000-ada", "rtx-pro-6000", "rtx-pro-6000-maxq", "l4", "l40s",
    "h100-sxm", "h100-pcie", "h100-nvl", "h200", "gh200", "b200", "jetson-agx-orin", "mi210", "mi250x",
    "mi300x", "rx7900xtx", "tpu-v4", "epyc-9654", "m1-ultra",
]  # fmt: skip

GEFORCE = ("rtx2080ti", "rtx3080", "rtx3090", "rtx4070", "rtx4080", "rtx4090", "rtx5080", "rtx5090")
PROFESSIONAL = [
    "t4", "a10", "a40", "rtx-a5000", "rtx-a6000", "rtx-6000-ada", "l4", "l40s", "rtx-pro-6000",
    "rtx-pro-6000-maxq", "v100", "a100-sxm-80gb", "h100-sxm",
]  # fmt: skip

# Boards that carry the same chip at the same clocks, and so the same peaks.
SAME_CHIP = (
    {"v100", "v100-sxm2-16gb"},
    {"a100-pcie-40gb", "a100-sxm-40gb", "a100-pcie-80gb", "a100-sxm-80gb"},
    {"h200", "gh200"},
)
# Boards that carry the same memory.
SAME_MEMORY = (
    {"v100", "v100-pcie"},
    {"a100-pcie-40gb", "a100-sxm-40gb"},
    {"rtx-pro-6000", "rtx-pro-6000-maxq"},
)

# Independent of the files: dense peaks in units of 10¹² operations per second, as the documents print them (a figure
# with sparsity is written as figure / 2). (device, type, accumulate, unit) → peak.
TURING = "NVIDIA Turing GPU Architecture"
GA102 = "NVIDIA Ampere GA102 GPU Architecture"
ADA = "NVIDIA Ada GPU Architecture"
RTX_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture"
A100 = "NVIDIA A100 Tensor Core GPU Architecture"
H100 = "NVIDIA H100 Tensor Core GPU Architecture"
PUBLISHED = [
    ("v100", "fp16", "fp32", 125, "NVIDIA V100 datasheet"),
    ("v100", "fp32", "fp32", 15.7, "NVIDIA V100 datasheet"),
    ("v100-pcie", "fp16", "fp32", 112, "NVIDIA V100 datasheet"),
    ("v100-pcie", "fp32", "fp32", 14, "NVIDIA V100 datasheet"),
    ("t4", "fp16", "fp32", 65, "NVIDIA T4 datasheet"),
    ("t4", "int8", "int32", 130, "NVIDIA T4 datasheet"),
    ("t4", "fp32", "fp32", 8.1, "NVIDIA T4 datasheet"),
    ("rtx2080ti", "fp16", "fp32", 53.8, TURING),
    ("rtx2080ti", "fp16", "fp16", 107.6, TURING),
    ("rtx2080ti", "int8", "int32", 215.2, TURING),
    ("a100-sxm-80gb", "fp16", "fp32", 312, A100),
    ("a100-sxm-80gb", "bf16", "fp32", 312, A100),
    ("a100-sxm-80gb", "tf32", "fp32", 156, A100),
    ("a100-sxm-80gb", "int8", "int32", 624, A100),
    ("a100-sxm-80gb", "fp64", "fp64", 19.5, A100),
    ("a100-sxm-80gb", "fp32", "fp32", 19.5, A100),
    ("a30", "fp16", "fp32", 165, "NVIDIA A30 datasheet"),
    ("a30", "fp32", "fp32", 10.3, "NVIDIA A30 datasheet"),
    ("a10", "fp16", "fp32", 125, "NVIDIA A10 datasheet"),
    ("a10", "fp32", "fp32", 31.2, "NVIDIA A10 datasheet"),
    ("a40", "fp16", "fp32", 149.7, "NVIDIA A40 datasheet"),
    ("a40", "fp32", "fp32", 37.4, "NVIDIA A40 datasheet"),
    ("rtx-a5000", "fp16", "fp32", 222.2 / 2, "NVIDIA RTX A5000 datasheet"),
    ("rtx-a5000", "fp32", "fp32", 27.8, "NVIDIA RTX A5000 datasheet"),
    ("rtx-a6000", "fp16", "fp32", 309.7 / 2, "NVIDIA RTX A6000 datasheet"),
    ("rtx-a6000", "fp32", "fp32", 38.7, "NVIDIA RTX A6000 datasheet"),
    ("rtx3080", "fp16", "fp32", 59.5, GA102),
    ("rtx3080", "fp16", "fp16", 119, GA102),
    ("rtx3080", "fp32", "fp32", 29.8, GA102),
    ("rtx3090", "fp16", "fp32", 71.2, GA102),
    ("rtx3090", "fp16", "fp16", 142.3, GA102),
    ("rtx3090", "fp32", "fp32", 35.6, GA102),
    ("rtx4070", "fp32", "fp32", 29.1, ADA),
    ("rtx4080", "fp16", "fp32", 97.5, ADA),
    ("rtx4080", "fp32", "fp32", 48.7, ADA),
    ("rtx4090", "fp16", "fp32", 165.2, ADA),
    ("rtx4090", "fp16", "fp16", 330.3, ADA),
    ("rtx4090", "fp8", "fp32", 330.3, ADA),
    ("rtx4090", "fp8", "fp16", 660.6, ADA),
    ("rtx4090", "fp32", "fp32", 82.6, ADA),
    ("rtx-6000-ada", "fp8", "fp32", 1457 / 2, "NVIDIA RTX 6000 Ada Generation datasheet"),
    ("rtx-6000-ada", "fp32", "fp32", 91.1, "NVIDIA RTX 6000 Ada Generation datasheet"),
    ("l4", "fp16", "fp32", 242 / 2, "NVIDIA L4 datasheet"),
    ("l4", "fp32", "fp32", 30.3, "NVIDIA L4 datasheet"),
    ("l40s", "fp16", "fp32", 733 / 2, "NVIDIA L40S datasheet"),
    ("l40s", "fp8", "fp32", 1466 / 2, "NVIDIA L40S datasheet"),
    ("l40s", "fp32", "fp32", 91.6, "NVIDIA L40S datasheet"),
    ("rtx5080", "fp16", "fp32", 112.6, RTX_BLACKWELL),
    ("rtx5080", "fp32", "fp32", 56.3, RTX_BLACKWELL),
    ("rtx5080", "fp4", "fp32", 1801 / 2, RTX_BLACKWELL),
    ("rtx5090", "fp16", "fp32", 209.5, RTX_BLACKWELL),
    ("rtx5090", "fp16", "fp16", 419, RTX_BLACKWELL),
    ("rtx5090", "fp4", "fp32", 3352 / 2, RTX_BLACKWELL),
    ("rtx5090", "fp32", "fp32", 104.8, RTX_BLACKWELL),
    ("rtx-pro-6000", "fp32", "fp32", 125, "NVIDIA RTX PRO 6000 Blackwell Workstation Edition datasheet"),
    ("rtx-pro-6000", "fp4", "fp32", 4000 / 2, "the same datasheet: 4000 AI TOPS"),
    ("rtx-pro-6000-maxq", "fp32", "fp32", 110, "NVIDIA RTX PRO 6000 Blackwell Max-Q datasheet"),
    ("rtx-pro-6000-maxq", "fp4", "fp32", 3511 / 2, "the same datasheet: 3511 AI TOPS"),
    ("h100-sxm", "fp16", "fp32", 989.4, H100),
    ("h100-sxm", "fp8", "fp32", 1978.9, H100),
    ("h100-sxm", "tf32", "fp32", 494.7, H100),
    ("h100-sxm", "fp32", "fp32", 66.9, H100),
    ("h100-sxm", "fp64", "fp64", 66.9, H100),
    ("h100-pcie", "fp16", "fp32", 756, H100),
    ("h100-pcie", "fp32", "fp32", 51.2, H100),
    ("h100-nvl", "fp16", "fp32", 1671 / 2, "NVIDIA H100 NVL datasheet"),
    ("h100-nvl", "fp32", "fp32", 60, "NVIDIA H100 NVL datasheet"),
    ("h200", "fp16", "fp32", 1979 / 2, "NVIDIA H200 datasheet"),
    ("h200", "fp8", "fp32", 3958 / 2, "NVIDIA H200 datasheet"),
    ("h200", "fp32", "fp32", 67, "NVIDIA H200 datasheet"),
    ("gh200", "fp16", "fp32", 1979 / 2, "NVIDIA GH200 datasheet"),
    ("b200", "fp16", "fp32", 36000 / 8 / 2, "NVIDIA HGX B200: 36 PFLOP/s with sparsity on eight"),
    ("b200", "fp8", "fp32", 72000 / 8 / 2, "NVIDIA HGX B200: 72 PFLOP/s with sparsity on eight"),
    ("jetson-agx-orin", "int8", "int32", 170 / 2, "NVIDIA Jetson AGX Orin technical brief"),
    ("jetson-agx-orin", "fp32", "fp32", 5.3, "NVIDIA Jetson AGX Orin technical brief"),
    ("mi210", "fp16", "fp32", 181, "AMD Instinct MI210 data sheet"),
    ("mi210", "fp32", "fp32", 45.3, "AMD Instinct MI210 data sheet, matrix"),
    ("mi250x", "fp16", "fp32", 383, "AMD Instinct MI200 data sheet"),
    ("mi250x", "fp64", "fp64", 95.7, "AMD Instinct MI200 data sheet, matrix"),
    ("mi300x", "fp16", "fp32", 1307.4, "AMD Instinct MI300X data sheet"),
    ("mi300x", "fp8", "fp32", 2614.9, "AMD Instinct MI300X data sheet"),
    ("mi300x", "fp32", "fp32", 163.4, "AMD Instinct MI300X data sheet"),
    ("rx7900xtx", "fp16", "fp32", 122.8, "AMD Radeon RX 7900 XTX specifications"),
    ("rx7900xtx", "fp32", "fp32", 61.4, "AMD Radeon RX 7900 XTX specifications"),
    ("tpu-v4", "bf16", "fp32", 275, "Jouppi et al., ISCA 2023"),
    ("m1-ultra", "fp32", "fp32", 21.2, "Apple: 21 TFLOP/s; metal-benchmarks: 21230 GFLOP/s"),
]

# GB/s as the documents print them.
BANDWIDTHS = {
    "v100": 900, "t4": 320, "rtx2080ti": 616, "a10": 600, "a30": 933, "a40": 696, "a100-pcie-40gb": 1555,
    "a100-sxm-40gb": 1555, "a100-pcie-80gb": 1935, "a100-sxm-80gb": 2039, "rtx-a5000": 768, "rtx-a6000": 768,
    "rtx3080": 760, "rtx3090": 936, "rtx4070": 504, "rtx4080": 717, "rtx4090": 1008, "rtx-6000-ada": 960, "l4": 300,
    "l40s": 864, "rtx5080": 960, "rtx5090": 1792, "rtx-pro-6000": 1792, "rtx-pro-6000-maxq": 1792, "h100-sxm": 3350,
    "h100-pcie": 2039, "h100-nvl": 3938, "h200": 4800, "gh200": 4000, "b200": 7700, "jetson-agx-orin": 204.8,
    "mi210": 1638, "mi250x": 3277, "mi300x": 5300, "rx7900xtx": 960, "tpu-v4": 1200, "epyc-9654": 460.8,
    "m1-ultra": 800,
}  # fmt: skip

# Multiprocessors, from the CUDA cores (or stream processors) that the documents print.
CORES = {
    "v100": (5120, 64), "t4": (2560, 64), "rtx2080ti": (4352, 64), "a10": (9216, 128), "a30": (3584, 64),
    "a40": (10752, 128), "a100-sxm-80gb": (6912, 64), "rtx-a5000": (8192, 128), "rtx-a6000": (10752, 128),
    "rtx3080": (8704, 128), "rtx3090": (10496, 128), "rtx4070": (5888, 128), "rtx4080": (9728, 128),
    "rtx4090": (16384, 128), "rtx-6000-ada": (18176, 128), "l4": (7424, 128), "l40s": (18176, 128),
    "rtx5080": (10752, 128), "rtx5090": (21760, 128), "rtx-pro-6000": (24064, 128), "rtx-pro-6000-maxq": (24064, 128),
    "h100-sxm": (16896, 128), "h100-pcie": (14592, 128), "h200": (16896, 128), "jetson-agx-orin": (2048, 128),
    "mi210": (6656, 64), "mi250x": (14080, 64), "mi300x": (19456, 64), "rx7900xtx": (6144, 64),
}  # fmt: skip

# Ridge points for fp16 (fp32 sums) in operations per DRAM byte, by generation, and why they lie there.
RIDGES = {
    # the first tensor cores on HBM2 near 900 GB/s
    "v100 v100-sxm2-16gb v100-pcie": (115, 145),
    # the same tensor core on narrow GDDR6, full rate
    "t4": (190, 215),
    # GeForce accumulates in fp32 at half rate, which halves the ridge of these cards
    "rtx2080ti rtx3080 rtx3090": (70, 95),
    # larger L2, half rate, GDDR6X or GDDR7
    "rtx4070 rtx4080 rtx4090 rtx5080 rtx5090": (110, 170),
    # twice the tensor rate per SM of Volta, up to 2.3 times its bandwidth
    "a100-pcie-40gb a100-sxm-40gb a100-pcie-80gb a100-sxm-80gb a30": (150, 205),
    # full rate on GDDR6, and Orin on LPDDR5
    "a10 a40 rtx-a5000 rtx-a6000 jetson-agx-orin": (140, 220),
    # full rate of Ada and Blackwell on GDDR
    "rtx-6000-ada l4 l40s": (370, 430),
    "rtx-pro-6000 rtx-pro-6000-maxq": (240, 290),
    # Hopper doubles the tensor rate again; from HBM3e at 4.8 TB/s to HBM2e at 2 TB/s
    "h100-sxm h100-pcie h100-nvl h200 gh200": (200, 375),
    "b200": (280, 300),
    "mi210 mi250x": (105, 120),
    "mi300x": (240, 255),
    "rx7900xtx": (120, 135),
    # no matrix unit: vector peaks
    "m1-ultra": (20, 30),
}


def peaks(*, unit: str | None = None) -> list[tuple[DeviceSpec, Peak]]:
    return [(device, peak) for device in map(hardware.load, NAMES) for peak in device.peak if unit in (None, peak.unit)]


def label(value: object) -> str | None:
    return value.slug if isinstance(value, DeviceSpec) else value.path if isinstance(value, Peak) else None


def rate(device: DeviceSpec, dtype: str, accumulate: str) -> float | None:
    return next(
        (
            peak.ops_per_clock_per_multiprocessor
            for peak in device.peak
            if (peak.unit, peak.dtype, peak.accumulate) == ("matrix", dtype, accumulate)
        ),
        None,
    )


def test_the_catalogue_holds_what_is_demanded() -> None:
    assert len(NAMES) >= 32
    assert set(DEMANDED) <= set(NAMES)


@pytest.mark.parametrize(("device", "peak"), peaks(), ids=label)
def test_each_peak_is_the_product_of_its_parts(device: DeviceSpec, peak: Peak) -> None:
    clock = peak.clock_hz or device.chip.boost_clock_hz
    product = device.chip.multiprocessors * peak.ops_per_clock_per_multiprocessor * clock
    assert peak.ops_per_s == pytest.approx(product, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_bandwidth_is_bus_width_times_rate(name: str) -> None:
    memory = hardware.load(name).memory
    if memory.dram_bus_width_bits is None or memory.dram_transfers_per_s is None:
        # the first two publish none; of the others no document at hand prints the memory's clock
        assert name in {
            "tpu-v4", "m1-ultra", "a10", "a100-pcie-40gb", "a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb", "a30", "a40", "gh200",
            "h100-nvl", "h100-pcie", "h100-sxm", "l4", "l40s", "rtx-6000-ada", "rtx-a5000", "v100-pcie",
        }  # fmt: skip
        return
    product = memory.dram_bus_width_bits / 8 * memory.dram_transfers_per_s
    assert memory.dram_bandwidth_bytes_per_s == pytest.approx(product, rel=0.015)


@pytest.mark.parametrize(("slug", "dtype", "accumulate", "tera", "document"), PUBLISHED)
def test_peaks_are_the_published_ones(slug: str, dtype: str, accumulate: str, tera: float, document: str) -> None:
    assert hardware.load(slug).matrix_peak(dtype, accumulate).ops_per_s == pytest.approx(tera * 1e12, rel=0.01)


def test_published_facts_cover_each_device() -> None:
    checked = {slug for slug, *_ in PUBLISHED}
    same = set().union(*(group for group in SAME_CHIP if group & checked))
    assert set(NAMES) - checked - same == {"epyc-9654"}  # AMD publishes no peak for it


@pytest.mark.parametrize("name", BANDWIDTHS)
def test_bandwidths_are_the_published_ones(name: str) -> None:
    bandwidth = hardware.load(name).memory.dram_bandwidth_bytes_per_s
    assert bandwidth == pytest.approx(BANDWIDTHS[name] * 1e9, rel=0.002)


@pytest.mark.parametrize("name", CORES)
def test_multiprocessors_times_cores_are_the_published_cores(name: str) -> None:
    cores, per_multiprocessor = CORES[name]
    assert hardware.load(name).chip.multiprocessors * per_multiprocessor == cores


@pytest.mark.parametrize(("device", "peak"), peaks(), ids=label)
def test_dense_is_half_of_sparse(device: DeviceSpec, peak: Peak) -> None:
    if peak.sparse_ops_per_s is not None:
        assert peak.unit == "matrix"
        assert peak.sparse_ops_per_s == pytest.approx(2 * peak.ops_per_s, rel=0.01)
    if device.architecture in {"Volta", "Turing", "CDNA 2", "RDNA 3", "TPU v4", "Zen 4"}:
        assert peak.sparse_ops_per_s is None, "this generation has no 2:4 sparsity"


@pytest.mark.parametrize(("device", "peak"), peaks(unit="matrix"), ids=label)
def test_no_row_is_off_by_the_factor_two_of_sparsity(device: DeviceSpec, peak: Peak) -> None:
    """Within a device the rates stand in the ratio of the widths, so a sparse figure among dense ones stands out."""
    if device.vendor != "NVIDIA":
        return
    base = rate(device, "fp16", "fp32")
    full = rate(device, "fp16", "fp16") or base
    assert base is not None
    assert full is not None
    expected = {
        ("fp16", "fp32"): base, ("fp16", "fp16"): full, ("bf16", "fp32"): base, ("tf32", "fp32"): base / 2,
        ("fp8", "fp32"): 2 * base, ("fp8", "fp16"): 2 * full, ("fp4", "fp32"): 4 * full, ("int8", "int32"): 2 * full,
        ("int4", "int32"): 4 * full,
    }  # fmt: skip
    if peak.dtype != "fp64":
        assert peak.ops_per_clock_per_multiprocessor == expected[peak.dtype, peak.accumulate]


@pytest.mark.parametrize("name", GEFORCE)
def test_geforce_accumulates_in_fp32_at_half_rate(name: str) -> None:
    device = hardware.load(name)
    full = device.matrix_peak("fp16", "fp16").ops_per_s
    assert device.matrix_peak("fp16").accumulate == "fp32"
    assert device.matrix_peak("fp16").ops_per_s == pytest.approx(full / 2, rel=0.005)
    if name != "rtx2080ti":
        assert device.matrix_peak("bf16").ops_per_s == device.matrix_peak("fp16").ops_per_s
    if rate(device, "fp8", "fp32"):
        half = device.matrix_peak("fp8", "fp16").ops_per_s / 2
        assert device.matrix_peak("fp8").ops_per_s == pytest.approx(half, rel=0.005)


@pytest.mark.parametrize("name", PROFESSIONAL)
def test_professional_parts_accumulate_in_fp32_at_full_rate(name: str) -> None:
    device = hardware.load(name)
    full = device.matrix_peak("fp16", "fp16").ops_per_s
    assert device.matrix_peak("fp16").ops_per_s == pytest.approx(full, rel=0.005)


@pytest.mark.parametrize(("name", "low", "high"), [(n, *r) for names, r in RIDGES.items() for n in names.split()])
def test_ridge_points_lie_where_their_generation_does(name: str, low: float, high: float) -> None:
    assert low < hardware.load(name).op_byte_ratio("fp16") < high


def test_each_device_with_fp16_has_a_ridge_range() -> None:
    ranged = {name for names in RIDGES for name in names.split()}
    assert set(NAMES) - ranged == {"tpu-v4", "epyc-9654"}
    assert 215 < hardware.load("tpu-v4").op_byte_ratio("bf16") < 240
    assert 20 < hardware.load("epyc-9654").op_byte_ratio("fp32") < 30


def _declared(one: str, other: str, groups: tuple[set[str], ...]) -> bool:
    return any({one, other} <= group for group in groups)


def test_peaks_copied_between_devices_are_noticed() -> None:
    tables = {name: frozenset((peak.path, peak.ops_per_s, peak.clock_hz) for peak in hardware.load(name).peak) for name in NAMES}
    same = {(a, b) for a, b in itertools.combinations(NAMES, 2) if tables[a] == tables[b]}
    assert {pair for pair in same if not _declared(*pair, SAME_CHIP)} == set()


def test_memories_copied_between_devices_are_noticed() -> None:
    tables = {name: tuple(hardware.load(name).memory.numbers()) for name in NAMES}
    same = {(a, b) for a, b in itertools.combinations(NAMES, 2) if tables[a] == tables[b]}
    assert {pair for pair in same if not _declared(*pair, SAME_MEMORY)} == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_document_and_every_document_a_number(name: str) -> None:
    device = hardware.load(name)
    used = set()
    for path, value, document in device.numbers():
        assert device.source_of(path) == document
        assert device.require(path) == value
        used.add(document)
    assert used == set(device.documents.values())
    # what was measured stands apart from the documents, and only where a recorded run stands behind it, or a page of somebody else's
    published = {entry.quantity for entry in device.measured if re.search(r"\b[a-z0-9-]+(\.[a-z0-9-]+)+/\S", entry.where)}
    assert {entry.quantity for entry in device.measured} - published == _recorded_quantities(name)


def _recorded_quantities(name: str) -> set[str]:
    folder = FOLDER.parent.parent / "validation" / "results" / name
    runs = [json.loads(path.read_text("utf-8")) for path in folder.glob("machine*.json")]
    return {sample["quantity"] for run in runs for sample in run["samples"]}


@pytest.mark.parametrize("name", NAMES)
def test_each_file_opens_with_the_derivation_of_its_peaks(name: str) -> None:
    """The opening comment recomputes every dense peak: its product and its published figure are those of the file."""
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    device = hardware.load(name)
    lines = [line for line in text.splitlines() if line.startswith("# ") and "ops/clock/" in line and "dense" in line]
    written = {}
    pattern = re.compile(r"# (\w+) (vector )?dense, (\w+) accumulate: (\d+) .+ × (\d+) ops/clock/.+ × ([\d.]+) GHz = ([\d.]+) ")
    for line in lines:
        match = pattern.match(line)
        assert match, line
        dtype, vector, accumulate, units, width, clock, product = match.groups()
        assert int(units) * int(width) * float(clock) / 1e3 == pytest.approx(float(product), rel=1e-3)
        written["vector" if vector else "matrix", dtype, accumulate] = float(product)
    given = {(p.unit, p.dtype, p.accumulate): p.ops_per_s / 1e12 for p in device.peak if p.unit != "special"}
    assert written.keys() == given.keys()
    for key, product in written.items():
        assert given[key] == pytest.approx(product, rel=0.01)


def test_the_catalogue_is_not_small() -> None:
    assert len(NAMES) >= 32


@pytest.mark.parametrize("name", NAMES)
def test_slugs_and_special_functions(name: str) -> None:
    device = hardware.load(name)
    assert device.slug == name == name.lower()
    if device.vendor == "NVIDIA":
        assert device.compute_capability is not None
        assert device.special_peak().ops_per_clock_per_multiprocessor == 16
        assert device.chip.registers_per_multiprocessor == 65536
    else:
        assert device.compute_capability is None
        with pytest.raises(HardwareError, match=f"{name} .* no known peak for special fp32"):
            device.special_peak()


@pytest.mark.parametrize(
    ("capability", "per_block", "threads"),
    # CUDA C++ Programming Guide, technical specifications per compute capability: KiB per block, threads per SM
    [
        ("7.0", 96, 2048), ("7.5", 64, 1024), ("8.0", 163, 2048), ("8.6", 99, 1536), ("8.7", 163, 1536),
        ("8.9", 99, 1536), ("9.0", 227, 2048), ("10.0", 227, 2048), ("12.0", 99, 1536),
    ],
)  # fmt: skip
def test_local_memory_follows_the_compute_capability(capability: str, per_block: int, threads: int) -> None:
    devices = [device for device in map(hardware.load, NAMES) if device.compute_capability == capability]
    assert devices
    for device in devices:
        assert device.chip.shared_memory_per_block_bytes == per_block * 1024
        assert device.chip.max_threads_per_multiprocessor == threads


def test_h200_as_a_program_sees_it() -> None:
    h200 = hardware.load("h200")
    assert h200.memory.l2_bytes == h200.memory.largest_cache_bytes == 62_914_560
    assert h200.chip.multiprocessors == 132
    assert h200.chip.max_clock_hz == 1.98e9
    assert h200.chip.shared_memory_per_block_bytes == 232_448
    assert h200.chip.shared_memory_per_multiprocessor_bytes == 233_472
    assert h200.max_clock_ratio(h200.matrix_peak("fp16")) == pytest.approx(1.98 / 1.83)
    assert h200.max_clock_ratio(h200.vector_peak("fp32")) == 1


def test_caches_behind_the_l2_count_as_the_largest() -> None:
    assert hardware.load("mi300x").memory.largest_cache_bytes == 256 * 2**20
    assert hardware.load("rx7900xtx").memory.largest_cache_bytes == 96 * 2**20
    assert hardware.load("epyc-9654").memory.largest_cache_bytes == 384 * 2**20
    assert hardware.load("a100").memory.largest_cache_bytes == 40 * 2**20
    assert hardware.load("gh200").memory.largest_cache_bytes is None


@pytest.mark.parametrize(
    ("name", "ghz"),
    [
        ("rtx3090", 1.98), ("rtx4090", 3.105), ("v100", 1.53), ("t4", 1.59), ("rtx5090", 3.09), ("b200", 1.965),
        ("rtx-pro-6000-maxq", 3.09),
    ],
)  # fmt: skip
def test_maximum_clocks(name: str, ghz: float) -> None:
    assert hardware.load(name).chip.max_clock_hz == ghz * 1e9


@pytest.mark.parametrize("name", ["a10", "a100-pcie-80gb", "h100-pcie", "a30", "rtx3080", "rtx4070", "rtx5080"])
def test_a_maximum_clock_without_a_source_is_left_out(name: str) -> None:
    device = hardware.load(name)
    with pytest.raises(HardwareError, match=r"chip\.max_clock_hz is not known"):
        device.max_clock_ratio(device.matrix_peak("fp16"))
