"""The capacity plot: DRAM traffic of fused blocks against the local memory of a processor, with devices marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.plots import style
from perfmodel.plots.curves import BlockCurves, CapacityMark, CapacityScene, binary
from perfmodel.plots.flags import Flag, raise_flags
from perfmodel.plots.labels import Labels
from perfmodel.units import si

EXCESS: Final = 1.05
"""From this multiple of the compulsory traffic on, what a lone block moves on a device stands beside its dot."""

_DASHED: Final = (0, (4.0, 1.8))
_MARKER_PT: Final = 5.5
_RING_PT: Final = 8.0
_ROW_PT: Final = 24.0
_NAMES_PT: Final = 110.0


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
    scene = CapacityScene(shown, devices)
    with style.context():
        ax = style.figure(10, 6.2).add_subplot() if ax is None else ax
        _frame(ax, scene)
        staircases = _staircases(ax, scene)
        levels = _levels(ax, scene)
        style.settle(ax)
        style.legend_above(ax, _handles(scene), (4, 3, 2, 1), handle_length=2.6)
        style.header(ax, scene.title, [scene.subtitle])
        style.caption(ax, scene.caption)
        style.describe(ax, scene.description)
        names = _level_names(ax, scene, levels)
        style.settle(ax)
        _marks(ax, scene, staircases)
        style.settle(ax)
        _spread(ax, names)
        placed = Labels(ax, taken=[text.get_window_extent() for text in ax.texts if text.get_gid() == "device-name"])
        _crossings(ax, scene, placed)
        _excesses(ax, scene, placed)
    return ax


def capacity_figure(curves: BlockCurves | Sequence[BlockCurves], devices: Iterable[DeviceSpec | str] = ()) -> Figure:
    """The figure of a capacity plot."""
    return style.root_figure(plot_capacity(curves, devices))


# -- drawing -----------------------------------------------------------------------------------------------------------


def _color(block: int) -> str:
    return style.SERIES[block % len(style.SERIES)]


def _marker(block: int) -> str:
    """After one round of the colours the markers have moved on."""
    return style.SERIES_MARKERS[(block + block // len(style.SERIES)) % len(style.SERIES_MARKERS)]


def _frame(ax: Axes, scene: CapacityScene) -> None:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlim(scene.left, scene.right)
    ax.set_ylim(scene.bottom, scene.top)
    traffic = "DRAM traffic" if scene.alone else "DRAM traffic ÷ compulsory traffic"
    style.dress(ax, "local memory per processor (logarithmic)", f"{traffic} (logarithmic)")
    ax.xaxis.set_major_locator(LogLocator(base=2, numticks=11))
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


def _staircases(ax: Axes, scene: CapacityScene) -> list[Artist]:
    """The curves, those whose weights come from DRAM dashed, and the space between the two."""
    drawn: list[Artist] = []
    for index, cached, curve in scene.staircases:
        x = [*curve.local_bytes, scene.right]
        y = [scene.scaled(curve, float(dram)) for dram in (*curve.dram_bytes, curve.dram_bytes[-1])]
        drawn += ax.plot(
            x,
            y,
            drawstyle="steps-post",
            color=_color(index),
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
        below, above = ([curve.at(float(x)) or 0.0 for x in at] for curve in (low, high))
        drawn.append(ax.fill_between(at, below, above, step="post", color="#f2f2f2", linewidth=0, zorder=0.5))
    return drawn


def _levels(ax: Axes, scene: CapacityScene) -> list[tuple[float, str, str]]:
    """The horizontal lines; (height, name, colour) of each."""
    names: list[tuple[float, str, str]] = []
    bottoms = dict.fromkeys(scene.scaled(each.cached, each.cached.compulsory_bytes) for each in scene.curves)
    for index, each in enumerate(scene.curves):
        level = scene.scaled(each.cached, each.cached.unfused_bytes)
        color = style.FAINT_INK if scene.alone else _color(index)
        _level(ax, scene, level, ":", color, f"unfused-{index}")
        said = f"unfused{' and compulsory' if level in bottoms else ''}"
        who = f"{said}\n" if scene.alone else f"{style.plain(each.label)}\n{said} "
        names.append((level, f"{who}{scene.said(level)}", color))
    for level in bottoms:
        _level(ax, scene, level, "-", style.FAINT_INK, "compulsory")
        if not any(level == other for other, _, _ in names):
            names.append((level, f"compulsory{chr(10) if scene.alone else ' '}{scene.said(level)}", style.FAINT_INK))
    return names


def _level(ax: Axes, scene: CapacityScene, level: float, dashes: str, color: str, name: str) -> None:
    ax.plot(
        [scene.left, scene.right],
        [level] * 2,
        color=color,
        linewidth=1.6 if dashes == ":" else 0.9,
        linestyle=dashes,
        zorder=2.5,
        gid=style.gid(ax, name),
    )


def _level_names(ax: Axes, scene: CapacityScene, names: Sequence[tuple[float, str, str]]) -> list[Annotation]:
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


def _marks(ax: Axes, scene: CapacityScene, staircases: Sequence[Artist]) -> None:
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
        for number, drawn in enumerate(scene.staircases):
            block, cached, curve = drawn
            dram_bytes = curve.at(mark.local_bytes)
            if dram_bytes is not None:
                ax.plot(
                    [mark.local_bytes],
                    [scene.scaled(curve, dram_bytes)],
                    marker=_marker(block),
                    markersize=_MARKER_PT,
                    markerfacecolor=_color(block) if cached else "white",
                    markeredgecolor=_color(block),
                    markeredgewidth=1.2,
                    linestyle="",
                    zorder=4.5 if cached else 4,
                    gid=style.gid(ax, f"{style.TIP}{index}-{number}"),
                    label=f"_{', '.join(mark.names)}, {scene.figures(drawn, mark)}",
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


def _crossings(ax: Axes, scene: CapacityScene, placed: Labels) -> None:
    """A ring where a staircase passes below the unfused traffic, with the local memory that this takes."""
    for block, cached, curve in scene.staircases:
        below = scene.curves[block].below_unfused_bytes[0 if cached else 1]
        if below is None or below == curve.local_bytes[0]:
            continue
        x, y = below, scene.scaled(curve, curve.unfused_bytes)
        ax.plot(
            [x],
            [y],
            marker="o",
            markersize=_RING_PT,
            markerfacecolor="none",
            markeredgecolor=_color(block),
            markeredgewidth=1.2,
            linestyle="",
            zorder=5,
            gid=style.gid(ax, f"crossing-{'cached' if cached else 'uncached'}-{block}"),
        )
        placed.take(style.around(ax, x, y, _RING_PT))
        _note(ax, f"below unfused from {binary(below)}" if scene.alone else binary(below), (x, y), _color(block), placed)


def _excesses(ax: Axes, scene: CapacityScene, placed: Labels) -> None:
    """How much more than the compulsory traffic a lone block moves on the devices; once for neighbours with the same."""
    for _, _, curve in scene.staircases if scene.alone else ():
        last = ""
        for mark in scene.marks:
            dram_bytes = curve.at(mark.local_bytes)
            ratio = "" if dram_bytes is None else f"{style.digits(dram_bytes / curve.compulsory_bytes)} ×"
            if dram_bytes is not None and dram_bytes >= EXCESS * curve.compulsory_bytes and ratio != last:
                placed.take(style.around(ax, mark.local_bytes, dram_bytes, _MARKER_PT))
                _note(ax, ratio, (mark.local_bytes, dram_bytes), style.INK, placed)
            last = ratio


def _note(ax: Axes, said: str, at: tuple[float, float], color: str, placed: Labels) -> None:
    """A text beside a point of a falling staircase: above it on the right if there is room, or below it on the left."""
    for dx, dy in ((5, 3), (-5, -3), (5, 13), (-5, -13)):
        text = ax.annotate(
            said,
            at,
            xytext=(dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right",
            va="bottom" if dy > 0 else "top",
            fontsize=style.LABEL_PT,
            color=color,
            family=style.FONT,
            zorder=6,
            path_effects=[withStroke(linewidth=2.4, foreground="white")],
            gid="note",
        )
        if placed.keep(text):
            return


# -- words -------------------------------------------------------------------------------------------------------------


def _legend_name(label: str) -> str:
    """A legend leaves out what begins with an underscore."""
    return f" {style.plain(label)}" if label.startswith("_") else style.plain(label)


def _handles(scene: CapacityScene) -> list[Line2D]:
    """What the legend shows: the blocks where there are several, then what the lines mean."""
    plain = style.SERIES[0] if scene.alone else style.FAINT_INK
    handles = [
        Line2D(
            [],
            [],
            color=_color(index),
            linewidth=1.9,
            marker=_marker(index),
            markersize=_MARKER_PT,
            label=_legend_name(each.label),
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
        ring = Line2D(
            [], [], marker="o", markersize=_RING_PT, markerfacecolor="none", markeredgecolor=style.FAINT_INK, linestyle=""
        )
        ring.set_label("below unfused from here")
        handles.append(ring)
    return handles
