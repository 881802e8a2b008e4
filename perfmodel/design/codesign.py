"""Co-design: the ConvFirstNet member with the least predicted fused latency on a device, at a budget of multiply-accumulates or parameters.

A design is a first width (the next stages double it) and four depths. Its latency is that of its best kernels on the device (schedule
`auto`), so network and kernels are chosen together. A latency model knows nothing of accuracy: without bounds on its shape the quickest
design is as narrow and deep as may be, or as shallow. The bounds are therefore part of the question, and each is stated with the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Final

import numpy as np

from perfmodel.cut import best_cut
from perfmodel.design.convfirst_space import (
    FAMILY_BATCH,
    THIRD,
    TOLERANCE,
    WIDTH_STEP,
    WIDTHS,
    Depths,
    DesignError,
    Question,
    designs_of,
    doubled,
    network,
    space,
    within_budget,
)
from perfmodel.errors import UnknownNameError, shown
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.layers.graph import Graph
from perfmodel.networks.catalog import build
from perfmodel.networks.convfirstnet import RESOLUTION, SPECS, STAGES
from perfmodel.precision import Precision
from perfmodel.schedule import AUTO, FUSED, check, kernels, pieces
from perfmodel.segments import Costs
from perfmodel.units import percent

FAMILY: Final[dict[str, Depths]] = {
    **dict.fromkeys(("atto", "femto", "pico", "nano", "tiny"), (3, 3, 9, 3)),
    **dict.fromkeys(("small", "base"), (3, 3, 27, 3)),
}
"""How deep a member of the shipped family may be: no stage deeper than in ConvNeXt-T, or in ConvNeXt-S and -B for its namesakes."""
FAMILY_DEVICE: Final = "h200"
LONGEST: Final = 12
"""Kernels of schedule `layer` in one fused kernel while designs are compared: four blocks."""
MOST_PLANNED: Final = 400
"""Designs whose kernels are planned one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One member of the space, costed."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    macs: int
    """For one image."""
    params: int
    latency_s: float
    """Of the batch, on the device."""
    at_budget_s: float
    """Latency per unit of the budgeted quantity, times the budget: so that a little less work does not pass for speed."""
    efficiency: float
    """Computational efficiency: ideal latency / latency."""

    @property
    def shipped(self) -> str | None:
        """The name of the catalogue's member that it is."""
        for name, spec in SPECS.items():
            if spec.widths == self.widths and spec.depths == self.depths:
                return f"convfirstnet_{name}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """One constraint of one stage lifted, all others and the budget kept: the best design then, if there is one within the budget."""

    constraint: str
    lifted: str
    """How far it was lifted."""
    design: Design | None
    gain: float
    """How much less latency at the budget: 0.01 is 1 %; negative if the best there is slower, 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage of the best design."""

    number: int
    block: str
    width: int
    depth: int
    share: float
    """Of the network's arithmetic."""
    waterline_ratio: float
    """Operational intensity of its blocks, each fused by itself, over the machine's op:byte ratio: above 1 it is held by arithmetic."""
    relaxations: tuple[Relaxation, ...]

    @property
    def shaped_by(self) -> str:
        """The constraint that would gain most if it were lifted for this stage; or that none would gain."""
        best = max(self.relaxations, key=lambda relaxation: relaxation.gain)
        if best.design is None or best.gain < SAME:
            return f"the budget: whatever else of this stage meets it gains less than {100 * SAME:g} %"
        widths, depths = (", ".join(map(str, values)) for values in (best.design.widths, best.design.depths))
        return f"{best.constraint}: {best.lifted}, widths {widths} with depths {depths} would gain {100 * best.gain:.2f} %"


SAME: Final = 1e-4
"""A gain below this is none: both designs do the same work at the same efficiency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The best design, those it was compared with, and what shaped it."""

    question: Question
    best: Design
    within_budget: tuple[Design, ...]
    """Every design that meets all constraints, quickest first."""
    space: int
    """Designs within the bounds on widths and depths."""
    stages: tuple[StageRow, ...]


# -- the question ------------------------------------------------------------------------------------------------------


