"""VGG (Simonyan and Zisserman, 2014), without batch norm."""

from __future__ import annotations

from functools import partial

from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import AdaptiveAveragePool, GlobalAveragePool, MaxPool
from perfmodel.networks.entry import NetworkEntry
from perfmodel.networks.published import checked_by_torchvision, top1

_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_POOLED = 7
_HIDDEN = 4096


def _build(stages: tuple[tuple[int, int], ...], builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    """Stages of (channels, 3×3 convolutions), each ending in a 2×2 max pool; linear layers as convolutions, as timm runs them."""
    number = 0  # of the module in the frameworks' sequence
    for channels, convolutions in stages:
        for _ in range(convolutions):
            x = builder.conv(x, channels, kernel=3, bias=True, name=f"features.{number}")
            x = builder.activation(x, "relu", name=f"features.{number + 1}")
            number += 2
        x = builder.add(MaxPool(kernel=(2, 2), stride=(2, 2)), x, name=f"features.{number}")
        number += 1
    if (x.shape.H, x.shape.W) != (_POOLED, _POOLED):
        x = builder.add(AdaptiveAveragePool(output=(_POOLED, _POOLED)), x, name="avgpool")
    x = builder.conv(x, _HIDDEN, kernel=_POOLED, padding=0, bias=True, name="pre_logits.fc1")
    x = builder.activation(x, "relu", name="pre_logits.act1")
    x = builder.conv(x, _HIDDEN, bias=True, name="pre_logits.fc2")
    x = builder.activation(x, "relu", name="pre_logits.act2")
    x = builder.add(GlobalAveragePool(), x, name="head.global_pool")  # of one pixel at 224, of more in a larger image
    return builder.linear(x, classes, name="head.fc")


ENTRIES: tuple[NetworkEntry, ...] = (
    NetworkEntry(
        name="vgg16",
        family="vgg",
        resolution=224,
        build=partial(_build, _VGG16),
        description="VGG-16 without batch norm",
        published=checked_by_torchvision(224, 138_357_544, "15.470", "13.56"),
        accuracy=(top1("vgg16.tv_in1k", 224, 71.594),),
    ),
)
