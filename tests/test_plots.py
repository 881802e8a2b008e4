"""Plots: what is drawn equals the model, says what it is, can be read, and is written whole."""

from __future__ import annotations

import itertools
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.networks.catalog import entries
from perfmodel.networks.entry import Accuracy
from perfmodel.plots import style
from perfmodel.plots.columns import columns
from perfmodel.plots.gap import LOOKS, GapPoint, family_looks, gap_figure, gap_points, plot_gap
from perfmodel.plots.labels import as_segments, crossed
from perfmodel.plots.marks import marks, without_ops
from perfmodel.plots.roofline import AREA_PT2, plot_roofline, roofline_figure
from perfmodel.plots.save import PlotError, save
from perfmodel.plots.scene import Scene, stages
from perfmodel.plots.waterline import plot_waterline, plot_waterlines, waterline_figure
from perfmodel.prediction import Prediction, predict
from perfmodel.units import percent, seconds, si

EXACT = 1e-12
SVG = "{http://www.w3.org/2000/svg}"


def chain(length: int, *, name: str = "chain", batch: int = 8) -> Network:
    """Alternating 3×3 and 1×1 convolutions with activations: `length` layers."""
    g = GraphBuilder()
    x = g.input(Shape(batch, 3, 64, 64))
    for index in range(length // 2):
        with g.scope(f"stage{index // 20}"):
            x = g.conv(x, 64 if index % 3 else 512, kernel=3 if index % 2 else 1, name=f"conv{index}")
            x = g.activation(x, "relu", name=f"act{index}")
    return Network(name=name, graph=g.graph(), batch=batch, resolution=64)


@pytest.fixture(scope="module")
def resnet() -> Prediction:
    return predict("resnet18", "h200", batch=128)


@pytest.fixture(scope="module")
def eager() -> Prediction:
    return predict("resnet18", "h200", batch=128, schedule="eager")


@pytest.fixture(scope="module")
def long() -> Prediction:
    prediction = predict(chain(300), "h200", schedule="eager")
    assert len(prediction.kernels) == 300
    return prediction


def areas(ax: Axes, name: str) -> float:
    """Area of the polygons with that id, in data units."""
    (found,) = [c for c in ax.collections if isinstance(c, PolyCollection) and str(c.get_gid()).startswith(name)]
    total = 0.0
    for path in found.get_paths():
        x, y = path.vertices[:, 0], path.vertices[:, 1]
        total += abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2
    return total


def tips(ax: Axes) -> list[Rectangle]:
    return [p for p in ax.patches if isinstance(p, Rectangle) and str(p.get_gid()).startswith(style.TIP)]


def overlaps(ax: Axes, ids: Iterable[str]) -> list[tuple[str, str]]:
    style.settle(ax)
    wanted = set(ids)
    texts = [t for t in ax.texts if t.get_gid() in wanted]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    return [(a, b) for (a, box), (b, other) in itertools.combinations(boxes, 2) if box.overlaps(other)]


# -- the waterline is the model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["waterline", "bound"])
@pytest.mark.parametrize("schedule", ["eager", "pointwise", "layer"])
@pytest.mark.parametrize("model", ["resnet18", "convnext_atto", "efficientnet_b0", "vgg16"])
def test_columns_and_water_are_latency_times_peak(model: str, schedule: str, tier: str) -> None:
    prediction = predict(model, "h200", batch=16, schedule=schedule, tier=tier)
    work = columns(prediction)
    peak, level = prediction.peak.ops_per_s, prediction.op_byte_ratio
    ops, water = math.fsum(c.ops for c in work), math.fsum(c.water_ops for c in work)
    assert len(work) == len(prediction.kernels)
    assert (ops + water) / peak == pytest.approx(prediction.waterline_latency_s, rel=EXACT)
    assert ops / (ops + water) == pytest.approx(prediction.ideal_latency_s / prediction.waterline_latency_s, rel=EXACT)
    assert ops == pytest.approx(float(prediction.cost.ops), rel=EXACT)
    assert work[-1].x1_bytes == pytest.approx(float(prediction.cost.dram_bytes), rel=EXACT)
    for left, right in itertools.pairwise(work):
        assert right.x0_bytes == left.x1_bytes
    for column in work:
        assert column.width_bytes * column.height_ops_per_byte == pytest.approx(column.ops, rel=EXACT)
        assert (column.height_ops_per_byte < level) == (column.bound == "memory")
        assert (column.water_ops > 0) == (column.bound == "memory")


def test_the_drawing_has_the_areas_of_the_model(resnet: Prediction) -> None:
    ax = plot_waterline(resnet, cut=None)
    work = columns(resnet)
    drawn = {bound: areas(ax, f"columns-{bound}") for bound in style.BOUND_LOOKS}
    for bound, area in drawn.items():
        assert area == pytest.approx(sum(c.ops for c in work if c.bound == bound), rel=1e-9)
    water = areas(ax, "water")
    assert water == pytest.approx(sum(c.water_ops for c in work), rel=1e-9)
    assert (sum(drawn.values()) + water) / resnet.peak.ops_per_s == pytest.approx(resnet.waterline_latency_s, rel=1e-9)


def test_one_area_per_kernel_carries_its_figures(resnet: Prediction) -> None:
    found = tips(plot_waterline(resnet))
    assert len(found) == len(resnet.kernels)
    for area, column in zip(found, columns(resnet), strict=True):
        assert area.get_x() == column.x0_bytes
        assert area.get_width() == column.width_bytes
        assert column.kernel.name in str(area.get_label())


def test_the_line_lies_at_the_op_byte_ratio(resnet: Prediction) -> None:
    (line,) = [line for line in plot_waterline(resnet).lines if str(line.get_gid()).startswith("waterline")]
    assert list(np.asarray(line.get_ydata())) == [resnet.op_byte_ratio] * 2
    assert resnet.op_byte_ratio == pytest.approx(989.5 / 4.8)


def test_cut_columns_are_counted_and_their_hidden_ops_named() -> None:
    prediction = predict("vgg16", "h200", batch=128)
    ax = plot_waterline(prediction, cut=3)
    limit = 3 * prediction.op_byte_ratio
    work = columns(prediction)
    high = [c for c in work if c.height_ops_per_byte > limit]
    hidden = sum((c.height_ops_per_byte - limit) * c.width_bytes for c in high)
    drawn = sum(areas(ax, f"columns-{bound}") for bound in style.BOUND_LOOKS)
    assert drawn + hidden == pytest.approx(float(prediction.cost.ops), rel=1e-9)
    said = style.caption_text(ax)
    assert f"{len(high)} columns cut at" in said
    assert f"{100 * hidden / float(prediction.cost.ops):.1f} % of the ops lie above the cut" in said
    assert "cut at" not in style.caption_text(plot_waterline(prediction, cut=None))


@pytest.mark.parametrize("cut", [0.5, 0, -1, float("nan")])
def test_a_cut_below_the_line_is_refused(resnet: Prediction, cut: float) -> None:
    with pytest.raises(PerfmodelError, match="1 or more"):
        plot_waterline(resnet, cut=cut)


def test_a_network_without_matrix_operations_is_all_water() -> None:
    g = GraphBuilder()
    x = g.input(Shape(1, 8, 32, 32))
    g.activation(x, "relu", name="act")
    prediction = predict(Network(name="dry", graph=g.graph(), batch=1, resolution=32), "h200")
    ax = plot_waterline(prediction)
    assert areas(ax, "water") / prediction.peak.ops_per_s == pytest.approx(prediction.waterline_latency_s, rel=1e-9)
    assert "1 kernel without matrix operations" in style.caption_text(ax)
    assert plot_roofline(prediction).get_title(loc="left")


def test_panels_share_their_axes(resnet: Prediction, eager: Prediction) -> None:
    above, below = plot_waterlines([eager, resnet]).axes
    assert above.get_xlim() == below.get_xlim()
    assert above.get_ylim() == below.get_ylim()
    assert above.get_xlim()[1] == pytest.approx(float(eager.cost.dram_bytes))
    assert "schedule eager" in above.get_title(loc="left")
    assert "schedule layer" in below.get_title(loc="left")
    assert "schedule" not in style.caption_text(below)
    with pytest.raises(PerfmodelError, match="nothing to plot"):
        plot_waterlines([])


@pytest.mark.parametrize("model", ["convnext_tiny", "efficientnet_b0", "convfirstnet_tiny"])
def test_every_panel_names_its_slowest_kernels(model: str) -> None:
    shown = [predict(model, "h200", batch=128, schedule=name) for name in ("eager", "pointwise", "layer", "block")]
    for ax, prediction in zip(plot_waterlines(shown).axes, shown, strict=True):
        scene = Scene(prediction, 3)
        names = [text for text in ax.texts if text.get_gid() == "name"]
        assert 3 <= len(names) <= 8
        for column in scene.longest[:3]:
            assert any(text.get_text().startswith(f"{column.kernel.name}  ") for text in names)
        assert not overlaps(ax, ["name", "cut-value", "stage-name", "level"])
        line = ax.transData.transform((0.0, scene.level))[1]
        assert all(text.get_window_extent().y0 > line for text in names)
        leaders = next(c for c in ax.collections if str(c.get_gid()).startswith("leaders"))
        for leader in leaders.get_segments():
            at = ax.transData.transform(leader)
            assert not any(crossed(text.get_window_extent(), as_segments(at)) for text in names)
        for text in names:  # above all columns that it passes over
            x0, x1 = ax.transData.inverted().transform(text.get_window_extent())[:, 0]
            under = [scene.height(c) for c in scene.columns if c.x0_bytes < x1 and c.x1_bytes > x0]
            bottom = text.get_window_extent().y0
            assert all(ax.transData.transform((0.0, height))[1] <= bottom for height in under)


def test_no_names_where_none_are_wanted(resnet: Prediction) -> None:
    for ax in (plot_waterline(resnet, labels=0), *plot_waterlines([resnet, resnet], labels=0).axes):
        assert not [text for text in ax.texts if text.get_gid() == "name"]
    assert not columns(replace(resnet, times=()))
    assert plot_waterline(replace(resnet, times=())).get_title(loc="left")


def test_stage_names_are_whole_or_absent() -> None:
    shown = [predict("convfirstnet_tiny", "h200", batch=128, schedule=name) for name in ("layer", "block")]
    for ax, prediction in zip(plot_waterlines(shown).axes, shown, strict=True):
        known = {name for name, _ in stages(columns(prediction))}
        assert {text.get_text() for text in ax.texts if text.get_gid() == "stage-name"} <= known


def test_what_panels_hide_is_said_once() -> None:
    vgg = predict("vgg16", "h200", batch=128)
    hidden = Scene(vgg, 3).hidden
    assert f": {100 * hidden:.1f} % of the ops" in style.caption_text(plot_waterlines([vgg, vgg]).axes[-1])
    eager = predict("convfirstnet_tiny", "h200", batch=128, schedule="eager")
    fused = predict("convfirstnet_tiny", "h200", batch=128, schedule="block")
    said = style.caption_text(plot_waterlines([eager, eager, fused]).axes[-1])
    assert f": 0 to {100 * Scene(fused, 3).hidden:.1f} % of the ops" in said


def test_halos_computed_again_are_said() -> None:
    fused, layered = (predict("convfirstnet_tiny", "t4", batch=16, schedule=name, tier="bound") for name in ("block", "layer"))
    assert fused.recomputed_ops > 0
    said = f"{percent(fused.recomputed_ops / float(fused.cost.ops))} of the ops are halos computed again"
    assert said in style.caption_text(plot_waterline(fused))
    assert said in style.caption_text(plot_roofline(fused))
    both = style.caption_text(plot_waterlines([layered, fused]).axes[-1])
    assert f"schedule block: {said}" in both
    assert f"schedule block: tier bound predicts {si(fused.latency_s, 's')}" in both
    assert "schedule layer: 0" not in both
    assert f"schedule block: {said}" in style.caption_text(plot_roofline([layered, fused]))
    for plot in (plot_waterline, plot_roofline):
        assert "halos" not in style.caption_text(plot(layered))


def test_stages_partition_the_kernels(resnet: Prediction, long: Prediction) -> None:
    for prediction in (resnet, long, predict("convnext_atto", "h200"), predict("vgg16", "h200")):
        work = columns(prediction)
        assert [c for _, run in stages(work) for c in run] == list(work)
    assert [name for name, _ in stages(columns(resnet)) if name.startswith("layer")] == ["layer1", "layer2", "layer3", "layer4"]
    assert {"stages.0", "stages.3"} <= {name for name, _ in stages(columns(predict("convnext_atto", "h200")))}


# -- the roofline ------------------------------------------------------------------------------------------------------


def test_markers_stand_at_the_models_rates_and_share_the_time(eager: Prediction) -> None:
    found = marks(eager)
    dry = without_ops([eager])
    assert sum(m.latency_s for m in found) / eager.latency_s + sum(row.share for row in dry) == pytest.approx(1, rel=EXACT)
    assert sum(m.kernels for m in found) + sum(k.cost.ops == 0 for k in eager.kernels) == len(eager.kernels)
    ax = plot_roofline(eager)
    for collection in [c for c in ax.collections if isinstance(c, PathCollection)]:
        bound = "memory" if "memory" in str(collection.get_gid()) else "arithmetic"
        held = [m for m in found if m.bound == bound]
        at = np.asarray(collection.get_offsets())
        np.testing.assert_allclose(at[:, 0], [m.intensity for m in held])
        np.testing.assert_allclose(at[:, 1], [m.rate_ops_per_s for m in held])
        bandwidth = eager.device.memory.dram_bandwidth_bytes_per_s
        roof = np.minimum(eager.peak.ops_per_s, at[:, 0] * bandwidth)
        np.testing.assert_allclose(at[:, 1], roof, rtol=1e-9)
        to_area = 1 if bound == "arithmetic" else math.pi / 4  # sizes are of the square around the marker
        np.testing.assert_allclose(
            np.asarray(collection.get_sizes()) * to_area, [AREA_PT2 * m.latency_s / eager.latency_s for m in held]
        )


def test_the_roofline_draws_the_waterline_whatever_the_tier(resnet: Prediction) -> None:
    bound = predict("resnet18", "h200", batch=128, tier="bound")
    assert bound.latency_s < bound.waterline_latency_s
    drawn, other = plot_roofline(resnet), plot_roofline(bound)
    for left, right in zip(drawn.collections, other.collections, strict=True):
        np.testing.assert_array_equal(np.asarray(left.get_offsets()), np.asarray(right.get_offsets()))
    texts = [[text.get_text() for text in ax.texts if text.get_gid() != "caption"] for ax in (drawn, other)]
    assert texts[0] == texts[1]
    assert drawn.get_title(loc="left") == other.get_title(loc="left")
    assert style.description(drawn) == style.description(other)
    said = style.caption_text(other)
    assert f"tier waterline (tier bound predicts {si(bound.latency_s, 's')})" in said
    assert "tier bound" not in style.caption_text(drawn)


@pytest.mark.parametrize("tier", ["waterline", "bound"])
@pytest.mark.parametrize("model", ["resnet18", "convnext_tiny", "efficientnet_b0"])
def test_one_roofline_is_never_longer_than_the_sum(model: str, tier: str) -> None:
    prediction = predict(model, "h200", batch=128, tier=tier)
    subtitle = next(text.get_text() for text in plot_roofline(prediction).texts if text.get_gid() == "subtitle")
    whole, alone = (seconds(each) for each in re.findall(r"[0-9.]+ [µm]?s\b", subtitle))
    assert whole == pytest.approx(prediction.waterline_latency_s, rel=0.01)
    assert alone <= whole


def test_the_network_stands_twice(resnet: Prediction) -> None:
    ax = plot_roofline(resnet)
    points = {
        str(line.get_gid()).split("-")[0]: line for line in ax.lines if str(line.get_gid()).startswith(("roofline", "sequence"))
    }
    ops = float(resnet.cost.ops)
    assert points["roofline"].get_ydata()[0] == pytest.approx(ops / resnet.roofline_latency_s)  # type: ignore[index]
    assert points["sequence"].get_ydata()[0] == pytest.approx(ops / resnet.latency_s)  # type: ignore[index]
    assert points["sequence"].get_ydata()[0] < points["roofline"].get_ydata()[0]  # type: ignore[index]


def test_kernels_without_matrix_operations_are_counted_at_the_edge(eager: Prediction) -> None:
    dry = [time for time in eager.times if time.kernel.cost.ops == 0]
    share = sum(time.latency_s for time in dry) / eager.latency_s
    texts = [text.get_text() for text in plot_roofline(eager).texts]
    assert f"no matrix operations: {len(dry)} kernels, {100 * share:.1f} % of the time" in texts


def test_rooflines_of_two_machines() -> None:
    ax = plot_roofline([predict("resnet18", device, batch=32) for device in ("h200", "rtx4090")])
    assert len([line for line in ax.lines if str(line.get_gid()).startswith("roof-")]) == 2
    assert not overlaps(ax, ["name", "no-ops"])
    with pytest.raises(PerfmodelError, match="nothing to plot"):
        plot_roofline([])


# -- the efficiency gap ------------------------------------------------------------------------------------------------


def test_networks_without_accuracy_are_skipped_and_named() -> None:
    points, skipped = gap_points(["resnet18", "convfirstnet_atto"], "h200", batch=32)
    assert [point.name for point in points] == ["resnet18"]
    assert [each.name for each in skipped] == ["convfirstnet_atto"]
    ax = plot_gap(points, skipped)
    assert "no published accuracy: convfirstnet_atto" in style.caption_text(ax)
    assert "convfirstnet_atto" in style.description(ax)
    with pytest.raises(PerfmodelError, match="convfirstnet_atto"):
        plot_gap([], skipped)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["convfirstnet_atto"], "nothing to plot: convfirstnet_atto has no published accuracy;"),
        (["convfirstnet_atto", "convfirstnet_tiny"], "none of convfirstnet_atto, convfirstnet_tiny has a published accuracy;"),
        ([], "nothing to plot; name networks with a published accuracy"),
    ],
)
def test_nothing_to_plot_says_why(names: list[str], said: str) -> None:
    with pytest.raises(PerfmodelError, match=re.escape(said)):
        plot_gap(*gap_points(names, "h200"))


