"""What a FusedMBConv block computes: its parameters, in float64, and as a user of PyTorch writes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perfmodel.validation.fused.fused_mbconv.problem import FusedMBConvProblem
from perfmodel.validation.fused.packing import Floats, Parameters, Shape, normals
from perfmodel.validation.fused.reference import convolve, silu, wide
from perfmodel.validation.fused.torch_tensors import tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMBConvParameters(Parameters):
    """Norms folded: `conv_w` [eC, 3, 3, C] (output, ky, kx, input), `project_w` [eC, C]."""

    conv_w: Floats
    conv_b: Floats
    project_w: Floats
    project_b: Floats

    @staticmethod
    def shapes(problem: FusedMBConvProblem) -> dict[str, Shape]:
        """Of each field."""
        C, hidden = problem.C, problem.hidden
        return {"conv_w": (hidden, 3, 3, C), "conv_b": (hidden,), "project_w": (hidden, C), "project_b": (C,)}


def draw(problem: FusedMBConvProblem, seed: int = 0) -> FusedMBConvParameters:
    """Random parameters that the type holds exactly, scaled so that every tensor has a spread near 1."""
    normal, C, hidden = normals(problem.dtype, seed), problem.C, problem.hidden
    return FusedMBConvParameters(
        conv_w=normal(hidden, 3, 3, C, scale=(9 * C) ** -0.5),
        conv_b=normal(hidden, scale=0.3),
        project_w=normal(hidden, C, scale=1.7 * hidden**-0.5),
        project_b=normal(C, scale=0.3),
    )


def reference(xp: Any, x: Any, parameters: FusedMBConvParameters, problem: FusedMBConvProblem) -> Any:
    """y = silu(conv(x) + b)·Wp + bp + x in float64; `xp` is NumPy or CuPy, and x an N×H×W×C array of it."""
    del problem
    p, x = parameters, wide(xp, x)
    h = silu(xp, convolve(xp, x, p.conv_w) + wide(xp, p.conv_b))
    return h @ wide(xp, p.project_w) + wide(xp, p.project_b) + x


def torch_block(problem: FusedMBConvProblem, parameters: FusedMBConvParameters, device: str) -> Callable[[Any], Any]:
    """A function of an N×C×H×W tensor in channels_last, in the problem's type, norms folded into the convolutions."""
    functional = importlib.import_module("torch.nn.functional")
    t = tensors(parameters, problem.dtype, device)

    def block(x: Any) -> Any:
        h = functional.silu(functional.conv2d(x, t.conv_w, t.conv_b, padding=1))
        return functional.conv2d(h, t.project_w, t.project_b) + x

    return block
