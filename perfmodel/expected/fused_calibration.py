"""What is fitted of fused kernels: one factor for each class, as data with provenance."""

from __future__ import annotations

import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perfmodel.errors import first_fault
from perfmodel.expected.constants import CalibrationError, FitProvenance, Intervals


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassFactor(_Record):
    """Of a class of kernels: measured time over what machine figures alone say, the median."""

    kind: str
    """The block's family, what its actors are, and whether latency holds it or throughput: "mbconv, warpgroups, rounds"."""
    factor: Annotated[float, Field(gt=0.1, lt=10, allow_inf_nan=False)]
    rows: int
    configurations: int


class FusedCalibration(_Record):
    """Everything fitted about our fused kernels."""

    stack: Literal["block"]
    description: str
    provenance: FitProvenance
    factors: tuple[ClassFactor, ...]
    intervals: Intervals

    @property
    def common_factor(self) -> float:
        """Of all classes, by their rows: for one that was not measured."""
        return math.exp(sum(one.rows * math.log(one.factor) for one in self.factors) / sum(one.rows for one in self.factors))

    def factor_of(self, kind: str) -> float:
        """Of a class; raises CalibrationError for one that was not measured."""
        for one in self.factors:
            if one.kind == kind:
                return one.factor
        known = "; ".join(one.kind for one in self.factors)
        raise CalibrationError(f"no fused kernel of class '{kind}' was measured; those are {known}")


def fused_calibration(path: str | Path | None = None) -> FusedCalibration:
    """The calibration shipped for schedule block, or the one in a TOML file; raises CalibrationError where it is wrong."""
    if path is None:
        where = "constants of block"
        text = (resources.files("perfmodel.expected") / "constants" / "block.toml").read_text(encoding="utf-8")
    else:
        where = f"calibration {path}"
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"cannot read the {where}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return FusedCalibration.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise CalibrationError(f"the {where} is wrong at {first_fault(error)}") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is an absurdly long integer
        raise CalibrationError(f"the {where} is not TOML: {error}") from None
