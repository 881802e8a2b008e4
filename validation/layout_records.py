"""Layouts of the generic kernels as they were timed (`layouts.py` times them): which file has them, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from perfmodel.validation.files import MeasurementFileError
from perfmodel.validation.fused.catalog import problem_of
from perfmodel.validation.fused.forms import work_of
from perfmodel.validation.fused.generic.layout import Layout
from perfmodel.validation.fused.problem import GpuError, Problem
from perfmodel.validation.recorder import REFUSED

RECORDED: Final = "generic-layouts.jsonl"
"""In a device's folder of results."""

OneLayout = tuple[Problem, Layout]


def layouts_of(path: Path, lines: Iterable[dict[str, Any]]) -> dict[OneLayout, dict[str, Any]]:
    """Every layout that was timed, with the newest of its lines; raises MeasurementFileError for a layout that is of no problem."""
    found = {}
    for line in lines:
        if line["kind"] != "layout" or REFUSED in line:
            continue
        try:
            problem = problem_of(line["problem"])
            found[problem, Layout(work=work_of(problem), **line["layout"])] = line
        except (TypeError, KeyError, GpuError) as error:
            raise MeasurementFileError(f"{path}: the layout {json.dumps(line['layout'])} is of no problem: {error}") from None
    return found
