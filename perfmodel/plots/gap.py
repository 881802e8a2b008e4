"""The efficiency-gap plot: accuracy against latency per image, ideal and attainable, family by family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import Final, Literal, Self

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from perfmodel.errors import PerfmodelError
from perfmodel.networks.catalog import entries, find
from perfmodel.networks.entry import Accuracy, NetworkEntry
from perfmodel.plots import style
from perfmodel.plots.labels import Labels
from perfmodel.prediction import Prediction, predict
from perfmodel.schedule import Partition
from perfmodel.units import si

_MARKER_PT: Final = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GapPoint:
    """One network: how accurate it is, and how long it takes, ideally and by the model. Latencies are per image."""

    family: str
    name: str
    top1_percent: float
    recipe: str
    """How the weights with that accuracy were trained."""
    weights: str
    source: str
    resolution: int
    """Of the images, for the accuracy and for the latencies alike."""
    ideal_latency_s: float
    """ops / peak."""
    latency_s: float
    conditions: str
    """Machine, batch, type, layout, schedule and tier, in words."""

    @property
    def gap(self) -> float:
        """The efficiency gap: latency / ideal latency = 1 / efficiency."""
        return self.latency_s / self.ideal_latency_s

    @classmethod
    def of(cls, prediction: Prediction, accuracy: Accuracy, *, family: str | None = None) -> Self:
        """From a prediction and a published accuracy at the same image size; `family` is the catalogue's if not given.

        Raises PerfmodelError where the sizes differ, since that accuracy does not belong to that latency, and for a network
        without matrix operations.
        """
        network = prediction.network
        if accuracy.resolution != network.resolution:
            raise PerfmodelError(
                f"{accuracy.weights} was measured at {accuracy.resolution} pixels, but {network.name} is predicted at"
                f" {network.resolution}; predict it at resolution {accuracy.resolution}"
            )
        if prediction.ideal_latency_s == 0:
            raise PerfmodelError(f"{network.name} has no matrix operations, so it has no ideal latency to compare with")
        said = style.conditions(prediction)
        batch = float(network.batch)
        return cls(
            family=find(network.name).family if family is None else family,
            name=network.name,
            top1_percent=accuracy.top1_percent,
            recipe=accuracy.recipe,
            weights=accuracy.weights,
            source=accuracy.source,
            resolution=accuracy.resolution,
            ideal_latency_s=prediction.ideal_latency_s / batch,
            latency_s=prediction.latency_s / batch,
            conditions=style.sentence([words for topic, words in said.items() if topic not in ("network", "resolution")]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A network that was asked for and is not in the plot."""

    name: str
    reason: str


def gap_points(
    names: Iterable[str],
    hardware: str | PathLike[str],
    *,
    batch: int = 128,
    dtype: str | None = None,
    autocast: str | None = None,
    layout: str = "nhwc",
    schedule: str | Partition = "layer",
    tier: str = "waterline",
    prefer: str = "",
) -> tuple[tuple[GapPoint, ...], tuple[Skipped, ...]]:
    """The points of an efficiency-gap plot, and the networks skipped because no accuracy of theirs is published.

    `names` are networks or families of the catalogue. Each is predicted at the image size that its accuracy was measured at. Of
    several accuracies the first is taken whose weights or recipe contain `prefer` ("a1_in1k"), or else the first.
    """
    points: list[GapPoint] = []
    skipped: list[Skipped] = []
    for entry in _expand(names):
        if not entry.accuracy:
            skipped.append(Skipped(name=entry.name, reason="no published accuracy"))
            continue
        accuracy = _choose(entry.accuracy, prefer)
        prediction = predict(
            entry.name,
            hardware,
            batch=batch,
            resolution=accuracy.resolution,
            dtype=dtype,
            autocast=autocast,
            layout=layout,
            schedule=schedule,
            tier=tier,
        )
        points.append(GapPoint.of(prediction, accuracy, family=entry.family))
    return tuple(points), tuple(skipped)


def _expand(names: Iterable[str]) -> list[NetworkEntry]:
    """Entries by name; a family's name stands for all its members."""
    found: dict[str, NetworkEntry] = {}
    for name in names:
        members = [entry for entry in entries().values() if entry.family == name.lower()]
        for entry in members or [find(name)]:
            found[entry.name] = entry
    return list(found.values())


def _choose(accuracies: Sequence[Accuracy], prefer: str) -> Accuracy:
    wanted = prefer.lower()
    return next((a for a in accuracies if wanted in a.weights.lower() or wanted in a.recipe.lower()), accuracies[0])


