"""MobileOne (Vasu et al., 2022), re-parameterised: each training-time block of parallel branches is one biased convolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.networks.entry import Accuracy, NetworkEntry, Published
from perfmodel.networks.published import TIMM_COMMIT, top1

_DEPTHS = (2, 8, 10, 1)
_WIDTHS = (64, 128, 256, 512)
_SE_REDUCTION = 16
_SOURCE = f"{TIMM_COMMIT}, results/benchmark-infer-amp-nchw-pt291-cu128-4090.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    width_factors: tuple[float, float, float, float]
    stem: int = 64
    squeezed: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Last blocks of each stage whose two convolutions have squeeze-and-excitation."""
    published: Published
    accuracy: Accuracy


def _fused(params_millions: str, gmacs: str, activations_millions: str) -> Published:
    return Published(
        source=_SOURCE,
        resolution=224,
        params_millions=params_millions,
        gmacs=gmacs,
        activations_millions=activations_millions,
    )


_SPECS = {
    "mobileone_s0": _Spec(
        width_factors=(0.75, 1.0, 1.0, 2.0),
        stem=48,
        published=_fused("2.08", "0.28", "3.79"),
        accuracy=top1("mobileone_s0.apple_in1k", 224, 71.398),
    ),
    "mobileone_s1": _Spec(
        width_factors=(1.5, 1.5, 2.0, 2.5),
        published=_fused("4.76", "0.83", "6.27"),
        accuracy=top1("mobileone_s1.apple_in1k", 224, 75.760),
    ),
    "mobileone_s2": _Spec(
        width_factors=(1.5, 2.0, 2.5, 4.0),
        published=_fused("7.81", "1.30", "7.56"),
        accuracy=top1("mobileone_s2.apple_in1k", 224, 77.504),
    ),
    "mobileone_s3": _Spec(
        width_factors=(2.0, 2.5, 3.0, 4.0),
        published=_fused("10.08", "1.90", "9.13"),
        accuracy=top1("mobileone_s3.apple_in1k", 224, 78.002),
    ),
    "mobileone_s4": _Spec(
        width_factors=(3.0, 3.5, 3.5, 4.0),
        squeezed=(0, 0, 5, 1),
        published=_fused("14.84", "2.98", "11.81"),
        accuracy=top1("mobileone_s4.apple_in1k", 224, 79.446),
    ),
}


def _unit(
    builder: GraphBuilder,
    x: Tensor,
    channels: int,
    *,
    kernel: int,
    stride: int = 1,
    group_width: int | None = None,
    squeezed: bool = False,
    name: str,
) -> Tensor:
    """Biased convolution → [squeeze-and-excitation] → ReLU."""
    with builder.scope(name):
        x = builder.conv(x, channels, kernel=kernel, stride=stride, group_width=group_width, bias=True, name="reparam_conv")
        if squeezed:
            x = squeeze_excitation(builder, x, channels // _SE_REDUCTION, activation="relu", name="attn")
        return builder.activation(x, "relu")


def _build(spec: _Spec, builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    x = _unit(builder, x, spec.stem, kernel=3, stride=2, name="stem")
    for stage, (depth, width, factor, squeezed) in enumerate(
        zip(_DEPTHS, _WIDTHS, spec.width_factors, spec.squeezed, strict=True)
    ):
        for number in range(depth):
            with_se = number >= depth - squeezed
            x = _unit(
                builder,
                x,
                x.shape.C,
                kernel=3,
                stride=2 if number == 0 else 1,
                group_width=1,
                squeezed=with_se,
                name=f"stages.{stage}.{2 * number}",
            )
            x = _unit(builder, x, int(width * factor), kernel=1, squeezed=with_se, name=f"stages.{stage}.{2 * number + 1}")
    x = builder.add(GlobalAveragePool(), x, name="head.global_pool")
    return builder.linear(x, classes, name="head.fc")


ENTRIES: tuple[NetworkEntry, ...] = tuple(
    NetworkEntry(
        name=name,
        family="mobileone",
        resolution=spec.published.resolution,
        build=partial(_build, spec),
        description=f"MobileOne-{name.removeprefix('mobileone_').upper()}, re-parameterised",
        published=spec.published,
        accuracy=(spec.accuracy,),
    )
    for name, spec in _SPECS.items()
)
