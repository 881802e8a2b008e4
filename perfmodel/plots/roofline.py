"""The roofline plot: every kernel under the machine's roof, and what one roofline on the totals gets wrong for a sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from perfmodel.errors import PerfmodelError
from perfmodel.plots import style
from perfmodel.plots.columns import on_waterline
from perfmodel.plots.labels import Labels, Place
from perfmodel.plots.marks import marks, without_ops
from perfmodel.plots.style import BOUND_LOOKS
from perfmodel.prediction import Prediction
from perfmodel.units import percent, si
from perfmodel.waterline import Limits

AREA_PT2: Final = 2600.0
"""Area of a marker that stands for all of the time, round or square."""
SHARES: Final = (0.01, 0.05, 0.1)
"""Shares of the time that the legend shows the sizes of."""

_EDGE_PT: Final = 6.0
_NEAR: Final[tuple[Place, ...]] = ((12, -2, "left", "center"), (12, -10, "left", "top"), (-12, 4, "right", "center"))
_ABOVE: Final[tuple[Place, ...]] = (
    (12, 12, "left", "bottom"),
    (-12, 14, "right", "bottom"),
    (-12, 30, "right", "bottom"),
    (0, 30, "center", "bottom"),
)
_BELOW: Final[tuple[Place, ...]] = (
    (12, -24, "left", "top"),
    (-12, -24, "right", "top"),
    (12, -38, "left", "top"),
    (-12, -38, "right", "top"),
    (12, -52, "left", "top"),
    (0, -30, "center", "top"),
)


def plot_roofline(predictions: Prediction | Sequence[Prediction], ax: Axes | None = None) -> Axes:
    """Draw kernels and networks under the roof of their machine, on `ax` or on a new figure's axes.

    Roof: min(peak, I · bandwidth). A kernel stands at (I, ops / latency); kernels of like intensity share a marker, whose
    area is their share of the time. Of the whole network there are two points at I = Σ ops / Σ bytes: hollow, the roof
    itself, which is one roofline on the totals; filled, Σ ops / Σ latency, the sequence. The arrow between them is what a
    single roofline overlooks. Kernels without matrix operations have no place on a logarithmic axis and are counted at the
    left edge. The roof is the waterline's, and so are all times, whatever the tier of a prediction. Raises PerfmodelError
    for no predictions.
    """
    given = [predictions] if isinstance(predictions, Prediction) else list(predictions)
    if not given:
        raise PerfmodelError("there is nothing to plot; give at least one prediction")
    shown = [on_waterline(prediction) for prediction in given]
    with style.context():
        ax = style.figure(9.5, 6.2).add_subplot() if ax is None else ax
        _frame(ax, shown)
        for prediction in shown:
            _kernels(ax, prediction)
        style.settle(ax)
        _words(ax, shown, given)
        style.settle(ax)
        _room_below(ax, shown)
        style.settle(ax)
        placed = Labels(ax)
        _obstacles(ax, shown, placed)
        _without_ops(ax, shown, placed)
        for index, prediction in enumerate(shown):
            _network(ax, prediction, index, shown, placed)
        _roof_names(ax, shown, placed)
    return ax


def roofline_figure(*predictions: Prediction) -> Figure:
    """The figure of a roofline plot."""
    return style.root_figure(plot_roofline(predictions))


def _roofs(predictions: Sequence[Prediction]) -> dict[Limits, Prediction]:
    """The machines, one prediction each."""
    found: dict[Limits, Prediction] = {}
    for prediction in predictions:
        found.setdefault(Limits.waterline(prediction.device, prediction.peak), prediction)
    return found


def _rate(prediction: Prediction, latency_s: float) -> float:
    """Ops per second of the whole network, with what fused programs compute again."""
    return float(prediction.cost.ops) / latency_s if latency_s else 0.0


# -- drawing -----------------------------------------------------------------------------------------------------------


def _frame(ax: Axes, predictions: Sequence[Prediction]) -> None:
    roofs = _roofs(predictions)
    found = [mark for prediction in predictions for mark in marks(prediction)]
    intensities = [mark.intensity for mark in found] + [roof.op_byte_ratio for roof in roofs]
    left, right = min(intensities) / 3, max(intensities) * 2.5
    rates = [mark.rate_ops_per_s for mark in found] + [roof.peak_ops_per_s for roof in roofs]
    rates += [_rate(p, p.latency_s) for p in predictions if p.cost.ops > 0]
    top, bottom = max(rates) * 2.2, min(left * roof.bandwidth_bytes_per_s for roof in roofs)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    style.dress(ax, "operational intensity (ops per DRAM byte)", "attainable rate (Top/s)")
    ax.grid(True, which="major", color=style.GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    style.log_ticks(ax.xaxis, right / left, lambda value: f"{value:g}")
    style.log_ticks(ax.yaxis, top / bottom * 3, lambda value: f"{value / 1e12:g}")
    ax.tick_params(which="minor", length=2, color="#aaaaaa")
    for index, roof in enumerate(roofs):
        at = np.array([left, roof.op_byte_ratio, right])
        ax.plot(
            at,
            np.minimum(roof.peak_ops_per_s, at * roof.bandwidth_bytes_per_s),
            color=style.INK,
            linewidth=1.3,
            linestyle=("-", "--", "-.", ":")[index % 4],
            zorder=2,
            gid=style.gid(ax, f"roof-{index}"),
        )


def _room_below(ax: Axes, shown: Sequence[Prediction]) -> None:
    """Lower the axis until what has no matrix operations fits below the left end of every roof."""
    left = float(ax.get_xlim()[0])
    start = min(left * roof.bandwidth_bytes_per_s for roof in _roofs(shown))
    points = ax.get_window_extent().height * 72 / style.root_figure(ax).dpi
    share = min(0.6, (_EDGE_PT + sum(max(_diameter_pt(row.share), 12.0) + 4 for row in without_ops(shown)) + 4) / points)
    top = float(ax.get_ylim()[1])
    ax.set_ylim(10 ** ((math.log10(start) - share * math.log10(top)) / (1 - share)), top)


def _kernels(ax: Axes, prediction: Prediction) -> None:
    total = prediction.latency_s
    for bound, look in BOUND_LOOKS.items():
        held = [mark for mark in marks(prediction) if mark.bound == bound]
        if held:
            shares = [mark.latency_s / total for mark in held]
            square = AREA_PT2 if look.marker == "s" else AREA_PT2 * 4 / math.pi  # scatter sizes a marker by the square around it
            ax.scatter(
                [mark.intensity for mark in held],
                [mark.rate_ops_per_s for mark in held],
                s=[square * share for share in shares],
                marker=look.marker,
                facecolor=look.color,
                edgecolor="white",
                linewidth=[min(0.6, 0.06 * _diameter_pt(share)) for share in shares],
                alpha=0.85,
                zorder=3,
                gid=style.gid(ax, f"kernels-{bound}-{len(ax.collections)}"),
            )


def _diameter_pt(share: float) -> float:
    """Of a round marker."""
    return 2 * math.sqrt(AREA_PT2 * share / math.pi)


def _obstacles(ax: Axes, shown: Sequence[Prediction], placed: Labels) -> None:
    """Keep names off the markers and the roofs."""
    for prediction in shown:
        for mark in marks(prediction):
            side_pt = _diameter_pt(mark.latency_s / prediction.latency_s)
            placed.take(style.around(ax, mark.intensity, mark.rate_ops_per_s, side_pt))
    for roof in _roofs(shown):
        for at in np.geomspace(*ax.get_xlim(), 200):
            placed.take(style.around(ax, at, min(roof.peak_ops_per_s, at * roof.bandwidth_bytes_per_s), 2.0))


def _network(ax: Axes, prediction: Prediction, index: int, shown: Sequence[Prediction], placed: Labels) -> None:
    """The two points of the whole network, and the arrow from what one roofline says to what the sequence does."""
    if prediction.cost.ops == 0 or prediction.latency_s == 0:
        return
    at = float(prediction.cost.operational_intensity)
    alone, sequence = _rate(prediction, prediction.roofline_latency_s), _rate(prediction, prediction.latency_s)
    color = style.SERIES[index % len(style.SERIES)]
    ax.annotate(
        "",
        (at, sequence),
        (at, alone),
        arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.4, "shrinkA": 3, "shrinkB": 3, "mutation_scale": 9},
        zorder=5,
    )
    for rate, face, name in ((alone, "white", "roofline"), (sequence, color, "sequence")):
        ax.plot(
            [at],
            [rate],
            marker="D",
            markersize=6.5,
            markerfacecolor=face,
            markeredgecolor=color,
            markeredgewidth=1.6,
            linestyle="",
            zorder=6,
            gid=style.gid(ax, f"{name}-{index}"),
        )
        placed.take(style.around(ax, at, rate, 7.0))
    _, own = style.common(shown)
    who = f"{style.sentence(own[index]) or style.plain(prediction.network.name)}: " if len(shown) > 1 else ""
    peak = prediction.peak.ops_per_s
    _beside(
        ax,
        f"{who}one roofline on the totals, {percent(alone / peak)} of peak",
        (at, alone),
        color,
        placed,
        (*_NEAR, *_ABOVE, *_BELOW),
    )
    _beside(
        ax,
        f"{who}sum over its kernels, {percent(sequence / peak)} of peak, {style.digits(alone / sequence)} × as long",
        (at, sequence),
        color,
        placed,
        (*_NEAR, *_BELOW, *_ABOVE),
    )


def _beside(ax: Axes, said: str, at: tuple[float, float], color: str, placed: Labels, places: Sequence[Place]) -> None:
    """A text beside a point: on the side where there is room."""
    text = ax.annotate(
        said,
        at,
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=style.LABEL_PT + 0.5,
        color=color,
        family=style.FONT,
        zorder=7,
        path_effects=[withStroke(linewidth=2.4, foreground="white")],
        gid="name",
    )
    if not placed.place(text, places):
        text.remove()


def _roof_names(ax: Axes, shown: Sequence[Prediction], placed: Labels) -> None:
    roofs = _roofs(shown)
    for roof, prediction in roofs.items():
        who = f"{style.plain(prediction.device.name)}, " if len(roofs) > 1 else ""
        said = f"{who}{prediction.peak.dtype} peak {si(roof.peak_ops_per_s, 'op/s')}"
        text = _roof_name(ax, said, (float(ax.get_xlim()[1]), roof.peak_ops_per_s))
        flat_pt = (
            style.width_pt(ax)
            * math.log(float(ax.get_xlim()[1]) / roof.op_byte_ratio)
            / math.log(np.divide(*ax.get_xlim()[::-1]))
        )
        if not placed.place(
            text,
            [(-4.0 - along, dy, "right", "bottom") for dy in (4.0, 9.0, 14.0, 19.0) for along in np.arange(0.0, flat_pt, 20.0)],
        ):
            text.remove()
        _slanted(ax, f"{who}DRAM {si(roof.bandwidth_bytes_per_s, 'B/s')}", roof, shown)


def _roof_name(ax: Axes, said: str, at: tuple[float, float]) -> Annotation:
    return ax.annotate(
        said,
        at,
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=style.LABEL_PT + 0.5,
        color=style.INK,
        family=style.FONT,
        path_effects=[withStroke(linewidth=2.4, foreground="white")],
        gid="roof-name",
    )


def _slanted(ax: Axes, said: str, roof: Limits, shown: Sequence[Prediction]) -> None:
    """The bandwidth along the sloping roof, where the nearest marker is farthest away (its upright box would say nothing)."""
    point = style.root_figure(ax).dpi / 72
    (x0, y0), (x1, y1) = ax.transData.transform(
        [(at, at * roof.bandwidth_bytes_per_s) for at in (float(ax.get_xlim()[0]), roof.op_byte_ratio)]
    )
    text = _roof_name(ax, said, (roof.op_byte_ratio, roof.peak_ops_per_s))
    length, half = math.hypot(x1 - x0, y1 - y0), text.get_window_extent().width / 2 + 12 * point
    if length < 2 * half:
        text.remove()
        return
    taken = [
        (
            ax.transData.transform((mark.intensity, mark.intensity * roof.bandwidth_bytes_per_s))[0],
            _diameter_pt(mark.latency_s / prediction.latency_s) / 2 * point,
        )
        for prediction in shown
        for mark in marks(prediction)
        if mark.bound == "memory"
    ]
    slope = math.atan2(y1 - y0, x1 - x0)

    def clearance(along: float) -> float:
        x = x0 + along * math.cos(slope)
        return min((abs(x - at) / math.cos(slope) - radius for at, radius in taken), default=0.0)

    best = max(np.linspace(half, length - half, 60), key=clearance)
    place = ax.transData.inverted().transform((x0 + best * math.cos(slope), y0 + best * math.sin(slope)))
    beside = [radius for at, radius in taken if abs(at - x0 - best * math.cos(slope)) < half * math.cos(slope) + radius]
    away = max([9.0, *(radius / point + 6 for radius in beside)])
    text.xy, text.xyann = (float(place[0]), float(place[1])), (-away * math.sin(slope), away * math.cos(slope))
    text.set(ha="center", va="center", rotation=math.degrees(slope), rotation_mode="anchor")
    text.set_in_layout(False)


def _without_ops(ax: Axes, shown: Sequence[Prediction], placed: Labels) -> None:
    """Kernels with no matrix operations: at the left edge, as large as their share of the time."""
    rows = without_ops(shown)
    look = BOUND_LOOKS["memory"]
    window, point = ax.get_window_extent(), style.root_figure(ax).dpi / 72
    widest_pt = max((_diameter_pt(row.share) / 2 for row in rows), default=0.0)
    y_pt = _EDGE_PT
    for row in reversed(rows):
        half = max(_diameter_pt(row.share) / 2, 6.0)
        y_pt += half
        ax.plot(
            [(_EDGE_PT + widest_pt) * point / window.width],
            [y_pt * point / window.height],
            transform=ax.transAxes,
            marker=look.marker,
            markersize=_diameter_pt(row.share),
            markerfacecolor="white",
            markeredgecolor=look.color,
            markeredgewidth=1.2,
            linestyle="",
            zorder=4,
            gid=style.gid(ax, f"no-ops-{len(ax.lines)}"),
        )
        text = ax.annotate(
            row.said,
            (0, 0),
            xytext=(_EDGE_PT + 2 * widest_pt + 6, y_pt),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=style.LABEL_PT + 0.5,
            color=style.INK,
            family=style.FONT,
            zorder=7,
            path_effects=[withStroke(linewidth=2.4, foreground="white")],
            gid="no-ops",
        )
        text.set_in_layout(False)
        placed.take(text.get_window_extent())
        y_pt += half + 4


# -- words -------------------------------------------------------------------------------------------------------------


def _words(ax: Axes, shown: Sequence[Prediction], given: Sequence[Prediction]) -> None:
    """Legend, titles, small print; `given` are the predictions in the tiers that they were made in."""
    handles = [
        Line2D(
            [], [], marker=look.marker, color=look.color, markeredgecolor="white", markersize=8, linestyle="", label=look.label
        )
        for look in BOUND_LOOKS.values()
    ]
    handles += [
        Line2D(
            [],
            [],
            marker="o",
            color="white",
            markeredgecolor=style.FAINT_INK,
            markersize=_diameter_pt(share),
            linestyle="",
            label=f"{100 * share:g} % of the time",
        )
        for share in SHARES
    ]
    style.legend_above(ax, handles, (5, 3, 2, 1), row_gap=1.0)
    names = " and ".join(dict.fromkeys(style.plain(prediction.network.name) for prediction in shown))
    first = shown[0]
    subtitle = (
        f"{si(first.latency_s, 's')} at batch {first.network.batch}; one roofline on the totals would say"
        f" {si(first.roofline_latency_s, 's')}"
        if len(shown) == 1
        else "each network twice: as one roofline on its totals, and as the sequence of kernels that it is"
    )
    style.header(ax, f"{names}: roofline", [subtitle])
    shared, own = style.common(shown)
    others = style.apart(map(style.other_tier, given), own)
    again = style.apart(map(style.recomputed, shown), own)
    said = [
        style.sentence(shared) + (f" ({others})" if others else ""),
        "A marker is a kernel, or kernels of like intensity (within 2 %); its area is their share of the time. Diamonds are"
        " whole networks: one roofline on the totals lets compute-bound kernels hide memory-bound ones; the sum over"
        " kernels does not.",
    ]
    if again:
        said.append(f"{again}; the rates count them.")
    style.caption(ax, said, below_pt=42)
    parts = [
        f"{style.sentence([*style.conditions(p).values()])}:"
        f" {style.count(len(p.times), 'kernel')},"
        f" {percent(p.share_bound_by('memory'))} of the time memory-bound;"
        f" {percent(_rate(p, p.latency_s) / p.peak.ops_per_s)} of peak as a sequence of kernels,"
        f" {percent(_rate(p, p.roofline_latency_s) / p.peak.ops_per_s)} by one roofline on the totals"
        for p in shown
    ]
    style.describe(ax, f"Roofline plot. {'; '.join(parts)}.")
