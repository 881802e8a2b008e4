"""The constants of a software stack, as data: values with priors, and where they were fitted. One TOML file per stack."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perfmodel.errors import PerfmodelError, first_fault

Fraction = Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CalibrationError(PerfmodelError):
    """There is no calibration for what was asked, or a file of constants is wrong."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constants(_Record):
    """The fitted constants of a stack, twelve at most. Each is a fraction or factor on a figure of the machine's specification."""

    matrix_rate: Fraction
    """Of the datasheet's dense peak that library products attain. Above 1 where the real clock exceeds the datasheet's."""
    matrix_bandwidth: Fraction
    """Of the DRAM bandwidth, in convolutions and matrix products."""
    depthwise_bandwidth: Fraction
    pointwise_bandwidth: Fraction
    broadcast_bandwidth: Fraction
    move_bandwidth: Fraction
    unhidden: Fraction
    """Share of the shorter of compute and memory time that the longer does not hide."""
    l2_share: Fraction
    """Of the L2 that still holds what the previous kernels touched."""
    row_clocks: Positive
    """Clocks of one multiprocessor per row of a layer norm."""
    unaligned: Positive
    """Memory time of a product whose channels are no multiples of 8, relative to an aligned one."""
    grouped_passes: Positive
    """Times that a grouped convolution which is padded to tiles moves its data: it computes on copies with padded groups."""
    gap_s: Positive
    """From one kernel to the next."""


NAMES: Final = tuple(Constants.model_fields)


class Prior(_Record):
    """What is believed of a constant before fitting: a value, and how far its logarithm may lie from it."""

    value: Positive
    sigma: Positive


class Intervals(_Record):
    """How far the measured latency lies from the expected one, as quantiles of measured / expected over rows that were left out."""

    low: Positive
    """5 % of left-out rows lie below expected · low."""
    high: Positive
    """5 % lie above expected · high."""
    coverage: Annotated[float, Field(ge=0, le=1)]
    """Share of left-out rows inside intervals made without them."""
    rows: int


class FitProvenance(_Record):
    """Which measurements the constants were fitted on, when, and how well."""

    files: tuple[str, ...]
    source: str
    devices: tuple[str, ...]
    rows: int
    networks: int
    date: str
    revision: str
    mape_in_sample: float
    mape_families_left_out: float


class Calibration(_Record):
    """Everything fitted about one software stack."""

    stack: str
    """A schedule's name."""
    description: str
    provenance: FitProvenance
    constants: Constants
    intervals: Intervals


def calibrated_schedules() -> tuple[str, ...]:
    """Those that constants are shipped for."""
    folder = resources.files("perfmodel.expected") / "constants"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def calibration_of(schedule: str, path: str | Path | None = None) -> Calibration:
    """The calibration shipped for a schedule, or the one in a TOML file; raises CalibrationError where there is none, or it is wrong."""
    if path is None:
        found = resources.files("perfmodel.expected") / "constants" / f"{schedule}.toml"
        known = calibrated_schedules()
        if schedule not in known:
            raise CalibrationError(
                f"tier expected has no calibration for schedule {schedule}; it has one for {', '.join(known) or 'none'}: choose one of "
                "these, or use tier waterline"
            )
        text, where = found.read_text(encoding="utf-8"), f"constants of {schedule}"
    else:
        where = str(path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"cannot read the calibration {where}: {getattr(error, 'strerror', None) or error}") from None
    try:
        given: dict[str, Any] = tomllib.loads(text)
        return Calibration.model_validate(given)
    except ValidationError as error:
        raise CalibrationError(f"the calibration {where} is wrong at {first_fault(error)}") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is an absurdly long integer
        raise CalibrationError(f"the calibration {where} is not TOML: {error}") from None