def test_the_order_of_networks_does_not_matter(tmp_path: Path) -> None:
    names = ["resnet", "convnext", "efficientnet", "regnety", "mobilenetv3"]
    drawn = [plot_gap(*gap_points(given, "h200", batch=128)) for given in (names, names[::-1])]
    first, second = (save(ax, tmp_path / f"{index}.svg").read_bytes() for index, ax in enumerate(drawn))
    assert first == second
    named = " ".join(text.get_text() for text in drawn[0].texts if text.get_gid() == "name")
    for name in ("mobilenetv3_large_100", "efficientnet_b7", "convnext_tiny", "resnet18", "resnet50", "resnet152"):
        assert name in named


def test_families_keep_their_looks() -> None:
    families = list(dict.fromkeys(entry.family for entry in entries().values()))
    assert set(LOOKS) == set(families)
    assert len(set(LOOKS.values())) == len(LOOKS)
    mine = ["mine", "yours", "theirs"]
    looks = family_looks([*families, *mine])
    assert len(set(looks.values())) == len(looks)
    assert looks == family_looks([*mine[::-1], *families])
    assert all(family_looks([name])[name] == looks[name] for name in families)


@pytest.mark.parametrize("width", [5, 7, 10, 14])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8])
def test_no_family_stands_alone_in_its_row(count: int, width: float) -> None:
    ((point,), _) = gap_points(["resnet18"], "h200", batch=32)
    points = [replace(point, family=f"family {index}", name=f"n{index}", top1_percent=70.0 + index) for index in range(count)]
    ax = Figure(figsize=(width, 6), layout="constrained").add_subplot()
    plot_gap(points, ax=ax)
    style.settle(ax)
    legend = ax.get_legend()
    assert legend is not None
    rows: dict[int, list[str]] = {}
    for text in legend.get_texts():
        rows.setdefault(round(text.get_window_extent().y0 / 4), []).append(text.get_text())
    assert len(rows) < count + 2
    for row in rows.values():
        assert len(row) > 1 or not row[0].startswith("family"), rows


