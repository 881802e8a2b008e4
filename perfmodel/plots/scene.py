"""What a waterline plot shows and says: its columns, where they are cut, the stages of the network, and the words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby

from perfmodel.plots import style
from perfmodel.plots.columns import Column, columns
from perfmodel.prediction import Prediction
from perfmodel.units import percent, si
from perfmodel.waterline import Bound

READING = (
    "A column's area is its ops; columns and water together are latency × peak; columns ÷ (columns + water) is the efficiency."
)


class Scene:
    """One prediction's columns, the line, and how far up the plot goes."""

    def __init__(self, prediction: Prediction, cut: float | None, *, limit: float | None = None) -> None:
        """Cut columns at `cut` times the waterline, or at `limit` ops per byte, which panels share."""
        self.prediction = prediction
        self.columns = columns(prediction)
        self.level = prediction.op_byte_ratio
        tallest = max((column.height_ops_per_byte for column in self.columns), default=0.0)
        if limit is None:
            whole = cut is None or tallest <= 1.05 * cut * self.level
            limit = max(tallest, self.level) if whole or cut is None else cut * self.level
        self.limit = limit
        """Height at which columns are cut, in ops per byte."""
        self.cut = tuple(column for column in self.columns if column.height_ops_per_byte > limit)
        self.top = max(limit * (1.14 if self.cut else 1.04), 2.2 * self.level)
        self.right = max((column.x1_bytes for column in self.columns), default=0.0)

    def height(self, column: Column) -> float:
        """How high the column is drawn."""
        return min(column.height_ops_per_byte, self.limit)

    @cached_property
    def ops(self) -> float:
        """Area of the columns."""
        return sum(column.ops for column in self.columns)

    @cached_property
    def water_ops(self) -> float:
        """Area of the water."""
        return sum(column.water_ops for column in self.columns)

    @cached_property
    def latency_s(self) -> float:
        """Σ over the columns."""
        return sum(column.time.latency_s for column in self.columns)

    @property
    def efficiency(self) -> float:
        """Columns / (columns + water), without what fused programs compute a second time."""
        full = self.ops + self.water_ops
        return (self.ops - self.prediction.recomputed_ops) / full if full else 0.0

    @property
    def hidden(self) -> float:
        """Fraction of the ops that lie above the cut."""
        above = sum((column.height_ops_per_byte - self.limit) * column.width_bytes for column in self.cut)
        return above / self.ops if self.ops else 0.0

    @cached_property
    def longest(self) -> tuple[Column, ...]:
        """The columns, those first that take most of the time."""
        return tuple(sorted(self.columns, key=lambda column: -column.time.latency_s))

    def held_by(self, bound: Bound) -> list[Column]:
        """The columns that `bound` holds."""
        return [column for column in self.columns if column.bound == bound]

    def share(self, *held: Column) -> float:
        """Fraction of the time that these columns take."""
        return sum(column.time.latency_s for column in held) / self.latency_s if self.latency_s else 0.0

    # -- words ---------------------------------------------------------------------------------------------------------

    @property
    def summary(self) -> str:
        """The figures that the plot is about."""
        return (
            f"attainable efficiency {percent(self.efficiency)} of {si(self.prediction.peak.ops_per_s, 'op/s')}"
            f" · {percent(self.share(*self.held_by('memory')))} of the time in memory-bound kernels"
            f" · {style.count(len(self.columns), 'kernel')} · {si(self.ops, 'op')} · {si(self.right, 'B')}"
        )

    @property
    def conditions(self) -> str:
        """What the plot holds for; it draws the waterline whatever the tier of the prediction."""
        said = [words for topic, words in style.conditions(self.prediction).items() if topic not in ("network", "tier")]
        other = style.other_tier(self.prediction)
        return style.sentence([*said, "tier waterline"]) + (f" ({other})" if other else "")

    @property
    def reading(self) -> list[str]:
        """How to read the plot, and what it leaves out."""
        said = []
        dry = sum(column.ops == 0 for column in self.columns)
        if dry:
            said.append(f"{style.count(dry, 'kernel')} without matrix operations: all water.")
        if self.cut:
            said.append(
                f"{style.count(len(self.cut), 'column')} cut at {style.digits(self.limit)} ops per byte (zigzag;"
                f" full height in figures where there is room): {percent(self.hidden)} of the ops lie above the cut."
            )
        again = style.recomputed(self.prediction)
        if again:
            said.append(f"{again}: in the columns, not in the efficiency.")
        return [READING, " ".join(said)] if said else [READING]

    def figures(self, column: Column) -> str:
        """One column's figures, in a line."""
        return style.plain(
            f"{column.kernel.name} ({column.kernel.kind}): {si(column.time.latency_s, 's')}, {percent(self.share(column))}"
            f" of the time, {style.BOUND_LOOKS[column.bound].label}; {si(column.ops, 'op')}, {si(column.width_bytes, 'B')},"
            f" {style.digits(column.height_ops_per_byte)} ops per byte"
        )

    @property
    def description(self) -> str:
        """The plot in words, for who cannot see it."""
        named = "; ".join(f"{column.kernel.name} {percent(self.share(column))}" for column in self.longest[:3])
        return (
            f"Waterline plot of {self.prediction.network.name} on {self.conditions}. Latency"
            f" {si(self.latency_s, 's')}; {self.summary}. The waterline lies at {style.digits(self.level)} ops per byte."
            f" Longest kernels, by share of the time: {named}."
        )


def stages(work: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """Neighbouring columns of one stage: as many leading parts of their names as tell stages apart without naming each kernel."""
    found: list[tuple[str, list[Column]]] = []
    total = sum(column.width_bytes for column in work)
    for depth in (1, 2, 3):
        groups: list[tuple[str, list[Column]]] = []
        for name, run in groupby(work, key=lambda column: _stage(column, depth)):
            groups.append((name, list(run)))
        if found and len(groups) > min(24, 0.7 * len(work)):
            break
        found = groups
        if max((sum(column.width_bytes for column in run) for _, run in groups), default=0.0) <= 0.6 * total:
            break
    return found


def _stage(column: Column, depth: int) -> str:
    where = column.kernel.block or (column.kernel.layers[0] if column.kernel.layers else column.kernel.name)
    return style.plain(".".join(where.split(".")[:depth]))
