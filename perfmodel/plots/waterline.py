"""The waterline plot: kernels as columns of DRAM bytes × operational intensity, and the water between them and the machine's line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from perfmodel.errors import PerfmodelError
from perfmodel.plots import style
from perfmodel.plots.columns import Column, columns
from perfmodel.plots.labels import Labels
from perfmodel.plots.style import BOUND_LOOKS, WATER
from perfmodel.prediction import Prediction
from perfmodel.waterline import Bound

CUT_AT = 3.0
"""Columns are cut at this multiple of the waterline, where they would leave no room for the water."""
LABELS = 8
TIP = "kernel-"
"""Beginning of the ids of the areas that carry a kernel's figures, which an SVG shows under the pointer."""

_ABOVE_PT = 22.0
_STRIP = 0.06


def plot_waterline(prediction: Prediction, ax: Axes | None = None, *, cut: float | None = CUT_AT, labels: int = LABELS) -> Axes:
    """Draw the waterline of `prediction` on `ax`, or on a new figure's axes.

    One column per kernel in execution order: width = DRAM bytes, height = operational intensity, area = ops. The line lies at B = peak ÷
    DRAM bandwidth; what lies between it and a column that ends below is water. Latency = (columns + water) / peak; attainable efficiency =
    columns / (columns + water). Columns above `cut` · B are cut and marked, with their height in figures; None draws them whole. The
    `labels` kernels that take most of the time are named, as far as there is room. It is the waterline whatever the tier of the prediction.
    """
    _check_cut(cut)
    with style.context():
        ax = style.figure(11, 5.4).add_subplot() if ax is None else ax
        work = columns(prediction)
        scene = _Scene(work, prediction.op_byte_ratio, cut)
        _frame(ax, scene)
        style.settle(ax)
        _legend(ax, scene)
        style.header(
            ax,
            f"{prediction.network.name}: {style.quantity(prediction.waterline_latency_s, 's')} per batch of {prediction.network.batch}",
            [_summary(scene, prediction)],
            above_pt=_ABOVE_PT,
        )
        style.caption(ax, [_conditions(prediction), *_reading(scene)])
        style.describe(ax, _description(scene, prediction))
        style.settle(ax)
        _details(ax, scene, labels)
    return ax


def plot_waterlines(predictions: Sequence[Prediction], *, cut: float | None = CUT_AT, labels: int = LABELS) -> Figure:
    """Draw waterlines one below the other, on common axes: the same network under several schedules, say, unfused above fused.

    Each panel is titled with what sets it apart. Raises PerfmodelError for no predictions.
    """
    if not predictions:
        raise PerfmodelError("there is nothing to plot; give at least one prediction")
    _check_cut(cut)
    shared, own = style.common(predictions)
    names = list(dict.fromkeys(prediction.network.name for prediction in predictions))
    with style.context():
        figure = style.figure(11, 1.3 + 2.9 * len(predictions))
        panels = [figure.add_subplot(len(predictions), 1, 1 + index) for index in range(len(predictions))]
        scenes = [_Scene(columns(prediction), prediction.op_byte_ratio, cut) for prediction in predictions]
        limit, right = max(scene.limit for scene in scenes), max(scene.right for scene in scenes)
        scenes = [_Scene(scene.columns, scene.level, None if cut is None else limit / scene.level) for scene in scenes]
        top = max(scene.top for scene in scenes)
        for panel, scene in zip(panels, scenes, strict=True):
            _frame(panel, scene, top=top, right=right, last=panel is panels[-1])
        style.settle(panels[0])
        for panel, scene, prediction, words in zip(panels, scenes, predictions, own, strict=True):
            first = panel is panels[0]
            if first:
                _legend(panel, scene)
            title = style.sentence([*words, style.quantity(prediction.waterline_latency_s, "s")])
            style.header(panel, title, [_summary(scene, prediction)], above_pt=_ABOVE_PT if first else 5)
            style.describe(panel, _description(scene, prediction))
        said = [style.sentence(shared), *_reading(max(scenes, key=lambda scene: scene.tallest))]
        style.caption(panels[-1], said)
        figure.suptitle(" and ".join(names), x=0.01, ha="left", fontsize=style.TITLE_PT + 1, fontweight="bold", color=style.INK)
        style.settle(panels[0])
        for panel, scene in zip(panels, scenes, strict=True):
            _details(panel, scene, labels)
    return figure


