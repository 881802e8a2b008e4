"""The documentation says what the program does: generated parts are current, every command is there, examples run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer
from pydantic import BaseModel

from perfmodel import cli
from perfmodel.plan_record import CutRecord, PlanRecord, SegmentRecord
from perfmodel.record import KernelRecord, PredictionRecord
from perfmodel.validation.comparison import ComparedRow, Comparison, Provenance
from perfmodel.validation.layer_comparison import LayerComparison, LayerRow
from perfmodel.validation.network_comparison import NetworkComparison, NetworkRow
from perfmodel.validation.profiles import JoinedRow, ProfileComparison
from perfmodel.validation.statistics import Summary

ROOT = Path(__file__).resolve().parent.parent


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generate()
PAGES = GENERATE.pages()


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_generated_parts_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert GENERATE.filled(text) == text, "run: python docs/generate.py"
    assert text.count("<!-- end -->") == len(GENERATE.BLOCK.findall(text))


def _commands(app: typer.Typer, prefix: str) -> list[str]:
    found = [f"{prefix} {info.name or info.callback.__name__}" for info in app.registered_commands if info.callback]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found += _commands(group.typer_instance, f"{prefix} {group.name}")
    return found


@pytest.mark.parametrize("command", _commands(cli.app, "perfmodel"))
def test_every_command_is_documented(command: str) -> None:
    assert command in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


RECORDS = (
    PredictionRecord, KernelRecord, PlanRecord, SegmentRecord, CutRecord, Comparison, ComparedRow, Provenance,
    NetworkComparison, NetworkRow, LayerComparison, LayerRow, ProfileComparison, JoinedRow, Summary,
)  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=[record.__name__ for record in RECORDS])
def test_every_key_that_is_printed_is_documented(record: type[BaseModel]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [key for key in record.model_fields if f"`{key}`" not in page and f'"{key}":' not in page] == []


def test_the_commands_are_found() -> None:
    assert {"perfmodel predict", "perfmodel compare", "perfmodel hardware show", "perfmodel plot gap"} <= set(
        _commands(cli.app, "perfmodel")
    )


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_python_examples_run(page: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(example, str(page), "exec"), {"__name__": "example"})


def test_every_decision_has_a_page() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert numbers == list(range(1, len(pages) + 1))


def test_figures_of_the_readme_and_changelog_are_those_recorded() -> None:
    from perfmodel.hardware.catalog import names
    from perfmodel.layers.catalog import BLOCKS, FORMULAS
    from perfmodel.networks.catalog import entries
    from perfmodel.validation.timm_table import recorded

    comparisons = recorded()
    rows = sum(comparison.n for comparison in comparisons)
    assert sum(comparison.below_bound for comparison in comparisons) == 0
    below = sum(comparison.below_waterline for comparison in comparisons)
    readme, changelog = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md"))
    assert f"of {rows} published ones of networks in its catalogue, none lies below its bound" in readme
    assert f"of {rows} rows none lies below the bound, {below} lie below the" in changelog
    assert f"costs of {len(FORMULAS)} layers and {len(BLOCKS)} residual blocks" in changelog
    assert f"- {len(names())} machines" in changelog
    assert f"- {len(entries())} networks" in changelog
    waterline = sorted(comparison.spearman for comparison in comparisons)
    macs = sorted(comparison.spearman_macs for comparison in comparisons)
    assert f"{waterline[0]:.3f} to {waterline[-1]:.3f}, of MACs alone {macs[0]:.3f} to {macs[-1]:.3f}" in changelog
