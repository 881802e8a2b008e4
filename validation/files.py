"""Files of measurements that others hand over: read whole, or refused with one sentence that says which file, where in it, and why."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from perfmodel.errors import PerfmodelError, first_fault, shown

Model = TypeVar("Model", bound=BaseModel)

MAX_FILE_BYTES: Final = 512 << 20
LONGEST_S: Final = 86_400.0
"""A day; what is longer is no time of a network or of a layer."""


class MeasurementFileError(PerfmodelError):
    """A file of measurements that cannot be read: names the file and, where there is one, the line."""


def read_bytes(path: Path, most_bytes: int = MAX_FILE_BYTES, otherwise: str = "measure less at a time") -> bytes:
    """What is in a file, unpacked where its name ends with .gz; of a file that has no end no more than `most_bytes` are read.

    Raises MeasurementFileError for a file that cannot be read or is larger, with what to do `otherwise`.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            data = file.read(most_bytes + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a null character in the name
        raise MeasurementFileError(f"cannot read {shown(str(path), 200)}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > most_bytes:
        raise MeasurementFileError(f"{shown(str(path), 200)} is larger than {most_bytes >> 20} MiB; {otherwise}")
    return bytes(data)


def read_text(path: Path, most_bytes: int = MAX_FILE_BYTES, otherwise: str = "measure less at a time") -> str:
    """The same as text, which must be UTF-8; a byte order mark is no part of it."""
    try:
        return read_bytes(path, most_bytes, otherwise).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MeasurementFileError(f"{shown(str(path), 200)} is not a text file in UTF-8") from None


def read_model(path: Path, form: type[Model], otherwise: str) -> Model:
    """A record in JSON that this project wrote; raises MeasurementFileError (file, `otherwise`, first fault) where it is none."""
    try:
        return form.model_validate_json(read_text(path))
    except ValidationError as error:
        raise MeasurementFileError(f"{shown(str(path), 200)} {otherwise}: {first_fault(error)}") from None


Check = Callable[[str, str, object], Any]
"""Takes where a field stands, its name and what was given; returns its value or raises MeasurementFileError."""


def number(where: str, what: str, given: object) -> float:
    """A finite number that is not negative; as text it may have commas between thousands."""
    value = _value(where, what, given)
    if not (math.isfinite(value) and value >= 0):
        raise MeasurementFileError(f"{where}: {what} is {value:g}, but it must be finite and not negative")
    return value


def positive(where: str, what: str, given: object) -> float:
    """A finite number above 0, likewise."""
    value = _value(where, what, given)
    if not (math.isfinite(value) and value > 0):
        raise MeasurementFileError(f"{where}: {what} is {value:g}, but it must be positive and finite")
    return value


def _value(where: str, what: str, given: object) -> float:
    try:
        if isinstance(given, str):
            return float(given.replace(",", ""))
        if isinstance(given, int | float) and not isinstance(given, bool):
            return float(given)
    except ValueError:
        pass
    except OverflowError:
        return math.inf
    if given is None:
        raise MeasurementFileError(f"{where} lacks {what}")
    raise MeasurementFileError(f"{where}: {what} is {shown(repr(given), 40)}, which is not a number")


def word(where: str, what: str, given: object) -> str:
    """A text that is not empty."""
    if not isinstance(given, str) or not given.strip():
        said = f"lacks {what}" if given is None else f"gives {shown(repr(given), 40)} for {what}, which must be a text"
        raise MeasurementFileError(f"{where} {said}")
    return given


def table(where: str, what: str, given: object) -> dict[str, Any]:
    """An object of JSON."""
    if not isinstance(given, dict):
        raise MeasurementFileError(f"{where}: {what} is {shown(repr(given), 40)}, which must be an object")
    return given


LineCheck = Callable[[str, Mapping[str, Any]], None]
"""Takes where a line stands and its object; raises MeasurementFileError where it is wrong."""


def having(**needed: Check) -> LineCheck:
    """Raises for the first of these fields that is missing or wrong."""

    def check(where: str, entry: Mapping[str, Any]) -> None:
        for field, of_field in needed.items():
            of_field(where, field, entry.get(field))

    return check
