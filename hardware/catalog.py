"""The catalogue of machines: one TOML file per device, looked up by name or by path.

A catalogue name is the name of its file; case, spaces, `-` and `_` do not matter, and a file may list aliases. What
ends in `.toml` or holds a path separator is a file of the user's. Reading one device parses that file alone.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from perfmodel.errors import UnknownNameError
from perfmodel.hardware.spec import Board, Chip, DeviceSpec, Document, HardwareError, Measured, Memory, Peak

DEVICES: Final = Path(__file__).parent / "devices"
MAX_FILE_BYTES: Final = 2**20

_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "chip": Chip,
    "memory": Memory,
    "board": Board,
    "peak": Peak,
    "measured": Measured,
    "documents": Document,
}
_UNITS: Final = (  # the longest endings first
    ("bytes_per_s", "bytes per second"),
    ("transfers_per_s", "transfers per second"),
    ("ops_per_s", "operations per second"),
    ("_hz", "hertz"),
    ("_bytes", "bytes"),
    ("_bits", "bits"),
    ("_w", "watts"),
    ("_s", "seconds"),
)
_KINDS: Final = {
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "text in quotes",
    "dict_type": "a table",
    "mapping_type": "a table",
    "model_type": "a table",
    "tuple_type": "a list",
}


def load(name_or_path: str | os.PathLike[str]) -> DeviceSpec:
    """The device of that catalogue name or alias, or of that TOML file.

    Raises `UnknownNameError` for a name that is not in the catalogue (offering the nearest) and `HardwareError` for a
    file that cannot be used (one sentence with the file and the field).

    >>> load("H200").slug, load("rtx 4090").slug, load("A100").slug
    ('h200', 'rtx4090', 'a100-sxm-80gb')
    """
    if not isinstance(name_or_path, str) or _is_path(name_or_path):
        return load_file(name_or_path)
    wanted = _plain(name_or_path)
    slug = _slugs().get(wanted) or _aliases().get(wanted)
    if slug is None:
        raise UnknownNameError(
            "device",
            name_or_path if len(name_or_path) <= 60 else name_or_path[:60] + "…",
            [*names(), *_aliases(spelled=True)],
            "`perfmodel hardware list` shows all; a file of yours must end in .toml.",
        )
    return _load_shipped(slug)


def names() -> tuple[str, ...]:
    """The catalogue names, sorted."""
    return tuple(_slugs().values())


def load_file(path: str | os.PathLike[str]) -> DeviceSpec:
    """The device that a TOML file describes; its slug is the name of the file. Raises `HardwareError`."""
    path = Path(path)
    return load_text(_read(path), where=_clip(str(path)), slug=_slug_of(path))


def load_text(text: str, *, where: str = "device description", slug: str = "device") -> DeviceSpec:
    """The device that TOML `text` describes; `where` names its origin in errors. Raises `HardwareError`."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is an absurdly long integer
        what = "nested too deeply" if isinstance(error, RecursionError) else _clip(_one_line(str(error)))
        raise HardwareError(f"{where}: not valid TOML, {what}.") from None
    if "slug" in data:
        raise HardwareError(f"{where}: slug is not a field of the file, the name of the file is the slug.")
    try:
        return DeviceSpec.model_validate({**data, "slug": slug})
    except ValidationError as error:
        raise HardwareError(f"{where}: {_sentence(error, data)}.") from None


def json_schema() -> dict[str, Any]:
    """The JSON schema of a device file (for editors and for other tools that write one)."""
    schema = DeviceSpec.model_json_schema()
    del schema["properties"]["slug"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# -- names -------------------------------------------------------------------------------------------------------------


def _is_path(name: str) -> bool:
    return name.lower().endswith(".toml") or "/" in name or os.sep in name


def _plain(name: str) -> str:
    """The form in which names are compared: case, white space, - and _ do not matter."""
    return "".join(name.casefold().split()).replace("-", "").replace("_", "")


@functools.cache
def _slugs() -> Mapping[str, str]:
    return {_plain(slug): slug for slug in sorted(path.stem for path in DEVICES.glob("*.toml"))}


@functools.cache
def _aliases(*, spelled: bool = False) -> Mapping[str, str]:
    """Alias → slug. Only the lines above the first table of each file are parsed, where the aliases stand."""
    found: dict[str, str] = {}
    for slug in names():
        head = (DEVICES / f"{slug}.toml").read_text(encoding="utf-8").split("\n[", 1)[0]
        for alias in tomllib.loads(head).get("aliases", ()):
            found[alias if spelled else _plain(alias)] = slug
    return found


@functools.cache
def _load_shipped(slug: str) -> DeviceSpec:
    return load_file(DEVICES / f"{slug}.toml")


def _slug_of(path: Path) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem.lower())
    return kept.strip("._-")[:64] or "device"


