"""RegNetY (Radosavovic et al., 2020).

timm and torchvision round the widths of 800MF and 8GF differently (timm as the paper's own code does). Both are here,
under timm's names: `regnety_008` and `regnety_080` have the paper's widths, `regnety_008_tv` and `regnety_080_tv`
torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from perfmodel.layers.blocks.residual import RegNetYBlock
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.networks.entry import Accuracy, NetworkEntry, Published
from perfmodel.networks.published import TIMM_BENCHMARK, checked_by_torchvision, top1

_STEM = 32
_PYCLS = "facebookresearch/pycls, MODEL_ZOO.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    size: str
    stages: tuple[tuple[int, int], ...]
    """(width, depth)."""
    group_width: int
    published: Published
    accuracy: tuple[Accuracy, ...]
    alias: str | None = None
    """torchvision's name, if this is torchvision's network."""


def _paper(params_millions: str, gmacs: str, activations_millions: str) -> Published:
    return Published(
        source=f"GMACs: {_PYCLS}; parameters and activations: {TIMM_BENCHMARK}",
        resolution=224,
        params_millions=params_millions,
        gmacs=gmacs,
        activations_millions=activations_millions,
    )


_SPECS = {
    "regnety_004": _Spec(
        size="400MF",
        stages=((48, 1), (104, 3), (208, 6), (440, 6)),
        group_width=8,
        published=checked_by_torchvision(224, 4_344_144, "0.402", "3.89"),
        accuracy=(top1("regnety_004.pycls_in1k", 224, 74.004), top1("regnety_004.tv2_in1k", 224, 75.594)),
        alias="regnet_y_400mf",
    ),
    "regnety_008": _Spec(
        size="800MF",
        stages=((64, 1), (128, 3), (320, 8), (768, 2)),
        group_width=16,
        published=_paper("6.26", "0.8", "5.25"),
        accuracy=(top1("regnety_008.pycls_in1k", 224, 76.334),),
    ),
    "regnety_008_tv": _Spec(
        size="800MF with torchvision's widths",
        stages=((64, 1), (144, 3), (320, 8), (784, 2)),
        group_width=16,
        published=checked_by_torchvision(224, 6_432_512, "0.834", "5.42"),
        accuracy=(top1("regnety_008_tv.tv2_in1k", 224, 78.672),),
        alias="regnet_y_800mf",
    ),
    "regnety_016": _Spec(
        size="1.6GF",
        stages=((48, 2), (120, 6), (336, 17), (888, 2)),
        group_width=24,
        published=checked_by_torchvision(224, 11_202_430, "1.612", "8.04"),
        accuracy=(top1("regnety_016.pycls_in1k", 224, 77.880), top1("regnety_016.tv2_in1k", 224, 80.668)),
        alias="regnet_y_1_6gf",
    ),
    "regnety_032": _Spec(
        size="3.2GF",
        stages=((72, 2), (216, 5), (576, 13), (1512, 1)),
        group_width=24,
        published=checked_by_torchvision(224, 19_436_338, "3.176", "11.26"),
        accuracy=(top1("regnety_032.pycls_in1k", 224, 78.902), top1("regnety_032.tv2_in1k", 224, 81.788)),
        alias="regnet_y_3_2gf",
    ),
    "regnety_080": _Spec(
        size="8GF",
        stages=((168, 2), (448, 4), (896, 10), (2016, 1)),
        group_width=56,
        published=_paper("39.18", "8.0", "17.97"),
        accuracy=(top1("regnety_080.pycls_in1k", 224, 79.874),),
    ),
    "regnety_080_tv": _Spec(
        size="8GF with torchvision's widths",
        stages=((224, 2), (448, 4), (896, 10), (2016, 1)),
        group_width=56,
        published=checked_by_torchvision(224, 39_381_472, "8.473", "19.73"),
        accuracy=(top1("regnety_080_tv.tv2_in1k", 224, 82.580),),
        alias="regnet_y_8gf",
    ),
    "regnety_160": _Spec(
        size="16GF",
        stages=((224, 2), (448, 4), (1232, 11), (3024, 1)),
        group_width=112,
        published=checked_by_torchvision(224, 83_590_140, "15.912", "23.04"),
        accuracy=(top1("regnety_160.pycls_in1k", 224, 80.284), top1("regnety_160.tv2_in1k", 224, 82.646)),
        alias="regnet_y_16gf",
    ),
    "regnety_320": _Spec(
        size="32GF",
        stages=((232, 2), (696, 5), (1392, 12), (3712, 1)),
        group_width=232,
        published=checked_by_torchvision(224, 145_046_770, "32.280", "30.26"),
        accuracy=(top1("regnety_320.pycls_in1k", 224, 80.796), top1("regnety_320.tv2_in1k", 224, 83.170)),
        alias="regnet_y_32gf",
    ),
}


def _build(spec: _Spec, builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    x = builder.conv_norm(x, _STEM, kernel=3, stride=2, activation="relu", name="stem.conv", norm_name="stem.bn")
    for stage, (width, depth) in enumerate(spec.stages, start=1):
        for number in range(1, depth + 1):
            block = RegNetYBlock(
                in_channels=x.shape.C,
                out_channels=width,
                hidden_channels=width,
                group_width=spec.group_width,
                se_channels=round(x.shape.C / 4),  # of the channels that enter the block
                stride=2 if number == 1 else 1,
            )
            x = builder.block(block, x, name=f"s{stage}.b{number}")
    x = builder.add(GlobalAveragePool(), x, name="head.global_pool")
    return builder.linear(x, classes, name="head.fc")


ENTRIES: tuple[NetworkEntry, ...] = tuple(
    NetworkEntry(
        name=name,
        family="regnety_tv" if name.endswith("_tv") else "regnety",
        resolution=spec.published.resolution,
        build=partial(_build, spec),
        description=f"RegNetY-{spec.size}",
        aliases=() if spec.alias is None else (spec.alias,),
        published=spec.published,
        accuracy=spec.accuracy,
    )
    for name, spec in _SPECS.items()
)
