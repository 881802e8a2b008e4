"""Numbers as people read them, and durations as people write them. Inside, everything is SI without prefixes."""

from __future__ import annotations

import math
import re
from typing import Final

from perfmodel.errors import PerfmodelError

_PREFIXES: Final = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
)
_FEWEST, _MOST = 1e-3, 1e6
"""Of the last prefix at either end; what is beyond is written with a power of ten."""


def si(value: float, unit: str, digits: int = 3) -> str:
    """`value` with an SI prefix and `digits` significant digits: si(4.8e12, "B/s") is "4.80 TB/s"; si(1e300, "s") is "1.00e+300 s"."""
    if value == 0:
        return f"0 {unit}"
    if not math.isfinite(value):
        return f"{value} {unit}"
    rounded = float(f"{abs(value):.{digits - 1}e}")  # 999.6 kB is 1.00 MB
    scale, prefix = next(((s, p) for s, p in _PREFIXES if rounded >= s), _PREFIXES[-1])
    scaled = rounded / scale
    if not _FEWEST <= scaled < _MOST:
        return f"{value:.{digits - 1}e} {unit}"
    decimals = max(0, digits - 1 - math.floor(math.log10(scaled)))
    return f"{'-' if value < 0 else ''}{scaled:.{decimals}f} {prefix}{unit}"


def text(what: str, given: object) -> str:
    """A name as it is looked up: lower case, without blanks around it. Raises PerfmodelError for what is no text."""
    if not isinstance(given, str):
        raise PerfmodelError(f"{what} must be a name, not {given!r}")
    return given.strip().lower()


def percent(fraction: float) -> str:
    """A fraction as a percentage with three significant digits."""
    value = 100 * fraction
    return f"{value:.0f} %" if abs(value) >= 99.95 else f"{value:z.1f} %"


def signed_percent(fraction: float) -> str:
    """A difference as a percentage with its sign, which nothing has none of.

    >>> signed_percent(0.074), signed_percent(-0.0004)
    ('+7.4 %', '0.0 %')
    """
    text = f"{100 * fraction:+z.1f} %"
    return "0.0 %" if text == "+0.0 %" else text


_SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_DURATION: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([a-zµμ]+)\s*")


def seconds(text: str) -> float:
    """The duration written as "2ms", "350 us" or "0.1s"; raises PerfmodelError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None or match[2] not in _SECONDS:
        raise PerfmodelError(f"{text!r} is not a duration; write a number with ns, us, ms or s, as in 2ms")
    value = float(match[1]) * _SECONDS[match[2]]
    if not (math.isfinite(value) and value > 0):
        raise PerfmodelError(f"the duration {text!r} must be positive and finite")
    return value