def test_factors_cover_no_marker_and_no_curve() -> None:
    ax = plot_gap(*gap_points(["resnet", "convnext", "efficientnet", "regnety"], "h200", batch=128))
    style.settle(ax)
    factors = [text.get_window_extent() for text in ax.texts if text.get_gid() == "factor"]
    assert len(factors) > 5
    for line in ax.lines:
        at = ax.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
        for box in factors:
            assert not any(box.contains(x, y) for x, y in at)
            if line.get_linestyle() != "None" and not str(line.get_gid()).startswith("gap-"):
                assert not crossed(box, as_segments(at))


def test_a_family_stands_for_its_members() -> None:
    points, skipped = gap_points(["mobileone"], "h200", batch=32)
    assert [point.name for point in points] == [entry.name for entry in entries().values() if entry.family == "mobileone"]
    assert not skipped
    with pytest.raises(UnknownNameError):
        gap_points(["mobilefour"], "h200")


def test_a_gap_is_one_over_efficiency_per_image() -> None:
    ((point,), _) = gap_points(["efficientnet_b2"], "h200", batch=32, prefer="aa_in1k")
    prediction = predict("efficientnet_b2", "h200", batch=32, resolution=point.resolution)
    assert point.weights == "tf_efficientnet_b2.aa_in1k"
    assert point.resolution == 260  # of the accuracy, not the network's own 288
    assert point.gap == pytest.approx(1 / prediction.efficiency, rel=EXACT)
    assert point.latency_s == pytest.approx(prediction.latency_s / 32, rel=EXACT)
    assert point.ideal_latency_s == pytest.approx(prediction.ideal_latency_s / 32, rel=EXACT)
    assert GapPoint.of(prediction, next(a for a in entries()["efficientnet_b2"].accuracy if a.weights == point.weights)) == point


