"""The fused kernels without a GPU: which one a problem gets, its launch, and what the model says about it."""

from __future__ import annotations

import dataclasses
import doctest
import itertools

import numpy as np
import pytest

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.totals import totals
from perfmodel.validation import timing
from perfmodel.validation.fused import configuration, packing, problem, reference, tiles
from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.choice import Offer, best, block_layers, estimated_clocks, graph_of
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.convfirst import stream
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.count import count
from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, GpuError
from perfmodel.validation.fused.tiles import reached
from perfmodel.validation.machine_file import device_named, is_device, slug_of, with_measured
from tests.gpus import H200

CONVFIRST = FAMILIES["convfirst"]
RTX4090 = DeviceLimits(
    name="RTX 4090",
    compute_capability=(8, 9),
    multiprocessors=128,
    shared_bytes_per_block=101376,
    shared_bytes_per_multiprocessor=102400,
    l2_bytes=75497472,
)


MODULES = (configuration, packing, problem, reference, tiles, timing)


def a_problem(**changes) -> ConvFirstProblem:
    return ConvFirstProblem(**{"N": 128, "H": 56, "W": 56, "C": 64, "expansion": 4, **changes})


def chosen(asked, device, only=None) -> Config:
    return family_of(asked).choose(asked, device, only=only)


def launch_of(asked, config, device):
    (launch,) = family_of(asked).by_name[config.kernel].launches(asked, config, device)
    return launch


@pytest.mark.parametrize(
    "module", [*MODULES, *(__import__(f.problem.__module__, fromlist=["x"]) for f in FAMILIES.values())], ids=str
)
def test_examples(module):
    done = doctest.testmod(module)
    assert done.failed == 0


@pytest.mark.parametrize(
    ("changes", "kernel"),
    [
        ({}, "convfirst_c64"),
        ({"expansion": 8}, "convfirst_c64"),
        ({"H": 1017}, "convfirst_generic"),
        ({"dtype": "bf16"}, "convfirst_generic"),
        ({"C": 128, "H": 28, "W": 28}, "convfirst_stream"),
        ({"C": 128, "W": 31}, "convfirst_stream"),
        ({"C": 128, "W": 300}, "convfirst_generic"),
        ({"C": 96}, "convfirst_stream"),
        ({"C": 160}, "convfirst_generic"),
        ({"C": 256, "H": 14, "W": 14}, "convfirst_stream"),
    ],
)
def test_kernel_on_hopper(changes, kernel):
    assert chosen(a_problem(**changes), H200).kernel == kernel


def test_only_generic_elsewhere():
    for C in (64, 128):
        assert chosen(a_problem(C=C, W=28), RTX4090).kernel == "convfirst_generic"
    with pytest.raises(GpuError, match=r"compute capability 9\.0"):
        chosen(a_problem(), RTX4090, only="convfirst_c64")
    with pytest.raises(GpuError, match="96, 128 or 256 channels, not 64"):
        chosen(a_problem(), H200, only="convfirst_stream")


