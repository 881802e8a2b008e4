"""Weights of a ConvFirst block, drawn and packed: each kernel finds them in the order in which its matrix instructions read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.validation.configuration import GENERIC_CHUNK, GENERIC_WARPS, STREAM_CHUNK, Config
from perfmodel.validation.problem import GROUP_WIDTH, DType, GpuError, Problem

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]
"""fp16 or bf16 as their bits: NumPy has no bf16."""
STREAM_TAPS: Final = ((0, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2), (1, 0), (1, 1), (1, 2))
"""(ky, kx) in the order in which convfirst_stream pairs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Of one block, norms folded: `conv_w` [C, 3, 3, 8] (output, ky, kx, input), `expand_w` [C, eC], `project_w` [eC, C]."""

    conv_w: Floats
    conv_b: Floats
    expand_w: Floats
    expand_b: Floats
    project_w: Floats
    project_b: Floats

    def check(self, problem: Problem) -> None:
        """Raise where a shape is not the problem's."""
        C, hidden = problem.C, problem.hidden
        for name, shape in (
            ("conv_w", (C, 3, 3, GROUP_WIDTH)),
            ("conv_b", (C,)),
            ("expand_w", (C, hidden)),
            ("expand_b", (hidden,)),
            ("project_w", (hidden, C)),
            ("project_b", (C,)),
        ):
            if getattr(self, name).shape != shape:
                raise GpuError(f"{name} has the shape {getattr(self, name).shape}; {problem.name} needs {shape}")

    def folded_bias(self) -> Floats:
        """Of the expansion, with the convolution's: b1·We + be, as no activation stands between."""
        return np.asarray(self.expand_b + self.conv_b @ self.expand_w, np.float32)


def draw(problem: Problem, seed: int = 0) -> Parameters:
    """Random parameters that the type holds exactly, scaled so that every tensor has a spread near 1."""
    rng = np.random.default_rng(seed)
    C, hidden = problem.C, problem.hidden

    def normal(*shape: int, scale: float) -> Floats:
        return unbits(bits(rng.standard_normal(shape, np.float32) * np.float32(scale), problem.dtype), problem.dtype)

    return Parameters(
        conv_w=normal(C, 3, 3, GROUP_WIDTH, scale=72**-0.5),
        conv_b=normal(C, scale=0.3),
        expand_w=normal(C, hidden, scale=C**-0.5),
        expand_b=normal(hidden, scale=0.3),
        project_w=normal(hidden, C, scale=1.7 * hidden**-0.5),
        project_b=normal(C, scale=0.3),
    )


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


def pack(problem: Problem, config: Config, parameters: Parameters) -> tuple[npt.NDArray[np.uint8], ...]:
    """The buffers of the kernel's weight arguments, in the order of its arguments."""
    parameters.check(problem)
    makers = {"convfirst_c64": _c64, "convfirst_stream": _stream, "convfirst_generic": _generic}
    return makers[config.kernel](problem, config, parameters)


def core_matrices(w: Bits, chunk_k: int, chunk_n: int) -> Bits:
    """[K, N] → [chunk][k8][n8][8 n][8 k]: chunks of chunk_k × chunk_n, one of which is whole, in wgmma's core matrices (no swizzle)."""
    K, N = w.shape
    split = w.reshape(K // chunk_k, chunk_k // 8, 8, N // chunk_n, chunk_n // 8, 8)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 4, 5, 2)).reshape(-1, chunk_k // 8, chunk_n // 8, 8, 8)


def block_diagonal(conv_w: Bits) -> Bits:
    """[pair of groups][tap][k8][n8][8 n][8 k], zero where a group would meet the other."""
    C = conv_w.shape[0]
    w = conv_w.reshape(C // 16, 2, 8, 9, 8)
    out = np.zeros((C // 16, 9, 2, 2, 8, 8), np.uint16)
    for half in range(2):
        out[:, :, half, half] = w[:, half].transpose(0, 2, 1, 3)
    return out


def tap_pairs(conv_w: Bits) -> Bits:
    """[group][10 taps, the last of them zero][8 n][8 k]: k16 of two taps."""
    C = conv_w.shape[0]
    w = conv_w.reshape(C // 8, 8, 3, 3, 8)
    out = np.zeros((C // 8, 10, 8, 8), np.uint16)
    for index, (ky, kx) in enumerate(STREAM_TAPS):
        out[:, index] = w[:, :, ky, kx]
    return out


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


def _bytes(*parts: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


def _c64(problem: Problem, config: Config, p: Parameters) -> tuple[npt.NDArray[np.uint8], ...]:
    half, C = np.float32(0.5), problem.C
    blob = _bytes(
        core_matrices(bits(p.expand_w * half, "fp16"), C, 64),
        core_matrices(bits(p.project_w, "fp16"), 64, C),
        block_diagonal(bits(p.conv_w, "fp16")),
        lane_bias(p.folded_bias() * half, 64),
        lane_bias(p.project_b, C),
        np.zeros(C, np.uint16),
    )
    del config
    return (blob,)


def _stream(problem: Problem, config: Config, p: Parameters) -> tuple[npt.NDArray[np.uint8], ...]:
    half, C = np.float32(0.5), problem.C
    chunks = problem.hidden // STREAM_CHUNK
    expand = core_matrices(bits(p.expand_w * half, "fp16"), C, STREAM_CHUNK).reshape(chunks, -1)
    project = core_matrices(bits(p.project_w, "fp16"), STREAM_CHUNK, C).reshape(chunks, -1)
    blob = _bytes(
        tap_pairs(bits(p.conv_w, "fp16")),
        lane_bias(p.folded_bias() * half, STREAM_CHUNK),
        lane_bias(p.project_b, C),
        np.zeros(C, np.uint16),
    )
    del config
    return _bytes(np.stack([expand, project], 1)), blob


def _generic(problem: Problem, config: Config, p: Parameters) -> tuple[npt.NDArray[np.uint8], ...]:
    C, hidden, G = problem.C, problem.hidden, problem.C // GROUP_WIDTH
    chunks = -(-hidden // GENERIC_CHUNK)
    across = GENERIC_WARPS // config.defines["WARPS_M"] * config.defines["BLOCKS_PER_WARP"]
    output_blocks = -(-G // across) * across
    conv = bits(p.conv_w, problem.dtype).reshape(G, 8, 9, 8).transpose(0, 2, 3, 1)  # g, tap, k, n
    conv_fragments = np.zeros((G, 9 * 64), np.uint16)
    for g in range(G):
        pairs = fragments(conv[g, :8].reshape(64, 8), 4, 1)
        last = fragments(conv[g, 8], 1, 1)[..., :2]
        conv_fragments[g] = np.concatenate([pairs.reshape(-1), last.reshape(-1)])
    expand = fragments(bits(p.expand_w, problem.dtype), -(-C // 16), chunks * GENERIC_CHUNK // 8)
    expand = expand.reshape(expand.shape[0], chunks, GENERIC_CHUNK // 8, 32, 4).transpose(1, 0, 2, 3, 4)
    project = fragments(bits(p.project_w, problem.dtype), chunks * GENERIC_CHUNK // 16, output_blocks)
    expand_b = np.zeros(chunks * GENERIC_CHUNK, np.float32)
    expand_b[:hidden] = p.folded_bias()
    return _bytes(conv_fragments), _bytes(expand), _bytes(project), _bytes(expand_b), _bytes(p.project_b)