def plot_gap(
    rows: Sequence[GapPoint] | Sequence[tuple[Prediction, Accuracy]], skipped: Sequence[Skipped] = (), ax: Axes | None = None
) -> Axes:
    """Draw the efficiency gap of each network, on `ax` or on a new figure's axes.

    Per family two curves of top-1 accuracy against latency per image: ideal (ops / peak; hollow, dashed) and attainable
    (predicted; filled, solid). The horizontal distance on the logarithmic axis is the efficiency gap, a factor 1/efficiency.
    Curves are bold between networks trained by one recipe and faint between recipes; the caption names the recipes, and what
    was `skipped`. Raises PerfmodelError where nothing is left to plot.
    """
    points = [row if isinstance(row, GapPoint) else GapPoint.of(*row) for row in rows]
    if not points:
        missing = ", ".join(each.name for each in skipped)
        raise PerfmodelError(f"there is nothing to plot: {missing or 'no network'} has a published accuracy; name others")
    families = {
        family: [point for point in points if point.family == family] for family in dict.fromkeys(p.family for p in points)
    }
    recipes = {recipe: _letter(index) for index, recipe in enumerate(dict.fromkeys(point.recipe for point in points))}
    with style.context():
        ax = style.figure(10, 6.4).add_subplot() if ax is None else ax
        _frame(ax, points)
        for index, members in enumerate(families.values()):
            _family(ax, members, index)
        style.settle(ax)
        _legend(ax, list(families))
        style.header(
            ax,
            "Efficiency gap",
            ["distance from the ideal to the attainable curve: ×(latency ÷ ideal latency) = 1 ÷ computational efficiency"],
        )
        style.caption(ax, _caption(points, recipes, skipped))
        style.describe(ax, _description(points, skipped))
        style.settle(ax)
        _names(ax, families, recipes)
    return ax


def gap_figure(rows: Sequence[GapPoint] | Sequence[tuple[Prediction, Accuracy]], skipped: Sequence[Skipped] = ()) -> Figure:
    """The figure of an efficiency-gap plot."""
    return style.root_figure(plot_gap(rows, skipped))


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"a{index - 25}"


# -- drawing -----------------------------------------------------------------------------------------------------------


