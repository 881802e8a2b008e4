"""ResNet (He et al., 2015), striding in the 3×3 convolution ("v1.5"), and ResNeXt (Xie et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.residual import BasicBlock, Bottleneck, ResNeXtBlock
from perfmodel.layers.graph import GraphBuilder, Tensor
from perfmodel.layers.pooling import GlobalAveragePool, MaxPool
from perfmodel.networks.entry import Accuracy, NetworkEntry, Published
from perfmodel.networks.published import checked_by_torchvision, top1

_STEM = 64
_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    published: Published
    accuracy: tuple[Accuracy, ...]
    expansion: int = 4
    """Output channels of a bottleneck, in stage widths."""
    groups: int = 1
    hidden_factor: int = 1
    """Channels of a bottleneck's 3×3 convolution, in stage widths."""

    def stage_block(self, in_channels: int, width: int, stride: int) -> Block:
        if issubclass(self.block, Bottleneck):
            hidden = width * self.hidden_factor
            return self.block(
                in_channels=in_channels,
                out_channels=width * self.expansion,
                hidden_channels=hidden,
                group_width=None if self.groups == 1 else hidden // self.groups,
                stride=stride,
            )
        return self.block(in_channels=in_channels, out_channels=width, stride=stride)


_SPECS = {
    "resnet18": _Spec(
        block=BasicBlock,
        depths=(2, 2, 2, 2),
        published=checked_by_torchvision(224, 11_689_512, "1.814", "2.48"),
        accuracy=(top1("resnet18.tv_in1k", 224, 69.752), top1("resnet18.a1_in1k", 224, 71.504)),
    ),
    "resnet34": _Spec(
        block=BasicBlock,
        depths=(3, 4, 6, 3),
        published=checked_by_torchvision(224, 21_797_672, "3.664", "3.74"),
        accuracy=(top1("resnet34.tv_in1k", 224, 73.298), top1("resnet34.a1_in1k", 224, 76.420)),
    ),
    "resnet50": _Spec(
        block=Bottleneck,
        depths=(3, 4, 6, 3),
        published=checked_by_torchvision(224, 25_557_032, "4.089", "11.11"),
        accuracy=(
            top1("resnet50.tv_in1k", 224, 76.156),
            top1("resnet50.a1_in1k", 224, 80.382),
            top1("resnet50.tv2_in1k", 224, 80.846),
        ),
    ),
    "resnet101": _Spec(
        block=Bottleneck,
        depths=(3, 4, 23, 3),
        published=checked_by_torchvision(224, 44_549_160, "7.801", "16.23"),
        accuracy=(
            top1("resnet101.tv_in1k", 224, 77.404),
            top1("resnet101.a1_in1k", 224, 81.494),
            top1("resnet101.tv2_in1k", 224, 81.906),
        ),
    ),
    "resnet152": _Spec(
        block=Bottleneck,
        depths=(3, 8, 36, 3),
        published=checked_by_torchvision(224, 60_192_808, "11.514", "22.56"),
        accuracy=(
            top1("resnet152.tv_in1k", 224, 78.330),
            top1("resnet152.a1_in1k", 224, 81.998),
            top1("resnet152.tv2_in1k", 224, 82.294),
        ),
    ),
    "resnext50_32x4d": _Spec(
        block=ResNeXtBlock,
        depths=(3, 4, 6, 3),
        groups=32,
        hidden_factor=2,
        published=checked_by_torchvision(224, 25_028_904, "4.23", "14.40"),
        accuracy=(
            top1("resnext50_32x4d.tv_in1k", 224, 77.632),
            top1("resnext50_32x4d.a1_in1k", 224, 80.526),
            top1("resnext50_32x4d.tv2_in1k", 224, 81.190),
        ),
    ),
}


def _build(spec: _Spec, builder: GraphBuilder, x: Tensor, classes: int) -> Tensor:
    x = builder.conv_norm(x, _STEM, kernel=7, stride=2, activation="relu", name="conv1", norm_name="bn1")
    x = builder.add(MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1)), x, name="maxpool")
    for stage, (width, depth) in enumerate(zip(_WIDTHS, spec.depths, strict=True), start=1):
        for number in range(depth):
            stride = 2 if stage > 1 and number == 0 else 1
            x = builder.block(spec.stage_block(x.shape.C, width, stride), x, name=f"layer{stage}.{number}")
    x = builder.add(GlobalAveragePool(), x, name="global_pool")
    return builder.linear(x, classes, name="fc")


ENTRIES: tuple[NetworkEntry, ...] = tuple(
    NetworkEntry(
        name=name,
        family="resnext" if spec.block is ResNeXtBlock else "resnet",
        resolution=spec.published.resolution,
        build=partial(_build, spec),
        description=f"{'ResNeXt' if spec.block is ResNeXtBlock else 'ResNet'}, {spec.block.kind} blocks {spec.depths}",
        published=spec.published,
        accuracy=spec.accuracy,
    )
    for name, spec in _SPECS.items()
)
