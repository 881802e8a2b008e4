"""Where published figures come from: sources, training recipes by tag of the weights, and short constructors for the tables."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from perfmodel.networks.entry import Accuracy, Published

TORCHVISION: Final = "torchvision 0.20.1, metadata of its published weights (num_params, _ops)"
TIMM_COMMIT: Final = "huggingface/pytorch-image-models, commit aa4b5850"
TIMM_BENCHMARK: Final = f"{TIMM_COMMIT}, results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv"
TIMM_RESULTS: Final = f"{TIMM_COMMIT}, results/results-imagenet.csv"

RECIPES: Final = MappingProxyType(
    {
        "IMAGENET1K_V1": "torchvision's first weights, its plain reference recipe",
        "a1_in1k": "ResNet strikes back A1: 600 epochs, LAMB, binary cross-entropy",
        "aa_in1k": "Google's EfficientNet weights, AutoAugment",
        "apple_in1k": "MobileOne paper; weights before re-parameterisation, which computes the same function",
        "d1_in1k": "timm, after ResNet strikes back D: AdamW, binary cross-entropy",
        "d1h_in1k": "timm, as published under the tag d1h",
        "d2_in1k": "timm, after ResNet strikes back D: AdamW, binary cross-entropy",
        "fb_in1k": "ConvNeXt paper: 300 epochs, AdamW",
        "ft_in1k": "timm, as published under the tag ft",
        "in1k": "Google's EfficientNetV2 weights, ImageNet-1k only",
        "lamb_in1k": "timm, as published under the tag lamb",
        "pycls_in1k": "RegNet paper (pycls): 100 epochs, no training enhancements",
        "ra2_in1k": "timm RandAugment recipe: RMSProp, averaged weights",
        "ra_in1k": "timm RandAugment recipe: RMSProp, averaged weights",
        "tv2_in1k": "torchvision's second weights, its modern long recipe",
        "tv_in1k": "torchvision's first weights, its plain reference recipe",
    }
)
"""What the tag of published weights (their name behind the dot) says about their training. All saw ImageNet-1k only."""


def checked_by_torchvision(resolution: int, params: int, gmacs: str, activations_millions: str | None = None) -> Published:
    """Exact parameters and printed GMACs of torchvision; activations, where given, as timm's benchmark files print them."""
    return Published(
        source=TORCHVISION if activations_millions is None else f"{TORCHVISION}; activations: {TIMM_BENCHMARK}",
        resolution=resolution,
        params=params,
        gmacs=gmacs,
        activations_millions=activations_millions,
    )


def top1(weights: str, resolution: int, percent: float, source: str = TIMM_RESULTS) -> Accuracy:
    """ImageNet-1k top-1 of `weights` ("resnet50.a1_in1k"); their tag must have a recipe."""
    _, _, tag = weights.partition(".")
    return Accuracy(top1_percent=percent, resolution=resolution, weights=weights, recipe=RECIPES[tag], source=source)
