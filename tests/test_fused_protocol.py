"""Fused kernels that were measured beside what is expected of them: records, decisions, factors, report."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path

import pytest

from perfmodel.cli import run
from perfmodel.expected.fused_calibration import fused_calibration
from perfmodel.expected.fused_terms import FUSED_TERMS
from perfmodel.prediction import predict
from perfmodel.validation.comparison import Skipped
from perfmodel.validation.fused.catalog import FAMILIES
from perfmodel.validation.fused.problem import Problem
from perfmodel.validation.fused_protocol import OTHER_CONFIGURATION, ablated, run_fused, summary_of
from perfmodel.validation.fused_tables import decisions_table, fused_blocks, recorded_fused, wrong_decisions
from tests.gpus import H200

RUN = {"kind": "run", "device": "NVIDIA H200", "limits": {**asdict(H200), "compute_capability": [9, 0]}, "revision": "old"}
DEPTHWISE = FAMILIES["mbconv"].selections["depthwise"]()[:2]
KERNELS = [FAMILIES["mbconv"].choose(problem, H200).name for problem in DEPTHWISE]  # type: ignore[arg-type]


def time_line(problem: Problem, kernel: str, **other: object) -> dict[str, object]:
    common = {"kind": "time", "what": "fused", "mode": "burst", "device": "NVIDIA H200", "run": "2026-11-30T04:00:00"}
    return {**common, "case": problem.name, "kernel": kernel, "median_s": 3e-4, **other}


def recorded(folder: Path, lines: list[dict[str, object]], name: str = "mbconv") -> Path:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_what_each_term_is_worth_is_in_the_report(tmp_path: Path) -> None:
    lines = [{**RUN, "run": "2026-11-30T04:00:00"}, *map(time_line, DEPTHWISE, KERNELS)]
    folder = recorded(tmp_path, lines)
    protocol, without = run_fused(folder), ablated(folder)
    assert without.keys() == FUSED_TERMS.keys()
    assert all([row.case for row in found.rows] == [row.case for row in protocol.rows] for found in without.values())
    assert all(ours.expected_s < row.expected_s for ours, row in zip(without["launch"].rows, protocol.rows, strict=True))
    table = fused_blocks(protocol, without)[-1][1]
    assert [row[0] for row in table[1]] == ["all terms", *(f"without `{name}`" for name in FUSED_TERMS)]  # type: ignore[index]


def test_recorded_fused_kernels_are_expected_well_enough_to_decide() -> None:
    """The project's targets: decisions, machine figures alone, factors with configurations left out, DRAM bytes above L2."""
    protocol = recorded_fused()
    assert len(protocol.chosen()) >= 15
    assert len(protocol.layouts()) >= 150
    assert decisions_table(protocol)[1]
    decided = [row.decided_rightly for row in protocol.rows if row.regime == "burst" and row.decided_rightly is not None]
    assert sum(decided) >= 0.95 * len(decided) >= 0.95 * 200
    alone = summary_of([*protocol.chosen(), *protocol.layouts()])
    left_out = summary_of([*protocol.chosen(), *protocol.layouts()], left_out=True)
    assert alone is not None
    assert left_out is not None
    assert alone.mape <= 0.12
    assert left_out.mape <= 0.07
    counted = [row for row in protocol.rows if row.above_l2 and row.dram_bytes and row.dram_expected_bytes]
    bytes_off = [abs((row.dram_expected_bytes or 0) / (row.dram_bytes or 1) - 1) for row in counted]
    assert statistics.median(bytes_off) <= 0.03
    assert max(bytes_off) <= 0.10
    assert all(row.decided_rightly is False for row in wrong_decisions(protocol))


def test_of_several_runs_the_newest_of_each_case_counts(tmp_path: Path) -> None:
    """Whatever the order of lines; a case whose newest run has another kernel than the code chooses now is skipped, and said."""
    newer = "2026-11-30T08:00:00"
    lines: list[dict[str, object]] = [
        {**RUN, "run": newer, "revision": "new"},
        time_line(DEPTHWISE[0], KERNELS[0], run=newer, median_s=2e-4),
        {**RUN, "run": "2026-11-30T04:00:00"},
        time_line(DEPTHWISE[0], KERNELS[0]),
        time_line(DEPTHWISE[1], "another"),
    ]
    protocol = run_fused(recorded(tmp_path, lines))
    (row,) = protocol.rows
    assert (row.case, row.measured_s, row.revision) == (DEPTHWISE[0].name, 2e-4, "new")
    assert protocol.skipped == (Skipped(reason=OTHER_CONFIGURATION, rows=(f"{DEPTHWISE[1].name} (another)",)),)


