"""What was recorded of importing timm's networks keeps what the documentation promises of it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from perfmodel.networks.catalog import build, entries
from perfmodel.schedule import NAMES
from perfmodel.validation import library
from perfmodel.validation.library import LibraryRow, near
from perfmodel.validation.library_tables import agrees, convolutional, onnx_rows, reason

ROWS = convolutional()


def test_several_hundred_networks_were_imported() -> None:
    assert len({row.model for row in ROWS}) > 400
    assert len({(row.model, row.resolution) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if not agrees(row)], ids=lambda row: f"{row.model}-{row.resolution}")
def test_what_differs_from_timms_figures_has_a_reason(row: LibraryRow) -> None:
    assert "not found" not in reason(row)
    assert reason(row)


def test_an_independent_count_finds_the_same_macs() -> None:
    counted = [row for row in ROWS if row.flop_counter_macs is not None and not row.unsupported]
    assert len(counted) > 400
    assert [row.model for row in counted if row.flop_counter_macs != row.macs] == []


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left of a line is cut off, and what it measured is not measured again."""
    first, second = ROWS[:2]
    rows = {row.model: row for row in (first, second)}
    assert len(rows) == 2
    files = tmp_path / "timm.csv"
    files.write_text(
        "model,infer_img_size\n" + "".join(f"{row.model},{row.resolution}\n" for row in rows.values()), encoding="utf-8"
    )
    output = tmp_path / "results.jsonl"
    output.write_text(json.dumps(asdict(first)) + '\n{"model": "cut', encoding="utf-8")
    asked = []
    monkeypatch.setattr(library, "measured", lambda row: asked.append(row["model"]) or rows[row["model"]])
    library.main([str(files), "--output", str(output)])
    assert asked == [second.model]
    assert library.read(output) == [first, second]


def test_imports_were_quick() -> None:
    assert max(row.import_s for row in ROWS) < 20
    assert max(row["read_s"] for row in onnx_rows()) < 5


def test_onnx_files_cost_what_their_modules_cost() -> None:
    same = [row for row in onnx_rows() if row["same_params"] and set(row["same_schedules"]) == set(NAMES)]
    assert len(same) >= 30


def test_built_in_networks_count_what_their_imports_counted() -> None:
    compared = 0
    for row in ROWS:
        if row.model in entries() and not row.model.startswith("mobileone"):
            network = build(row.model, resolution=row.resolution)
            assert (network.params, network.macs, network.graph.activations) == (row.params, row.macs, row.activations)
            compared += 1
    assert compared > 20


def test_the_changelog_says_what_was_recorded() -> None:
    text = " ".join((Path(__file__).resolve().parent.parent / "CHANGELOG.md").read_text(encoding="utf-8").split())
    good = sum(map(agrees, ROWS))
    assert f"{len({row.model for row in ROWS})} convolutional networks of timm at {len(ROWS)} pairs" in text
    assert f"{good} agree with timm's published" in text
    assert f"{len(ROWS) - good} differ, each with its reason" in text
    assert f"{len(onnx_rows())} ONNX files" in text


def test_near_allows_for_what_printing_hides() -> None:
    assert near(0.0449, "0.04")
    assert not near(0.0471, "0.04")
    assert near(10.05, "10.00")
    assert not near(10.06, "10.00")
