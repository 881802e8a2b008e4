"""Modules of a user's own: what they mean, how they are named on the command line, and what happens to what is not understood."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import perfmodel
from perfmodel.cli import run
from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.layers.activation import Activation
from perfmodel.layers.attention import Attention
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.matmul import MatMul
from perfmodel.layers.rearrange import Rearrange
from perfmodel.network import Network
from perfmodel.precision import Precision
from perfmodel.schedule import NAMES, kernels
from tests_torch.modules import costs


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


class Shuffle(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        return x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)


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


@pytest.mark.parametrize("schedule", NAMES)
def test_batch_and_resolution_can_be_changed(schedule: str) -> None:
    module = nn.Sequential(Inverted("conv mean"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    network = imported(module)
    changed = perfmodel.predict(network, "h200", batch=8, resolution=28, schedule=schedule)
    again = imported(module, 8, 16, 28, 28)
    assert costs(changed.network, schedule) == costs(again, schedule)


def test_another_size_needs_no_other_export_where_the_module_names_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    free = nn.Sequential(Inverted("conv mean"), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    named = Shuffle()
    expected = [imported(module, 8, 16, 28, 28) for module in (free, named)]
    networks = [imported(module) for module in (free, named)]
    exports: list[str] = []
    export = torch.export.export

    def counted(module: nn.Module, *arguments: object, **options: object) -> object:
        exports.append(type(module).__name__)
        return export(module, *arguments, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    for network, wanted in zip(networks, expected, strict=True):
        assert costs(network.at(8, 28), "eager") == costs(wanted, "eager")
        assert costs(network.at(2, 14), "eager") == costs(network, "eager")  # and back
    assert set(exports) == {"Shuffle"}


class Rigid(nn.Module):
    """Works for one image size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16 * 14 * 14, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def test_a_size_that_the_module_does_not_take_is_a_sentence() -> None:
    network = imported(Rigid())
    assert network.at(5, 14).macs == 5 * 16 * 14 * 14 * 10
    with pytest.raises(PerfmodelError, match="cannot export Rigid"):
        network.at(2, 28)


def test_a_module_on_the_cpu_in_training_mode_is_left_as_it_was() -> None:
    module = Inverted("conv mean").train()
    network = perfmodel.from_torch(module, torch.zeros(2, 16, 14, 14))
    assert module.training
    assert costs(network, "layer") == costs(imported(Inverted("conv mean")), "layer")


# -- the command line --------------------------------------------------------------------------------------------------

USER_CODE = """
import torch
def make_net():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
def broken():
    raise RuntimeError("no such thing")
def number():
    return 7
def leaves():
    raise SystemExit("bye")
def chatty():
    print("hello")
    return make_net()
class Depends(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_package_of_models.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_of_the_users(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "my_package_of_models:make_net", "--hardware", "h200", "--resolution", "32"]) == 0
    out = capsys.readouterr().out
    assert "all 2 operations understood" in out
    assert run(["compare", "my_package_of_models:make_net", "timm:resnet18", "resnet18", "--hardware", "h200"]) == 0


def test_what_a_users_function_prints_does_not_spoil_the_answer(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "my_package_of_models:chatty", "--hardware", "h200", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["coverage"]["macs_fraction"] == 1.0
    assert "hello" in captured.err


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("my_package_of_models:broken", "no such thing"),
        ("my_package_of_models:number", "torch.nn.Module"),
        ("my_package_of_models:leaves", "bye"),
        ("my_package_of_models:Depends", "depends on the contents of a tensor"),
        (":make_net", "before the colon"),
        ("my_package_of_models:make_nte", "make_net"),
        ("no_such_package:f", "no module no_such_package"),
        ("timm:resnet5", "resnet50"),
        ("timm:", "unknown timm network"),
    ],
)
def test_wrong_references_are_one_sentence(package: Path, reference: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", reference, "--hardware", "h200"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_timm_downloads_nothing() -> None:
    """In a process whose sockets cannot connect."""
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "from perfmodel.cli import run\n"
        "sys.exit(run(['predict', 'timm:resnet18.a1_in1k', '--hardware', 'h200']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("library", "model", "extra"), [("torch", "timm:resnet18", "torch"), ("timm", "timm:resnet18", "torch")])
def test_a_missing_library_is_a_sentence_with_the_command(
    library: str, model: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert run(["predict", model, "--hardware", "h200", "--batch", "3"]) == 2
    assert f"pip install 'perfmodel[{extra}]'" in capsys.readouterr().err
