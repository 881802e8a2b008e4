"""FusedMBConv and ConvNeXt on Hopper: what is packed read back as the matrix instructions read it, and what is chosen."""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import re

import numpy as np
import pytest

from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.choice import estimated_clocks, machine_counts
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.convnext import few as convnext_few
from perfmodel.validation.fused.convnext import patch, planes, wide
from perfmodel.validation.fused.convnext.gelu import EXPANDED, PROJECTED
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.fused_mbconv import few, stream
from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.packing import bits, unbits
from tests.gpus import H200

LANES = [(lane % 4, lane // 4) for lane in range(32)]
"""Lane modulo and divided by four: of an accumulator its columns 2q, 2q+1 and its rows g, g+8."""


def configured(module, problem, **changes):
    config = module.arrange(problem, H200, **changes) if changes else module.configure(problem, H200)
    assert isinstance(config, Config), config
    return config


def core(data, start, K, N):
    """A K×N operand of core matrices of 8 columns by 8 k, contiguous, adjacent along N first."""
    return data.view(np.float16)[start : start + K * N].reshape(K // 8, N // 8, 8, 8).transpose(0, 3, 1, 2).reshape(K, N)


def lane_pairs(data, chunk):
    """Biases in their order: chunk, lane, block, pair."""
    return data.view(np.float16).reshape(-1, 4, chunk // 8, 2).transpose(0, 2, 1, 3).reshape(-1)


def rounded(values):
    return unbits(bits(np.asarray(values, np.float32), "fp16"), "fp16")


@pytest.mark.parametrize(("C", "split", "chunk"), [(64, 1, 128), (128, 1, 256), (128, 2, 128), (256, 1, 128)])
def test_fused_mbconv_items(C, split, chunk):
    problem = FusedMBConvProblem(N=2, H=9, W=7, C=C, expansion=4)
    p = family_of(problem).draw(problem, 5)
    config = configured(stream, problem, split=split, chunk=chunk, buffers=1)
    items, biases = stream.pack(problem, config, p)
    at, k, n = 0, 8192 // chunk, 8192 // C
    for start in range(0, 4 * C, chunk):
        for tap in range(9):
            for c in range(0, C, k):
                expected = rounded(p.conv_w[start : start + chunk, tap // 3, tap % 3, c : c + k].T / 2)
                np.testing.assert_array_equal(core(items, at, k, chunk), expected)
                at += 8192
        for row in range(start, start + chunk, n):
            np.testing.assert_array_equal(core(items, at, n, C), p.project_w[row : row + n])
            at += 8192
    assert at == len(items) // 2
    np.testing.assert_array_equal(lane_pairs(biases[: 8 * C], chunk), rounded(p.conv_b / 2))
    np.testing.assert_array_equal(lane_pairs(biases[8 * C :], C), rounded(p.project_b))


@pytest.mark.parametrize(("C", "cluster", "chunk"), [(64, 2, 128), (64, 4, 64), (128, 8, 64), (256, 8, 128), (256, 16, 64)])
def test_fused_mbconv_few_items(C, cluster, chunk):
    """64 input channels of one tap, warpgroup after warpgroup; at C = 64 the tenth of nine items is zeros."""
    problem = FusedMBConvProblem(N=1, H=9, W=7, C=C, expansion=4)
    p = family_of(problem).draw(problem, 5)
    config = few.arrange(problem, H200, cluster=cluster, chunk=chunk)
    items, biases = few.pack(problem, config, p)
    at, n = 0, 64 * chunk // C
    for start in range(0, 4 * C, chunk):
        for item in range(few.items(problem)):
            tap, c = divmod(64 * item, C)
            filters = p.conv_w[start : start + chunk, tap // 3, tap % 3, c : c + 64].T if tap < 9 else np.zeros((64, chunk))
            np.testing.assert_array_equal(core(items, at, 64, chunk), rounded(filters / 2))
            at += 64 * chunk
        for row in range(start, start + chunk, n):
            np.testing.assert_array_equal(core(items, at, n, C), p.project_w[row : row + n])
            at += 64 * chunk
    assert at == len(items) // 2
    np.testing.assert_array_equal(lane_pairs(biases[: 8 * C], chunk), rounded(p.conv_b / 2))
    np.testing.assert_array_equal(lane_pairs(biases[8 * C :], C), rounded(p.project_b))


@pytest.mark.parametrize("size", [1, 13, 14, 28, 56, 60])
@pytest.mark.parametrize("C", [64, 128, 256])
@pytest.mark.parametrize("expansion", [1, 4, 6])
def test_fused_mbconv_few_holds_the_kernels_conditions(C, expansion, size):
    problem = FusedMBConvProblem(N=2, H=size, W=size, C=C, expansion=expansion)
    for offer in few.offers(problem, H200):
        v, (launch,) = offer.config.defines, few.launches(problem, offer.config, H200)
        assert problem.hidden == v["CLUSTER"] * v["CHUNK"]
        assert 64 * v["CHUNK"] // C % 16 == 0
        assert v["BOX"] <= 256
        assert v["BOX"] * v["BOXES"] >= v["LEAD"] + 64 + size + 1
        assert v["LEAD"] >= size + 1
        chunk_items = few.items(problem) + C // 64
        assert v["RING_SLOTS"] >= v["WARPGROUPS"]
        assert (
            v["RING_SLOTS"] % v["WARPGROUPS"] == 0 or v["RING_SLOTS"] >= chunk_items
        )  # a place is one warpgroup's within a chunk
        assert offer.config.shared_bytes <= H200.shared_bytes_per_block
        assert launch.grid[0] == -(-problem.pixels // 64) * v["CLUSTER"]
        assert launch.cluster == v["CLUSTER"]


def test_fused_mbconv_choice_is_the_estimates():
    """Between the kernels and within each: whatever has the least estimated clocks."""
    for C, size in ((64, 56), (128, 28), (256, 14)):
        for N in (1, 16, 128):
            problem = FusedMBConvProblem(N=N, H=size, W=size, C=C, expansion=4)
            offered = (*few.offers(problem, H200), *stream.offers(problem, H200))
            clocks = estimated_clocks(problem, offered, H200)
            assert family_of(problem).choose(problem, H200) == offered[int(clocks.argmin())].config


def test_fused_mbconv_shares_tiles_where_they_are_few():
    """One image of 14×14 is four tiles of 64 pixels: sixteen blocks share each. A large batch has tiles for every multiprocessor."""
    tiny, some, large = (FusedMBConvProblem(N=N, H=14, W=14, C=256, expansion=4) for N in (1, 16, 128))
    config = family_of(tiny).choose(tiny, H200)
    (launch,) = few.launches(tiny, config, H200)
    assert (config.kernel, config.defines["CLUSTER"], launch.grid[0]) == (few.NAME, 16, 64)
    assert few.configure(some, H200).startswith("it is estimated at")
    assert (configured(stream, some).defines["CLUSTER"], configured(stream, some).defines["SPLIT"]) == (4, 1)
    assert (configured(stream, large).defines["CLUSTER"], configured(stream, large).defines["SPLIT"]) == (2, 1)
    wide = FusedMBConvProblem(N=128, H=56, W=56, C=64, expansion=4)
    assert configured(stream, wide).defines["SPLIT"] == 0


def test_fused_mbconv_few_refuses_with_numbers():
    narrow = FusedMBConvProblem(N=1, H=7, W=7, C=64, expansion=1)
    assert few.configure(narrow, H200) == (
        "clusters of 2 to 16 blocks with 128 or 64 hidden channels each do not make 64, or tiles with the halo of 7 columns leave "
        "no room for 6 items"
    )
    other = FusedMBConvProblem(N=1, H=7, W=7, C=96, expansion=4)
    assert few.configure(other, H200) == "it has 64, 128 or 256 channels, not 96"


@pytest.mark.parametrize("size", [1, 14, 28, 56, 60])
@pytest.mark.parametrize("C", [64, 128, 256])
@pytest.mark.parametrize("N", [1, 16, 128])
def test_fused_mbconv_holds_the_kernels_conditions(C, N, size):
    problem = FusedMBConvProblem(N=N, H=size, W=size, C=C, expansion=4)
    config = configured(stream, problem)
    v, (launch,) = config.defines, stream.launches(problem, config, H200)
    assert v["LEAD"] % 8 == 0
    assert v["LEAD"] >= size + 1
    assert v["BOX"] <= 256
    assert v["BOX"] * v["BOXES"] >= v["LEAD"] + 64 * v["WARPGROUPS"] + size + 1
    assert config.shared_bytes <= H200.shared_bytes_per_block
    assert launch.grid[0] % v["CLUSTER"] == 0
    assert 128 * (24 + v["WARPGROUPS"] * v["REGISTERS"]) <= 65536
    blocks = launch.grid[0] // (v["CLUSTER"] if v["SPLIT"] else 1)
    assert blocks == -(-problem.pixels // config.tile_columns) or not v["SPLIT"]


@pytest.mark.parametrize("wide_table", [True, False])
def test_bands_are_the_filters_rows(wide_table):
    """B of a lane is w at the distance of its inputs q, q+4 | q+8, q+12 from its output g; column by column a row of the filter."""
    rng = np.random.default_rng(1)
    filters = rounded(rng.standard_normal((8, 7, 7)))
    table = patch.bands(filters, wide=wide_table).view(np.float16).astype(np.float32)
    for channel in range(8):
        for ky in range(7):
            matrix = np.zeros((16, 8), np.float32)
            for q, g in LANES:
                if wide_table:
                    four = table[channel // 2, ky, q - g + 7, channel % 2]
                else:
                    near, far = max(q - g, -5) + 5, min(q - g + 8, 7) + 5
                    four = np.concatenate([table[channel // 2, ky, entry, channel % 2] for entry in (near, far)])
                matrix[[q, q + 4, q + 8, q + 12], g] = four
            for g in range(8):
                np.testing.assert_array_equal(matrix[g : g + 7, g], filters[channel, ky])
                assert not matrix[:g, g].any()
                assert not matrix[g + 7 :, g].any()


def test_planes_bands_are_the_filters_rows():
    """B of a lane is w at the distance of its inputs 2q, 2q+1 or 2q+8, 2q+9 from its output g; column by column a row of the filter."""
    rng = np.random.default_rng(1)
    filters = rounded(rng.standard_normal((8, 7, 7)))
    table = planes.bands(filters).view(np.float16).astype(np.float32)
    for channel in range(8):
        for ky in range(7):
            matrix = np.zeros((16, 8), np.float32)
            for q, g in LANES:
                upper = 8 if 2 * q - g < -1 else 0
                matrix[[2 * q + upper, 2 * q + upper + 1], g] = table[channel // 4, ky, (2 * q - g + 1) % 8, channel % 4]
            for g in range(8):
                np.testing.assert_array_equal(matrix[g : g + 7, g], filters[channel, ky])
                assert not matrix[:g, g].any()
                assert not matrix[g + 7 :, g].any()


@pytest.mark.parametrize(("C", "e"), [(64, 4), (128, 4), (64, 6), (64, 8), (128, 1)])
def test_convnext_planes_stream(C, e):
    """E0, E1, P0, E2, P1 … as the kernel expands a chunk ahead of the projection."""
    problem = ConvNeXtProblem(N=2, H=9, W=7, C=C, expansion=e)
    p = family_of(problem).draw(problem, 5)
    config = configured(planes, problem)
    chunk = config.defines["CHUNK"]
    items, blob = planes.pack(problem, config, p)
    (expand_w, expand_b), (project_w, project_b) = p.folded_expansion(), p.folded_projection()
    chunks = e * C // chunk
    order = [("expand", 0)]
    for j in range(1, chunks):
        order += [("expand", j), ("project", j - 1)]
    order.append(("project", chunks - 1))
    for at, (what, j) in enumerate(order):
        part = slice(j * chunk, (j + 1) * chunk)
        if what == "expand":
            np.testing.assert_array_equal(core(items, at * C * chunk, C, chunk), rounded(expand_w[:, part] * EXPANDED))
        else:
            np.testing.assert_array_equal(core(items, at * C * chunk, chunk, C), rounded(project_w[part] * PROJECTED))
    assert 2 * len(order) * C * chunk == len(items)
    table = planes.BAND_BYTES * C
    np.testing.assert_array_equal(blob[:table], planes.bands(p.conv_w[..., 0]).reshape(-1).view(np.uint8))
    rest = blob[table:]
    np.testing.assert_array_equal(rest[: 16 * C].view(np.float32).reshape(C, 4), np.stack([p.conv_b] * 4, 1))
    np.testing.assert_array_equal(lane_pairs(rest[16 * C : (16 + 2 * e) * C], chunk), rounded(expand_b * EXPANDED))
    np.testing.assert_array_equal(lane_pairs(rest[(16 + 2 * e) * C :], C), rounded(project_b))


@pytest.mark.parametrize(("C", "e"), [(96, 4), (96, 6)])
def test_convnext_patch_stream(C, e):
    problem = ConvNeXtProblem(N=2, H=9, W=7, C=C, expansion=e)
    p = family_of(problem).draw(problem, 5)
    config = configured(patch, problem)
    chunk = config.defines["CHUNK"]
    items, blob = patch.pack(problem, config, p)
    (expand_w, expand_b), (project_w, project_b) = p.folded_expansion(), p.folded_projection()
    for index, start in enumerate(range(0, e * C, chunk)):
        at = 2 * index * C * chunk
        np.testing.assert_array_equal(core(items, at, C, chunk), rounded(expand_w[:, start : start + chunk] * EXPANDED))
        np.testing.assert_array_equal(
            core(items, at + C * chunk, chunk, C), rounded(project_w[start : start + chunk] * PROJECTED)
        )
    table = patch.table_bytes(C, config.defines["WIDE"])
    np.testing.assert_array_equal(
        blob[:table], patch.bands(p.conv_w[..., 0], wide=bool(config.defines["WIDE"])).reshape(-1).view(np.uint8)
    )
    rest = blob[table:]
    np.testing.assert_array_equal(rest[: 4 * C].view(np.float32), p.conv_b)
    np.testing.assert_array_equal(lane_pairs(rest[4 * C : (4 + 2 * e) * C], chunk), rounded(expand_b * EXPANDED))
    np.testing.assert_array_equal(lane_pairs(rest[(4 + 2 * e) * C :], C), rounded(project_b))


def test_convnext_wide_stream():
    problem = ConvNeXtProblem(N=2, H=9, W=7, C=256, expansion=4)
    p = family_of(problem).draw(problem, 5)
    items, filters, blob = wide.pack(problem, configured(wide, problem), p)
    (expand_w, expand_b), (project_w, _) = p.folded_expansion(), p.folded_projection()
    at = 0
    for start in range(0, 1024, 128):
        for c in range(0, 256, 64):
            np.testing.assert_array_equal(core(items, at, 64, 128), rounded(expand_w[c : c + 64, start : start + 128] * EXPANDED))
            at += 8192
        for row in range(start, start + 128, 32):
            np.testing.assert_array_equal(core(items, at, 32, 256), rounded(project_w[row : row + 32] * PROJECTED))
            at += 8192
    assert at == len(items) // 2
    assert len(filters) == 256 // 32 * wide.table_bytes()
    np.testing.assert_array_equal(blob[:1024].view(np.float32), p.conv_b)
    np.testing.assert_array_equal(lane_pairs(blob[1024:3072], 128), rounded(expand_b * EXPANDED))


def test_convnext_groups_leave_no_multiprocessor_idle():
    """49 patches of one image are convolved one by one on 49 multiprocessors, those of a large batch by two."""
    found = {}
    for N in (1, 128):
        problem = ConvNeXtProblem(N=N, H=56, W=56, C=96, expansion=4)
        config = configured(patch, problem)
        (launch,) = patch.launches(problem, config, H200)
        found[N] = (config.defines["GROUP"], launch.grid[0])
    assert found == {1: (1, 49), 128: (2, 132)}


@pytest.mark.parametrize(
    ("C", "size", "N", "rows", "octets"), [(64, 56, 128, 2, 1), (64, 56, 1, 1, 1), (128, 28, 128, 1, 2), (64, 28, 128, 2, 2)]
)
def test_convnext_tiles_by_the_machines_count(C, size, N, rows, octets):
    """Large tiles load less halo, small ones reach more multiprocessors; at 28×28 patches of 4×16 leave 12.5 % empty, 8×8 23 %."""
    config = configured(planes, ConvNeXtProblem(N=N, H=size, W=size, C=C, expansion=4))
    assert (config.defines["ROWS"], config.defines["OCTETS"]) == (rows, octets)


def test_convnext_offer_is_the_machines_count():
    """Resident weights come in once for a block, streamed ones for two patches and two blocks: the rest is the machine's."""
    problem = ConvNeXtProblem(N=128, H=56, W=56, C=64, expansion=4)
    for layout, share in ((planes.RESIDENT, 132 / (128 * 7 * 2)), (planes.STREAMED, 1.0)):
        config = planes.arrange(problem, H200, layout, rows=2, octets=1)
        (counted,) = machine_counts(problem, [(8, 32, planes.CHUNK)])
        found = planes.offer(problem, config, H200)
        kept = 2 * 2 * 64 * 256 * (1 - share)
        assert found.loaded_share == pytest.approx(1 - kept / np.asarray(counted.moved_bytes).item())
        assert found.filled == 1


def test_convnext_refuses_with_the_numbers():
    small = dataclasses.replace(H200, shared_bytes_per_block=100000)
    why = planes.configure(ConvNeXtProblem(N=1, H=56, W=56, C=128, expansion=4), small)
    assert isinstance(why, str)
    assert re.search(r"6 of 32 chunks of weights need \d+ of 100000 B", why)


def test_convnext_wide_counts_an_images_bytes_in_31_bits():
    """One row more than it counts is served by the kernel whose offsets have 64 bits."""
    problem = ConvNeXtProblem(N=2, H=2047, W=2048, C=256, expansion=4)
    assert isinstance(wide.configure(problem, H200), Config)
    more = dataclasses.replace(problem, H=2048)
    assert wide.configure(more, H200) == "an image of 2147483648 B is more than the 2147483647 B that its offsets reach"
    assert family_of(more).choose(more, H200).kernel == convnext_few.NAME


def test_convnext_registers_fit_a_quarter_of_a_multiprocessor():
    assert 24 + patch.WARPGROUPS * patch.REGISTERS + patch.CONV_REGISTERS == 512
    for layout in (planes.RESIDENT, planes.STREAMED):
        held = layout.warpgroups * layout.registers + layout.conv_registers
        warpgroups = layout.warpgroups + 2 - layout.resident
        assert held + (0 if layout.resident else 24) <= warpgroups * (65536 // (128 * warpgroups) // 8 * 8)
    launched = 65536 // 384 // 8 * 8  # what a block is given at launch is what its warpgroups may redistribute
    assert 3 * launched >= 24 + 2 * wide.REGISTERS


@pytest.mark.parametrize(("C", "kernel"), [(64, "planes"), (96, "patch"), (128, "planes"), (256, "wide"), (160, "generic")])
def test_convnext_kernel_by_channels(C, kernel):
    problem = ConvNeXtProblem(N=128, H=14, W=14, C=C, expansion=4)
    assert family_of(problem).choose(problem, H200).kernel == f"convnext_{kernel}"


def test_gelu_by_tanh_is_as_near_as_the_source_says():
    """The coefficients as they stand in convnext.cuh against the form by erf; roundings to half precision aside."""
    source = (importlib.resources.files("perfmodel.validation") / "kernels" / "convnext.cuh").read_text(encoding="utf-8")
    (inner,) = (float(text) for text in re.findall(r"__float2half2_rn\((\d\.\d+)f\)", source))
    u = np.linspace(-6, 6, 20_001)
    s = float(EXPANDED) * 2 * u
    found = float(PROJECTED) * (s + s * np.tanh(s * (s * s + inner)))
    exact = np.array([v * (1 + math.erf(v * math.sqrt(2))) for v in u])
    assert np.abs(found - exact).max() <= 2.8e-4


def test_clusters_of_four_leave_multiprocessors_idle():
    """64 patches in clusters of four are 256 blocks, and only 116 run at once: two share a patch instead."""
    problem = ConvNeXtProblem(N=16, H=14, W=14, C=256, expansion=4)
    config = configured(convnext_few, problem)
    (launch,) = convnext_few.launches(problem, config, H200)
    assert (config.defines["CLUSTER"], launch.grid[0]) == (2, 128)


@pytest.mark.parametrize(("C", "expansion"), [(128, 2), (128, 4), (128, 6), (256, 1), (256, 4), (256, 6), (256, 8)])
def test_convnext_few_holds_the_kernels_conditions(C, expansion):
    """Whole chunks for each block; the items of a product, and the sums of all columns, fit the ring, and all of it shared memory."""
    problem = ConvNeXtProblem(N=1, H=14, W=14, C=C, expansion=expansion)
    found = list(convnext_few.offers(problem, H200))
    assert found
    for offer in found:
        cluster, ring = offer.config.defines["CLUSTER"], offer.config.defines["RING_SLOTS"]
        (launch,) = convnext_few.launches(problem, offer.config, H200)
        assert problem.hidden % (cluster * 128) == 0
        assert ring * 16384 >= max(128 * C * 2, 64 * C * 4)
        assert ring <= problem.hidden // cluster * C * 2 * 2 // 16384
        assert offer.config.shared_bytes <= H200.shared_bytes_per_block
        assert launch.grid[0] == 4 * cluster


def test_convnext_few_serves_where_it_is_estimated_to_be_faster():
    """One image, and sixteen at 256 channels; not where the patches alone employ the device, nor other channels, nor half chunks."""
    for C, size, clusters in ((256, 14, {1: 8, 16: 2, 128: None}), (128, 28, {1: 4, 16: None})):
        for N, cluster in clusters.items():
            made = convnext_few.configure(ConvNeXtProblem(N=N, H=size, W=size, C=C, expansion=4), H200)
            assert (made.defines["CLUSTER"] if isinstance(made, Config) else None) == cluster, made
    some = ConvNeXtProblem(N=1, H=14, W=14, C=96, expansion=4)
    assert convnext_few.configure(some, H200) == "it has 128 or 256 channels, not 96"
    small = ConvNeXtProblem(N=1, H=14, W=14, C=128, expansion=1)
    assert convnext_few.configure(small, H200) == "clusters of 2 to 8 blocks with chunks of 128 hidden channels do not make 128"
