"""Pieces of the blocks in float64, by NumPy or CuPy; and how far a result in half precision may be from them."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Final

from perfmodel.validation.fused.problem import DType

ROUNDOFF: Final[dict[DType, float]] = {"fp16": 2.0**-11, "bf16": 2.0**-8}
WORST_SPREAD: Final = 5.3
"""Of one element over the whole: many standard deviations of the sum of the roundings of its terms."""


def wide(xp: Any, array: Any) -> Any:
    """In float64, as an array of `xp`."""
    return xp.asarray(array).astype(xp.float64)


def convolve(xp: Any, x: Any, weight: Any, stride: int = 1) -> Any:
    """[N, H, W, C] with filters [K, k, k, C / groups] and zero padding k // 2 gives [N, ⌈H/s⌉, ⌈W/s⌉, K].

    Where C / groups is 1 each channel has one filter (depthwise).
    """
    N, H, W, C = x.shape
    K, kernel, _, width = weight.shape
    groups, pad = C // width, kernel // 2
    OH, OW = -(-H // stride), -(-W // stride)
    padded = xp.zeros((N, H + 2 * pad, W + 2 * pad, C))
    padded[:, pad : pad + H, pad : pad + W] = x
    w = wide(xp, weight).reshape(groups, K // groups, kernel, kernel, width)
    out = xp.zeros((N, OH, OW, K)) if width == 1 else xp.zeros((groups, N * OH * OW, K // groups))
    for ky in range(kernel):
        for kx in range(kernel):
            taps = padded[:, ky : ky + stride * (OH - 1) + 1 : stride, kx : kx + stride * (OW - 1) + 1 : stride]
            if width == 1:
                out += taps * w[:, 0, ky, kx, 0]
            else:
                split = taps.reshape(N * OH * OW, groups, width).transpose(1, 0, 2)
                out += split @ w[:, :, ky, kx].transpose(0, 2, 1)
    return out if width == 1 else out.transpose(1, 0, 2).reshape(N, OH, OW, K)


def silu(xp: Any, v: Any) -> Any:
    """v·sigmoid(v)."""
    return v * sigmoid(xp, v)


def sigmoid(xp: Any, v: Any) -> Any:
    """1 / (1 + exp(-v)), by tanh: it cannot overflow."""
    return 0.5 + 0.5 * xp.tanh(0.5 * v)


def gelu(xp: Any, v: Any) -> Any:
    """v·Φ(v), the exact form."""
    special = importlib.import_module("scipy.special" if xp.__name__ == "numpy" else "cupyx.scipy.special")
    return 0.5 * v * (1 + special.erf(v * math.sqrt(0.5)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Of a result from the reference. Not a number wherever an element was not written."""

    relative: float
    """‖result − reference‖ / ‖reference‖."""
    branch: float
    """‖result − reference‖ / ‖reference − x‖ where x was added: without the residual, which is exact."""
    worst: float
    """Largest |result − reference| / (1 + |reference|)."""
    tolerance: float
    """For `branch`."""
    worst_tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both are within what rounding explains; never for not-a-number."""
        return self.branch <= self.tolerance and self.worst <= self.worst_tolerance


def deviation(xp: Any, result: Any, expected: Any, shortcut: Any, allowed: float) -> Deviation:
    """Compare, in float64; `shortcut` is what was added to the branch, None where nothing was, `allowed` from `tolerance`."""
    error = result.astype(xp.float64) - expected
    norm, whole = float(xp.linalg.norm(error)), float(xp.linalg.norm(expected))
    return Deviation(
        relative=norm / whole,
        branch=norm / (whole if shortcut is None else float(xp.linalg.norm(expected - shortcut.astype(xp.float64)))),
        worst=float((xp.abs(error) / (1 + xp.abs(expected))).max()),
        tolerance=allowed,
        worst_tolerance=allowed * WORST_SPREAD,
    )


def tolerance(dtype: DType, roundings: int, depth: int) -> float:
    """Roundings to the half type whose errors add as independent ones, doubled, and fp32 sums of `depth` terms.

    >>> f"{tolerance('fp16', 6, 72 + 64 + 256):.4f}"
    '0.0024'
    """
    return 2 * math.sqrt(roundings) * ROUNDOFF[dtype] + depth * 2.0**-24
