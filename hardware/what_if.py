"""What if a machine had another figure? A device with figures changed, marked as hypothetical wherever it shows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from perfmodel.errors import UnknownNameError, shown
from perfmodel.hardware.catalog import validation_sentence
from perfmodel.hardware.spec import DEFAULT_ACCUMULATE, DeviceSpec, HardwareError, figures

DOCUMENT: Final = "what_if"
"""Keys of the documents that stand behind changed figures start with this."""
PUBLISHER: Final = "not a document: a figure that was set"

_ALIASES: Final = MappingProxyType(
    {
        "bandwidth": "memory.dram_bandwidth_bytes_per_s",
        "local_memory": "chip.shared_memory_per_block_bytes",
        "l2": "memory.l2_bytes",
        "clock": "chip.boost_clock_hz",
    }
)
_TABLES: Final = ("chip", "memory", "board")
_PEAK: Final = "peak"
_ENDINGS: Final = MappingProxyType(
    {
        "_bytes_per_s": ("B/s",),
        "_transfers_per_s": ("T/s",),
        "ops_per_s": ("op/s", "ops/s", "flop/s", "FLOP/s", "Top/s"),
        "_hz": ("Hz",),
        "_bytes": ("B",),
        "_w": ("W",),
        "_s": ("s",),
    }
)
"""What the name of a figure may end with, and the units that may be written behind its value."""
_PREFIXES: Final[Mapping[str, float]] = MappingProxyType(
    {
        "": 1.0,
        "m": 1e-3,
        "u": 1e-6,
        "µ": 1e-6,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "T": 1e12,
        "P": 1e15,
        "Ki": 2.0**10,
        "Mi": 2.0**20,
        "Gi": 2.0**30,
    }
)
_VALUE: Final = re.compile(r"\s*([+-]?)([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(.*?)\s*")


KERNEL_RATES: Final = (r"depthwise_\w+_ops_per_s", r"\w+_(elements|rows|outputs)_per_s", r"l2_read_bytes_per_s")
"""Of kernels on the whole chip, whatever its peaks are."""
_CHIP_RATES: Final = (r"(sustained_)?(matrix|vector|special|convolution)_\w+_ops_per_s", *KERNEL_RATES)
"""Measured of the whole chip, and by its clock."""
_DRAM_RATES: Final = (r"dram_\w+_bytes_per_s", r"\w+_dram_(bytes|elements|rows)_per_s")
"""Measured on data from DRAM. Those of kernels whose threads keep few loads on their way are the chip's, too: what is measured of the same
kernels on data in L2 limits them however fast the DRAM becomes."""
CHIP_TIMES: Final = (r"concat_block_s",)
"""Of a block of threads where all multiprocessors have some, in the whole chip's time."""
_OWN_RATES: Final = (
    r"small_product_ops_per_s",
    r"l2_read_(alone|same)_bytes_per_s",
    r"cluster_read_bytes_per_s",
    r"clock_\w+_hz",
)
"""Measured of one multiprocessor, likewise."""
OWN_TIMES: Final = (
    r"(?!dram_)\w+_latency_s", r"narrow_product_s", r"issue_\w+_s", r"meeting_s", r"cluster_barrier_s",
    r"(block|(stored_)?cluster|stored)_launch_s", r"\w+_(startup|step)_s", r"norm_row_s", r"(kernel|unlike)_floor_s", r"launch_graph_s",
)  # fmt: skip
"""Measured in clocks of the chip; what the host does and what DRAM takes is not."""
_MATRIX: Final = r"peak(\.matrix\.fp16\.fp32\.ops_per\w+)?"
_MEASURED: Final = (
    (r"memory\.dram_(bandwidth_bytes_per_s|transfers_per_s|bus_width_bits)", _DRAM_RATES, 1),
    (r"chip\.multiprocessors", _CHIP_RATES, 1),
    (r"chip\.multiprocessors", CHIP_TIMES, -1),
    (r"chip\.boost_clock_hz", (*_CHIP_RATES, *_OWN_RATES), 1),
    (r"chip\.boost_clock_hz", (*CHIP_TIMES, *OWN_TIMES), -1),
    (_MATRIX, (r"small_product_ops_per_s",), 1),
    (_MATRIX, (r"narrow_product_s",), -1),
    (r"peak(\.special\.fp32\.fp32\.ops_per\w+)?", (r"special_\w+_ops_per_s",), 1),
    (r"peak", (r"(sustained_)?(matrix|vector|convolution)_\w+_ops_per_s",), 1),
)
"""Figures, the measured quantities that follow them, and by which power."""
MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure of a device, and what becomes of it."""

    path: str
    """`memory.l2_bytes`, `peak.matrix.fp16.fp32.ops_per_s`; `peak` stands for every peak."""
    factor: float | None
    """What it is multiplied by, or None."""
    value: float | None
    """What it is set to, or None."""

    def of(self, before: float) -> float:
        """The new figure."""
        return self.value if self.value is not None else before * (self.factor or 1.0)


def what_if(device: DeviceSpec, changes: Iterable[str]) -> DeviceSpec:
    """The device with figures changed by texts such as `dram_bandwidth=2x`, `l2_bytes=96MiB`, `peak=+50%`.

    A figure is named by its path, by its last part, or by that without its unit; `bandwidth`, `local_memory`, `l2`, `clock` and `peak`
    (every peak) are short for the usual ones. What must stay a product moves along: transfers with the bandwidth, operations per clock
    with a peak, peaks with clocks and multiprocessors; and so does what was measured of the same thing (`_power`): it keeps its share of
    the figure, and what was measured of anything else stays as it is. Raises HardwareError and UnknownNameError.
    """
    given = list(changes)
    if not given:
        return device
    data: dict[str, Any] = device.model_dump()
    labels, titles = [], []
    for number, text in enumerate(given, 1):
        change = parse_change(device, text)
        key = DOCUMENT if number == 1 else f"{DOCUMENT}_{number}"
        touched, factor = _apply(data, change, key)
        said = text.strip()
        measured = _apply_to_measured(data, change.path, factor, said)
        touched += f" and what was measured of {measured}" if measured else ""
        data["documents"][key] = {"title": f"hypothetical: {said}, moving {touched}", "publisher": PUBLISHER, "date": "undated"}
        labels.append(said)
        titles.append(touched)
    _drop_unused(data)
    data["slug"] = _slug(device.slug, labels)
    data["name"] = f"{device.name} (hypothetical: {', '.join(labels)})"[:500]
    data["aliases"] = ()
    try:
        return DeviceSpec.model_validate(data)
    except ValidationError as error:
        raise HardwareError(f"--set {', '.join(map(shown, labels))}: {validation_sentence(error, data)}") from None


def parse_change(device: DeviceSpec, text: str) -> Change:
    """`field=value` for this device. Raises HardwareError and UnknownNameError."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise HardwareError(f"'{shown(text)}' sets nothing; write field=value, as in dram_bandwidth=2x")
    path = _path(device, name.strip())
    match = _VALUE.fullmatch(value)
    if match is None:
        raise HardwareError(f"'{shown(value.strip())}' is no value for {path}; write a number, a factor as in 2x, or +50%")
    sign, number, unit = match[1], float(match[2]), match[3]
    if unit == "%":
        change = Change(path=path, factor=1 + number / 100 * (-1 if sign == "-" else 1) if sign else number / 100, value=None)
    elif unit in ("x", "×"):
        change = Change(path=path, factor=number, value=None)
    elif path == _PEAK:
        raise HardwareError(f"every peak cannot be {shown(value.strip())}; give a factor, as in peak=2x, or name one peak")
    else:
        change = Change(path=path, factor=None, value=number * _scale(path, unit))
    amount = change.factor if change.factor is not None else change.value
    if (sign == "-" and unit != "%") or amount is None or not (math.isfinite(amount) and amount > 0):
        raise HardwareError(f"{path}={shown(value.strip())}: a figure must stay positive and finite")
    return change


