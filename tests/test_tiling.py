"""Choosing tilings: exact over the stated space, within the local memory, and lawful."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.capacity import capacity_curve
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import HardwareError
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.mbconv import FusedMBConv, MBConv
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.totals import totals
from perfmodel.precision import Precision
from perfmodel.schedule import kernels
from perfmodel.tiling import MODES, Choice, Machine, TilingError, candidates, choose, movements, parallel_turns
from tests.small_networks import small_block

H200 = Machine.of(load("h200"), "fp16")


def graph_of(block: Block, shape: Shape) -> tuple[Graph, list[str]]:
    builder = GraphBuilder()
    builder.block(block, builder.input(shape), name="b")
    graph = builder.graph()
    return graph, [name for name, node in graph.nodes.items() if node.block is not None]


def moved(choice: Choice, *kinds: str) -> float:
    return float(sum(m.bytes for m in choice.movements if not kinds or m.kind in kinds))


@pytest.mark.parametrize("kind", sorted(BLOCKS))
@pytest.mark.parametrize("local_bytes", [700, 2_000, 30_000])
def test_the_choice_is_the_best_of_all_tilings_tried_one_at_a_time(kind: str, local_bytes: int) -> None:
    """An independent search: every tiling built and costed by itself, the best by the documented order."""
    graph, layers = graph_of(small_block(kind), Shape(2, 8, 5, 4))
    machine = replace(H200, local_bytes=local_bytes, cache_bytes=100.0, processors=4)
    tried = candidates(graph, layers, machine, element_bytes=2, name="b")
    best: list[tuple[tuple[float, ...], Tiling]] = []
    for index, costed in enumerate(tried):
        found = []
        for position in range(len(costed.macs)):
            tiling = costed.tiling(position)
            program = fused_programs(graph, layers, tiling, element_bytes=2, name="b")[index]
            total = totals(program)
            if total.peak_local_bytes > local_bytes:
                continue
            dram = sum(m.bytes for m in movements(program, total, machine.cache_bytes))
            loaded = sum(total.loaded[t.name] * t.element_bytes for t in program.tensors if t.name in total.loaded)
            time_s = max(2 * total.macs / machine.peak_ops_per_s, dram / machine.bandwidth_bytes_per_s)
            busy = min(machine.processors, parallel_turns(program))
            key = (time_s, -busy, dram, total.macs, loaded, -tiling.rows * tiling.columns, -tiling.chunk)
            found.append((key, tiling))
        if found:
            best.append(min(found, key=lambda pair: pair[0]))
    if len(best) < len(tried):
        with pytest.raises(TilingError, match="no tiling fits"):
            choose(graph, layers, machine, element_bytes=2, name="b")
        return
    chosen = choose(graph, layers, machine, element_bytes=2, name="b")
    for choice, (key, _) in zip(chosen, best, strict=True):
        total = choice.totals
        time_s = max(2 * total.macs / machine.peak_ops_per_s, moved(choice) / machine.bandwidth_bytes_per_s)
        assert time_s == pytest.approx(key[0], rel=1e-12)
        assert (min(4, parallel_turns(choice.program)), moved(choice), total.macs) == (-key[1], key[2], key[3])
        assert total.peak_local_bytes <= local_bytes


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(sorted(BLOCKS)),
    stride=st.sampled_from([1, 2]),
    batch=st.integers(1, 4),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    local_bytes=st.integers(2_000, 300_000),
)
def test_traffic_lies_between_compulsory_and_unfused(
    kind: str, stride: int, batch: int, height: int, width: int, local_bytes: int
) -> None:
    """Where the whole block is memory-bound, so that traffic is what the choice minimises."""
    stride = 1 if kind == "convnext" else stride
    graph, layers = graph_of(small_block(kind, stride=stride), Shape(batch, 8, height, width))
    machine = replace(H200, local_bytes=local_bytes, peak_ops_per_s=1e30, processors=1)
    try:
        chosen = choose(graph, layers, machine, element_bytes=2, name="b")
    except TilingError:
        return
    unfused = sum((k.cost for k in kernels(graph, Precision())), Cost())
    output = graph.nodes[layers[-1]].shape
    weights = unfused.read_weight_bytes
    source_elements = max(m.elements for m in chosen[0].movements if m.kind == "input")
    compulsory = 2 * (source_elements + output.elements) + weights
    fused = sum(moved(choice) for choice in chosen)
    assert fused >= compulsory
    roomy = choose(graph, layers, replace(machine, local_bytes=math.inf), element_bytes=2, name="b")
    assert sum(moved(choice) for choice in roomy) <= unfused.dram_bytes
    assert sum(moved(choice) for choice in roomy) <= fused


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_time_and_traffic_fall_as_local_memory_grows(kind: str) -> None:
    graph, layers = graph_of(small_block(kind), Shape(2, 8, 20, 24))
    times = []
    for local_bytes in (1_500, 3_000, 6_000, 12_000, 50_000, 1e9):
        machine = replace(H200, local_bytes=local_bytes, cache_bytes=0.0)
        try:
            chosen = choose(graph, layers, machine, element_bytes=2, name="b")
        except TilingError:
            times.append(math.inf)
            continue
        times.append(
            sum(max(2 * c.totals.macs / machine.peak_ops_per_s, moved(c) / machine.bandwidth_bytes_per_s) for c in chosen)
        )
    assert times == sorted(times, reverse=True)
    assert times[-1] < math.inf
    curve = capacity_curve(small_block(kind), Shape(2, 8, 20, 24), cache_bytes=0.0)
    assert (np.diff(curve.dram_bytes) < 0).all()
    assert (np.diff(curve.local_bytes) > 0).all()


@pytest.mark.parametrize("kind", sorted(BLOCKS))
@pytest.mark.parametrize("cache_bytes", [0.0, math.inf])
def test_the_capacity_curve_is_the_least_traffic_of_what_fits(kind: str, cache_bytes: float) -> None:
    block, shape = small_block(kind), Shape(2, 8, 9, 11)
    curve = capacity_curve(block, shape, cache_bytes=cache_bytes)
    graph, layers = graph_of(block, shape)
    machine = replace(H200, cache_bytes=cache_bytes)
    tried = candidates(graph, layers, machine, element_bytes=2, name="b")
    for capacity in (
        curve.local_bytes[0] - 1,
        curve.local_bytes[0],
        float(np.median(curve.local_bytes)),
        curve.local_bytes[-1] + 1,
    ):
        each = [costed.dram_bytes[costed.local_bytes <= capacity] for costed in tried]
        expected = sum(float(dram.min()) for dram in each) if all(dram.size for dram in each) else None
        assert curve.at(capacity) == expected
    assert curve.at(math.inf) == curve.compulsory_bytes
    assert curve.unfused_bytes == sum((k.cost for k in kernels(graph, Precision())), Cost()).dram_bytes


LIMITS = [
    (ConvFirst(in_channels=64, out_channels=64, hidden_channels=384), 6 * 64 + 9 * 8 / 2),
    (MBConv(in_channels=256, out_channels=256, hidden_channels=1024, group_width=8), 4 * 256 + 4 * 9 * 8 / 2),
    (FusedMBConv(in_channels=64, out_channels=64, hidden_channels=256), 4 * 64 * 10 / 2),
]


@pytest.mark.parametrize(("block", "limit"), LIMITS, ids=[block.kind for block, _ in LIMITS])
def test_intensity_approaches_the_closed_form_as_tiles_and_batch_grow(block: Block, limit: float) -> None:
    """eC + RS·g/2 (ConvFirst), eC + e·RS·g/2 (MBConv), e·C·(RS+1)/2 (FusedMBConv): derived in the notes on the paper."""
    found = []
    for batch, tile in ((1, 8), (8, 16), (64, 32), (1024, 64)):
        graph, layers = graph_of(block, Shape(batch, block.in_channels, 64, 64))
        machine = replace(H200, local_bytes=math.inf)
        (choice,) = choose(graph, layers, machine, element_bytes=2, name="b", tile=(tile, tile))
        found.append(2 * graph.macs / moved(choice))
    assert found == sorted(found)
    assert all(value < limit for value in found)
    assert found[-1] == pytest.approx(limit, rel=2e-3)


def test_a_tile_of_sixteen_multiplies_the_read_by_1_27() -> None:
    """(16+2)·(16+2)/(16·16) = 1.27 for a large image; edges are clipped, so a 64×64 image reads a little less."""
    graph, layers = graph_of(LIMITS[0][0], Shape(128, 64, 1024, 1024))
    machine = replace(H200, local_bytes=math.inf)
    (choice,) = choose(graph, layers, machine, element_bytes=2, name="b", tile=(16, 16))
    ratio = moved(choice, "input", "halo") / moved(choice, "input")
    assert ratio == pytest.approx(18 * 18 / 256, rel=5e-3)
    assert ratio < 18 * 18 / 256


def test_what_limits_a_choice_is_said() -> None:
    graph, layers = graph_of(LIMITS[1][0], Shape(128, 256, 16, 16))
    (tight,) = choose(graph, layers, replace(H200, local_bytes=60_000), element_bytes=2, name="b")
    assert "limits it: with more" in tight.reason
    (roomy,) = choose(graph, layers, H200, element_bytes=2, name="b")
    assert "would not help" in roomy.reason
    assert roomy.considered > roomy.fitting > 0
    assert roomy.considered == len(candidates(graph, layers, H200, element_bytes=2, name="b")[0].macs)


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    graph, layers = graph_of(LIMITS[1][0], Shape(1, 256, 16, 16))
    with pytest.raises(TilingError) as caught:
        choose(graph, layers, replace(H200, local_bytes=1_000), element_bytes=2, name="the block")
    assert "the block: no tiling fits 1.00 kB of local memory; the smallest needs" in str(caught.value)


def test_a_device_without_a_figure_for_its_local_memory_is_refused() -> None:
    with pytest.raises(HardwareError, match=r"chip\.shared_memory_per_block_bytes"):
        Machine.of(load("m1-ultra"), "fp32")


def test_parallel_turns_are_images_times_tiles() -> None:
    graph, layers = graph_of(small_block("convfirst"), Shape(3, 8, 10, 10))
    for mode, expected in (("tiles", 3 * 4 * 3), ("rows", 3 * 3)):
        assert mode in MODES
        tiling = Tiling(mode=mode, rows=3, columns=4, chunk=8, resident_weights=True)  # type: ignore[arg-type]
        (program,) = fused_programs(graph, layers, tiling, element_bytes=2)
        assert parallel_turns(program) == expected
