"""compute-sanitizer on the fused kernels: which problems it is shown, how its words are kept, and what is recorded of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from perfmodel.validation import sanitize
from perfmodel.validation.fused.catalog import FAMILIES
from perfmodel.validation.recorder import RESULTS
from tests.gpus import H200


def sanitized():
    """The recorded files of the families' tools."""
    asked = ((family, tool) for family in FAMILIES for tool in sanitize.TOOLS)
    paths = [RESULTS / "h200" / f"{family}-{tool}.txt" for family, tool in asked]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("family", FAMILIES)
def test_sanitized_problems_are_served_by_few_blocks(family):
    """Every kernel for Hopper but the generic ones, each block with work for several rounds."""
    kernels = set()
    for problem, multiprocessors in sanitize.problems(family):
        device = dataclasses.replace(H200, multiprocessors=multiprocessors)
        config = FAMILIES[family].choose(problem, device)
        for launched in FAMILIES[family].by_name[config.kernel].launches(problem, config, device):
            assert launched.grid[0] <= multiprocessors
        if config.kernel in ("convnext_patch", "convnext_planes"):
            assert 64 * 2 * multiprocessors * config.defines["SLOTS"] <= problem.N * problem.H * problem.W
        kernels.add(config.kernel)
    assert kernels == {kernel.name for kernel in FAMILIES[family].kernels if not kernel.name.endswith("_generic")}


@pytest.mark.parametrize(("status", "clean"), [(0, True), (9, False)])
def test_a_tools_words_are_kept(monkeypatch, tmp_path, status, clean):
    fake = tmp_path / "compute-sanitizer"
    fake.write_text(f'#!/bin/sh\necho "$@"\necho "========= ERROR SUMMARY: {status} errors"\nexit {status}\n')
    fake.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(fake))
    monkeypatch.setattr(sanitize, "this_device", lambda: H200)
    asked = ["--block", "convnext", "--tool", "memcheck", "--tool", "initcheck", "--revision", "1a2b", "--output", str(tmp_path)]
    assert sanitize.main(asked) == (0 if clean else 1)
    for tool in ("memcheck", "initcheck"):
        made, *words = (tmp_path / f"convnext-{tool}.txt").read_text().splitlines()
        assert made == f"# python -m perfmodel.validation.sanitize --block convnext --tool {tool}; {H200.name}, revision 1a2b"
        assert words[0].startswith(f"--tool {tool} ")
        assert words[-1].endswith(f"ERROR SUMMARY: {status} errors")


def test_a_tool_that_says_nothing_is_said(monkeypatch, tmp_path, capsys):
    fake = tmp_path / "compute-sanitizer"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(fake))
    monkeypatch.setattr(sanitize, "this_device", lambda: H200)
    asked = ["--block", "convnext", "--tool", "memcheck", "--revision", "1a2b", "--output"]
    assert sanitize.main([*asked, str(tmp_path)]) == 5
    assert capsys.readouterr().err == "perfmodel: memcheck of convnext ended with 1: broken\n"
    assert sanitize.main([*asked, str(fake)]) == 2
    assert capsys.readouterr().err.startswith("perfmodel: cannot write to ")


def test_a_tool_that_does_not_end_is_stopped_with_what_it_watches(monkeypatch, tmp_path, capsys):
    fake, child = tmp_path / "compute-sanitizer", tmp_path / "child"
    fake.write_text(f'#!/bin/sh\necho "one kernel True"\nsleep 600 &\necho $! > {child}\nwait\n')
    fake.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(fake))
    monkeypatch.setattr(sanitize, "this_device", lambda: H200)
    monkeypatch.setattr(sanitize, "TIMEOUT_S", 1)
    assert sanitize.main(["--block", "convnext", "--tool", "racecheck", "--revision", "1a2b", "--output", str(tmp_path)]) == 5
    said = "perfmodel: racecheck of convnext did not end within 1 s; the last problem that ended: one kernel True\n"
    assert capsys.readouterr().err == said
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.mark.parametrize("path", sanitized(), ids=lambda path: path.stem)
def test_recorded_words_of_a_tool(path):
    """About today's problems, each of which came out right, and nothing found."""
    family, tool = path.stem.rsplit("-", 1)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    words = [line for line in lines if line.startswith("=====")]
    results = [line.split() for line in lines if line not in words]
    assert [(name, passed) for name, _, passed in results] == [(problem.name, "True") for problem, _ in sanitize.problems(family)]
    assert len(words) == 2
    assert re.search(r"SUMMARY: 0 (errors$|hazards displayed \(0 errors, 0 warnings\)$)", words[1]), tool


@pytest.mark.parametrize("writes_all", [True, False])
def test_a_place_that_is_not_written_is_wrong(monkeypatch, capsys, writes_all):
    """Whatever lay there: the output is no number before."""

    class Output:
        def __init__(self, shape, dtype):
            self.values, self.data = np.zeros(shape, dtype), self
            self.nbytes = self.values.nbytes

        def memset(self, value, size):
            self.values.reshape(-1).view(np.uint8)[:size] = value

    class Block:
        config = SimpleNamespace(name="kernel")
        compiled = (SimpleNamespace(unit=SimpleNamespace(key="digest of {}".format)),)

        def __init__(self, problem, parameters, device):
            assert device.multiprocessors == sanitize.MULTIPROCESSORS
            self._result = lambda x: FAMILIES[problem.family].reference(np, x.astype(np.float32), parameters, problem)

        def __call__(self, x, out):
            result = self._result(x)
            if writes_all:
                out.values[:] = result
            else:
                out.values.flat[:-1] = result.flat[:-1]
            return out

    cupy = SimpleNamespace(empty=Output, asarray=lambda values: values, asnumpy=lambda output: output.values)
    monkeypatch.setattr(sanitize, "cupy_with_gpu", lambda: cupy)
    monkeypatch.setattr(sanitize, "this_device", lambda: H200)
    monkeypatch.setattr(sanitize, "FusedBlock", Block)
    monkeypatch.setattr(sanitize, "compiler_version", lambda: "13.0")
    problem = sanitize.problems("convfirst")[0]
    assert sanitize.run([problem]) is writes_all
    assert capsys.readouterr().out == f"# digest of 13.0\n{problem[0].name} kernel {writes_all}\n"


def test_without_a_sanitizer_it_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(sanitize, "this_device", lambda: H200)
    assert sanitize.main(["--output", str(tmp_path)]) == 5
    assert "compute-sanitizer is not installed" in capsys.readouterr().err
