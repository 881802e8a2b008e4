"""The fused kernels without a GPU: which one a problem gets, its launch, and what the model says about it."""

from __future__ import annotations

import doctest

import pytest

from perfmodel.hardware.catalog import load
from perfmodel.validation import block_reference, configuration, kernel_count, packing, problem, timing
from perfmodel.validation.configuration import Config, boxes_of, choose_config, generic_shared_bytes, launch_of
from perfmodel.validation.kernel_count import count, halo_elements
from perfmodel.validation.problem import DeviceLimits, GpuError, Problem

H200 = DeviceLimits(
    name="H200",
    compute_capability=(9, 0),
    multiprocessors=132,
    shared_bytes_per_block=232448,
    shared_bytes_per_multiprocessor=233472,
    l2_bytes=62914560,
)
RTX4090 = DeviceLimits(
    name="RTX 4090",
    compute_capability=(8, 9),
    multiprocessors=128,
    shared_bytes_per_block=101376,
    shared_bytes_per_multiprocessor=102400,
    l2_bytes=75497472,
)


def a_problem(**changes) -> Problem:
    return Problem(**{"N": 128, "H": 56, "W": 56, "C": 64, "expansion": 4, **changes})


@pytest.mark.parametrize("module", [block_reference, configuration, kernel_count, packing, problem, timing])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("changes", "kernel"),
    [
        ({}, "convfirst_c64"),
        ({"expansion": 8}, "convfirst_c64"),
        ({"H": 1017}, "convfirst_generic"),
        ({"dtype": "bf16"}, "convfirst_generic"),
        ({"C": 128, "H": 28, "W": 28}, "convfirst_stream"),
        ({"C": 128, "W": 31}, "convfirst_stream"),
        ({"C": 128, "W": 32}, "convfirst_generic"),
        ({"C": 96}, "convfirst_generic"),
        ({"C": 256, "H": 14, "W": 14}, "convfirst_generic"),
    ],
)
def test_kernel_on_hopper(changes, kernel):
    assert choose_config(a_problem(**changes), H200).kernel == kernel


def test_only_generic_elsewhere():
    for C in (64, 128):
        assert choose_config(a_problem(C=C, W=28), RTX4090).kernel == "convfirst_generic"
    with pytest.raises(GpuError, match=r"compute capability 9\.0"):
        choose_config(a_problem(), RTX4090, only="convfirst_c64")
    with pytest.raises(GpuError, match="128 channels, not 64"):
        choose_config(a_problem(), H200, only="convfirst_stream")


