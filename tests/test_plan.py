"""The planner: exact against exhaustive search, never worse than schedules `layer` and `block`, and its programs compute the network."""

from __future__ import annotations

import csv
import inspect
import io
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import perfmodel
from perfmodel import cli
from perfmodel.cli.codesign import convfirst_net
from perfmodel.cli.plan import plan as cli_plan
from perfmodel.cut import Cut, best_cut
from perfmodel.design.codesign import FAMILY
from perfmodel.design.convfirst_space import FAMILY_BATCH, TOLERANCE, WIDTH_STEP, WIDTHS
from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import HardwareError
from perfmodel.hardware.what_if import what_if
from perfmodel.kernel import NOT_FUSED
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.machine.interpreter import Interpreter
from perfmodel.machine.steps import FusionError
from perfmodel.network import Network
from perfmodel.networks.catalog import build, entries
from perfmodel.networks.convfirstnet import RESOLUTION
from perfmodel.plan_record import PlanRecord
from perfmodel.planning import PlanError, lower_bound_s, plan
from perfmodel.precision import Precision
from perfmodel.prediction import predict
from perfmodel.schedule import kernels, pieces
from perfmodel.segments import LONGEST, Costs, Pieces, bits
from perfmodel.tiling import Machine, TilingError, choose
from perfmodel.units import si
from perfmodel.validation.planner_speed import recorded
from tests.reference import run, weights_for
from tests.small_networks import block_networks, graphs

SMALL = Machine(processors=2, local_bytes=4_000, cache_bytes=500.0, peak_ops_per_s=1e9, bandwidth_bytes_per_s=2e8)


