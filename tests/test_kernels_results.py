"""The harness without a GPU: recorded files, their table, resumption, ncu's output."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from perfmodel.validation import measure
from perfmodel.validation.kernel_tables import checks_sentence, conditions_sentence, files, kernels_table, measured
from perfmodel.validation.measure import RESULTS, Recorder, cases, main, odd_cases, read_lines
from perfmodel.validation.ncu import counted, parse
from perfmodel.validation.problem import GpuError

H200 = RESULTS / "h200" / "convfirst.jsonl"

NCU = """==PROF== Connected
some output of the program
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","1","python3","h","convfirst_c64_e4_w4","1","7","(512, 1, 1)","(132, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","Mbyte","51.47"
"0","1","python3","h","convfirst_c64_e4_w4","1","7","(512, 1, 1)","(132, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_write.sum","Kbyte","1,024.5"
"0","1","python3","h","convfirst_c64_e4_w4","1","7","(512, 1, 1)","(132, 1, 1)","0","9.0","Command line profiler metrics","gpu__time_duration.sum","us","62.5"
"""  # noqa: E501


def test_recorded_files_are_found():
    assert H200 in files()


def test_recorded_medians_follow_from_the_raw_times():
    lines = [line for line in read_lines(H200) if line["kind"] == "time"]
    assert lines
    for line in lines:
        assert line["median_s"] == pytest.approx(statistics.median(line["times_s"]), rel=1e-4)
        assert line["p20_s"] <= line["median_s"] <= line["p80_s"]
        assert line["before"]["sm_clock_hz"] > 0


def test_every_case_is_recorded_whole():
    found = {one.case: one for one in measured(read_lines(H200))}
    for problem in cases():
        one = found[problem.name]
        assert set(one.times) == {(what, mode) for what in ("fused", "eager", "compile") for mode in ("burst", "sustained")}
        assert (one.count is not None) == (problem.N == 128)
        assert one.over_floor("burst") >= 1  # nothing is faster than the floor
        assert 0 < one.of_waterline() < 1


def test_recorded_checks_all_passed():
    checks = [line for line in read_lines(H200) if line["kind"] == "check"]
    assert {line["case"] for line in checks} >= {problem.name for problem, _ in odd_cases()} | {p.name for p in cases()}
    assert all(line["passed"] and line["repeats"] for line in checks)


def test_table_has_each_case():
    rows = kernels_table().splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 2 + len(cases())
    assert "recorded checks passed" in checks_sentence()
    assert "H200" in conditions_sentence()


def test_documentation_shows_what_is_recorded():
    page = (Path(__file__).resolve().parent.parent / "docs" / "kernels.md").read_text(encoding="utf-8")
    for part in (kernels_table(), checks_sentence(), conditions_sentence()):
        assert part in page


def test_table_of_nothing(tmp_path):
    assert len(kernels_table(tmp_path).splitlines()) == 2
    assert checks_sentence(tmp_path) == "No check is recorded."


def test_recorder_resumes_and_flushes(tmp_path, capsys):
    path = tmp_path / "results" / "convfirst.jsonl"
    where = {"kind": "run", "run": "now", "device": "H200"}
    line = {"kind": "time", "case": "a", "what": "fused", "mode": "burst", "times_s": [1.0]}
    first = Recorder(path, where)
    assert not first.has(kind="time", case="a", what="fused", mode="burst")
    first.add(line)
    assert [one["kind"] for one in read_lines(path)] == ["run", "time"]  # there already
    assert "times_s" not in capsys.readouterr().out
    second = Recorder(path, where)
    assert second.has(kind="time", case="a", what="fused", mode="burst")
    assert not second.has(kind="time", case="a", what="fused", mode="sustained")
    assert not Recorder(path, {**where, "device": "H100"}).has(kind="time", case="a", what="fused", mode="burst")


def test_a_cut_off_last_line_is_left_out(tmp_path):
    path = tmp_path / "convfirst.jsonl"
    path.write_text(json.dumps({"kind": "run"}) + '\n{"kind": "ti')
    assert read_lines(path) == ({"kind": "run"},)
    path.write_text('{"kind": "ti\n' + json.dumps({"kind": "run"}) + "\n")
    with pytest.raises(GpuError, match="line 1 is no JSON"):
        read_lines(path)


def test_ncu_rows_become_launches():
    (one,) = parse(NCU)
    assert (one.kernel, one.read_bytes, one.written_bytes) == ("convfirst_c64_e4_w4", 51.47e6, 1024.5e3)
    assert one.duration_s == pytest.approx(62.5e-6)
    assert parse("nothing here") == ()
    with pytest.raises(GpuError, match="furlong"):
        parse(NCU.replace('"us"', '"furlong"'))


def test_ncu_missing_or_forbidden(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(GpuError, match="ncu is not installed"):
        counted(["true"], "x")
    fake = tmp_path / "ncu"
    fake.write_text("#!/bin/sh\necho '==ERROR== ERR_NVGPUCTRPERM - no permission'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(fake))
    with pytest.raises(GpuError, match="administrators only"):
        counted(["true"], "x")


def test_no_cupy_is_one_sentence_and_exit_5(monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("perfmodel.validation.gpu.importlib.import_module", missing)
    assert main(["--block", "convfirst"]) == 5
    assert capsys.readouterr().err.startswith("error: CuPy is not installed")
    assert measure.main(["--only-check"]) == 5
