"""ONNX files: an untrusted graph, read without running anything of it and without looking at its weights."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perfmodel.errors import PerfmodelError, shown
from perfmodel.importers.onnx_nodes import Reader, read_by
from perfmodel.importers.program import MOST_OPERATIONS, ImportedModelError, MissingExtraError, Program

EXTRA: Final = "onnx"
OLDEST_OPSET: Final = 11
MOST_BYTES: Final = 2 << 30
"""What a protobuf can hold; larger models keep their weights in files beside them."""
DEFAULT_RESOLUTION: Final = 224
_CHANNELS: Final = (1, 3, 4)


def onnx_module() -> Any:
    """The library; raises MissingExtraError."""
    try:
        onnx = importlib.import_module("onnx")
        for part in ("defs", "helper", "shape_inference", "numpy_helper", "inliner"):
            importlib.import_module(f"onnx.{part}")
        return onnx
    except ImportError:
        raise MissingExtraError("reading an ONNX file", "onnx", EXTRA) from None


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A checked file: its nodes are in an order in which they can run, and its external data stays in its folder."""

    path: Path
    proto: Any
    opsets: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> OnnxModel:
        """Read and check a file; raises ImportedModelError with what is wrong with it."""
        onnx = onnx_module()
        proto = _parsed(onnx, path)
        opsets = _opsets(onnx, path, proto)
        if len(proto.functions):
            proto = _inlined(onnx, path, proto)
        graph = proto.graph
        if len(graph.node) > MOST_OPERATIONS:
            raise ImportedModelError(f"{_shown(path)} has {len(graph.node)} nodes, more than {MOST_OPERATIONS}")
        for tensor in graph.initializer:
            _check_external(onnx, path, tensor)
        for sparse in graph.sparse_initializer:
            _check_external(onnx, path, sparse.values)
        _sort(path, graph)
        return cls(path, proto, opsets)

    def program(self, batch: int | None, resolution: int | None) -> tuple[Program, int, int]:
        """The program, and the batch and resolution of its first input.

        Sizes that are given replace those of the first input; one that the file leaves open and nobody gives is 1 for the batch, and 224
        for the image. Raises ImportedModelError where the shape of a tensor cannot be known.
        """
        onnx = onnx_module()
        try:
            shapes, images, size = self._inputs(batch, resolution)
            program = Reader(onnx, self.proto, self.opsets, shapes, self._name).read()
        except PerfmodelError as error:
            raise ImportedModelError(f"{_shown(self.path)}: {error}{self._resized(batch, resolution)}") from None
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            OverflowError,
            RecursionError,
            ArithmeticError,
        ) as error:
            text = shown(" ".join(str(error).split()), 120)
            raise ImportedModelError(f"{_shown(self.path)} is malformed: {type(error).__name__}: {text}") from None
        return program, images, size

    @property
    def _name(self) -> str:
        return shown(self.path.stem)

    def _resized(self, batch: int | None, resolution: int | None) -> str:
        """What to add to an error that another size than the file's may have caused."""
        fixed = [dim.dim_value for dim in self._image_input().type.tensor_type.shape.dim]
        changed = (batch is not None and fixed[:1] not in ([0], [batch])) or (
            resolution is not None and len(fixed) == 4 and resolution not in fixed[1:] and 0 not in fixed[2:]
        )
        text = "×".join(str(size) for size in fixed)
        return f" (the file is made for an input of {text}; export it with open sizes to change them)" if changed else ""

    def _image_input(self) -> Any:
        stored = {tensor.name for tensor in self.proto.graph.initializer}
        inputs = [value for value in self.proto.graph.input if value.name not in stored]
        if not inputs:
            raise ImportedModelError("it has no input")
        return inputs[0]

    def _inputs(self, batch: int | None, resolution: int | None) -> tuple[dict[str, tuple[int, ...]], int, int]:
        stored = {tensor.name for tensor in self.proto.graph.initializer}
        first = self._image_input().name
        images, size = 1, 1
        symbols: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for value in self.proto.graph.input:
            if value.name in stored:
                continue
            if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
                raise ImportedModelError(f"input '{shown(value.name)}' has no shape; export the model with one")
            dims = list(value.type.tensor_type.shape.dim)
            sizes = [int(dim.dim_value) if dim.HasField("dim_value") else 0 for dim in dims]
            if value.name == first:
                rows = _image_axes(sizes)
                if sizes:
                    sizes[0] = batch or max(sizes[0], 0) or 1
                for axis in rows:
                    sizes[axis] = resolution or max(sizes[axis], 0) or DEFAULT_RESOLUTION
                images, size = (sizes[0] if sizes else 1), (sizes[rows[0]] if rows else 1)
            for axis, dim in enumerate(dims):
                if sizes[axis] > 0 and dim.dim_param:
                    symbols.setdefault(dim.dim_param, sizes[axis])
                sizes[axis] = sizes[axis] or symbols.get(dim.dim_param, 0)
                if sizes[axis] <= 0:
                    open_size = shown(dim.dim_param) or "without a name"
                    raise ImportedModelError(
                        f"axis {axis} of input '{shown(value.name)}' has an open size ({open_size}); export the model with a fixed one"
                    )
            shapes[value.name] = tuple(sizes)
        return shapes, images, size


