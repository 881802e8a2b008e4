"""Operations of exported modules: what they mean, and what happens to what is not understood."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import perfmodel
from perfmodel.hardware.catalog import load
from perfmodel.layers.activation import Activation
from perfmodel.layers.attention import Attention
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.matmul import MatMul
from perfmodel.layers.rearrange import Rearrange
from perfmodel.precision import Precision
from perfmodel.schedule import NAMES, kernels
from tests_torch.modules import Inverted, Shuffle, costs, imported


@pytest.mark.parametrize("spelling", ["conv mean", "conv pool", "conv window", "linear mean", "linear pool", "conv mean expand"])
def test_squeeze_and_excitation_in_every_spelling_is_part_of_the_block(spelling: str) -> None:
    network = imported(Inverted(spelling))
    (block,) = network.graph.blocks.values()
    assert block.kind == "mbconv"
    fused = [kernel.kind for kernel in perfmodel.predict(network, "h200", schedule="block").kernels]
    assert fused == ["mbconv", "mbconv"]
    plain = imported(Inverted("conv mean"))
    for schedule in ("pointwise", "layer", "block"):
        kinds = (
            "linear" in spelling and schedule == "pointwise"
        )  # a convolution's bias is a kernel's business, a linear layer's is not
        ours, theirs = (
            sum(k.cost.macs for k in perfmodel.predict(n, "h200", schedule=schedule).kernels) for n in (network, plain)
        )
        assert ours == theirs
        if not kinds and "linear" not in spelling:
            assert costs(network, schedule) == costs(plain, schedule)


class Written(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.how:
            case "silu":
                return x * torch.sigmoid(x)
            case "silu in place":
                return x.sigmoid().mul_(x)
            case "hard_swish":
                return x * functional.relu6(x + 3) / 6
            case "hard_swish by clamping":
                return x * torch.clamp(x + 3, 0, 6).div(6.0)
            case "gelu":
                return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))
            case "gelu_tanh":
                return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3))))
            case "mish":
                return x * torch.tanh(functional.softplus(x))
            case "gelu of the library":
                return functional.gelu(x)
        raise AssertionError(self.how)


@pytest.mark.parametrize(
    "how",
    ["silu", "silu in place", "hard_swish", "hard_swish by clamping", "gelu", "gelu_tanh", "mish", "gelu of the library"],
)
def test_activations_written_out(how: str) -> None:
    layers = [node.layer for node in imported(Written(how)).graph.nodes.values()]
    assert layers[1:] == [Activation(function=how.split(maxsplit=1)[0])]


class OwnNorm(nn.Module):
    """Layer norm over channels as several public repositories write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def test_a_layer_norm_written_out() -> None:
    network = imported(OwnNorm(16))
    assert [node.layer for node in network.graph.nodes.values()][1:] == [LayerNorm(channels=16)]


def test_channel_shuffle_is_one_copy() -> None:
    layers = [node.layer for node in imported(Shuffle()).graph.nodes.values()][1:]
    assert [type(layer) for layer in layers] == [Rearrange]


