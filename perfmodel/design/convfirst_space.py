"""The space that co-design searches: ConvFirstNets by first width and depths, their exact counts, and which of them meet a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.networks.convfirstnet import RESOLUTION, STAGES, add_stages
from perfmodel.precision import Precision
from perfmodel.schedule import AUTO
from perfmodel.units import si

Depths = tuple[int, int, int, int]
Quantity = Literal["MACs", "parameters"]

FAMILY_BATCH: Final = 128
TOLERANCE: Final = 0.015
"""How far a design may be from its budget."""
WIDTH_STEP: Final = 16
"""Channels that the matrix unit takes at a time; the stem, half as wide, then has whole groups of 8."""
WIDTHS: Final = (16, 256)
CLASSES: Final = 1000
THIRD: Final = 2
"""The stage whose depth is chosen by itself, as in ConvNeXt."""


class BudgetError(PerfmodelError):
    """A budget below what the smallest design needs: says what that is."""

    exit_code = 3


class DesignError(PerfmodelError):
    """A question without an answer: no design meets all constraints; says which are in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: the machine, the budget, and the bounds on the shape of a design."""

    device: DeviceSpec
    precision: Precision
    macs: int | None
    """Multiply-accumulates for one image, or None."""
    params: int | None
    batch: int = FAMILY_BATCH
    resolution: int = RESOLUTION
    schedule: str = AUTO
    tolerance: float = TOLERANCE
    deepest: Depths = (3, 3, 9, 3)
    """The most blocks of each stage."""
    widths: tuple[int, int] = WIDTHS
    """The least and the most channels of the first stage."""
    width_step: int = WIDTH_STEP

    @property
    def budgets(self) -> dict[Quantity, int]:
        """What is given, by quantity; the first one is what latencies are scaled to."""
        named: dict[Quantity, int | None] = {"MACs": self.macs, "parameters": self.params}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Every design within the bounds, as arrays: widths, depths, and their exact MACs and parameters."""

    widths: npt.NDArray[np.int64]
    depths: npt.NDArray[np.int64]
    macs: npt.NDArray[np.int64]
    params: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.widths)

    def amount(self, name: Quantity) -> npt.NDArray[np.int64]:
        """The quantity that a budget is of."""
        return self.macs if name == "MACs" else self.params

    def label(self, index: int) -> str:
        """First width and depths, in words."""
        return f"width {self.widths[index, 0]}, depths {', '.join(map(str, self.depths[index]))}"


def space(question: Question) -> Space:
    """All first widths and depths within the bounds: widths that double, and stages 1, 2 and 4 equally deep."""
    low, high = question.widths
    widths = [width for width in range(question.width_step, high + 1, question.width_step) if width >= low]
    if not widths:
        raise DesignError(
            f"no width from {low} to {high} is a multiple of {question.width_step}; widen --widths or lower --width-step"
        )
    d1, d2, d3, d4 = question.deepest
    outer = range(1, min(d1, d2, d4) + 1)
    depths = [(depth, depth, third, depth) for depth in outer for third in range(1, d3 + 1)]
    return designs_of(question, [doubled(width) for width in widths], depths)


def doubled(width: int) -> tuple[int, ...]:
    """The widths of all stages, from the first."""
    return tuple(width << stage for stage in range(len(STAGES)))


def designs_of(question: Question, widths: Sequence[Sequence[int]], depths: Sequence[Sequence[int]]) -> Space:
    """These widths with these depths. A count is that of what occurs once plus that of each repeated block, exactly."""
    depth_rows = np.array(depths, dtype=np.int64)
    columns: list[tuple[npt.NDArray[np.int64], ...]] = []
    for row in widths:
        counts = _counts(network(row, (2,) * len(STAGES), 1, question.resolution))
        totals = [base + (depth_rows - 1) @ np.array(repeated, dtype=np.int64) for base, repeated in counts]
        columns.append((np.tile(np.array(row, dtype=np.int64), (len(depth_rows), 1)), depth_rows, *totals))
    width_column, depth_column, macs, params = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Space(widths=width_column, depths=depth_column, macs=macs, params=params)


def network(widths: Sequence[int], depths: Sequence[int], batch: int, resolution: int) -> Graph:
    """The network of these stages."""
    builder = GraphBuilder()
    x = builder.input(Shape(batch, 3, resolution, resolution))
    add_stages(builder, x, CLASSES, widths=widths, depths=depths)
    return builder.graph()


def _counts(graph: Graph) -> list[tuple[int, list[int]]]:
    """(what occurs once, each stage's repeated block) in MACs and in parameters, of a network with two blocks in each stage."""
    repeated = [f"stages.{stage}.blocks.1" for stage in range(len(STAGES))]
    macs = {name: int(count.macs) for name, count in graph.counts.items()}
    params = dict.fromkeys(graph.nodes, 0)
    for tensor, weight, elements in graph.weights():
        params[tensor.rpartition(".")[0]] += int(elements) if weight.trained else 0
    found = []
    for values in (macs, params):
        again = [sum(value for name, value in values.items() if graph.nodes[name].block == block) for block in repeated]
        found.append((sum(values.values()) - sum(again), again))
    return found


def within_budget(question: Question, designs: Space) -> list[int]:
    """The designs within every budget; raises BudgetError and DesignError."""
    inside = np.ones(len(designs), dtype=bool)
    for name, budget in question.budgets.items():
        values = designs.amount(name)
        least, most = int(values.min()), int(values.max())
        if budget * (1 + question.tolerance) < least:
            raise BudgetError(
                f"the budget of {_amount(budget, name)} is below the {_amount(least, name)} of the smallest design "
                f"({designs.label(int(values.argmin()))}); raise it, or lower --widths"
            )
        if budget * (1 - question.tolerance) > most:
            raise DesignError(
                f"the budget of {_amount(budget, name)} is above the {_amount(most, name)} of the largest design "
                f"({designs.label(int(values.argmax()))}); raise --widths or --deepest"
            )
        close = np.abs(values / budget - 1) <= question.tolerance
        if not close.any():
            nearest = int(np.abs(values - budget).argmin())
            raise DesignError(
                f"no design is within {100 * question.tolerance:g} % of {_amount(budget, name)}; the nearest has "
                f"{_amount(int(values[nearest]), name)} ({designs.label(nearest)}); raise --tolerance or --deepest"
            )
        if not (inside & close).any():
            other, amount = next(iter(question.budgets.items()))
            span = values[inside]
            raise DesignError(
                f"the budgets contradict each other: designs with {_amount(amount, other)} have {_amount(int(span.min()), name)} to "
                f"{_amount(int(span.max()), name)}, not {_amount(budget, name)}; change one of them"
            )
        inside &= close
    return [int(index) for index in np.flatnonzero(inside)]


def _amount(value: int, name: Quantity) -> str:
    return f"{si(value, '').rstrip()} {name}"