def _check_cut(cut: float | None) -> None:
    if cut is not None and not cut >= 1:
        raise PerfmodelError(f"columns can be cut at a multiple of the waterline of 1 or more, not {cut!r}; None draws them whole")


class _Scene:
    """Columns, the line, and how far up the plot goes."""

    def __init__(self, work: Sequence[Column], level: float, cut: float | None) -> None:
        self.columns = tuple(work)
        self.level = level
        self.tallest = max((column.height_ops_per_byte for column in work), default=0.0)
        whole = cut is None or self.tallest <= cut * level * 1.05
        self.limit = max(self.tallest, level) if whole or cut is None else cut * level
        """Height at which columns are cut."""
        self.cut = tuple(column for column in work if column.height_ops_per_byte > self.limit)
        self.top = max(self.limit * (1.14 if self.cut else 1.04), 1.9 * level)
        self.right = max((column.x1_bytes for column in work), default=0.0)
        self.latency_s = sum(column.time.latency_s for column in work)

    def height(self, column: Column) -> float:
        """How high the column is drawn."""
        return min(column.height_ops_per_byte, self.limit)

    @property
    def ops(self) -> float:
        return sum(column.ops for column in self.columns)

    @property
    def water_ops(self) -> float:
        return sum(column.water_ops for column in self.columns)

    @property
    def efficiency(self) -> float:
        """Columns / (columns + water)."""
        full = self.ops + self.water_ops
        return self.ops / full if full else 0.0

    def held_by(self, bound: Bound) -> list[Column]:
        return [column for column in self.columns if column.bound == bound]

    def share(self, held: Sequence[Column]) -> float:
        """Fraction of the time that these columns take."""
        return sum(column.time.latency_s for column in held) / self.latency_s if self.latency_s else 0.0


# -- drawing -----------------------------------------------------------------------------------------------------------


def _frame(ax: Axes, scene: _Scene, *, top: float | None = None, right: float | None = None, last: bool = True) -> None:
    """Axes, columns, water and line: all that needs no measuring of texts."""
    top, right = top or scene.top, right or scene.right or 1.0
    ax.set_xlim(0, right)
    ax.set_ylim(-_STRIP * top, top)
    factor, letter = style.prefix(right)
    style.dress(
        ax,
        f"DRAM traffic, kernels in execution order ({letter}B)" if last else "",
        "operational intensity\n(ops per DRAM byte)",
    )
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:g}"))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 0 else ""))
    ax.set_yticks([tick for tick in ax.yaxis.get_major_locator().tick_values(0, top) if 0 <= tick <= top])
    ax.set_ylim(-_STRIP * top, top)
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
    ax.plot([0, scene.right], [scene.level] * 2, color=style.INK, linewidth=1.3, zorder=4, gid=style.gid(ax, "waterline"), solid_capstyle="butt")
    ax.axhline(0, color="#888888", linewidth=0.8, zorder=4)
    ax.annotate(
        f"waterline\n{style.digits(scene.level)}",
        (1, scene.level),
        xytext=(4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=style.LABEL_PT,
        color=style.INK,
        family=style.FONT,
        annotation_clip=False,
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
            label=f"_{_figures(column, scene)}",
            zorder=5,
        )
        area.set_in_layout(False)
        ax.add_patch(area)


def _runs(work: Sequence[Column]) -> list[tuple[Bound, list[Column]]]:
    """Neighbours that one thing holds: drawn as one shape, so that no seams show between thin columns."""
    return [(bound, list(run)) for bound, run in groupby(work, key=lambda column: column.bound)]


def _outline(run: Sequence[Column], scene: _Scene) -> list[tuple[float, float]]:
    steps = [(x, scene.height(column)) for column in run for x in (column.x0_bytes, column.x1_bytes)]
    return [(run[0].x0_bytes, 0.0), *steps, (run[-1].x1_bytes, 0.0)]


def _surface(run: Sequence[Column], scene: _Scene) -> list[tuple[float, float]]:
    steps = [(x, scene.height(column)) for column in run for x in (column.x0_bytes, column.x1_bytes)]
    return [(run[0].x0_bytes, scene.level), *steps, (run[-1].x1_bytes, scene.level)]


def _legend(ax: Axes, scene: _Scene) -> None:
    handles: list[Patch | Line2D] = []
    for bound, look in BOUND_LOOKS.items():
        held = scene.held_by(bound)
        label = f"{look.label}: {len(held)} kernels, {style.percent(scene.share(held))} of the time"
        handles.append(Patch(facecolor=look.color, edgecolor=look.hatch_color, hatch=look.hatch or None, linewidth=0, label=label))
    handles.append(
        Patch(facecolor=WATER.color, edgecolor=WATER.hatch_color, hatch=WATER.hatch, linewidth=0, label="water: unused arithmetic")
    )
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        borderaxespad=0.3,
        ncols=3 if style.width_pt(ax) > 480 else 1,
        frameon=False,
        prop={"family": style.FONT, "size": style.LABEL_PT + 0.5},
        handlelength=1.8,
        columnspacing=1.6,
        borderpad=0.1,
    )


