"""The catalogue of machines: one TOML file per device, looked up by name or by path.

A catalogue name is the name of its file; case, spaces, `-` and `_` do not matter, and a file may list aliases. What
ends in `.toml` or holds a path separator is a file of the user's. Reading one device parses that file alone.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import math
import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from perfmodel.errors import UnknownNameError, shown
from perfmodel.hardware.spec import Board, Chip, DeviceSpec, Document, HardwareError, Measured, Memory, Peak

DEVICES: Final = Path(__file__).parent / "devices"

# The time that the parser takes grows with the square of what a line, or the key in it, is long. These limits lie far
# above what a device description needs, and keep the reading of any file at a fraction of a second.
MAX_FILE_BYTES: Final = 64 * 2**10
MAX_LINE_CHARACTERS: Final = 4_000
MAX_KEY_PARTS: Final = 8
_TOO_LARGE: Final = f"is larger than {MAX_FILE_BYTES >> 10} KiB, which no device description is"

_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "chip": Chip,
    "memory": Memory,
    "board": Board,
    "peak": Peak,
    "measured": Measured,
    "documents": Document,
}
_KEY_PART: Final = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\]|\\.)*+"|'[^']*+')"""
_KEY: Final = re.compile(rf"[ \t]*+\[{{0,2}}+[ \t]*+({_KEY_PART}(?:[ \t]*+\.[ \t]*+{_KEY_PART})*+)[ \t]*+[=\]]")
_LONG_KEY: Final = re.compile(rf"[ \t]*+\[{{0,2}}+[ \t]*+{_KEY_PART}(?:[ \t]*+\.[ \t]*+{_KEY_PART}){{{MAX_KEY_PARTS}}}")
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
            name_or_path,
            names(),
            "`perfmodel hardware list` shows all; a file of yours must end in .toml.",
            aliases=_aliases(spelled=True),
        )
    return _load_shipped(slug)