def test_the_preferred_weights_are_taken_where_there_are_some() -> None:
    points, _ = gap_points(["resnet50", "convnext_atto"], "h200", batch=32, prefer="a1_in1k")
    assert [point.weights for point in points] == ["resnet50.a1_in1k", "convnext_atto.d2_in1k"]
    said = style.caption_text(plot_gap(points))
    assert all(point.recipe in said.replace("\u00a0", " ") for point in points)
    assert "recipes differ" in said


def test_an_accuracy_of_another_image_size_is_refused(resnet: Prediction) -> None:
    accuracy = Accuracy(top1_percent=70.0, resolution=288, weights="w", recipe="r", source="s")
    with pytest.raises(PerfmodelError, match="resolution 288"):
        GapPoint.of(resnet, accuracy)
    with pytest.raises(PerfmodelError, match="resolution 288"):
        plot_gap([(resnet, accuracy)])
    assert plot_gap([(resnet, replace(accuracy, resolution=224))]).get_title(loc="left") == "Efficiency gap"


def test_segments_span_ideal_to_attainable() -> None:
    points, _ = gap_points(["resnet"], "h200", batch=32)
    ax = plot_gap(points)
    segments = {str(line.get_gid()).split("-")[1]: line for line in ax.lines if str(line.get_gid()).startswith("gap-")}
    assert set(segments) == {point.name for point in points}
    for point in points:
        assert list(np.asarray(segments[point.name].get_xdata())) == [point.ideal_latency_s, point.latency_s]
        assert list(np.asarray(segments[point.name].get_ydata())) == [point.top1_percent] * 2
    factors = [text.get_text() for text in ax.texts if text.get_gid() == "factor"]
    assert factors
    assert set(factors) <= {f"×{point.gap:.1f}" for point in points}


