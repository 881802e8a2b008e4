"""What the fused block must compute, in float64, by NumPy or CuPy; and how far a result in half precision may be from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from perfmodel.validation.packing import Parameters
from perfmodel.validation.problem import GROUP_WIDTH, DType, Problem

ROUNDOFF: Final[dict[DType, float]] = {"fp16": 2.0**-11, "bf16": 2.0**-8}
ROUNDINGS: Final = 6
"""To the half type on the way: convolution, expansion, tanh, SiLU, projection, residual."""
WORST_ROUNDINGS: Final = 32
"""Of one element: many standard deviations of the sum of the roundings of its terms."""


def reference(xp: Any, x: Any, parameters: Parameters, problem: Problem) -> Any:
    """y = silu(conv(x)·We + be)·Wp + bp + x in float64; `xp` is NumPy or CuPy, and x an N×H×W×C array of it."""
    N, H, W, C = x.shape
    groups = C // GROUP_WIDTH
    wide = x.astype(xp.float64)
    padded = xp.zeros((N, H + 2, W + 2, groups, GROUP_WIDTH))
    padded[:, 1:-1, 1:-1] = wide.reshape(N, H, W, groups, GROUP_WIDTH)
    w = xp.asarray(parameters.conv_w).astype(xp.float64).reshape(groups, GROUP_WIDTH, 3, 3, GROUP_WIDTH)
    conv = xp.zeros((groups, N * H * W, GROUP_WIDTH))
    for ky in range(3):
        for kx in range(3):
            taps = padded[:, ky : ky + H, kx : kx + W].reshape(N * H * W, groups, GROUP_WIDTH).transpose(1, 0, 2)
            conv += taps @ w[:, :, ky, kx].transpose(0, 2, 1)
    a = conv.transpose(1, 0, 2).reshape(N * H * W, C) + xp.asarray(parameters.conv_b).astype(xp.float64)
    h = a @ xp.asarray(parameters.expand_w).astype(xp.float64) + xp.asarray(parameters.expand_b).astype(xp.float64)
    h = h * (0.5 + 0.5 * xp.tanh(0.5 * h))
    y = h @ xp.asarray(parameters.project_w).astype(xp.float64) + xp.asarray(parameters.project_b).astype(xp.float64)
    del problem
    return y.reshape(N, H, W, C) + wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Of a result from the reference. Not a number wherever an element was not written."""

    relative: float
    """‖result − reference‖ / ‖reference‖."""
    branch: float
    """‖result − reference‖ / ‖reference − x‖: without the residual, which is exact."""
    worst: float
    """Largest |result − reference| / (1 + |reference|)."""
    tolerance: float
    """For `branch`."""
    worst_tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both are within what rounding explains; never for not-a-number."""
        return self.branch <= self.tolerance and self.worst <= self.worst_tolerance


def deviation(xp: Any, result: Any, expected: Any, x: Any, problem: Problem) -> Deviation:
    """Compare, in float64. The tolerance is that of `tolerance`."""
    error = result.astype(xp.float64) - expected
    norm = float(xp.linalg.norm(error))
    allowed = tolerance(problem)
    return Deviation(
        relative=norm / float(xp.linalg.norm(expected)),
        branch=norm / float(xp.linalg.norm(expected - x.astype(xp.float64))),
        worst=float((xp.abs(error) / (1 + xp.abs(expected))).max()),
        tolerance=allowed,
        worst_tolerance=allowed * WORST_ROUNDINGS / ROUNDINGS,
    )


def tolerance(problem: Problem) -> float:
    """Six roundings to the half type whose errors add as independent ones, doubled, and fp32 sums of depth 72 + C + eC.

    >>> f"{tolerance(Problem(N=1, H=8, W=8, C=64, expansion=4)):.4f}"
    '0.0024'
    """
    depth = 72 + problem.C + problem.hidden
    return 2 * math.sqrt(ROUNDINGS) * ROUNDOFF[problem.dtype] + depth * 2.0**-24
