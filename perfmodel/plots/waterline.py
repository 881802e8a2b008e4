"""The waterline plot: kernels as columns of DRAM bytes × operational intensity, and the water up to the machine's line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from perfmodel.errors import PerfmodelError
from perfmodel.plots import style
from perfmodel.plots.columns import Column
from perfmodel.plots.labels import Box, Callout, Labels, call_out
from perfmodel.plots.scene import READING, Scene, stages
from perfmodel.plots.style import BOUND_LOOKS, TIP, WATER
from perfmodel.prediction import Prediction
from perfmodel.units import percent, si
from perfmodel.waterline import Bound

CUT_AT: Final = 3.0
"""Columns are cut at this multiple of the waterline, where they would leave no room for the water."""
LABELS: Final = 8

_STRIP: Final = 0.06
_NAMED: Final = 3
"""So many kernels are named in each panel, if need be by making room above the columns."""
_ROWS: Final = 8
"""Of names: room for no more is made."""


def plot_waterline(prediction: Prediction, ax: Axes | None = None, *, cut: float | None = CUT_AT, labels: int = LABELS) -> Axes:
    """Draw the waterline of `prediction` on `ax`, or on a new figure's axes.

    One column per kernel in execution order: width = DRAM bytes, height = operational intensity, area = ops. The line lies at
    B = peak ÷ DRAM bandwidth; what lies between it and a column that ends below is water. Latency = (columns + water) / peak;
    attainable efficiency = columns / (columns + water). Columns above `cut` · B are cut and marked, with their height in
    figures; None draws them whole. The `labels` kernels that take most of the time are named, as far as there is room;
    the axis reaches up as far as the first three names need. The tier of the prediction does not matter. Raises
    PerfmodelError for a `cut` below 1.
    """
    _check_cut(cut)
    with style.context():
        ax = style.figure(11, 5.4).add_subplot() if ax is None else ax
        scene = Scene(prediction, cut)
        _frame(ax, scene)
        style.settle(ax)
        _legend(ax, scene)
        title = f"{style.plain(prediction.network.name)}: {si(scene.latency_s, 's')} at batch {prediction.network.batch}"
        style.header(ax, title, [scene.summary])
        style.caption(ax, [scene.conditions, *scene.reading])
        style.describe(ax, scene.description)
        style.settle(ax)
        _details([ax], [scene], labels)
    return ax


def plot_waterlines(predictions: Sequence[Prediction], *, cut: float | None = CUT_AT, labels: int = LABELS) -> Figure:
    """Draw waterlines one below the other, on common axes: the same network under several schedules, say, unfused above fused.

    Each panel is titled with what sets it apart. Raises PerfmodelError for no predictions.
    """
    if not predictions:
        raise PerfmodelError("there is nothing to plot; give at least one prediction")
    _check_cut(cut)
    shared, own = style.common(predictions, apart=("tier",))
    with style.context():
        figure = style.figure(11, 1.3 + 2.9 * len(predictions))
        panels = [figure.add_subplot(len(predictions), 1, 1 + index) for index in range(len(predictions))]
        limit = max(Scene(prediction, cut).limit for prediction in predictions)
        scenes = [Scene(prediction, cut, limit=limit) for prediction in predictions]
        for panel, scene in zip(panels, scenes, strict=True):
            top, right = max(each.top for each in scenes), max(each.right for each in scenes)
            _frame(panel, scene, top=top, right=right, last=panel is panels[-1])
        style.settle(panels[0])
        _legend(panels[0])
        for panel, scene, words in zip(panels, scenes, own, strict=True):
            title = style.sentence([*words, si(scene.latency_s, "s")])
            style.header(panel, title, [scene.summary])
            style.describe(panel, scene.description)
        others = style.apart(map(style.other_tier, predictions), own)
        said = [style.sentence([*shared, "tier waterline"]) + (f" ({others})" if others else ""), READING]
        if any(scene.cut for scene in scenes):
            hidden = style.span([scene.hidden for scene in scenes])
            said.append(f"Columns cut at {style.digits(limit)} ops per byte (zigzag): {hidden} of the ops lie above the cut.")
        again = style.apart(map(style.recomputed, predictions), own)
        if again:
            said.append(f"{again}: in the columns, not in the efficiency.")
        style.caption(panels[-1], said)
        names = " and ".join(dict.fromkeys(style.plain(prediction.network.name) for prediction in predictions))
        figure.suptitle(style.plain(names), x=0.01, ha="left", fontsize=style.TITLE_PT + 1, fontweight="bold", color=style.INK)
        style.settle(panels[0])
        _details(panels, scenes, labels)
    return figure


def waterline_figure(*predictions: Prediction, cut: float | None = CUT_AT, labels: int = LABELS) -> Figure:
    """The figure of one waterline, or of several one below the other."""
    if len(predictions) == 1:
        return style.root_figure(plot_waterline(predictions[0], cut=cut, labels=labels))
    return plot_waterlines(predictions, cut=cut, labels=labels)


def _check_cut(cut: float | None) -> None:
    if cut is not None and not cut >= 1:
        raise PerfmodelError(
            f"columns can be cut at a multiple of the waterline of 1 or more, not {cut!r}; None draws them whole"
        )


# -- drawing -----------------------------------------------------------------------------------------------------------


def _frame(ax: Axes, scene: Scene, *, top: float | None = None, right: float | None = None, last: bool = True) -> None:
    """Axes, columns, water and line: all that needs no measuring of texts."""
    top, right = top or scene.top, right or scene.right or 1.0
    ax.set_xlim(0, right)
    _reach(ax, top)
    factor, letter = _byte_prefix(right)
    style.dress(
        ax,
        f"DRAM traffic, kernels in execution order ({letter}B)" if last else "",
        "operational intensity\n(ops per DRAM byte)",
    )
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 0 else ""))
    for bound, look in BOUND_LOOKS.items():
        ax.add_collection(
            PolyCollection(
                [_outline(run, scene) for held, run in _runs(scene.columns) if held == bound],
                facecolors=look.color,
                edgecolors=look.hatch_color,
                linewidths=0,
                hatch=look.hatch or None,
                gid=style.gid(ax, f"columns-{bound}"),
                zorder=2,
            ),
            autolim=False,
        )
    ax.add_collection(
        PolyCollection(
            [_surface(run, scene) for held, run in _runs(scene.columns) if held == "memory"],
            facecolors=WATER.color,
            edgecolors=WATER.hatch_color,
            linewidths=0,
            hatch=WATER.hatch,
            gid=style.gid(ax, "water"),
            zorder=1.5,
        ),
        autolim=False,
    )
    ax.plot(
        [0, scene.right],
        [scene.level] * 2,
        color=style.INK,
        linewidth=1.3,
        zorder=4,
        gid=style.gid(ax, "waterline"),
        solid_capstyle="butt",
    )
    ax.axhline(0, color="#888888", linewidth=0.8, zorder=4)
    ax.annotate(
        f"waterline\n{style.digits(scene.level)} op/byte",
        (scene.right, scene.level),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=style.LABEL_PT,
        color=style.INK,
        family=style.FONT,
        annotation_clip=False,
        gid="level",
    )
    for index, column in enumerate(scene.columns):
        area = Rectangle(
            (column.x0_bytes, 0),
            column.width_bytes,
            max(scene.height(column), scene.level),
            facecolor="none",
            edgecolor="none",
            linewidth=0,
            gid=style.gid(ax, f"{TIP}{index}"),
            label=f"_{scene.figures(column)}",
            zorder=5,
        )
        area.set_in_layout(False)
        ax.add_patch(area)


def _reach(ax: Axes, top: float) -> None:
    """Let the axes reach up to `top`, and below zero for the strip of stages."""
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top)
    ax.set_yticks([tick for tick in ticks if 0 <= tick <= top])
    ax.set_ylim(-_STRIP * top, top)


def _byte_prefix(value: float) -> tuple[float, str]:
    return next((found for found in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= found[0]), (1.0, ""))


def _runs(work: Sequence[Column]) -> list[tuple[Bound, list[Column]]]:
    """Neighbours that one thing holds: drawn as one shape, so that no seams show between thin columns."""
    return [(bound, list(run)) for bound, run in groupby(work, key=lambda column: column.bound)]


def _outline(run: Sequence[Column], scene: Scene) -> list[tuple[float, float]]:
    steps = [(x, scene.height(column)) for column in run for x in (column.x0_bytes, column.x1_bytes)]
    return [(run[0].x0_bytes, 0.0), *steps, (run[-1].x1_bytes, 0.0)]


def _surface(run: Sequence[Column], scene: Scene) -> list[tuple[float, float]]:
    steps = [(x, scene.height(column)) for column in run for x in (column.x0_bytes, column.x1_bytes)]
    return [(run[0].x0_bytes, scene.level), *steps, (run[-1].x1_bytes, scene.level)]


def _legend(ax: Axes, scene: Scene | None = None) -> None:
    handles = []
    for bound, look in BOUND_LOOKS.items():
        label = look.label
        if scene is not None:
            held = scene.held_by(bound)
            label += f": {style.count(len(held), 'kernel')}, {percent(scene.share(*held))} of the time"
        handles.append(
            Patch(facecolor=look.color, edgecolor=look.hatch_color, hatch=look.hatch or None, linewidth=0, label=label)
        )
    handles.append(
        Patch(
            facecolor=WATER.color, edgecolor=WATER.hatch_color, hatch=WATER.hatch, linewidth=0, label="water: unused arithmetic"
        )
    )
    style.legend_above(ax, handles, (3, 2, 1))


def _details(panels: Sequence[Axes], scenes: Sequence[Scene], labels: int) -> None:
    """What depends on pixels: names, separators, marks of cut columns, the strip of stages."""
    names = _names(panels, scenes, labels)
    for ax, scene, named in zip(panels, scenes, names, strict=True):
        per_byte = ax.transData.transform((1.0, 0.0))[0] - ax.transData.transform((0.0, 0.0))[0]
        per_intensity = ax.transData.transform((0.0, 1.0))[1] - ax.transData.transform((0.0, 0.0))[1]
        point = style.root_figure(ax).dpi / 72
        _separators(ax, scene, per_byte / point)
        _cut_marks(ax, scene, per_byte / point, per_intensity / point)
        _stages(ax, scene)
        _cut_values(ax, scene, labels, _write_names(ax, scene, named))


def _separators(ax: Axes, scene: Scene, points_per_byte: float) -> None:
    lines, widths = [], []
    for left, right in zip(scene.columns, scene.columns[1:], strict=False):
        room = min(left.width_bytes, right.width_bytes) * points_per_byte
        height = min(scene.height(left), scene.height(right))
        if room > 1.5 and height > 0:
            lines.append([(right.x0_bytes, 0.0), (right.x0_bytes, height)])
            widths.append(min(0.6, room * 0.08))
    ax.add_collection(LineCollection(lines, colors="white", linewidths=widths or 0.0, zorder=3), autolim=False)


def _cut_marks(ax: Axes, scene: Scene, points_per_byte: float, points_per_intensity: float) -> None:
    """A white zigzag through the top of columns that go on beyond."""
    period, swing, below = 5.0 / points_per_byte, 1.6 / points_per_intensity, 7.0 / points_per_intensity
    lines = []
    for is_cut, group in groupby(scene.columns, key=lambda column: column.height_ops_per_byte > scene.limit):
        run = list(group)
        if is_cut:
            x0, x1 = run[0].x0_bytes, run[-1].x1_bytes
            inner = np.arange(np.ceil(x0 / (period / 2)), np.floor(x1 / (period / 2)) + 1) * (period / 2)
            at = np.concatenate([[x0], inner, [x1]])
            phase = np.abs((at / period) % 1.0 - 0.5) * 4 - 1
            lines.append(np.column_stack([at, scene.limit - below + swing * phase]))
    ax.add_collection(LineCollection(lines, colors="white", linewidths=1.6, zorder=3.5, gid=style.gid(ax, "cut")), autolim=False)


def _cut_values(ax: Axes, scene: Scene, most: int, taken: Sequence[Bbox]) -> None:
    """How high the cut columns really are, as far as the names leave room."""
    placed = Labels(ax, taken=taken)
    for column in sorted(scene.cut, key=lambda column: -column.width_bytes)[: 4 * most]:
        placed.keep(
            ax.annotate(
                style.digits(column.height_ops_per_byte),
                (_middle(column), scene.limit),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90,
                fontsize=style.LABEL_PT - 0.5,
                color=style.FAINT_INK,
                family=style.FONT,
                gid="cut-value",
            )
        )


def _middle(column: Column) -> float:
    return (column.x0_bytes + column.x1_bytes) / 2


# -- names -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    """The name of a kernel, and where it stands."""

    column: Column
    words: str
    box: Box


def _names(panels: Sequence[Axes], scenes: Sequence[Scene], most: int) -> list[list[_Name]]:
    """Names of the kernels that take most of the time, panel by panel; the axes reach up until the longest three are named."""
    figure = style.root_figure(panels[0])
    height_pt = min(ax.get_window_extent().height for ax in panels) * 72 / figure.dpi
    tallest = max(height for scene in scenes for height in (scene.level, *map(scene.height, scene.columns)))
    before = float(panels[0].get_ylim()[1])
    sizes = [_sizes(ax, scene, most) for ax, scene in zip(panels, scenes, strict=True)]
    wanted = [min(_NAMED, most, len(each)) for each in sizes]
    rooms = [min(0.5, 1.4 * rows * style.LABEL_PT / height_pt) for rows in range(_ROWS + 1)]
    tops = [max(before, tallest / (1 - room)) for room in rooms]
    found: dict[float, list[list[_Name]]] = {}
    lacking: dict[float, int] = {}
    for top in dict.fromkeys(tops):
        _make_room(panels, top)
        found[top] = [_stand(ax, scene, each) for ax, scene, each in zip(panels, scenes, sizes, strict=True)]
        lacking[top] = sum(max(0, want - len(names)) for want, names in zip(wanted, found[top], strict=True))
        if lacking[top] == 0:
            return found[top]
    best = min(lacking, key=lambda top: lacking[top])
    _make_room(panels, best)
    return found[best]


def _make_room(panels: Sequence[Axes], top: float) -> None:
    for ax in panels:
        _reach(ax, top)
    style.settle(panels[0])


def _sizes(ax: Axes, scene: Scene, most: int) -> list[tuple[Column, dict[str, Bbox]]]:
    """The longest kernels, and how large their names are, whole and shortened."""
    found = []
    for column in scene.longest[:most]:
        height = f", {style.digits(column.height_ops_per_byte)} op/byte" if column in scene.cut else ""
        spelled = {}
        for characters in (36, 22):
            words = f"{style.shorten(column.kernel.name, characters)}  {percent(scene.share(column))}{height}"
            text = ax.text(0, 0, words, fontsize=style.LABEL_PT, family=style.FONT)
            spelled[words] = text.get_window_extent()
            text.remove()
        found.append((column, spelled))
    return found


def _stand(ax: Axes, scene: Scene, sizes: Sequence[tuple[Column, dict[str, Bbox]]]) -> list[_Name]:
    """As many names as find a place, the longest kernels first."""
    if not sizes:
        return []
    window = ax.get_window_extent()
    inside = Box(window.x0, window.y0, window.x1, window.y1)
    level = next(text.get_window_extent() for text in ax.texts if text.get_gid() == "level")
    taken = [Box(level.x0, level.y0, level.x1, level.y1)]
    edges = ax.transData.transform([(column.x0_bytes, max(scene.height(column), scene.level)) for column in scene.columns])
    left, tops = edges[:, 0], edges[:, 1]
    right = ax.transData.transform((scene.right, 0.0))[0]

    def ground(x0: float, x1: float) -> float:
        if x0 >= right:
            return inside.y0
        first, last = np.searchsorted(left, x0, side="right") - 1, np.searchsorted(left, x1)
        return float(tops[max(first, 0) : last].max())

    chosen: dict[int, tuple[Callout, str]] = {}
    boxes: dict[int, Box] = {}
    for key, (column, spelled) in enumerate(sizes):
        x, foot = ax.transData.transform((_middle(column), max(scene.height(column), scene.level)))
        for words, size in spelled.items():
            callout = Callout(key=key, x_px=x, foot_px=foot, width_px=size.width, height_px=size.height)
            tried = call_out([*(each for each, _ in chosen.values()), callout], inside, ground, taken, gap_px=3.0)
            if tried is not None:
                boxes, chosen[key] = tried, (callout, words)
                break
    return [_Name(column=sizes[key][0], words=words, box=boxes[key]) for key, (_, words) in chosen.items()]


def _write_names(ax: Axes, scene: Scene, names: Sequence[_Name]) -> list[Bbox]:
    """Write the names beside lines that stand on the columns' tops; the places that both take."""
    lines, taken = [], []
    to_data = ax.transData.inverted()
    for name in names:
        x, top = _middle(name.column), scene.height(name.column)
        foot_px = ax.transData.transform((x, top))
        lines.append([(x, top), (x, to_data.transform((0.0, name.box.y1))[1])])
        right = name.box.x0 > foot_px[0]
        at_x, at_y = to_data.transform((name.box.x0 if right else name.box.x1, name.box.y0))
        ax.text(
            at_x,
            at_y,
            name.words,
            ha="left" if right else "right",
            va="bottom",
            fontsize=style.LABEL_PT,
            color=style.INK,
            family=style.FONT,
            zorder=6,
            gid="name",
        ).set_in_layout(False)
        taken.append(Bbox.from_extents(name.box.x0, name.box.y0, name.box.x1, name.box.y1))
        taken.append(Bbox.from_extents(foot_px[0] - 1, foot_px[1], foot_px[0] + 1, name.box.y1))
    ax.add_collection(
        LineCollection(lines, colors=style.INK, linewidths=0.6, zorder=5.5, gid=style.gid(ax, "leaders")), autolim=False
    )
    return taken