def test_what_could_not_be_measured_is_no_measurement(tmp_path: Path) -> None:
    """Refused counts, bursts and times of torch.compile beside a time that was measured."""
    refused = {"device": "NVIDIA H200", "run": "2026-11-30T04:00:00", "case": DEPTHWISE[0].name, "refused": "not permitted"}
    lines: list[dict[str, object]] = [
        {**RUN, "run": "2026-11-30T04:00:00"},
        time_line(DEPTHWISE[0], KERNELS[0]),
        {**refused, "kind": "count", "what": "fused"},
        {**refused, "kind": "time", "what": "compile", "mode": "burst"},
        {**refused, "kind": "time", "what": "fused", "mode": "sustained"},
    ]
    (row,) = run_fused(recorded(tmp_path, lines)).rows
    assert (row.dram_bytes, row.compile_s, row.regime) == (None, None, "burst")


def test_times_that_are_not_compared_are_listed(tmp_path: Path) -> None:
    lines = [
        {**RUN, "run": "2026-11-30T04:00:00"},
        time_line(DEPTHWISE[0], KERNELS[0]),
        time_line(DEPTHWISE[1], KERNELS[1], device="NVIDIA A100-SXM4-80GB"),
        time_line(DEPTHWISE[1], KERNELS[1], case="mbconv_of_old"),
    ]
    protocol = run_fused(recorded(tmp_path, lines))
    assert len(protocol.rows) == 1
    reasons = {one.reason: one.rows for one in protocol.skipped}
    assert reasons["measured on NVIDIA A100-SXM4-80GB"] == (f"{DEPTHWISE[1].name} ({KERNELS[1]})",)
    assert any("no name of a case" in reason and rows == ("mbconv_of_old",) for reason, rows in reasons.items())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([time_line(DEPTHWISE[0], KERNELS[0])], "with the limits of the device"),
        (
            [{**RUN, "limits": {"name": "x", "compute_capability": [9, 0]}}, time_line(DEPTHWISE[0], KERNELS[0])],
            "with the limits",
        ),
        (
            [RUN, time_line(DEPTHWISE[0], KERNELS[0], device="NVIDIA A100")],
            "no times of fused kernels on h200 (left out, measured on NVIDIA A100: 1 (",
        ),
        ([RUN, time_line(DEPTHWISE[0], KERNELS[0], median_s=0)], "line 2: median_s is 0"),
        ([RUN, {"kind": "layout", "problem": {}, "layout": {}, "median_s": 1.0}], "is of no problem"),
    ],
)
def test_records_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, lines: list[dict[str, object]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "generic-layouts" if any(line["kind"] == "layout" for line in lines) else "mbconv"
    folder = recorded(tmp_path, lines, name)
    assert run(["validate", "calibrate", f"{folder}=h200", "--schedule", "block", "--description", "x", "--source", "y"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_block_schedule_has_a_tier_expected_with_an_interval() -> None:
    prediction = predict("convfirstnet_tiny", "h200", batch=128, schedule="block", tier="expected")
    assert prediction.latency_low_s is not None
    assert prediction.latency_high_s is not None
    assert prediction.latency_low_s < prediction.latency_s < prediction.latency_high_s
    assert prediction.bound_latency_s is not None
    assert prediction.latency_s > prediction.bound_latency_s
    assert any("factor for each class" in said for said in prediction.assumptions)


def test_blocks_without_a_kernel_of_ours_are_counted_layer_by_layer() -> None:
    prediction = predict("resnet50", "h200", batch=64, schedule="block", tier="expected")
    assert any("layer by layer" in said for said in prediction.assumptions)


def test_shipped_factors_have_provenance_and_a_checked_interval() -> None:
    found = fused_calibration()
    assert found.intervals.low < 1 < found.intervals.high
    assert 0.7 < found.intervals.coverage <= 1
    assert all(0.3 < one.factor < 3 for one in found.factors)


def test_calibration_wants_one_folder_and_its_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "calibrate", "nowhere", "--schedule", "block", "--description", "x", "--source", "y"]) == 2
    assert "one folder" in capsys.readouterr().err


def test_a_folder_without_fused_kernels_is_refused(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "calibrate", f"{tmp_path}=h200", "--schedule", "block", "--description", "x", "--source", "y"]) == 2
    assert "no times of fused kernels" in capsys.readouterr().err
