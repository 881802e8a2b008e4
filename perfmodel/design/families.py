"""Networks of the catalogue made wider or deeper, by the rule of their own family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from perfmodel.errors import PerfmodelError
from perfmodel.layers.dims import Dim, Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.network import Network
from perfmodel.networks.catalog import find
from perfmodel.networks.entry import NetworkEntry
from perfmodel.networks.inverted_residual import make_divisible


class FamilyError(PerfmodelError):
    """A network whose family has no such scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One way to scale a family: what its number counts, which numbers there are, and what it does to a member."""

    what: str
    values: range
    own: Callable[[Any], int]
    """The number of a published member."""
    apply: Callable[[Any, int], Any]


def _third(depths: tuple[int, ...], depth: int) -> tuple[int, ...]:
    return (*depths[:2], depth, *depths[3:])


def _wider(rows: Any, percent: int) -> Any:
    return tuple((*row[:-1], make_divisible(row[-1] * percent / 100)) for row in rows)


def _deeper(rows: Any, percent: int) -> Any:
    return tuple((row[0], math.ceil(row[1] * percent / 100), *row[2:]) for row in rows)


def _first_stage(step: int) -> Scale:
    return Scale(
        what="channels of the first stage (the others double them)",
        values=range(step, 8192 + 1, step),
        own=lambda spec: int(spec.width),
        apply=lambda spec, width: replace(spec, width=width),
    )


_THIRD_STAGE: Final = Scale(
    what="blocks of the third stage",
    values=range(1, 2049),
    own=lambda spec: int(spec.depths[2]),
    apply=lambda spec, depth: replace(spec, depths=_third(spec.depths, depth)),
)
_PERCENT_WIDTH: Final = Scale(
    what="% of its channels (made divisible by 8)",
    values=range(5, 5001, 5),
    own=lambda _: 100,
    apply=lambda spec, percent: replace(
        spec,
        rows=_wider(spec.rows, percent),
        stem=make_divisible(spec.stem * percent / 100),
        head=make_divisible(spec.head * percent / 100),
    ),
)
_PERCENT_DEPTH: Final = Scale(
    what="% of its repeats (rounded up)",
    values=range(5, 10001, 5),
    own=lambda _: 100,
    apply=lambda spec, percent: replace(spec, rows=_deeper(spec.rows, percent)),
)

SCALES: Final[Mapping[tuple[str, str], Scale]] = MappingProxyType(
    {
        ("convnext", "width"): _first_stage(8),
        ("convfirstnet", "width"): _first_stage(16),
        **{(family, "depth"): _THIRD_STAGE for family in ("convnext", "convfirstnet", "resnet", "resnext")},
        **{(family, "width"): _PERCENT_WIDTH for family in ("efficientnet", "efficientnetv2")},
        **{(family, "depth"): _PERCENT_DEPTH for family in ("efficientnet", "efficientnetv2")},
    }
)
"""By (family, width or depth)."""


def scale_of(model: str, scale: str) -> tuple[NetworkEntry, Scale]:
    """The entry of a model and how its family scales. Raises UnknownNameError and FamilyError."""
    entry = find(model)
    found = SCALES.get((entry.family, scale))
    if found is None or not isinstance(entry.build, partial):
        families = sorted({family for family, name in SCALES if name == scale})
        raise FamilyError(f"{entry.name} has no rule to scale its {scale}; families that have one: {', '.join(families)}")
    return entry, found


def scaled_network(model: str, scales: Mapping[str, int], *, batch: Dim, resolution: int, classes: int) -> Network:
    """The model with its width or depth set. Raises FamilyError, UnknownNameError, ShapeError."""
    entry = find(model)
    spec: Any = None
    for name, value in scales.items():
        entry, scale = scale_of(model, name)
        build: Any = entry.build
        spec = scale.apply(build.args[0] if spec is None else spec, value)
    made: Any = entry.build if spec is None else partial(entry.build.func, spec)  # type: ignore[attr-defined]
    builder = GraphBuilder()
    made(builder, builder.input(Shape(batch, 3, resolution, resolution)), classes)
    said = ", ".join(f"{name} {value}" for name, value in scales.items())
    name = f"{entry.name} ({said})" if said else entry.name
    return Network(name=name, graph=builder.graph(), batch=batch, resolution=resolution)