def _details(ax: Axes, scene: _Scene, labels: int) -> None:
    """What depends on pixels: separators, marks of cut columns, the strip of stages, names."""
    per_byte = ax.transData.transform((1.0, 0.0))[0] - ax.transData.transform((0.0, 0.0))[0]
    per_intensity = ax.transData.transform((0.0, 1.0))[1] - ax.transData.transform((0.0, 0.0))[1]
    point = style.root_figure(ax).dpi / 72
    _separators(ax, scene, per_byte / point)
    _cut_marks(ax, scene, per_byte / point, per_intensity / point)
    _stages(ax, scene)
    placed = Labels(ax)
    _cut_values(ax, scene, placed, labels)
    _names(ax, scene, placed, labels, per_intensity)


def _separators(ax: Axes, scene: _Scene, points_per_byte: float) -> None:
    lines, widths = [], []
    for left, right in zip(scene.columns, scene.columns[1:], strict=False):
        room = min(left.width_bytes, right.width_bytes) * points_per_byte
        height = min(scene.height(left), scene.height(right))
        if room > 1.5 and height > 0:
            lines.append([(right.x0_bytes, 0.0), (right.x0_bytes, height)])
            widths.append(min(0.6, room * 0.08))
    ax.add_collection(LineCollection(lines, colors="white", linewidths=widths or 0.0, zorder=3), autolim=False)


def _cut_marks(ax: Axes, scene: _Scene, points_per_byte: float, points_per_intensity: float) -> None:
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