def _scale(path: str, unit: str) -> float:
    """What a number is multiplied by for the unit behind it."""
    words = next((words for ending, words in _ENDINGS.items() if path.endswith(ending)), ())
    for word in ("", *words):
        prefix = unit.removesuffix(word) if word else unit
        if unit.endswith(word) and prefix in _PREFIXES:
            return _PREFIXES[prefix]
    wanted = f"{words[0]}, with a prefix or without" if words else "a plain number"
    raise HardwareError(f"'{shown(unit)}' is no unit of {path}; it is given in {wanted}")


def _path(device: DeviceSpec, name: str) -> str:
    """The full path of a figure that was named in short.

    Raises UnknownNameError, or HardwareError where it could be several, or where this device's documents do not give it.
    """
    known = [path for path, _, _ in device.numbers()]
    if name in known or name == _PEAK:
        return name
    if name in _ALIASES and _ALIASES[name] in known:
        return _ALIASES[name]
    found = [path for path in known if name in (path.rpartition(".")[2], _without_unit(path.rpartition(".")[2]))]
    found = found or [path for path in known if path in (f"{name}.ops_per_s", f"{_PEAK}.{name}.ops_per_s")]
    if not found:
        meant = _ALIASES.get(name, name)
        for path in figures():
            if meant in (path, field := path.rpartition(".")[2], _without_unit(field)):
                device.require(path)
        offered = {path.rpartition(".")[2] for path in known if not path.startswith(f"{_PEAK}.")}
        raise UnknownNameError(
            f"figure of {device.slug}",
            name,
            [*offered, *known, *(short for short, path in _ALIASES.items() if path in known), _PEAK],
        )
    if len(found) > 1:
        raise HardwareError(f"{device.slug} has {len(found)} figures called {name}; name one in full, as in {found[0]}")
    return found[0]