# -- legibility --------------------------------------------------------------------------------------------------------


def test_no_label_covers_another_with_300_kernels(long: Prediction) -> None:
    ax = plot_waterline(long)
    assert len(tips(ax)) == 300
    assert [text for text in ax.texts if text.get_gid() == "name"]
    assert not overlaps(ax, ["name", "cut-value", "stage-name", "caption"])


@pytest.mark.parametrize("schedule", ["eager", "layer"])
@pytest.mark.parametrize("model", ["resnet50", "convnext_tiny", "vgg16", "efficientnet_b0"])
def test_labels_are_there_and_apart(model: str, schedule: str) -> None:
    ax = plot_waterline(predict(model, "h200", batch=1, schedule=schedule))
    names = [text for text in ax.texts if text.get_gid() == "name"]
    assert 3 <= len(names) <= 8
    assert not overlaps(ax, ["name", "cut-value", "stage-name"])
    inside = ax.get_window_extent()
    for text in names:
        box = text.get_window_extent()
        assert box.y0 >= inside.y0 - 1
        assert box.y1 <= inside.y1 + 1


def test_gap_labels_are_apart() -> None:
    points, skipped = gap_points(list(entries()), "h200", batch=32)
    assert len(points) > 30
    assert not overlaps(plot_gap(points, skipped), ["name", "factor"])