def parts_of(graph: Graph, machine: Machine) -> Pieces:
    costs = Costs(load("h200"), Precision())
    costs.machine = machine
    return pieces(graph, costs, Precision())


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    return replace(
        SMALL,
        local_bytes=draw(st.sampled_from([300, 800, 2_000, 6_000, 30_000])),
        cache_bytes=draw(st.sampled_from([0.0, 800.0, math.inf])),
        peak_ops_per_s=draw(st.sampled_from([1e8, 1e9, 1e11])),
    )


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Convolutions of every class one after the other, with norms and activations, and no branches."""
    builder = GraphBuilder()
    x = builder.input(Shape(draw(st.integers(1, 2)), 4, draw(st.integers(3, 9)), draw(st.integers(3, 9))))
    for number in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["conv", "pointwise", "depthwise", "grouped", "strided"]))
        width = {"depthwise": x.shape.C, "grouped": x.shape.C}.get(kind, draw(st.sampled_from([4, 8, 48])))
        x = builder.conv_norm(
            x,
            width,
            kernel=1 if kind == "pointwise" else 3,
            stride=2 if kind == "strided" and min(x.shape.H, x.shape.W) > 2 else 1,
            group_width={"depthwise": 1, "grouped": 2}.get(kind),
            activation=draw(st.sampled_from([None, "silu"])),
            name=f"conv{number}",
            norm_name=f"bn{number}",
        )
    return builder.graph()


# -- an independent search: every partition of the set of kernels, each part costed by the tiling that `choose` makes


def partitions(items: Sequence[int]) -> Iterator[list[list[int]]]:
    """Every way to part a set."""
    if not items:
        yield []
        return
    first, *rest = items
    for parting in partitions(rest):
        yield [[first], *parting]
        for place, part in enumerate(parting):
            yield [*parting[:place], [first, *part], *parting[place + 1 :]]


def exhaustive_s(graph: Graph, machine: Machine) -> float:
    work = kernels(graph, Precision(), "layer")
    known: dict[tuple[int, ...], float] = {}

    def part_s(part: tuple[int, ...]) -> float:
        if len(part) == 1:
            cost = work[part[0]].cost
            return max(cost.ops / machine.peak_ops_per_s, cost.dram_bytes / machine.bandwidth_bytes_per_s)
        written = {access.tensor for index in part for access in work[index].writes}
        elsewhere = {a.tensor for index, kernel in enumerate(work) if index not in part for a in kernel.reads}
        anywhere = {a.tensor for kernel in work for a in kernel.reads}
        if len({tensor for tensor in written if tensor in elsewhere or tensor not in anywhere}) != 1:
            return math.inf
        layers = [name for name in graph.nodes if any(name in work[index].layers for index in part)]
        try:
            choices = choose(graph, layers, machine, element_bytes=2)
        except (FusionError, TilingError):
            return math.inf
        return sum(
            max(2 * c.totals.macs / machine.peak_ops_per_s, sum(m.bytes for m in c.movements) / machine.bandwidth_bytes_per_s)
            for c in choices
        )

    least = math.inf
    for parting in partitions(range(len(work))):
        total = 0.0
        for part in parting:
            key = tuple(sorted(part))
            if key not in known:
                known[key] = part_s(key)
            total += known[key]
        least = min(least, total)
    return least


@settings(derandomize=True, deadline=None, max_examples=40)
@given(graph=chains(), machine=machines())
def test_a_chain_is_cut_as_exhaustive_search_would(graph: Graph, machine: Machine) -> None:
    cut = best_cut(parts_of(graph, machine))
    assert cut.complete
    assert cut.time_s == pytest.approx(exhaustive_s(graph, machine), rel=1e-8)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(graph=st.one_of(graphs(), block_networks()), machine=machines())
def test_branches_are_cut_as_exhaustive_search_would(graph: Graph, machine: Machine) -> None:
    """Over all partitions of the set of kernels, not only those that follow the order."""
    assume(len(kernels(graph, Precision(), "layer")) <= 8)
    cut = best_cut(parts_of(graph, machine))
    assert cut.complete
    assert cut.time_s == pytest.approx(exhaustive_s(graph, machine), rel=1e-8)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(graph=st.one_of(graphs(), block_networks(), chains()), machine=machines())
def test_a_cut_is_lawful(graph: Graph, machine: Machine) -> None:
    parts = parts_of(graph, machine)
    cut = best_cut(parts)
    assert sum(segment.bit_count() for segment in cut.segments) == len(parts.all)
    work = cut.kernels()
    assert cut.time_s == pytest.approx(math.fsum(parts.costs.alone_s(kernel) for kernel in work), rel=1e-9)
    alone = math.fsum(piece.time_s for piece in parts.all)
    assert lower_bound_s(parts) <= cut.time_s * (1 + 1e-9)
    assert cut.time_s <= alone * (1 + 1e-9)
    in_order(graph, work, machine.local_bytes)


def in_order(graph: Graph, work: Sequence[perfmodel.kernel.Kernel], local_bytes: float) -> None:
    """Each layer once; nothing read before it is written; what is held fits."""
    assert sorted(layer for kernel in work for layer in kernel.layers) == sorted(
        name for name, node in graph.nodes.items() if node.layer.role != "input"
    )
    available = {"input"}
    for kernel in work:
        for access in kernel.reads:
            assert access.role == "weight" or access.tensor in available, f"{kernel.name} reads {access.tensor} too early"
        available |= {access.tensor for access in kernel.writes}
        assert kernel.cost.dram_bytes == sum(access.bytes for access in (*kernel.reads, *kernel.writes))
        assert kernel.cost.workspace_bytes <= local_bytes


@settings(derandomize=True, deadline=None, max_examples=30)
@given(graph=block_networks(), machine=machines())
def test_the_programs_of_a_cut_compute_the_network(graph: Graph, machine: Machine) -> None:
    """Every segment, run by the interpreter on what the reference gives it: also those that begin or end within a block."""
    parts = parts_of(graph, replace(machine, local_bytes=max(machine.local_bytes, 2_000)))
    weights = weights_for(graph, 1)
    x = np.random.default_rng(1).normal(size=graph.nodes["input"].shape)
    expected = run(graph, {"input": x}, weights)
    for segment in best_cut(parts).segments:
        if segment.bit_count() == 1:
            continue
        layers = parts.layers(segment)
        data = {name: value for name, value in {**expected, **weights, "input": x}.items() if name not in layers}
        choices = choose(graph, layers, parts.costs.machine, element_bytes=2)
        for choice in choices:
            given_tensors = {tensor.name: data[tensor.name] for tensor in choice.program.tensors if tensor.name in data}
            stored = Interpreter(choice.program, given_tensors, local_bytes=int(parts.costs.machine.local_bytes)).run()
            data.update(stored)
        (result,) = stored.values()
        np.testing.assert_allclose(result, expected[layers[-1]], rtol=1e-8, atol=1e-8)


# -- built-in networks

DEVICES = ("t4", "jetson-agx-orin", "h200")


@pytest.mark.parametrize(("model", "device"), list(zip(sorted(entries()), itertools.cycle(DEVICES), strict=False)))
def test_no_network_is_slower_than_on_schedules_layer_and_block(model: str, device: str) -> None:
    """With segments as long as the longest block; longer ones can only be better, which the next test holds."""
    graph, spec = build(model, batch=4).graph, load(device)
    parts = pieces(graph, Costs(spec, Precision()), Precision())
    cut = best_cut(parts, longest=8)
    by_block = math.fsum(parts.costs.alone_s(kernel) for kernel in kernels(graph, Precision(), "block", device=spec))
    by_layer = math.fsum(piece.time_s for piece in parts.all)
    assert cut.time_s <= min(by_block, by_layer) * (1 + 1e-9)
    assert lower_bound_s(parts) <= cut.time_s
    in_order(graph, cut.kernels(), parts.costs.machine.local_bytes)


@pytest.mark.parametrize("autocast", [None, "fp16"])
@pytest.mark.parametrize("model", ["convnext_atto", "mobilenetv3_small_100", "resnet50", "convfirstnet_femto"])
def test_longer_segments_are_never_worse(model: str, autocast: str | None) -> None:
    precision = Precision.of(None, autocast)
    costs = Costs(load("rtx3090"), precision)
    parts = pieces(build(model, batch=16).graph, costs, precision)
    times = [best_cut(parts, longest=longest).time_s for longest in (1, 3, 8, 16)]
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(math.fsum(piece.time_s for piece in parts.all))
    network = build(model, batch=16)
    block = predict(network, "rtx3090", autocast=autocast, schedule="block").latency_s
    assert times[-1] <= block * (1 + 1e-9)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("model", ["convnext_atto", "regnety_004"])
def test_what_was_minimised_is_what_the_kernels_take_in_every_type(model: str, dtype: str) -> None:
    """8-bit networks keep biases and norms in fp32: tensors of one segment have different types."""
    precision, device = Precision.of(dtype, None), load("h200")
    parts = pieces(build(model, batch=4).graph, Costs(device, precision), precision)
    cut = best_cut(parts, longest=8)
    work = cut.kernels()
    assert cut.time_s == pytest.approx(math.fsum(parts.costs.alone_s(kernel) for kernel in work), rel=1e-9)
    assert all(kernel.cost.dram_bytes == sum(access.bytes for access in (*kernel.reads, *kernel.writes)) for kernel in work)
    assert {access.dtype for kernel in work for access in kernel.reads if access.role == "weight"} == {dtype, "fp32"}


def unpruned(parts: Pieces, longest: int, monkeypatch: pytest.MonkeyPatch) -> Cut:
    with monkeypatch.context() as patched:
        patched.setattr("perfmodel.cut._Known.least_s", lambda *_: 0.0)
        return best_cut(parts, longest=longest)


@pytest.mark.parametrize(
    ("model", "device"),
    [("mobilenetv2_100", "jetson-agx-orin"), ("efficientnet_b0", "t4"), ("regnety_004", "rtx4090"), ("convnext_pico", "h200")],
)
def test_what_is_not_costed_could_not_have_been_better(model: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(model, batch=2).graph
    quick = best_cut(pieces(graph, Costs(load(device), Precision()), Precision()), longest=10)
    slow = unpruned(pieces(graph, Costs(load(device), Precision()), Precision()), 10, monkeypatch)
    assert quick.costed < slow.costed
    assert quick.time_s == pytest.approx(slow.time_s, rel=1e-9)


def test_schedule_auto_is_accepted_wherever_schedules_are() -> None:
    prediction = perfmodel.predict("efficientnet_b0", "h200", batch=8, schedule="auto")
    assert prediction.schedule == "auto"
    assert prediction.latency_s < perfmodel.predict("efficientnet_b0", "h200", batch=8, schedule="block").latency_s
    record = json.loads(prediction.to_json())
    assert record["schedule"] == "auto"
    assert {kernel["kind"] for kernel in record["kernels"]} >= {"fused", "mbconv"}
    assert not any((kernel.tiling or "").startswith(NOT_FUSED) for kernel in prediction.kernels)
    assert "fusing them does not pay or is not possible" in " ".join(prediction.assumptions)
    with pytest.raises(HardwareError, match=r"chip\.shared_memory_per_block_bytes"):
        predict("resnet18", "m1-ultra", dtype="fp32", schedule="auto")


def test_a_network_of_squeeze_and_excitation_is_fused_from_mean_to_mean() -> None:
    work = perfmodel.predict("efficientnet_b0", "h200", batch=8, schedule="auto").kernels
    assert any(kernel.name.endswith(".between_means_1") for kernel in work)


# -- plans


def test_a_plan_says_why_each_segment_ends() -> None:
    made = plan("resnet50", "t4", batch=8)
    by_name = {segment.name: segment.reason for segment in made.segments}
    kinds = {reason.kind for reason in by_name.values()}
    assert kinds >= {"no fused form", "local memory", "result"}
    assert any("maxpool (max pool) has no fused form" in reason.sentence for reason in by_name.values())
    too_large = next(reason.sentence for reason in by_name.values() if reason.kind == "local memory")
    assert "of 65.5 kB local memory at least" in too_large
    for segment in made.segments:
        if segment.reason.together_s is not None:
            assert segment.reason.together_s >= segment.latency_s
    assert made.latency_s == pytest.approx(sum(segment.latency_s for segment in made.segments))
    assert made.layer.latency_s == pytest.approx(sum(segment.alone_s for segment in made.segments))
    assert made.lower_bound_s <= made.latency_s <= made.block.latency_s <= made.layer.latency_s


def test_a_reason_holds_what_fusing_both_would_cost() -> None:
    """The latency that a reason states is that of the partition that fuses the two, by an independent way."""
    made = plan("mobilenetv2_100", "jetson-agx-orin")
    checked = 0
    for index, segment in enumerate(made.segments):
        if segment.reason.kind not in ("recompute", "re-read") or segment.reason.together_s is None:
            continue
        after = made.segments[index + 1]
        parting = [list(other.layers) for other in (*made.segments[:index], *made.segments[index + 2 :])]
        both = plan("mobilenetv2_100", "jetson-agx-orin", partition=[*parting, [*segment.layers, *after.layers]])
        extra = segment.reason.together_s - segment.latency_s - after.latency_s
        assert extra > 0
        assert both.latency_s == pytest.approx(made.latency_s + extra)
        assert both.given
        checked += 1
    assert checked >= 2


def test_the_plan_s_own_cut_given_back_costs_the_same() -> None:
    made = plan("convfirstnet_atto", "rtx4090", batch=2)
    again = plan("convfirstnet_atto", "rtx4090", batch=2, partition=[list(segment.layers) for segment in made.segments])
    assert again.latency_s == made.latency_s
    assert [segment.reason.kind for segment in again.segments] == [segment.reason.kind for segment in made.segments]


def of_resnet() -> list[list[str]]:
    return [list(kernel.layers) for kernel in kernels(build("resnet18").graph, Precision(), "layer")]


def merged(*names: str) -> list[list[str]]:
    """Schedule `layer` of resnet18 with the kernels of these layers in one."""
    parts = of_resnet()
    together = [part for part in parts if set(part) & set(names)]
    return [part for part in parts if part not in together] + [[layer for part in together for layer in part]]


def test_partitions_that_cannot_be_fused() -> None:
    def refused(partition: list[list[str]], message: str, device: str = "t4") -> None:
        with pytest.raises(PlanError, match=message):
            plan("resnet18", device, partition=partition)

    refused(merged("conv1", "maxpool"), r"\(conv1, …\): maxpool \(max pool\) has no fused form; give it a kernel of its own")
    refused(merged("layer1.0.conv1", "layer1.1.conv1"), "has two results")
    refused(merged("layer4.1.conv1", "layer4.1.conv2"), r"needs \S+ kB of 65.5 kB local memory at least; split it")
    refused(of_resnet()[1:], "leaves out 3 layers, the first is conv1")
    refused([["conv1"], *of_resnet()], "splits conv1 at layer conv1")
    refused([["conv9"], *of_resnet()], "unknown layer in the partition 'conv9'")
    roomy = plan("resnet18", "t4", partition=merged("layer1.0.conv1", "layer1.0.conv2"))
    assert roomy.segments[2].reason.kind in ("given", "several readers")


def test_bad_input_to_plan() -> None:
    with pytest.raises(PlanError, match="at least 1"):
        plan("resnet18", "h200", longest=0)
    with pytest.raises(PerfmodelError, match="unknown model"):
        plan("resnet17", "h200")
    network = build("resnet18")
    with pytest.raises(PerfmodelError, match="already has its batch"):
        plan(network, "h200", batch=2)
    assert isinstance(network, Network)


def test_a_graph_with_too_many_branches_is_searched_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve branches of two convolutions each, summed: 3¹² sets of kernels; with the limits low, the cut is lawful still."""
    builder = GraphBuilder()
    x = builder.input(Shape(1, 8, 12, 12))
    ends = []
    for number in range(12):
        y = builder.conv_norm(x, 8, kernel=3, activation="silu", name=f"a{number}", norm_name=f"an{number}")
        ends.append(builder.conv_norm(y, 8, name=f"b{number}", norm_name=f"bn{number}"))
    total = ends[0]
    for number, end in enumerate(ends[1:]):
        total = builder.residual(total, end, name=f"sum{number}")
    graph = builder.graph()
    monkeypatch.setattr("perfmodel.cut.MOST_STATES", 500)
    monkeypatch.setattr("perfmodel.segments.MOST_SEGMENTS", 100)
    parts = parts_of(graph, replace(SMALL, local_bytes=30_000))
    cut = best_cut(parts)
    assert not cut.complete
    assert cut.time_s < math.fsum(piece.time_s for piece in parts.all)
    in_order(graph, cut.kernels(), 30_000)


