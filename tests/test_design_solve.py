"""Inverse queries: what fits, fits; one step more does not; thresholds are where a prediction tips over."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perfmodel.cli import run as command
from perfmodel.design.footprint import footprint_bytes
from perfmodel.design.lift import lift, stage_of
from perfmodel.design.solve import TooSmallError, solve
from perfmodel.design.subject import BlockSubject, NetworkSubject, QuestionError, Subject
from perfmodel.design.thresholds import (
    UnreachableError,
    _factor_within,
    balance,
    compute_bound,
    figure_for_latency,
    fused_pays,
    group_crossing,
)
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.hardware.what_if import what_if
from perfmodel.layers.catalog import BLOCKS, block_of
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.networks.catalog import build
from perfmodel.prediction import predict

H200, RTX4090 = load("h200"), load("rtx4090")


def block_latency_s(subject: BlockSubject, **choices: int) -> float:
    """Built here, from the catalogue alone."""
    given = {name: getattr(subject, name) for name in ("channels", "size", "batch", "expansion", "group_width", "kernel")}
    given |= choices
    block = block_of(
        subject.kind, given["channels"], expansion=given["expansion"], group_width=given["group_width"], kernel=given["kernel"]
    )
    builder = GraphBuilder()
    builder.block(block, builder.input(Shape(given["batch"], given["channels"], given["size"], given["size"])), name="b")
    network = Network(name="b", graph=builder.graph(), batch=given["batch"], resolution=given["size"])
    return predict(network, subject.device, schedule=subject.schedule).latency_s


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(BLOCKS)),
    unknown=st.sampled_from(["channels", "size", "batch", "expansion"]),
    schedule=st.sampled_from(["layer", "eager", "pointwise"]),
    microseconds=st.floats(20, 2000),
    channels=st.sampled_from([32, 64, 128]),
)
def test_what_is_found_fits_and_one_step_more_does_not(
    kind: str, unknown: str, schedule: str, microseconds: float, channels: int
) -> None:
    subject = BlockSubject(kind=kind, device=RTX4090, channels=channels, size=28, batch=2, schedule=schedule)
    if unknown not in subject.unknowns:
        return
    budget_s = microseconds * 1e-6
    try:
        found = solve(subject, unknown, {"latency": budget_s})
    except TooSmallError:
        least = subject.allowed(unknown, None)[0]
        assert block_latency_s(subject, **{unknown: least}) > budget_s
        return
    allowed = subject.allowed(unknown, None)
    place = allowed.index(found.value)
    assert block_latency_s(subject, **{unknown: found.value}) <= budget_s
    assert block_latency_s(subject, **{unknown: allowed[place + 1]}) > budget_s
    assert found.binding == ("latency",)
    if found.closed_form is not None:
        step = allowed[1] - allowed[0]
        assert (
            found.value - 1e-6 * found.value
            <= found.closed_form.value
            < found.value + step * (1 + 1e-6) + 3 * (kind == "regnety")
        )


@pytest.mark.parametrize("unknown", ["channels", "size", "batch", "expansion"])
def test_closed_forms_are_exact_roots(unknown: str) -> None:
    subject = BlockSubject(kind="convfirst", device=RTX4090)
    found = solve(subject, unknown, {"latency": 1e-4})
    assert found.closed_form is not None
    a, b = (block_latency_s(subject, **{unknown: row.value}) for row in found.rows[1:])
    (low, high) = (row.value for row in found.rows[1:])
    chord = low + (high - low) * (1e-4 - a) / (b - a)  # the cost is nearly straight within one step
    assert found.closed_form.value == pytest.approx(chord, rel=2e-3)
    assert "bandwidth" in str(found.closed_form.cost)
    assert r"\begin{align*}" in found.closed_form.text(latex=True)


@pytest.mark.parametrize("schedule", ["layer", "eager"])
def test_the_batch_of_a_network_has_a_closed_form(schedule: str) -> None:
    subject = NetworkSubject(model="convnext_tiny", device=H200, schedule=schedule)
    for budgets in ({"latency": 1e-3}, {"traffic": 5e9}, {"macs": 2e11}):
        found = solve(subject, "batch", budgets)
        assert found.closed_form is not None
        assert found.value <= found.closed_form.value < found.value + 1


def test_the_width_of_convfirst_under_a_tenth_of_a_millisecond_by_trying_all() -> None:
    subject = BlockSubject(kind="convfirst", device=RTX4090, size=56)
    fitting = [width for width in range(8, 1200, 8) if block_latency_s(subject, channels=width) <= 1e-4]
    assert solve(subject, "channels", {"latency": 1e-4}).value == max(fitting)
    assert fitting == list(range(8, max(fitting) + 8, 8))


def test_group_widths_divide_and_kernels_are_odd() -> None:
    subject = BlockSubject(kind="mbconv", device=RTX4090, channels=24, expansion=5, group_width=12)
    assert subject.allowed("group_width", None) == [w for w in range(1, 121) if 120 % w == 0]
    assert subject.allowed("channels", None)[0] == 12
    assert subject.allowed("kernel", None)[:4] == range(1, 9, 2)
    found = solve(subject, "group_width", {"macs": 3e8})
    macs = [subject.at("group_width", row.value).outcome().macs for row in found.rows]
    assert macs[1] <= 3e8 < macs[2]


def test_the_smallest_of_several_budgets_binds() -> None:
    subject = NetworkSubject(model="resnet50", device=H200)
    alone = {name: solve(subject, "batch", {name: amount}) for name, amount in (("latency", 2e-3), ("memory", 2e8))}
    both = solve(subject, "batch", {"latency": 2e-3, "memory": 2e8})
    assert both.value == min(found.value for found in alone.values())
    (binding,) = both.binding
    assert alone[binding].value == both.value
    assert {held.name: held.largest for held in both.budgets} == {name: found.value for name, found in alone.items()}


@pytest.mark.parametrize(
    ("unknown", "budgets", "step"),
    [
        ("resolution", {"latency": 1e-3}, 32),
        ("batch", {"memory": 1e9}, None),
        ("width", {"macs": 2e10}, None),
        ("depth", {"params": 4e7}, None),
    ],
)
@pytest.mark.parametrize("model", ["convnext_tiny", "efficientnet_b0"])
def test_networks_fit_exactly(model: str, unknown: str, budgets: dict[str, float], step: int | None) -> None:
    found = solve(NetworkSubject(model=model, device=H200, batch=4), unknown, budgets, step=step)
    (name,) = budgets
    fields = {"latency": "latency_s", "memory": "memory_bytes", "macs": "macs", "params": "params"}
    below, here, above = (getattr(row.outcome, fields[name]) for row in found.rows)
    assert below <= here <= budgets[name] < above
    assert [row.fits for row in found.rows] == [True, True, False]
    if step is not None:
        assert [row.value % step for row in found.rows] == [0, 0, 0]


def test_published_members_are_members_of_their_family() -> None:
    for model, choices in (("convnext_small", {"depth": 27}), ("convnext_base", {"depth": 27, "width": 128})):
        assert NetworkSubject(model="convnext_tiny", device=H200, **choices).network().params == build(model).params
    assert NetworkSubject(model="convfirstnet_tiny", device=H200, depth=25).network().macs == build("convfirstnet_small").macs
    assert NetworkSubject(model="resnet50", device=H200, depth=23).network().params == build("resnet101").params
    larger = NetworkSubject(model="efficientnet_b0", device=H200, width=140, depth=180, resolution=380)
    assert larger.network().params == build("efficientnet_b4").params


def test_the_footprint_of_a_chain_is_its_weights_and_its_widest_pair() -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(2, 3, 8, 8))
    for name, width in (("a", 10), ("b", 20), ("c", 5)):
        x = builder.conv(x, width, name=name)
    network = Network(name="chain", graph=builder.graph(), batch=2, resolution=8)
    kernels = predict(network, H200).kernels
    assert footprint_bytes(kernels) == 2 * (3 * 10 + 10 * 20 + 20 * 5) + 2 * 2 * 64 * (10 + 20)


def test_the_footprint_keeps_what_a_shortcut_needs() -> None:
    builder = GraphBuilder()
    x = builder.input(Shape(1, 4, 8, 8))
    y = builder.conv(builder.conv(x, 4, name="a"), 4, name="b")
    builder.residual(y, x)
    network = Network(name="residual", graph=builder.graph(), batch=1, resolution=8)
    assert footprint_bytes(predict(network, H200).kernels) == 2 * 2 * 16 + 2 * 64 * (4 + 4 + 4)


# -- thresholds --------------------------------------------------------------------------------------------------------


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 100)), min_size=1, max_size=8))
def test_the_balance_is_where_half_of_the_time_is_held_by_memory(work: list[tuple[int, int]]) -> None:
    def memory_share(ratio: float) -> float:
        """With bandwidth 1 and peak `ratio`."""
        times = [(ops / ratio, moved) for ops, moved in work]
        return sum(m for a, m in times if m > a) / sum(max(a, m) for a, m in times)

    if not any(ops for ops, _ in work):
        with pytest.raises(QuestionError):
            balance([(float(ops), float(moved)) for ops, moved in work])
        return
    ratio = balance([(float(ops), float(moved)) for ops, moved in work])
    assert memory_share(ratio * (1 - 1e-9)) <= 0.5
    assert memory_share(ratio * (1 + 1e-9)) >= 0.5


@pytest.mark.parametrize("unknown", ["bandwidth", "peak"])
@pytest.mark.parametrize(
    "subject",
    [NetworkSubject(model="convnext_tiny", device=H200, batch=128), BlockSubject(kind="mbconv", device=RTX4090, batch=64)],
    ids=["network", "block"],
)
def test_machines_at_the_threshold_tip_over(subject: Subject, unknown: str) -> None:
    found = compute_bound(subject, unknown)
    more, less = (
        subject.on(what_if(subject.device, [f"{unknown}={found.value / found.now * factor!r}x"])).prediction
        for factor in (1.001, 0.999)
    )
    wanted = ("arithmetic", "memory") if unknown == "bandwidth" else ("memory", "arithmetic")
    assert (more.bottleneck, less.bottleneck) == wanted
    assert len(found.crossings) == len(subject.prediction.kernels)


@pytest.mark.parametrize("unknown", ["bandwidth", "peak"])
def test_the_figure_for_a_latency_gives_it(unknown: str) -> None:
    subject = NetworkSubject(model="resnet50", device=RTX4090, batch=32)
    wanted_s = 0.8 * subject.prediction.latency_s
    found = figure_for_latency(subject, unknown, wanted_s)
    reached = subject.on(what_if(RTX4090, [f"{unknown}={found.value / found.now!r}x"])).prediction.latency_s
    assert reached == pytest.approx(wanted_s, rel=1e-9)
    with pytest.raises(UnreachableError, match="alone takes"):
        figure_for_latency(subject, unknown, 1e-6)
    assert UnreachableError.exit_code == 3


def test_the_figure_for_a_latency_has_kernels_of_its_own() -> None:
    """Planned anew at each bandwidth: the least one is less than what the kernels of the real machine would need."""
    subject = NetworkSubject(model="resnet18", device=RTX4090, batch=32, schedule="auto")
    prediction = subject.prediction
    wanted_s = 2 * prediction.latency_s
    found = figure_for_latency(subject, "bandwidth", wanted_s)

    def planned_s(factor: float) -> float:
        return subject.on(what_if(RTX4090, [f"bandwidth={found.value / found.now * factor!r}x"])).prediction.latency_s

    assert planned_s(1.0) <= wanted_s < planned_s(1 - 1e-8)
    assert planned_s(1.0) == pytest.approx(wanted_s, rel=1e-12)
    same_kernels_s = sum(
        max(float(k.cost.ops) / prediction.peak.ops_per_s, float(k.cost.dram_bytes) / found.value) for k in prediction.kernels
    )
    assert same_kernels_s > wanted_s
    with pytest.raises(UnreachableError, match=r"times as much it takes .* cut and tiled"):
        figure_for_latency(subject, "bandwidth", 1e-6)
    with pytest.raises(QuestionError, match="unbounded"):
        figure_for_latency(subject, "bandwidth", 10.0)


def test_few_machines_are_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels that meet the budget with what others need, over and over, until none need less: each cut but once."""
    tried = []

    def counted(device: DeviceSpec, changes: list[str]) -> DeviceSpec:
        tried.append(changes)
        return what_if(device, changes)

    monkeypatch.setattr("perfmodel.design.thresholds.what_if", counted)
    subject = NetworkSubject(model="resnet34", device=H200, schedule="auto")
    found = figure_for_latency(subject, "bandwidth", 0.5e-3)
    assert found.value < found.now / 40
    assert len(tried) <= 6


