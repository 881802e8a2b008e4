"""Every kind of layer and block by name, for `perfmodel formula` and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from perfmodel.layers import dims
from perfmodel.layers.activation import ELEMENT_OPS, activation_formula
from perfmodel.layers.arithmetic import ADD, BIAS_ADD, MULTIPLY, SCALE
from perfmodel.layers.batch_norm import BATCH_NORM
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.blocks.convnext import ConvNeXtBlock
from perfmodel.layers.blocks.mbconv import DepthwiseSeparable, FusedMBConv, MBConv
from perfmodel.layers.blocks.residual import BasicBlock, Bottleneck, RegNetYBlock, ResNeXtBlock
from perfmodel.layers.concat import concat_formula
from perfmodel.layers.conv2d import conv2d_formula
from perfmodel.layers.copy import COPY
from perfmodel.layers.layer import Formula
from perfmodel.layers.layer_norm import LAYER_NORM
from perfmodel.layers.linear import linear_formula
from perfmodel.layers.pooling import ADAPTIVE_AVERAGE_POOL, GLOBAL_AVERAGE_POOL, pool_formula
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
            ConvFirst,
            ConvNeXtBlock,
        )
    }
)
"""Residual blocks by name."""