def named_in(text: str) -> Mapping[str, str]:
    """Devices that a text names, such as a file's name: what it calls each, and the device's slug; of names in names, the longest.

    >>> dict(named_in("benchmark-infer-amp-nhwc-pt240-cu124-rtx3090")), dict(named_in("a100-sxm-80gb.json"))
    ({'rtx3090': 'rtx3090'}, {'a100sxm80gb': 'a100-sxm-80gb'})
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    known = {**_aliases(), **_slugs()}
    found: dict[str, str] = {}
    start = 0
    while start < len(words):
        ends = (end for end in range(len(words), start, -1) if "".join(words[start:end]) in known)
        end = next(ends, None)
        if end is not None:
            name = "".join(words[start:end])
            found[name] = known[name]
        start = end or start + 1
    return found


def names() -> tuple[str, ...]:
    """The catalogue names, sorted."""
    return tuple(_slugs().values())


def load_file(path: str | os.PathLike[str]) -> DeviceSpec:
    """The device that a TOML file describes; its slug is the name of the file. Raises `HardwareError`."""
    path = Path(path)
    return load_text(_read(path), where=_where(path), slug=_slug_of(path))


def load_text(text: str, *, where: str = "device description", slug: str = "device") -> DeviceSpec:
    """The device that TOML `text` describes; `where` names its origin in errors. Raises `HardwareError`."""
    where = _clip(where)
    text = text.removeprefix("\ufeff")
    _check_size(text, where)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is an absurdly long integer
        raise HardwareError(f"{where}: {_not_toml(error, text)}.") from None
    if "slug" in data:
        raise HardwareError(f"{where}: slug is not a field of the file, the name of the file is the slug.")
    try:
        return DeviceSpec.model_validate({**data, "slug": slug})
    except ValidationError as error:
        raise HardwareError(f"{where}: {validation_sentence(error, data)}") from None


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
    parted = unicodedata.normalize("NFKD", path.stem)
    plain = "".join(c for c in parted if not unicodedata.combining(c)).lower()
    kept = re.sub(r"[._-]{2,}", "-", re.sub(r"[^a-z0-9._-]", "-", plain))
    return kept.strip("._-")[:64].rstrip("._-") or "device"


# -- files -------------------------------------------------------------------------------------------------------------


def _where(path: Path) -> str:
    """The path for messages; of a long one the end, where the name of the file is."""
    escaped = shown(str(path)[-121:], 2000)
    return escaped if len(escaped) <= 120 else "…" + escaped[-119:]


def _read(path: Path) -> str:
    where = _where(path)
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
        raise HardwareError(f"{where}: {_TOO_LARGE}.")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise HardwareError(f"{where}: is not UTF-8 text (line {line}).") from None


def _check_size(text: str, where: str) -> None:
    """Refuses, before anything is parsed, what would take the parser long. Raises `HardwareError`."""
    if len(text) > MAX_FILE_BYTES:
        raise HardwareError(f"{where}: {_TOO_LARGE}.")
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise HardwareError(
                f"{where}: line {number} is longer than {MAX_LINE_CHARACTERS} characters, which no line of a device "
                "description is."
            )
        if _LONG_KEY.match(line):
            raise HardwareError(
                f"{where}: the key in line {number} has more than {MAX_KEY_PARTS} parts, which no key of a device "
                "description has."
            )


# -- errors ------------------------------------------------------------------------------------------------------------


def _not_toml(error: Exception, text: str) -> str:
    """What is wrong with a text that the parser refuses, and in which line."""
    if isinstance(error, RecursionError):
        return "not valid TOML, nested too deeply"
    lines = text.split("\n")
    if not isinstance(error, tomllib.TOMLDecodeError):  # an integer with more digits than Python converts
        number = next((n for n, line in enumerate(lines, 1) if re.search(r"(?:_?[0-9]){600}", line)), 0)
        return f"a number has more digits than can be read{f' (line {number})' if number else ''}"
    message = _one_line(str(error))
    plain = f"not valid TOML, {_clip(message)}"
    at = re.search(r"\(at line (\d+), column \d+\)$", message)
    number = int(at[1]) if at else len(text.rstrip().split("\n"))
    # The parser stands at the end of a value; where that spans lines, its key is in a line above.
    keys = [(n, match[1]) for n, line in enumerate(lines[:number], 1) if (match := _KEY.match(line))]
    if not keys:
        return plain
    line, key = keys[-1][0], _clip(keys[-1][1])
    if control := re.match(r"(?:Illegal|Found invalid) character ('\\x..') \(", message):
        return f"`{key}` is followed by the control character {control[1]} (line {number})" if line == number else plain
    if inline := re.match(r"Duplicate inline table key '(.*)' \(at ", message):
        return f"`{_clip(inline[1])}` is given twice (line {number})"
    if message.startswith("Cannot declare") or (
        message.startswith("Cannot overwrite a value") and any(key == earlier for _, earlier in keys[:-1])
    ):
        return f"`{key}` is given twice (line {line})"
    if message.startswith(("Cannot overwrite a value", "Cannot mutate immutable namespace")):
        return f"`{key}` contradicts what is given above it (line {line})"
    return plain


def validation_sentence(error: ValidationError, data: Mapping[str, Any]) -> str:
    """What is wrong, where, and what is expected: of the first fault, unknown fields first (they explain others)."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    others = len(faults) - 1
    more = f" (and {others} more fault{'s' if others > 1 else ''})" if others else ""
    text = _one_line(_fault(faults[0], data))
    if text.endswith("?"):
        statement, _, question = text.rpartition("; ")
        return f"{statement}{more}; {question}"
    return f"{text}{more}."


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
        return f"{path} is {_shown(value)}, but {_KINDS[kind]}{of} is expected"
    if kind == "literal_error":
        return f"{path} is {_shown(value)}, but one of {limits['expected']} is expected"
    if kind == "string_pattern_mismatch":
        return f"{path} is {_shown(value)}, which does not read like {limits['pattern']}"
    return f"{path} is {_shown(value)}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


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
                unit = item.get("unit", "")
                unit = _clip(unit) if isinstance(unit, str) else _shown(unit)
                here = f" ({unit} {_clip(item['dtype'])})".replace("( ", "(")
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
    return f"{value:g}" if isinstance(value, float) else _shown(value)


def _shown(value: object) -> str:
    try:
        return _clip(repr(value))
    except (ValueError, RecursionError):  # an integer with more digits than Python prints; tables within tables
        return "an enormous number" if isinstance(value, int) else "an enormous value"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _clip(text: str) -> str:
    return shown(text, 120)