# -- files -------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    where = _clip(str(path))
    try:
        if path.is_dir():
            raise HardwareError(f"{where}: is a folder, not a TOML file.")
        if not path.exists():
            raise HardwareError(f"{where}: there is no such file.")
        if not path.is_file():
            raise HardwareError(f"{where}: is not a regular file.")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = (error.strerror if isinstance(error, OSError) else None) or _one_line(str(error))
        raise HardwareError(f"{where}: cannot be read ({reason}).") from None
    if len(content) > MAX_FILE_BYTES:
        raise HardwareError(f"{where}: is larger than {MAX_FILE_BYTES} bytes, which no device description is.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise HardwareError(f"{where}: is not UTF-8 text (line {line}).") from None


# -- errors ------------------------------------------------------------------------------------------------------------


def _sentence(error: ValidationError, data: Mapping[str, Any]) -> str:
    """What is wrong, where, and what is expected: of the first fault, unknown fields first (they explain others)."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    others = len(faults) - 1
    more = f" (and {others} more fault{'s' if others > 1 else ''})" if others else ""
    return _one_line(_fault(faults[0], data)) + more


def _fault(fault: Any, data: Mapping[str, Any]) -> str:
    loc: Sequence[str | int] = [part for part in fault["loc"] if part != "[key]"]
    kind, value, limits = fault["type"], fault["input"], fault.get("ctx", {})
    field = str(loc[-1]) if loc else ""
    path = _path(loc, data)
    unit = next((unit for ending, unit in _UNITS if field.endswith(ending)), "")
    if kind == "value_error":
        return f"{path}: {limits['error']}" if path else str(limits["error"])
    if kind == "missing":
        return f"{path} is missing{f' (a number of {unit})' if unit else ''}"
    if kind == "extra_forbidden":
        return f"{path} is not a known field; {_nearest(loc)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path} is {value}, but a finite number{f' of {unit}' if unit else ''} is expected"
    if kind in {"greater_than_equal", "less_than_equal", "greater_than"}:
        return f"{path} is {_number(value)}, but {_expected(kind, limits, value, unit)}"
    if kind in _KINDS:
        of = f" of {unit}" if unit and "number" in _KINDS[kind] else ""
        return f"{path} is {_clip(repr(value))}, but {_KINDS[kind]}{of} is expected"
    if kind == "literal_error":
        return f"{path} is {_clip(repr(value))}, but one of {limits['expected']} is expected"
    if kind == "string_pattern_mismatch":
        return f"{path} is {_clip(repr(value))}, which does not read like {limits['pattern']}"
    return f"{path} is {_clip(repr(value))}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _expected(kind: str, limits: Mapping[str, Any], value: float, unit: str) -> str:
    if value <= 0:
        return f"a positive number{f' of {unit}' if unit else ''} is expected"
    edge = f"at least {limits['ge']:g}" if kind == "greater_than_equal" else f"at most {limits['le']:g}"
    if not unit:
        return f"{edge} is expected"
    return f"{edge} is expected: the number is read as {unit}, without a prefix"


def _path(loc: Sequence[str | int], data: Mapping[str, Any]) -> str:
    """`peak[3].ops_per_s` of the third [[peak]], with the type it is for where the file says it."""
    text, here = "", ""
    item: Any = data
    for part in loc:
        try:
            item = item[part]
        except (KeyError, IndexError, TypeError):
            item = None
        if isinstance(part, int):
            text += f"[{part + 1}]"
            if isinstance(item, Mapping) and isinstance(item.get("dtype"), str):
                here = f" ({_clip(str(item.get('unit', '')))} {_clip(item['dtype'])})".replace("( ", "(")
        else:
            name = part if part.replace("_", "").replace("-", "").isalnum() else repr(part)
            text += ("." if text else "") + _clip(name)
    return text + here


def _nearest(loc: Sequence[str | int]) -> str:
    model: type[BaseModel] = DeviceSpec
    if len(loc) > 1:
        model = _TABLES.get(str(loc[0]), DeviceSpec)
    known = [field for field in model.model_fields if field != "slug"]
    near = difflib.get_close_matches(str(loc[-1])[:60], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def _number(value: object) -> str:
    try:
        return f"{value:g}" if isinstance(value, float) else _clip(str(value))
    except ValueError:  # an integer with more digits than Python prints
        return "an enormous number"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _clip(text: str) -> str:
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 120 else text[:117] + "…"
