"""A device's TOML file with measured figures appended to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load, load_text, names
from perfmodel.hardware.spec import Measured


def slug_of(name: str) -> str:
    """The catalogue's entry for a GPU as its driver names it ("NVIDIA H200"); raises PerfmodelError where there is none."""
    wanted = set(name.lower().replace("nvidia", "").replace("geforce", "").split())
    for slug in names():
        if wanted and "".join(sorted(wanted)) == "".join(sorted(slug.replace("-", " ").split())):
            return slug
    joined = "".join(part for part in name.lower().replace("nvidia", "").replace("geforce", "").split())
    for slug in names():
        if joined.replace("-", "") == slug.replace("-", ""):
            return slug
    raise PerfmodelError(
        f"the catalogue has no device that {name!r} names; give --hardware with its entry or a TOML file of yours"
    )


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
