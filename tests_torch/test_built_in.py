"""Each built-in network, imported from timm or torchvision, costs what the built-in one costs, kernel by kernel."""

import pytest
import timm
import torch
import torchvision

import perfmodel
from perfmodel.importers.model import network
from perfmodel.networks import catalog
from tests_torch.modules import FromGraph, assert_identical

NAMES = list(catalog.entries())
OURS = [name for name in NAMES if name.startswith("convfirstnet")]
FUSED = [name for name in NAMES if name.startswith("mobileone")]
FROM_TIMM = [name for name in NAMES if name not in (*OURS, *FUSED, "alexnet")]


def image(resolution: int, batch: int = 1) -> torch.Tensor:
    return torch.empty(batch, 3, resolution, resolution, device="meta")


@pytest.mark.parametrize("name", FROM_TIMM)
def test_timm(name: str) -> None:
    built_in = catalog.build(name)
    assert_identical(network(f"timm:{name}", resolution=built_in.resolution), built_in)


@pytest.mark.parametrize("name", FUSED)
def test_timm_with_its_branches_fused(name: str) -> None:
    built_in = catalog.build(name)
    module = timm.create_model(name).eval()  # with numbers in it: fusing computes
    for part in list(module.modules()):
        if hasattr(part, "reparameterize"):
            part.reparameterize()
    module.to("meta")
    assert_identical(perfmodel.from_torch(module, image(built_in.resolution)), built_in)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        *(
            ("alexnet", "alexnet"),
            ("resnet50", "resnet50"),
            ("mobilenetv2_100", "mobilenet_v2"),
            ("regnety_032", "regnet_y_3_2gf"),
        ),
        *(
            ("mobilenetv3_large_100", "mobilenet_v3_large"),
            ("efficientnet_b0", "efficientnet_b0"),
            ("convnext_tiny", "convnext_tiny"),
        ),
    ],
)
def test_torchvision(name: str, theirs: str) -> None:
    module = torchvision.models.get_model(theirs, weights=None).eval().to("meta")
    built_in = catalog.build(name)
    imported = perfmodel.from_torch(module, image(built_in.resolution))
    if name == "mobilenetv3_large_100":  # torchvision's last hidden layer is linear, timm's a convolution of one pixel
        assert (imported.params, imported.macs) == (built_in.params, built_in.macs)
        assert len(imported.graph.blocks) == len(built_in.graph.blocks)
        return
    assert_identical(imported, built_in)


@pytest.mark.parametrize("name", OURS)
def test_our_own_written_as_a_module(name: str) -> None:
    built_in = catalog.build(name)
    with torch.device("meta"):
        module = FromGraph(built_in.graph).eval()
    assert_identical(perfmodel.from_torch(module, image(built_in.resolution)), built_in)


def test_every_built_in_network_is_compared() -> None:
    assert {*FROM_TIMM, *FUSED, *OURS, "alexnet"} == set(NAMES)
    assert len(NAMES) > 40