# -- stages ------------------------------------------------------------------------------------------------------------


def _stages(ax: Axes, scene: Scene) -> None:
    """A strip below the columns that names the stages of the network."""
    low = float(ax.get_ylim()[0])
    for index, (name, run) in enumerate(stages(scene.columns)):
        x0, x1 = run[0].x0_bytes, run[-1].x1_bytes
        shade = "#e9e9e9" if index % 2 else "#d6d6d6"
        ax.add_patch(Rectangle((x0, low), x1 - x0, -low, facecolor=shade, edgecolor="none", linewidth=0, zorder=1, gid="stage"))
        _stage_name(ax, name, x0, x1)


def _stage_name(ax: Axes, words: str, x0: float, x1: float) -> None:
    """Write the name of a stage into its part of the strip, if it fits."""
    low = float(ax.get_ylim()[0])
    text = ax.text(
        (x0 + x1) / 2,
        low / 2,
        words,
        ha="center",
        va="center_baseline",
        fontsize=style.LABEL_PT - 0.5,
        color=style.INK,
        family=style.FONT,
        gid="stage-name",
    )
    text.set_in_layout(False)
    left, right = ax.transData.transform((x0, 0))[0], ax.transData.transform((x1, 0))[0]
    if text.get_window_extent().width > right - left - 3:
        text.remove()
