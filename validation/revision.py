"""The revision of the source, as records carry it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision() -> str:
    """The revision of this checkout, `-dirty` where it has changes; "unknown" outside of one."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
