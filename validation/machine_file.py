"""A device's TOML file with measured figures appended to it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from perfmodel.errors import PerfmodelError, shown
from perfmodel.hardware.catalog import load, load_text, names
from perfmodel.hardware.spec import DeviceSpec, Measured


def slug_of(name: str) -> str:
    """The catalogue's entry for a GPU as its driver names it ("NVIDIA H200"); raises PerfmodelError where there is none."""
    device = device_named(name)
    if device is None:
        raise PerfmodelError(
            f"the catalogue has no device that '{shown(name)}' names; give --hardware with its entry or a TOML file of yours"
        )
    return device.slug


def device_named(name: str) -> DeviceSpec | None:
    """The catalogue's device that a driver names so, or None."""
    return next((load(slug) for slug in names() if _is_named(load(slug), name)), None)


def is_device(name: str, device: DeviceSpec) -> bool:
    """Whether a GPU as its driver names it is this device, of the catalogue or of a file that was made of the catalogue's."""
    known = device_named(name)
    return _is_named(device, name) or (known is not None and known.name == device.name)


def _is_named(device: DeviceSpec, name: str) -> bool:
    return any(_forms(name) & _forms(known) for known in (device.slug, device.name, *device.aliases))


def _forms(name: str) -> set[str]:
    """A GPU's name without its maker's and the kind of memory: in one word, and its words in the order of letters."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if not re.fullmatch(r"|nvidia|geforce|tesla|hbm\d\w?", word)]
    return {"".join(words), " ".join(sorted(words))} - {""}


def with_measured(device: str, measured: Sequence[Measured], *, keep: bool = False) -> str:
    """The text of the device's file with one [[measured]] table for each figure.

    What was measured before is left out, or with `keep` only what was measured anew. Raises PerfmodelError for an unknown device, and for
    figures that the schema refuses.
    """
    spec = load(device)
    path = Path(device)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        text = (resources.files("perfmodel.hardware") / "devices" / f"{spec.slug}.toml").read_text(encoding="utf-8")
    anew = {entry.quantity for entry in measured}
    before = [entry for entry in spec.measured if entry.quantity not in anew] if keep else []
    kept = text.split("[[measured]]", maxsplit=1)[0].rstrip()
    whole = "\n\n".join([kept, *(_table(entry) for entry in (*before, *measured))]) + "\n"
    load_text(whole, where=f"{spec.slug} with what was measured")
    return whole


def _table(entry: Measured) -> str:
    lines = ["[[measured]]"]
    for field, value in entry.model_dump().items():
        if value is not None:
            lines.append(
                f"{field} = {value!r}" if isinstance(value, float) else f"{field} = {json.dumps(value, ensure_ascii=False)}"
            )
    return "\n".join(lines)
