"""What a ConvFirst block computes: its parameters, in float64, and as a user of PyTorch writes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.validation.fused.convfirst.problem import GROUP_WIDTH, ConvFirstProblem
from perfmodel.validation.fused.packing import Floats, Parameters, Shape, normals
from perfmodel.validation.fused.reference import convolve, silu, wide
from perfmodel.validation.fused.torch_tensors import tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvFirstParameters(Parameters):
    """Norms folded: `conv_w` [C, 3, 3, 8] (output, ky, kx, input), `expand_w` [C, eC], `project_w` [eC, C]."""

    conv_w: Floats
    conv_b: Floats
    expand_w: Floats
    expand_b: Floats
    project_w: Floats
    project_b: Floats

    @staticmethod
    def shapes(problem: ConvFirstProblem) -> dict[str, Shape]:
        """Of each field."""
        C, hidden = problem.C, problem.hidden
        return {
            "conv_w": (C, 3, 3, GROUP_WIDTH),
            "conv_b": (C,),
            "expand_w": (C, hidden),
            "expand_b": (hidden,),
            "project_w": (hidden, C),
            "project_b": (C,),
        }

    def folded_bias(self) -> Floats:
        """Of the expansion, with the convolution's: b1·We + be, as no activation stands between."""
        return np.asarray(self.expand_b + self.conv_b @ self.expand_w, np.float32)


def draw(problem: ConvFirstProblem, seed: int = 0) -> ConvFirstParameters:
    """Random parameters that the type holds exactly, scaled so that every tensor has a spread near 1."""
    normal, C, hidden = normals(problem.dtype, seed), problem.C, problem.hidden
    return ConvFirstParameters(
        conv_w=normal(C, 3, 3, GROUP_WIDTH, scale=72**-0.5),
        conv_b=normal(C, scale=0.3),
        expand_w=normal(C, hidden, scale=C**-0.5),
        expand_b=normal(hidden, scale=0.3),
        project_w=normal(hidden, C, scale=1.7 * hidden**-0.5),
        project_b=normal(C, scale=0.3),
    )


def reference(xp: Any, x: Any, parameters: ConvFirstParameters, problem: ConvFirstProblem) -> Any:
    """y = silu(conv(x)·We + be)·Wp + bp + x in float64; `xp` is NumPy or CuPy, and x an N×H×W×C array of it."""
    del problem
    p, x = parameters, wide(xp, x)
    a = convolve(xp, x, p.conv_w) + wide(xp, p.conv_b)
    h = silu(xp, a @ wide(xp, p.expand_w) + wide(xp, p.expand_b))
    return h @ wide(xp, p.project_w) + wide(xp, p.project_b) + x


def torch_block(problem: ConvFirstProblem, parameters: ConvFirstParameters, device: str) -> Callable[[Any], Any]:
    """A function of an N×C×H×W tensor in channels_last, in the problem's type, norms folded into the convolutions."""
    functional = importlib.import_module("torch.nn.functional")
    t, groups = tensors(parameters, problem.dtype, device), problem.C // GROUP_WIDTH

    def block(x: Any) -> Any:
        a = functional.conv2d(x, t.conv_w, t.conv_b, padding=1, groups=groups)
        h = functional.silu(functional.conv2d(a, t.expand_w, t.expand_b))
        return functional.conv2d(h, t.project_w, t.project_b) + x

    return block
