"""What is installed: every way to build the package carries its folders and device files, under one name."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from perfmodel.hardware.catalog import names

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, and the wheel built from it, as `python -m build` makes them."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_the_wheel_has_every_device_and_one_name(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = archive.namelist()
    devices = {Path(name).stem for name in found if name.startswith("perfmodel/hardware/devices/")}
    assert devices == set(names())
    assert "perfmodel/layers/conv2d.py" in found
    assert "perfmodel/validation/timm.py" in found
    assert {name.split("/")[0] for name in found} == {"perfmodel", next(n for n in found if ".dist-info/" in n).split("/")[0]}


def test_the_source_distribution_has_what_the_wheel_is_built_from(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        found = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    assert "perfmodel/hardware/devices/h200.toml" in found
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/test_packaging.py", "docs/model.md"} <= found


def test_the_package_runs_from_an_installed_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import perfmodel, sys; sys.stdout.write(perfmodel.__file__ + ' ' + perfmodel.predict('resnet18', 'h200').bottleneck)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/perfmodel/__init__.py memory"
