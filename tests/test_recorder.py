"""The file of results: what a stopped run left, what is no result, and what cannot be measured."""

import json
from pathlib import Path

import pytest

from perfmodel.errors import PerfmodelError
from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.recorder import PLAIN, Recorder, Results, append, read_lines

WHERE = {"kind": "run", "run": "now", "device": "H200"}
KEY = {"kind": "time", "case": "a", "what": "fused", "mode": "burst"}
TIME = {**KEY, "device": "H200", "median_s": 1e-3}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "convfirst.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        ("", 0),
        (json.dumps(TIME) + "\n", 1),
        (json.dumps(TIME), 1),  # whole, but without its end
        (json.dumps(TIME) + '\n{"kind": "ti', 1),
        ('{"kind": "ti', 0),
        (json.dumps(TIME) + "\n\n" + json.dumps(TIME) + '\n{"case": "\xc3', 2),
    ],
)
def test_what_comes_after_a_stopped_run_can_be_read(tmp_path, left, kept):
    path = written(tmp_path, left)
    assert len(read_lines(path)) == kept
    assert len(read_lines(path)) == kept
    append(path, {**TIME, "case": "b"})
    assert [line["case"] for line in read_lines(path)] == ["a"] * kept + ["b"]
    assert Results(path, "H200").has(**{**KEY, "case": "b"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind": "ti\n' + json.dumps(TIME), "line 1 is no JSON"),
        ("notes without an end of line", "line 1 is no JSON"),
        ("[1]\n", "line 1 is no object"),
        ("9" * 5000 + "\n", "line 1 cannot be read"),
        (b'{"kind": "time", "case": "\xff"}\n', "line 1 cannot be read"),
        ("{}\n", "line 1 has the kind None"),
        ('{"kind": ' + "[" * 200_000, "line 1 cannot be read"),
        ('{"kind": [1]}\n', r"line 1 has the kind \[1\]"),
        ('{"kind": "\x1b[31m"}\n'.replace("\x1b", "\\u001b"), r"kind '\\x1b"),
        (json.dumps({**TIME, "median_s": 0}) + "\n", "line 1: median_s is 0, but it must be positive"),
        (json.dumps({**TIME, "median_s": float("nan")}) + "\n", "line 1: median_s is nan"),
        (json.dumps({**TIME, "median_s": 10**400}) + "\n", "line 1: median_s is inf"),
        (json.dumps({**TIME, "median_s": "x"}) + "\n", "line 1: median_s is 'x', which is not a number"),
        (json.dumps({**TIME, "median_s": True}) + "\n", "line 1: median_s is True, which is not a number"),
        (json.dumps({**KEY, "device": "H200"}) + "\n", "line 1 lacks median_s"),
        (json.dumps({**TIME, "case": 3}) + "\n", "line 1 gives 3 for case"),
        (json.dumps({"kind": "layout", "problem": 1}) + "\n", "line 1: problem is 1, which must be an object"),
        (json.dumps({**KEY, "device": "H200", "refused": 3}) + "\n", "line 1 gives 3 for refused"),
    ],
)
def test_a_line_that_is_no_result_is_refused_with_its_place(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(MeasurementFileError, match=said) as caught:
        read_lines(path)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_is_no_result(tmp_path, capsys):
    """It is recorded once for each reason, and does not keep the measurement from being made."""
    path = tmp_path / "convfirst.jsonl"
    first = Recorder(path, WHERE)
    first.add({**KEY, "refused": "no room"})
    assert not first.has(**KEY)
    again = Recorder(path, WHERE)
    assert not again.has(**KEY)
    for reason in ("no room", "no driver", "no driver"):
        again.add({**KEY, "refused": reason})
    assert [line.get("refused") for line in read_lines(path) if line["kind"] == "time"] == ["no room", "no driver"]
    again.add(TIME)
    assert Recorder(path, WHERE).has(**KEY)
    assert capsys.readouterr().out.count("no driver") == 2


def test_a_check_that_fails_takes_the_place_of_one_that_passed(tmp_path):
    """In the file as well as in the run that measures it again."""
    key = {"kind": "check", "case": "a", "what": "kernel"}
    path = tmp_path / "convfirst.jsonl"
    results = Results(path, "H200")
    results.add({**key, "passed": True})
    assert results.has(**key)
    results.add({**key, "passed": False})
    assert not results.has(**key)
    assert not Results(path, "H200").has(**key)


@pytest.mark.parametrize("place", ["afile/convfirst.jsonl", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, place):
    (tmp_path / "afile").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PerfmodelError, match=r"cannot (write|read)"):
        Recorder(tmp_path / place, WHERE)


def test_results_of_another_kind_are_told_apart_by_their_own_fields(tmp_path):
    path = tmp_path / "networks.jsonl"
    results = Results(path, "H200", fields=("key", "device"), needed=PLAIN)
    results.add({"key": "resnet50/1"})
    assert Results(path, "H200", ("key", "device"), PLAIN).has(key="resnet50/1")
    assert not Results(path, "H100", ("key", "device"), PLAIN).has(key="resnet50/1")
    append(path, {"kind": "time"})
    with pytest.raises(MeasurementFileError, match=r"line 2 has the kind 'time', which must be none$"):
        read_lines(path, PLAIN)


def test_a_place_that_cannot_be_written_is_found_before_anything_is_measured(tmp_path):
    with pytest.raises(PerfmodelError, match=r"cannot write .*Is a directory; choose another place"):
        Results(tmp_path, "NVIDIA H200")