def test_shared_memory_is_what_the_tiles_need():
    def formula(e: int, warpgroups: int) -> int:
        weights, filters, biases = 2 * 64 * e * 64 * 2, 4 * 9 * 512, 2 * 64 * e + 256
        return -(-(weights + filters + biases) // 1024) * 1024 + warpgroups * (2 * 13 * 1024 + 16)

    for e in range(1, 9):
        config = choose_config(a_problem(expansion=e), H200)
        assert config.shared_bytes == formula(e, config.defines["WARPGROUPS"]) <= H200.shared_bytes_per_block
    assert choose_config(a_problem(expansion=7), H200).defines["WARPGROUPS"] == 3


def test_ring_is_shorter_than_a_tile_of_items():
    for e in range(1, 9):
        config = choose_config(a_problem(C=128, W=28, expansion=e), H200)
        assert config.defines["RING_SLOTS"] < 8 * e
        assert config.defines["LEAD"] == 32  # 29 rounded up to eight


@pytest.mark.parametrize("device", [H200, RTX4090], ids=lambda device: device.name)
@pytest.mark.parametrize("C", [8, 24, 96, 264, 520, 1024, 2056])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (13, 70), (56, 56)])
def test_generic_tiles_fit_and_cover(device, C, size):
    asked = a_problem(N=3, C=C, H=size[0], W=size[1])
    config = choose_config(asked, device, only="convfirst_generic")
    values = config.defines
    assert config.tile_rows * config.tile_columns <= values["M"]
    assert config.shared_bytes == generic_shared_bytes(C, config.tile_rows, config.tile_columns, values["M"])
    assert config.shared_bytes <= device.shared_bytes_per_block
    launch = launch_of(asked, config, device)
    assert launch.grid[0] == 3 * -(-size[0] // config.tile_rows) * -(-size[1] // config.tile_columns)
    assert launch.grid[1] * (8 // values["WARPS_M"]) * values["BLOCKS_PER_WARP"] * 8 >= C
    per_warp = values["BLOCKS_PER_WARP"] + values["WARPS_M"]  # blocks of eight columns: outputs, and a chunk of 64 over 8 warps
    assert per_warp * 4 * max(1, values["M"] // 16 // values["WARPS_M"]) <= 144  # accumulators
    assert not launch.dependent


def test_persistent_grids():
    big, small = a_problem(), a_problem(N=1, H=8, W=9)
    for asked, blocks in ((big, 132), (small, 1)):
        launch = launch_of(asked, choose_config(asked, H200), H200)
        assert launch.grid == (blocks, 1, 1)
        assert launch.block == (512, 1, 1)
        assert launch.arguments == (asked.N, asked.H, asked.W)


def test_boxes():
    asked = a_problem()
    source, target = boxes_of(asked, choose_config(asked, H200))
    assert source.dims == (64, 56, 56, 128)
    assert source.strides_bytes == (128, 128 * 56, 128 * 56 * 56)
    assert (source.box, target.box) == ((64, 10, 10, 1), (64, 8, 1, 1))
    wide = a_problem(C=128, H=28, W=28)
    source, _ = boxes_of(wide, choose_config(wide, H200))
    assert source.dims == (128, 128 * 28 * 28)
    assert source.box == (64, 32 + 192 + 29)
    assert boxes_of(a_problem(C=96), choose_config(a_problem(C=96), H200)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"C": 60}, "60, not a multiple of 8.*56 or 64"),
        ({"C": 4}, "pad it to 8"),
        ({"N": 0}, "N is 0"),
        ({"expansion": 9}, "1 to 8"),
        ({"dtype": "fp32"}, "fp16 and bf16"),
        ({"N": 2**20, "H": 2**10, "W": 2**10}, "split the batch"),
    ],
)
def test_refused_problems(changes, words):
    with pytest.raises(GpuError, match=words) as raised:
        a_problem(**changes)
    assert raised.value.exit_code == 5


def test_refusals_give_numbers():
    with pytest.raises(GpuError, match=r"shared memory.*RTX 4090 has"):
        choose_config(a_problem(C=8192), RTX4090)
    with pytest.raises(GpuError, match=r"7\.5; the kernels need 8\.0"):
        DeviceLimits(
            name="T4",
            compute_capability=(7, 5),
            multiprocessors=40,
            shared_bytes_per_block=65536,
            shared_bytes_per_multiprocessor=65536,
            l2_bytes=4194304,
        )


def test_count_is_the_textbooks():
    asked = a_problem()
    config = choose_config(asked, H200)
    found = count(asked, config, load("h200"))
    pixels = 128 * 56 * 56
    assert found.macs == pixels * (64 * 72 + 2 * 64 * 256)
    assert found.compulsory_bytes == 2 * 2 * pixels * 64 + 2 * (64 * 72 + 2 * 64 * 256) + 4 * (64 + 256 + 64)
    assert found.floor_s == max(2 * found.macs / 790e12, found.compulsory_bytes / 4.3e12)
    assert found.compulsory_bytes <= found.model_bytes <= found.kernel_bytes
    assert 0 < found.waterline_s < found.floor_s


def brute_force(asked: Problem, config: Config) -> int:
    elements = 0
    for top in range(0, asked.H, config.tile_rows):
        for left in range(0, asked.W, config.tile_columns):
            elements += sum(
                0 <= y < asked.H and 0 <= x < asked.W
                for y in range(top - 1, top + config.tile_rows + 1)
                for x in range(left - 1, left + config.tile_columns + 1)
                if y <= asked.H and x <= asked.W
            )
    return elements * asked.N * asked.C


@pytest.mark.parametrize("changes", [{}, {"C": 96, "H": 13, "W": 21}, {"H": 1, "W": 1}])
def test_halo_by_counting(changes):
    asked = a_problem(N=2, **changes)
    config = choose_config(asked, H200)
    assert halo_elements(asked, config) == brute_force(asked, config)
