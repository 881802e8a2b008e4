"""How far devices are off whose rates were carried to them: from comparisons with what others measured of such devices."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Final

from perfmodel.errors import shown
from perfmodel.expected.calibration import QUANTILES
from perfmodel.expected.carried import carried_figures
from perfmodel.expected.constants import calibration_of
from perfmodel.expected.spread import Spread, widened
from perfmodel.hardware.catalog import load
from perfmodel.validation.comparison import Comparison
from perfmodel.validation.files import LONGEST_S, MeasurementFileError
from perfmodel.validation.protocol import today
from perfmodel.validation.revision import git_revision

SHORTEST_S: Final = 1e-9
"""What is shorter is no time of a network; and the ratio of what is left can be computed with."""
LEAST_DEVICES: Final = 3
"""Two leave one when each is left out in turn, and one device shows nothing of how unlike they are."""


def ratios(comparison: Comparison, least_batch: int) -> list[float]:
    """ln(measured / expected) of each row of a large enough batch. Raises MeasurementFileError for what are no latencies."""
    found = []
    for row in comparison.rows:
        measured_s, expected_s = row.measured_latency_s, row.predicted_latency_s
        if not (SHORTEST_S < measured_s < LONGEST_S and SHORTEST_S < expected_s < LONGEST_S):
            raise MeasurementFileError(
                f"{shown(comparison.provenance.file)}, {shown(row.model)}: {measured_s:g} s measured and {expected_s:g} s expected are no "
                "latencies"
            )
        if row.batch >= least_batch:
            found.append(math.log(measured_s / expected_s))
    return found


def middle_and_factor(means: Sequence[float]) -> tuple[float, float]:
    """Of devices' mean logarithms: where a further one's lies, as a geometric mean and a factor around it (`perfmodel.expected.spread`)."""
    from scipy.stats import t

    count = len(means)
    reach = float(t.ppf(QUANTILES[1], count - 1)) * stdev(means) * math.sqrt(1 + 1 / count)
    return math.exp(fmean(means)), math.exp(reach)


def _of_carried(comparison: Comparison, least_batch: int) -> tuple[str, list[float]]:
    """The device, by its name in the catalogue, and its ratios. Raises MeasurementFileError for what says nothing about carried rates."""
    given = comparison.provenance
    file, hardware = shown(given.file), shown(given.hardware)
    if given.tier != "expected":
        raise MeasurementFileError(f"{file} was compared with tier {shown(given.tier)}; compare it with tier expected")
    spec = load(given.hardware)
    if spec.measured and not given.unmeasured:
        raise MeasurementFileError(
            f"{hardware} has figures of its own, and is nearer than devices without; compare {file} with --unmeasured"
        )
    if not carried_figures(spec.model_copy(update={"measured": ()})):
        raise MeasurementFileError(f"no rates are carried to {hardware}, so {file} says nothing about them; leave it out")
    found = ratios(comparison, least_batch)
    if not found:
        raise MeasurementFileError(f"{file} has no row of batch {least_batch} or more; give --least-batch")
    return spec.slug, found


def carried_spread(comparisons: Sequence[Comparison], *, least_batch: int, source: str, revision: str | None = None) -> Spread:
    """What comparisons of several devices say together. Raises MeasurementFileError for such as say nothing about carried rates."""
    if len(comparisons) < LEAST_DEVICES:
        raise MeasurementFileError(
            f"{len(comparisons)} of them cannot show how unlike devices are; give {LEAST_DEVICES} devices or more"
        )
    schedule = comparisons[0].provenance.schedule
    if any(one.provenance.schedule != schedule for one in comparisons):
        raise MeasurementFileError("the comparisons are of different schedules; give those of one")
    found = sorted(((*_of_carried(one, least_batch), one.provenance.file) for one in comparisons), key=lambda one: one[0])
    for (device, *_), (other, *_) in pairwise(found):
        if device == other:
            raise MeasurementFileError(f"{device} is given twice; give one comparison of each device")
    rows = {device: values for device, values, _ in found}
    means = {device: fmean(values) for device, values in rows.items()}
    intervals = calibration_of(schedule).intervals
    inside = 0
    for device, values in rows.items():
        others = [mean for other, mean in means.items() if other != device]
        low, high = widened(intervals, *middle_and_factor(others))
        inside += sum(low <= math.exp(value) <= high for value in values)
    middle, factor = middle_and_factor(list(means.values()))
    count = sum(map(len, rows.values()))
    return Spread(
        files=tuple(file for _, _, file in found),
        source=source,
        schedule=schedule,
        date=today(),
        revision=revision or git_revision(),
        least_batch=least_batch,
        rows=count,
        devices={device: math.exp(mean) for device, mean in means.items()},
        middle=middle,
        factor=factor,
        coverage=inside / count,
    )


def spread_toml(spread: Spread) -> str:
    """As the file that `perfmodel.expected.spread` reads."""

    def value(given: object) -> str:
        return f"{given:.6g}" if isinstance(given, float) else json.dumps(given, ensure_ascii=False)

    dumped = spread.model_dump(mode="json")
    devices = dumped.pop("devices")
    lines = [
        "# How unlike devices are whose rates were carried, by `perfmodel validate spread`. Not to be edited: make it again.",
        *(f"{key} = {value(given)}" for key, given in dumped.items()),
        "",
        "[devices]",
        *(f"{key} = {value(given)}" for key, given in devices.items()),
    ]
    return "\n".join(lines) + "\n"
