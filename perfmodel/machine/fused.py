"""Fused programs: from the steps of a block (or a chain of blocks) and a tiling to a program of the tensor machine.

Two ways to walk the image. *Tiles*: the output is cut into rectangles; each loads its input with the halo that its convolutions need,
and recomputes what neighbours compute, too. *Rows*: depth first, each strip of columns is done in groups of rows; ring buffers keep the
rows that the next group needs again, so that nothing is loaded or computed twice but at the borders of strips, and nothing at all where
one strip is the whole image. Either way a pair of matrix products with a wide tensor
between them runs in chunks of its channels, which then never exist all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Dim, Shape, minimum
from perfmodel.layers.graph import Graph
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.machine.program import (
    ACCUMULATOR_BYTES,
    Allocate,
    Buffer,
    Convolve,
    Copy,
    For,
    Free,
    GlobalTensor,
    Load,
    Map,
    Node,
    Normalise,
    Program,
    Reduce,
    Region,
    Store,
    Zero,
)
from perfmodel.machine.span import Loop, Span, hull, tiles, window
from perfmodel.machine.steps import FusionError, Step, steps_of

Mode = Literal["tiles", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a fused program walks the image; sizes may be arrays (many tilings at once) or symbols."""

    mode: Mode
    rows: Dim
    """Output rows of a tile, or of a group of rows."""
    columns: Dim
    """Output columns of a tile, or of a strip."""
    chunk: Dim
    """Channels done at a time; a multiple of the group width of every convolution that chunks run through."""
    resident_weights: bool
    """Weights are loaded once and stay in local memory; otherwise each tile loads them chunk by chunk."""
    chunk_through: bool = True
    """Chunks run through grouped convolutions between two full products; otherwise all channels are done before such a convolution."""


def fused_programs(
    graph: Graph,
    layers: Sequence[str],
    tiling: Tiling,
    *,
    element_bytes: int,
    name: str = "block",
    stored_bytes: Mapping[str, int] | None = None,
) -> tuple[Program, ...]:
    """The programs that carry out `layers` of `graph`: one, and one more from each global mean on, which the rest must wait for.

    `element_bytes` is the size of an element in local memory, and in global memory unless `stored_bytes` has another for a tensor.
    Raises FusionError for layers that have no fused form.
    """
    return compiled(
        graph, layers, steps_of(graph, layers), tiling, element_bytes=element_bytes, name=name, stored_bytes=stored_bytes
    )


def compiled(
    graph: Graph,
    layers: Sequence[str],
    steps: Sequence[Step],
    tiling: Tiling,
    *,
    element_bytes: int,
    name: str = "block",
    stored_bytes: Mapping[str, int] | None = None,
) -> tuple[Program, ...]:
    """The same, for `layers` whose steps are known; they do not depend on the tiling."""
    parts: list[list[Step]] = [[]]
    for step in steps:
        if isinstance(step.layer, GlobalAveragePool):
            parts.append([])
        parts[-1].append(step)
    stored = stored_bytes or {}
    if len(parts) == 1:
        return (_Compiler(name, steps, tiling, element_bytes, stored).program(),)
    programs: list[Program] = []
    in_memory = set(graph.nodes) - set(layers)
    for index, part in enumerate(parts):
        label = _part_name(name, index, len(parts))
        mean = index < len(parts) - 1
        program = _Compiler(label, part, tiling, element_bytes, stored, mean=mean).program()
        for tensor in program.tensors:
            if tensor.role == "input" and tensor.name not in in_memory:
                raise FusionError(
                    f"{name} needs {tensor.name} after its global mean, but it is not in global memory then", lasting=True
                )
        in_memory |= {tensor.name for tensor in program.tensors}
        programs.append(program)
    return tuple(programs)


def _part_name(name: str, index: int, count: int) -> str:
    if index == 0:
        return f"{name}, up to its mean"
    which = "" if count == 2 else f" {index}"
    return f"{name}, from its mean{which} on" if index == count - 1 else f"{name}, from its mean{which} to the next"