def test_equally_fast_plans_do_not_cost_a_plan_for_each_rounding_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner may take a plan that is a billionth slower for the fastest; a root that lies so far on the wrong side is soon left."""
    tried = []

    def counted(device: DeviceSpec, changes: list[str]) -> DeviceSpec:
        tried.append(changes)
        return what_if(device, changes)

    monkeypatch.setattr("perfmodel.design.thresholds.what_if", counted)
    monkeypatch.setattr("perfmodel.design.thresholds._factor_within", lambda *given: (_factor_within(*given) or 0.0) * (1 - 1e-9))
    subject = BlockSubject(kind="mbconv", channels=64, size=56, batch=128, device=H200, schedule="block")
    wanted_s = 2 * subject.prediction.latency_s
    found = figure_for_latency(subject, "bandwidth", wanted_s)
    changed = what_if(H200, [f"bandwidth={found.value / found.now!r}x"])
    assert subject.on(changed).prediction.latency_s == pytest.approx(wanted_s, rel=1e-8)
    assert len(tried) <= 30


AMOUNT = st.just(0.0) | st.floats(1e-6, 10)


@given(
    work=st.lists(st.tuples(AMOUNT, AMOUNT), min_size=1, max_size=6),
    latency_s=st.floats(1e-3, 100),
)
def test_the_least_factor_within_a_latency(work: list[tuple[float, float]], latency_s: float) -> None:
    """Σ max(a / f, b) is the latency there, or less with any factor, or more with any."""

    def at(factor: float) -> float:
        return sum(max(divided / factor, other) for divided, other in work)

    found = _factor_within(work, latency_s)
    floor = sum(other for _, other in work)
    if found is None:
        assert floor >= latency_s * (1 - 1e-9)
    elif sum(divided for divided, _ in work):
        assume(latency_s - floor > 1e-6 * latency_s)
        assert found > 0
        assert at(found) == pytest.approx(latency_s, rel=1e-6)
        assert at(found * 0.999) > at(found)
    else:
        assert found == 0


def test_a_figure_that_no_file_may_have_is_not_sought() -> None:
    """The kernels of the machine as it is would meet the budget with more than ten times its bandwidth, which is no bandwidth."""
    subject = NetworkSubject(model="resnet18", device=H200, schedule="auto")
    arithmetic_s = sum(float(k.cost.ops) for k in subject.prediction.kernels) / subject.prediction.peak.ops_per_s
    with pytest.raises(UnreachableError, match="with 10 times as much it takes"):
        figure_for_latency(subject, "bandwidth", 1.01 * arithmetic_s)


@pytest.mark.parametrize(
    ("unknown", "choices", "said"),
    [
        ("channels", {"kernel": 4}, "with any number of channels, mbconv: the kernel must be an odd number from 1 to 99, not 4"),
        ("channels", {"kernel": 0}, "the kernel must be an odd number"),
        ("channels", {"group_width": 10**9}, "no number of channels of mbconv up to 65536 divides into groups of 1000000000"),
        ("group_width", {"kernel": 4}, "with any group width, mbconv: the kernel must be an odd number"),
        ("batch", {"kernel": 4}, "with batch 1, the smallest there is, mbconv: the kernel must be an odd number"),
        ("expansion", {"group_width": 1000}, "with expansion 1, the smallest there is, conv2d: 64 input channels do not divide"),
    ],
)
def test_a_block_that_cannot_be_says_why(unknown: str, choices: dict[str, int], said: str) -> None:
    with pytest.raises(QuestionError, match=re.escape(said)):
        solve(BlockSubject(kind="mbconv", device=H200, **choices), unknown, {"latency": 1e-3})


@pytest.mark.parametrize(
    ("kind", "group_width", "expansion", "least"),
    [("mbconv", 2000, 2, 1000), ("mbconv", 8, 4, 2), ("convfirst", 8, 4, 8), ("resnext", 5, 1, 10), ("bottleneck", 8, 1, 4)],
)
def test_channels_go_in_steps_of_what_divides_them(kind: str, group_width: int, expansion: int, least: int) -> None:
    values = BlockSubject(kind=kind, device=H200, group_width=group_width, expansion=expansion).allowed("channels", None)
    assert (values[0], values[1] - values[0]) == (least, least)


def test_the_least_local_memory_by_trying() -> None:
    subject = BlockSubject(kind="convfirst", channels=128, size=28, expansion=6, batch=128, device=H200, schedule="block")
    found = compute_bound(subject, "local_memory")
    enough, short = (
        subject.on(what_if(H200, [f"local_memory={bytes_:.0f}"])).prediction for bytes_ in (found.value, found.value - 1)
    )
    assert enough.bottleneck == "arithmetic"
    assert short.bottleneck == "memory"
    with pytest.raises(QuestionError, match="ask with --schedule block"):
        compute_bound(replace(subject, schedule="layer"), "local_memory")
    with pytest.raises(QuestionError, match="stays memory-bound with any local memory"):
        compute_bound(replace(subject, channels=16), "local_memory")


def test_the_group_width_that_crosses_the_waterline() -> None:
    subject = BlockSubject(kind="convfirst", device=H200, batch=128, channels=128)
    found = group_crossing(subject)
    assert found.value is not None
    below = max(width for width in subject.allowed("group_width", None) if width < found.value)
    assert below < found.real <= found.value
    for width, held in ((below, "memory"), (found.value, "arithmetic")):
        prediction = subject.at("group_width", width).prediction
        assert next(time for time in prediction.times if time.kernel.name == found.kernel).bound_by == held
    with pytest.raises(QuestionError, match="no group width"):
        group_crossing(BlockSubject(kind="convnext", device=H200))


def test_where_fusing_pays() -> None:
    subject = BlockSubject(kind="convfirst", channels=256, size=7, device=H200)

    def saved(batch: int) -> float:
        layer, block = (subject.at("batch", batch).under(name).prediction.latency_s for name in ("layer", "block"))
        return 1 - block / layer

    found = fused_pays(subject, 0.2, most=64)
    for edge, pays in ((found.first, True), (found.last, True)):
        if edge is not None:
            assert (saved(edge) >= 0.2) is pays
    if found.last is not None:
        assert saved(found.last + 1) < 0.2
    if found.first is not None and found.first > 1:
        assert saved(found.first - 1) < 0.2
    assert [row[0] for row in found.rows] == sorted(row[0] for row in found.rows)
    assert fused_pays(subject, 0.999, most=4).first is None


def test_stages_under_water() -> None:
    subject = NetworkSubject(model="efficientnet_b0", device=H200, batch=128)
    stages = lift(subject)
    assert [stage.stage for stage in stages][:3] == ["conv_stem", "blocks.0", "blocks.1"]
    assert sum(stage.latency_s for stage in stages) == pytest.approx(subject.prediction.latency_s)
    assert sum(stage.share for stage in stages) == pytest.approx(1)
    for stage in stages:
        if stage.bandwidth_factor is not None and stage.under_water:
            lifted = lift(subject.on(what_if(H200, [f"bandwidth={stage.bandwidth_factor * 1.001!r}x"])))
            assert not next(other for other in lifted if other.stage == stage.stage).under_water
            break
    assert not next(stage for stage in stages if stage.stage == "conv_head").under_water
    assert stage_of("stages.2.downsample.1") == "stages.2"


# -- what cannot be asked ----------------------------------------------------------------------------------------------


def convfirst(**choices: int) -> BlockSubject:
    return BlockSubject(kind="convfirst", device=H200, **choices)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda: solve(convfirst(), "channels", {}), QuestionError, "has no bound"),
        (lambda: solve(convfirst(), "channels", {"latency": -1.0}), QuestionError, "must be positive"),
        (lambda: solve(convfirst(), "channels", {"latency": 1e-9}), TooSmallError, "the smallest, 8, needs"),
        (lambda: solve(convfirst(), "batch", {"params": 1e9}), QuestionError, "the query is unbounded"),
        (lambda: solve(convfirst(), "width", {"macs": 1e9}), UnknownNameError, "choice of convfirst"),
        (lambda: solve(convfirst(), "channels", {"macs": 1e9}, step=12), QuestionError, "steps of 8"),
        (lambda: solve(NetworkSubject(model="vgg16", device=H200), "width", {"macs": 1e9}), PerfmodelError, "no rule to scale"),
        (lambda: compute_bound(convfirst(), "l2"), UnknownNameError, "figure of a machine"),
        (lambda: figure_for_latency(convfirst(), "local_memory", 1.0), QuestionError, "bandwidth or peak"),
        (lambda: fused_pays(convfirst(), 2.0), QuestionError, "between 0 and 1"),
    ],
)
def test_what_cannot_be_asked_is_said(ask: Callable[[], object], error: type[PerfmodelError], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_a_mean_needs_an_image() -> None:
    assert BlockSubject(kind="regnety", device=H200).allowed("size", None)[:3] == range(2, 5)
    assert BlockSubject(kind="basic", device=H200).allowed("size", None)[:3] == range(1, 4)


def test_group_width_ends_by_itself() -> None:
    found = solve(convfirst(channels=24), "group_width", {"latency": 1.0})
    assert found.value == 24
    assert not found.binding
    assert "no budget binds" in found.notes[0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["solve", "channels", "--hardware", "h200", "--latency", "1ms"], 2, "either --model MODEL or --block KIND"),
        (["solve", "channels", "--block", "convfirst", "--hardware", "h200", "--latency", "1"], 2, "as in 0.1ms"),
        (["solve", "channels", "--block", "convfirst", "--hardware", "h200", "--latency", "1ns"], 3, "allow at least that much"),
        (
            ["solve", "bandwidth", "--model", "resnet50", "--hardware", "h200", "--macs", "1G"],
            2,
            "--latency or for --compute-bound",
        ),
        (["solve", "bandwidth", "--model", "resnet50", "--hardware", "h200", "--latency", "1us"], 3, "alone takes"),
        (["solve", "channels", "--block", "convfirst", "--hardware", "h200", "--compute-bound"], 2, "is asked of"),
        (["solve", "channels", "--block", "convfirst", "--hardware", "h200", "--fused-gain", "5%"], 2, "is asked of batch"),
        (["solve", "batch", "--block", "convfirst", "--hardware", "h200", "--fused-gain", "nan"], 2, "as in 5%"),
        (["solve", "peak", "--block", "convfirst", "--hardware", "h200", "--fused-gain", "5%"], 2, "is asked of batch"),
        (["solve", "batch", "--block", "mbconv", "--hardware", "t4", "--fused-gain", "5%", "--macs", "1G"], 2, "one at a time"),
        (
            ["solve", "group-width", "--block", "mbconv", "--hardware", "t4", "--compute-bound", "--macs", "1G"],
            2,
            "one at a time",
        ),
        (
            ["solve", "batch", "--block", "mbconv", "--hardware", "t4", "--macs", "1G", "--batch", "5"],
            2,
            "--batch is what is asked for",
        ),
        (["solve", "batch", "--model", "net.onnx", "--hardware", "h200", "--latency", "1ms"], 2, "plan take imported models"),
        (["lift", "timm:resnet18", "--hardware", "h200"], 2, "plan take imported models"),
        (
            ["solve", "batch", "--model", "resnet18", "--hardware", "h200", "--params", "3M"],
            3,
            "fits 3.00 M parameters: the smallest",
        ),
        (["solve", "batch", "--block", "convfirst", "--hardware", "h200", "--resolution", "9"], 2, "--resolution is for --model"),
        (["solve", "batch", "--model", "resnet50", "--hardware", "h200", "--channels", "9"], 2, "--channels is for --block"),
        (["solve", "kernel", "--block", "mbconv", "--hardware", "h200", "--latency", "1ms", "--step", "4"], 2, "has no step"),
        (["sensitivity", "--block", "convfist", "--hardware", "h200"], 2, "did you mean"),
        (["lift", "resnet5", "--hardware", "h200"], 2, "did you mean"),
    ],
)
def test_bad_questions_end_with_one_sentence(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["design", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["solve", "channels", "--block", "convfirst", "--latency", "0.1ms", "--latex"],
        ["solve", "width", "--block", "mbconv", "--latency", "0.1ms", "--memory", "100MB", "--set", "peak=2x"],
        ["solve", "resolution", "--model", "resnet18", "--latency", "1ms", "--step", "32"],
        ["solve", "bandwidth", "--model", "resnet18", "--batch", "64"],
        ["solve", "peak", "--model", "resnet18", "--latency", "1ms"],
        ["solve", "group-width", "--block", "convfirst", "--batch", "128", "--compute-bound", "--latex"],
        ["solve", "batch", "--block", "convfirst", "--size", "7", "--fused-gain", "5%"],
        ["sensitivity", "--block", "bottleneck", "--channels", "256"],
        ["lift", "resnet18", "--batch", "8"],
    ],
)
def test_every_answer_has_every_format(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for fmt in ("table", "json", "csv", "markdown"):
        assert command(["design", *arguments, "--hardware", "rtx4090", "--format", fmt]) == 0
        printed[fmt] = capsys.readouterr().out
        assert len(printed[fmt]) > 40
    data = json.loads(printed["json"])
    if isinstance(data, dict):
        assert data["hardware"].startswith("rtx4090")
    assert printed["markdown"].count("|") > 10
