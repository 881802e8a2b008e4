"""What an MBConv block computes: its parameters, in float64, and as a user of PyTorch writes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.packing import Floats, Parameters, Shape, normals
from perfmodel.validation.fused.reference import convolve, sigmoid, silu, wide
from perfmodel.validation.fused.torch_tensors import tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConvParameters(Parameters):
    """Norms folded: `expand_w` [C, eC], `conv_w` [eC, k, k, width] (output, ky, kx, input), `project_w` [eC, outputs].

    With squeeze-and-excitation `reduce_w` [eC, squeeze] and `gate_w` [squeeze, eC]; None without.
    """

    expand_w: Floats
    expand_b: Floats
    conv_w: Floats
    conv_b: Floats
    project_w: Floats
    project_b: Floats
    reduce_w: Floats | None = None
    reduce_b: Floats | None = None
    gate_w: Floats | None = None
    gate_b: Floats | None = None

    @staticmethod
    def shapes(problem: MBConvProblem) -> dict[str, Shape]:
        """Of each field that the problem has."""
        C, hidden, kernel = problem.C, problem.hidden, problem.kernel
        found: dict[str, Shape] = {
            "expand_w": (C, hidden),
            "expand_b": (hidden,),
            "conv_w": (hidden, kernel, kernel, problem.group_width),
            "conv_b": (hidden,),
            "project_w": (hidden, problem.outputs),
            "project_b": (problem.outputs,),
        }
        if problem.squeeze is not None:
            found["reduce_w"] = (hidden, problem.squeeze)
            found["reduce_b"] = (problem.squeeze,)
            found["gate_w"] = (problem.squeeze, hidden)
            found["gate_b"] = (hidden,)
        return found


def draw(problem: MBConvProblem, seed: int = 0) -> MBConvParameters:
    """Random parameters that the type holds exactly, scaled so that every tensor has a spread near 1 and gates differ from 1/2."""
    normal = normals(problem.dtype, seed)
    shapes = MBConvParameters.shapes(problem)
    spread = {
        "expand_w": problem.C**-0.5,
        "conv_w": 1.7 * (problem.kernel**2 * problem.group_width) ** -0.5,
        "project_w": 1.7 * problem.hidden**-0.5,
        "reduce_w": 2.0 * problem.hidden**-0.5,
        "gate_w": 3.0 * (problem.squeeze or 1) ** -0.5,
    }
    return MBConvParameters(**{name: normal(*shape, scale=spread.get(name, 0.3)) for name, shape in shapes.items()})


def reference(xp: Any, x: Any, parameters: MBConvParameters, problem: MBConvProblem) -> Any:
    """y = (gate·silu(conv(silu(x·We + be)) + bc))·Wp + bp [+ x] in float64, with gate = σ(silu(mean·Wr + br)·Wg + bg) or none."""
    p, x = parameters, wide(xp, x)
    h = silu(xp, x @ wide(xp, p.expand_w) + wide(xp, p.expand_b))
    g = silu(xp, convolve(xp, h, p.conv_w, problem.stride) + wide(xp, p.conv_b))
    if p.reduce_w is not None:
        squeezed = silu(xp, g.mean((1, 2)) @ wide(xp, p.reduce_w) + wide(xp, p.reduce_b))
        g = g * sigmoid(xp, squeezed @ wide(xp, p.gate_w) + wide(xp, p.gate_b))[:, None, None, :]
    y = g @ wide(xp, p.project_w) + wide(xp, p.project_b)
    return y + x if problem.has_identity else y


def torch_block(problem: MBConvProblem, parameters: MBConvParameters, device: str) -> Callable[[Any], Any]:
    """A function of an N×C×H×W tensor in channels_last, in the problem's type, norms folded into the convolutions."""
    functional = importlib.import_module("torch.nn.functional")
    t, groups = tensors(parameters, problem.dtype, device), problem.hidden // problem.group_width
    stride, padding = problem.stride, problem.kernel // 2
    squeezes, has_identity = problem.squeeze is not None, problem.has_identity

    def block(x: Any) -> Any:
        h = functional.silu(functional.conv2d(x, t.expand_w, t.expand_b))
        g = functional.silu(functional.conv2d(h, t.conv_w, t.conv_b, stride=stride, padding=padding, groups=groups))
        if squeezes:
            mean = g.mean((2, 3), keepdim=True)
            squeezed = functional.silu(functional.conv2d(mean, t.reduce_w, t.reduce_b))
            g = g * functional.conv2d(squeezed, t.gate_w, t.gate_b).sigmoid()
        y = functional.conv2d(g, t.project_w, t.project_b)
        return y + x if has_identity else y

    return block
