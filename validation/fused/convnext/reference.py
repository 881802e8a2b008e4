"""What a ConvNeXt block computes: its parameters, in float64, and as a user of PyTorch writes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.validation.fused.convnext.problem import EPSILON, KERNEL, ConvNeXtProblem
from perfmodel.validation.fused.packing import Floats, Parameters, Shape, normals
from perfmodel.validation.fused.reference import convolve, gelu, wide
from perfmodel.validation.fused.torch_tensors import tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNeXtParameters(Parameters):
    """`conv_w` [C, 7, 7, 1] (output, ky, kx, input), `expand_w` [C, eC], `project_w` [eC, C]; `scale` is γ of the layer scale."""

    conv_w: Floats
    conv_b: Floats
    norm_w: Floats
    norm_b: Floats
    expand_w: Floats
    expand_b: Floats
    project_w: Floats
    project_b: Floats
    scale: Floats

    @staticmethod
    def shapes(problem: ConvNeXtProblem) -> dict[str, Shape]:
        """Of each field."""
        C, hidden = problem.C, problem.hidden
        return {
            "conv_w": (C, KERNEL, KERNEL, 1),
            "conv_b": (C,),
            "norm_w": (C,),
            "norm_b": (C,),
            "expand_w": (C, hidden),
            "expand_b": (hidden,),
            "project_w": (hidden, C),
            "project_b": (C,),
            "scale": (C,),
        }

    def folded_expansion(self) -> tuple[Floats, Floats]:
        """(diag(norm_w)·We, be + norm_b·We): the norm's scale and shift folded into the expansion, one rounding of the weights."""
        return self.norm_w[:, None] * self.expand_w, np.asarray(self.expand_b + self.norm_b @ self.expand_w, np.float32)

    def folded_projection(self) -> tuple[Floats, Floats]:
        """(Wp·diag(γ), bp·γ): the layer scale folded into the projection, one rounding of the weights."""
        return self.project_w * self.scale, self.project_b * self.scale


def draw(problem: ConvNeXtProblem, seed: int = 0) -> ConvNeXtParameters:
    """Random parameters that the type holds exactly, scaled so that every tensor has a spread near 1."""
    normal, C, hidden = normals(problem.dtype, seed), problem.C, problem.hidden
    return ConvNeXtParameters(
        conv_w=normal(C, KERNEL, KERNEL, 1, scale=1 / KERNEL),
        conv_b=normal(C, scale=0.3),
        norm_w=normal(C, scale=0.2, mean=1.0),
        norm_b=normal(C, scale=0.3),
        expand_w=normal(C, hidden, scale=C**-0.5),
        expand_b=normal(hidden, scale=0.3),
        project_w=normal(hidden, C, scale=1.7 * hidden**-0.5),
        project_b=normal(C, scale=0.3),
        scale=normal(C, scale=0.3, mean=1.0),
    )


def reference(xp: Any, x: Any, parameters: ConvNeXtParameters, problem: ConvNeXtProblem) -> Any:
    """y = γ·(gelu(norm(conv(x) + b)·We + be)·Wp + bp) + x in float64; the norm is over channels, with ε = 1e-6, GELU by erf."""
    del problem
    p, x = parameters, wide(xp, x)
    a = convolve(xp, x, p.conv_w) + wide(xp, p.conv_b)
    centred = a - a.mean(-1, keepdims=True)
    normed = centred / xp.sqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
    normed = normed * wide(xp, p.norm_w) + wide(xp, p.norm_b)
    h = gelu(xp, normed @ wide(xp, p.expand_w) + wide(xp, p.expand_b))
    return wide(xp, p.scale) * (h @ wide(xp, p.project_w) + wide(xp, p.project_b)) + x


def torch_block(problem: ConvNeXtProblem, parameters: ConvNeXtParameters, device: str) -> Callable[[Any], Any]:
    """A function of an N×C×H×W tensor in channels_last, in the problem's type; the products are linear layers of N×H×W×C."""
    functional = importlib.import_module("torch.nn.functional")
    t, C = tensors(parameters, problem.dtype, device), problem.C
    expand_w, project_w = t.expand_w[:, :, 0, 0].contiguous(), t.project_w[:, :, 0, 0].contiguous()

    def block(x: Any) -> Any:
        a = functional.conv2d(x, t.conv_w, t.conv_b, padding=KERNEL // 2, groups=C).permute(0, 2, 3, 1)
        normed = functional.layer_norm(a, (C,), t.norm_w, t.norm_b, EPSILON)
        h = functional.gelu(functional.linear(normed, expand_w, t.expand_b))
        y = functional.linear(h, project_w, t.project_b) * t.scale
        return y.permute(0, 3, 1, 2) + x

    return block
