"""A search on an NVIDIA GPU through CuPy: the generated kernel finds the candidates, NumPy evaluates those and decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from perfmodel.design.cuda_source import KERNEL, Source, sources
from perfmodel.design.front import Front, Indices, Values
from perfmodel.design.search import Part, Search
from perfmodel.errors import PerfmodelError

_CAPACITY: Final = 1 << 22
"""Candidates that one launch may write down; a range with more is halved."""
_THREADS: Final = 256
_BLOCKS: Final = 132 * 16
_PROBES: Final = 64
"""Points that a design is compared with where there are not two objectives."""
OPTIONS: Final = ("--std=c++17", "--fmad=false")


class GpuError(PerfmodelError):
    """CuPy or a GPU is absent."""

    exit_code = 5


class CupyBackend:
    """The generated kernels on the current GPU. Raises GpuError where there is none."""

    name = "cupy"
    range_designs = 1 << 30

    def __init__(self, search: Search) -> None:
        self._search = search
        self._cupy = _cupy()
        self._kernels: list[tuple[Source, Any, Any]] = []
        for source in sources(search):
            module = self._cupy.RawModule(code=source.text, options=OPTIONS)
            self._kernels.append((source, module.get_function(KERNEL), self._cupy.asarray(source.tables)))
        self._counts = self._cupy.zeros(3, dtype=self._cupy.uint64)
        self._found = self._cupy.empty(_CAPACITY, dtype=self._cupy.uint64)

    def parts(self, ranges: Iterator[tuple[int, int]], probes: Callable[[], Front]) -> Iterator[Part]:
        """The part of each range."""
        for start, stop in ranges:
            yield self._part(start, stop, probes())

    def _part(self, start: int, stop: int, known: Front) -> Part:
        part = Part(stop=stop, front=Front.empty(len(self._search.objectives)), valid=0, feasible=0)
        for source, kernel, tables in self._kernels:
            low, high = max(start, source.base), min(stop, source.base + source.count)
            if low < high:
                index, valid, feasible = self._candidates(source, kernel, tables, low, high, known)
                front = self._search.front_of(index) if len(index) else part.front
                part = Part(
                    stop=stop, front=part.front.merged(front), valid=part.valid + valid, feasible=part.feasible + feasible
                )
                known = known.merged(front)
        return part

    def _candidates(
        self, source: Source, kernel: Any, tables: Any, low: int, high: int, known: Front
    ) -> tuple[Indices, int, int]:
        """Numbers of the designs that no known one dominates, and how many exist and are feasible."""
        cp = self._cupy
        probes = cp.asarray(_probes(known, len(self._search.objectives)))
        self._counts.fill(0)
        arguments = (
            np.uint64(low - source.base),
            np.uint64(high - source.base),
            tables,
            probes,
            np.int32(len(probes)),
            self._counts,
            self._found,
            np.uint64(_CAPACITY),
        )
        kernel((_BLOCKS,), (_THREADS,), arguments)
        valid, feasible, found = (int(count) for count in cp.asnumpy(self._counts))
        if found <= _CAPACITY:
            index = np.sort(cp.asnumpy(self._found[:found]).astype(np.int64)) + source.base
            return index, valid, feasible
        middle = (low + high) // 2
        halves = [self._candidates(source, kernel, tables, *ends, known) for ends in ((low, middle), (middle, high))]
        return np.concatenate([half[0] for half in halves]), valid, feasible


def _probes(known: Front, objectives: int) -> Values:
    """The whole staircase of two objectives, else some points."""
    return np.ascontiguousarray(known.probes(len(known.index) if objectives == 2 else _PROBES))


def _cupy() -> Any:
    try:
        import cupy
    except ImportError:
        raise GpuError("backend cupy needs CuPy; install it with: pip install 'perfmodel[gpu]'") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise GpuError(f"backend cupy finds no usable GPU ({error}); use --backend numpy") from None
    if not count:
        raise GpuError("backend cupy finds no GPU; use --backend numpy")
    return cupy
