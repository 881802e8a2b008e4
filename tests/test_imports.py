"""Imports run one way, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The floors of the house. A module may import from its own floor and from lower ones; the longest matching prefix counts.
FLOORS = {
    "perfmodel.errors": 0,
    "perfmodel.hardware": 1,
    "perfmodel.layers": 1,
    "perfmodel.place": 1,
    "perfmodel.units": 1,
    "perfmodel.precision": 2,
    "perfmodel.network": 2,
    "perfmodel.networks": 3,
    "perfmodel.importers": 4,
    "perfmodel.lowering": 3,
    "perfmodel.machine": 3,
    "perfmodel.kernel": 4,
    "perfmodel.coverage": 5,
    "perfmodel.tiling": 4,
    "perfmodel.least_time": 4,
    "perfmodel.fusion": 5,
    "perfmodel.segments": 6,
    "perfmodel.cut": 6,
    "perfmodel.schedule": 6,
    "perfmodel.waterline": 6,
    "perfmodel.formulas": 7,
    "perfmodel.fused_formulas": 7,
    "perfmodel.sweep": 7,
    "perfmodel.capacity": 7,
    "perfmodel.expected": 6,
    "perfmodel.prediction": 7,
    "perfmodel.planning": 8,
    "perfmodel.record": 8,
    "perfmodel.plan_record": 9,
    "perfmodel.report": 9,
    "perfmodel.report.codesign": 10,
    "perfmodel.design.codesign": 9,
    "perfmodel.design.convfirst_space": 9,
    "perfmodel.design": 8,
    "perfmodel.plots": 9,
    "perfmodel.validation": 10,
    "perfmodel.demo": 11,
    "perfmodel.cli": 12,
    "perfmodel.__main__": 13,
}
# What may not see what on its own floor: the two foundations know nothing of each other.
STRANGERS = [("perfmodel.hardware", "perfmodel.layers"), ("perfmodel.layers", "perfmodel.hardware")]
# Imports that run upward on purpose, inside a method that only delegates: a Prediction offers its record, report and plot as methods,
# a Plan its record.
DELEGATES = {
    ("perfmodel.prediction", "perfmodel.record"),
    ("perfmodel.prediction", "perfmodel.report"),
    ("perfmodel.prediction", "perfmodel.plots"),
    ("perfmodel.planning", "perfmodel.plan_record"),
}


def modules() -> dict[str, Path]:
    found = {}
    for folder, prefix in [
        ("perfmodel", "perfmodel"),
        *((name, f"perfmodel.{name}") for name in ("hardware", "layers", "validation")),
    ]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "perfmodel" and parts[0] in ("hardware", "layers", "validation"):
                continue  # a link to a folder that is walked by itself
            name = ".".join([prefix, *parts]).removesuffix(".__init__")
            found[name] = path
    return found


def prefix(name: str) -> str:
    matching = [known for known in FLOORS if name == known or name.startswith(known + ".")]
    return max(matching, key=len, default="")


def imported(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top of the file) of every import of the project; those for the type checker only do not run."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def test_every_module_has_a_floor() -> None:
    homeless = [name for name in modules() if name != "perfmodel" and not prefix(name)]
    assert not homeless
    assert len(modules()) > 50


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_run_one_way(name: str) -> None:
    if name == "perfmodel":
        return  # the package's own file only names homes, which it loads on first use
    home = prefix(name)
    for target, at_top in imported(modules()[name]):
        if not target.startswith("perfmodel"):
            assert target.split(".")[0] not in ("hardware", "layers", "validation")
            continue
        if target == "perfmodel.__version__":
            continue  # the package's own file is beneath everything
        there = prefix(target)
        assert there, f"{name} imports {target}, which has no floor"
        if (home, there) in DELEGATES and not at_top:
            continue
        assert FLOORS[there] <= FLOORS[home], f"{name} (floor {FLOORS[home]}) imports {target} (floor {FLOORS[there]})"
        assert (home, there) not in STRANGERS, f"{name} imports {target}: the foundations know nothing of each other"


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_the_command_line_reaches_for_validation(name: str) -> None:
    if name.startswith(("perfmodel.validation", "perfmodel.cli")):
        return
    assert not [target for target, _ in imported(modules()[name]) if target.startswith("perfmodel.validation")]


def test_the_command_line_loads_validation_only_where_it_is_needed() -> None:
    rooms = [path for name, path in modules().items() if prefix(name) == "perfmodel.cli"]
    assert len(rooms) > 1
    assert not [target for path in rooms for target, at_top in imported(path) if at_top and "validation" in target]


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("sympy", "numpy", "scipy", "matplotlib", "pydantic", "cupy", "torch", "onnx")
    code = f"import sys, perfmodel; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_prediction_loads_neither_plots_nor_scipy() -> None:
    code = (
        "import sys, perfmodel; perfmodel.predict('resnet18', 'h200'); "
        "print([m for m in ('scipy', 'matplotlib', 'cupy', 'torch', 'onnx', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_folders_are_one_package() -> None:
    for name in ("hardware", "layers", "validation"):
        link = ROOT / "perfmodel" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name
