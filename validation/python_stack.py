"""Room on Python's own stack, for calls whose time is measured.

CPython keeps the frames of calls in chunks of 16 KiB. A call whose frame does not fit into what is left of a chunk gets a chunk of its own,
which is mapped when it begins and given back when it returns: microseconds, where a call takes a twentieth of one. Where the frame of a
network's compiled code, kilobytes of variables, happens to end just before a chunk does, every call of a kernel inside it pays this, and
the network next to it, whose frame is larger or smaller, does not. How deep the caller stands decides it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

FRAME_WORDS: Final = 2**15
"""Of a frame that fits into no chunk there is: Python maps one of the next power of two bytes, of which nearly half is left."""


def _call(work: Callable[[], Any]) -> Any:
    return work()


_CALL_WITH_ROOM: Final = FunctionType(_call.__code__.replace(co_stacksize=FRAME_WORDS), {})


def with_room(work: Callable[[], Result]) -> Result:
    """What `work` returns, called where none of its calls, a hundred deep, meets the end of a chunk."""
    found: Result = _CALL_WITH_ROOM(work)
    return found


def page_faults() -> int | None:
    """Of this thread until now, pages that only had to be mapped: calls that meet the end of a chunk have one each. None: nobody counts."""
    try:
        from resource import RUSAGE_THREAD, getrusage
    except ImportError:  # of another system than Linux
        return None
    return getrusage(RUSAGE_THREAD).ru_minflt