class Head(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.proj, self.fused = nn.Linear(64, 192), nn.Linear(64, 64), fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        scores = functional.scaled_dot_product_attention if self.fused else self.written_out
        y = scores(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))

    def written_out(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1) * 0.25).softmax(-1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_costed(fused: bool) -> None:
    network = imported(Head(fused), 2, 49, 64)
    products = 2 * 49 * 64 * 256
    assert network.macs == products + 2 * (2 * 4 * 49 * 49 * 16)
    kinds = [type(node.layer) for node in network.graph.nodes.values()]
    assert (kinds.count(Attention), kinds.count(MatMul)) == ((1, 0) if fused else (0, 2))
    assert not network.unsupported


def test_attention_reads_each_part_of_the_projection_once() -> None:
    network = imported(Head(True), 2, 49, 64)
    (kernel,) = [k for k in perfmodel.predict(network, "h200").kernels if k.kind == "attention"]
    assert [access.elements for access in kernel.reads] == [2 * 49 * 192]


class Strange(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = torch.zeros(x.shape[0], 7, 7, 2, device=x.device)
        return functional.relu(functional.grid_sample(x, grid, align_corners=False))


def test_what_is_not_understood_is_listed() -> None:
    prediction = perfmodel.predict(imported(Strange()), "h200")
    assert len(prediction.unsupported) == 1
    assert "grid" in prediction.unsupported[0]
    assert prediction.coverage.unsupported_operations == 1


class Writing(nn.Module):
    """Two convolutions, of which the second one's result goes into a tensor that is there already, in several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        new = self.second(y)
        match self.how:
            case "halves of an empty tensor":
                both = torch.zeros(x.shape[0], 16, *x.shape[2:], device=x.device)
                both[:, :8] = y
                both[:, 8:] = new
                return both
            case "sum into a part":
                y[:, 2:6] += new[:, 2:6]
            case "every second channel":
                y[:, ::2] = new[:, ::2]
            case "one element":
                y[..., 0, 0] = new[..., 0, 0]
            case "a view that was there before":
                view = y.view(y.shape[0], -1)
                functional.relu(y, inplace=True).mul_(new)
                return view
            case "a sum into the result of another write":
                functional.relu(y, inplace=True).add_(new)
            case "a write under autocast":
                with torch.autocast("cpu", torch.bfloat16):
                    y[:, :4] = new[:, :4]
        return y


@pytest.mark.parametrize(
    ("how", "listed"),
    [
        ("halves of an empty tensor", 0),
        ("sum into a part", 0),
        ("every second channel", 1),
        ("one element", 1),
        ("a view that was there before", 0),
        ("a sum into the result of another write", 0),
        ("a write under autocast", 0),
    ],
)
def test_what_is_written_into_a_tensor_is_not_lost(how: str, listed: int) -> None:
    network = imported(Writing(how), 1, 3, 16, 16)
    assert network.macs == 256 * 9 * (3 * 8 + 8 * 8)
    assert (len(network.unsupported) > 0) == (listed > 0)
    for schedule in NAMES:
        assert (
            sum(kernel.cost.macs for kernel in kernels(network.graph, Precision(), schedule, device=load("h200"))) == network.macs
        )


class Region(nn.Module):
    """A convolution in a region that is exported as a graph of its own, between others."""

    def __init__(self, region: str) -> None:
        super().__init__()
        self.region = region
        self.first, self.inner, self.last = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        match self.region:
            case "autocast":
                with torch.autocast("cpu", torch.bfloat16):
                    y = self.inner(x)
            case "gradients":
                with torch.enable_grad():
                    y = self.inner(x)
            case "checkpoint":
                y = checkpoint(self.inner, x, use_reentrant=False)
            case _:
                y = torch.cond(x.sum() > 0, self.inner, lambda v: 2 * v, (x,))
        return self.last(functional.relu(x + y))


@pytest.mark.parametrize("region", ["autocast", "gradients", "checkpoint"])
def test_a_region_with_a_graph_of_its_own_is_part_of_the_network(region: str) -> None:
    network = imported(Region(region), 1, 8, 16, 16)
    assert network.macs == 3 * 256 * 9 * 64
    assert not network.unsupported


def test_a_choice_between_two_graphs_is_listed() -> None:
    network = imported(Region("cond"), 1, 8, 16, 16)
    assert network.macs == 2 * 256 * 9 * 64
    assert [node.layer.kind for node in network.unsupported] == ["unsupported"]


def test_an_embedding_reads_what_the_input_names() -> None:
    network = perfmodel.from_torch(nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 10)), torch.zeros(4, 16, dtype=torch.long))
    assert network.macs == 4 * 16 * 64 * 10
    lookup, _ = kernels(network.graph, Precision(), "layer", device=load("h200"))
    assert lookup.cost.dram_bytes == 2 * 2 * 4 * 16 * 64  # fp16, read and written: no more of the table than is looked up


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unused = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x))


def test_shared_weights_count_once_and_unused_ones_too() -> None:
    network = imported(Shared())
    assert network.params == 16 * 16 * 9 + 16 + 30
    assert network.macs == 2 * (2 * 14 * 14 * 16 * 16 * 9)
