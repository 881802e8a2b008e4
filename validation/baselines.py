"""The same block as a user of PyTorch would write it: eager, and through torch.compile. torch is imported only inside functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.packing import Parameters
from perfmodel.validation.fused.problem import GpuError, Problem

Baseline = Literal["eager", "compile"]


def torch_or_none() -> Any:
    """The module where it is installed and sees a GPU."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def baseline(what: Baseline, problem: Problem, parameters: Parameters) -> Callable[[Any], Any]:
    """A function of an N×C×H×W tensor in channels_last, in the problem's type, norms folded into the convolutions."""
    torch = torch_or_none()
    if torch is None:
        raise GpuError("torch is not installed here, or sees no GPU; the baselines need it")
    block = family_of(problem).torch_block(problem, parameters, "cuda")
    if what == "eager":
        return block
    torch.compiler.reset()
    compiled: Callable[[Any], Any] = torch.compile(block, dynamic=False)
    return compiled
