"""How modules are named on the command line: functions of a user's own, and networks of timm."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perfmodel.cli import run

USER_CODE = """
import torch
def make_net():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
def broken():
    raise RuntimeError("no such thing")
def number():
    return 7
def leaves():
    raise SystemExit("bye")
def chatty():
    print("hello")
    return make_net()
class Depends(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_package_of_models.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_of_the_users(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "my_package_of_models:make_net", "--hardware", "h200", "--resolution", "32"]) == 0
    out = capsys.readouterr().out
    assert "all 2 operations understood" in out
    assert run(["compare", "my_package_of_models:make_net", "timm:resnet18", "resnet18", "--hardware", "h200"]) == 0


def test_what_a_users_function_prints_does_not_spoil_the_answer(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "my_package_of_models:chatty", "--hardware", "h200", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["coverage"]["macs_fraction"] == 1.0
    assert "hello" in captured.err


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("my_package_of_models:broken", "no such thing"),
        ("my_package_of_models:number", "torch.nn.Module"),
        ("my_package_of_models:leaves", "bye"),
        ("my_package_of_models:Depends", "depends on the contents of a tensor"),
        (":make_net", "before the colon"),
        ("my_package_of_models:make_nte", "make_net"),
        ("no_such_package:f", "no module no_such_package"),
        ("timm:resnet5", "resnet50"),
        ("timm:", "unknown timm network"),
    ],
)
def test_wrong_references_are_one_sentence(package: Path, reference: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", reference, "--hardware", "h200"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_timm_downloads_nothing() -> None:
    """In a process whose sockets cannot connect."""
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "from perfmodel.cli import run\n"
        "sys.exit(run(['predict', 'timm:resnet18.a1_in1k', '--hardware', 'h200']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("library", "model", "extra"), [("torch", "timm:resnet18", "torch"), ("timm", "timm:resnet18", "torch")])
def test_a_missing_library_is_a_sentence_with_the_command(
    library: str, model: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert run(["predict", model, "--hardware", "h200", "--batch", "3"]) == 2
    assert f"pip install 'perfmodel[{extra}]'" in capsys.readouterr().err
