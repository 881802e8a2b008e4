"""A search on a Dask cluster: the same ranges on its workers, joined in the same order, so with the same result."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

from perfmodel.design.front import Front, Values
from perfmodel.design.search import RANGE, Part, Search
from perfmodel.errors import PerfmodelError

_WAITING: Final = 3
"""Ranges handed out ahead, for each worker."""
_RETRIES: Final = 20
"""How often a range is given to another worker when one is lost."""


class ClusterError(PerfmodelError):
    """Dask is absent, or its cluster cannot be reached or has failed."""

    exit_code = 5


class DaskBackend:
    """Workers of a cluster: that at `address`, or `workers` processes of this machine. Raises ClusterError.

    A range whose worker is lost goes to another one. Use as a context manager, which lets go of the cluster.
    """

    name = "dask"
    range_designs = RANGE

    def __init__(self, search: Search, *, address: str | None = None, workers: int = 2) -> None:
        self._search = search
        self._cluster: Any = None
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError:
            raise ClusterError("a cluster needs Dask; install it with: pip install 'perfmodel[dask]'") from None
        try:
            if address is None:
                with dask.config.set({"distributed.scheduler.allowed-failures": _RETRIES}):
                    self._cluster = LocalCluster(
                        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
                    )
                self.client = Client(self._cluster)
            else:
                self.client = Client(address, timeout="10s")
        except (OSError, ValueError) as error:
            where = "processes of this machine" if address is None else f"the cluster at {address}"
            raise ClusterError(f"{where} cannot be reached ({error}); check the address") from None

    def __enter__(self) -> DaskBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the cluster; end its processes if they were started here."""
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()

    def parts(self, ranges: Iterator[tuple[int, int]], probes: Callable[[], Front]) -> Iterator[Part]:
        """The part of each range, in order."""
        from distributed import KilledWorker

        most = _WAITING * max(1, len(self.client.nthreads()))
        waiting: deque[Any] = deque()
        checksum = self._search.checksum
        more = True
        try:
            while more or waiting:
                while more and len(waiting) < most:
                    given = next(ranges, None)
                    more = given is not None
                    if given is not None:
                        task = (_part, checksum, self._search, *given, probes().probes())
                        waiting.append(self.client.submit(*task, pure=False, retries=_RETRIES))
                if waiting:
                    yield waiting.popleft().result()
        except KilledWorker as error:
            raise ClusterError(f"workers were lost again and again ({error}); give them more memory, or use fewer") from None
        finally:
            self.client.cancel(list(waiting))


def _part(checksum: str, search: Search, start: int, stop: int, probes: Values) -> Part:
    return _kept(checksum, _Unhashed(search)).part(start, stop, probes)


class _Unhashed:
    """A search on its way into a cache that knows it by its checksum."""

    def __init__(self, search: Search) -> None:
        self.search = search

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4)
def _kept(checksum: str, given: _Unhashed) -> Search:
    """The search that a worker has already: its tables are made once."""
    del checksum
    return given.search