def design_convfirst_net(
    hardware: str | PathLike[str] | DeviceSpec,
    *,
    macs: int | None = None,
    params: int | None = None,
    like: str | None = None,
    batch: int = FAMILY_BATCH,
    resolution: int = RESOLUTION,
    dtype: str | None = None,
    schedule: str = AUTO,
    tolerance: float = TOLERANCE,
    deepest: Sequence[int] = (3, 3, 9, 3),
    widths: tuple[int, int] = WIDTHS,
    width_step: int = WIDTH_STEP,
    progress: Callable[[int, int], None] | None = None,
    explain: bool = True,
) -> Answer:
    """The design with the least latency at the budget: `macs` per image, `params`, or the MACs of the network `like` at that resolution.

    Raises BudgetError for a budget below the smallest design's, DesignError where no design meets every constraint (saying which exclude
    one another), and other PerfmodelErrors for names and numbers that are wrong.

    >>> answer = design_convfirst_net("h200", like="convnext_atto")
    >>> answer.best.shipped
    'convfirstnet_atto'
    """
    device = hardware if isinstance(hardware, DeviceSpec) else load(hardware)
    given = [name for name, value in (("macs", macs), ("params", params), ("like", like)) if value is not None]
    if not given:
        raise DesignError("name a budget: MACs, parameters, or a network whose MACs to match")
    if "macs" in given and "like" in given:
        raise DesignError("give the MACs or a network whose MACs to match, not both")
    if like is not None:
        macs = int(build(like, resolution=resolution).macs)
    precision = Precision.of(dtype, None)
    device.matrix_peak(precision.matrix)
    depths = tuple(deepest)
    if len(depths) != len(STAGES) or any(depth < 1 for depth in depths):
        raise DesignError(f"the greatest depths must be four numbers from 1, not {shown(', '.join(map(str, depths)))}")
    if not 0 < tolerance < 1:
        raise DesignError(f"the tolerance must be between 0 and 1, as in 0.015 for 1.5 %, not {tolerance}")
    if width_step < WIDTH_STEP or width_step % WIDTH_STEP:
        raise DesignError(
            f"widths go in steps of a multiple of {WIDTH_STEP}, so that the stem has whole groups of 8 channels, not {width_step}"
        )
    for name, value in (("batch", batch), ("resolution", resolution), ("MACs", macs), ("parameters", params)):
        if value is not None and value < 1:
            raise DesignError(f"the {name} must be at least 1, not {value}")
    if resolution < 32 or not 1 <= widths[0] <= widths[1] <= 4096:
        raise DesignError(
            f"the resolution must be at least 32 and widths rise within 1 and 4096, not {resolution} and {widths[0]}:{widths[1]}"
        )
    question = Question(
        device=device,
        precision=precision,
        macs=macs,
        params=params,
        batch=batch,
        resolution=resolution,
        schedule=check(schedule),
        tolerance=tolerance,
        deepest=(depths[0], depths[1], depths[2], depths[3]),
        widths=widths,
        width_step=width_step,
    )
    return answer(question, progress, explain=explain)


def answer(question: Question, progress: Callable[[int, int], None] | None = None, *, explain: bool = True) -> Answer:
    """The answer to a question; `progress` is told how many designs of how many are done. Without `explain`, no stages."""
    designs = space(question)
    chosen = within_budget(question, designs)
    if len(chosen) > MOST_PLANNED:
        raise DesignError(
            f"{len(chosen)} designs are within {percent(question.tolerance)} of the budget, more than the "
            f"{MOST_PLANNED} that are planned one by one; lower --tolerance or narrow --widths"
        )
    coster = Coster(question)
    found = []
    for number, index in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen))
        found.append(coster.design(designs.widths[index].tolist(), designs.depths[index].tolist()))
    ranked = tuple(sorted(found, key=lambda design: (design.at_budget_s, design.params)))
    return Answer(
        question=question,
        best=ranked[0],
        within_budget=ranked,
        space=len(designs),
        stages=tuple(_stages(coster, ranked[0])) if explain else (),
    )


