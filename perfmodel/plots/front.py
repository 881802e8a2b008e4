"""The front plot: the best designs of a search by two objectives, coloured by the choice that divides them most evenly."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from perfmodel.design.search import Objective, Search, SearchResult
from perfmodel.errors import PerfmodelError
from perfmodel.plots import style
from perfmodel.units import percent, si

_MARKER_PT: Final = 4.2
_SMALL_PT: Final = 2.4
_MOST_KINDS: Final = 5
_MOST_CONSTRAINTS: Final = 2
_UNITS: Final = {"latency": "s", "bytes": "B"}


def check_objectives(search: Search) -> None:
    """Raise PerfmodelError for a search whose front no plane shows."""
    if len(search.objectives) != 2:
        raise PerfmodelError(
            f"a front plot shows two objectives, this search has {len(search.objectives)}; leave the plot out, or drop some"
        )


def plot_front(result: SearchResult, ax: Axes | None = None) -> Axes:
    """Draw the front of a search with two objectives, the first along the horizontal axis, both logarithmic where they are positive.

    Designs are coloured by the category (kind of block) that divides the front most evenly; the line is the front's staircase: no design of
    the space lies beyond it. Raises PerfmodelError for another number of objectives.
    """
    check_objectives(result.search)
    objectives = result.search.objectives
    signs = np.array([-1.0 if item.maximise else 1.0 for item in objectives])
    points = result.front.values * signs
    groups, what = _groups(result)
    with style.context():
        ax = style.figure(9, 5.6).add_subplot() if ax is None else ax
        for column, scale in zip(points.T, (ax.set_xscale, ax.set_yscale), strict=True):
            if (column > 0).all() and len(column) > 1 and column.max() > 3 * column.min():
                scale("log")
        style.dress(ax, *(_label(item) for item in objectives))
        for axis, item, column in zip((ax.xaxis, ax.yaxis), objectives, points.T, strict=True):
            if axis.get_scale() == "log":
                style.log_ticks(axis, float(column.max() / column.min()), lambda value, item=item: _shown(item, value))  # type: ignore[misc]
            else:
                axis.set_major_formatter(lambda value, _, item=item: _shown(item, value))  # type: ignore[misc]
        ax.step(points[:, 0], points[:, 1], where="post", color="#9a9a9a", linewidth=0.9, zorder=2, gid="front")
        handles = []
        marker_pt = _MARKER_PT if len(points) <= 150 else _SMALL_PT
        for number, (name, members) in enumerate(groups.items()):
            look = {
                "marker": style.SERIES_MARKERS[number % len(style.SERIES_MARKERS)],
                "markersize": marker_pt,
                "color": style.SERIES[(number + 1) % len(style.SERIES)],
                "linestyle": "",
            }
            ax.plot(points[members, 0], points[members, 1], **look, zorder=3, gid=style.gid(ax, f"designs-{number}"))  # type: ignore[arg-type]
            handles.append(Line2D([], [], **{**look, "markersize": 5.0}, label=style.plain(name)))  # type: ignore[arg-type]
        ax.grid(True, which="major", color=style.GRID, linewidth=0.6)
        ax.set_axisbelow(True)
        style.settle(ax)
        if len(groups) > 1:
            style.legend_above(ax, handles, (len(groups), 3, 2, 1))
        space = result.search.space
        devices = ", ".join(style.plain(device.name) for device in space.devices)
        whole = f"all {space.size:,} designs" if result.exhaustive else f"{result.evaluated:,} of {space.size:,} designs"
        style.header(ax, "Pareto front of a design space", [f"{whole} · {devices} · {space.dtype}, schedule {space.schedule}"])
        given = [item.text for item in result.search.constraints]
        met = ", ".join(given[:_MOST_CONSTRAINTS]) or "every constraint"
        met += f" and {len(given) - _MOST_CONSTRAINTS} more" if len(given) > _MOST_CONSTRAINTS else ""
        style.caption(
            ax,
            [
                f"{len(points)} designs that no other one dominates, of {result.feasible:,} that meet {met}."
                + (f" Colours: {what}." if len(groups) > 1 else ""),
            ],
        )
        first, last = points[0], points[-1]
        ends = "; ".join(
            f"{item.text} from {_shown(item, first[k])} to {_shown(item, last[k])}" for k, item in enumerate(objectives)
        )
        style.describe(ax, f"Pareto front of {len(points)} designs: {ends}.")
    return ax


def front_figure(result: SearchResult) -> Figure:
    """The figure of a front plot."""
    return style.root_figure(plot_front(result))


def _groups(result: SearchResult) -> tuple[dict[str, list[int]], str]:
    """Places on the front by the category that divides it most evenly, and what that category is."""
    space = result.search.space
    designs = [space.design(int(number)) for number in result.front.index]
    best: tuple[dict[str, list[int]], str] = ({"designs": list(range(len(designs)))}, "")
    most = 0
    for name in space.categories:
        found: dict[str, list[int]] = {}
        for place, design in enumerate(designs):
            found.setdefault(str(design[name]), []).append(place)
        second = sorted(map(len, found.values()))[-2] if 1 < len(found) <= _MOST_KINDS else 0
        if second > most:
            best, most = (found, name), second
    return best


def _label(item: Objective) -> str:
    return f"{style.plain(item.text)} ({'more' if item.maximise else 'less'} is better)"


def _shown(item: Objective, value: float) -> str:
    stem = item.text.partition("[")[0]
    if stem == "efficiency":
        return percent(value)
    return si(value, _UNITS.get(stem, "")).rstrip() if stem.isalpha() else style.digits(value)
