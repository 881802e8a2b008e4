"""MobileNetV2 (Sandler et al., 2018) and MobileNetV3 (Howard et al., 2019) at width 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.networks.entry import Accuracy, NetworkEntry, Published
from perfmodel.networks.inverted_residual import Run, SqueezeExcitation, add_stages
from perfmodel.networks.published import checked_by_torchvision, top1

# MobileNetV3 squeezes to a quarter of the *hidden* channels, divisible by 8.
_SE = SqueezeExcitation(of="hidden", activation="relu", gate="hard_sigmoid")


def _run(
    block: Literal["mbconv", "depthwise_separable"],
    repeats: int,
    kernel: int,
    stride: int,
    expansion: float,
    channels: int,
    activation: str,
    squeeze_excitation: SqueezeExcitation | None = None,
) -> Run:
    return Run(
        block=block,
        repeats=repeats,
        kernel=kernel,
        stride=stride,
        expansion=expansion,
        channels=channels,
        activation=activation,
        squeeze_excitation=squeeze_excitation,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    version: Literal["v2", "v3"]
    description: str
    stem: int
    activation: str
    """Of the stem and the head."""
    stages: tuple[tuple[Run, ...], ...]
    last_conv: int
    """Channels of the 1×1 convolution behind the stages."""
    hidden: int | None
    """Channels of the 1×1 convolution (biased) behind the global pooling, if there is one."""
    alias: str
    published: Published
    accuracy: Accuracy


_SPECS = {
    "mobilenetv2_100": _Spec(
        version="v2",
        description="MobileNetV2, width 1",
        stem=32,
        activation="relu6",
        stages=(
            (_run("depthwise_separable", 1, 3, 1, 1, 16, "relu6"),),
            (_run("mbconv", 2, 3, 2, 6, 24, "relu6"),),
            (_run("mbconv", 3, 3, 2, 6, 32, "relu6"),),
            (_run("mbconv", 4, 3, 2, 6, 64, "relu6"),),
            (_run("mbconv", 3, 3, 1, 6, 96, "relu6"),),
            (_run("mbconv", 3, 3, 2, 6, 160, "relu6"),),
            (_run("mbconv", 1, 3, 1, 6, 320, "relu6"),),
        ),
        last_conv=1280,
        hidden=None,
        alias="mobilenet_v2",
        published=checked_by_torchvision(224, 3_504_872, "0.301", "6.68"),
        accuracy=top1("mobilenetv2_100.ra_in1k", 224, 72.910),
    ),
    "mobilenetv3_small_100": _Spec(
        version="v3",
        description="MobileNetV3 small, width 1",
        stem=16,
        activation="hard_swish",
        stages=(
            (_run("depthwise_separable", 1, 3, 2, 1, 16, "relu", _SE),),
            (_run("mbconv", 1, 3, 2, 4.5, 24, "relu"), _run("mbconv", 1, 3, 1, 3.67, 24, "relu")),
            (_run("mbconv", 1, 5, 2, 4, 40, "hard_swish", _SE), _run("mbconv", 2, 5, 1, 6, 40, "hard_swish", _SE)),
            (_run("mbconv", 2, 5, 1, 3, 48, "hard_swish", _SE),),
            (_run("mbconv", 3, 5, 2, 6, 96, "hard_swish", _SE),),
        ),
        last_conv=576,
        hidden=1024,
        alias="mobilenet_v3_small",
        published=checked_by_torchvision(224, 2_542_856, "0.057", "1.42"),
        accuracy=top1("mobilenetv3_small_100.lamb_in1k", 224, 67.636),
    ),
    "mobilenetv3_large_100": _Spec(
        version="v3",
        description="MobileNetV3 large, width 1",
        stem=16,
        activation="hard_swish",
        stages=(
            (_run("depthwise_separable", 1, 3, 1, 1, 16, "relu"),),
            (_run("mbconv", 1, 3, 2, 4, 24, "relu"), _run("mbconv", 1, 3, 1, 3, 24, "relu")),
            (_run("mbconv", 3, 5, 2, 3, 40, "relu", _SE),),
            (
                _run("mbconv", 1, 3, 2, 6, 80, "hard_swish"),
                _run("mbconv", 1, 3, 1, 2.5, 80, "hard_swish"),
                _run("mbconv", 2, 3, 1, 2.3, 80, "hard_swish"),
            ),
            (_run("mbconv", 2, 3, 1, 6, 112, "hard_swish", _SE),),
            (_run("mbconv", 3, 5, 2, 6, 160, "hard_swish", _SE),),
        ),
        last_conv=960,
        hidden=1280,
        alias="mobilenet_v3_large",
        published=checked_by_torchvision(224, 5_483_032, "0.217", "4.41"),
        accuracy=top1("mobilenetv3_large_100.ra_in1k", 224, 75.784),
    ),
}


def _build(spec: _Spec, builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    x = builder.conv_norm(x, spec.stem, kernel=3, stride=2, activation=spec.activation, name="conv_stem", norm_name="bn1")
    x = add_stages(builder, x, spec.stages)
    if spec.hidden is None:
        x = builder.conv_norm(x, spec.last_conv, activation=spec.activation, name="conv_head", norm_name="bn2")
        x = builder.add(GlobalAveragePool(), x, name="global_pool")
    else:
        last = f"blocks.{len(spec.stages)}.0"
        x = builder.conv_norm(x, spec.last_conv, activation=spec.activation, name=f"{last}.conv", norm_name=f"{last}.bn1")
        x = builder.add(GlobalAveragePool(), x, name="global_pool")
        x = builder.conv(x, spec.hidden, bias=True, name="conv_head")
        x = builder.activation(x, spec.activation, name="act2")
    return builder.linear(x, classes, name="classifier")


ENTRIES: tuple[NetworkEntry, ...] = tuple(
    NetworkEntry(
        name=name,
        family=f"mobilenet{spec.version}",
        resolution=spec.published.resolution,
        build=partial(_build, spec),
        description=spec.description,
        aliases=(spec.alias,),
        published=spec.published,
        accuracy=(spec.accuracy,),
    )
    for name, spec in _SPECS.items()
)
