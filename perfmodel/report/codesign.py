"""Answers of co-design as tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from perfmodel.design.codesign import Answer, Design, Relaxation
from perfmodel.networks.convfirstnet import SPECS
from perfmodel.report.table import Column, Table, count, duration
from perfmodel.units import percent, signed_percent

_SHOWN = 6


def _joined(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


_DESIGN_COLUMNS = (
    Column(key="widths", heading="widths", show=_joined, right=False),
    Column(key="depths", heading="depths", show=_joined, right=False),
    Column(key="macs", heading="MACs", show=count),
    Column(key="params", heading="parameters", show=count),
    Column(key="latency_s", heading="latency", show=duration),
    Column(key="at_budget_s", heading="at the budget", show=lambda value: f"{duration(value)}"),
    Column(key="efficiency", heading="efficiency", show=percent),
    Column(key="shipped", heading="shipped as", right=False),
)


def _row(design: Design) -> tuple[Any, ...]:
    return (
        design.widths,
        design.depths,
        design.macs,
        design.params,
        design.latency_s,
        design.at_budget_s,
        design.efficiency,
        design.shipped,
    )


def constraints(answer: Answer) -> tuple[str, ...]:
    """What was asked, in words."""
    asked = answer.question
    budgets = " and ".join(f"{count(value)} {name}" for name, value in asked.budgets.items())
    low, high = asked.widths
    return (
        f"the ConvFirstNet with the least latency on {asked.device.name}, schedule {asked.schedule}, batch {asked.batch}, "
        f"{asked.resolution}×{asked.resolution}, {asked.precision}",
        f"budget: {budgets} for one image, within {percent(asked.tolerance)}; latencies are compared at the budget",
        f"bounds: stages at most {_joined(asked.deepest)} blocks deep, stages 1, 2 and 4 equally; widths double, the first from {low} to "
        f"{high} in steps of {asked.width_step}",
        f"{answer.space} designs within the bounds, {len(answer.within_budget)} of them within the budget",
    )


def design_table(answer: Answer) -> Table:
    """The best design and the next ones."""
    rest = len(answer.within_budget) - _SHOWN
    return Table(
        title="designs within the budget, quickest first",
        columns=_DESIGN_COLUMNS,
        rows=[_row(design) for design in answer.within_budget[:_SHOWN]],
        before=constraints(answer),
        after=(f"{rest} more are slower; --format json has all",) if rest > 0 else (),
    )


def stage_table(answer: Answer) -> Table:
    """The stages of the best design, and what shaped each."""
    return Table(
        title="what shaped each stage of the best design",
        columns=(
            Column(key="stage", heading="stage"),
            Column(key="block", heading="block", right=False),
            Column(key="width", heading="width"),
            Column(key="depth", heading="depth"),
            Column(key="share", heading="of the MACs", show=percent),
            Column(key="waterline_ratio", heading="× waterline", show=lambda value: f"{value:.2f}"),
            Column(key="shaped_by", heading="shaped by", right=False),
        ),
        rows=[
            (row.number, row.block, row.width, row.depth, row.share, row.waterline_ratio, row.shaped_by) for row in answer.stages
        ],
        after=("× waterline: operational intensity of the stage's blocks, each fused, over the machine's op:byte ratio",),
    )


def family_table(answers: dict[str, Answer]) -> Table:
    """Every shipped member beside the answer to its question."""
    rows = []
    for name, answer in answers.items():
        best, spec = answer.best, SPECS[name]
        second = answer.within_budget[1].at_budget_s / best.at_budget_s - 1 if len(answer.within_budget) > 1 else None
        same = best.widths == spec.widths and best.depths == spec.depths
        macs = answer.question.macs or best.macs
        rows.append(
            (
                name,
                answer.question.deepest,
                macs,
                best.widths,
                best.depths,
                best.macs / macs - 1,
                best.latency_s,
                best.efficiency,
                len(answer.within_budget),
                second,
                same,
            )
        )
    return Table(
        title="the shipped family, regenerated",
        columns=(
            Column(key="member", heading="member", right=False),
            Column(key="deepest", heading="at most", show=_joined, right=False),
            Column(key="budget_macs", heading="budget", show=count),
            Column(key="widths", heading="widths", show=_joined, right=False),
            Column(key="depths", heading="depths", show=_joined, right=False),
            Column(key="difference", heading="MACs", show=signed_percent),
            Column(key="latency_s", heading="latency", show=duration),
            Column(key="efficiency", heading="efficiency", show=percent),
            Column(key="within_budget", heading="in budget"),
            Column(key="second", heading="next", show=lambda value: f"+{100 * value:.2f} %"),
            Column(key="shipped", heading="as shipped", show=lambda value: "yes" if value else "NO", right=False),
        ),
        rows=rows,
        before=constraints(next(iter(answers.values())))[:1],
        after=("next: how much slower at the budget the second design is; – where the budget leaves one design only",),
    )


def answer_json(answer: Answer) -> str:
    """The whole answer as one JSON object."""
    asked = answer.question

    def plain(design: Design) -> dict[str, Any]:
        return dict(zip((column.key for column in _DESIGN_COLUMNS), _row(design), strict=True))

    def relaxed(relaxation: Relaxation) -> dict[str, Any]:
        return {
            "constraint": relaxation.constraint,
            "lifted": relaxation.lifted,
            "gain": relaxation.gain,
            "design": None if relaxation.design is None else plain(relaxation.design),
        }

    record = {
        "schema_version": 1,
        "hardware": asked.device.slug,
        "schedule": asked.schedule,
        "batch": asked.batch,
        "resolution": asked.resolution,
        "dtype": asked.precision.dtype,
        "budget_macs": asked.macs,
        "budget_params": asked.params,
        "tolerance": asked.tolerance,
        "deepest": asked.deepest,
        "widths": asked.widths,
        "width_step": asked.width_step,
        "space": answer.space,
        "designs": [plain(design) for design in answer.within_budget],
        "stages": [
            {
                "stage": row.number,
                "block": row.block,
                "width": row.width,
                "depth": row.depth,
                "share": row.share,
                "waterline_ratio": row.waterline_ratio,
                "shaped_by": row.shaped_by,
                "relaxations": [relaxed(relaxation) for relaxation in row.relaxations],
            }
            for row in answer.stages
        ],
    }
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
