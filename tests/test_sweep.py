"""Sweeps: the same latencies as one design at a time, in any shape, in bounded chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.convnext import ConvNeXtBlock
from perfmodel.layers.blocks.mbconv import FusedMBConv, MBConv
from perfmodel.layers.blocks.residual import BasicBlock, RegNetYBlock
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.prediction import predict
from perfmodel.schedule import SCHEDULES
from perfmodel.sweep import CHUNK_DESIGNS, block_function, sweep_block

H200 = load("h200")


def concrete(kind: str, channels: int, expansion: int, width: int, squeezed: int) -> Block:
    hidden = channels * expansion
    match kind:
        case "convfirst":
            return ConvFirst(in_channels=channels, out_channels=channels, hidden_channels=hidden, group_width=width)
        case "mbconv":
            return MBConv(in_channels=channels, out_channels=channels, hidden_channels=hidden, group_width=width)
        case "fused_mbconv":
            return FusedMBConv(in_channels=channels, out_channels=channels, hidden_channels=hidden)
        case "convnext":
            return ConvNeXtBlock(in_channels=channels, out_channels=channels, hidden_channels=hidden)
        case "basic":
            return BasicBlock(in_channels=channels, out_channels=channels)
        case _:
            return RegNetYBlock(
                in_channels=channels, out_channels=channels, hidden_channels=channels, group_width=width, se_channels=squeezed
            )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["convfirst", "mbconv", "fused_mbconv", "convnext", "basic", "regnety"]),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    dtype=st.sampled_from(["fp16", "fp32", "int8"]),
    batch=st.integers(1, 300),
    size=st.integers(2, 120),  # at one pixel a gate has the shape of what it gates, and is fused differently
    groups=st.integers(1, 40),
    width=st.sampled_from([1, 4, 8, 16]),
    expansion=st.integers(1, 8),
    squeezed=st.integers(1, 64),
)
def test_a_sweep_is_each_design_by_itself(
    kind: str, schedule: str, dtype: str, batch: int, size: int, groups: int, width: int, expansion: int, squeezed: int
) -> None:
    channels = groups * width
    builder = GraphBuilder()
    x = builder.input(Shape(batch, channels, size, size))
    builder.block(concrete(kind, channels, expansion, width, squeezed), x, name="block")
    network = Network(name="one", graph=builder.graph(), batch=batch, resolution=size)
    alone = predict(network, H200, schedule=schedule, dtype=dtype)
    known = {"N": batch, "H": size, "W": size, "C": channels, "e": expansion, "g": width, "C_se": squeezed}
    wanted = {name: known[name] for name in block_function(kind, schedule, dtype).symbols}
    swept = sweep_block(kind, H200, wanted, schedule=schedule, dtype=dtype)
    assert float(swept) == pytest.approx(alone.latency_s, rel=1e-12)


def test_arrays_broadcast_and_chunks_do_not_show() -> None:
    many = CHUNK_DESIGNS + 7
    widths = np.arange(1, many + 1, dtype=np.float64)
    images = np.array([[1.0], [64.0]])
    swept = sweep_block("convfirst", H200, {"N": images, "H": 14, "W": 14, "C": widths, "e": 4, "g": 8})
    assert swept.shape == (2, many)
    for row, column in [(0, 0), (1, 3), (0, CHUNK_DESIGNS - 1), (1, CHUNK_DESIGNS), (1, many - 1)]:
        one = sweep_block("convfirst", H200, {"N": images[row, 0], "H": 14, "W": 14, "C": widths[column], "e": 4, "g": 8})
        assert swept[row, column] == float(one)


@pytest.mark.parametrize("kind", sorted(BLOCKS))
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_every_block_can_be_swept(kind: str, schedule: str) -> None:
    function = block_function(kind, schedule)
    swept = sweep_block(kind, H200, {name: np.array([8.0, 16.0]) for name in function.symbols}, schedule=schedule)
    assert (np.diff(swept) > 0).all()
    assert block_function(kind, schedule) is function


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("convfirst", {"C": None}, "needs the dimensions C"),
        ("convfirst", {"Z": 1}, "unknown dimension of convfirst"),
        ("convfirst", {"C": 0}, "must be positive"),
        ("convfirst", {"C": [64, -1]}, "must be positive"),
        ("convfirst", {"C": [1, float("nan")]}, "must be positive"),
        ("convfirst", {"C": float("inf")}, "must be positive"),
        ("convfirst", {"C": []}, "must be positive"),
        ("convfirst", {"C": "wide"}, "must be a number"),
        ("convfirst", {"C": [1, 2], "e": [1, 2, 3]}, "do not broadcast"),
        ("convfist", {}, "did you mean convfirst"),
    ],
)
def test_bad_dimensions_are_said(kind: str, change: dict[str, object], said: str) -> None:
    dimensions: dict[str, object] = {"N": 1, "H": 8, "W": 8, "C": 64, "e": 4, "g": 8} | change
    with pytest.raises(PerfmodelError) as caught:
        sweep_block(kind, H200, {name: value for name, value in dimensions.items() if value is not None})
    assert said in str(caught.value)