class Coster:
    """Costs designs on one device; what segments cost is remembered over designs."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._peak = question.device.matrix_peak(question.precision.matrix)
        self._costs = Costs(question.device, question.precision) if question.schedule in FUSED else None

    def design(self, widths: Sequence[int], depths: Sequence[int]) -> Design:
        """The design, costed."""
        asked = self.question
        graph = network(widths, depths, asked.batch, asked.resolution)
        macs, params = int(graph.macs) // asked.batch, int(graph.params)
        latency_s = self._latency_s(graph)
        name, budget = next(iter(asked.budgets.items()))
        return Design(
            widths=tuple(widths),
            depths=tuple(depths),
            macs=macs,
            params=params,
            latency_s=latency_s,
            at_budget_s=latency_s * budget / (macs if name == "MACs" else params),
            efficiency=OPS_PER_MAC * int(graph.macs) / self._peak.ops_per_s / latency_s,
        )

    def _latency_s(self, graph: Graph) -> float:
        asked = self.question
        if asked.schedule == AUTO and self._costs is not None:
            return best_cut(pieces(graph, self._costs, asked.precision), longest=LONGEST).time_s
        work = kernels(graph, asked.precision, asked.schedule, device=asked.device)
        bandwidth = asked.device.memory.dram_bandwidth_bytes_per_s
        return math.fsum(max(k.cost.ops / self._peak.ops_per_s, k.cost.dram_bytes / bandwidth) for k in work)


# -- what shaped each stage --------------------------------------------------------------------------------------------


def _stages(coster: Coster, best: Design) -> Iterator[StageRow]:
    asked = coster.question
    graph = network(best.widths, best.depths, asked.batch, asked.resolution)
    by_block = kernels(graph, asked.precision, "block" if asked.schedule in FUSED else asked.schedule, device=asked.device)
    ratio = asked.device.matrix_peak(asked.precision.matrix).ops_per_s / asked.device.memory.dram_bandwidth_bytes_per_s
    for number, kind in enumerate(STAGES):
        work = [kernel for kernel in by_block if (kernel.block or "").startswith(f"stages.{number}.")]
        macs = sum(
            int(graph.counts[name].macs)
            for name, node in graph.nodes.items()
            if (node.block or "").startswith(f"stages.{number}.")
        )
        moved = sum(int(kernel.cost.dram_bytes) for kernel in work)
        yield StageRow(
            number=number + 1,
            block=kind.block.kind,
            width=best.widths[number],
            depth=best.depths[number],
            share=macs / int(graph.macs),
            waterline_ratio=OPS_PER_MAC * macs / moved / ratio,
            relaxations=tuple(_relaxations(coster, best, number)),
        )


def _relaxations(coster: Coster, best: Design, stage: int) -> Iterator[Relaxation]:
    """Each bound on one stage lifted, the others kept."""
    asked = coster.question
    most = asked.deepest[stage]
    free = range(1, 2 * most + 1)
    if stage == THIRD:
        low, high = asked.widths
        widths = [doubled(width) for width in range(asked.width_step, high + 1, asked.width_step) if width >= low]
        depths: list[tuple[int, ...]] = [(outer, outer, third, outer) for outer in _outer(asked) for third in free]
        yield _relaxation(coster, best, f"at most {most} blocks", f"with up to {2 * most}", widths, depths)
    else:
        rows = [[outer, outer, third, outer] for outer in _outer(asked) for third in range(1, asked.deepest[THIRD] + 1)]
        depths = [tuple(own if place == stage else depth for place, depth in enumerate(row)) for row in rows for own in free]
        constraint = f"stages 1, 2 and 4 equally deep, at most {most} blocks"
        yield _relaxation(coster, best, constraint, f"with up to {2 * most} in stage {stage + 1} alone", [best.widths], depths)
    step = asked.width_step
    other = [
        tuple(width + change * (place == stage) for place, width in enumerate(best.widths))
        for change in (-2 * step, -step, step, 2 * step)
        if best.widths[stage] + change >= step
    ]
    same = [(outer, outer, third, outer) for outer in _outer(asked) for third in range(1, asked.deepest[THIRD] + 1)]
    yield _relaxation(coster, best, "widths double", f"with stage {stage + 1} up to {2 * step} channels off", other, same)


def _outer(question: Question) -> range:
    d1, d2, _, d4 = question.deepest
    return range(1, min(d1, d2, d4) + 1)


def _relaxation(
    coster: Coster, best: Design, constraint: str, lifted: str, widths: Sequence[Sequence[int]], depths: Sequence[Sequence[int]]
) -> Relaxation:
    designs = designs_of(coster.question, widths, depths)
    inside = np.ones(len(designs), dtype=bool)
    for name, budget in coster.question.budgets.items():
        inside &= np.abs(designs.amount(name) / budget - 1) <= coster.question.tolerance
    rows = {(tuple(designs.widths[i].tolist()), tuple(designs.depths[i].tolist())) for i in np.flatnonzero(inside)}
    found = [coster.design(*row) for row in sorted(rows) if row != (best.widths, best.depths)]
    if not found:
        return Relaxation(constraint=constraint, lifted=lifted, design=None, gain=0.0)
    quickest = min(found, key=lambda design: design.at_budget_s)
    return Relaxation(constraint=constraint, lifted=lifted, design=quickest, gain=1 - quickest.at_budget_s / best.at_budget_s)


def member(name: str, *, progress: Callable[[int, int], None] | None = None, explain: bool = True) -> Answer:
    """The answer that the shipped member `name` is: on an H200, batch 128, 256×256, the work of its ConvNeXt, no deeper than FAMILY says.

    Raises UnknownNameError.
    """
    key = name.lower().removeprefix("convfirstnet_")
    if key not in FAMILY:
        raise UnknownNameError("member of the family", name, FAMILY)
    return design_convfirst_net(
        FAMILY_DEVICE, like=f"convnext_{key}", batch=FAMILY_BATCH, deepest=FAMILY[key], progress=progress, explain=explain
    )
