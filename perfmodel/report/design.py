"""Answers to design questions, as tables and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from perfmodel.design.lift import BATCH_FACTOR, StageLift
from perfmodel.design.sensitivity import Sensitivity
from perfmodel.design.solve import Solution, shown_budget
from perfmodel.design.subject import Subject, precision_of
from perfmodel.design.thresholds import HARDWARE, FusedRange, GroupCrossing, Threshold
from perfmodel.report.table import Column, Table, count, duration, intensity, size
from perfmodel.schedule import SCHEDULES
from perfmodel.units import percent, si


def _about(subject: Subject, unknown: str = "") -> str:
    """The subject with its choices, for people."""
    given = subject.described(unknown)
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())
    return f"{subject.name} ({said}) on {subject.device.name}, {precision_of(subject)}, schedule {subject.schedule}"


def _subject_data(subject: Subject, unknown: str = "") -> dict[str, Any]:
    given = dict(subject.described(unknown))
    machine = {"hardware": subject.device.slug, "hypothetical": list(subject.device.hypothetical)}
    return {"subject": subject.name, **given, **machine, "dtype": str(precision_of(subject)), "schedule": subject.schedule}


def _hypothetical(subject: Subject) -> tuple[str, ...]:
    return tuple(f"assumed: {title} ({subject.device.slug} is no real machine)" for title in subject.device.hypothetical)


def signed(fraction: float) -> str:
    """A change as a percentage with its sign."""
    return f"{'+' if fraction >= 0 else '−'}{percent(abs(fraction))}"


# -- solve ---------------------------------------------------------------------------------------------------------------


def solution_table(solution: Solution, *, latex: bool = False) -> Table:
    """The answer in words, the value beside its neighbours, and the closed form."""
    unknown = solution.unknown.replace("_", " ")
    here = next(row for row in solution.rows if row.value == solution.value)
    said = [_about(solution.subject, solution.unknown)]
    budgets = " and ".join(shown_budget(held.name, held.allowed, of=True) for held in solution.budgets)
    counts = solution.subject.counts(solution.unknown)
    counted = f" ({counts})" if counts != solution.unknown else ""
    said.append(f"the largest {unknown} within {budgets} is {solution.value}{counted}")
    for held in solution.budgets:
        alone = "any" if held.largest is None else f"{held.largest}"
        binds = ", and binds" if held.name in solution.binding else ""
        used = f"{shown_budget(held.name, held.used)} of {shown_budget(held.name, held.allowed)} used"
        said.append(f"{held.name}: {used}; alone it would allow {alone}{binds}")
    rows = [
        (
            row.value,
            row.outcome.latency_s,
            row.outcome.latency_s / here.outcome.latency_s - 1,
            row.outcome.macs,
            row.outcome.params,
            row.outcome.traffic_bytes,
            row.outcome.memory_bytes,
            "yes" if row.fits else "no",
        )
        for row in solution.rows
    ]
    after = list(solution.notes)
    if solution.closed_form is not None:
        form = solution.closed_form
        after += [*(f"closed form: {line}" for line in form.text().split("\n")), *_regimes(form.regimes)]
        if latex:
            after += form.text(latex=True).split("\n")
    elif solution.binding:
        exactly = ", exactly" if solution.subject.schedule.lower() in SCHEDULES else ""
        after.append(f"no closed form: the cost is no polynomial of degree 2 in it; found by halving{exactly}")
    return Table(
        title="one step either way",
        before=tuple(said),
        columns=(
            Column(key=solution.unknown, heading=unknown),
            Column(key="latency_s", heading="latency", show=lambda value: si(value, "s", 4)),
            Column(key="latency_change", heading="change", show=signed),
            Column(key="macs", heading="MACs", show=count),
            Column(key="params", heading="parameters", show=count),
            Column(key="traffic_bytes", heading="traffic", show=size),
            Column(key="memory_bytes", heading="memory", show=size),
            Column(key="fits", heading="fits", right=False),
        ),
        rows=rows,
        after=(*after, *_hypothetical(solution.subject)),
    )


def _regimes(regimes: Sequence[str]) -> tuple[str, ...]:
    return (f"where {'; '.join(regimes)}",) if regimes else ()


def solution_data(solution: Solution) -> dict[str, Any]:
    """The answer as plain data."""
    form = solution.closed_form
    return {
        **_subject_data(solution.subject, solution.unknown),
        "unknown": solution.unknown,
        "counts": solution.subject.counts(solution.unknown),
        "value": solution.value,
        "binding": list(solution.binding),
        "budgets": [asdict(held) for held in solution.budgets],
        "rows": [{"value": row.value, **asdict(row.outcome), "fits": row.fits} for row in solution.rows],
        "closed_form": None
        if form is None
        else {
            "cost": str(form.cost),
            "root": str(form.root),
            "value": form.value,
            "latex": form.text(latex=True),
            "regimes": list(form.regimes),
        },
        "notes": list(solution.notes),
    }


def threshold_table(found: Threshold, *, top: int = 10) -> Table:
    """The figure that meets a goal, and where each kernel crosses the waterline."""
    unit = HARDWARE[found.unknown]
    name = found.unknown.replace("_", " ")
    said = (
        _about(found.subject),
        f"goal: {found.goal}",
        f"{name} {si(found.value, unit, 4)}; the machine has {si(found.now, unit, 4)} ({found.value / found.now:.3g} ×)",
        found.before,
        found.formula,
    )
    after = _hypothetical(found.subject)
    if not found.crossings:
        columns = (
            Column(key="figure", heading="figure", right=False),
            Column(key="value", heading="needed", show=lambda value: si(value, unit, 4)),
            Column(key="machine_has", heading="the machine has", show=lambda value: si(value, unit, 4)),
            Column(key="factor", heading="factor", show=_factor),
        )
        row = (found.unknown, found.value, found.now, found.value / found.now)
        return Table(title="the figure", before=said, columns=columns, rows=[row], after=after)
    rows = sorted(found.crossings, key=lambda crossing: -crossing.share)[:top]
    return Table(
        title=f"the {len(rows)} kernels that take most of the time, and where each crosses the waterline",
        before=said,
        columns=(
            Column(key="kernel", heading="kernel", right=False),
            Column(key="kind", heading="kind", right=False),
            Column(key="operational_intensity", heading="ops/byte", show=intensity),
            Column(key="crosses_at", heading=f"crosses at {name}", show=lambda value: si(value, unit)),
            Column(key="share", heading="share", show=percent),
        ),
        rows=[(row.name, row.kind, row.operational_intensity, row.crosses_at, row.share) for row in rows],
        after=after,
    )


def threshold_data(found: Threshold) -> dict[str, Any]:
    """The same as plain data."""
    return {
        **_subject_data(found.subject),
        "unknown": found.unknown,
        "goal": found.goal,
        "value": found.value,
        "unit": HARDWARE[found.unknown],
        "machine_has": found.now,
        "how": found.formula,
        "one_step": found.before,
        "crossings": [asdict(crossing) for crossing in found.crossings],
    }


def group_table(found: GroupCrossing, *, latex: bool = False) -> Table:
    """Every group width, and at which the grouped convolution rises above the waterline."""
    import sympy

    answer = (
        f"{found.kernel} rises above the waterline at a group width of {found.real:.4g}; the least that divides is {found.value}"
        if found.value is not None
        else f"{found.kernel} stays under water: it would need a group width of {found.real:.4g}, more than the channels allow"
        if found.real > 0
        else f"{found.kernel} stays under water at any group width: its weights alone are more than the bandwidth carries"
    )
    return Table(
        title="every group width that divides the channels",
        before=(_about(found.subject, "group_width"), answer),
        columns=(
            Column(key="group_width", heading="group width"),
            Column(key="operational_intensity", heading="ops/byte", show=intensity),
            Column(key="bound_by", heading="held by", right=False),
            Column(key="block_latency_s", heading="block", show=duration),
            Column(key="block_bottleneck", heading="held by", right=False),
        ),
        rows=list(found.rows),
        after=(
            f"closed form: g = {sympy.sstr(found.root)} = {found.real:.6g}",
            *([rf"g = {sympy.latex(found.root)}"] if latex else []),
            *_hypothetical(found.subject),
        ),
    )


def group_data(found: GroupCrossing) -> dict[str, Any]:
    """The same as plain data."""
    import sympy

    names = ("group_width", "operational_intensity", "bound_by", "block_latency_s", "block_bottleneck")
    return {
        **_subject_data(found.subject, "group_width"),
        "unknown": "group_width",
        "kernel": found.kernel,
        "value": found.value,
        "closed_form": {"root": str(found.root), "value": found.real, "latex": sympy.latex(found.root)},
        "rows": [dict(zip(names, row, strict=True)) for row in found.rows],
    }


def fused_table(found: FusedRange) -> Table:
    """Batches, and what fusing saves at each."""
    if found.first is None:
        answer = f"fusing never saves {percent(found.gain)} of the time, at any batch that was tried"
    else:
        start = "from batch 1" if found.first == 1 else f"from batch {found.first}"
        stop = (
            f"it stops paying at batch {found.last + 1}"
            if found.last is not None
            else "it does not stop paying at any batch tried"
        )
        answer = f"fusing saves at least {percent(found.gain)} of the time {start} on; {stop}"
    return Table(
        title="latency by batch; powers of two, and halves between those where the answer changes",
        before=(_about(found.subject, "batch"), answer),
        columns=(
            Column(key="batch", heading="batch"),
            Column(key="layer_latency_s", heading="layer by layer", show=duration),
            Column(key="block_latency_s", heading="fused", show=duration),
            Column(key="saved", heading="saved", show=percent),
        ),
        rows=[(batch, layer, block, 1 - block / layer) for batch, layer, block in found.rows],
        after=_hypothetical(found.subject),
    )


def fused_data(found: FusedRange) -> dict[str, Any]:
    """The same as plain data."""
    names = ("batch", "layer_latency_s", "block_latency_s")
    return {
        **_subject_data(found.subject, "batch"),
        "unknown": "batch",
        "gain": found.gain,
        "first": found.first,
        "last": found.last,
        "rows": [dict(zip(names, row, strict=True)) for row in found.rows],
    }


# -- sensitivity, lift -------------------------------------------------------------------------------------------------


def _factor(value: float) -> str:
    return f"×{value:.3g}"


def sensitivity_tables(found: Sensitivity) -> tuple[Table, Table]:
    """Of the machine, and of the work."""
    prediction = found.prediction
    machine = Table(
        title="the machine: 1 % more of a figure changes the latency by the elasticity in %",
        before=(
            _about(found.subject),
            f"latency {si(prediction.latency_s, 's')}, {percent(prediction.share_bound_by('memory'))} of it held by memory",
        ),
        columns=(
            Column(key="figure", heading="figure", right=False),
            Column(key="value", heading="value", show=lambda value: f"{value:.4g}"),
            Column(key="elasticity_more", heading="elasticity", show=lambda value: f"{value:+.3f}".replace("-", "−")),
            Column(key="elasticity_less", heading="downwards", show=lambda value: f"{value:+.3f}".replace("-", "−"), optional=3),
            Column(key="holds_from", heading="until", show=_factor),
            Column(key="holds_to", heading="and", show=_factor),
            Column(key="halved", heading="latency if halved", show=_factor),
            Column(key="doubled", heading="if doubled", show=_factor),
        ),
        rows=[
            (
                item.figure,
                item.value,
                item.elasticity_more,
                item.elasticity_less,
                item.holds_from,
                item.holds_to,
                item.halved,
                item.doubled,
            )
            for item in found.figures
        ],
        after=(
            "until, and: the factors on the figure between which no kernel changes sides",
            f"no effect: {', '.join(found.idle)}",
            *_hypothetical(found.subject),
        ),
    )
    work = Table(
        title="the work: elasticity where the cost is smooth, and one step either way",
        columns=(
            Column(key="dimension", heading="dimension", right=False),
            Column(key="value", heading="value"),
            Column(key="elasticity", heading="elasticity", show=lambda value: f"{value:+.3f}".replace("-", "−")),
            Column(key="less", heading="less"),
            Column(key="less_change", heading="latency", show=signed),
            Column(key="more", heading="more"),
            Column(key="more_change", heading="latency", show=signed),
        ),
        rows=[
            (item.dimension, item.value, item.elasticity, *(item.less or (None, None)), *(item.more or (None, None)))
            for item in found.dimensions
        ],
    )
    return machine, work


def sensitivity_data(found: Sensitivity) -> dict[str, Any]:
    """The same as plain data."""
    return {
        **_subject_data(found.subject),
        "latency_s": found.prediction.latency_s,
        "figures": [asdict(item) for item in found.figures],
        "no_effect": list(found.idle),
        "dimensions": [asdict(item) for item in found.dimensions],
    }


def lift_table(subject: Subject, stages: Sequence[StageLift]) -> Table:
    """Stage by stage."""
    wet = [stage.stage for stage in stages if stage.under_water]
    answer = f"under water (memory holds most of their time): {', '.join(wet)}" if wet else "no stage is under water"
    return Table(
        title="stages, in the order they run",
        before=(_about(subject), answer),
        columns=(
            Column(key="stage", heading="stage", right=False),
            Column(key="latency_s", heading="latency", show=duration),
            Column(key="share", heading="share", show=percent),
            Column(key="operational_intensity", heading="ops/byte", show=intensity),
            Column(key="memory_bound_share", heading="memory-bound", show=percent),
            Column(key="worst_kind", heading="most lost in", right=False, optional=3),
            Column(key="fused_latency_s", heading="fused", show=duration),
            Column(key="fused_memory_bound_share", heading="memory-bound", show=percent),
            Column(key="lifted_by", heading="what would lift it", right=False),
        ),
        rows=[
            (
                stage.stage,
                stage.latency_s,
                stage.share,
                stage.operational_intensity,
                stage.memory_bound_share,
                stage.worst_kind,
                stage.fused_latency_s,
                stage.fused_memory_bound_share,
                ("; ".join(stage.lifted_by) or "none of these") if stage.under_water else "–",
            )
            for stage in stages
        ],
        after=(
            f"tried, one at a time: schedule block, {BATCH_FACTOR} times the batch, more bandwidth, more bandwidth on schedule block; a "
            "stage is lifted once arithmetic holds the kernels that take at least half of its time",
            *_hypothetical(subject),
        ),
    )
