"""Attention as one kernel: the scores never leave the processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, K, N, N_b, P, Q, Shape, W, is_symbolic
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError

_SCORES = N * H * W * P * Q

ATTENTION = Formula(
    macs=_SCORES * (C + K),
    # per score: scaling, and what a softmax does (comparison, subtraction, addition, multiplication); exp; a reciprocal per query
    vector_ops=5 * _SCORES,
    special_ops=_SCORES + N * H * W,
    inputs=(N * C * H * W, N_b * C * P * Q, N_b * K * P * Q),
    reads=(N * C * H * W, N_b * C * P * Q, N_b * K * P * Q),
    writes=N * K * H * W,
)
"""H·W queries against P·Q keys of width C, and the mean of values of width K that the scores weigh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Layer):
    """softmax(q·kᵀ·scale)·v for each of N = images × heads; reads each of q, k and v once (Dao et al., 2022).

    Several heads may share keys and values, whose N is then that many times smaller.
    """

    kind: ClassVar[str] = "attention"
    role: ClassVar[Role] = "matrix"

    @property
    def formula(self) -> Formula:
        return ATTENTION

    def output_shape(self, *inputs: Shape) -> Shape:
        q, k, v = inputs
        fits = q.C == k.C and k.N == v.N and k.H * k.W == v.H * v.W and (is_symbolic(q.N, k.N) or q.N % k.N == 0)
        if not fits and not is_symbolic(*q, *k, *v):
            raise ShapeError(
                f"attention: queries {q}, keys {k} and values {v} do not belong together; make N, C and the keys equal"
            )
        return q._replace(C=v.C)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        q, k, v = inputs
        return {N: q.N, N_b: k.N, C: q.C, H: q.H, W: q.W, P: k.H, Q: k.W, K: v.C}
