"""The capacity plot: DRAM traffic of fused blocks against the local memory of a processor, with devices marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from perfmodel.capacity import CapacityCurve
from perfmodel.errors import PerfmodelError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.plots import style
from perfmodel.plots.curves import BlockCurves, CapacityMark, binary, capacity_marks
from perfmodel.plots.flags import Flag, raise_flags
from perfmodel.plots.labels import Labels
from perfmodel.units import si

DEVICES: Final = ("t4", "v100", "rtx3090", "a100", "h200", "mi300x")
"""Marked where no others are asked for: every capacity that the catalogue has."""
_DASHED: Final = (0, (4.0, 1.8))
_MARKER_PT: Final = 5.5
_ROW_PT: Final = 24.0
_NAMES_PT: Final = 110.0
_NAMES_IN_TITLE: Final = 44
_LEFT: Final = 1.15
_RIGHT: Final = 1.4
"""Room of the axis beyond what is drawn; the name of the last device stands there."""


def plot_capacity(
    curves: BlockCurves | Sequence[BlockCurves], devices: Iterable[DeviceSpec | str] = (), ax: Axes | None = None
) -> Axes:
    """Draw DRAM traffic against local memory per processor, both logarithmic, on `ax` or on a new figure's axes.

    A staircase falls wherever more local memory allows a tiling with less traffic: solid where weights that are loaded again
    come from a cache, dashed where from DRAM. Horizontal lines: the traffic of schedule `layer` and the compulsory traffic. A
    ring: where a staircase passes below schedule `layer`. Upright lines: the largest local memory that each of `devices` gives
    a processor; the caption names those with no figure for it. One block is drawn in bytes, several as multiples of their
    compulsory traffic. Raises PerfmodelError for no curves, UnknownNameError for a device that is not in the catalogue.
    """
    shown = [curves] if isinstance(curves, BlockCurves) else list(curves)
    if not shown:
        raise PerfmodelError("there is nothing to plot; give the curves of at least one block")
    marks, without = capacity_marks(devices)
    scene = _Scene(shown, marks)
    with style.context():
        ax = style.figure(10, 6.2).add_subplot() if ax is None else ax
        _frame(ax, scene)
        staircases = _staircases(ax, scene)
        levels = _levels(ax, scene)
        style.settle(ax)
        _words(ax, scene, without)
        names = _level_names(ax, scene, levels)
        style.settle(ax)
        _marks(ax, scene, staircases)
        style.settle(ax)
        _spread(ax, names)
        _crossings(ax, scene)
    return ax


def capacity_figure(curves: BlockCurves | Sequence[BlockCurves], devices: Iterable[DeviceSpec | str] = ()) -> Figure:
    """The figure of a capacity plot."""
    return style.root_figure(plot_capacity(curves, devices))


# -- what is shown -----------------------------------------------------------------------------------------------------


class _Scene:
    """Curves in the unit that they are drawn in, and the ranges of the axes."""

    def __init__(self, curves: Sequence[BlockCurves], marks: Sequence[CapacityMark]) -> None:
        self.curves = curves
        self.marks = marks
        self.alone = len(curves) == 1
        self.left = min(float(each.cached.local_bytes[0]) for each in curves) / _LEFT
        ends = [float(curve.local_bytes[-1]) for each in curves for curve in (each.cached, each.uncached)]
        self.right = max([*ends, *(mark.local_bytes for mark in marks)]) * _RIGHT
        compulsory = [self.scaled(each.cached, each.cached.compulsory_bytes) for each in curves]
        highest = [self.scaled(c, max(c.unfused_bytes, float(c.dram_bytes[0]))) for c in (each.cached for each in curves)]
        self.bottom, self.top = min(compulsory) / 1.2, max(highest) * 1.3

    def scaled(self, curve: CapacityCurve, dram_bytes: float) -> float:
        """Bytes as drawn: as they are, or as a multiple of the curve's compulsory traffic where several are compared."""
        return dram_bytes if self.alone else dram_bytes / curve.compulsory_bytes

    def said(self, value: float) -> str:
        """A height in words."""
        return si(value, "B") if self.alone else f"{style.digits(value)} ×"

    def color(self, index: int) -> str:
        """Of one block."""
        return style.SERIES[index % len(style.SERIES)]

    def marker(self, index: int) -> str:
        """Of one block; after one round of the colours the markers have moved on."""
        count = len(style.SERIES)
        return style.SERIES_MARKERS[(index + index // count) % len(style.SERIES_MARKERS)]

    def pairs(self) -> Iterator[tuple[int, bool, CapacityCurve]]:
        """Every curve: of which block, whether weights are cached, and itself."""
        for index, each in enumerate(self.curves):
            yield index, True, each.cached
            yield index, False, each.uncached

    def said(self, value: float) -> str:
        """A height in words."""
        return si(value, "B") if self.alone else f"{style.digits(value)} ×"

    @property
    def names(self) -> str:
        """Of the blocks, each once, or how many they are."""
        *most, last = dict.fromkeys(style.plain(each.label) for each in self.curves)
        joined = f"{', '.join(most)} and {last}" if most else last
        return joined if not most or len(joined) <= _NAMES_IN_TITLE else style.count(len(most) + 1, "block")


# -- drawing -----------------------------------------------------------------------------------------------------------


def _frame(ax: Axes, scene: _Scene) -> None:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlim(scene.left, scene.right)
    ax.set_ylim(scene.bottom, scene.top)
    traffic = "DRAM traffic" if scene.alone else "DRAM traffic ÷ compulsory traffic"
    style.dress(ax, "local memory per processor (logarithmic)", f"{traffic} (logarithmic)")
    ax.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: binary(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    wide = scene.top / scene.bottom > 6
    steps = LogLocator(subs=(1.0, 2.0, 5.0), numticks=30) if wide else MaxNLocator(nbins=6, steps=[1, 2, 5, 10])
    for which, locator in ((ax.yaxis.set_major_locator, steps), (ax.yaxis.set_minor_locator, LogLocator(subs=range(2, 10)))):
        ticks = locator.tick_values(scene.bottom, scene.top)
        which(FixedLocator([tick for tick in ticks if scene.bottom <= tick <= scene.top]))  # none beside the names of the devices
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value) if scene.alone else f"{value:g} ×"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="minor", length=2, color="#aaaaaa")
    ax.grid(True, axis="y", which="major", color=style.GRID, linewidth=0.6)
    ax.set_axisbelow(True)


def _tick(value: float) -> str:
    """Bytes of a round number: 500 MB."""
    number, _, unit = si(value, "B", 4).partition(" ")
    return f"{float(number):g} {unit}"


def _staircases(ax: Axes, scene: _Scene) -> list[Artist]:
    """The curves, those whose weights come from DRAM dashed, and the space between the two."""
    drawn: list[Artist] = []
    for index, cached, curve in scene.pairs():
        x = [*curve.local_bytes, scene.right]
        y = [scene.scaled(curve, float(dram)) for dram in (*curve.dram_bytes, curve.dram_bytes[-1])]
        drawn += ax.plot(
            x,
            y,
            drawstyle="steps-post",
            color=scene.color(index),
            linestyle="-" if cached else _DASHED,
            linewidth=1.9 if cached else 1.3,
            zorder=3.5 if cached else 3,
            solid_joinstyle="miter",
            dash_joinstyle="miter",
            gid=style.gid(ax, f"{'cached' if cached else 'uncached'}-{index}"),
        )
    if scene.alone:
        low, high = scene.curves[0].cached, scene.curves[0].uncached
        at = np.union1d(low.local_bytes, high.local_bytes)
        at = np.append(at[at >= max(low.local_bytes[0], high.local_bytes[0])], scene.right)
        between = [[curve.at(float(x)) or 0.0 for x in at] for curve in (low, high)]
        drawn.append(ax.fill_between(at, *between, step="post", color="#f2f2f2", linewidth=0, zorder=0.5))
    return drawn


def _levels(ax: Axes, scene: _Scene) -> list[tuple[float, str, str]]:
    """The horizontal lines; (height, name, colour) of each."""
    names: list[tuple[float, str, str]] = []
    bottoms = dict.fromkeys(scene.scaled(each.cached, each.cached.compulsory_bytes) for each in scene.curves)
    for index, each in enumerate(scene.curves):
        level = scene.scaled(each.cached, each.cached.unfused_bytes)
        color = style.FAINT_INK if scene.alone else scene.color(index)
        _level(ax, scene, level, ":", color, f"unfused-{index}")
        said = f"unfused{' and compulsory' if level in bottoms else ''}"
        who = f"{said}\n" if scene.alone else f"{style.plain(each.label)}\n{said} "
        names.append((level, f"{who}{scene.said(level)}", color))
    for level in bottoms:
        _level(ax, scene, level, "-", style.FAINT_INK, "compulsory")
        if not any(level == other for other, _, _ in names):
            names.append((level, f"compulsory{chr(10) if scene.alone else ' '}{scene.said(level)}", style.FAINT_INK))
    return names


def _level(ax: Axes, scene: _Scene, level: float, dashes: str, color: str, name: str) -> None:
    ax.plot(
        [scene.left, scene.right],
        [level] * 2,
        color=color,
        linewidth=1.6 if dashes == ":" else 0.9,
        linestyle=dashes,
        zorder=2.5,
        gid=style.gid(ax, name),
    )


def _level_names(ax: Axes, scene: _Scene, names: Sequence[tuple[float, str, str]]) -> list[Annotation]:
    """Names of the horizontal lines, right of them."""
    return [
        ax.annotate(
            said,
            (scene.right, level),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=style.LABEL_PT,
            color=color,
            family=style.FONT,
            annotation_clip=False,
            gid="level-name",
        )
        for level, said, color in names
    ]


def _spread(ax: Axes, names: Sequence[Annotation]) -> None:
    """Push names apart upward until none covers another, lowest first."""
    point = style.root_figure(ax).dpi / 72
    floor = -inf
    for text in sorted(names, key=lambda text: text.xy[1]):
        box = text.get_window_extent()
        up = max(0.0, floor - box.y0)
        text.xyann = (5.0, up / point)
        floor = box.y1 + up + 2 * point


# -- devices -----------------------------------------------------------------------------------------------------------


def _marks(ax: Axes, scene: _Scene, staircases: Sequence[Artist]) -> None:
    """The devices: an upright line each, its name in a strip above the curves, and a dot on every staircase."""
    point, inside = style.root_figure(ax).dpi / 72, ax.get_window_extent()
    flags = []
    for mark in scene.marks:
        text = _flag_text(ax, mark)
        width = text.get_window_extent().width + 8 * point
        flags.append(Flag(text=text, x_px=ax.transData.transform((mark.local_bytes, scene.bottom))[0], width_px=width))
    rows = raise_flags(flags, inside)
    strip = min(0.6, (rows * _ROW_PT + 4) * point / inside.height) if rows else 0.0
    ax.set_ylim(scene.bottom, scene.bottom * (scene.top / scene.bottom) ** (1 / (1 - strip)))
    for artist in staircases:
        artist.set_clip_path(Rectangle((0, 0), 1, 1 - strip, transform=ax.transAxes))
    for index, (mark, flag) in enumerate(zip(scene.marks, flags, strict=True)):
        height = 1 - strip + (4 * point + (flag.row + 0.5) * _ROW_PT * point) / inside.height
        flag.text.xy = (mark.local_bytes, height)
        flag.text.xyann = (4.0 if flag.right else -4.0, 0.0)
        flag.text.set(ha="left" if flag.right else "right", multialignment="left" if flag.right else "right")
        flag.text.set_in_layout(False)
        ax.plot(
            [mark.local_bytes] * 2,
            [0, height + 0.45 * _ROW_PT * point / inside.height],
            transform=ax.get_xaxis_transform(),
            color="#8a8a8a",
            linewidth=0.9,
            zorder=2,
            gid=style.gid(ax, f"device-{index}"),
        )
        for number, (block, cached, curve) in enumerate(scene.pairs()):
            dram_bytes = curve.at(mark.local_bytes)
            if dram_bytes is not None:
                ax.plot(
                    [mark.local_bytes],
                    [scene.scaled(curve, dram_bytes)],
                    marker=scene.marker(block),
                    markersize=_MARKER_PT,
                    markerfacecolor=scene.color(block) if cached else "white",
                    markeredgecolor=scene.color(block),
                    markeredgewidth=1.2,
                    linestyle="",
                    zorder=4.5 if cached else 4,
                    gid=style.gid(ax, f"{style.TIP}{index}-{number}"),
                    label=f"_{', '.join(mark.names)}, {_figures(scene, block, cached, curve, dram_bytes)}",
                )


def _flag_text(ax: Axes, mark: CapacityMark) -> Annotation:
    """The names of a mark and its capacity, with as many names as have room."""
    for most in range(len(mark.names), 0, -1):
        more = len(mark.names) - most
        said = ", ".join(style.plain(name) for name in mark.names[:most]) + (f" and {more} more" if more else "")
        text = ax.annotate(
            f"{said}\n{binary(mark.local_bytes)}",
            (mark.local_bytes, 0.5),
            xytext=(0, 0),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            va="center",
            linespacing=1.15,
            fontsize=style.LABEL_PT + 0.5,
            color=style.INK,
            family=style.FONT,
            zorder=6,
            path_effects=[withStroke(linewidth=2.4, foreground="white")],
            gid="device-name",
        )
        if most == 1 or text.get_window_extent().width * 72 / style.root_figure(ax).dpi <= _NAMES_PT:
            break
        text.remove()
    return text


def _figures(scene: _Scene, block: int, cached: bool, curve: CapacityCurve, dram_bytes: float) -> str:
    each = scene.curves[block]
    return (
        f"{style.plain(each.label)}, weights from {'a cache' if cached else 'DRAM'}: {si(dram_bytes, 'B')},"
        f" {style.digits(dram_bytes / curve.compulsory_bytes)} × compulsory"
    )


def _crossings(ax: Axes, scene: _Scene) -> None:
    """A ring where a staircase passes below the unfused traffic, with the local memory that this takes."""
    placed = Labels(ax)
    for text in ax.texts:
        if text.get_gid() == "device-name":
            placed.take(text.get_window_extent())
    for index, cached, curve in scene.pairs():
        below = scene.curves[index].below_unfused_bytes[0 if cached else 1]
        if below is None or below == curve.local_bytes[0]:
            continue
        at = (below, scene.scaled(curve, curve.unfused_bytes))
        ax.plot(
            *[[value] for value in at],
            marker="o",
            markersize=_MARKER_PT + 2.5,
            markerfacecolor="none",
            markeredgecolor=scene.color(index),
            markeredgewidth=1.2,
            linestyle="",
            zorder=5,
            gid=style.gid(ax, f"crossing-{index}-{'cached' if cached else 'uncached'}"),
        )
        placed.take(style.around(ax, *at, _MARKER_PT + 3))
        for dx, dy, ha, va in (
            (7, 5, "left", "bottom"),
            (7, -5, "left", "top"),
            (7, 17, "left", "bottom"),
            (-7, -5, "right", "top"),
        ):
            text = ax.annotate(
                f"below unfused from {binary(below)}" if scene.alone else binary(below),
                at,
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=style.LABEL_PT,
                color=scene.color(index),
                family=style.FONT,
                zorder=6,
                path_effects=[withStroke(linewidth=2.4, foreground="white")],
                gid="crossing",
            )
            if placed.keep(text):
                break


# -- words -------------------------------------------------------------------------------------------------------------


def _block_words(each: BlockCurves) -> str:
    """A block in numbers: 64 channels, hidden 256, groups of 8, kernel 3×3."""
    block = each.cached.block
    same = block.in_channels == block.out_channels
    words = [f"{block.in_channels} channels" if same else f"{block.in_channels} → {block.out_channels} channels"]
    for field, said in (("hidden_channels", "hidden {}"), ("group_width", "groups of {}"), ("se_channels", "squeezed to {}")):
        value = getattr(block, field, None)
        if value is not None:
            words.append(said.format(value))
    kernel = getattr(block, "kernel", 3)
    words += [f"kernel {kernel}×{kernel}", *([f"stride {block.stride}"] if block.stride != 1 else [])]
    return f"{style.plain(each.label)}: {', '.join(words)}, {si(each.macs, ' MACs')}"


def _conditions(curve: CapacityCurve) -> tuple[str, str, str]:
    return f"batch {curve.shape.N}", f"{curve.shape.H} × {curve.shape.W} pixels", f"{curve.precision}"


def _words(ax: Axes, scene: _Scene, without: Sequence[str]) -> None:
    style.legend_above(ax, _handles(scene), (4, 3, 2, 1), handle_length=2.6)
    style.header(ax, f"{scene.names}: DRAM traffic against local memory", [_subtitle(scene)])
    conditions = [_conditions(each.cached) for each in scene.curves]
    if len(set(conditions)) == 1:
        said = [style.sentence([*conditions[0], *map(_block_words, scene.curves)])]
    else:
        said = [style.sentence([*own, _block_words(each)]) for own, each in zip(conditions, scene.curves, strict=True)]
    said.append(
        "A step is another tiling: the least traffic of any that fits. Weights that are loaded again come from a cache (solid) or from DRAM"
        " (dashed). Compulsory: each input, weight and output once, and what a global mean forces through DRAM."
    )
    begin = [
        f"{scene.said(first)}{'' if scene.alone else f' ({style.plain(each.label)})'}"
        for each in scene.curves
        if (first := scene.scaled(each.uncached, float(each.uncached.dram_bytes[0]))) > scene.top
    ]
    if begin:
        said.append(f"Dashed staircases begin above the plot, at {', '.join(begin)}.")
    if scene.marks:
        said.append("Upright lines: the most local memory that the device gives a processor for one block of threads.")
    if without:
        said.append(f"No figure for their local memory: {', '.join(map(style.plain, without))}.")
    style.caption(ax, said)
    style.describe(ax, _description(scene, without))


def _handles(scene: _Scene) -> list[Line2D]:
    """What the legend shows: the blocks where there are several, then what the lines mean."""
    plain = style.SERIES[0] if scene.alone else style.FAINT_INK
    handles = [
        Line2D(
            [], [], color=scene.color(index), linewidth=1.9, marker=scene.marker(index), markersize=_MARKER_PT, label=each.label
        )
        for index, each in enumerate(scene.curves)
        if not scene.alone
    ]
    handles += [
        Line2D([], [], color=plain, linewidth=1.9, label="fused, weights loaded again from a cache"),
        Line2D([], [], color=plain, linewidth=1.3, linestyle=_DASHED, label="fused, weights loaded again from DRAM"),
        Line2D([], [], color=style.FAINT_INK, linewidth=1.6, linestyle=":", label="unfused (schedule layer)"),
    ]
    if not scene.alone:
        ring = {"marker": "o", "markersize": _MARKER_PT + 2.5, "markerfacecolor": "none", "linestyle": ""}
        handles.append(Line2D([], [], markeredgecolor=style.FAINT_INK, label="below unfused from here", **ring))
    return handles


def _subtitle(scene: _Scene) -> str:
    if not scene.alone:
        said = [f"{style.plain(each.label)} {si(each.cached.compulsory_bytes, 'B')}" for each in scene.curves]
        return f"as multiples of the compulsory traffic: {', '.join(said)}"
    cached, uncached = scene.curves[0].cached, scene.curves[0].uncached
    return (
        f"unfused, {style.digits(cached.unfused_bytes / cached.compulsory_bytes)} × the compulsory traffic; fused, just the compulsory from"
        f" {binary(cached.local_bytes[-1])} with weights in a cache, from {binary(uncached.local_bytes[-1])} without"
    )


def _description(scene: _Scene, without: Sequence[str]) -> str:
    parts = []
    for each in scene.curves:
        cached, uncached = each.cached, each.uncached
        parts.append(
            f"{_block_words(each)}, {style.sentence(_conditions(cached))}: unfused {si(cached.unfused_bytes, 'B')}, compulsory"
            f" {si(cached.compulsory_bytes, 'B')}, reached from {binary(cached.local_bytes[-1])} with weights in a cache and from"
            f" {binary(uncached.local_bytes[-1])} without; {_below_words(each)}"
        )
    for mark in scene.marks:
        at = [
            f"nothing of {style.plain(scene.curves[block].label)} fits"
            if (dram_bytes := curve.at(mark.local_bytes)) is None
            else _figures(scene, block, cached, curve, dram_bytes)
            for block, cached, curve in scene.pairs()
        ]
        parts.append(f"{', '.join(mark.names)} at {binary(mark.local_bytes)}: {'; '.join(dict.fromkeys(at))}")
    if without:
        parts.append(f"no figure for their local memory: {', '.join(without)}")
    return f"Capacity plot. {'. '.join(parts)}."


def _below_words(each: BlockCurves) -> str:
    """From where each staircase is below the unfused traffic."""
    said = [
        f"{'never' if below is None else f'from {binary(below)}'} with weights from {where}"
        for below, where in zip(each.below_unfused_bytes, ("a cache", "DRAM"), strict=True)
    ]
    return f"below unfused {' and '.join(said)}"
