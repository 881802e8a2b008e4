"""The one family of errors that a user can cause: each is a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_LISTED: Final = 60
"""A longer list of known names is cut to its first `FEW_LISTED`."""
FEW_LISTED: Final = 12


class PerfmodelError(Exception):
    """Base of every error that bad input can cause; the command line prints it as one sentence and exits with `exit_code`."""

    exit_code = 2


class UnknownNameError(PerfmodelError):
    """A name that is not in a catalogue; the sentence offers the nearest names, or lists those that are known.

    `aliases` are further names: they are offered where they are near, and never listed.
    """

    def __init__(
        self, what: str, name: str, known: Iterable[str], where_to_look: str = "", *, aliases: Iterable[str] = ()
    ) -> None:
        known = sorted(known)
        self.near = difflib.get_close_matches(name[:MOST_LISTED].lower(), sorted({*known, *aliases}), n=3, cutoff=0.5)
        listed = known if len(known) <= MOST_LISTED else known[:FEW_LISTED]
        more = f", … ({len(known)} in all)" if len(listed) < len(known) else ""
        offer, end = (
            (f"did you mean {' or '.join(map(shown, self.near))}", "?")
            if self.near
            else (f"known: {', '.join(map(shown, listed))}{more}", ".")
        )
        hint = f" ({where_to_look[:1].lower()}{where_to_look[1:].removesuffix('.')})" if where_to_look else ""
        empty = "" if name.strip() else ": the name is empty"
        super().__init__(f"unknown {what} '{shown(name)}'{empty}; {offer}{hint}{end}")


def shown(text: str, most: int = 60) -> str:
    r"""`text` as a message may echo it: control and invisible characters escaped, cut to `most` characters.

    >>> shown("\x1b[31mred"), shown("a" * 100, 5)
    ('\\x1b[31mred', 'aaaa…')
    """
    start = text[: most + 1]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in start)
    return escaped if len(escaped) <= most else escaped[: most - 1] + "…"


def first_fault(error: ValidationError) -> str:
    """The first thing that Pydantic found wrong in data, as a message may echo it: where, if it is not all of them, and what."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{shown(where)}: {fault['msg']}" if where else fault["msg"]
