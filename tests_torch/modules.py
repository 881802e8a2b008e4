"""PyTorch modules for tests: any built-in network as a module, and modules that spell one thing in several ways."""

import torch
from torch import nn
from torch.nn import functional

import perfmodel
from perfmodel.hardware.catalog import load
from perfmodel.layers import activation, arithmetic, batch_norm, conv2d, layer_norm, linear, pooling
from perfmodel.layers.copy import Input
from perfmodel.layers.graph import Graph, Node
from perfmodel.network import Network
from perfmodel.precision import Precision
from perfmodel.schedule import NAMES, kernels

H200 = load("h200")

FUNCTIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "hard_swish": nn.Hardswish,
    "hard_sigmoid": nn.Hardsigmoid,
}


def costs(network: Network, schedule: str, **precision: str) -> list[tuple[object, ...]]:
    """What must be equal: kernel by kernel, the kind, the tensors' types and sizes, and the whole cost."""
    made = kernels(network.graph, Precision(**precision), schedule, device=H200)
    return [
        (k.kind, k.cost, [(a.elements, a.dtype, a.role) for a in k.reads], [(a.elements, a.dtype, a.role) for a in k.writes])
        for k in made
    ]


def assert_identical(imported: Network, built_in: Network) -> None:
    assert imported.params == built_in.params
    assert imported.macs == built_in.macs
    assert not imported.unsupported
    assert sorted(block.kind for block in imported.graph.blocks.values()) == sorted(
        block.kind for block in built_in.graph.blocks.values()
    )
    for schedule in NAMES:
        assert costs(imported, schedule) == costs(built_in, schedule), schedule
    mixed = {"dtype": "fp32", "autocast": "bf16"}
    assert costs(imported, "eager", **mixed) == costs(built_in, "eager", **mixed)


class FromGraph(nn.Module):
    """A network of ours as a module, layer by layer and without its blocks."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.nodes = list(graph.nodes.values())
        self.parts = nn.ModuleDict({self.key(node): part for node in self.nodes if (part := _module(node)) is not None})
        self.last = graph.outputs[0]

    @staticmethod
    def key(node: Node) -> str:
        return node.name.replace(".", "_")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made: dict[str, torch.Tensor] = {}
        for node in self.nodes:
            inputs = [made[name] for name in node.inputs]
            match node.layer:
                case Input():
                    made[node.name] = image
                case arithmetic.Add():
                    made[node.name] = inputs[0] + inputs[1]
                case arithmetic.Multiply():
                    made[node.name] = inputs[0] * inputs[1]
                case pooling.GlobalAveragePool():
                    made[node.name] = inputs[0].mean((2, 3), keepdim=True)
                case linear.Linear():
                    made[node.name] = self.parts[self.key(node)](inputs[0].flatten(1))
                case _:
                    made[node.name] = self.parts[self.key(node)](inputs[0])
        return made[self.last]


def _module(node: Node) -> nn.Module | None:
    layer = node.layer
    match layer:
        case conv2d.Conv2d():
            return nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel,
                layer.stride,
                (layer.padding or (0,) * 4)[::2],
                groups=layer.groups,
                bias=layer.bias,
            )
        case linear.Linear():
            return nn.Linear(layer.in_channels, layer.out_channels, layer.bias)
        case batch_norm.BatchNorm():
            return nn.BatchNorm2d(layer.channels)
        case layer_norm.LayerNorm():
            return nn.LayerNorm(layer.channels)
        case activation.Activation():
            return FUNCTIONS[layer.function]()
        case _:
            return None


class Squeeze(nn.Module):
    """Squeeze-and-excitation in its spellings."""

    def __init__(self, channels: int, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        product = nn.Linear if "linear" in spelling else lambda a, b: nn.Conv2d(a, b, 1)
        self.reduce, self.expand = product(channels, channels // 4), product(channels // 4, channels)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "pool" in self.spelling:
            s = self.pool(x)
        elif "window" in self.spelling:
            s = functional.avg_pool2d(x, x.shape[2:])
        else:
            s = x.mean((2, 3), keepdim=True)
        if "linear" in self.spelling:
            s = s.flatten(1)
        s = torch.sigmoid(self.expand(functional.relu(self.reduce(s))))
        if "linear" in self.spelling:
            s = s.view(x.shape[0], -1, 1, 1)
        return x * (s.expand_as(x) if "expand" in self.spelling else s)


class Inverted(nn.Module):
    """An MBConv with its activation written out or not."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64)
        self.spatial, self.bn2 = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.BatchNorm2d(64)
        self.se = Squeeze(64, spelling)
        self.project, self.bn3 = nn.Conv2d(64, 16, 1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.expand(x)))
        y = functional.relu(self.bn2(self.spatial(y)))
        return x + self.bn3(self.project(self.se(y)))


def imported(module: nn.Module, *shape: int) -> Network:
    return perfmodel.from_torch(module, torch.empty(*(shape or (2, 16, 14, 14)), device="meta"))


class Shuffle(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        return x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)
