"""Designs of a space cost what `predict` says of them, to the last bit; those that cannot be built are known."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.design.blocks import BlockSpace, Kind
from perfmodel.design.networks import NetworkSpace, StageChoices
from perfmodel.design.space import SpaceError
from perfmodel.design.staged import MAKERS, BlockChoice, Stage, StagedNetwork
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.catalog import load
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.layer import ShapeError
from perfmodel.networks.catalog import build
from perfmodel.networks.convfirstnet import SPECS
from perfmodel.prediction import predict

H200, RTX4090 = load("h200"), load("rtx4090")
EVERYTHING = frozenset(
    ["macs", "ops", "params", "bytes", "intensity"]
    + [f"{what}[{name}]" for what in ("latency", "efficiency") for name in ("h200", "rtx4090")]
)


def blocks(**changes: object) -> BlockSpace:
    space = BlockSpace(
        blocks=tuple(BLOCKS),
        channels=(8, 12, 16, 24, 64, 96, 130),
        expansions=(1, 4, 6),
        group_widths=(1, 8, 12),
        kernels=(3, 5, 7),
        sizes=(2, 7, 56),
        batches=(1, 32),
        devices=(H200, RTX4090),
    )
    return replace(space, **changes)  # type: ignore[arg-type]


def networks(**changes: object) -> NetworkSpace:
    kinds = ("convfirst", "mbconv", "regnety", "basic")
    space = NetworkSpace(
        stages=(
            StageChoices(blocks=kinds, channels=(16, 24), depths=(1, 2), expansions=(2, 4), group_widths=(8, 12), stride=1),
            StageChoices(blocks=kinds, channels=(24, 48), depths=(1, 3), kernels=(3, 5), squeeze_excitation=True),
            StageChoices(blocks=("bottleneck", "resnext", "fused_mbconv", "conv_residual"), channels=(64,), depths=(2,)),
        ),
        resolutions=(64, 75),
        stems=(16, 20),
        heads=(64, 100),
        batch=4,
        classes=10,
        devices=(H200, RTX4090),
    )
    return replace(space, **changes)  # type: ignore[arg-type]


def same_as_predicted(space: BlockSpace | NetworkSpace, numbers: np.ndarray) -> tuple[int, int]:
    """(designs that exist, designs that do not) of those compared."""
    found = space.evaluate(numbers, EVERYTHING)
    existing = 0
    for place, number in enumerate(numbers):
        if not found.valid[place]:
            continue
        existing += 1
        network = space.network(int(number))
        for device in space.devices:
            alone = predict(network, device, dtype=space.dtype, schedule=space.schedule)
            assert found.values[f"latency[{device.slug}]"][place] == alone.latency_s
            assert found.values[f"efficiency[{device.slug}]"][place] == alone.efficiency
        assert found.values["params"][place] == network.params
        assert found.values["macs"][place] == network.macs
        assert found.values["ops"][place] == 2 * network.macs
        assert found.values["bytes"][place] == predict(network, H200, dtype=space.dtype, schedule=space.schedule).cost.dram_bytes
    return existing, len(numbers) - existing


@pytest.mark.parametrize(("schedule", "dtype"), [("layer", "fp16"), ("eager", "fp32"), ("pointwise", "fp16"), ("layer", "int8")])
def test_blocks_cost_what_predict_says(schedule: str, dtype: str) -> None:
    space = blocks(schedule=schedule, dtype=dtype)
    numbers = np.sort(np.random.default_rng(1).choice(space.size, 150, replace=False))
    existing, missing = same_as_predicted(space, numbers)
    assert existing > 20
    assert missing > 20


@pytest.mark.parametrize(("schedule", "dtype"), [("layer", "fp16"), ("eager", "fp16"), ("pointwise", "bf16")])
def test_networks_cost_what_predict_says(schedule: str, dtype: str) -> None:
    space = networks(schedule=schedule, dtype=dtype)
    numbers = np.sort(np.random.default_rng(2).choice(space.size, 120, replace=False))
    existing, missing = same_as_predicted(space, numbers)
    assert existing > 20
    assert missing > 20


def test_networks_of_fused_blocks_cost_what_predict_says() -> None:
    stage = StageChoices(blocks=("convfirst", "mbconv"), channels=(32,), depths=(1, 2), stride=2)
    space = NetworkSpace(
        stages=(stage, replace(stage, channels=(48,))), resolutions=(64,), devices=(H200, RTX4090), schedule="block"
    )
    existing, _ = same_as_predicted(space, np.arange(space.size))
    assert existing == space.size


def test_a_block_that_does_not_exist_cannot_be_built() -> None:
    space = blocks(kernels=None, batches=(1,), sizes=(7,))
    valid = space.evaluate(np.arange(space.size), frozenset(["params"])).valid
    refused = 0
    for number in np.flatnonzero(~valid):
        design, kind = space.design(int(number)), Kind.of(str(space.design(int(number))["block"]))
        repeats = (not kind.expands and design["expansion"] != 1) or (kind.groups is None and design["group_width"] != 1)
        if not repeats:
            with pytest.raises(ShapeError):
                space.network(int(number))
            refused += 1
    assert refused > 10
    for number in np.flatnonzero(valid)[::7]:
        space.network(int(number))


def test_convfirstnet_is_a_design_of_such_a_space() -> None:
    for name, spec in SPECS.items():
        kinds = [("convfirst", 6), ("convfirst", 6), ("mbconv", 4), ("mbconv", 4)]
        space = NetworkSpace(
            stages=tuple(
                StageChoices(blocks=(kind,), channels=(spec.width << place,), depths=(depth,), expansions=(expansion,))
                for place, ((kind, expansion), depth) in enumerate(zip(kinds, spec.depths, strict=True))
            ),
            resolutions=(256,),
            batch=8,
            devices=(H200, RTX4090),
        )
        found = space.evaluate(np.array([0]), EVERYTHING)
        member = build(f"convfirstnet_{name}", batch=8)
        assert found.valid[0]
        assert found.values["latency[rtx4090]"][0] == predict(member, RTX4090).latency_s
        assert found.values["params"][0] == member.params
        assert found.values["macs"][0] == member.macs


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(MAKERS)),
    widths=st.lists(st.sampled_from([16, 32, 64]), min_size=1, max_size=3),
    depth=st.integers(1, 4),
    size=st.sampled_from([32, 57]),
    squeezed=st.booleans(),
    stride=st.integers(1, 2),
)
def test_a_network_of_stages_is_a_sum_over_its_blocks(
    kind: str, widths: list[int], depth: int, size: int, squeezed: bool, stride: int
) -> None:
    choices = tuple(
        StageChoices(blocks=(kind,), channels=(width,), depths=(depth,), stride=stride, squeeze_excitation=squeezed)
        for width in widths
    )
    space = NetworkSpace(stages=choices, resolutions=(size,), devices=(H200,))
    found = space.evaluate(np.array([0]), frozenset(["latency", "params"]))
    choice = BlockChoice(kind=kind, squeeze_excitation=squeezed)
    staged = StagedNetwork(
        stem=widths[0] // 2,
        stages=tuple(Stage(choice=choice, channels=width, depth=depth, stride=stride) for width in widths),
        head=2 * widths[-1],
    )
    network = staged.build(batch=1, resolution=size)
    assert found.valid[0]
    assert found.values["latency"][0] == predict(network, H200).latency_s
    assert found.values["params"][0] == network.params


def test_designs_have_numbers_and_names() -> None:
    space = networks()
    designs = [space.design(number) for number in (0, 1, space.size - 1)]
    assert designs[0]["head"] == 64
    assert designs[-1] | designs[-1] == {axis.name: axis.values[-1] for axis in space.axes}
    assert {"stem", "resolution", "block[1]", "depth[3]"} <= set(designs[0])
    assert "kernel" not in blocks(kernels=None).design(0)


def test_a_space_travels_without_its_tables() -> None:
    space = networks()
    space.evaluate(np.array([0]), EVERYTHING)
    again = pickle.loads(pickle.dumps(space))
    assert again.checksum == space.checksum
    assert "tables" not in vars(again)
    assert again.evaluate(np.array([5]), EVERYTHING).values["bytes"] == space.evaluate(np.array([5]), EVERYTHING).values["bytes"]
    assert blocks(dtype="fp32").checksum != blocks().checksum


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: blocks(blocks=("mbcnv",)), "did you mean mbconv"),
        (lambda: blocks(schedule="block"), "sweeps take the schedules"),
        (lambda: blocks(sizes=(1,)), "mean over the image"),
        (lambda: blocks(kernels=(4,)), "must be odd"),
        (lambda: blocks(dtype="fp12"), "unknown data type"),
        (lambda: networks(stages=(StageChoices(blocks=("convnext",), channels=(8,), depths=(1,)),)), "block of a stage"),
        (lambda: networks(stages=(StageChoices(blocks=("basic",), channels=(8,), depths=(1,), kernels=(2,)),)), "must be odd"),
        (lambda: networks(schedule="lyer"), "did you mean layer"),
        (lambda: networks(resolutions=tuple(range(32, 32 + 40000))), "different blocks, of which tables can hold"),
    ],
)
def test_spaces_that_cannot_be_are_said(make: object, said: str) -> None:
    with pytest.raises(PerfmodelError) as caught:
        make()  # type: ignore[operator]
    assert said in str(caught.value)
    assert isinstance(caught.value, SpaceError | UnknownNameError | PerfmodelError)
