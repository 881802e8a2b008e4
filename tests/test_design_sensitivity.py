"""Elasticities are the limits of what small changes do; steps are what the steps do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.design.sensitivity import _elasticity, sensitivity
from perfmodel.design.subject import BlockSubject, NetworkSubject, Subject
from perfmodel.hardware.catalog import load
from perfmodel.hardware.what_if import what_if
from perfmodel.kernel import Kernel
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.cost import Cost
from perfmodel.sweep import sweep_block
from perfmodel.waterline import KernelTime

H200, RTX4090 = load("h200"), load("rtx4090")


@pytest.mark.parametrize(
    "subject",
    [
        NetworkSubject(model="convnext_tiny", device=H200, batch=128),
        NetworkSubject(model="resnet18", device=RTX4090, batch=16, schedule="eager"),
        BlockSubject(kind="bottleneck", channels=256, device=RTX4090, batch=64),
    ],
    ids=["convnext", "resnet", "block"],
)
def test_elasticities_to_the_machine_are_finite_differences(subject: Subject) -> None:
    found = sensitivity(subject)
    assert {item.figure for item in found.figures} >= {"memory.dram_bandwidth_bytes_per_s", "chip.boost_clock_hz"}
    here = found.prediction.latency_s
    step = 1e-4
    for item in found.figures:
        if isinstance(item.value, int):
            continue  # whole numbers have no small changes
        for sign, elasticity in ((1, item.elasticity_more), (-1, item.elasticity_less)):
            other = what_if(subject.device, [f"{item.figure}={1 + sign * step!r}x"])
            change = np.log(subject.on(other).prediction.latency_s / here) / np.log(1 + sign * step)
            assert change == pytest.approx(elasticity, abs=2e-3)
    total = sum(
        item.elasticity_more
        for item in found.figures
        if item.figure in ("memory.dram_bandwidth_bytes_per_s", found.prediction.peak.path + ".ops_per_s")
    )
    assert total == pytest.approx(-1)  # a machine twice as fast in both takes half the time


def test_until_the_first_kernel_crosses_the_latency_is_what_the_formula_says() -> None:
    subject = NetworkSubject(model="convnext_tiny", device=H200, batch=128)
    item = next(x for x in sensitivity(subject).figures if x.figure == "memory.dram_bandwidth_bytes_per_s")
    assert item.holds_from is not None
    assert item.holds_to is not None
    held = [time.bound_by for time in subject.prediction.times]
    for factor, same in (
        (item.holds_to * 0.9999, True),
        (item.holds_to * 1.0001, False),
        (item.holds_from * 1.0001, True),
        (item.holds_from * 0.9999, False),
    ):
        other = subject.on(what_if(H200, [f"bandwidth={factor!r}x"])).prediction
        assert ([time.bound_by for time in other.times] == held) is same
    assert item.doubled is not None
    doubled = subject.on(what_if(H200, ["bandwidth=2x"])).prediction.latency_s
    assert item.doubled == pytest.approx(doubled / subject.prediction.latency_s)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(BLOCKS)),
    channels=st.sampled_from([32, 64, 256]),
    size=st.integers(4, 60),
    batch=st.sampled_from([1, 16, 128]),
    expansion=st.integers(1, 6),
)
def test_elasticities_to_the_work_are_finite_differences(kind: str, channels: int, size: int, batch: int, expansion: int) -> None:
    subject = BlockSubject(kind=kind, device=RTX4090, channels=channels, size=size, batch=batch, expansion=expansion)
    narrowing = {"bottleneck": 4, "resnext": 2}.get(kind, 1)

    def latency_s(name: str, factor: float) -> float:
        value = {"channels": channels, "size": size, "batch": batch, "expansion": expansion, "group_width": 8} | {}
        scaled = {key: float(number) * (factor if key == name else 1.0) for key, number in value.items()}
        c = scaled["channels"]
        symbols = {"N": scaled["batch"], "H": scaled["size"], "W": scaled["size"], "C": c, "K": c / narrowing}
        symbols |= {"e": scaled["expansion"], "g": scaled["group_width"], "C_se": c / 4}
        from perfmodel.sweep import block_function

        return float(sweep_block(kind, RTX4090, {name: symbols[name] for name in block_function(kind).symbols}))

    h = 1e-6
    for item in sensitivity(subject).dimensions:
        if item.elasticity is None or item.dimension == "depth":
            continue
        up = np.log(latency_s(item.dimension, 1 + h) / latency_s(item.dimension, 1)) / np.log(1 + h)
        down = np.log(latency_s(item.dimension, 1 - h) / latency_s(item.dimension, 1)) / np.log(1 - h)
        assert min(up, down) - 1e-4 <= item.elasticity <= max(up, down) + 1e-4


def test_steps_are_what_the_next_designs_cost() -> None:
    subject = BlockSubject(kind="mbconv", device=H200, channels=64, batch=32)
    found = {item.dimension: item for item in sensitivity(subject).dimensions}
    assert found["kernel"].elasticity is None
    assert found["kernel"].less is not None
    assert found["kernel"].more is not None
    assert (found["kernel"].less[0], found["kernel"].more[0]) == (1, 5)
    for name in ("channels", "kernel", "group_width", "expansion"):
        for step in (found[name].less, found[name].more):
            assert step is not None
            there = subject.at(name, step[0]).prediction.latency_s
            assert step[1] == pytest.approx(there / subject.prediction.latency_s - 1)
    assert found["depth"].less is None


def test_a_network_answers_to_its_batch_exactly() -> None:
    subject = NetworkSubject(model="mobilenetv3_large_100", device=RTX4090, batch=24)
    (batch,) = [item for item in sensitivity(subject).dimensions if item.dimension == "batch"]
    held = [time.bound_by for time in subject.prediction.times]
    nearby = [subject.at("batch", 24 + step).prediction for step in (-1, 1)]
    if all([time.bound_by for time in other.times] == held for other in nearby):  # affine in between
        slope = (nearby[1].latency_s - nearby[0].latency_s) / 2
        assert batch.elasticity == pytest.approx(24 * slope / subject.prediction.latency_s, rel=1e-9)
    assert batch.elasticity is not None
    assert 0.5 < batch.elasticity <= 1


def test_a_kernel_on_the_waterline_answers_differently_each_way() -> None:
    kernel = Kernel(name="k", kind="conv", layers=(), block=None, reads=(), writes=(), cost=Cost())
    times = [KernelTime(kernel=kernel, arithmetic_s=1.0, memory_s=1.0), KernelTime(kernel=kernel, arithmetic_s=1.0, memory_s=2.0)]
    assert _elasticity(times, (0.0, 1.0), 1) == pytest.approx(-2 / 3)  # more bandwidth does not help the first
    assert _elasticity(times, (0.0, 1.0), -1) == pytest.approx(-1)  # less slows both


def test_local_memory_comes_in_steps() -> None:
    subject = BlockSubject(kind="mbconv", channels=256, size=14, batch=64, device=RTX4090, schedule="block")
    found = {item.figure: item for item in sensitivity(subject).figures}
    item = found["chip.shared_memory_per_block_bytes"]
    assert item.elasticity_more == 0
    halved = subject.on(what_if(RTX4090, ["local_memory=0.5x"])).prediction.latency_s / subject.prediction.latency_s
    assert item.halved == pytest.approx(halved)
    assert halved > 1
