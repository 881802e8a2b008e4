"""The same search on a cluster: the same result bit for bit, also where a worker is lost on the way."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator

import pytest

from perfmodel.design.blocks import BlockSpace
from perfmodel.design.cluster import ClusterError, DaskBackend
from perfmodel.design.front import Front
from perfmodel.design.search import RANGE, Part, Search, run
from perfmodel.hardware.catalog import load

pytest.importorskip("distributed", reason="needs Dask (extra dask)")
pytestmark = pytest.mark.filterwarnings("ignore")  # a cluster's shutdown is not ours to judge


def search() -> Search:
    space = BlockSpace(
        blocks=("convfirst", "mbconv"),
        channels=tuple(range(8, 1025, 8)),
        expansions=tuple(range(1, 9)),
        group_widths=(1, 8, 16, 32),
        sizes=tuple(range(7, 113, 7)),
        batches=(1, 2, 4, 8, 16, 32, 64, 96, 128),
        kernels=(3, 5, 7),
        devices=(load("h200"),),
    )
    return Search.of(space, ["min latency", "max params"], ["latency <= 1ms"])


class LosesOne(DaskBackend):
    """Kills one of its workers once results have begun to come."""

    killed = 0

    def parts(self, ranges: Iterator[tuple[int, int]], probes: object) -> Iterator[Part]:
        for number, part in enumerate(super().parts(ranges, probes)):  # type: ignore[arg-type]
            if number == 0:
                pids = self.client.run(os.getpid)
                LosesOne.killed = next(iter(pids.values()))
                os.kill(LosesOne.killed, signal.SIGKILL)
            yield part


def test_a_cluster_finds_the_same_even_when_it_loses_a_worker() -> None:
    wanted = search()
    assert wanted.space.size > 3 * RANGE  # some are left to do when the first comes back
    alone = run(wanted)
    with LosesOne(wanted, workers=2) as backend:
        before = set(backend.client.run(os.getpid).values())
        found = run(wanted, backend=backend)
    assert LosesOne.killed in before
    assert found.front.index.tolist() == alone.front.index.tolist()
    assert found.front.values.tobytes() == alone.front.values.tobytes()
    assert (found.valid, found.feasible, found.evaluated) == (alone.valid, alone.feasible, alone.evaluated)
    assert len(found.front.index) > 50


def test_a_cluster_that_is_not_there_is_said() -> None:
    with pytest.raises(ClusterError, match="cannot be reached"):
        DaskBackend(search(), address="tcp://127.0.0.1:1")


def test_what_travels_to_a_worker_is_the_question_and_its_machine() -> None:
    """Nothing of what evaluating a part made, and not the space written out: beyond the machine's file a few kilobytes."""
    wanted = search()
    wanted.part(0, 1000, Front.empty(2).values)
    machine = len(pickle.dumps(load("h200")))
    assert machine < len(pickle.dumps(wanted)) < machine + 8_000
