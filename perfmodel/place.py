"""Where a file is to be written: looked at before anything that takes long is computed."""

from __future__ import annotations

import os
from pathlib import Path

from perfmodel.errors import PerfmodelError


def require_place(output: Path, failed: type[PerfmodelError] = PerfmodelError) -> None:
    """Raise `failed` where a file could not be written: its folder is missing, it is one itself, or nobody may. A link is followed."""
    if str(output) == "-":  # standard output
        return
    final = Path(os.path.realpath(output))
    if final.is_dir():
        raise failed(f"cannot write {output}: it is a folder; name a file")
    folder = final.parent if output.is_symlink() else output.parent
    if not final.parent.is_dir():
        raise failed(f"cannot write {output}: there is no folder {folder}; make it first")
    if not os.access(final if final.exists() else final.parent, os.W_OK):
        raise failed(f"cannot write {output}: permission denied; choose another file")
