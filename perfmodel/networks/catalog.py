"""Looking networks up by name and building them at a batch size and image size."""

from __future__ import annotations

import operator
import re
from functools import cache

from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.networks.entry import NetworkEntry

MAX_BATCH = 1 << 20
MAX_RESOLUTION = 1 << 14
MAX_CLASSES = 1 << 24


@cache
def entries() -> dict[str, NetworkEntry]:
    """Every network of the catalogue by name, in the order of their families."""
    from perfmodel.networks import alexnet, convfirstnet, convnext, efficientnet, mobilenet, mobileone, regnety, resnet, vgg

    families = (alexnet, vgg, resnet, mobilenet, efficientnet, convnext, regnety, mobileone, convfirstnet)
    return {entry.name: entry for family in families for entry in family.ENTRIES}


def _key(name: str) -> str:
    between_digits = re.sub(r"(?<=\d)[-_\s]+(?=\d)", ".", name.lower())  # regnet_y_1_6gf is not regnet_y_16gf
    return re.sub(r"[-_\s]+", "", between_digits)


@cache
def _lookup() -> dict[str, NetworkEntry]:
    return {_key(name): entry for entry in entries().values() for name in (entry.name, *entry.aliases)}


def find(name: str) -> NetworkEntry:
    """The entry of that name or alias.

    Case does not matter, nor do spaces, `-` and `_`; between two digits any of them will do, but not none.
    Raises UnknownNameError, with the nearest names.
    """
    try:
        return _lookup()[_key(name)]
    except KeyError:
        known = [known for entry in entries().values() for known in (entry.name, *entry.aliases)]
        raise UnknownNameError("model", name, known, "List them with `perfmodel networks`.") from None


def _whole(what: str, value: int, most: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or not 1 <= number <= most:
        raise PerfmodelError(f"{what} must be a whole number from 1 to {most}, not {value!r}")
    return number


def whole_batch(batch: int) -> int:
    """A batch size, or PerfmodelError."""
    return _whole("batch", batch, MAX_BATCH)


def whole_resolution(resolution: int) -> int:
    """A height and width, or PerfmodelError."""
    return _whole("resolution", resolution, MAX_RESOLUTION)


def whole_classes(classes: int) -> int:
    """A number of classes, or PerfmodelError."""
    return _whole("classes", classes, MAX_CLASSES)


def build(name: str, *, batch: int = 1, resolution: int | None = None, classes: int = 1000) -> Network:
    """The network `name` for `batch` square images of `resolution` pixels (default: that of its published check value).

    Raises UnknownNameError, PerfmodelError for sizes out of range, and ShapeError, naming the layer, for an image too small.
    """
    entry = find(name)
    size = entry.resolution if resolution is None else whole_resolution(resolution)
    images = whole_batch(batch)
    builder = GraphBuilder()
    x = builder.input(Shape(images, 3, size, size))
    entry.build(builder, x, whole_classes(classes))
    return Network(name=entry.name, graph=builder.graph(), batch=images, resolution=size)
