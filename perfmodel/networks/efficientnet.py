"""EfficientNet B0 to B7 (Tan and Le, 2019) and EfficientNetV2 S, M and L (Tan and Le, 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.networks.entry import Accuracy, NetworkEntry, Published
from perfmodel.networks.inverted_residual import Run, SqueezeExcitation, add_stages, make_divisible
from perfmodel.networks.published import checked_by_torchvision, top1

_ACTIVATION = "silu"
_HEAD = 1280
# EfficientNet squeezes to a quarter of the channels that *enter the block*, not of the expanded ones.
_SE = SqueezeExcitation(of="input", activation=_ACTIVATION, gate="sigmoid")

_Kind = Literal["mbconv", "fused_mbconv", "depthwise_separable", "conv"]
# (block, repeats, kernel, stride of the first, expansion, channels)
_Row = tuple[_Kind, int, int, int, int, int]

_B0_STEM = 32
_B0: tuple[_Row, ...] = (
    ("depthwise_separable", 1, 3, 1, 1, 16),
    ("mbconv", 2, 3, 2, 6, 24),
    ("mbconv", 2, 5, 2, 6, 40),
    ("mbconv", 3, 3, 2, 6, 80),
    ("mbconv", 3, 5, 1, 6, 112),
    ("mbconv", 4, 5, 2, 6, 192),
    ("mbconv", 1, 3, 1, 6, 320),
)
_V2_S: tuple[_Row, ...] = (
    ("conv", 2, 3, 1, 1, 24),
    ("fused_mbconv", 4, 3, 2, 4, 48),
    ("fused_mbconv", 4, 3, 2, 4, 64),
    ("mbconv", 6, 3, 2, 4, 128),
    ("mbconv", 9, 3, 1, 6, 160),
    ("mbconv", 15, 3, 2, 6, 256),
)
_V2_M: tuple[_Row, ...] = (
    ("conv", 3, 3, 1, 1, 24),
    ("fused_mbconv", 5, 3, 2, 4, 48),
    ("fused_mbconv", 5, 3, 2, 4, 80),
    ("mbconv", 7, 3, 2, 4, 160),
    ("mbconv", 14, 3, 1, 6, 176),
    ("mbconv", 18, 3, 2, 6, 304),
    ("mbconv", 5, 3, 1, 6, 512),
)
_V2_L: tuple[_Row, ...] = (
    ("conv", 4, 3, 1, 1, 32),
    ("fused_mbconv", 7, 3, 2, 4, 64),
    ("fused_mbconv", 7, 3, 2, 4, 96),
    ("mbconv", 10, 3, 2, 4, 192),
    ("mbconv", 19, 3, 1, 6, 224),
    ("mbconv", 25, 3, 2, 6, 384),
    ("mbconv", 7, 3, 1, 6, 640),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    family: Literal["efficientnet", "efficientnetv2"]
    description: str
    rows: tuple[_Row, ...]
    stem: int
    head: int = _HEAD
    aliases: tuple[str, ...] = ()
    published: Published
    accuracy: tuple[Accuracy, ...]


def _scaled(member: str, width: float, depth: float, published: Published, *accuracy: Accuracy) -> _Spec:
    """B0 with all channels times `width` (divisible by 8) and all repeats times `depth` (rounded up)."""
    return _Spec(
        family="efficientnet",
        description=f"EfficientNet-{member}: B0 with {width} × the width and {depth} × the depth",
        rows=tuple(
            (kind, math.ceil(depth * repeats), kernel, stride, expansion, make_divisible(width * channels))
            for kind, repeats, kernel, stride, expansion, channels in _B0
        ),
        stem=make_divisible(width * _B0_STEM),
        head=make_divisible(width * _HEAD),
        published=published,
        accuracy=accuracy,
    )


def _v2(size: str, rows: tuple[_Row, ...], published: Published, *accuracy: Accuracy) -> _Spec:
    return _Spec(
        family="efficientnetv2",
        description=f"EfficientNetV2-{size}",
        rows=rows,
        stem=rows[0][-1],
        aliases=(f"efficientnet_v2_{size.lower()}", f"tf_efficientnetv2_{size.lower()}"),
        published=published,
        accuracy=accuracy,
    )


_SPECS = {
    "efficientnet_b0": _scaled(
        "B0",
        1.0,
        1.0,
        checked_by_torchvision(224, 5_288_548, "0.386", "6.75"),
        top1("tf_efficientnet_b0.aa_in1k", 224, 76.882),
        top1("efficientnet_b0.ra_in1k", 224, 77.698),
    ),
    "efficientnet_b1": _scaled(
        "B1",
        1.0,
        1.1,
        checked_by_torchvision(240, 7_794_184, "0.687", "10.88"),
        top1("tf_efficientnet_b1.aa_in1k", 240, 78.840),
        top1("efficientnet_b1.ft_in1k", 256, 78.806),
    ),
    # The paper evaluates B2 at 260; torchvision, whose count is the check value, at 288.
    "efficientnet_b2": _scaled(
        "B2",
        1.1,
        1.2,
        checked_by_torchvision(288, 9_109_994, "1.088", "16.20"),
        top1("tf_efficientnet_b2.aa_in1k", 260, 80.074),
        top1("efficientnet_b2.ra_in1k", 288, 80.612),
    ),
    "efficientnet_b3": _scaled(
        "B3",
        1.2,
        1.4,
        checked_by_torchvision(300, 12_233_232, "1.827", "23.83"),
        top1("tf_efficientnet_b3.aa_in1k", 300, 81.648),
        top1("efficientnet_b3.ra2_in1k", 320, 82.296),
    ),
    "efficientnet_b4": _scaled(
        "B4",
        1.4,
        1.8,
        checked_by_torchvision(380, 19_341_616, "4.394", "49.49"),
        top1("tf_efficientnet_b4.aa_in1k", 380, 83.040),
        top1("efficientnet_b4.ra2_in1k", 384, 83.468),
    ),
    "efficientnet_b5": _scaled(
        "B5",
        1.6,
        2.2,
        checked_by_torchvision(456, 30_389_784, "10.266", "98.86"),
        top1("tf_efficientnet_b5.aa_in1k", 456, 83.696),
    ),
    "efficientnet_b6": _scaled(
        "B6",
        1.8,
        2.6,
        checked_by_torchvision(528, 43_040_704, "19.068", "167.39"),
        top1("tf_efficientnet_b6.aa_in1k", 528, 84.124),
    ),
    "efficientnet_b7": _scaled(
        "B7",
        2.0,
        3.1,
        checked_by_torchvision(600, 66_347_960, "37.746", "289.94"),
        top1("tf_efficientnet_b7.aa_in1k", 600, 84.424),
    ),
    "efficientnetv2_s": _v2(
        "S",
        _V2_S,
        checked_by_torchvision(384, 21_458_488, "8.366", "35.77"),
        top1("tf_efficientnetv2_s.in1k", 384, 83.900),
        top1("tf_efficientnetv2_s.in1k", 300, 83.162),
    ),
    "efficientnetv2_m": _v2(
        "M",
        _V2_M,
        checked_by_torchvision(480, 54_139_356, "24.582", "89.84"),
        top1("tf_efficientnetv2_m.in1k", 480, 85.208),
        top1("tf_efficientnetv2_m.in1k", 384, 84.554),
    ),
    "efficientnetv2_l": _v2(
        "L",
        _V2_L,
        checked_by_torchvision(480, 118_515_272, "56.080", "157.99"),
        top1("tf_efficientnetv2_l.in1k", 480, 85.660),
        top1("tf_efficientnetv2_l.in1k", 384, 85.202),
    ),
}


def _stage(row: _Row) -> tuple[Run]:
    kind, repeats, kernel, stride, expansion, channels = row
    return (
        Run(
            block=kind,
            repeats=repeats,
            kernel=kernel,
            stride=stride,
            expansion=expansion,
            channels=channels,
            activation=_ACTIVATION,
            squeeze_excitation=_SE if kind in {"mbconv", "depthwise_separable"} else None,
        ),
    )


def _build(spec: _Spec, builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    x = builder.conv_norm(x, spec.stem, kernel=3, stride=2, activation=_ACTIVATION, name="conv_stem", norm_name="bn1")
    x = add_stages(builder, x, map(_stage, spec.rows))
    x = builder.conv_norm(x, spec.head, activation=_ACTIVATION, name="conv_head", norm_name="bn2")
    x = builder.add(GlobalAveragePool(), x, name="global_pool")
    return builder.linear(x, classes, name="classifier")


ENTRIES: tuple[NetworkEntry, ...] = tuple(
    NetworkEntry(
        name=name,
        family=spec.family,
        resolution=spec.published.resolution,
        build=partial(_build, spec),
        description=spec.description,
        aliases=spec.aliases,
        published=spec.published,
        accuracy=spec.accuracy,
    )
    for name, spec in _SPECS.items()
)