def _image_axes(sizes: list[int]) -> tuple[int, ...]:
    """The axes that are rows and columns of an input of four axes: the last two, or the middle two where the channels come last."""
    if len(sizes) != 4:
        return ()
    return (1, 2) if sizes[3] in _CHANNELS and sizes[1] not in _CHANNELS else (2, 3)


def _shown(path: Path) -> str:
    return shown(str(path), 120)


def _parsed(onnx: Any, path: Path) -> Any:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ImportedModelError(f"{_shown(path)} is not a file")
        if size > MOST_BYTES:
            raise ImportedModelError(
                f"{_shown(path)} is larger than {MOST_BYTES >> 30} GiB; save its weights as external data, in files beside it"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ImportedModelError(f"cannot read {_shown(path)}: {error.strerror}") from None
    try:
        proto = onnx.ModelProto.FromString(data)
    except Exception:  # protobuf raises its own DecodeError, from a module that moves between versions
        raise ImportedModelError(f"{_shown(path)} is not an ONNX file, or a truncated one") from None
    if not proto.HasField("graph") or not proto.graph.node:
        raise ImportedModelError(f"{_shown(path)} holds no ONNX graph, or a truncated one")
    return proto


def _opsets(onnx: Any, path: Path, proto: Any) -> dict[str, int]:
    opsets = {("" if entry.domain == "ai.onnx" else entry.domain): int(entry.version) for entry in proto.opset_import}
    version, newest = opsets.get("", 0), onnx.defs.onnx_opset_version()
    if version > newest:
        raise ImportedModelError(
            f"{_shown(path)} uses opset {version}, but the installed onnx knows those up to {newest}; install a newer onnx"
        )
    if version < OLDEST_OPSET:
        raise ImportedModelError(
            f"{_shown(path)} uses opset {version or 'none'}; opsets from {OLDEST_OPSET} on are read: convert it with "
            "onnx.version_converter, or export it again"
        )
    return opsets


def _inlined(onnx: Any, path: Path, proto: Any) -> Any:
    """The model with its own functions replaced by their nodes; functions that call themselves are refused."""
    bodies = {
        (function.domain, function.name): [(node.domain, node.op_type) for node in function.node] for function in proto.functions
    }
    size: dict[tuple[str, str], int] = {}

    def nodes(key: tuple[str, str], above: tuple[tuple[str, str], ...]) -> int:
        if key in above or len(above) > 50:
            raise ImportedModelError(f"{_shown(path)}: function {shown(key[1])} calls itself; a model cannot recurse")
        if key not in size:
            size[key] = sum(nodes(called, (*above, key)) if called in bodies else 1 for called in bodies[key])
        return size[key]

    total = sum(nodes((n.domain, n.op_type), ()) if (n.domain, n.op_type) in bodies else 1 for n in proto.graph.node)
    if total > MOST_OPERATIONS:
        raise ImportedModelError(f"{_shown(path)} has {total} nodes with its functions written out, more than {MOST_OPERATIONS}")
    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # the inliner raises what its C++ core throws
        raise ImportedModelError(f"{_shown(path)}: its functions cannot be written out: {shown(str(error), 120)}") from None


def _check_external(onnx: Any, path: Path, tensor: Any) -> None:
    """External data may lie in the model's folder alone. It is not read: only shapes count."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    folder = path.resolve().parent
    try:
        inside = bool(location) and "\0" not in location and (folder / location).resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):
        inside = False
    if not inside or Path(location).is_absolute() or re.match(r"[A-Za-z]:|\\", location):
        raise ImportedModelError(
            f"{_shown(path)}: the data of tensor '{shown(tensor.name)}' lie at '{shown(location)}', outside of the model's folder; "
            "refused"
        )


def _sort(path: Path, graph: Any) -> None:
    """Put the nodes in an order in which they can run; refuse a cycle, a name made twice, and one that nothing makes."""
    known = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input} | {""}
    known |= {sparse.values.name for sparse in graph.sparse_initializer}
    made: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in made or name in known):
                raise ImportedModelError(f"{_shown(path)}: tensor '{shown(name)}' is made twice")
            made[name] = index
    waits: list[set[int]] = []
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.node):
        before: set[int] = set()
        own = set(node.input)
        for name in read_by(node):
            if name in known or (name not in made and name not in own):
                continue  # what is made inside of a subgraph is no tensor of this graph
            if name not in made:
                raise ImportedModelError(f"{_shown(path)}: node '{shown(node.name)}' reads '{shown(name)}', which nothing makes")
            before.add(made[name])
        waits.append(before)
        for maker in before:
            readers.setdefault(maker, []).append(index)
    ready = [index for index, before in enumerate(waits) if not before]
    order: list[int] = []
    while ready:
        index = ready.pop()
        order.append(index)
        for reader in readers.get(index, ()):
            waits[reader].discard(index)
            if not waits[reader]:
                ready.append(reader)
    if len(order) < len(waits):
        stuck = next(index for index, before in enumerate(waits) if before)
        raise ImportedModelError(
            f"{_shown(path)}: node '{shown(graph.node[stuck].name)}' waits for itself; the graph has a cycle"
        )
    if any(made[name] >= index for index, node in enumerate(graph.node) for name in read_by(node) if name in made):
        nodes = [graph.node[index] for index in sorted(order, key=_ranks(order).__getitem__)]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _ranks(order: list[int]) -> dict[int, int]:
    return {index: rank for rank, index in enumerate(order)}
