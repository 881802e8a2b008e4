"""The same block as a user of PyTorch would write it: eager, and through torch.compile. torch is imported only inside functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from perfmodel.validation.packing import Parameters
from perfmodel.validation.problem import GpuError, Problem

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
    functional = importlib.import_module("torch.nn.functional")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[problem.dtype]
    C, groups = problem.C, problem.C // 8

    def on_gpu(array: Any) -> Any:
        tensor = torch.from_numpy(array.copy()).to("cuda", dtype)
        return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    conv_w = on_gpu(parameters.conv_w.transpose(0, 3, 1, 2))
    expand_w = on_gpu(parameters.expand_w.T.reshape(problem.hidden, C, 1, 1))
    project_w = on_gpu(parameters.project_w.T.reshape(C, problem.hidden, 1, 1))
    conv_b, expand_b, project_b = map(on_gpu, (parameters.conv_b, parameters.expand_b, parameters.project_b))

    def block(x: Any) -> Any:
        a = functional.conv2d(x, conv_w, conv_b, padding=1, groups=groups)
        h = functional.silu(functional.conv2d(a, expand_w, expand_b))
        return functional.conv2d(h, project_w, project_b) + x

    if what == "eager":
        return block
    torch.compiler.reset()
    compiled: Callable[[Any], Any] = torch.compile(block, dynamic=False)
    return compiled
