"""The efficiency-gap plot: accuracy against latency per image, ideal and attainable, family by family."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Final, Literal, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from perfmodel.errors import PerfmodelError
from perfmodel.importers.model import is_imported
from perfmodel.networks.catalog import entries, find
from perfmodel.networks.entry import Accuracy, NetworkEntry
from perfmodel.plots import style
from perfmodel.plots.labels import Labels, Place, Segments, as_segments
from perfmodel.prediction import Prediction, predict
from perfmodel.schedule import Partition
from perfmodel.units import si

_MARKER_PT: Final = 6.0

LOOKS: Final[dict[str, tuple[str, str]]] = {
    "resnet": ("#000000", "o"),
    "convnext": ("#D55E00", "s"),
    "efficientnet": ("#009E73", "^"),
    "regnety": ("#0072B2", "D"),
    "mobilenetv3": ("#CC79A7", "v"),
    "mobilenetv2": ("#E69F00", "P"),
    "efficientnetv2": ("#56B4E9", "X"),
    "mobileone": ("#6b4c9a", "<"),
    "convfirstnet": ("#a01020", ">"),
    "regnety_tv": ("#5b7fa6", "d"),
    "resnext": ("#7f7f7f", "h"),
    "vgg": ("#8c564b", "p"),
    "alexnet": ("#7a8b00", "*"),
}
"""Colour and marker of the families of the catalogue, the same in every plot."""
_OTHER_LOOKS: Final = tuple(itertools.product(style.SERIES, ("H", "8", *style.SERIES_MARKERS)))
_WELL_KNOWN: Final = (
    "resnet50",
    "convnext_tiny",
    "efficientnet_b4",
    "resnet101",
    "convnext_base",
    "efficientnet_b3",
    "regnety_032",
    "convnext_small",
    "efficientnetv2_m",
    "mobileone_s1",
    "resnet34",
)
"""Named before others that are neither the first nor the last of their family."""
_PLACES: Final[tuple[Place, ...]] = (
    (6, 0, "left", "center"),
    (5, -3, "left", "top"),
    (5, 3, "left", "bottom"),
    (-5, 3, "right", "bottom"),
    (-5, -3, "right", "top"),
    (0, -6, "center", "top"),
    (0, 6, "center", "bottom"),
    (7, -8, "left", "top"),
    (7, 8, "left", "bottom"),
    (-7, 8, "right", "bottom"),
)


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
    names = list(names)
    skipped += [Skipped(name=name, reason="no published accuracy") for name in names if is_imported(name)]
    for entry in _expand(name for name in names if not is_imported(name)):
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
    was `skipped`. The order of `rows` does not matter. Raises PerfmodelError where nothing is left to plot.
    """
    points = _in_order([row if isinstance(row, GapPoint) else GapPoint.of(*row) for row in rows])
    if not points:
        raise PerfmodelError(f"there is nothing to plot{_missing(skipped)}; name networks with a published accuracy")
    families = {family: list(members) for family, members in itertools.groupby(points, key=lambda point: point.family)}
    looks = family_looks(families)
    recipes = {recipe: _letter(index) for index, recipe in enumerate(dict.fromkeys(point.recipe for point in points))}
    with style.context():
        ax = style.figure(10, 6.4).add_subplot() if ax is None else ax
        _frame(ax, points)
        for family, members in families.items():
            _family(ax, members, looks[family])
        style.settle(ax)
        _legend(ax, looks)
        style.header(
            ax,
            "Efficiency gap",
            ["distance from the ideal to the attainable curve: ×(latency ÷ ideal latency) = 1 ÷ computational efficiency"],
        )
        style.caption(ax, _caption(points, recipes, skipped))
        style.describe(ax, _description(points, skipped))
        style.settle(ax)
        _texts(ax, families, looks, recipes)
    return ax


def gap_figure(rows: Sequence[GapPoint] | Sequence[tuple[Prediction, Accuracy]], skipped: Sequence[Skipped] = ()) -> Figure:
    """The figure of an efficiency-gap plot."""
    return style.root_figure(plot_gap(rows, skipped))


def _in_order(points: Sequence[GapPoint]) -> list[GapPoint]:
    """By family, those of the catalogue first, and from the smallest to the largest network."""
    known = list(LOOKS)
    return sorted(
        points,
        key=lambda p: (
            known.index(p.family) if p.family in LOOKS else len(known),
            p.family,
            p.ideal_latency_s,
            p.top1_percent,
            p.name,
            p.weights,
            p.conditions,
        ),
    )


def _missing(skipped: Sequence[Skipped]) -> str:
    """Why nothing is left."""
    names = [each.name for each in skipped]
    if not names:
        return ""
    return (
        f": {names[0]} has no published accuracy" if len(names) == 1 else f": none of {', '.join(names)} has a published accuracy"
    )


