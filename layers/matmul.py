"""Product of two activation tensors, matrix by matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from perfmodel.layers.dims import C, Dim, H, K, N, N_b, Shape, W, is_symbolic
from perfmodel.layers.layer import Formula, Layer, Role, ShapeError

MATMUL = Formula(
    macs=N * H * W * C * K,
    inputs=(N * C * H * W, N_b * C * K),
    reads=(N * C * H * W, N_b * C * K),
    writes=N * K * H * W,
)
"""Each of the H·W rows of C numbers times a C×K matrix of its own image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatMul(Layer):
    """Rows times a matrix, for each of N pairs; both are activations.

    The first input is N×C×H×W (H·W rows of C numbers), the second N×K×C×1 (a matrix of C rows and K columns), or fewer of them where one
    matrix serves several images.
    """

    kind: ClassVar[str] = "matmul"
    role: ClassVar[Role] = "matrix"

    @property
    def formula(self) -> Formula:
        return MATMUL

    def output_shape(self, *inputs: Shape) -> Shape:
        rows, matrix = inputs
        if not is_symbolic(*rows, *matrix) and (matrix.H * matrix.W != rows.C or rows.N % matrix.N):
            raise ShapeError(f"matmul: rows {rows} cannot be multiplied by matrices {matrix} (N×K×C×1); make C and N equal")
        return rows._replace(C=matrix.C)

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        rows, matrix = inputs
        return {N: rows.N, C: rows.C, H: rows.H, W: rows.W, K: matrix.C, N_b: matrix.N}
