"""What the catalogue knows of a network: how to build it, and what others published about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perfmodel.layers.graph import GraphBuilder, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Check values that others published for the network."""

    source: str
    resolution: int
    params: int | None = None
    """Exact number of trained parameters."""
    params_millions: str | None = None
    """The same as printed, where no exact count is published ("3.70")."""
    gmacs: str | None = None
    """10⁹ multiply-accumulates of convolutions and linear layers for one image, as printed ("4.089"): all its digits count."""
    activations_millions: str | None = None
    """10⁶ output elements of convolutions and linear layers for one image, as printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """ImageNet-1k top-1 of one set of published weights. Training recipes differ widely: compare within one."""

    top1_percent: float
    resolution: int
    weights: str
    """Name of the published weights ("resnet50.a1_in1k")."""
    recipe: str
    """How they were trained, in a few words."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEntry:
    """A network by name, and how to build it from a 3-channel image to `classes` outputs."""

    name: str
    family: str
    """Key of the curve that it belongs to in an efficiency-gap plot ("resnet")."""
    resolution: int
    """Default image size: that of the published check value."""
    build: Callable[[GraphBuilder, Tensor, int], Tensor]
    """(builder, input tensor, classes) → output tensor."""
    description: str
    aliases: tuple[str, ...] = ()
    published: Published | None = None
    accuracy: tuple[Accuracy, ...] = ()
