"""Weights: what every family's parameters share, and the orders in which matrix instructions read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.validation.fused.problem import DType, GpuError, Problem

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]
"""fp16 or bf16 as their bits: NumPy has no bf16."""
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters(ABC):
    """Of one block, norms folded. Matrices are [input, output], filters [output, ky, kx, input of the group]."""

    @staticmethod
    @abstractmethod
    def shapes(problem: Any) -> dict[str, Shape]:
        """Of each field, for a problem."""

    def check(self, problem: Problem) -> None:
        """Raise where a shape is not the problem's."""
        for name, shape in self.shapes(problem).items():
            if getattr(self, name).shape != shape:
                raise GpuError(f"{name} has the shape {getattr(self, name).shape}; {problem.name} needs {shape}")


def normals(dtype: DType, seed: int) -> Callable[..., Floats]:
    """A source of normal values that the type holds exactly: `normal(*shape, scale=…, mean=0)`; raises GpuError for a negative seed."""
    if seed < 0:
        raise GpuError(f"the seed is {seed}; random parameters are drawn from a whole number from 0")
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float, mean: float = 0.0) -> Floats:
        drawn = np.float32(mean) + rng.standard_normal(shape, np.float32) * np.float32(scale)
        return unbits(bits(drawn, dtype), dtype)

    return normal


def bits(values: Floats, dtype: DType) -> Bits:
    """Rounded to nearest, ties to even.

    >>> [hex(v) for v in bits(np.array([1.0, -2.0], np.float32), "bf16")]
    ['0x3f80', '0xc000']
    """
    if dtype == "fp16":
        return values.astype(np.float16).view(np.uint16)
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)


def unbits(values: Bits, dtype: DType) -> Floats:
    """The numbers that the bits stand for."""
    if dtype == "fp16":
        return values.view(np.float16).astype(np.float32)
    return (values.astype(np.uint32) << 16).view(np.float32)


def core_matrices(w: Bits, chunk_k: int, chunk_n: int) -> Bits:
    """[K, N] → [chunk][k8][n8][8 n][8 k]: chunks of chunk_k × chunk_n, one of which is whole, in wgmma's core matrices (no swizzle)."""
    K, N = w.shape
    split = w.reshape(K // chunk_k, chunk_k // 8, 8, N // chunk_n, chunk_n // 8, 8)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 4, 5, 2)).reshape(-1, chunk_k // 8, chunk_n // 8, 8, 8)


def lane_bias(bias: Floats, chunk: int) -> Bits:
    """[chunk][lane of four][chunk/8 blocks] pairs of fp16: what a lane needs of each block of eight columns, side by side."""
    return np.ascontiguousarray(bits(bias, "fp16").reshape(-1, chunk // 8, 4, 2).transpose(0, 2, 1, 3))


def fragments(w: Bits, k16: int, n8: int) -> Bits:
    """[K, N] → [k16][n8][32 lanes][4]: B operands of mma m16n8k16, padded with zeros.

    Lane l holds rows 2(l mod 4), +1, +8, +9 of column l div 4.
    """
    padded = np.zeros((k16 * 16, n8 * 8), np.uint16)
    padded[: w.shape[0], : w.shape[1]] = w
    split = padded.reshape(k16, 2, 4, 2, n8, 8)  # k16, half, lane mod 4, pair, n8, lane div 4
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3)).reshape(k16, n8, 32, 4)


def as_bytes(*parts: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """One buffer after the other."""
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


def up(value: int, multiple: int) -> int:
    """To the next multiple.

    >>> up(29, 8), up(32, 8)
    (32, 32)
    """
    return -(-value // multiple) * multiple
