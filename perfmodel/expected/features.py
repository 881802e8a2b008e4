"""What the terms need of each kernel, as columns: device-independent numbers, vectorised over the kernels of one or many networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from perfmodel.expected.paths import LARGE_TENSOR_ELEMENTS, lead_of, path_of
from perfmodel.kernel import Kernel
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import AveragePool, MaxPool
from perfmodel.layers.sample_conv2d import SampleConv2d

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

HOST_CONVOLUTION, HOST_MATRIX, HOST_NORM, HOST_OTHER, HOST_OPERATOR, HOST_INNER, HOST_NONE = range(7)
"""Kinds of call as the framework's host code tells them apart: each costs another time before its kernel is launched. OTHER is a module
of one operation; OPERATOR one that a network's code calls without a module; INNER one that the framework launches within another's call;
NONE a kernel whose launch is part of the call that is timed with it."""
OPERATORS = ("add", "multiply", "concat", "scale", "global_average_pool", "reduce", "pad")
"""Operations that timm's networks carry out in their code, not through a module of their own."""

EXTRA = ("bias_add", "cast", "layout", "norm_helper")
"""Kinds of operations that no layer of the network asks for."""

RATES = (
    "none",
    "pointwise",
    "add",
    "silu",
    "gelu",
    "norm",
    "norm_autocast",
    "broadcast",
    "bias",
    "reduce",
    "window",
    "concat",
    "row_norm",
)
"""Kinds of framework kernels whose elements per second `perfmodel hardware measure` takes: `RATES[i]`_elements_per_s."""
_RATE_OF = {
    "add": "add", "silu": "silu", "gelu": "gelu", "bias_add": "bias", "multiply": "broadcast", "scale": "bias",
    "global_average_pool": "reduce",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One entry per kernel, in execution order; `network` says which network a kernel belongs to."""

    path: Integers
    """A `Path`."""
    host: Integers
    """Which kind of call launches it."""
    weights: Floats
    """Tensors of parameters that it reads."""
    ops: Floats
    """Operations of the matrix product, 2 · MACs."""
    m: Floats
    """Rows of the product: images × output pixels; of a pooling window likewise."""
    n: Floats
    """Columns of one group: output channels per group; of a pooling window the channels; of a concatenation the elements of the largest
    tensor that it joins."""
    k: Floats
    """Depth of one group: input channels per group × kernel taps."""
    groups: Floats
    """Of a product; of a concatenation, or of a chain that begins with one, the tensors that it joins."""
    taps: Floats
    """Kernel taps, R·S; of a pooling window likewise."""
    norms: Floats
    """How many of its steps are norms."""
    dram_bytes: Floats
    activation_bytes: Floats
    """Of the above, what is read of tensors that earlier kernels wrote."""
    recent_bytes: Floats
    """Of these, tensors that the kernel just before wrote or read."""
    written_bytes: Floats
    across_bytes: Floats
    """Of `dram_bytes`, what is read in another order than the one it lies in."""
    elements: Floats
    """Elements of the largest tensor it reads or writes."""
    rate: Integers
    """Which of RATES its elements are held by."""
    rows: Floats
    """Rows of a norm over channels, N·H·W; 0 elsewhere."""
    norm_threads: Floats
    """That the framework's kernel starts for a batch norm of a tensor with channels last; 0 elsewhere."""
    vector_ops: Floats
    special_ops: Floats
    extra: npt.NDArray[np.bool_]
    """Whether the framework added it: bias additions, casts, changes of layout."""
    huge: npt.NDArray[np.bool_]
    """Whether a tensor has 2³¹ elements or more."""
    network: Integers
    count: Floats
    """How many kernels of its network this entry stands for: 1, but in `compressed`."""

    @property
    def networks(self) -> int:
        """How many networks there are."""
        return int(self.network[-1]) + 1 if len(self.network) else 0

    @classmethod
    def of(cls, kernels: Sequence[Kernel]) -> Self:
        """The columns of one network's kernels."""
        rows = [_row(kernel, before) for kernel, before in zip(kernels, (None, *kernels[:-1]), strict=True)]
        columns = np.array(rows, dtype=np.float64).reshape(len(rows), len(_COLUMNS)).T
        named = dict(zip(_COLUMNS, columns, strict=True))
        return cls(
            path=named.pop("path").astype(np.int64),
            host=named.pop("host").astype(np.int64),
            rate=named.pop("rate").astype(np.int64),
            extra=named.pop("extra").astype(np.bool_),
            huge=named.pop("huge").astype(np.bool_),
            network=np.zeros(len(rows), dtype=np.int64),
            count=np.ones(len(rows)),
            **named,
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Many networks one after the other, numbered in that order."""
        columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls) if f.name != "network"}
        sizes = [len(part.path) for part in parts]
        return cls(network=np.repeat(np.arange(len(parts)), sizes), **columns)

    def compressed(self) -> Features:
        """Equal kernels of a network as one entry with their number: what fitting needs, where order does not matter."""
        names = [field.name for field in fields(self) if field.name != "count"]
        rows = np.stack([getattr(self, name).astype(np.float64) for name in names], axis=1)
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        count = np.bincount(inverse.ravel(), weights=self.count).astype(np.float64)
        order = np.argsort(self.network[first], kind="stable")
        return Features(**{name: getattr(self, name)[first][order] for name in names}, count=count[order])

    def total(self, per_kernel: Floats) -> Floats:
        """Σ over the kernels of each network."""
        summed = np.bincount(self.network, weights=per_kernel * self.count, minlength=self.networks)
        return np.asarray(summed, dtype=np.float64)


_COLUMNS = (
    "path", "host", "weights", "ops", "m", "n", "k", "groups", "taps", "norms", "dram_bytes", "activation_bytes", "recent_bytes",
    "written_bytes", "across_bytes", "elements", "rate", "rows", "norm_threads", "vector_ops", "special_ops", "extra", "huge",
)  # fmt: skip


def _row(kernel: Kernel, before: Kernel | None) -> tuple[float, ...]:
    path = path_of(kernel)
    cost = kernel.cost
    m = n = k = groups = taps = rows = 0
    host = HOST_OTHER
    lead = lead_of(kernel) if kernel.operations else None
    if lead is not None and lead.role == "matrix":
        groups, taps = 1, 1
        m, n = lead.shape.N * lead.shape.H * lead.shape.W, lead.shape.C
        host = HOST_MATRIX
        if isinstance(lead.layer, Conv2d):
            host = HOST_CONVOLUTION
            groups, taps = lead.layer.groups, lead.layer.kernel[0] * lead.layer.kernel[1]
            n //= groups
        elif isinstance(lead.layer, SampleConv2d):  # a group per image, or per image and channel
            host = HOST_CONVOLUTION
            m, groups = lead.shape.H * lead.shape.W, lead.shape.N * lead.layer.each.groups
            n, taps = n // lead.layer.each.groups, lead.layer.each.kernel[0] * lead.layer.each.kernel[1]
        k = lead.macs // (m * n * groups)
    elif any(operation.role == "norm" or operation.kind == "layer_norm" for operation in kernel.operations):
        host = HOST_NORM
    elif len(kernel.operations) == 1:
        host = _host(kernel.operations[0].kind)
    if lead is not None and lead.role == "window" and isinstance(lead.layer, MaxPool | AveragePool):
        m, n = lead.shape.N * lead.shape.H * lead.shape.W, lead.shape.C
        taps = lead.layer.kernel[0] * lead.layer.kernel[1]
    threads = 0
    norms = sum(operation.role == "norm" for operation in kernel.operations)
    if lead is not None and lead.kind == "concat":
        groups, n = len(lead.reads), max(int(access.elements) for access in lead.reads)
    for operation in kernel.operations:
        if operation.role == "norm":
            threads = norm_threads(operation.shape.N * operation.shape.H * operation.shape.W, operation.shape.C)
        if isinstance(operation.layer, LayerNorm):
            rows = max(rows, operation.shape.N * operation.shape.H * operation.shape.W)
    weights = sum(access.role == "weight" for access in kernel.reads)
    extra = bool(kernel.operations) and all(operation.kind in EXTRA for operation in kernel.operations)
    largest = max((int(access.elements) for access in (*kernel.reads, *kernel.writes)), default=0)
    recent = {access.tensor for access in (*before.writes, *before.reads)} if before else set()
    from_before = sum(access.bytes for access in kernel.reads if access.role != "weight" and access.tensor in recent)
    across = sum(access.bytes for access in kernel.reads if access.across)
    rate = RATES.index(_rate(kernel))
    huge = largest >= LARGE_TENSOR_ELEMENTS
    return (
        path, host, weights, cost.ops, m, n, k, groups, taps, norms, cost.dram_bytes,
        cost.read_activation_bytes + cost.read_halo_bytes, from_before, cost.dram_bytes_written, across, largest, rate, rows,
        threads, cost.vector_ops, cost.special_ops, extra, huge,
    )  # fmt: skip


def _host(kind: str) -> int:
    if kind == "norm_helper":  # launched by the norm's call, whose measured time has them
        return HOST_NONE
    if kind in EXTRA:
        return HOST_INNER
    return HOST_OPERATOR if kind in OPERATORS else HOST_OTHER


NORM_BLOCK = 512
"""Threads of a block of PyTorch's batch_norm_transform_input_channels_last, at most 32 of them side by side along the channels;"""
NORM_ROWS = 16
NORM_BLOCKS = 128
"""rows that a thread takes at least, and blocks along the rows at most (aten/src/ATen/native/cuda/Normalization.cuh)."""


def norm_threads(rows: int, channels: int) -> int:
    """Threads that PyTorch starts for a batch norm with channels last."""
    across = min(1 << (channels.bit_length() - 1), 32)
    down = min(1 << max((rows // NORM_ROWS).bit_length() - 1, 0), NORM_BLOCK // across)
    return across * down * math.ceil(channels / across) * min(math.ceil(rows / (down * NORM_ROWS)), NORM_BLOCKS)


def _rate(kernel: Kernel) -> str:
    """The kind of framework kernel; chains that a compiler fused are none of them."""
    if len(kernel.operations) != 1:
        return "none"
    (operation,) = kernel.operations
    if operation.role == "norm":
        fp32 = any(access.tensor.endswith(".weight") and access.dtype == "fp32" for access in operation.reads)
        return "norm_autocast" if fp32 and operation.writes[0].dtype != "fp32" else "norm"
    if operation.kind in _RATE_OF:
        return _RATE_OF[operation.kind]
    if isinstance(operation.layer, LayerNorm):
        return "row_norm"
    if operation.role == "window" or operation.kind == "concat":
        return "window" if operation.role == "window" else "concat"
    return "pointwise" if operation.role in ("elementwise", "copy") else "none"
