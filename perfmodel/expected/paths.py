"""Which unit and library path a kernel takes: a table of conditions on shapes, whose slow paths are named diagnoses.

The conditions were found on published measurements of PyTorch 2.4 with cuDNN 9 on an RTX 3090 and an RTX 4090 (docs/expected.md says which
files, and what each is worth). They are predicates on shapes, the same on every GPU: no constant is fitted to a shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from perfmodel.kernel import Kernel
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.sample_conv2d import SampleConv2d
from perfmodel.lowering import Operation


class Path(IntEnum):
    """How a kernel is carried out, and therefore which rates hold it."""

    MATRIX = 0
    """A product on the matrix unit whose operands are aligned."""
    UNALIGNED = 1
    """A product whose channels are not multiples of 8: operands are loaded element by element."""
    GROUPED = 2
    """A grouped convolution whose kernel exists for its width: held by memory."""
    GROUPED_PADDED = 3
    """A grouped convolution run as if each group were as wide as a tile of the matrix unit."""
    GROUPED_PAIR = 4
    """A grouped convolution of two channels per group, on the vector unit."""
    DEPTHWISE = 5
    """A depthwise convolution with a kernel of its own: held by memory."""
    DEPTHWISE_DIRECT = 6
    """A depthwise convolution without one: plain loops on the vector unit."""
    POINTWISE = 7
    """Each output element from elements at its place: activations, sums, batch norm; and chains of them."""
    BROADCAST = 8
    """A factor or term per channel, or a sum over pixels: bias addition, squeeze-and-excitation, means."""
    MOVE = 9
    """Windows and copies: pooling, concatenation, casts, changes of layout, resampling."""
    ROW_NORM = 10
    """A norm over the channels of each pixel: a row per warp or block, whatever its width."""
    RESAMPLE = 13
    """The framework's kernel for resizing images: an element per thread, whose place is computed by divisions."""
    REORDER = 12
    """A copy between NCHW and NHWC, or a step whose operands lie in different orders: one of them is read a line per element."""
    FUSED = 11
    """A fused program of the tensor machine."""


MATRIX_PATHS: Final = (Path.MATRIX, Path.UNALIGNED, Path.GROUPED, Path.GROUPED_PADDED)
ALIGNMENT: Final = 8
"""Channels: 16 bytes of a 2-byte type, what one load instruction of a tensor-core kernel takes."""
DEPTHWISE_KERNELS: Final = ((1, 1), (3, 3), (5, 5), (7, 7))
"""Kernel sizes for which the library has a depthwise kernel."""
LARGEST_GROUPED_KERNEL: Final = 3
"""Kernel size up to which the library has grouped kernels."""
WIDEST_UNEQUAL_GROUP: Final = 32
"""Output channels per group up to which these kernels take groups of other than as many input channels."""
LARGE_TENSOR_ELEMENTS: Final = 2**31
"""Beyond this, indices need 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition on a convolution, the path it then takes, and the diagnosis where that path is slow."""

    path: Path
    applies: Callable[[Conv2d], bool]
    condition: str
    diagnosis: str | None = None


