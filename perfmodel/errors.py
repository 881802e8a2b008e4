"""The one family of errors that a user can cause: each is a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PerfmodelError(Exception):
    """Base of every error that bad input can cause; the command line prints it as one sentence and exits with `exit_code`."""

    exit_code = 2


class UnknownNameError(PerfmodelError):
    """A name that is not in a catalogue; the sentence offers the nearest names."""

    def __init__(self, what: str, name: str, known: Iterable[str], where_to_look: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        offer = (
            f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:12])}{' …' if len(known) > 12 else ''}."
        )
        super().__init__(f"unknown {what} {name!r}; {offer}{' ' + where_to_look if where_to_look else ''}")
        self.near = near