def _without_unit(field: str) -> str:
    return next((field.removesuffix(ending) for ending in _ENDINGS if field.endswith(ending)), field)


def _apply(data: dict[str, Any], change: Change, key: str) -> tuple[str, float]:
    """Change the figure and what must move with it; what was touched, and by which factor."""
    table, _, field = change.path.rpartition(".")
    if change.path == _PEAK:
        factor = change.factor or 1.0
        for peak in data["peak"]:
            _scale_peak(peak, factor, key)
        return "every peak and its operations per clock", factor
    if table in _TABLES:
        row = data[table]
        before = row[field]
        _set(row, field, change.of(before), key)
        return _follow(data, table, field, change.of(before) / before, key), change.of(before) / before
    peak = next(peak for peak in data["peak"] if table == f"peak.{peak['unit']}.{peak['dtype']}.{peak['accumulate']}")
    factor = change.of(peak[field]) / peak[field]
    if field in ("ops_per_s", "ops_per_clock_per_multiprocessor"):
        _scale_peak(peak, factor, key)
        return f"{table}.ops_per_s and its operations per clock", factor
    _set(peak, field, change.of(peak[field]), key)
    return change.path, factor


def _apply_to_measured(data: dict[str, Any], path: str, factor: float, said: str) -> str:
    """Scale what was measured of a figure with it; the names of those quantities, or how many they are."""
    vector = {peak["dtype"] for peak in data["peak"]} - {peak["dtype"] for peak in data["peak"] if peak["unit"] == "matrix"}
    entries, moved = [], []
    for entry in data["measured"]:
        power = _power(path, entry["quantity"], vector)
        if power and factor != 1:
            moved.append(entry["quantity"])
            entry = {  # noqa: PLW2901 - a copy, changed
                **entry,
                "value": entry["value"] * factor**power,
                "kernel": f"hypothetical: {said}, from {entry['kernel']}"[:500],
            }
        entries.append(entry)
    data["measured"] = tuple(entries)
    return " and ".join(moved) if len(moved) <= MOST_NAMED else f"{len(moved)} quantities"


def _power(path: str, quantity: str, vector: AbstractSet[str]) -> int:
    """The power of a figure that a measured quantity follows: 1 for a rate, -1 for a time, 0 where it has nothing to do with it.

    `vector` are the types that have no matrix unit: their matrix products are the vector unit's.
    """
    for of, quantities, power in _MEASURED:
        if re.fullmatch(of, path) and any(re.fullmatch(one, quantity) for one in quantities):
            return power
    peak = re.fullmatch(r"peak\.(matrix|vector)\.(\w+)\.(\w+)\.ops_per\w+", path)
    if peak is None or (peak[1] == "matrix" and peak[3] != DEFAULT_ACCUMULATE[peak[2]]):
        return 0
    units = "matrix|convolution" if peak[1] == "matrix" else "vector|matrix" if peak[2] in vector else "vector"
    return int(re.fullmatch(rf"(sustained_)?({units})(_\d+)?_{peak[2]}_ops_per_s", quantity) is not None)


