"""The description of a space: a TOML file, or the same as options, checked field by field."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from perfmodel.design.blocks import BlockSpace
from perfmodel.design.networks import NetworkSpace, StageChoices
from perfmodel.design.search import Search
from perfmodel.design.space import SpaceError
from perfmodel.errors import shown
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.hardware.what_if import what_if

MAX_FILE_BYTES: Final = 1 << 16
MOST_VALUES: Final = 100_000


def _numbers(given: object) -> object:
    """A whole number, a list of them, or a table {from, to, step}, as distinct numbers in the order given."""
    if isinstance(given, dict):
        extra = set(given) - {"from", "to", "step"}
        if extra or not {"from", "to"} <= set(given):
            raise ValueError("a range is written { from = 8, to = 512, step = 8 }")
        first, last, step = given["from"], given["to"], given.get("step", 1)
        if any(type(value) is not int for value in (first, last, step)) or step < 1:
            raise ValueError("from, to and step of a range are whole numbers, the step at least 1")
        if (last - first) // step >= MOST_VALUES:
            raise ValueError(f"a range has at most {MOST_VALUES} values")
        given = list(range(first, last + 1, step))
    values = given if isinstance(given, list | tuple) else [given]
    if not values:
        raise ValueError("an axis needs at least one value")
    if any(type(value) is not int or not 1 <= value <= 2**31 for value in values):
        raise ValueError("its values are whole numbers of at least 1")
    if len(values) > MOST_VALUES:
        raise ValueError(f"an axis has at most {MOST_VALUES} values")
    return tuple(dict.fromkeys(values))


def _names(given: object) -> object:
    values = given if isinstance(given, list | tuple) else [given]
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError("it is a name, or a list of names")
    return tuple(dict.fromkeys(values))


Numbers = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_names)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Common(_Record):
    hardware: Names
    what_if: Texts = ()
    """Figures set on every machine, as in `--set`."""
    dtype: str = "fp16"
    schedule: str = "layer"
    objectives: Texts
    constraints: Texts = ()

    def devices(self) -> tuple[DeviceSpec, ...]:
        """The machines."""
        found = [what_if(load(name), self.what_if) for name in self.hardware]
        return tuple({device.slug: device for device in found}.values())


class BlockFile(_Common):
    """A space of single blocks."""

    kind: Literal["blocks"] = "blocks"
    block: Names
    channels: Numbers
    expansion: Numbers = (4,)
    group_width: Numbers = (8,)
    kernel: Numbers | None = None
    size: Numbers = (56,)
    batch: Numbers = (1,)

    def search(self) -> Search:
        """What it describes."""
        space = BlockSpace(
            blocks=tuple(name.lower().replace("-", "_") for name in self.block),
            channels=self.channels,
            expansions=self.expansion,
            group_widths=self.group_width,
            kernels=self.kernel,
            sizes=self.size,
            batches=self.batch,
            devices=self.devices(),
            dtype=self.dtype,
            schedule=self.schedule.lower(),
        )
        return Search.of(space, self.objectives, self.constraints)


class StageFile(_Record):
    """One stage of a space of networks."""

    block: Names
    channels: Numbers
    depth: Numbers
    expansion: Numbers = (4,)
    group_width: Numbers = (8,)
    kernel: Numbers = (3,)
    stride: Annotated[int, Field(ge=1, le=4)] = 2
    squeeze_excitation: bool = False

    def choices(self) -> StageChoices:
        """What it describes."""
        return StageChoices(
            blocks=tuple(name.lower().replace("-", "_") for name in self.block),
            channels=self.channels,
            depths=self.depth,
            expansions=self.expansion,
            group_widths=self.group_width,
            kernels=self.kernel,
            stride=self.stride,
            squeeze_excitation=self.squeeze_excitation,
        )


class NetworkFile(_Common):
    """A space of whole networks."""

    kind: Literal["networks"]
    resolution: Numbers = (224,)
    batch: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    stem: Numbers | None = None
    head: Numbers | None = None
    classes: Annotated[int, Field(ge=1, le=1 << 24)] = 1000
    activation: str = "silu"
    stage: Annotated[tuple[StageFile, ...], Field(min_length=1, max_length=16)]

    def search(self) -> Search:
        """What it describes."""
        space = NetworkSpace(
            stages=tuple(stage.choices() for stage in self.stage),
            resolutions=self.resolution,
            batch=self.batch,
            stems=self.stem,
            heads=self.head,
            classes=self.classes,
            activation=self.activation,
            devices=self.devices(),
            dtype=self.dtype,
            schedule=self.schedule,
        )
        return Search.of(space, self.objectives, self.constraints)


def load_search(path: Path) -> Search:
    """The search that a TOML file describes. Raises SpaceError for what cannot be read, and what its space raises."""
    where = shown(str(path), 120)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpaceError(f"cannot read the space {where}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise SpaceError(f"{where} is larger than {MAX_FILE_BYTES >> 10} KiB, which no description of a space is")
    try:
        data = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SpaceError(f"{where} is not valid TOML: {' '.join(str(error).split())[:200]}") from None
    return search_of(data, where)


def search_of(data: dict[str, Any], where: str) -> Search:
    """The search that plain data describes; `where` names its origin in errors."""
    kind = data.get("kind", "blocks")
    if kind not in ("blocks", "networks"):
        raise SpaceError(f"{where}: kind is {shown(repr(kind))}, but 'blocks' or 'networks' is expected")
    try:
        described: BlockFile | NetworkFile = (BlockFile if kind == "blocks" else NetworkFile).model_validate(data)
    except ValidationError as error:
        raise SpaceError(f"{where}: {_sentence(error)}") from None
    return described.search()


def _sentence(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    parts: Sequence[str] = [f"[{part + 1}]" if isinstance(part, int) else shown(str(part)) for part in fault["loc"]]
    path = ".".join(parts).replace(".[", "[") or "the file"
    match fault["type"]:
        case "missing":
            return f"{path} is missing"
        case "extra_forbidden":
            return f"{path} is not a known field"
        case "value_error":
            return f"{path}: {fault['ctx']['error']}"
    return f"{path}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, not {shown(repr(fault['input']))}"


def numbers_of(text: str) -> object:
    """An option's values: `64`, `16,32,64`, or `8:512:8` (from, to, step). Raises SpaceError."""
    parts = text.split(":")
    try:
        if len(parts) in (2, 3):
            first, last, *step = map(int, parts)
            return {"from": first, "to": last, "step": step[0] if step else 1}
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpaceError(f"'{shown(text)}' is no list of numbers; write 64, or 16,32,64, or 8:512:8 (from:to:step)") from None