def family_looks(families: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each family: its own, or for one that the catalogue lacks, one that its name determines."""
    families = list(families)
    looks = {family: LOOKS[family] for family in families if family in LOOKS}
    for family in sorted(set(families) - set(looks)):
        start = zlib.crc32(family.encode())
        free = [look for look in _OTHER_LOOKS if look not in looks.values() and look not in LOOKS.values()]
        at = start % len(_OTHER_LOOKS)
        looks[family] = min(free or _OTHER_LOOKS, key=lambda look: (_OTHER_LOOKS.index(look) - at) % len(_OTHER_LOOKS))
    return {family: looks[family] for family in families}


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


def _family(ax: Axes, members: Sequence[GapPoint], look: tuple[str, str]) -> None:
    color, marker = look
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
    for along, face, line in zip(_curves(members), ("white", color), ("--", "-"), strict=True):
        for (x0, p0), (x1, p1) in itertools.pairwise(along):
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


def _curves(members: Sequence[GapPoint]) -> tuple[list[tuple[float, GapPoint]], list[tuple[float, GapPoint]]]:
    """The ideal and the attainable curve of a family: its networks along the axis of latency."""
    ideal = [(point.ideal_latency_s, point) for point in members]
    attainable = [(point.latency_s, point) for point in members]
    for curve in (ideal, attainable):
        curve.sort(key=lambda pair: (pair[0], pair[1].top1_percent))
    return ideal, attainable


def _by_rank(families: dict[str, list[GapPoint]]) -> dict[GapPoint, bool]:
    """Networks in the order in which they are named, ends of families and well-known ones first, and whether they are such."""
    ends = [[members[-1], members[0]] for members in families.values()]
    every = [point for members in families.values() for point in members]
    known = sorted((point for point in every if point.name in _WELL_KNOWN), key=lambda point: _WELL_KNOWN.index(point.name))
    first = [*(last for last, _ in ends), *(first for _, first in ends), *known]
    return {**dict.fromkeys(first, True), **dict.fromkeys((point for point in every if point not in first), False)}


def _texts(ax: Axes, families: dict[str, list[GapPoint]], looks: dict[str, tuple[str, str]], recipes: dict[str, str]) -> None:
    """Name and recipe at the attainable end, the factor on the segment; what finds no room is left out."""
    placed = Labels(ax, gap_px=0.5)
    ranked = _by_rank(families)
    for point in ranked:
        for x in (point.ideal_latency_s, point.latency_s):
            placed.take(style.around(ax, x, point.top1_percent, _MARKER_PT + 1))
    curves = np.concatenate(
        [
            as_segments(ax.transData.transform([(x, point.top1_percent) for x, point in curve]))
            for members in families.values()
            for curve in _curves(members)
        ]
    )
    gaps = np.concatenate(
        [
            as_segments(ax.transData.transform([(x, point.top1_percent) for x in (point.ideal_latency_s, point.latency_s)]))
            for point in ranked
        ]
    )
    halo = [withStroke(linewidth=2.2, foreground="white")]
    for point, must in ranked.items():
        name = style.plain(point.name).replace("$", r"\$")
        text = ax.annotate(
            f"{name} $^{{{recipes[point.recipe]}}}$",
            (point.latency_s, point.top1_percent),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=style.LABEL_PT,
            color=looks[point.family][0],
            family=style.FONT,
            parse_math=True,
            zorder=6,
            path_effects=halo,
            gid="name",
        )
        # Clear of all lines, or at least of the curves; the name of an end, at least of names and markers.
        if not any(placed.place(text, _PLACES, *lines) for lines in ((curves, gaps), (curves,), *([()] if must else []))):
            text.remove()
    for index, point in enumerate(ranked):
        others = np.concatenate([curves, np.delete(gaps, index, axis=0)])
        _factor(ax, point, looks[point.family][0], placed, others)


def _factor(ax: Axes, point: GapPoint, color: str, placed: Labels, lines: Segments) -> None:
    """The gap on its segment, where it covers nothing."""
    text = ax.annotate(
        f"×{style.digits(point.gap) if point.gap >= 9.95 else f'{point.gap:.1f}'}",
        (point.ideal_latency_s, point.top1_percent),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=style.LABEL_PT - 0.5,
        color=color,
        family=style.FONT,
        zorder=6,
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
        gid="factor",
    )
    (x0, _), (x1, _) = ax.transData.transform([(x, 1.0) for x in (point.ideal_latency_s, point.latency_s)])
    length_pt = (x1 - x0) * 72 / style.root_figure(ax).dpi
    places: list[Place] = [
        (part * length_pt, dy, "center", va)
        for part in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9)
        for dy, va in ((1.5, "bottom"), (-1.5, "top"))
    ]
    if not placed.place(text, places, lines):
        text.remove()


def _legend(ax: Axes, looks: dict[str, tuple[str, str]]) -> None:
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=_MARKER_PT, linewidth=1.8, label=style.plain(family))
        for family, (color, marker) in looks.items()
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
    # One row; or the families in one and the kinds of curve in the next; or rows of like length.
    rows_of = [
        len(handles),
        *([len(looks)] if len(looks) > 1 else []),
        *(-(-len(handles) // rows) for rows in range(2, len(handles))),
    ]
    style.legend_above(ax, handles, sorted({*rows_of, 1}, reverse=True), handle_length=3.0, by_row=True)


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