def _follow(data: dict[str, Any], table: str, field: str, factor: float, key: str) -> str:
    """Move what is a product with the figure that was changed."""

    def scaled(row: dict[str, Any], *fields: str) -> list[str]:
        moved = [name for name in fields if row.get(name) is not None]
        for name in moved:
            _set(row, name, row[name] * factor, key)
        return [f"{table}.{name}" for name in moved]

    follow: Mapping[str, Callable[[], list[str]]] = {
        "dram_bandwidth_bytes_per_s": lambda: scaled(data["memory"], "dram_transfers_per_s"),
        "dram_transfers_per_s": lambda: scaled(data["memory"], "dram_bandwidth_bytes_per_s"),
        "dram_bus_width_bits": lambda: scaled(data["memory"], "dram_bandwidth_bytes_per_s"),
        "shared_memory_per_block_bytes": lambda: _room_for_a_block(data["chip"], key),
        "multiprocessors": lambda: _every_peak(data, factor, key, clocks=False),
        "boost_clock_hz": lambda: [
            *scaled(data["chip"], "max_clock_hz", "base_clock_hz"),
            *_every_peak(data, factor, key, clocks=True),
        ],
    }
    along = follow[field]() if field in follow else []
    return " and ".join([f"{table}.{field}", *along])


def _room_for_a_block(chip: dict[str, Any], key: str) -> list[str]:
    """A multiprocessor has at least the local memory that one program may use."""
    field, least = "shared_memory_per_multiprocessor_bytes", chip["shared_memory_per_block_bytes"]
    if chip.get(field) is None or chip[field] >= least:
        return []
    _set(chip, field, least, key)
    return [f"chip.{field}"]


def _every_peak(data: dict[str, Any], factor: float, key: str, *, clocks: bool) -> list[str]:
    for peak in data["peak"]:
        for name in ("ops_per_s", "sparse_ops_per_s", *(("clock_hz",) if clocks else ())):
            if peak.get(name) is not None:
                _set(peak, name, peak[name] * factor, key)
    return ["every peak"]


def _scale_peak(peak: dict[str, Any], factor: float, key: str) -> None:
    for name in ("ops_per_s", "sparse_ops_per_s", "ops_per_clock_per_multiprocessor"):
        if peak.get(name) is not None:
            _set(peak, name, peak[name] * factor, key)


def _set(row: dict[str, Any], field: str, value: float, key: str) -> None:
    row[field] = round(value) if isinstance(row[field], int) else value
    row["sources"] = {**row["sources"], field: key}


def _drop_unused(data: dict[str, Any]) -> None:
    """Leave out documents that no number is taken from any more."""
    rows = [data[table] for table in _TABLES if data.get(table) is not None] + list(data["peak"])
    used = {
        row["sources"].get(field, row["source"])
        for row in rows
        for field, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    kept = used | {row["source"] for row in rows}
    data["documents"] = {key: document for key, document in data["documents"].items() if key in kept}
    for row in rows:  # a table all of whose numbers were set keeps no other source
        own = {row["sources"].get(field, row["source"]) for field, value in row.items() if isinstance(value, int | float)}
        if row["source"] not in own and len(own) == 1:
            row["source"] = next(iter(own))
            row["sources"] = {}
    still = {row["source"] for row in rows} | {key for row in rows for key in row["sources"].values()}
    data["documents"] = {key: document for key, document in data["documents"].items() if key in still}


def _slug(slug: str, labels: Iterable[str]) -> str:
    said = "-".join(re.sub(r"[^a-z0-9.]+", "-", label.lower().replace("×", "x")).strip("-.") for label in labels)
    return f"{slug}-{said}"[:64].rstrip("-._")
