"""The file of measurements: one line of JSON for each, appended and flushed as it comes."""

from __future__ import annotations

import datetime
import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final

from perfmodel.errors import PerfmodelError, shown
from perfmodel.validation.baselines import torch_or_none
from perfmodel.validation.compile import compiler_version
from perfmodel.validation.files import LineCheck, MeasurementFileError, having, number, positive, read_bytes, table, word
from perfmodel.validation.gpu import cupy_with_gpu, driver_version, this_device
from perfmodel.validation.revision import git_revision

RESULTS: Final = Path(__file__).resolve().parent / "results"
LONG_FIELDS: Final = ("times_s", "device", "run", "before", "launched")
FIELDS: Final = ("kind", "device", "case", "what", "mode", "layout")
"""That tell measurements of fused kernels apart."""
REFUSED: Final = "refused"
"""The field of a measurement that could not be made: the reason."""

Needed = Mapping[str | None, LineCheck]
"""By the kind of a line (None: it has none) what it must hold."""
FUSED: Final[Needed] = MappingProxyType(
    {
        "run": having(device=word),
        "check": having(device=word, case=word, what=word),
        "time": having(device=word, case=word, what=word, mode=word, median_s=positive),
        "count": having(device=word, case=word, dram_bytes=number),
        "layout": having(problem=table, layout=table, median_s=positive),
    }
)
"""Of measurements of fused kernels."""
PLAIN: Final[Needed] = MappingProxyType({None: having()})
"""Of lines that are all of one kind, and are checked by who reads them."""
_REFUSAL: Final = having(refused=word)


class Results:
    """A file of results and one device: which measurements are in it, told apart by some of their fields, and what comes.

    A measurement that could not be made is recorded with its reason, and is not known, nor is a check that failed: they are tried again.
    Raises PerfmodelError where the file cannot be written and MeasurementFileError where it is none of results, before anything is
    measured.
    """

    def __init__(self, path: Path, device: str, fields: Sequence[str] = FIELDS, needed: Needed = FUSED) -> None:
        self._path, self._device, self._fields = path, device, tuple(fields)
        self._known: set[tuple[str, ...]] = set()
        self._refused: dict[tuple[str, ...], str] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            exists = path.exists()
            if exists:
                path.open("ab").close()
            elif not os.access(path.parent, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise PerfmodelError(
                f"cannot write {shown(str(path), 200)}: {error.strerror}; choose another place with --output"
            ) from None
        running: object = ""
        for line in read_lines(path, needed) if exists else ():
            if line.get("kind") == "run":  # what does not say its device was measured on that of its run
                running = line.get("device", running)
            self._note({"device": running, **line})

    def has(self, **key: Any) -> bool:
        """Whether a result with these fields is recorded for this device."""
        return self._key({**key, "device": self._device}) in self._known

    def add(self, line: Mapping[str, Any]) -> None:
        """Append and flush; a refusal that is recorded with the same reason is not recorded once more."""
        line = {**line, "device": self._device}
        if REFUSED not in line or self._refused.get(self._key(line)) != line[REFUSED]:
            append(self._path, line)
        self._note(line)

    def _note(self, line: Mapping[str, Any]) -> None:
        if REFUSED in line:
            self._refused[self._key(line)] = str(line[REFUSED])
        elif line.get("passed", True):
            self._known.add(self._key(line))
        else:  # of the same kernel the newest check counts
            self._known.discard(self._key(line))

    def _key(self, line: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(line.get(field, "")) for field in self._fields)


class Recorder(Results):
    """Results of fused kernels: the first line of a run is preceded by where and when it ran, and every line is shown."""

    def __init__(self, path: Path, where: Mapping[str, Any]) -> None:
        super().__init__(path, where["device"])
        self._where, self._started = where, False

    def add(self, line: Mapping[str, Any]) -> None:
        """Append, flush and show."""
        if not self._started:
            append(self._path, self._where)
            self._started = True
        line = {**line, "run": self._where["run"]}
        super().add(line)
        say(line)


def folder_of(device: str) -> str:
    """The folder of a device's results.

    >>> folder_of("NVIDIA H200")
    'h200'
    """
    return device.lower().removeprefix("nvidia ").replace(" ", "-")


def append(path: Path, line: Mapping[str, Any]) -> None:
    """One more line at the end of a file, flushed; what a stopped run left there of a line is cut off first."""
    with path.open("ab+") as file:
        _mend(file)
        file.write(json.dumps(line).encode() + b"\n")


def _mend(file: IO[bytes]) -> None:
    """End the last line, or take it away where it is only the start of one."""
    if not file.seek(0, 2):
        return
    file.seek(-1, 2)
    if file.read() == b"\n":
        return
    file.seek(0)
    data = file.read()
    last = data.rpartition(b"\n")[2]
    if _is_cut_off(last):
        file.truncate(len(data) - len(last))
    else:
        file.write(b"\n")


def _is_cut_off(last: bytes) -> bool:
    """Whether a last line without an end is the start of an object, and no whole one."""
    if not last.startswith(b"{"):
        return False
    try:
        json.loads(last)
    except ValueError:
        return True
    except RecursionError:  # which the reader refuses, with its place
        pass
    return False


def read_lines(path: Path, needed: Needed = FUSED) -> tuple[dict[str, Any], ...]:
    """Every line of a file of results; a last one that was cut off is left out.

    Raises MeasurementFileError, with the file and the line, for one that is no result or lacks what is `needed` of its kind; a measurement
    that could not be made needs its reason alone.
    """
    data = read_bytes(path)
    *lines, last = data.split(b"\n")
    if not _is_cut_off(last):
        lines.append(last)
    found = []
    for index, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{shown(str(path), 200)}, line {index}"
        entry = _parsed(where, line)
        kind = entry.get("kind")
        if not isinstance(kind, str | None) or kind not in needed:
            known = " or ".join(one or "none" for one in needed)
            raise MeasurementFileError(f"{where} has the kind {shown(repr(kind), 40)}, which must be {known}")
        (_REFUSAL if REFUSED in entry else needed[kind])(where, entry)
        found.append(entry)
    return tuple(found)


def _parsed(where: str, line: bytes) -> dict[str, Any]:
    """The object on a line."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a number of thousands of digits
        said = "is no JSON" if isinstance(error, json.JSONDecodeError) else "cannot be read"
        raise MeasurementFileError(
            f"{where} {said}, and each must be a result that `perfmodel validate run` wrote: remove it, or name another file"
        ) from None
    if not isinstance(entry, dict):
        raise MeasurementFileError(f"{where} is no object of JSON, and each must be a result that `perfmodel validate run` wrote")
    return entry


def say(line: Mapping[str, Any]) -> None:
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
        "revision": revision or git_revision(),
    }
