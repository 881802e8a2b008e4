"""Predicted against measured: one mark for each case, the diagonal, the names of those furthest off, and how errors are spread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED: Final = 6
"""Cases furthest off that a plot names, at most;"""
NAMED_SHARE: Final = 0.25
"""and of few cases no more than this share."""
MOST_PERCENT: Final = 40
"""Errors beyond are counted at the ends."""
COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito: told apart by people who see colours differently."""
FAINT: Final = "#999999"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement and its prediction, in the same unit, both positive."""

    measured: float
    predicted: float
    names: tuple[str, ...]
    """What it is called, from the most telling: as many are shown as tell it apart from the others that are named."""

    @property
    def error(self) -> float:
        """predicted / measured − 1."""
        return self.predicted / self.measured - 1


def agreement_plot(
    title: str,
    what: str,
    series: Mapping[str, Sequence[Case]],
    *,
    beside: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Figure:
    """Draw series of cases by their labels; `what` is the quantity with its unit, as in "latency, ms".

    `beside` are pairs (measured, predicted) by another predictor, which are drawn faint and enter neither names nor errors.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    cases = [case for members in series.values() for case in members]
    others = [pair for pairs in (beside or {}).values() for pair in pairs]
    for name, pairs in (beside or {}).items():
        left.scatter(*zip(*pairs, strict=True), s=9, color=FAINT, linewidths=0, label=name)
    for color, (name, members) in zip(cycle(COLORS), series.items(), strict=False):
        points = [(case.measured, case.predicted) for case in members]
        left.scatter(*zip(*points, strict=True), s=9, color=color, linewidths=0, label=name)
    across = _ends([case.measured for case in cases] + [measured for measured, _ in others])
    up = _ends([*across, *(case.predicted for case in cases), *(predicted for _, predicted in others)])
    left.plot(across, across, color="black", linewidth=0.8)
    left.set(xscale="log", yscale="log", xlim=across, ylim=up, xlabel=f"measured {what}", ylabel=f"predicted {what}")
    left.legend(frameon=False, loc="upper left")
    count = min(NAMED, math.ceil(NAMED_SHARE * len(cases)))
    furthest = sorted(sorted(cases, key=lambda case: -abs(case.error))[:count], key=lambda case: case.predicted)
    # in the corner that no mark reaches, in the order of their marks, so that leaders do not cross
    for line, (case, name) in enumerate(zip(furthest, _told_apart(furthest), strict=True)):
        left.annotate(
            name,
            (case.measured, case.predicted),
            xytext=(0.98, 0.03 + 0.045 * line),
            textcoords="axes fraction",
            horizontalalignment="right",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "#666666", "linewidth": 0.5, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 1},
        )
    errors = [[max(-MOST_PERCENT, min(MOST_PERCENT, 100 * case.error)) for case in members] for members in series.values()]
    bins = [-MOST_PERCENT + 2 * i for i in range(MOST_PERCENT + 1)]
    right.hist(errors, bins=bins, color=list(islice(cycle(COLORS), len(errors))), stacked=True)
    right.yaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel=f"error, % (beyond ±{MOST_PERCENT} at the ends)", ylabel="cases", xlim=(-MOST_PERCENT, MOST_PERCENT))
    figure.suptitle(title)
    return figure


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Of an axis on which all of them lie."""
    return min(values) * 0.8, max(values) * 1.25


def _told_apart(cases: Sequence[Case]) -> list[str]:
    """As many of a case's names as tell it apart from the others; all of them where none do."""
    found = []
    for case in cases:
        for count in range(1, len(case.names) + 1):
            if Counter(one.names[:count] for one in cases)[case.names[:count]] == 1:
                break
        found.append(", ".join(case.names[:count]))
    return found