class _Compiler:
    """Emits one program. `_need` has the rows and columns of each tensor that a turn works on; `_buffer` where each tensor lies."""

    def __init__(
        self,
        name: str,
        steps: Sequence[Step],
        tiling: Tiling,
        element_bytes: int,
        stored_bytes: Mapping[str, int],
        *,
        mean: bool = False,
    ) -> None:
        if not steps:
            raise FusionError(f"{name} has no layers before its global mean; leave it on schedule layer")
        self._name = name
        self._tiling = tiling
        self._bytes = element_bytes
        self._stored = stored_bytes
        self._mean = mean
        gated = next((index for index, step in enumerate(steps) if step.gate), 0) if _has_mean(steps) else 0
        if _has_mean(steps) and not gated:
            raise FusionError(f"{name} does not gate a tensor with its global mean; leave it on schedule layer")
        self._small = steps[:gated]
        self._steps = steps[gated:]
        self._read_by: dict[str, list[Step]] = {}
        for step in self._steps:
            for tensor in dict.fromkeys((step.source, *_operands(step))):
                self._read_by.setdefault(tensor, []).append(step)
        self._worked_on: dict[str, tuple[Span, Span]] = {}
        for step in self._steps:
            if step.gate and step.gate not in {small.name for small in self._small}:
                raise FusionError(f"{step.name} is gated by {step.gate}, which no global mean makes; leave it on schedule layer")
            if step.gate and (len(self._readers(step.source)) > 1 or step.source in _operands(step)):
                raise FusionError(f"{step.source} is read both gated and as it is; leave it on schedule layer")
        self._names: dict[str, str] = {}
        self._final = self._steps[-1]
        self._tensors: dict[str, GlobalTensor] = {}
        self._buffer: dict[str, str] = {}
        self._need: dict[str, tuple[Span, Span]] = {}
        self._shapes: dict[str, Shape] = {}
        self._images = Loop(counter="n", count=self._final.shape.N, parallel=True, what="images")
        self._loops: list[Loop] = []

    # -- what each turn needs --------------------------------------------------------------------------------------

    def program(self) -> Program:
        self._find_shapes()
        self._find_needs()
        gate = self._gate_statements()
        body: list[Node] = []
        nests = self._nests()
        self._emit_inputs(body)
        for index, nest in enumerate(nests):
            self._emit_nest(nest, body)
            self._free_after(nests, index, body)
        outer, inner = self._loops
        rings = [Allocate(buffer=buffer) for buffer in self._rings()]  # they outlive the turns of the inner loop
        walk = For(loop=outer, body=(*rings, For(loop=inner, body=tuple(body))))
        per_image = (*gate, walk)
        weights = [t for t in self._tensors.values() if t.role == "weight"] if self._tiling.resident_weights else []
        return Program(
            name=self._name,
            tensors=tuple(self._tensors.values()),
            body=(*self._resident(weights), For(loop=self._images, body=per_image)),
            remarks=(self._remark(),),
            layers=frozenset(layer for step in (*self._small, *self._steps) for layer in step.layers),
            opening=not self._small and self._may_extend(nests[0]),
        )

    def _remark(self) -> str:
        tiling = self._tiling
        if np.ndim(tiling.rows):
            return "many tilings at once"
        walk = (
            f"tiles of {tiling.rows}×{tiling.columns}"
            if tiling.mode == "tiles"
            else f"depth first, strips of {tiling.columns} columns, {tiling.rows} rows at a time"
        )
        weights = "resident" if tiling.resident_weights else "loaded for each tile"
        return f"{walk}; channels in chunks of {tiling.chunk}; weights {weights}"

    def _find_shapes(self) -> None:
        for step in (*self._small, *self._steps):
            self._shapes[step.name] = step.shape
            self._shapes.setdefault(step.source, step.source_shape)
            for epilogue in step.epilogue:
                if epilogue.function == "add":
                    self._shapes.setdefault(epilogue.operand, step.shape)

    def _find_needs(self) -> None:
        shape, tiling = self._final.shape, self._tiling
        by_tiles = tiling.mode == "tiles"
        whole_image = bool(self._small)  # one processor makes the gate and then does its image
        rows_loop, rows = tiles(
            "i",
            shape.H,
            tiling.rows,
            parallel=by_tiles and not whole_image,
            what="tiles of rows" if by_tiles else "groups of rows",
        )
        columns_loop, columns = tiles(
            "j", shape.W, tiling.columns, parallel=not whole_image, what="tiles of columns" if by_tiles else "strips of columns"
        )
        self._loops = [rows_loop, columns_loop] if by_tiles else [columns_loop, rows_loop]
        self._need[self._final.name] = (rows, columns)
        for step in reversed(self._steps):
            if step.name not in self._need:
                raise FusionError(f"{self._name} has two results, {step.name} and {self._final.name}; fuse what makes one")
            own = self._need[step.name]
            for operand in _operands(step):
                self._widen(operand, own)
            self._widen(step.source, self._windows(step, own))

    def _widen(self, tensor: str, need: tuple[Span, Span]) -> None:
        known = self._need.get(tensor)
        for old, new in zip(known or need, need, strict=True):
            if np.any(old.slope != new.slope):
                raise FusionError(
                    f"{tensor} in {self._name} is read by branches of different strides; leave it on schedule layer",
                    lasting=True,
                )
        self._need[tensor] = need if known is None else (hull(known[0], need[0]), hull(known[1], need[1]))

    def _windows(self, step: Step, own: tuple[Span, Span]) -> tuple[Span, Span]:
        if not isinstance(step.layer, Conv2d):
            return own
        layer = step.layer
        padding = layer.padding or (0, 0, 0, 0)
        first, second = (
            window(
                span,
                kernel=layer.kernel[axis],
                stride=layer.stride[axis],
                padding_before=padding[2 * axis],
                dilation=layer.dilation[axis],
                extent=(step.source_shape.H, step.source_shape.W)[axis],
            )
            for axis, span in enumerate(own)
        )
        return first, second

    def _new(self, tensor: str) -> tuple[Span, Span]:
        """The rows and columns of a tensor that a turn loads or computes: all it needs, or in mode rows those that are new."""
        if self._tiling.mode != "rows":
            return self._need[tensor]
        if tensor not in self._worked_on:
            rows, columns = self._need[tensor]
            self._worked_on[tensor] = (replace(rows, rolling=True), columns)
        return self._worked_on[tensor]

    # -- where tensors lie -----------------------------------------------------------------------------------------

    def _readers(self, tensor: str) -> list[Step]:
        return self._read_by.get(tensor, [])

    def _is_ring(self, tensor: str) -> bool:
        """Whether a tensor's rows outlive their turn: a later turn's window, or a reader that lags behind, still needs them."""
        if self._tiling.mode != "rows":
            return False
        readers = self._readers(tensor)
        spatial = any(isinstance(r.layer, Conv2d) and r.source == tensor and r.layer.kernel[0] > 1 for r in readers)
        return spatial or len(readers) > 1

    def _rings(self) -> list[Buffer]:
        return [self._ring(tensor) for tensor in self._need if self._is_ring(tensor)]

    def _ring(self, tensor: str) -> Buffer:
        rows, columns = self._need[tensor]
        oldest: Dim = minimum(0, rows.hi_offset - rows.slope)  # what one turn adds; a stride may skip rows
        for step in self._readers(tensor):
            reader = self._need[step.name][0]
            first_new = reader.hi_offset - reader.slope
            if step.source == tensor and isinstance(step.layer, Conv2d):
                oldest = minimum(oldest, first_new * step.layer.stride[0] - (step.layer.padding or (0,))[0])
            if tensor in _operands(step) or not isinstance(step.layer, Conv2d):
                oldest = minimum(oldest, first_new)
        kept = replace(rows, lo_offset=oldest)
        channels = Span(extent=self._shapes[tensor].C)
        return Buffer(
            name=self._tile_name(tensor), holds=Region(spans=(channels, kept, columns)), element_bytes=self._bytes, ring=True
        )

    def _short(self, full: str, short: str) -> str:
        """A name for local memory: short where that tells it apart from the others, whole otherwise."""
        if full not in self._names:
            self._names[full] = short if short not in self._names.values() else full.replace(".", "_")
        return self._names[full]

    def _tile_name(self, tensor: str) -> str:
        return self._short(f"{tensor}.tile", f"{tensor.rpartition('.')[2] or tensor}_tile")

    def _weight_name(self, weight: GlobalTensor) -> str:
        return self._short(weight.name, "_".join(weight.name.split(".")[-2:]))

    def _tile(self, tensor: str, body: list[Node]) -> str:
        """Where a tensor's tile lies; allocates it unless it is a ring, which outlives the turn."""
        name = self._tile_name(tensor)
        self._buffer[tensor] = name
        if not self._is_ring(tensor):
            region = Region(spans=(Span(extent=self._shapes[tensor].C), *self._new(tensor)))
            body.append(Allocate(buffer=Buffer(name=name, holds=region, element_bytes=self._bytes)))
        return name

    def _free_after(self, nests: Sequence[Sequence[Step]], index: int, body: list[Node]) -> None:
        later = {tensor for nest in nests[index + 1 :] for step in nest for tensor in (step.source, *_operands(step))}
        used = {tensor for step in nests[index] for tensor in (step.source, *_operands(step))}
        for tensor in sorted(used - later):
            if (
                tensor in self._buffer
                and not self._is_ring(tensor)
                and self._buffer[tensor] not in _buffers_of(later, self._buffer)
            ):
                body.append(Free(buffer=self._buffer.pop(tensor)))

    # -- global tensors and weights --------------------------------------------------------------------------------

    def _global(
        self, name: str, role: Literal["input", "output", "weight", "sums"], shape: tuple[Dim, ...], size: int
    ) -> GlobalTensor:
        stored = self._stored.get(name, size)
        return self._tensors.setdefault(name, GlobalTensor(name=name, role=role, shape=shape, element_bytes=stored))

    def _activation(self, tensor: str, role: Literal["input", "output"]) -> GlobalTensor:
        return self._global(tensor, role, tuple(self._shapes[tensor]), self._bytes)

    def _weight_of(self, step: Step) -> GlobalTensor:
        layer = step.layer
        if not isinstance(layer, Conv2d):
            raise FusionError(f"{step.name} is no convolution")
        return self._global(f"{step.name}.weight", "weight", (step.shape.C, layer.group_width, *layer.kernel), self._bytes)

    def _vector(self, name: str, channels: Dim) -> GlobalTensor:
        return self._global(name, "weight", (channels,), self._bytes)

    def _resident(self, weights: Sequence[GlobalTensor]) -> list[Node]:
        body: list[Node] = []
        for tensor in weights:
            region = Region(spans=tuple(Span(extent=size) for size in tensor.shape))
            body += self._fetch(tensor, region)
        return body

    def _fetch(self, tensor: GlobalTensor, region: Region) -> list[Node]:
        buffer = Buffer(name=self._weight_name(tensor), holds=region, element_bytes=self._bytes)
        return [Allocate(buffer=buffer), Load(buffer=buffer.name, tensor=tensor, region=region)]

    def _ready(self, tensor: GlobalTensor, spans: tuple[Span, ...], body: list[Node]) -> str:
        """The local buffer with that part of a weight: resident, or fetched here."""
        if not self._tiling.resident_weights:
            body += self._fetch(tensor, Region(spans=spans))
        return self._weight_name(tensor)

    # -- statements ------------------------------------------------------------------------------------------------

    def _emit_inputs(self, body: list[Node]) -> None:
        made = {step.name for step in (*self._small, *self._steps)}
        gated = {step.source for step in self._steps if step.gate}
        for tensor in self._need:
            if tensor in made or tensor in gated:
                continue
            source = self._activation(tensor, "input")
            where = Region(spans=(Span(extent=self._shapes[tensor].C), *self._new(tensor)))
            body.append(Load(buffer=self._tile(tensor, body), tensor=source, region=where))

    def _nests(self) -> list[list[Step]]:
        """Steps that share a loop over chunks of channels: from where the chunk begins to the product that sums over it."""
        nests: list[list[Step]] = []
        left = list(self._steps)
        while left:
            last = left.pop()
            nest = [last]
            while left and self._may_extend(nest) and self._chains(left[-1], nest[0]):
                nest.insert(0, left.pop())
            nests.insert(0, nest)
        return nests

    def _may_extend(self, nest: Sequence[Step]) -> bool:
        """Whether a step before could join: the nest ends in a product that sums over chunks, or keeps them, and has no beginning."""
        first, last = nest[0], nest[-1]
        stores_chunks = last is self._final and self._mean
        if not isinstance(last.layer, Conv2d) or last.gate or last.is_channelwise != stores_chunks:
            return False
        # the chunk begins at a full product, or where channels become others
        return first.keeps_channels if len(nest) > 1 or first.is_channelwise else True

    def _chains(self, candidate: Step, first: Step) -> bool:
        """Whether a chunk of `candidate` can be handed to `first`, and nobody else wants it."""
        if first.source != candidate.name or len(self._readers(candidate.name)) != 1 or candidate.name in _operands(first):
            return False
        if self._is_ring(candidate.name) or not isinstance(candidate.layer, Conv2d) or candidate.gate:
            return False
        return self._tiling.chunk_through or not first.is_channelwise

    def _emit_nest(self, nest: list[Step], body: list[Node]) -> None:
        last = nest[-1]
        if isinstance(last.layer, LayerNorm):
            self._emit_norm(last, body)
        elif last is self._final and self._mean:
            self._emit_chunks(nest, body)
        elif len(nest) > 1 or last.gate:
            self._emit_sum(nest, body)
        else:
            self._emit_single(last, body)

    def _chunks(self, channels: Dim) -> tuple[Loop, Span]:
        return tiles("h", channels, self._tiling.chunk, parallel=False, what="chunks of channels")

    def _emit_single(self, step: Step, body: list[Node]) -> None:
        """One product, its outputs chunk by chunk unless its weights are resident."""
        target = self._tile(step.name, body)
        inner: list[Node] = []
        if self._tiling.resident_weights:
            self._emit_product(step, self._buffer[step.source], target, Span(extent=step.shape.C), inner)
            body += inner
        else:
            loop, channels = self._chunks(step.shape.C)
            self._emit_product(step, self._buffer[step.source], target, channels, inner)
            body.append(For(loop=loop, body=tuple(inner)))
        if step is self._final:
            self._emit_store(step, target, Span(extent=step.shape.C), body)

    def _emit_product(self, step: Step, source: str, target: str, channels: Span, body: list[Node]) -> None:
        layer = step.layer
        if not isinstance(layer, Conv2d):
            raise FusionError(f"{step.name} cannot be done in chunks of channels")
        taps = (Span(extent=layer.kernel[0]), Span(extent=layer.kernel[1]))
        weight = self._ready(self._weight_of(step), (channels, Span(extent=layer.group_width), *taps), body)
        region = Region(spans=(channels, *self._new(step.name)))
        extents = (step.source_shape.H, step.source_shape.W)
        body.append(Convolve(target=target, source=source, weight=weight, layer=layer, region=region, source_extents=extents))
        self._emit_epilogue(step, target, region, body)

    def _emit_epilogue(self, step: Step, target: str, region: Region, body: list[Node]) -> None:
        for epilogue in step.epilogue:
            operand = ""
            if epilogue.function in ("bias", "scale"):
                operand = self._ready(self._vector(epilogue.operand, step.shape.C), region.spans[:1], body)
            elif epilogue.function == "add":
                operand = self._buffer[epilogue.operand]
            body.append(Map(function=epilogue.function, target=target, region=region, operand=operand))

    def _emit_norm(self, step: Step, body: list[Node]) -> None:
        """In place: nobody else reads what is normalised."""
        if len(self._readers(step.source)) > 1 or self._is_ring(step.source) or self._is_ring(step.name):
            raise FusionError(f"{step.name} normalises a tensor that others read, too; leave it on schedule layer")
        target = self._buffer[step.source]
        channels = Span(extent=step.shape.C)
        vectors = [
            self._ready(self._vector(f"{step.name}.{name}", step.shape.C), (channels,), body) for name in ("weight", "bias")
        ]
        region = Region(spans=(channels, *self._new(step.name)))
        body.append(Normalise(target=target, region=region, weight=vectors[0], bias=vectors[1]))
        self._emit_epilogue(step, target, region, body)
        self._buffer[step.name] = target
        del self._buffer[step.source]
        if step is self._final:
            self._emit_store(step, target, channels, body)

    def _emit_links(self, links: Sequence[Step], channels: Span, body: list[Node]) -> str:
        """The steps of a chunk before its last: each a tile of that chunk's channels. Returns the last one's buffer."""
        source = self._buffer.get(links[0].source, "")
        for step in links:
            target = f"{self._tile_name(step.name)}_chunk"
            region = Region(spans=(channels, *self._new(step.name)))
            body.append(Allocate(buffer=Buffer(name=target, holds=region, element_bytes=self._bytes)))
            self._emit_product(step, source, target, channels, body)
            source = target
        return source

    def _emit_sum(self, nest: list[Step], body: list[Node]) -> None:
        """Chunks of a wide tensor, and the product that sums over them into an accumulator."""
        *links, last = nest
        layer = last.layer
        if not isinstance(layer, Conv2d):
            raise FusionError(f"{last.name} cannot sum over chunks of channels")
        rows, columns = self._new(last.name)
        outputs = Span(extent=last.shape.C)
        region = Region(spans=(outputs, rows, columns))
        accumulator = f"{self._tile_name(last.name)}_sum"
        body.append(Allocate(buffer=Buffer(name=accumulator, holds=region, element_bytes=ACCUMULATOR_BYTES)))
        body.append(Zero(buffer=accumulator, region=region))
        loop, channels = self._chunks(last.source_shape.C)
        inner: list[Node] = []
        source = self._emit_links(links, channels, inner) if links else self._emit_gated(last, channels, inner)
        taps = (Span(extent=layer.kernel[0]), Span(extent=layer.kernel[1]))
        weight = self._ready(self._weight_of(last), (outputs, channels, *taps), inner)
        extents = (last.source_shape.H, last.source_shape.W)
        inner.append(
            Convolve(
                target=accumulator,
                source=source,
                weight=weight,
                layer=layer,
                region=region,
                source_extents=extents,
                inputs=channels,
            )
        )
        body.append(For(loop=loop, body=tuple(inner)))
        self._emit_epilogue(last, accumulator, region, body)
        if last is self._final:
            self._emit_store(last, accumulator, outputs, body)
            return
        target = self._tile(last.name, body)
        body.append(Copy(target=target, source=accumulator, region=region))
        body.append(Free(buffer=accumulator))

    def _emit_gated(self, step: Step, channels: Span, body: list[Node]) -> str:
        """A chunk of a tensor in global memory, times its gate."""
        target = f"{self._tile_name(step.source)}_chunk"
        region = Region(spans=(channels, *self._new(step.source)))
        body.append(Allocate(buffer=Buffer(name=target, holds=region, element_bytes=self._bytes)))
        body.append(Load(buffer=target, tensor=self._activation(step.source, "input"), region=region))
        body.append(Map(function="gate", target=target, region=region, operand=self._buffer[step.gate]))
        return target

    def _emit_chunks(self, nest: list[Step], body: list[Node]) -> None:
        """Chunks of a wide tensor that is stored, and summed over pixels for its mean."""
        last = nest[-1]
        loop, channels = self._chunks(last.shape.C)
        inner: list[Node] = []
        source = self._emit_links(nest, channels, inner)
        region = Region(spans=(channels, *self._new(last.name)))
        one = Span(extent=1)
        pixel = Region(spans=(channels, one, one))
        sums = self._global(f"{last.name}.sums", "sums", (last.shape.N, last.shape.C, 1, 1), ACCUMULATOR_BYTES)
        partial = f"{self._tile_name(last.name)}_sums"
        inner.append(Allocate(buffer=Buffer(name=partial, holds=pixel, element_bytes=ACCUMULATOR_BYTES)))
        inner.append(Reduce(target=partial, source=source, region=region))
        inner.append(Store(buffer=partial, tensor=sums, region=pixel, add=True))
        inner.append(Store(buffer=source, tensor=self._activation(last.name, "output"), region=region))
        body.append(For(loop=loop, body=tuple(inner)))

    def _emit_store(self, step: Step, buffer: str, channels: Span, body: list[Node]) -> None:
        region = Region(spans=(channels, *self._new(step.name)))
        body.append(Store(buffer=buffer, tensor=self._activation(step.name, "output"), region=region))

    # -- the gate of a squeeze-and-excitation ------------------------------------------------------------------------

    def _gate_statements(self) -> list[Node]:
        """Once per image, before its tiles: the mean from the stored sums, and the small products that make the gate."""
        body: list[Node] = []
        one = Span(extent=1)
        for step in self._small:
            channels = Span(extent=step.shape.C)
            pixel = Region(spans=(channels, one, one))
            target = f"{self._tile_name(step.name)}"
            self._buffer[step.name] = target
            body.append(Allocate(buffer=Buffer(name=target, holds=pixel, element_bytes=ACCUMULATOR_BYTES)))
            if isinstance(step.layer, GlobalAveragePool):
                shape = step.source_shape
                sums = self._global(f"{step.source}.sums", "input", (shape.N, shape.C, 1, 1), ACCUMULATOR_BYTES)
                body.append(Load(buffer=target, tensor=sums, region=pixel))
                body.append(Map(function="divide", target=target, region=pixel, divisor=shape.H * shape.W))
                self._emit_epilogue(step, target, pixel, body)
                continue
            inner: list[Node] = []
            if self._tiling.resident_weights:
                self._emit_pixel(step, target, channels, inner)
                body += inner
            else:
                loop, part = self._chunks(step.shape.C)
                self._emit_pixel(step, target, part, inner)
                body.append(For(loop=loop, body=tuple(inner)))
        return body

    def _emit_pixel(self, step: Step, target: str, channels: Span, body: list[Node]) -> None:
        layer = step.layer
        if not isinstance(layer, Conv2d):
            raise FusionError(f"{step.name} cannot stand between a global mean and its gate")
        one = Span(extent=1)
        weight = self._ready(self._weight_of(step), (channels, Span(extent=layer.group_width), one, one), body)
        region = Region(spans=(channels, one, one))
        source = self._buffer[step.source]
        body.append(Convolve(target=target, source=source, weight=weight, layer=layer, region=region, source_extents=(1, 1)))
        self._emit_epilogue(step, target, region, body)


def _has_mean(steps: Sequence[Step]) -> bool:
    return isinstance(steps[0].layer, GlobalAveragePool)


def _operands(step: Step) -> tuple[str, ...]:
    return tuple(epilogue.operand for epilogue in step.epilogue if epilogue.function == "add")


def _buffers_of(tensors: set[str], buffers: dict[str, str]) -> set[str]:
    return {buffers[tensor] for tensor in tensors if tensor in buffers}