def _cut_values(ax: Axes, scene: _Scene, placed: Labels, most: int) -> None:
    """How high the cut columns really are, as far as there is room."""
    for column in sorted(scene.cut, key=lambda column: -column.width_bytes)[: 4 * most]:
        placed.keep(
            ax.annotate(
                style.digits(column.height_ops_per_byte),
                ((column.x0_bytes + column.x1_bytes) / 2, scene.limit),
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


def _names(ax: Axes, scene: _Scene, placed: Labels, most: int, px_per_intensity: float) -> None:
    """Names of the kernels that take most of the time: above their column, or inside it where it reaches too high."""
    inside = ax.get_window_extent()
    longest = sorted(scene.columns, key=lambda column: -column.time.latency_s)[:most]
    for column in longest:
        shown = max(scene.height(column), scene.level)
        name = f"{style.shorten(column.kernel.name)}  {style.percent(scene.share([column]))}"
        text = ax.annotate(
            name,
            ((column.x0_bytes + column.x1_bytes) / 2, shown),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90,
            fontsize=style.LABEL_PT,
            color=style.INK,
            family=style.FONT,
            zorder=6,
            path_effects=[withStroke(linewidth=1.8, foreground="white", alpha=0.85)],
            gid="name",
        )
        box = text.get_window_extent()
        if box.y1 > inside.y1 or column in scene.cut:
            text.set_va("top")
            text.xyann = (0, -13 if column in scene.cut else -4)
            text.set_path_effects([withStroke(linewidth=1.6, foreground=BOUND_LOOKS[column.bound].color)])
            if text.get_window_extent().height > scene.height(column) * px_per_intensity:
                text.remove()
                continue
        placed.keep(text)


# -- stages ------------------------------------------------------------------------------------------------------------


def _stages(ax: Axes, scene: _Scene) -> None:
    """A strip below the columns that names the stages of the network."""
    low = float(ax.get_ylim()[0])
    for index, (name, run) in enumerate(stages(scene.columns)):
        x0, x1 = run[0].x0_bytes, run[-1].x1_bytes
        shade = "#e9e9e9" if index % 2 else "#d6d6d6"
        ax.add_patch(Rectangle((x0, low), x1 - x0, -low, facecolor=shade, edgecolor="none", linewidth=0, zorder=1, gid="stage"))
        left, right = ax.transData.transform((x0, 0))[0], ax.transData.transform((x1, 0))[0]
        for words in dict.fromkeys((name, name.rpartition(".")[2])):
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
            if text.get_window_extent().width <= right - left - 3:
                break
            text.remove()


def stages(work: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """Neighbouring columns of one stage: the shortest beginning of their blocks' names that tells more than one part apart."""
    found: list[tuple[str, list[Column]]] = []
    total = sum(column.width_bytes for column in work)
    for depth in (1, 2, 3):
        groups = [
            (name, list(run)) for name, run in groupby(work, key=lambda column, depth=depth: _stage(column, depth))  # type: ignore[misc]
        ]
        if found and len(groups) > 24:
            break
        found = groups
        widest = max((sum(column.width_bytes for column in run) for _, run in groups), default=0.0)
        if widest <= 0.6 * total:
            break
    return found


def _stage(column: Column, depth: int) -> str:
    where = column.kernel.block or (column.kernel.layers[0] if column.kernel.layers else column.kernel.name)
    return ".".join(where.split(".")[:depth])


# -- words -------------------------------------------------------------------------------------------------------------


def _summary(scene: _Scene, prediction: Prediction) -> str:
    return (
        f"attainable efficiency {style.percent(scene.efficiency)} of {style.quantity(prediction.peak.ops_per_s, 'ops/s')}"
        f" · {style.percent(scene.share(scene.held_by('memory')))} of the time in memory-bound kernels"
        f" · {len(scene.columns)} kernels · {style.quantity(scene.ops, 'ops')} · {style.quantity(scene.right, 'B')}"
    )


def _conditions(prediction: Prediction) -> str:
    said = [words for topic, words in style.conditions(prediction).items() if topic not in ("network", "tier")]
    other = (
        f" (the prediction is of tier {prediction.tier}: {style.quantity(prediction.latency_s, 's')})"
        if prediction.tier != "waterline"
        else ""
    )
    return style.sentence([*said, "tier waterline"]) + other


def _reading(scene: _Scene) -> list[str]:
    said = "A column's area is its ops; columns and water together are latency × peak; columns ÷ (columns + water) is the efficiency."
    if not scene.cut:
        return [said]
    hidden = sum((column.height_ops_per_byte - scene.limit) * column.width_bytes for column in scene.cut) / scene.ops
    count = f"{len(scene.cut)} column{'s' if len(scene.cut) > 1 else ''}"
    return [
        said,
        f"{count} cut at {style.digits(scene.limit)} ops per byte (zigzag; full height in figures where there is room):"
        f" {style.percent(hidden)} of the ops lie above the cut.",
    ]


def _figures(column: Column, scene: _Scene) -> str:
    return (
        f"{column.kernel.name} ({column.kernel.kind}): {style.quantity(column.time.latency_s, 's')},"
        f" {style.percent(scene.share([column]))} of the time, {column.bound}-bound;"
        f" {style.quantity(column.ops, 'ops')}, {style.quantity(column.width_bytes, 'B')},"
        f" {style.digits(column.height_ops_per_byte)} ops per byte"
    )


def _description(scene: _Scene, prediction: Prediction) -> str:
    longest = sorted(scene.columns, key=lambda column: -column.time.latency_s)[:3]
    named = "; ".join(f"{column.kernel.name} {style.percent(scene.share([column]))}" for column in longest)
    return (
        f"Waterline plot of {prediction.network.name} on {_conditions(prediction)}. Latency"
        f" {style.quantity(scene.latency_s, 's')}; {_summary(scene, prediction)}. The waterline lies at"
        f" {style.digits(scene.level)} ops per byte. Longest kernels, by share of the time: {named}."
    )
