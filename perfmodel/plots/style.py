"""How every plot looks and speaks: one colour, hatch and marker per bound, the fonts, the units, and the caption line."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from perfmodel.prediction import Prediction
from perfmodel.units import percent, si
from perfmodel.waterline import Bound

FONT: Final = "DejaVu Sans"
"""Comes with matplotlib, so a plot is set alike everywhere."""
INK: Final = "#1a1a1a"
FAINT_INK: Final = "#555555"
GRID: Final = "#dddddd"

TITLE_PT: Final = 13.0
SUBTITLE_PT: Final = 9.5
AXIS_PT: Final = 9.0
LABEL_PT: Final = 7.5
CAPTION_PT: Final = 7.5

DPI: Final = 160

TIP: Final = "kernel-"
"""Beginning of the ids of areas that carry a kernel's figures, which an SVG shows under the pointer."""

RC: Final = {
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "svg.hashsalt": "perfmodel",
    "svg.fonttype": "path",
    "text.hinting": "none",  # as wide in a file as where it was measured
    "hatch.linewidth": 0.5,
    "font.family": FONT,
    "savefig.dpi": DPI,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one thing is drawn everywhere. Lightness, hatch and marker differ between looks, so that grey tells them apart."""

    label: str
    color: str
    hatch: str
    hatch_color: str
    marker: str


BOUND_LOOKS: Final[dict[Bound, Look]] = {
    "arithmetic": Look(label="compute-bound", color="#E69F00", hatch="////", hatch_color="#c98b00", marker="s"),
    "memory": Look(label="memory-bound", color="#0072B2", hatch="", hatch_color="#0072B2", marker="o"),
}
"""Orange and blue of the palette of Okabe and Ito (2008), relative luminance 0.43 and 0.15."""
WATER: Final = Look(label="water", color="#d3eafa", hatch="--", hatch_color="#a5d3f2", marker="")
"""Sky blue of the same palette, made light: relative luminance 0.80."""

SERIES: Final = ("#000000", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f", "#6b4c9a")
"""Colours of what is no bound (families, whole networks): Okabe and Ito's, then grey and violet. Markers differ too."""
SERIES_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


@contextmanager
def context() -> Iterator[None]:
    """Matplotlib's own defaults and ours, for the time of a plot; the caller's settings are left as they were."""
    with matplotlib.style.context(["default", RC]):
        yield


def figure(width_in: float, height_in: float) -> Figure:
    """An empty figure with no window behind it."""
    made = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    made.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(made)
    return made


def root_figure(ax: Axes) -> Figure:
    """The figure that holds `ax`, also from within a subfigure."""
    found: Figure | SubFigure | None = ax.figure
    while isinstance(found, SubFigure):
        found = found.figure
    assert isinstance(found, Figure)  # an Axes always has one
    return found


def gid(ax: Axes, name: str) -> str:
    """An id that no other axes of the figure uses: "water-0"."""
    return f"{name}-{root_figure(ax).axes.index(ax)}"


def settle(ax: Axes) -> None:
    """Let the layout engine place everything, so that extents in pixels can be asked for."""
    root_figure(ax).draw_without_rendering()


def around(ax: Axes, x: float, y: float, side_pt: float) -> Bbox:
    """The square around a point of the axes, in pixels; its side in points."""
    at_x, at_y = ax.transData.transform((x, y))
    side = side_pt * root_figure(ax).dpi / 72
    return Bbox.from_bounds(at_x - side / 2, at_y - side / 2, side, side)


def width_pt(ax: Axes) -> float:
    """Width of the axes in points."""
    return float(ax.get_window_extent().width) * 72 / root_figure(ax).dpi


# -- words and numbers -------------------------------------------------------------------------------------------------


def digits(value: float) -> str:
    """Three significant digits, or all of a larger number's: 3.21, 206, 1152."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def plain(name: str) -> str:
    """A name with what cannot be printed, and no XML may hold, replaced."""
    return "".join(character if character.isprintable() else "?" for character in name)


def shorten(name: str, most: int) -> str:
    """A long name with its middle left out: its end says more than its beginning."""
    name = plain(name)
    if len(name) <= most:
        return name
    head = most // 3
    return f"{name[:head]}…{name[-(most - head - 1) :]}"


def conditions(prediction: Prediction) -> dict[str, str]:
    """What a prediction holds for, in words, by topic."""
    size = prediction.network.resolution
    return {
        "network": plain(prediction.network.name),
        "hardware": plain(prediction.device.name),
        "batch": f"batch {prediction.network.batch}",
        "resolution": f"{size} × {size} pixels",
        "type": str(prediction.precision),
        "layout": f"layout {prediction.layout}",
        "schedule": f"schedule {prediction.schedule}",
        "tier": f"tier {prediction.tier}",
    }


def common(predictions: Sequence[Prediction], *, apart: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """What all predictions share, and what each has of its own, in words; without topics in `apart` and a shared network."""
    said = [conditions(prediction) for prediction in predictions]
    topics = [topic for topic in said[0] if topic not in apart]
    shared = [topic for topic in topics if len({each[topic] for each in said}) == 1]
    own = [[each[topic] for topic in topics if topic not in shared] for each in said]
    return [said[0][topic] for topic in shared if topic != "network"], own


def count(number: int, noun: str) -> str:
    """1 kernel, 2 kernels."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def apart(said: Iterable[str], own: Sequence[Sequence[str]]) -> str:
    """What is said of some predictions, each after what sets it apart: "schedule block: …; …"."""
    return "; ".join(f"{sentence(words)}: {each}" if words else each for each, words in zip(said, own, strict=True) if each)


def span(fractions: Sequence[float]) -> str:
    """Fractions as percentages, in one statement: "10.4 %" where all look alike, else "0 to 43.2 %"."""
    low, high = percent(min(fractions)), percent(max(fractions))
    return low if low == high else f"{'0' if low == '0.0 %' else low.removesuffix(' %')} to {high}"


def other_tier(prediction: Prediction) -> str:
    """The latency of a prediction of another tier than the one that is drawn; empty for tier waterline."""
    return "" if prediction.tier == "waterline" else f"tier {prediction.tier} predicts {si(prediction.latency_s, 's')}"


def recomputed(prediction: Prediction) -> str:
    """Which share of the ops fused programs do again, where tiles overlap; empty if none."""
    if prediction.recomputed_ops <= 0:
        return ""
    share = prediction.recomputed_ops / float(prediction.cost.ops)
    said = percent(share) if share >= 0.0005 else "Less than 0.1 %"
    return f"{said} of the ops are halos computed again"


def sentence(parts: Sequence[str]) -> str:
    """Parts of a caption in one line."""
    return " · ".join(parts)


# -- furniture ---------------------------------------------------------------------------------------------------------


def wrap(lines: Sequence[str], points: float, size_pt: float) -> str:
    """`lines` broken so that each fits into `points` at the font size."""
    most = max(24, int(points / (0.52 * size_pt)))  # mean advance of DejaVu Sans
    return "\n".join(part for line in lines for part in textwrap.wrap(line, most) or [""])


def header(ax: Axes, title: str, subtitle: Sequence[str]) -> None:
    """Title and subtitle, left-aligned above the axes and above its legend, if that stands there too."""
    above_pt = 5.0
    legend = ax.get_legend()
    if legend is not None:
        settle(ax)
        above_pt += (legend.get_window_extent().y1 - ax.get_window_extent().y1) * 72 / root_figure(ax).dpi
    text = wrap(subtitle, width_pt(ax), SUBTITLE_PT)
    ax.annotate(
        text,
        (0, 1),
        xytext=(0, above_pt),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=SUBTITLE_PT,
        color=FAINT_INK,
        va="bottom",
        family=FONT,
        linespacing=1.3,
        annotation_clip=False,
        gid="subtitle",
    )
    rows = text.count("\n") + 1 if text else 0
    ax.set_title(
        plain(title),
        loc="left",
        fontsize=TITLE_PT,
        fontweight="bold",
        color=INK,
        family=FONT,
        pad=above_pt + rows * SUBTITLE_PT * 1.45 + 3,
    )


def legend_above(
    ax: Axes,
    handles: Sequence[Artist],
    columns: Sequence[int],
    *,
    handle_length: float = 1.8,
    row_gap: float = 0.5,
    by_row: bool = False,
) -> None:
    """A legend above the axes, in the first of these numbers of columns in which it is no wider than the axes.

    Entries run down the columns, or along the rows where `by_row` is set.
    """
    for count_of_columns in columns:
        legend = ax.legend(
            handles=[handle for start in range(count_of_columns) for handle in handles[start::count_of_columns]]
            if by_row
            else handles,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            borderaxespad=0.4,
            ncols=count_of_columns,
            frameon=False,
            prop={"family": FONT, "size": LABEL_PT + 0.5},
            handlelength=handle_length,
            columnspacing=1.6,
            labelspacing=row_gap,
            borderpad=0.1,
        )
        # A legend wider than the axes would make the layout engine narrow the axes, without end.
        if legend.get_window_extent().width <= ax.get_window_extent().width:
            return


def caption(ax: Axes, lines: Sequence[str], *, below_pt: float = 40) -> None:
    """Small print, left-aligned below the axes and their ticks."""
    ax.annotate(
        wrap(lines, width_pt(ax), CAPTION_PT),
        (0, 0),
        xytext=(0, -below_pt),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=CAPTION_PT,
        color=FAINT_INK,
        va="top",
        family=FONT,
        linespacing=1.35,
        annotation_clip=False,
        gid="caption",
    )


def dress(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Axis labels, ticks and spines."""
    ax.set_facecolor("white")
    ax.set_xlabel(xlabel, fontsize=AXIS_PT, color=INK, family=FONT)
    ax.set_ylabel(ylabel, fontsize=AXIS_PT, color=INK, family=FONT)
    ax.tick_params(labelsize=AXIS_PT - 0.5, colors=INK, labelfontfamily=FONT)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#888888")


def log_ticks(axis: Axis, span: float, show: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis: at every decade, and at 2 and 5 where it spans few."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 3000 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axis.set_minor_locator(LogLocator(subs=range(2, 10)))
    axis.set_minor_formatter(NullFormatter())


def describe(ax: Axes, text: str) -> None:
    """Store the text alternative of a plot on its axes; `save` writes it into the file."""
    ax.set_label(plain(text))


def description(ax: Axes) -> str:
    """The text alternative of a plot."""
    return str(ax.get_label())


def caption_text(ax: Axes) -> str:
    """What the caption of a plot says, in one line."""
    return " ".join(text.get_text().replace("\n", " ") for text in ax.texts if text.get_gid() == "caption")
