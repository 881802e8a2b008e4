"""The generic kernels without a GPU: what they lay out, which tile they take, their packed weights read back, and that they compile."""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import re
from pathlib import Path

import numpy as np
import pytest

from perfmodel.validation.checks import check
from perfmodel.validation.compile import compile_unit, unit_of
from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.choice import machine_counts
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.generic import launches, search
from perfmodel.validation.fused.generic.layout import Layout
from perfmodel.validation.fused.generic.packing import filters, paired, taps
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.packing import bits, unbits
from perfmodel.validation.fused.problem import DeviceLimits, GpuError
from perfmodel.validation.gpu import this_device
from perfmodel.validation.recorder import RESULTS, read_lines
from tests.gpus import H200


def limits(capability: tuple[int, int]) -> DeviceLimits:
    shared = {(8, 0): 166912, (8, 9): 101376, (9, 0): 232448}[capability]
    return DeviceLimits(
        name="{}.{}".format(*capability),
        compute_capability=capability,
        multiprocessors=132,
        shared_bytes_per_block=shared,
        shared_bytes_per_multiprocessor=shared + 1024,
        l2_bytes=2**25,
    )


A100, ADA, HOPPER = limits((8, 0)), limits((8, 9)), limits((9, 0))
DEVICES = pytest.mark.parametrize("device", [A100, ADA, HOPPER], ids=lambda device: device.architecture)
SIZES = {"N": 2, "H": 14, "W": 14, "expansion": 4}
KINDS = (ConvFirstProblem, MBConvProblem, FusedMBConvProblem, ConvNeXtProblem)
FORMS = (
    *((kind, {}) for kind in KINDS),
    (MBConvProblem, {"group_width": 1}),
    (MBConvProblem, {"group_width": 1, "kernel": 5, "stride": 2, "out_channels": 40}),
    (MBConvProblem, {"stride": 2, "squeeze": 6}),
    (MBConvProblem, {"group_width": 1, "kernel": 5, "squeeze": 12}),
)


def generic(problem):
    family = family_of(problem)
    return family.by_name[f"{family.name}_generic"]


def chosen(problem, device) -> tuple[Config, Layout]:
    config = family_of(problem).choose(problem, device, only=generic(problem).name)
    return config, Layout.of(work_of(problem), config.defines)


def work_of(problem):
    module = __import__(f"perfmodel.validation.fused.{problem.family}.generic", fromlist=["work_of"])
    return module.work_of(problem)


def words(problem) -> str:
    return problem.name


EVERY = [kind(**{**SIZES, "C": C, **form}) for kind, form in FORMS for C in (8, 24, 64, 96, 264)]
LARGE = [kind(**{**SIZES, "N": N, "C": 64, "H": 56, "W": 56}) for kind in KINDS for N in (1, 128)]


