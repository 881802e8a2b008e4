"""AlexNet in the one-column form of torchvision (Krizhevsky, 2014)."""

from __future__ import annotations

from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import AdaptiveAveragePool, MaxPool
from perfmodel.networks.entry import NetworkEntry
from perfmodel.networks.published import TORCHVISION, checked_by_torchvision, top1

# (kernel, stride, padding, output channels, followed by a max pool)
_FEATURES = (
    (11, 4, 2, 64, True),
    (5, 1, 2, 192, True),
    (3, 1, 1, 384, False),
    (3, 1, 1, 256, False),
    (3, 1, 1, 256, True),
)
_POOLED = 6
_HIDDEN = 4096


def _build(builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    number = 0  # of the module in torchvision's sequence
    for kernel, stride, padding, channels, pooled in _FEATURES:
        x = builder.conv(x, channels, kernel=kernel, stride=stride, padding=padding, bias=True, name=f"features.{number}")
        x = builder.activation(x, "relu", name=f"features.{number + 1}")
        number += 2
        if pooled:
            x = builder.add(MaxPool(kernel=(3, 3), stride=(2, 2)), x, name=f"features.{number}")
            number += 1
    x = builder.add(AdaptiveAveragePool(output=(_POOLED, _POOLED)), x, name="avgpool")
    x = builder.linear(builder.flatten(x), _HIDDEN, name="classifier.1")  # reads all pixels of all channels
    x = builder.activation(x, "relu", name="classifier.2")
    x = builder.linear(x, _HIDDEN, name="classifier.4")
    x = builder.activation(x, "relu", name="classifier.5")
    return builder.linear(x, classes, name="classifier.6")


ENTRIES: tuple[NetworkEntry, ...] = (
    NetworkEntry(
        name="alexnet",
        family="alexnet",
        resolution=224,
        build=_build,
        description="AlexNet, one column (torchvision)",
        published=checked_by_torchvision(224, 61_100_840, "0.714"),
        accuracy=(top1("alexnet.IMAGENET1K_V1", 224, 56.522, TORCHVISION),),
    ),
)
