"""Every kind of layer and block by name, for `perfmodel formula` and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Final

import sympy

from perfmodel.errors import UnknownNameError
from perfmodel.layers import dims
from perfmodel.layers.activation import ELEMENT_OPS, activation_formula
from perfmodel.layers.arithmetic import ADD, BIAS_ADD, MULTIPLY, SCALE
from perfmodel.layers.attention import ATTENTION
from perfmodel.layers.batch_norm import BATCH_NORM
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.conv_residual import ConvResidual
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.convnext import ConvNeXtBlock
from perfmodel.layers.blocks.mbconv import DepthwiseSeparable, FusedMBConv, MBConv
from perfmodel.layers.blocks.residual import BasicBlock, Bottleneck, RegNetYBlock, ResNeXtBlock
from perfmodel.layers.blocks.squeeze_excitation import SqueezeExcitation
from perfmodel.layers.concat import concat_formula
from perfmodel.layers.conv2d import conv2d_formula
from perfmodel.layers.conv_transpose2d import conv_transpose2d_formula
from perfmodel.layers.copy import COPY
from perfmodel.layers.group_norm import GROUP_NORM
from perfmodel.layers.layer import Formula, ShapeError
from perfmodel.layers.layer_norm import LAYER_NORM
from perfmodel.layers.linear import linear_formula
from perfmodel.layers.matmul import MATMUL
from perfmodel.layers.pad import PAD
from perfmodel.layers.pointwise import OPERAND_OPS, pointwise_formula
from perfmodel.layers.pooling import ADAPTIVE_AVERAGE_POOL, GLOBAL_AVERAGE_POOL, pool_formula
from perfmodel.layers.rearrange import REARRANGE
from perfmodel.layers.reduce import REDUCE_OPS, reduce_formula
from perfmodel.layers.rms_norm import RMS_NORM
from perfmodel.layers.sample_conv2d import SAMPLE_CONV2D
from perfmodel.layers.softmax import SOFTMAX
from perfmodel.layers.upsample import OUTPUT_OPS, upsample_formula


def _formulas() -> dict[str, Formula]:
    return {
        "conv2d": conv2d_formula(bias=False),
        "conv2d_bias": conv2d_formula(bias=True),
        "linear": linear_formula(bias=True),
        "batch_norm": BATCH_NORM,
        "layer_norm": LAYER_NORM,
        **{function: activation_formula(function) for function in ELEMENT_OPS},
        "max_pool": pool_formula("max"),
        "average_pool": pool_formula("average"),
        "adaptive_average_pool": ADAPTIVE_AVERAGE_POOL,
        "global_average_pool": GLOBAL_AVERAGE_POOL,
        "add": ADD,
        "multiply": MULTIPLY,
        "scale": SCALE,
        "bias_add": BIAS_ADD,
        "concat": concat_formula(2),
        **{f"upsample_{mode}": upsample_formula(mode) for mode in OUTPUT_OPS},
        "softmax": SOFTMAX,
        "copy": COPY,
        "rearrange": REARRANGE,
        "pad": PAD,
        "conv_transpose2d": conv_transpose2d_formula(bias=True),
        "sample_conv2d": SAMPLE_CONV2D,
        "matmul": MATMUL,
        "attention": ATTENTION,
        "group_norm": GROUP_NORM,
        "rms_norm": RMS_NORM,
        **{f"reduce_{function}": reduce_formula(function) for function in REDUCE_OPS},
        **{f"pointwise_{function}": pointwise_formula(function, 2) for function in OPERAND_OPS},
    }


FORMULAS: Final[Mapping[str, Formula]] = MappingProxyType(_formulas())
"""Layer kinds by name. A layer's case of the convolution (pointwise, grouped, depthwise) is the same formula with other symbols bound."""

CONV2D_CASES: Final = MappingProxyType(
    {
        "pointwise_conv": {dims.R: 1, dims.S: 1, dims.g: dims.C},
        "full_conv": {dims.g: dims.C},
        "grouped_conv": {},
        "depthwise_conv": {dims.g: 1, dims.K: dims.C},
    }
)
"""What distinguishes the cases of conv2d, as substitutions into its formula."""

MOST_CHANNELS: Final = 2**16
MOST_KERNEL: Final = 99
"""What `block_of` accepts: far beyond any network, and small enough that byte counts stay exact."""

BLOCKS: Final[Mapping[str, type[Block]]] = MappingProxyType(
    {
        block.kind: block
        for block in (
            BasicBlock,
            Bottleneck,
            ResNeXtBlock,
            RegNetYBlock,
            MBConv,
            DepthwiseSeparable,
            FusedMBConv,
            ConvResidual,
            ConvFirst,
            ConvNeXtBlock,
        )
    }
)
"""Residual blocks by name."""

