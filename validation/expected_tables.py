"""Tier `expected` as Markdown tables for the documentation, from its tables of rules and the recorded results."""

from __future__ import annotations

from perfmodel.expected.constants import NAMES, calibration_of
from perfmodel.expected.paths import RULES
from perfmodel.expected.terms import TERMS
from perfmodel.units import percent
from perfmodel.validation.network_tables import BLIND, NETWORKS, cases_table, foreseen_tables, recorded_networks, runs_table
from perfmodel.validation.protocol_report import (
    RESULTS,
    ablation_table,
    label,
    markdown_table,
    predictors_table,
    recorded_protocol,
    worst_table,
)
from perfmodel.validation.published_tables import datasheet_tables

STACKS = ("eager", "pointwise")


def terms_markdown() -> str:
    """Every term."""
    return markdown_table((("term", "what it says"), [[f"`{name}`", said] for name, said in TERMS.items()]))


def paths_markdown() -> str:
    """The table of conditions."""
    rows = [[rule.condition, f"`{rule.path.name.lower()}`", rule.diagnosis or "–"] for rule in RULES]
    return markdown_table((("the first condition that holds", "path", "diagnosis"), rows))


def constants_markdown() -> str:
    """The shipped constants and their provenance."""
    found = [calibration_of(stack) for stack in STACKS]
    rows = [[f"`{name}`", *[f"{getattr(one.constants, name):.3g}" for one in found]] for name in NAMES]
    rows += [
        ["interval, ÷ expected", *[f"{one.intervals.low:.2f} – {one.intervals.high:.2f}" for one in found]],
        ["inside, left out (nominal 90 %)", *[percent(one.intervals.coverage) for one in found]],
        [
            "fitted on",
            *[
                f"{one.provenance.rows} rows, {one.provenance.networks} networks, {', '.join(one.provenance.devices)}"
                for one in found
            ],
        ],
        ["date, revision", *[f"{one.provenance.date}, {one.provenance.revision}" for one in found]],
    ]
    return markdown_table((("constant", *[f"`{one.stack}`: {one.description}" for one in found]), rows))


def predictors_markdown() -> str:
    """Every predictor on every file."""
    return markdown_table(predictors_table(recorded_protocol()))


def ablation_markdown() -> str:
    """Errors without each term."""
    return markdown_table(ablation_table(recorded_protocol()))


def worst_markdown() -> str:
    """The ten rows of each file that are furthest off."""
    parts = []
    for file in recorded_protocol().files:
        below = f" Below the bound: {', '.join(file.below_bound)}." if file.below_bound else ""
        parts.append(
            f"**{label(file)}**: {file.n} rows, {file.networks} networks, {file.families} families; "
            f"{percent(file.coverage)} inside their interval.{below}\n\n{markdown_table(worst_table(file.worst))}"
        )
    return "\n\n".join(parts)


def published_markdown() -> str:
    """GPUs that no constant was fitted on, through their datasheets alone."""
    return "\n\n".join(map(markdown_table, datasheet_tables()))


def measured_networks_markdown() -> str:
    """Whole networks on the H200, by how they ran, and each of them."""
    return _measured_markdown(NETWORKS)


def blind_networks_markdown() -> str:
    """Networks that nobody had looked at when the model was made."""
    if not (RESULTS / "h200" / BLIND).is_file():
        return "Not recorded yet."
    return _measured_markdown(BLIND)


def foreseen_networks_markdown() -> str:
    """Networks that were predicted before they were measured."""
    return "\n\n".join(map(markdown_table, foreseen_tables()))


def _measured_markdown(file: str) -> str:
    comparison = recorded_networks(file)
    return f"{markdown_table(runs_table(comparison))}\n\n{markdown_table(cases_table(comparison))}"
