"""What a machine is, on no work: `load("h200")` gives a frozen `DeviceSpec` whose every number names its document."""

from perfmodel.hardware.catalog import json_schema, load, load_file, load_text, names
from perfmodel.hardware.spec import (
    ACCUMULATES,
    DEFAULT_ACCUMULATE,
    DTYPES,
    Board,
    Chip,
    DeviceSpec,
    Document,
    HardwareError,
    Measured,
    Memory,
    Peak,
)

__all__ = [
    "ACCUMULATES",
    "DEFAULT_ACCUMULATE",
    "DTYPES",
    "Board",
    "Chip",
    "DeviceSpec",
    "Document",
    "HardwareError",
    "Measured",
    "Memory",
    "Peak",
    "json_schema",
    "load",
    "load_file",
    "load_text",
    "names",
]
