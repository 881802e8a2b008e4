"""A search finds the front that evaluating each design alone gives; it can stop and go on; what it cannot do it says."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from perfmodel.cli import run as command
from perfmodel.design.blocks import BlockSpace
from perfmodel.design.front import Front
from perfmodel.design.optimise import optimise
from perfmodel.design.results import ResultsError, write_rows
from perfmodel.design.search import CHUNK, HostBackend, Part, Search, State, StateError, run
from perfmodel.design.space import SpaceError
from perfmodel.design.space_file import load_search, search_of
from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.layers.layer import ShapeError
from perfmodel.prediction import predict

H200 = load("h200")
SPACES = Path(__file__).resolve().parent.parent / "docs" / "spaces"


def small() -> BlockSpace:
    return BlockSpace(
        blocks=("convfirst", "mbconv", "basic"),
        channels=(8, 16, 24, 32, 48),
        expansions=(1, 2, 4),
        group_widths=(1, 8, 16),
        kernels=(3, 5),
        sizes=(14, 28),
        batches=(1, 64),
        devices=(H200,),
    )


def large(**changes: object) -> Search:
    space = BlockSpace(
        blocks=("convfirst", "mbconv"),
        channels=tuple(range(8, 260, 4)),
        expansions=(1, 2, 3, 4, 5, 6),
        group_widths=(1, 4, 8, 12),
        sizes=tuple(range(7, 57, 7)),
        batches=(1, 8, 64),
        devices=(H200,),
    )
    return Search.of(space, ["min latency", "max params", "max intensity"], ["latency < 50us", "macs > 1M"])


def test_the_front_is_that_of_designs_predicted_one_by_one() -> None:
    search = Search.of(small(), ["min latency", "max macs"], ["params <= 40k", "latency[h200] * 2 < 20us or block == basic"])
    rows = []
    for number in range(search.space.size):
        design = search.space.design(number)
        ignored = design["block"] == "basic" and (design["expansion"] != 1 or design["group_width"] != 1 or design["kernel"] != 3)
        if ignored:
            continue
        try:
            network = search.space.network(number)
        except ShapeError:
            continue
        latency_s = predict(network, H200).latency_s
        if network.params <= 40_000 and (2 * latency_s < 20e-6 or design["block"] == "basic"):
            rows.append((latency_s, -network.macs, number))
    best = [
        row
        for row in rows
        if not any(
            other[0] <= row[0] and other[1] <= row[1] and (other[:2] != row[:2] or other[2] < row[2])
            for other in rows
            if other != row
        )
    ]
    found = run(search)
    assert found.feasible == len(rows)
    assert sorted(found.front.index.tolist()) == sorted(number for _, _, number in best)
    assert found.exhaustive
    shown = found.rows(["bytes"])
    assert [row["latency"] for row in shown] == sorted(latency for latency, _, _ in best)
    assert {"design", "block", "channels", "bytes", "macs"} <= set(shown[0])


def test_chunks_and_probes_do_not_show() -> None:
    search = large()
    assert search.space.size > 4 * CHUNK
    whole = search.front_of(np.arange(search.space.size))
    found = run(search)
    assert found.front.index.tolist() == whole.index.tolist()
    assert found.front.values.tobytes() == whole.values.tobytes()
    nothing = search.part(0, search.space.size, Front.empty(3).values)
    assert nothing.front.index.tolist() == whole.index.tolist()
    _, met, _ = search.costs(np.arange(search.space.size))
    assert found.feasible == np.count_nonzero(met)


class Stops(HostBackend):
    """Fails after some ranges, as a process that is ended does."""

    range_designs = 10_000

    def __init__(self, search: Search, after: int) -> None:
        super().__init__(search)
        self._after = after

    def parts(self, ranges: Iterator[tuple[int, int]], probes: object) -> Iterator[Part]:
        for number, part in enumerate(super().parts(ranges, probes)):  # type: ignore[arg-type]
            if number == self._after:
                raise KeyboardInterrupt
            yield part


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    search, state = large(), tmp_path / "state.json"
    alone = run(search)
    for after in (2, 1):
        with pytest.raises(KeyboardInterrupt):
            run(search, backend=Stops(search, after), state=state)
    assert json.loads(state.read_text())["next"] == 30_000
    seen: list[int] = []
    found = run(search, state=state, progress=lambda done, front: seen.append(done))
    assert min(seen) > 30_000
    assert found.front.index.tolist() == alone.front.index.tolist()
    assert (found.valid, found.feasible) == (alone.valid, alone.feasible)
    again = run(search, state=state)  # all is done: nothing is evaluated
    assert again.front.values.tobytes() == alone.front.values.tobytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: {**record, "checksum": "0" * 64}, "another search"),
        (lambda record: {**record, "schema_version": 99}, "another search"),
        (lambda record: {**record, "index": [10**12]}, "does not have"),
        (lambda record: {**record, "index": [[1]]}, "does not have"),
        (lambda record: {**record, "index": ["x"]}, "not the state of a search"),
        (lambda record: {**record, "next": -1}, "does not have"),
        (lambda record: {"next": 1}, "not the state of a search"),
        (lambda record: [1], "not the state of a search"),
    ],
)
def test_a_state_of_something_else_is_refused(tmp_path: Path, change: object, said: str) -> None:
    search, path = large(), tmp_path / "state.json"
    State(next=0, front=Front.empty(3), valid=0, feasible=0, seconds=0.0).save(path, search)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))  # type: ignore[operator]
    with pytest.raises(StateError, match=said):
        run(search, state=path)


def test_an_optimiser_finds_the_front_of_a_space_small_enough_to_know() -> None:
    search = load_search(SPACES / "blocks.toml")
    whole = run(search)
    two = Search.of(search.space, ["min latency[h200]", "max macs"], [item.text for item in search.constraints])
    exact, found = run(two), optimise(two, evaluations=20_000)
    assert not found.exhaustive
    assert found.evaluated < 40_000
    missing = set(exact.front.index.tolist()) - set(found.front.index.tolist())
    assert len(missing) < 0.1 * len(exact.front.index)
    joined = exact.front.merged(found.front)
    assert joined.index.tolist() == exact.front.index.tolist()  # it never claims what is not there
    assert len(whole.front.index) > len(exact.front.index)


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        (["params < 10"], "none meets 'params < 10' alone"),
        (["channels >= 32", "channels < 32"], "'channels >= 32' and 'channels < 32' contradict each other"),
        (["latency < 1us", "macs > 1M", "macs > 600M"], "'latency < 1us' and 'macs > 600M' contradict each other"),
        (
            ["channels != 8 and channels != 16", "channels != 24 and channels != 32", "channels != 48"],
            "any two are met by some, all by none",
        ),
        (
            ["channels != 8 and channels != 16", "macs > 1", "channels != 24 and channels != 32", "channels != 48"],
            r"'channels != 8 and channels != 16', 'channels != 24 and channels != 32', 'channels != 48' contradict",
        ),
    ],
)
def test_contradictions_are_named(constraints: list[str], said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        run(Search.of(small(), ["min latency"], constraints))
    assert said in str(caught.value)


def test_an_objective_without_a_value_is_named() -> None:
    space = BlockSpace(blocks=("convfirst",), channels=(8, 16), sizes=(14,), devices=(load("h200"),))
    with pytest.raises(
        PerfmodelError, match=r"no design has a value to compare: of 2 designs .* 'latency / 0' is not finite"
    ) as caught:
        run(Search.of(space, ["max latency / 0"], ["channels >= 8"]))
    assert "contradict" not in str(caught.value)


def test_a_space_of_nothing_is_said() -> None:
    space = BlockSpace(blocks=("convfirst",), channels=(12, 20), sizes=(14,), devices=(H200,))
    with pytest.raises(SpaceError, match="none can be built"):
        run(Search.of(space, ["min latency"]))


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        ([], "needs an objective"),
        (["min 3"], "same for every design"),
        (["min latency", "latency"], "given twice"),
        (["min lateny"], "did you mean"),
        (["min latency < 3"], "is not a number"),
        (["max block"], "is no number"),
    ],
)
def test_objectives_that_are_none_are_said(objectives: list[str], said: str) -> None:
    with pytest.raises(PerfmodelError, match=said):
        Search.of(small(), objectives)


def test_objectives_without_a_value_leave_a_design_out() -> None:
    search = Search.of(small(), ["min 1 / (channels - 8)", "max macs"])
    found = run(search)
    assert np.isfinite(found.front.values).all()
    assert found.feasible < found.valid


def test_an_optimiser_evaluates_a_small_space_whole() -> None:
    space = BlockSpace(blocks=("convfirst",), channels=(16,), sizes=(14,), devices=(H200,))
    found = optimise(Search.of(space, ["min latency"]))
    assert found.exhaustive
    assert found.front.index.tolist() == [0]


def test_results_are_written_as_they_are(tmp_path: Path) -> None:
    found = run(Search.of(small(), ["min latency", "max macs"]))
    rows = found.rows(["params"])
    write_rows(rows, tmp_path / "front.csv")
    with (tmp_path / "front.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["latency"]) for row in read] == [row["latency"] for row in rows]
    with pytest.raises(ResultsError, match=r"\.csv or \.parquet"):
        write_rows(rows, tmp_path / "front.xlsx")
    with pytest.raises(ResultsError, match="cannot write"):
        write_rows(rows, tmp_path / "missing" / "front.csv")


def test_results_as_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra parquet)")
    rows = run(Search.of(small(), ["min latency", "max macs"])).rows()
    write_rows(rows, tmp_path / "front.parquet")
    assert parquet.read_table(tmp_path / "front.parquet").to_pylist() == rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "trees"}, "'blocks' or 'networks' is expected"),
        ({"channels": None}, "channels: its values are whole numbers"),
        ({"channels": {"from": 8, "until": 9}}, "a range is written"),
        ({"channels": {"from": 9, "to": 8}}, "at least one value"),
        ({"channels": {"from": 1, "to": 10**9}}, "at most"),
        ({"channels": [8, -8]}, "at least 1"),
        ({"chanels": [8]}, "chanels is not a known field"),
        ({"block": [3]}, "list of names"),
        ({"hardware": "h2000"}, "did you mean"),
        ({"what_if": ["bandwidth=two"]}, "is no value"),
        ({"constraints": ["__import__('os')"]}, "cannot be read|is expected"),
    ],
)
def test_descriptions_that_are_wrong_are_said(change: dict[str, object], said: str) -> None:
    data = {"hardware": "h200", "block": "convfirst", "channels": [8, 16], "objectives": "min latency"} | change
    with pytest.raises(PerfmodelError, match=said):
        search_of(data, "space.toml")


def test_the_shipped_spaces_are_what_they_say() -> None:
    for path in SPACES.glob("*.toml"):
        assert f"{load_search(path).space.size:,} designs" in path.read_text()


def test_the_command_searches_a_file_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["design", "search", str(SPACES / "blocks.toml"), "--format", "json", "--extra", "params"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["exhaustive"]
    assert record["evaluated"] == record["designs"] == 38_400
    assert len(record["front"]) > 100
    options = ["--hardware", "h200", "--block", "convfirst,mbconv", "--channels", "16:128:16", "--group-width", "8,16"]
    wanted = ["--objective", "min latency", "--objective", "max macs", "--set", "bandwidth=2x", "--constraint", "params < 100k"]
    files = ["--results", str(tmp_path / "f.csv"), "--plot", str(tmp_path / "f.svg"), "--state", str(tmp_path / "s.json")]
    assert command(["design", "search", *options, *wanted, *files, "--top", "3"]) == 0
    said = capsys.readouterr()
    assert "hypothetical: bandwidth=2x" in said.out
    assert all((tmp_path / name).stat().st_size > 100 for name in ("f.csv", "f.svg", "s.json"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.toml"], 2, "cannot read the space"),
        ([], 2, "describe the space"),
        ([str(SPACES / "blocks.toml"), "--constraint", "macs < 3"], 2, "described in the file"),
        ([str(SPACES / "blocks.toml"), "--backend", "nump"], 2, "did you mean numpy"),
        ([str(SPACES / "blocks.toml"), "--address", "tcp://x"], 2, "--backend dask"),
        ([str(SPACES / "blocks.toml"), "--extra", "lateny"], 2, "unknown quantity"),
        ([str(SPACES / "blocks.toml"), "--evaluations", "5000", "--state", "x"], 2, "--evaluations"),
        (["--hardware", "h200", "--block", "convfirst", "--channels", "8:x"], 2, "no list of numbers"),
    ],
)
def test_bad_searches_end_with_one_sentence(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["design", "search", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_cupy_the_backend_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # as where it is not installed
    assert command(["design", "search", str(SPACES / "blocks.toml"), "--backend", "cupy"]) == 5
    assert "pip install" in capsys.readouterr().err