def test_bits() -> None:
    assert list(bits(0b101001)) == [0, 3, 5]


# -- the command


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    assert cli.run(["plan", "mobilenetv3_small_100", "--hardware", "orin", "--batch", "8", "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    made = plan("mobilenetv3_small_100", "orin", batch=8)
    assert f"in {len(made.prediction.kernels)} kernels" in out
    assert all(f"{segment.name}: " in out for segment in made.segments if segment.reason.kind != "result")
    assert picture.read_text().startswith("<?xml")

    assert cli.run(["plan", "mobilenetv3_small_100", "--hardware", "orin", "--batch", "8", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    PlanRecord.model_validate(record)
    assert record["prediction"] == predict("mobilenetv3_small_100", "orin", batch=8, schedule="auto").to_dict()
    assert record["latency_s"] == pytest.approx(sum(segment["latency_s"] for segment in record["segments"]))
    assert record["layer_latency_s"] == pytest.approx(sum(segment["layer_latency_s"] for segment in record["segments"]))
    assert record["gap"] == pytest.approx(record["latency_s"] / record["lower_bound_s"] - 1)
    assert [name for segment in record["segments"] for name in segment["kernels"]] == [
        kernel["name"] for kernel in record["prediction"]["kernels"]
    ]

    twice = ["--set", "dram_bandwidth=2x", "--format", "json"]
    assert cli.run(["plan", "mobilenetv3_small_100", "--hardware", "orin", "--batch", "8", *twice]) == 0
    device = what_if(load("orin"), ["dram_bandwidth=2x"])
    assert json.loads(capsys.readouterr().out)["latency_s"] == plan("mobilenetv3_small_100", device, batch=8).latency_s

    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps([segment["layers"] for segment in record["segments"]]))
    arguments = [
        "plan",
        "mobilenetv3_small_100",
        "--hardware",
        "orin",
        "--batch",
        "8",
        "--partition",
        str(cut),
        "--format",
        "csv",
    ]
    assert cli.run(arguments) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["latency_s"]) for row in rows] == [segment["latency_s"] for segment in record["segments"]]


def test_defaults_are_the_library_s() -> None:
    made = inspect.signature(cli_plan).parameters
    assert made["longest"].default == LONGEST
    asked = inspect.signature(convfirst_net).parameters
    assert (asked["batch"].default, asked["resolution"].default) == (FAMILY_BATCH, RESOLUTION)
    assert (asked["tolerance"].default, asked["width_step"].default) == (TOLERANCE, WIDTH_STEP)
    assert asked["widths"].default == "{}:{}".format(*WIDTHS)
    assert asked["deepest"].default == ",".join(map(str, FAMILY["tiny"]))


def test_a_segment_that_could_be_longer_says_so() -> None:
    made = plan("mobilenetv2_100", "jetson-agx-orin", batch=8, longest=3)
    free = plan("mobilenetv2_100", "jetson-agx-orin", batch=8)
    assert free.latency_s < made.latency_s
    stopped = [segment.reason for segment in made.segments if segment.reason.kind == "length"]
    assert stopped
    assert all("more than the 3 allowed" in reason.sentence for reason in stopped)
    assert all(reason.together_s is not None for reason in stopped)


def test_figures_of_the_changelog_are_those_recorded() -> None:
    record = recorded()
    changelog = (Path(__file__).parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    seconds = [statistics.median(row["seconds"]) for row in record["plans"] if row["layers"] > 300]
    assert f"Networks of 344 to 509 layers are planned in {min(seconds):.2f} to {max(seconds):.2f} s" in " ".join(
        changelog.split()
    )
    assert max(seconds) < 1
    (jetson,) = (row for row in record["plans"] if (row["model"], row["device"]) == ("mobilenetv2_100", "jetson-agx-orin"))
    figures = [si(jetson[name], "s") for name in ("latency_s", "layer_latency_s", "block_latency_s")]
    assert "{}, layer by layer {}, block by block {}".format(*figures) in " ".join(changelog.split())
    assert all(row["complete"] for row in record["plans"])


def test_a_wide_tensor_that_only_fits_in_chunks_does_not_end_the_search() -> None:
    """Its last two layers do not fit: they load a wide tensor. With the one before they do, and it exists a chunk at a time."""
    builder = GraphBuilder()
    block = BLOCKS["mbconv"](in_channels=8, out_channels=8, hidden_channels=256)
    builder.block(block, builder.input(Shape(2, 8, 12, 12)), name="b")
    graph = builder.graph()
    machine = replace(SMALL, local_bytes=3_000, cache_bytes=math.inf, peak_ops_per_s=1e12)
    parts = parts_of(graph, machine)
    assert [piece.kernel.name for piece in parts.all] == ["b.expand", "b.spatial", "b.project"]
    assert parts.time(0b110).time_s == math.inf
    assert best_cut(parts).segments == (0b111,)