COMPOSITIONS: Final[Mapping[str, type[Block]]] = MappingProxyType({**BLOCKS, SqueezeExcitation.kind: SqueezeExcitation})
"""Everything composed of layers that has formulas of its own: the blocks, and what they have inside."""


def block_of(kind: str, channels: int, *, expansion: int = 4, group_width: int = 8, kernel: int | None = None) -> Block:
    """The block of that name with `channels` in and out at stride 1: its `symbolic` form with numbers for the symbols.

    `expansion` (hidden channels ÷ channels) and `group_width` count where the block has such a choice. A bottleneck narrows as ResNet's and
    ResNeXt's do (4 and 2 times), and squeeze-and-excitation squeezes to a quarter. `kernel` None is the block's usual one.

    >>> block_of("convfirst", 64, expansion=6).hidden_channels, block_of("bottleneck", 256).hidden_channels
    (384, 64)

    Raises UnknownNameError, and ShapeError for numbers that the block cannot have. That groups divide their channels is checked by `build`.
    """
    known = BLOCKS.get(kind.lower())
    if known is None:
        raise UnknownNameError("block", kind, BLOCKS)
    for what, value in (("channels", channels), ("expansion", expansion), ("group width", group_width)):
        if type(value) is not int or not 1 <= value <= MOST_CHANNELS:
            raise ShapeError(f"{known.kind}: {what} must be a whole number from 1 to {MOST_CHANNELS}, not {value!r}")
    block = known.symbolic()
    narrowing = block.in_channels / dims.K if dims.expression(block.in_channels).has(dims.K) else 1
    if channels % narrowing:
        raise ShapeError(
            f"{known.kind}: {channels} channels cannot be narrowed {narrowing} times; choose a multiple of {narrowing}"
        )
    numbers = {
        dims.C: channels,
        dims.K: channels // narrowing,
        dims.e: expansion,
        dims.g: group_width,
        dims.C_se: max(1, channels // 4),
    }
    chosen = {
        field.name: int(value.subs(numbers))
        for field in fields(block)
        if isinstance(value := getattr(block, field.name), sympy.Expr)
    }
    if kernel is not None:
        if not hasattr(block, "kernel"):
            if kernel != 3:
                raise ShapeError(f"{known.kind}: its kernels are 3×3 and cannot be {kernel}×{kernel}; leave the kernel out")
        elif type(kernel) is not int or not 1 <= kernel <= MOST_KERNEL or kernel % 2 == 0:
            raise ShapeError(f"{known.kind}: the kernel must be an odd number from 1 to {MOST_KERNEL}, not {kernel!r}")
        else:
            chosen["kernel"] = kernel
    return replace(block, **chosen)


_FACTOR_ORDER: Final = ("N", "C", "K", "P", "Q", "H", "W", "R", "S", "g", "G", "E")


def formulas_table() -> str:
    """Every layer's formula, then every symbol's meaning, as two Markdown tables: what docs/formulas.md prints."""
    lines = [
        "| layer | MACs | vector ops | special ops | elements read, per input | elements written | weights |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    symbols: set[sympy.Symbol] = set()
    for name, formula in FORMULAS.items():
        weights = [f"{weight.name} {_text(weight.elements)}" for weight in formula.weights]
        cells = [
            *map(_text, (formula.macs, formula.vector_ops, formula.special_ops)),
            ", ".join(map(_text, formula.reads)),
            _text(formula.writes),
            ", ".join(weights) or "–",
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        symbols.update(formula.symbols)
    lines += ["", "| symbol | meaning |", "| --- | --- |"]
    lines += [f"| {symbol} | {dims.meaning(symbol)} |" for symbol in sorted(symbols, key=_rank)]
    return "\n".join(lines) + "\n"


def _rank(symbol: sympy.Expr) -> tuple[int, str]:
    """Factors and tables name dimensions in the order of a tensor's and a filter's axes."""
    return _FACTOR_ORDER.index(str(symbol).partition("_")[0]), str(symbol)


def _text(expression: dims.Dim) -> str:
    """A formula in plain text, for example `N·C·(H·W + 1)`."""
    expression = dims.expression(expression)
    if expression.is_Add:
        return " + ".join(map(_text, expression.as_ordered_terms()))
    if not expression.is_Mul:
        return str(expression)
    factors = sorted(expression.args, key=lambda x: (not x.is_number, x.is_Add, *(_rank(x) if x.is_Symbol else (0, ""))))
    return "·".join(f"({_text(x)})" if x.is_Add else _text(x) for x in factors)
