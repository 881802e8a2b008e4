"""ConvNeXt (Liu et al., 2022), and the four smaller members that timm added."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from perfmodel.layers.blocks.convnext import ConvNeXtBlock
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.networks.entry import Accuracy, NetworkEntry, Published
from perfmodel.networks.published import TIMM_BENCHMARK, checked_by_torchvision, top1

_EXPANSION = 4
_CONVNEXT_V2 = "facebookresearch/ConvNeXt-V2, README (FLOPs column; V2 adds no multiply-accumulate to these widths and depths)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    depths: tuple[int, int, int, int]
    width: int
    """Channels of the first stage; each further stage has twice those of the one before."""
    published: Published
    accuracy: Accuracy
    conv_mlp: bool = False
    """timm builds the members that it added with 1×1 convolutions where the others have linear layers."""


def _small(params_millions: str, gmacs: str, activations_millions: str) -> Published:
    return Published(
        source=f"GMACs: {_CONVNEXT_V2}; parameters and activations: {TIMM_BENCHMARK}",
        resolution=224,
        params_millions=params_millions,
        gmacs=gmacs,
        activations_millions=activations_millions,
    )


_SPECS = {
    "convnext_atto": _Spec(
        depths=(2, 2, 6, 2),
        width=40,
        conv_mlp=True,
        published=_small("3.70", "0.55", "3.81"),
        accuracy=top1("convnext_atto.d2_in1k", 224, 75.672),
    ),
    "convnext_femto": _Spec(
        depths=(2, 2, 6, 2),
        width=48,
        conv_mlp=True,
        published=_small("5.22", "0.78", "4.57"),
        accuracy=top1("convnext_femto.d1_in1k", 224, 77.498),
    ),
    "convnext_pico": _Spec(
        depths=(2, 2, 6, 2),
        width=64,
        conv_mlp=True,
        published=_small("9.05", "1.37", "6.10"),
        accuracy=top1("convnext_pico.d1_in1k", 224, 79.516),
    ),
    "convnext_nano": _Spec(
        depths=(2, 2, 8, 2),
        width=80,
        conv_mlp=True,
        published=_small("15.59", "2.45", "8.37"),
        accuracy=top1("convnext_nano.d1h_in1k", 224, 80.762),
    ),
    "convnext_tiny": _Spec(
        depths=(3, 3, 9, 3),
        width=96,
        published=checked_by_torchvision(224, 28_589_128, "4.456", "13.44"),
        accuracy=top1("convnext_tiny.fb_in1k", 224, 82.066),
    ),
    "convnext_small": _Spec(
        depths=(3, 3, 27, 3),
        width=96,
        published=checked_by_torchvision(224, 50_223_688, "8.684", "21.56"),
        accuracy=top1("convnext_small.fb_in1k", 224, 83.144),
    ),
    "convnext_base": _Spec(
        depths=(3, 3, 27, 3),
        width=128,
        published=checked_by_torchvision(224, 88_591_464, "15.355", "28.75"),
        accuracy=top1("convnext_base.fb_in1k", 224, 83.838),
    ),
    "convnext_large": _Spec(
        depths=(3, 3, 27, 3),
        width=192,
        published=checked_by_torchvision(224, 197_767_336, "34.361", "43.13"),
        accuracy=top1("convnext_large.fb_in1k", 224, 84.304),
    ),
}


def _build(spec: _Spec, builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    x = builder.conv(x, spec.width, kernel=4, stride=4, padding=0, bias=True, name="stem.0")
    x = builder.add(LayerNorm(channels=spec.width), x, name="stem.1")
    for stage, depth in enumerate(spec.depths):
        width = spec.width << stage
        if stage > 0:
            x = builder.add(LayerNorm(channels=x.shape.C), x, name=f"stages.{stage}.downsample.0")
            x = builder.conv(x, width, kernel=2, stride=2, padding=0, bias=True, name=f"stages.{stage}.downsample.1")
        block = ConvNeXtBlock(in_channels=width, out_channels=width, hidden_channels=_EXPANSION * width, conv_mlp=spec.conv_mlp)
        for number in range(depth):
            x = builder.block(block, x, name=f"stages.{stage}.blocks.{number}")
    x = builder.add(GlobalAveragePool(), x, name="head.global_pool")
    x = builder.add(LayerNorm(channels=x.shape.C), x, name="head.norm")
    return builder.linear(x, classes, name="head.fc")


ENTRIES: tuple[NetworkEntry, ...] = tuple(
    NetworkEntry(
        name=name,
        family="convnext",
        resolution=spec.published.resolution,
        build=partial(_build, spec),
        description=f"ConvNeXt, width {spec.width}, depths {spec.depths}",
        published=spec.published,
        accuracy=(spec.accuracy,),
    )
    for name, spec in _SPECS.items()
)