# -- layout and choice -----------------------------------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize("problem", [*EVERY, *LARGE], ids=words)
def test_what_is_chosen_holds_the_kernels_conditions(problem, device):
    config, layout = chosen(problem, device)
    _, rows, columns, outputs = problem.output_shape
    assert config.shared_bytes == layout.shared_bytes <= device.shared_bytes_per_block
    assert layout.tile_rows * layout.tile_columns <= layout.M == 16 * layout.warps_m * layout.m16_per_warp
    assert layout.chunks * layout.hidden_chunk >= problem.hidden > (layout.chunks - 1) * layout.hidden_chunk
    assert layout.expand_blocks * 8 * layout.warps_n == layout.hidden_chunk
    assert layout.project_items * layout.project_steps * 16 == layout.hidden_chunk
    assert layout.expand_items * layout.expand_steps >= layout.work.depth_steps
    assert layout.output_columns * layout.warps_n * layout.blocks_per_warp * 8 >= outputs
    assert layout.ring_slots >= 2 or layout.output_columns == layout.hidden_splits == 1
    assert layout.ring_slots == 0 or layout.warp_groups == 1
    assert layout.threads <= 1024
    assert layout.threads * layout.blocks_per_multiprocessor * search.registers(layout) <= 65536
    assert layout.blocks_per_multiprocessor * (layout.shared_bytes + 1024) <= device.shared_bytes_per_multiprocessor
    for launch in generic(problem).launches(problem, config, device):
        if ("PASS", 2) in launch.constants:  # the gates: a block for each image
            assert launch.grid == (problem.N, 1, 1)
            continue
        assert launch.grid[0] <= -(-rows // layout.tile_rows) * -(-columns // layout.tile_columns) * problem.N
        assert launch.grid[2] == layout.hidden_splits <= layout.chunks


@pytest.mark.parametrize("kind", KINDS)
def test_few_tiles_are_spread_over_the_device(kind):
    """One image of 56×56: the tile shrinks, or blocks share it, until most multiprocessors have work; 128 images take larger tiles."""
    config, one = chosen(kind(**{**SIZES, "N": 1, "H": 56, "W": 56, "C": 64}), HOPPER)
    _, many = chosen(kind(**{**SIZES, "N": 128, "H": 56, "W": 56, "C": 64}), HOPPER)
    del config
    assert one.tiles * one.hidden_splits * one.output_columns >= 66
    assert many.hidden_splits == 1
    assert many.tile_rows * many.tile_columns >= one.tile_rows * one.tile_columns


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_channels_are_one_sentence(kind):
    with pytest.raises(
        GpuError, match=r"needs .*B of shared memory for each block, and 8\.9 has 101 kB; use fewer channels$"
    ) as raised:
        family_of(kind(**{**SIZES, "C": 32768})).choose(kind(**{**SIZES, "C": 32768}), ADA, only=f"{kind.family}_generic")
    assert "\n" not in str(raised.value)


def test_wide_channels_are_served_where_shared_memory_is_large():
    for kind, C in ((ConvFirstProblem, 2056), (ConvNeXtProblem, 2056), (FusedMBConvProblem, 1032), (MBConvProblem, 1032)):
        for device in (A100, HOPPER):
            _, layout = chosen(kind(**{**SIZES, "C": C}), device)
            assert layout.output_columns * layout.warps_n * layout.blocks_per_warp * 8 >= C


@pytest.mark.parametrize("kind", KINDS)
def test_estimate_takes_the_tensor_machines_bytes(kind):
    """What a tile moves is the machine's count of that tile, and the instructions are never fewer than its MACs ask for."""
    problem = kind(**{**SIZES, "C": 64})
    work = work_of(problem)
    for layout in list(search.offers(work, HOPPER))[::211]:
        (counted,) = machine_counts(problem, [(layout.tile_rows, layout.tile_columns, layout.hidden_chunk)])
        moved, macs, tiles = (np.asarray(value).item() for value in (counted.moved_bytes, counted.macs, counted.tiles))
        (found,) = search.estimates(problem, [layout], HOPPER)
        assert found == search.clocks(layout, HOPPER, moved) >= search.clocks(layout, HOPPER, moved / 2)
        assert found * HOPPER.multiprocessors >= macs * tiles * search.MMA_CLOCKS / 2048


def recorded_layouts():
    """(problem, layout, seconds) of every layout that was timed on an H200, without those that spill."""
    for line in read_lines(RESULTS / "h200" / "generic-layouts.jsonl"):
        if line["kind"] == "layout" and max(line["spilled_bytes"]) <= 60:
            problem = FAMILIES[line["problem"].pop("family")].problem(**line["problem"])
            layout = Layout(work=work_of(problem), **line["layout"])
            (clocks,) = search.estimates(problem, [layout], H200)
            yield problem.name, clocks, line["median_s"]


def test_ranking_agrees_with_layouts_that_were_timed():
    """Of the layouts timed for a problem, the one with the least estimate over the fastest; as docs/kernels-generic.md says."""
    by_problem: dict[str, list[tuple[float, float]]] = {}
    for name, clocks, seconds in recorded_layouts():
        by_problem.setdefault(name, []).append((clocks, seconds))
    several = [found for found in by_problem.values() if len(found) > 2]
    lost = [min(found)[1] / min(seconds for _, seconds in found) for found in several]
    page = (Path(__file__).resolve().parent.parent / "docs" / "kernels-generic.md").read_text(encoding="utf-8")
    timed = sum(map(len, by_problem.values()))
    said = f"{timed} layouts timed on an H200: of the layouts timed for a problem, the one it takes is {100 * (np.mean(lost) - 1):.0f} %"
    assert f"{said} slower than the fastest in the mean, and {100 * (max(lost) - 1):.0f} % at worst" in " ".join(page.split())


def test_constants_bring_the_layout_back():
    for problem in EVERY:
        for layout in list(search.offers(work_of(problem), HOPPER))[::97]:
            assert Layout.of(layout.work, dict(layout.constants)) == layout


def test_moved_bytes_are_the_tiles_and_the_output():
    problem = MBConvProblem(N=3, H=13, W=9, C=24, expansion=4, group_width=1, kernel=5, stride=2)
    config, layout = chosen(problem, HOPPER)

    def reads(size: int, tile: int) -> int:
        outputs = -(-size // 2)
        spans = ((start * 2 - 2, (min(start + tile, outputs) - 1) * 2 + 2) for start in range(0, outputs, tile))
        return sum(min(size - 1, last) - max(0, first) + 1 for first, last in spans)

    elements = 3 * 24 * reads(13, layout.tile_rows) * reads(9, layout.tile_columns)
    assert generic(problem).moved_bytes(problem, config) == 2 * elements + problem.output_bytes
    squeezed = dataclasses.replace(problem, squeeze=6)
    config, layout = chosen(squeezed, HOPPER)
    elements = 3 * 24 * reads(13, layout.tile_rows) * reads(9, layout.tile_columns)
    assert generic(squeezed).moved_bytes(squeezed, config) == 2 * 2 * elements + problem.output_bytes  # two launches read it


def test_squeeze_takes_three_launches_and_scratch():
    problem = MBConvProblem(**{**SIZES, "C": 64, "squeeze": 16})
    config, layout = chosen(problem, HOPPER)
    first, gates, last = generic(problem).launches(problem, config, HOPPER)
    assert [one.constants for one in (first, gates, last)] == [(("PASS", 1),), (("PASS", 2),), (("PASS", 3),)]
    assert gates.grid == (2, 1, 1)
    parts = max(1, layout.threads // 64)  # of the tiles; a thread has four channels
    assert gates.shared_bytes == 4 * (parts * 256 + 16) <= 49152
    sizes = [scratch.bytes for scratch in generic(problem).scratch(problem, config)]
    assert sizes[2:] == [4 * 256 * layout.tiles, 4 * 256 * 2]  # hidden channels of a whole number of chunks
    assert not any(
        scratch.zeroed for scratch in generic(problem).scratch(problem, config)
    )  # each launch leaves its counts at zero


def test_split_tiles_have_room_for_their_sums():
    for problem in EVERY:
        for layout in search.offers(work_of(problem), HOPPER):
            if layout.hidden_splits > 1:
                sums = 4 * layout.M * layout.warps_n * layout.blocks_per_warp * 8
                assert layout.partial_bytes == layout.tiles * layout.output_columns * layout.hidden_splits * sums
                break


# -- packing ---------------------------------------------------------------------------------------------------------------


def by_lanes(operands: np.ndarray, dtype: str) -> np.ndarray:
    """[k16, n8 blocks, 32 lanes, 4] → [K, N]: lane l holds rows 2(l mod 4), +1, +8, +9 of column l div 4."""
    k16, n8 = operands.shape[:2]
    found, values = np.zeros((k16 * 16, n8 * 8), np.float32), unbits(operands, dtype)
    for lane in range(32):
        for index, row in enumerate((0, 1, 8, 9)):
            found[2 * (lane % 4) + row :: 16, lane // 4 :: 8] = values[:, :, lane, index]
    return found


def unpaired(row: np.ndarray, blocks: int) -> np.ndarray:
    """What a warp reads for one k16: 16 bytes of each lane for two blocks, 8 bytes for an odd last one → [blocks, 32, 4]."""
    found = np.zeros((blocks, 32, 4), np.uint16)
    for block in range(blocks):
        for lane in range(32):
            alone = block == blocks - 1 and blocks % 2
            at = block * 128 + lane * 4 if alone else block // 2 * 256 + lane * 8 + block % 2 * 4
            found[block, lane] = row[at : at + 4]
    return found


@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
def test_pairs(blocks):
    operands = np.arange(5 * blocks * 128, dtype=np.uint16).reshape(5, blocks, 32, 4)
    packed = paired(operands)
    assert packed.shape == (5, blocks * 128)
    for step in range(5):
        np.testing.assert_array_equal(unpaired(packed[step], blocks), operands[step])


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_taps_are_each_once_and_paired_by_one_step(kernel):
    order = taps(kernel)
    assert sorted(order) == [(y, x) for y in range(kernel) for x in range(kernel)]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(order[:-1:2], order[1::2], strict=True)]
    along = kernel * (kernel // 2)
    assert steps == [(0, 1)] * along + [(1, 0)] * (kernel // 2)
    assert order[-1] == (kernel - 1, kernel - 1)


@pytest.mark.parametrize(("kernel", "width"), [(3, 8), (3, 1), (5, 1), (7, 1)])
def test_filters_read_as_the_instructions_read(kernel, width):
    w = np.random.default_rng(kernel).standard_normal((24, kernel, kernel, width)).astype(np.float16).astype(np.float32)
    packed, order, pairs = filters(bits(w, "fp16")), taps(kernel), kernel**2 // 2
    assert packed.shape == (3, pairs * 128 + 64)
    for group in range(3):
        dense = np.zeros((kernel * kernel, 8, 8), np.float32)  # tap, input, output
        for index, (y, x) in enumerate(order):
            for output in range(8):
                row = w[group * 8 + output, y, x]
                dense[index, :, output] = row if width == 8 else np.eye(8, dtype=np.float32)[output] * row[0]
        read = by_lanes(packed[group, : pairs * 128].reshape(pairs, 1, 32, 4), "fp16")
        np.testing.assert_array_equal(read, dense[:-1].reshape(-1, 8))
        last = unbits(packed[group, pairs * 128 :].reshape(32, 2), "fp16")
        for lane in range(32):
            np.testing.assert_array_equal(last[lane], dense[-1, 2 * (lane % 4) : 2 * (lane % 4) + 2, lane // 4])


def read_stream(layout: Layout, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(expansion, projection, what is between them for each chunk), walked as the kernels walk: part, chunk, item, k16, warp, block."""
    work, dtype = layout.work, layout.work.dtype
    halves = data.view(np.uint16).reshape(layout.output_columns, layout.chunks, layout.chunk_bytes // 2)
    expand = np.zeros((16 * work.depth_steps, layout.chunks * layout.hidden_chunk), np.float32)
    per_part = layout.warps_n * layout.blocks_per_warp * 8
    project = np.zeros((layout.chunks * layout.hidden_chunk, layout.output_columns * per_part), np.float32)
    between = []
    for part in range(layout.output_columns):
        for chunk in range(layout.chunks):
            words = halves[part, chunk]
            for item in range(layout.expand_items):
                for k in range(layout.expand_steps):
                    step = item * layout.expand_steps + k
                    for warp in range(layout.warps_n):
                        at = (item * layout.expand_bytes + k * layout.hidden_chunk * 32 + warp * layout.expand_blocks * 256) // 2
                        tile = by_lanes(unpaired(words[at:], layout.expand_blocks)[None], dtype)
                        if step >= work.depth_steps:
                            assert not tile.any()
                            continue
                        first = chunk * layout.hidden_chunk + warp * layout.expand_blocks * 8
                        expand[16 * step : 16 * step + 16, first : first + layout.expand_blocks * 8] = tile
            middle = layout.expand_items * layout.expand_bytes
            if part == 0:
                between.append(words[middle // 2 : (middle + layout.conv_bytes) // 2])
            for item in range(layout.project_items):
                for k in range(layout.project_steps):
                    for warp in range(layout.warps_n):
                        at = middle + layout.conv_bytes + item * layout.project_bytes
                        at += (k * layout.warps_n + warp) * layout.blocks_per_warp * 256
                        tile = by_lanes(unpaired(words[at // 2 :], layout.blocks_per_warp)[None], dtype)
                        row = chunk * layout.hidden_chunk + (item * layout.project_steps + k) * 16
                        first = part * per_part + warp * layout.blocks_per_warp * 8
                        project[row : row + 16, first : first + layout.blocks_per_warp * 8] = tile
    return expand, project, np.array(between)


def some_layouts(problem, device=HOPPER) -> list[Layout]:
    """The one that is chosen, and others of every kind: parts of the output, odd blocks, resident weights, items that do not divide."""
    offers = [offer for offer in search.offers(work_of(problem), device) if offer.shared_bytes <= device.shared_bytes_per_block]
    kinds = {
        (
            o.output_columns > 1,
            o.blocks_per_warp % 2,
            o.expand_blocks % 2,
            o.ring_slots == 0,
            o.work.depth_steps % o.expand_steps > 0,
        ): o
        for o in offers
    }
    return [chosen(problem, device)[1], *kinds.values()]


@pytest.mark.parametrize(
    "problem",
    [
        ConvFirstProblem(N=1, H=9, W=9, C=40, expansion=3, dtype="bf16"),
        ConvNeXtProblem(N=1, H=9, W=9, C=72, expansion=1),
        FusedMBConvProblem(N=1, H=9, W=9, C=24, expansion=2),
        MBConvProblem(N=1, H=9, W=9, C=40, expansion=2, out_channels=56),
        MBConvProblem(N=1, H=9, W=9, C=24, expansion=3, group_width=1, kernel=5, squeeze=5, dtype="bf16"),
    ],
    ids=words,
)
def test_streams_read_back(problem):
    family = family_of(problem)
    p = family.draw(problem, 3)
    for layout in some_layouts(problem):
        config = Config(
            kernel=generic(problem).name, tile_rows=1, tile_columns=1, threads=32, shared_bytes=1, blocks_per_multiprocessor=1,
            constants=layout.constants,
        )  # fmt: skip
        stream, *others = generic(problem).pack(problem, config, p)
        assert len(stream) == layout.output_columns * layout.chunks * layout.chunk_bytes
        expand, project, between = read_stream(layout, stream)
        hidden, outputs, C = problem.hidden, problem.output_shape[-1], problem.C
        wanted_project = p.project_w
        if problem.family == "fused_mbconv":
            wanted_expand = np.zeros((9, expand.shape[0] // 9, hidden), np.float32)
            wanted_expand[:, :C] = p.conv_w.reshape(hidden, 9, C).transpose(1, 2, 0)
            wanted_expand = wanted_expand.reshape(-1, hidden)
        else:
            wanted_expand = np.zeros((expand.shape[0], hidden), np.float32)
            wanted_expand[:C] = p.expand_w
            if problem.family == "convnext":
                wanted_expand[:C] *= p.norm_w[:, None]
                wanted_project = p.project_w * p.scale
        np.testing.assert_array_equal(expand[:, :hidden], unbits(bits(wanted_expand, problem.dtype), problem.dtype))
        np.testing.assert_array_equal(project[:hidden, :outputs], unbits(bits(wanted_project, problem.dtype), problem.dtype))
        assert not expand[:, hidden:].any()
        assert not project[hidden:].any()
        assert not project[:, outputs:].any()
        if problem.family == "mbconv":
            padded = np.zeros((layout.chunks * layout.hidden_chunk, *p.conv_w.shape[1:]), np.float32)
            padded[:hidden] = p.conv_w
            filter_words = layout.hidden_chunk // 8 * layout.work.filter_bytes // 2
            np.testing.assert_array_equal(
                between[:, :filter_words].reshape(len(padded) // 8, -1), filters(bits(padded, problem.dtype))
            )
            biases = np.ascontiguousarray(between[:, filter_words:]).view(np.float32).reshape(-1)
            np.testing.assert_array_equal(biases[:hidden], p.conv_b)
            assert not biases[hidden:].any()
        if problem.family == "mbconv" and problem.squeeze:
            reduce, reduce_b, gate, gate_b = others[2:]
            rows = unbits(reduce.view(np.uint16), problem.dtype).reshape(problem.squeeze, -1)
            np.testing.assert_array_equal(rows[:, :hidden], p.reduce_w.T)
            assert not rows[:, hidden:].any()
            rows = unbits(gate.view(np.uint16), problem.dtype).reshape(problem.squeeze, -1)
            np.testing.assert_array_equal(rows[:, :hidden], p.gate_w)
            np.testing.assert_array_equal(reduce_b.view(np.float32), p.reduce_b)
            np.testing.assert_array_equal(gate_b.view(np.float32)[:hidden], p.gate_b)


# -- arithmetic of the sources that has an independent check ---------------------------------------------------------------


def test_gelu_polynomial_is_as_near_as_the_source_says():
    """The coefficients as they stand in ampere.cuh, in fp32, against the exact function from -12 to 12."""
    source = (importlib.resources.files("perfmodel.validation") / "kernels" / "ampere.cuh").read_text(encoding="utf-8")
    body = source[source.index("struct Gelu") : source.index("return fmaf(u, p * c, u);")]
    numbers = [np.float32(text) for text in re.findall(r"(-?\d\.\d+e-?\d+)f", body)]
    assert len(numbers) == 8
    v = np.linspace(-12, 12, 100_001, dtype=np.float32)
    c = np.clip(v, np.float32(-4.2), np.float32(4.2))
    t, p = c * c, np.full_like(v, numbers[0])
    for number in numbers[1:]:
        p = p * t + number
    found = np.float32(0.5) * v * (p * c) + np.float32(0.5) * v
    exact = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in v.astype(np.float64)])
    assert np.abs(found - exact).max() <= 9e-5


# -- compiling -------------------------------------------------------------------------------------------------------------

FEW_SPILLS = 32
"""Bytes: a few addresses outside of the main loops; accumulators would be hundreds."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("generic")


def compiled(problem, device, cache):
    config, layout = chosen(problem, device)
    for launch in generic(problem).launches(problem, config, device):
        done = compile_unit(unit_of(config, device.architecture, launch.constants), cache=cache)
        yield done, layout


@DEVICES
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("kind", "form"), FORMS, ids=str)
def test_every_kernel_compiles_without_spills(cache, device, dtype, kind, form):
    problem = kind(**{**SIZES, "N": 32, "H": 28, "W": 28, "C": 64, "dtype": dtype, **form})
    for done, layout in compiled(problem, device, cache):
        assert done.unit.name.encode() in done.cubin
        assert done.spilled_bytes <= FEW_SPILLS
        assert done.registers <= 65536 // (layout.threads * layout.blocks_per_multiprocessor)


@pytest.mark.parametrize(("C", "size"), [(96, 56), (128, 28), (256, 14)])
@pytest.mark.parametrize("N", [1, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_wide_kernels_compile_without_spills(cache, kind, C, size, N):
    for done, _ in compiled(kind(N=N, H=size, W=size, C=C, expansion=4), HOPPER, cache):
        assert done.spilled_bytes <= FEW_SPILLS


def test_families_end_with_the_generic_kernel():
    for family in FAMILIES.values():
        assert family.kernels[-1].name == f"{family.name}_generic"


# -- where there is a GPU --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu():
    try:
        return this_device()
    except GpuError as error:
        pytest.skip(f"needs a GPU: {error}")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("kind", "form"), FORMS, ids=str)
@pytest.mark.parametrize("sizes", [(2, 13, 9, 64), (3, 20, 35, 24), (1, 1, 1, 40), (16, 28, 28, 64)], ids=str)
def test_right(gpu, kind, form, dtype, sizes):
    """Also where a Hopper kernel would be chosen."""
    N, H, W, C = sizes
    problem = kind(N=N, H=H, W=W, C=C, expansion=3, dtype=dtype, **form)
    assert check(problem, generic(problem).name, seeds=(0,))["passed"]


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "form"), FORMS, ids=str)
def test_every_kind_of_layout_is_right(gpu, monkeypatch, kind, form):
    """Resident weights and rings, groups, split hidden channels, parts of the output, one and two input buffers."""
    problem = kind(N=3, H=19, W=23, C=72, expansion=3, **form)
    offers = [o for o in search.offers(work_of(problem), gpu) if o.shared_bytes + search.FLAG_BYTES <= gpu.shared_bytes_per_block]
    kinds = {
        (o.ring_slots, o.warp_groups, o.hidden_splits > 1, o.warps_n == 1, o.output_columns > 1, o.input_buffers): o
        for o in offers
    }
    for layout in list(kinds.values())[::5]:
        monkeypatch.setattr(launches, "choose", lambda *_, layout=layout: layout)
        assert check(problem, generic(problem).name, seeds=(0,))["passed"], layout