def _frame(ax: Axes, points: Sequence[GapPoint]) -> None:
    low, high = min(point.ideal_latency_s for point in points), max(point.latency_s for point in points)
    bottom, top = min(point.top1_percent for point in points), max(point.top1_percent for point in points)
    margin = max(0.08 * (top - bottom), 0.5)
    ax.set_xscale("log")
    ax.set_xlim(low / 1.5, high * 2.2)
    ax.set_ylim(bottom - margin, top + margin)
    style.dress(ax, "latency per image (logarithmic)", "ImageNet-1k top-1 accuracy (%)")
    ax.grid(True, which="major", color=style.GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    style.log_ticks(ax.xaxis, high / low, lambda value: si(value, "s", 1))
    ax.tick_params(which="minor", length=2, color="#aaaaaa")


def _series(index: int) -> tuple[str, str]:
    """Colour and marker; after one round of the colours the markers have moved on."""
    count = len(style.SERIES)
    return style.SERIES[index % count], style.SERIES_MARKERS[(index + index // count) % len(style.SERIES_MARKERS)]


def _family(ax: Axes, members: Sequence[GapPoint], index: int) -> None:
    color, marker = _series(index)
    for point in members:
        ax.plot(
            [point.ideal_latency_s, point.latency_s],
            [point.top1_percent] * 2,
            color=color,
            linewidth=0.8,
            alpha=0.45,
            zorder=2,
            gid=style.gid(ax, f"gap-{point.name}-{len(ax.lines)}"),
        )
    curves: tuple[tuple[list[float], str, str], ...] = (
        ([point.ideal_latency_s for point in members], "white", "--"),
        ([point.latency_s for point in members], color, "-"),
    )
    for latencies, face, line in curves:
        along = sorted(zip(latencies, members, strict=True), key=lambda pair: (pair[0], pair[1].top1_percent))
        for (x0, p0), (x1, p1) in pairwise(along):
            alike = p0.recipe == p1.recipe
            ax.plot(
                [x0, x1],
                [p0.top1_percent, p1.top1_percent],
                color=color,
                linestyle=line,
                linewidth=1.8 if alike else 0.9,
                alpha=1.0 if alike else 0.4,
                zorder=3,
            )
        ax.plot(
            [x for x, _ in along],
            [point.top1_percent for _, point in along],
            linestyle="",
            marker=marker,
            markersize=_MARKER_PT,
            markerfacecolor=face,
            markeredgecolor=color,
            markeredgewidth=1.3,
            zorder=4,
        )


def _names(ax: Axes, families: dict[str, list[GapPoint]], recipes: dict[str, str]) -> None:
    """Name and recipe at the attainable end, the factor on the segment; what finds no room is left out."""
    placed = Labels(ax, gap_px=0.5)
    halo = [withStroke(linewidth=2.2, foreground="white")]
    every = [(index, point) for index, members in enumerate(families.values()) for point in members]
    for _, point in every:
        for x in (point.ideal_latency_s, point.latency_s):
            placed.take(style.around(ax, x, point.top1_percent, _MARKER_PT))
    for index, point in every:
        color = _series(index)[0]
        name = style.plain(point.name).replace("$", r"\$")
        text = f"{name} $^{{{recipes[point.recipe]}}}$"
        for dx, dy, ha, va in (
            (6, 0, "left", "center"),
            (5, -3, "left", "top"),
            (5, 3, "left", "bottom"),
            (-5, 3, "right", "bottom"),
            (-5, -3, "right", "top"),
        ):
            if placed.keep(
                ax.annotate(
                    text,
                    (point.latency_s, point.top1_percent),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    ha=ha,
                    va=va,
                    fontsize=style.LABEL_PT,
                    color=color,
                    family=style.FONT,
                    parse_math=True,
                    zorder=6,
                    path_effects=halo,
                    gid="name",
                )
            ):
                break
    for index, point in every:
        for part, dy, va in (
            (0.5, 1, "bottom"),
            (0.35, 1, "bottom"),
            (0.65, 1, "bottom"),
            (0.5, -1, "top"),
            (0.2, 1, "bottom"),
            (0.8, 1, "bottom"),
        ):
            if placed.keep(
                ax.annotate(
                    f"×{style.digits(point.gap) if point.gap >= 9.95 else f'{point.gap:.1f}'}",
                    (point.ideal_latency_s ** (1 - part) * point.latency_s**part, point.top1_percent),
                    xytext=(0, dy),
                    textcoords="offset points",
                    ha="center",
                    va=va,
                    fontsize=style.LABEL_PT - 0.5,
                    color=_series(index)[0],
                    family=style.FONT,
                    zorder=6,
                    path_effects=halo,
                    gid="factor",
                )
            ):
                break


def _legend(ax: Axes, families: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=_series(index)[0], marker=_series(index)[1], markersize=_MARKER_PT, linewidth=1.8, label=family)
        for index, family in enumerate(families)
    ]
    kinds: tuple[tuple[str, str, Literal["--", "-"]], ...] = (
        ("ideal: ops ÷ peak", "white", "--"),
        ("attainable: predicted", style.FAINT_INK, "-"),
    )
    for label, face, line in kinds:
        handles.append(
            Line2D(
                [],
                [],
                color=style.FAINT_INK,
                linestyle=line,
                marker="o",
                markersize=_MARKER_PT,
                markerfacecolor=face,
                linewidth=1.6,
                label=label,
            )
        )
    style.legend_above(ax, handles, (6, 5, 4, 3, 2, 1), handle_length=3.0)


# -- words -------------------------------------------------------------------------------------------------------------


def _caption(points: Sequence[GapPoint], recipes: dict[str, str], skipped: Sequence[Skipped]) -> list[str]:
    sizes = sorted({point.resolution for point in points})
    pixels = f"{sizes[0]} × {sizes[0]} pixels" if len(sizes) == 1 else f"images of {sizes[0]} to {sizes[-1]} pixels"
    said = [style.sentence([conditions, pixels]) for conditions in dict.fromkeys(point.conditions for point in points)]
    differ = " Training recipes differ: compare within one." if len(recipes) > 1 else ""
    said.append(f"Accuracies are published ones, each at the image size its latency is predicted for.{differ}")
    said.append("; ".join(f"{letter}:\u00a0{recipe}" for recipe, letter in recipes.items()) + ".")
    said += [
        f"Not shown, {reason}: {', '.join(each.name for each in skipped if each.reason == reason)}."
        for reason in dict.fromkeys(each.reason for each in skipped)
    ]
    return said


def _description(points: Sequence[GapPoint], skipped: Sequence[Skipped]) -> str:
    each = "; ".join(
        f"{p.name} {p.top1_percent:.1f} %, ideal {si(p.ideal_latency_s, 's')}, attainable {si(p.latency_s, 's')},"
        f" factor {p.gap:.2f}"
        for p in points
    )
    left_out = f" Not shown: {', '.join(f'{s.name} ({s.reason})' for s in skipped)}." if skipped else ""
    where = " and ".join(dict.fromkeys(point.conditions for point in points))
    return f"Efficiency-gap plot, top-1 accuracy against latency per image, on {where}. {each}.{left_out}"