def _width_out(layer: Conv2d) -> int:
    return int(layer.out_channels // layer.groups)


def _power_of_two(value: int) -> bool:
    return value & (value - 1) == 0


def _aligned(layer: Conv2d) -> bool:
    return bool(layer.in_channels % ALIGNMENT == 0 and layer.out_channels % ALIGNMENT == 0)


def _has_grouped_kernel(layer: Conv2d) -> bool:
    width, out = int(layer.group_width), _width_out(layer)
    if layer.conv_class != "grouped_conv" or max(layer.kernel) > LARGEST_GROUPED_KERNEL:
        return False
    fits = width >= 4 if width == out else 4 <= out <= WIDEST_UNEQUAL_GROUP
    return _power_of_two(width) and _power_of_two(out) and fits


RULES: Final = (
    Rule(
        path=Path.DEPTHWISE,
        applies=lambda c: (
            c.conv_class == "depthwise_conv"
            and c.kernel in DEPTHWISE_KERNELS
            and c.out_channels == c.in_channels
            and c.dilation == (1, 1)
        ),
        condition="depthwise, 1×1, 3×3, 5×5 or 7×7, one output per input channel",
    ),
    Rule(
        path=Path.DEPTHWISE_DIRECT,
        applies=lambda c: c.conv_class == "depthwise_conv" and c.out_channels != c.in_channels,
        condition="depthwise with a channel multiplier",
        diagnosis="depthwise convolution with a channel multiplier has no fast kernel; repeat the input's channels, or use multiplier 1",
    ),
    Rule(
        path=Path.DEPTHWISE_DIRECT,
        applies=lambda c: c.conv_class == "depthwise_conv",
        condition="depthwise with any other kernel (9×9, 11×11, 1×11, dilated)",
        diagnosis="depthwise convolution outside 3×3, 5×5, 7×7 runs at a hundredth of the vector peak; use 7×7, or smaller ones in a row",
    ),
    Rule(
        path=Path.GROUPED,
        applies=_has_grouped_kernel,
        condition="grouped, up to 3×3, C/g and K/g powers of two: equal from 4, or K/g 4 to 32",
    ),
    Rule(
        path=Path.GROUPED_PAIR,
        applies=lambda c: c.conv_class == "grouped_conv" and min(int(c.group_width), _width_out(c)) < 4,
        condition="grouped, fewer than 4 channels per group",
        diagnosis="grouped convolution of fewer than 4 channels per group runs on the vector unit; use 4 or more, or depthwise",
    ),
    Rule(
        path=Path.GROUPED_PADDED,
        applies=lambda c: c.conv_class == "grouped_conv",
        condition="grouped, any other width (24, 40, 48, 56, 72, 112) or kernel",
        diagnosis="grouped convolution whose width is no power of two is padded to tiles, in copies; use a power of two",
    ),
    Rule(path=Path.MATRIX, applies=_aligned, condition="ordinary, C and K multiples of 8"),
    Rule(
        path=Path.UNALIGNED,
        applies=lambda _: True,
        condition="ordinary, C or K not a multiple of 8",
        diagnosis="channels that are not multiples of 8 take twice the memory time; round them up to a multiple of 8",
    ),
)
"""The first that applies decides."""

_MOVES: Final = ("window", "copy")
_BROADCASTS: Final = (
    "bias_add",
    "multiply",
    "scale",
    "global_average_pool",
    "softmax",
    "group_norm",
    "group_norm_moments",
    "reduce",
)


def convolution_rule(layer: Conv2d) -> Rule:
    """The row of the table that a convolution falls under."""
    return next(rule for rule in RULES if rule.applies(layer))


def path_of(kernel: Kernel) -> Path:
    """The path of a kernel: of its convolution or matrix product if it has one, else of the slowest kind of step in it."""
    if not kernel.operations:
        return Path.FUSED
    lead = lead_of(kernel)
    if isinstance(lead.layer, Conv2d):
        return convolution_rule(lead.layer).path
    if isinstance(lead.layer, SampleConv2d):
        return convolution_rule(lead.layer.grouped).path
    if isinstance(lead.layer, Linear):
        aligned = lead.layer.in_channels % ALIGNMENT == 0 and lead.layer.out_channels % ALIGNMENT == 0
        return Path.MATRIX if aligned else Path.UNALIGNED
    if any(isinstance(operation.layer, LayerNorm) for operation in kernel.operations):
        return Path.ROW_NORM
    if kernel.kind in ("upsample", "resize"):
        return Path.RESAMPLE
    if any(access.across for access in kernel.reads):
        return Path.REORDER
    if any(operation.role in _MOVES or operation.kind == "concat" for operation in kernel.operations if operation.kind != "cast"):
        return Path.MOVE
    if len(kernel.operations) == 1 and lead.kind == "cast":
        return Path.POINTWISE
    if any(operation.kind in _BROADCASTS for operation in kernel.operations):
        return Path.BROADCAST if len(kernel.operations) == 1 or kernel.kind == "reduction" else Path.POINTWISE
    return Path.POINTWISE


def lead_of(kernel: Kernel) -> Operation:
    """The operation that decides how the kernel runs: its matrix product, or its first step."""
    return next((operation for operation in kernel.operations if operation.role == "matrix"), kernel.operations[0])


def diagnosis_of(kernel: Kernel) -> str | None:
    """Why the kernel is slow for its size, where a rule names it; None otherwise."""
    if not kernel.operations:
        return None
    layer = lead_of(kernel).layer
    if isinstance(layer, Conv2d) and (said := convolution_rule(layer).diagnosis):
        return said
    large = any(int(access.elements) >= LARGE_TENSOR_ELEMENTS for access in (*kernel.reads, *kernel.writes))
    if large and path_of(kernel) is Path.DEPTHWISE:
        return "a depthwise convolution over 2³¹ elements or more has no fast kernel (indices of 64 bits); use a smaller batch"
    return None
