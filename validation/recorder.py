"""The file of measurements: one line of JSON for each, appended and flushed as it comes."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from perfmodel.validation.baselines import torch_or_none
from perfmodel.validation.compile import compiler_version
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.gpu import cupy_with_gpu, driver_version, this_device

RESULTS: Final = Path(__file__).resolve().parent / "results"
LONG_FIELDS: Final = ("times_s", "device", "run", "before", "launched")


class Recorder:
    """The file of results: what is in it, and what comes."""

    def __init__(self, path: Path, where: dict[str, Any]) -> None:
        self._path, self._where, self._started = path, where, False
        self._known = {_key(line) for line in read_lines(path)} if path.is_file() else set()

    def has(self, **key: str) -> bool:
        """Whether a result with these fields is recorded for this device."""
        return _key({**key, "device": self._where["device"]}) in self._known

    def add(self, line: dict[str, Any]) -> None:
        """Append and flush; the first line of a run is preceded by where and when it ran."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            if not self._started:
                file.write(json.dumps(self._where) + "\n")
                self._started = True
            line = {**line, "device": self._where["device"], "run": self._where["run"]}
            file.write(json.dumps(line) + "\n")
            file.flush()
        self._known.add(_key(line))
        say(line)


def slug_of(device: str) -> str:
    """The folder of its results.

    >>> slug_of("NVIDIA H200")
    'h200'
    """
    return device.lower().removeprefix("nvidia ").replace(" ", "-")


def read_lines(path: Path) -> tuple[dict[str, Any], ...]:
    """Every result of a file; a last line that was cut off is left out."""
    found = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if index == len(lines) - 1:
                break
            raise GpuError(f"{path}, line {index + 1} is no JSON: {error}") from error
    return tuple(found)


def say(line: dict[str, Any]) -> None:
    """On the screen, without the long fields."""
    kept = {key: value for key, value in line.items() if key not in LONG_FIELDS}
    sys.stdout.write(json.dumps(kept) + "\n")
    sys.stdout.flush()


def run_record(revision: str | None = None) -> dict[str, Any]:
    """Where and when a run happened, and with what."""
    cupy = cupy_with_gpu()
    device = this_device()
    torch = torch_or_none()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "kind": "run",
        "run": now,
        "date": now[:10],
        "device": device.name,
        "limits": asdict(device),
        "driver": driver_version(),
        "cuda_compiler": compiler_version(),
        "cupy": cupy.__version__,
        "torch": torch.__version__ if torch else None,
        "revision": revision or _revision(),
    }


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(line.get(field, "")) for field in ("kind", "device", "case", "what", "mode"))


def _revision() -> str | None:
    git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