@pytest.mark.parametrize("width", [4.5, 7, 11])
def test_titles_clear_the_legend_at_any_width(resnet: Prediction, width: float) -> None:
    for draw in (plot_waterline, plot_roofline):
        figure = Figure(figsize=(width, 5), layout="constrained")
        ax = figure.add_subplot()
        draw(resnet, ax)
        style.settle(ax)
        legend = ax.get_legend()
        assert legend is not None
        subtitle = next(text for text in ax.texts if text.get_gid() == "subtitle")
        assert not legend.get_window_extent().overlaps(subtitle.get_window_extent())
        assert legend.get_window_extent().y0 >= ax.get_window_extent().y1 - 1


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_looks_differ_in_grey_and_without_colour() -> None:
    looks = [*style.BOUND_LOOKS.values(), style.WATER]
    for left, right in itertools.combinations(looks, 2):
        light, dark = sorted((_luminance(left.color), _luminance(right.color)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 1.7
        assert left.hatch != right.hatch
    assert len({look.marker for look in style.BOUND_LOOKS.values()}) == 2


def test_a_bound_has_one_colour_in_all_plots(resnet: Prediction) -> None:
    waterline, roofline = plot_waterline(resnet), plot_roofline(resnet)
    for bound, look in style.BOUND_LOOKS.items():
        (shape,) = [c for c in waterline.collections if str(c.get_gid()).startswith(f"columns-{bound}")]
        (points,) = [c for c in roofline.collections if str(c.get_gid()).startswith(f"kernels-{bound}")]
        assert to_hex(shape.get_facecolor()[0]) == to_hex(points.get_facecolor()[0]) == look.color.lower()


# -- words -------------------------------------------------------------------------------------------------------------


def test_bounds_are_called_as_the_model_calls_them(resnet: Prediction) -> None:
    for ax in (plot_waterline(resnet), plot_roofline(resnet)):
        legend = ax.get_legend()
        assert legend is not None
        words = " ".join(
            [*(text.get_text() for text in (*ax.texts, *legend.get_texts())), *(str(t.get_label()) for t in tips(ax))]
        )
        assert "compute-bound" in words
        assert "memory-bound" in words
        assert "arithmetic-bound" not in words


def test_captions_say_what_the_plot_holds_for() -> None:
    prediction = predict("resnet18", "h200", batch=64, resolution=192, autocast="bf16", schedule="eager", layout="nchw")
    points, _ = gap_points(["resnet18"], "h200", batch=64, autocast="bf16", schedule="eager", layout="nchw")
    said = [style.caption_text(plot_waterline(prediction)), style.caption_text(plot_roofline(prediction))]
    for caption in [*said, style.caption_text(plot_gap(points))]:
        for words in (prediction.device.name, "batch 64", "autocast bf16", "layout nchw", "schedule eager", "tier waterline"):
            assert words in caption
    assert all("192 × 192 pixels" in caption for caption in said)


def test_the_waterline_of_another_tier_says_so() -> None:
    prediction = predict("resnet18", "h200", batch=64, tier="bound")
    said = style.caption_text(plot_waterline(prediction))
    assert "tier waterline" in said
    assert "tier bound predicts" in said


def test_titles_give_network_and_latency(resnet: Prediction) -> None:
    ax = plot_waterline(resnet)
    assert ax.get_title(loc="left") == "resnet18: 569 µs at batch 128"
    assert f"attainable efficiency {100 * resnet.efficiency:.1f} %" in style.description(ax)


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    network = chain(6, name="$x^{2 <script>&\x00")
    prediction = predict(network, "h200", schedule="eager")
    for index, plot in enumerate((plot_waterline(prediction), plot_roofline([prediction, prediction]))):
        page = save(plot, tmp_path / f"{index}.html").read_text(encoding="utf-8")
        assert "<script" not in page
        assert ET.parse(save(plot, tmp_path / f"{index}.svg")).getroot().tag == f"{SVG}svg"


# -- axes and files ----------------------------------------------------------------------------------------------------


def test_plots_draw_on_axes_that_are_given(resnet: Prediction) -> None:
    figure = Figure(figsize=(12, 9), layout="constrained")
    panels = list(figure.subplots(2, 2).flat)
    points, _ = gap_points(["resnet18", "resnet34"], "h200", batch=32)
    assert plot_waterline(resnet, panels[0]) is panels[0]
    assert plot_waterline(resnet, ax=panels[1]) is panels[1]
    assert plot_roofline(resnet, panels[2]) is panels[2]
    assert plot_gap(points, ax=panels[3]) is panels[3]
    assert resnet.plot_waterline(Figure().add_subplot()).get_title(loc="left")
    subfigure = Figure(figsize=(10, 5)).subfigures(1, 2)[0]
    assert plot_waterline(resnet, subfigure.add_subplot()).get_title(loc="left")
    ids = [artist.get_gid() for artist in figure.findobj(lambda a: str(a.get_gid()).startswith(style.TIP))]
    assert len(ids) == len(set(ids)) == 2 * len(resnet.kernels)


def test_settings_of_the_caller_are_left_alone(resnet: Prediction, tmp_path: Path) -> None:
    with mpl.rc_context({"font.size": 3, "axes.facecolor": "black"}):
        before = dict(mpl.rcParams)
        save(plot_waterline(resnet), tmp_path / "a.svg")
        assert dict(mpl.rcParams) == before
    save(plot_waterline(resnet), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_figures_for_the_command_line(resnet: Prediction, eager: Prediction) -> None:
    points, skipped = gap_points(["resnet18"], "h200", batch=32)
    assert len(waterline_figure(resnet).axes) == 1
    assert len(waterline_figure(eager, resnet).axes) == 2
    assert len(roofline_figure(resnet).axes) == 1
    assert len(gap_figure(points, skipped).axes) == 1


def test_every_format_is_written(resnet: Prediction, tmp_path: Path) -> None:
    ax = plot_waterline(resnet)
    files = {ending: save(ax, tmp_path / f"plot{ending}") for ending in (".svg", ".png", ".pdf", ".html", ".SVG")}
    root = ET.parse(files[".svg"]).getroot()
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == ax.get_title(loc="left")
    assert root.findtext(f"{SVG}desc") == style.description(ax)
    shown = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith(style.TIP)]
    assert len(shown) == len(resnet.kernels)
    assert all(g.findtext(f"{SVG}title") and g.get("pointer-events") == "all" for g in shown)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert files[".png"].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert files[".pdf"].read_bytes().startswith(b"%PDF-")
    assert b"CreationDate" not in files[".pdf"].read_bytes()
    page = files[".html"].read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "<svg" in page
    assert ax.get_title(loc="left") in page
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|url\(\s*["']?https?:|@import|<link|<script""", page)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files.values())


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "html"])
def test_the_same_plot_gives_the_same_bytes(resnet: Prediction, tmp_path: Path, ending: str) -> None:
    first, second = (save(plot_waterline(resnet), tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("name", ["plot.gif", "plot", "plot.svg.exe", ".svg"])
def test_unknown_endings_are_refused(resnet: Prediction, tmp_path: Path, name: str) -> None:
    with pytest.raises(PlotError, match=r"\.svg, \.png, \.pdf, \.html"):
        save(plot_waterline(resnet), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_named(resnet: Prediction, tmp_path: Path) -> None:
    ax = plot_waterline(resnet)
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(PlotError, match="it is a folder"):
        save(ax, tmp_path / "folder.svg")
    with pytest.raises(PlotError, match="there is no folder"):
        save(ax, tmp_path / "missing" / "plot.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    resnet: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "plot.svg"
    target.write_text("before")

    def full(self: Path, other: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PlotError, match="No space left on device"):
        save(plot_waterline(resnet), target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_written_through(resnet: Prediction, tmp_path: Path) -> None:
    real, link = tmp_path / "real.svg", tmp_path / "link.svg"
    real.write_text("before")
    link.symlink_to(real)
    save(plot_waterline(resnet), os.fspath(link))
    assert link.is_symlink()
    assert ET.parse(real).getroot().tag == f"{SVG}svg"


def test_scene_totals_are_the_predictions(resnet: Prediction) -> None:
    scene = Scene(resnet, None)
    assert scene.latency_s == pytest.approx(resnet.waterline_latency_s, rel=EXACT)
    assert scene.efficiency == pytest.approx(resnet.efficiency, rel=EXACT)