def test_shared_memory_is_what_the_tiles_need():
    def formula(e: int, warpgroups: int) -> int:
        weights, filters, biases = 2 * 64 * e * 64 * 2, 4 * 9 * 512, 2 * 64 * e + 256
        return -(-(weights + filters + biases) // 1024) * 1024 + warpgroups * (2 * 13 * 1024 + 16) + 3 * 8

    for e in range(1, 9):
        config = chosen(a_problem(expansion=e), H200)
        assert config.shared_bytes == formula(e, config.defines["WARPGROUPS"]) <= H200.shared_bytes_per_block
    assert chosen(a_problem(expansion=7), H200).defines["WARPGROUPS"] == 3


def test_ring_is_shorter_than_a_tile_of_items():
    for e in range(1, 9):
        config = chosen(a_problem(C=128, W=28, expansion=e), H200)
        assert config.defines["RING_SLOTS"] < 8 * e
        assert config.defines["LEAD"] == 32  # 29 rounded up to eight


@pytest.mark.parametrize("C", sorted(stream.WARPGROUPS))
@pytest.mark.parametrize("N", [1, 2, 16, 128])
@pytest.mark.parametrize("size", [1, 14, 28, 56, 63])
def test_streamed_offers_hold_the_kernels_conditions(C, N, size):
    for e in (1, 4, 6, 8):
        asked = a_problem(N=N, C=C, H=size, W=size, expansion=e)
        for offer in stream.offers(asked, H200):
            v, launch = offer.config.defines, launch_of(asked, offer.config, H200)
            assert offer.config.shared_bytes <= H200.shared_bytes_per_block
            assert v["PAIRS"] == (size % 2 == 0)
            assert v["BOXES"] * v["BOX_ROWS"] * (1 + v["PAIRS"]) >= v["LEAD"] + 64 * v["WARPGROUPS"] + v["TRAIL"]
            assert not v["PAIRS"] or v["BOXES"] == 1
            assert v["BOX_ROWS"] <= 256
            assert v["LEAD"] % 8 == 0
            assert v["LEAD"] >= v["TRAIL"] == size + 1
            chunks = e * C // 32 // v["SPLIT"]
            assert chunks * 32 * v["SPLIT"] == e * C
            assert C // 8 % v["SPLIT"] == 0
            assert v["RING_SLOTS"] < 2 * chunks or v["WARPGROUPS"] == 1
            assert v["RING_SLOTS"] >= min(4, 2 * chunks - (v["WARPGROUPS"] > 1))
            if v["SPLIT"] > 1:  # one tile for each cluster, and its sums where the ring was
                assert launch.grid[0] == -(-asked.pixels // 64) * v["SPLIT"] <= H200.multiprocessors
                assert v["RING_SLOTS"] * 64 * C >= 64 * 4 * C
            else:
                assert launch.grid[0] == min(132, -(-asked.pixels // (64 if v["TAIL"] else 64 * v["WARPGROUPS"])))
            if v["TAIL"]:  # sums of half a tile lie where the ring was
                assert (v["CHANNELS"], v["WARPGROUPS"], v["X_BUFFERS"], chunks % 2) == (256, 2, 1, 0)
                assert v["RING_SLOTS"] * 64 * C >= 64 * 4 * C


def test_few_pixels_are_shared_by_clusters():
    """An image of 14×14 has four tiles of 64 pixels: without sharing four multiprocessors of 132 would work."""
    small, large = (a_problem(N=N, C=256, H=14, W=14) for N in (1, 128))
    assert chosen(small, H200).defines["SPLIT"] == 8
    assert (chosen(large, H200).defines["SPLIT"], chosen(large, H200).defines["WARPGROUPS"]) == (1, 2)


def test_last_round_is_halved_where_that_is_enough():
    """14×14 at batch 128: 132 tiles of 128 pixels leave 8192, which are 128 tiles of 64; by the estimate three half rounds, not four."""
    asked = a_problem(C=256, H=14, W=14)
    (whole,) = (offer for offer in stream.offers(asked, H200) if offer.config.defines["TAIL"])
    assert (whole.tiles, whole.loaded_share) == (392, 0.5)
    assert launch_of(asked, whole.config, H200).grid == (132, 1, 1)
    assert asked.pixels - 132 * 128 == 128 * 64


def test_streamed_refuses_what_it_cannot_count():
    asked = a_problem(N=1, H=6487866, W=331, C=256, expansion=1)
    assert stream.configure(asked, H200) == "it counts at most 2147450880 pixels, and there are 2147483646"


def test_persistent_grids():
    big, small = a_problem(), a_problem(N=1, H=8, W=9)
    for asked, blocks in ((big, 132), (small, 2)):
        launch = launch_of(asked, chosen(asked, H200), H200)
        assert launch.grid == (blocks, 1, 1)
        assert launch.block == (512, 1, 1)
        assert launch.arguments == (asked.N, asked.H, asked.W)


def test_boxes():
    asked = a_problem()
    source, target = (operand.box for operand in launch_of(asked, chosen(asked, H200), H200).operands[:2])
    assert source.dims == (64, 56, 56, 128)
    assert source.strides_bytes == (128, 128 * 56, 128 * 56 * 56)
    assert (source.box, target.box) == ((64, 10, 10, 1), (64, 8, 1, 1))
    wide = a_problem(C=128, H=28, W=28)
    source = launch_of(wide, chosen(wide, H200), H200).operands[0].box
    assert (source.dims, source.strides_bytes) == ((128, 2, 128 * 28 * 14), (256, 512))  # even pixels and odd ones
    assert source.box == (64, 1, 127)  # half of 32 + 192 + 29 rows
    odd = a_problem(C=128, H=27, W=27)
    source = launch_of(odd, chosen(odd, H200), H200).operands[0].box
    assert (source.dims, source.box) == ((128, 128 * 27 * 27), (64, 32 + 192 + 28))
    half = a_problem(C=96)
    source = launch_of(half, chosen(half, H200), H200).operands[0].box
    assert (source.box, source.swizzle_bytes) == ((32, 1, 157), 64)  # half of 64 + 192 + 57 rows
    plain = a_problem(C=160)
    assert all(operand.box is None for operand in launch_of(plain, chosen(plain, H200), H200).operands)


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
        chosen(a_problem(C=8192), RTX4090)
    with pytest.raises(GpuError, match="multiprocessors of RTX 4090 is 0; at least 1"):
        dataclasses.replace(RTX4090, multiprocessors=0)
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
    config = chosen(asked, H200)
    found = count(asked, config, load("h200"))
    pixels = 128 * 56 * 56
    assert found.macs == pixels * (64 * 72 + 2 * 64 * 256)
    assert found.compulsory_bytes == 2 * 2 * pixels * 64 + 2 * (64 * 72 + 2 * 64 * 256) + 4 * (64 + 256 + 64)
    assert found.floor_s == max(2 * found.macs / 790e12, found.compulsory_bytes / 4.3e12)
    assert found.compulsory_bytes <= found.model_bytes <= found.kernel_bytes
    assert 0 < found.waterline_s < found.floor_s


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_more_channels_than_any_tile_sums_are_refused_with_the_number(family):
    asked = dataclasses.replace(family.cases()[0], C=50_000, expansion=8)
    with pytest.raises(GpuError, match="sums of 50000 output channels do not fit the 255 registers"):
        family.choose(asked, H200)
    with pytest.raises(GpuError, match="the seed is -1"):
        family.draw(family.cases()[0], -1)


def test_another_device_has_its_own_count_and_an_unknown_one_none():
    """The floor is of rates that were reached on an H200, the waterline and the model's bytes are the device's."""
    asked = a_problem()
    config = chosen(asked, H200)
    here, there, nowhere = (count(asked, config, device_named(name)) for name in ("NVIDIA H200", "NVIDIA H100 PCIe", "NVIDIA X1"))
    assert there.waterline_s > here.waterline_s
    assert there.floor_s is None
    assert (nowhere.waterline_s, nowhere.floor_s, nowhere.model_bytes) == (None, None, None)
    assert nowhere.kernel_bytes == here.kernel_bytes


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
    ],
)
def test_a_device_is_known_by_the_name_that_its_driver_gives(name, slug, tmp_path):
    assert slug_of(name) == slug
    assert is_device(name, load(slug))
    assert not is_device(name, load("t4"))
    own = tmp_path / "measured-here.toml"  # as hardware measure writes it
    own.write_text(with_measured(slug, ()), encoding="utf-8")
    assert is_device(name, load(own))


def test_a_longer_name_is_another_device():
    assert device_named("NVIDIA GeForce RTX 3090 Ti") is None
    with pytest.raises(PerfmodelError, match="no device that 'NVIDIA GeForce RTX 3090 Ti' names"):
        slug_of("NVIDIA GeForce RTX 3090 Ti")


@pytest.mark.parametrize("name", FAMILIES)
def test_counts_follow_from_the_layers(name):
    """MACs and compulsory bytes of every case, by formulas written out here."""
    family = FAMILIES[name]
    for asked in (*family.cases(), *(one for more in family.selections.values() for one in more())):
        C, K, out = asked.C, asked.hidden, asked.output_shape[-1]
        pixels, hidden_pixels = asked.pixels, asked.pixels
        if name == "mbconv":
            hidden_pixels = asked.hidden_shape[0] * asked.hidden_shape[1] * asked.hidden_shape[2]
            taps = asked.kernel**2 * asked.group_width
            squeeze = asked.squeeze or 0
            macs = pixels * C * K + hidden_pixels * K * (taps + out) + asked.N * 2 * K * squeeze
            weights = 2 * (C * K + taps * K + K * out + 2 * K * squeeze) + 4 * (2 * K + out + (K + squeeze if squeeze else 0))
        else:
            inner = {"convfirst": 72 * C + 2 * C * K, "fused_mbconv": 9 * C * K + C * K, "convnext": 49 * C + 2 * C * K}[name]
            vectors = {"convfirst": 2 * C + K, "fused_mbconv": K + C, "convnext": 5 * C + K}[name]
            macs, weights = pixels * inner, 2 * inner + 4 * vectors
        graph = graph_of(asked)
        assert int(graph.macs) == macs
        assert family.weight_bytes(asked) == weights
        assert asked.input_bytes + asked.output_bytes == 2 * (pixels * C + hidden_pixels * out)


@pytest.mark.parametrize("device", [H200, RTX4090], ids=lambda device: device.name)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_case_is_served_or_says_why(name, device):
    """And a sample of the problems that are checked: with one sentence where the kernel that is asked for does not serve."""
    family = FAMILIES[name]
    cases = [(case, None) for case in family.cases() if device is H200 or case.N == 16]
    for asked, only in [*cases, *family.odd_cases()[::13]]:
        try:
            config = family.choose(asked, device, only=only)
        except GpuError as error:
            assert asked.name in str(error)
            assert only is not None
            continue
        assert config.shared_bytes <= device.shared_bytes_per_block
        kernel = family.by_name[config.kernel]
        assert kernel.moved_bytes(asked, config) >= asked.output_bytes
        for launch in kernel.launches(asked, config, device):
            assert min(*launch.grid, *launch.block) >= 1
            assert launch.block[0] <= 1024
            assert launch.shared_bytes <= device.shared_bytes_per_block


def test_names_of_problems_are_their_own():
    asked = [problem for family in FAMILIES.values() for problem in (*family.cases(), *(p for p, _ in family.odd_cases()))]
    names: dict[str, object] = {}
    for one in asked:
        assert names.setdefault(one.name, one) == one


@pytest.mark.parametrize("changes", [{}, {"C": 96, "H": 13, "W": 21}, {"H": 1, "W": 1}])
def test_halo_by_counting(changes):
    asked = a_problem(N=2, **changes)
    config = chosen(asked, H200, "convfirst_generic")
    elements = asked.N * asked.C * brute_force(asked.H, config.tile_rows, 3, 1) * brute_force(asked.W, config.tile_columns, 3, 1)
    assert CONVFIRST.by_name["convfirst_generic"].moved_bytes(asked, config) == 2 * elements + asked.output_bytes


def brute_force(size: int, tile: int, kernel: int, stride: int) -> int:
    """Every input index between the first and the last that a tile of outputs needs, inside of the image."""
    outputs, read = -(-size // stride), 0
    for start in range(0, outputs, tile):
        needed = {o * stride - kernel // 2 + k for o in range(start, min(start + tile, outputs)) for k in range(kernel)}
        read += sum(0 <= index < size for index in range(min(needed), max(needed) + 1))
    return read


def test_reached_by_counting():
    for size, tile, kernel, stride in itertools.product((1, 2, 7, 8, 13), (1, 2, 3, 5, 16), (3, 5, 7), (1, 2)):
        assert reached(size, tile, kernel=kernel, stride=stride) == brute_force(size, tile, kernel, stride)


# -- the choice among tiles ------------------------------------------------------------------------------------------------


def an_offer(rows: int, columns: int, **changes) -> Offer:
    config = Config(
        kernel="k", tile_rows=rows, tile_columns=columns, threads=256, shared_bytes=1, blocks_per_multiprocessor=1, constants=()
    )
    return Offer(config=config, chunk=64, **changes)


def test_estimate_is_the_machines_count():
    """One tile of the whole image on one multiprocessor: its MACs and bytes at the two rates."""
    asked = a_problem(N=1, H=8, W=8)
    (clocks,) = estimated_clocks(asked, [an_offer(8, 8)], H200)
    pixels, weights = 64, 72 * 64 + 2 * 64 * 256
    loaded = 2 * (pixels * 64 + weights + 64 + 256 + 64)  # the machine holds biases in the type it computes in
    assert clocks == pytest.approx(pixels * weights / 1270 + (loaded + 2 * pixels * 64) / 21)
    half, filled, shared = estimated_clocks(
        asked, [an_offer(8, 8, operand_bytes=1280.0), an_offer(8, 8, filled=0.5), an_offer(8, 8, macs_share=0.5)], H200
    )
    assert half == pytest.approx(clocks + 10)
    assert filled - clocks == pytest.approx(pixels * weights / 1270)
    assert clocks - shared == pytest.approx(pixels * weights / 1270 / 2)


def test_estimate_recomputes_what_the_machine_recomputes():
    """MBConv's tiles expand their halo: the estimate's MACs are the totals of the tensor machine's program for that tile."""
    asked = MBConvProblem(N=2, H=20, W=20, C=32, expansion=4)
    graph = graph_of(asked)
    tiling = Tiling(mode="tiles", rows=4, columns=5, chunk=64, resident_weights=False)
    (program,) = fused_programs(graph, block_layers(graph), tiling, element_bytes=ELEMENT_BYTES)
    macs = float(totals(program).macs)
    assert macs > int(graph.macs)
    plain, empty = estimated_clocks(asked, [an_offer(4, 5), an_offer(4, 5, filled=1e-9)], H200)
    rounds = -(-2 * 5 * 4 // 132)
    assert (empty - plain) / rounds == pytest.approx(macs / 40 * (1e9 - 1) / 1270, rel=1e-6)


def test_best_fills_the_device_and_wastes_no_rows():
    asked = a_problem(N=1, H=32, W=32)
    assert best(asked, [an_offer(32, 32), an_offer(4, 4)], H200).tile_rows == 4
    assert best(asked, [an_offer(4, 4, filled=0.5), an_offer(4, 4, filled=1.0)], H200) == an_offer(4, 4).config


def test_an_offer_without_a_place_is_refused():
    """As clusters on a device with fewer multiprocessors than theirs: a launch would have no block, and no result."""
    asked = a_problem(N=1, H=32, W=32)
    refused = best(asked, [an_offer(4, 4, multiprocessors=0)], H200)
    assert refused == "its clusters of blocks have no place on 132 multiprocessors"
    assert best(asked, [an_offer(4, 4, multiprocessors=0), an_offer(8, 8)], H200) == an_offer(8, 8).config


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("multiprocessors", [1, 2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_few_multiprocessors_are_served(name, multiprocessors):
    """Every launch has blocks, and none more in a cluster than there are multiprocessors; no estimate divides by zero."""
    family, device = FAMILIES[name], dataclasses.replace(H200, multiprocessors=multiprocessors)
    more = [one for selection in family.selections.values() for one in selection()]
    for asked in (one for one in (*family.cases(), *more) if one.N == 1):
        config = family.choose(asked, device)
        assert config.defines.get("CLUSTER", 1) <= multiprocessors
        assert config.defines.get("SPLIT", 1) <= multiprocessors
        for launch in family.by_name[config.kernel].launches(asked, config, device):
            assert min(launch.grid) >= 1


# -- what each family refuses ----------------------------------------------------------------------------------------------

SIZES = {"N": 1, "H": 8, "W": 8, "C": 64, "expansion": 4}


@pytest.mark.parametrize("kind", [ConvFirstProblem, MBConvProblem, FusedMBConvProblem, ConvNeXtProblem])
def test_channels_are_multiples_of_eight_everywhere(kind):
    with pytest.raises(GpuError, match=r"60, not a multiple of 8.*56 or 64"):
        kind(**{**SIZES, "C": 60})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": 5}, "5×5 of width 8.*3×3 of width 8, 3×3 of width 1, 5×5 of width 1"),
        ({"stride": 3}, "stride is 3; the kernels serve 1 and 2"),
        ({"squeeze": 0}, "squeeze is 0"),
        ({"out_channels": 20}, "out_channels is 20, not a multiple of 8.*16 or 24"),
    ],
)
def test_refused_mbconv(changes, words):
    with pytest.raises(GpuError, match=words):
        MBConvProblem(**{**SIZES, **changes})


@pytest.mark.parametrize(("H", "stride", "rows"), [(13, 2, 7), (14, 2, 7), (1, 2, 1), (9, 1, 9)])
def test_mbconv_sizes(H, stride, rows):
    asked = MBConvProblem(**{**SIZES, "H": H, "stride": stride, "out_channels": 72})
    assert asked.output_shape == (1, rows, -(-8 // stride), 72)
    assert not asked.has_identity
    assert dataclasses.replace(asked, stride=1, out_channels=None).has_identity


def test_unknown_kernel_is_refused():
    with pytest.raises(GpuError, match=r"nonsense is no kernel of convfirst; there are convfirst_c64"):
        chosen(a_problem(), H200, "nonsense")


def test_floor_is_the_larger_of_the_two():
    asked = a_problem()
    found = count(asked, chosen(asked, H200), load("h200"))
    assert found.floor_s == max(OPS_PER_MAC * found.macs / 790e12, found.compulsory_bytes / 4.3e12)
    assert np.isclose(found.kernel_bytes - CONVFIRST.weight_bytes(asked), 2 * 64 * 128 * 68 * 68 + asked.output_bytes)
