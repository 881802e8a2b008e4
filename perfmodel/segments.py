"""Segments: kernels of schedule `layer` that one fused kernel can carry out together, and the least time that takes on a machine.

A *piece* is a kernel of schedule `layer`. A *segment* is a set of pieces with one result: every other piece in it is read within it only
(a *fan-out-free cone* of the graph of pieces). Its time is that of the tensor machine's programs with their best tiling; what a segment
costs depends on its shape alone, so each shape is costed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from perfmodel.fusion import Outside, program_kernels
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.kernel import Kernel
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.layers.element import element_bytes
from perfmodel.layers.graph import Graph
from perfmodel.layers.layer import Layer
from perfmodel.layers.parameter import Parameter
from perfmodel.layers.rearrange import View
from perfmodel.least_time import Beyond, least_time
from perfmodel.lowering import Access, Operation
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.steps import FusionError, has_fused_form
from perfmodel.precision import Precision
from perfmodel.tiling import Choice, Machine, choose
from perfmodel.units import si

LONGEST: Final = 24
"""Pieces of a segment, at most, unless asked otherwise: about eight residual blocks."""
MOST_SEGMENTS: Final = 4096
"""Segments considered that end at one piece; a graph with so many branches is searched in part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A kernel of schedule `layer` as a node of a graph of its own."""

    index: int
    kernel: Kernel
    nodes: tuple[int, ...]
    """Its layers, by their place in the network's graph."""
    readers: frozenset[int]
    """The pieces that read its result."""
    sources: frozenset[int]
    """The pieces whose results it reads."""
    obstacle: str
    """Why it can be in no segment with others; empty if it can."""
    group_width: int
    """Channels that only go together in its convolutions."""
    form: int
    """Equal for pieces that are alike in everything that a segment's cost depends on."""
    time_s: float
    """By itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTime:
    """The least time of a segment, or why there is none."""

    time_s: float
    """Infinite where it has no fused form or nothing fits."""
    dram_bytes: float
    local_bytes: float = 0.0
    """What the tiling with the least local memory needs."""
    obstacle: bool = False
    """Whether it has no fused form."""
    beyond: Beyond = field(default_factory=Beyond)
    """What no longer segment can be under that has the same result and pieces, and others before all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What no program of a segment can be under, by arithmetic, and by reading each input and weight and writing the result once."""

    arithmetic_s: float
    memory_s: float
    memory_without_input_s: float
    dram_bytes: float

    @property
    def time_s(self) -> float:
        """The longer of the two."""
        return max(self.arithmetic_s, self.memory_s)


class Costs:
    """What segments cost on one machine in one precision; remembers every shape, over networks too."""

    def __init__(self, device: DeviceSpec, precision: Precision) -> None:
        """Raises HardwareError where the device has no figure for its local memory."""
        self.machine = Machine.of(device, precision.matrix)
        self.element_bytes = element_bytes(precision.matrix_storage)
        self.inner = precision.matrix_storage
        self.times: dict[tuple[tuple[int, int], ...], SegmentTime] = {}
        self.choices: dict[tuple[tuple[int, int], ...], tuple[tuple[Choice, ...], tuple[str, ...]]] = {}
        """With the names of the layers and inputs that they were made for."""
        self._forms: dict[object, int] = {}

    def form(self, description: object) -> int:
        """A small number for something that can be compared."""
        return self._forms.setdefault(description, len(self._forms))

    def alone_s(self, kernel: Kernel) -> float:
        """Waterline time of a kernel of schedule `layer`."""
        ops, moved = kernel.cost.ops, kernel.cost.dram_bytes
        return float(max(ops / self.machine.peak_ops_per_s, moved / self.machine.bandwidth_bytes_per_s))


class Pieces:
    """The pieces of a network on a machine, and the segments that can be made of them."""

    def __init__(self, graph: Graph, operations: Sequence[Operation], by_layer: Sequence[Kernel], costs: Costs) -> None:
        self.graph = graph
        self.costs = costs
        self._order = list(graph.nodes)
        self._place = {name: place for place, name in enumerate(self._order)}
        self._tensor_of: dict[str, str] = {}
        self._stored: dict[str, Access] = {}
        for operation in operations:
            self._tensor_of |= dict.fromkeys(operation.layers, operation.writes[0].tensor)
            for access in (*operation.reads, *operation.writes):
                self._stored.setdefault(access.tensor, access)
        self.all = self._make(by_layer)

    def _make(self, by_layer: Sequence[Kernel]) -> tuple[Piece, ...]:
        maker = {access.tensor: index for index, kernel in enumerate(by_layer) for access in kernel.writes}
        readers: list[set[int]] = [set() for _ in by_layer]
        sources: list[set[int]] = [set() for _ in by_layer]
        for index, kernel in enumerate(by_layer):
            for access in kernel.reads:
                if access.tensor in maker:
                    readers[maker[access.tensor]].add(index)
                    sources[index].add(maker[access.tensor])
        return tuple(
            Piece(
                index=index,
                kernel=kernel,
                nodes=tuple(sorted(self._place[layer] for layer in kernel.layers)),
                readers=frozenset(readers[index]),
                sources=frozenset(sources[index]),
                obstacle=self._obstacle(kernel),
                group_width=math.lcm(*(_group_width(self.graph.nodes[name].layer) for name in kernel.layers)),
                form=self.costs.form(self._description(kernel)),
                time_s=self.costs.alone_s(kernel),
            )
            for index, kernel in enumerate(by_layer)
        )

    def _obstacle(self, kernel: Kernel) -> str:
        for name in kernel.layers:
            layer = self.graph.nodes[name].layer
            if not has_fused_form(layer):
                return f"{name} ({layer.kind.replace('_', ' ')}) has no fused form"
            for source in self.graph.nodes[name].inputs:
                match self.graph.nodes[source].layer:
                    case View():
                        return f"{name} reads a part of a tensor ({source}), which no fused program does"
                    case Parameter():
                        return f"{name} reads a tensor of parameters ({source}), which no fused program does"
        return f"{kernel.name} has {len(kernel.writes)} results" if len(kernel.writes) != 1 else ""

    def _description(self, kernel: Kernel) -> tuple[object, ...]:
        nodes = [self.graph.nodes[name] for name in kernel.layers]
        layers = tuple(
            (
                node.layer,
                node.input_shapes,
                tuple(self._place[node.name] - self._place[source] for source in node.inputs),
                self._place[node.name] - self._place[nodes[0].name],
                len(self.graph.consumers[node.name]),
            )
            for node in nodes
        )
        return layers, tuple(access.dtype for access in (*kernel.reads, *kernel.writes))

    # -- segments ----------------------------------------------------------------------------------------------------

    def ending_at(self, root: int, longest: int) -> tuple[list[int], bool]:
        """The segments whose result is that of piece `root`, as bit sets of pieces, by growing size; and whether these are all.

        A piece joins if all that read it are in already, and it is not the second of two alternatives: every such set is made once.
        """
        found = [1 << root]
        if self.all[root].obstacle:
            return found, True
        seen = set(found)
        for mask in found:  # grows while it runs
            if mask.bit_count() == longest:
                continue
            for source in self._may_join(mask):
                wider = mask | 1 << source
                if wider not in seen:
                    if len(found) == MOST_SEGMENTS:
                        return found, False
                    seen.add(wider)
                    found.append(wider)
        return found, True

    def _may_join(self, mask: int) -> Iterator[int]:
        members = list(bits(mask))
        for source in sorted({source for member in members for source in self.all[member].sources}, reverse=True):
            piece = self.all[source]
            if not mask >> source & 1 and not piece.obstacle and all(mask >> reader & 1 for reader in piece.readers):
                yield source

    def layers(self, mask: int) -> list[str]:
        """The layers of a segment, in the graph's order."""
        return [self._order[node] for node in sorted(node for index in bits(mask) for node in self.all[index].nodes)]

    def root(self, mask: int) -> Piece:
        """The piece whose result a segment leaves."""
        return self.all[mask.bit_length() - 1]

    def signature(self, mask: int) -> tuple[tuple[int, int], ...]:
        """Equal for segments that cost the same: the forms of their pieces, and how far apart their layers stand."""
        members = [self.all[index] for index in bits(mask)]
        first = members[0].nodes[0]
        return tuple((piece.form, piece.nodes[0] - first) for piece in members)

    def floor(self, mask: int) -> Floor:
        """What no program of a segment can be under; all zero where part of a result is never read, which a program need not compute."""
        machine, members = self.costs.machine, [self.all[index] for index in bits(mask)]
        reads: dict[str, Access] = {}
        for piece in members:
            for access in piece.kernel.reads:
                if access.tensor not in reads or access.bytes > reads[access.tensor].bytes:
                    reads[access.tensor] = access
        for piece in members[:-1]:
            result = piece.kernel.writes[0]
            if reads.pop(result.tensor).bytes < result.bytes:
                return Floor(arithmetic_s=0.0, memory_s=0.0, memory_without_input_s=0.0, dram_bytes=0.0)
        weights = sum(access.bytes for access in reads.values() if access.role == "weight")
        written = members[-1].kernel.writes[0].bytes
        dram_bytes = sum(access.bytes for access in reads.values()) + written
        return Floor(
            arithmetic_s=OPS_PER_MAC * sum(piece.kernel.cost.macs for piece in members) / machine.peak_ops_per_s,
            memory_s=dram_bytes / machine.bandwidth_bytes_per_s,
            memory_without_input_s=(weights + written) / machine.bandwidth_bytes_per_s,
            dram_bytes=dram_bytes,
        )

    def time(self, mask: int) -> SegmentTime:
        """The least time of a segment: of a single piece, that of schedule `layer`; of several, that of fused programs."""
        if mask.bit_count() == 1:
            piece = self.root(mask)
            return SegmentTime(time_s=piece.time_s, dram_bytes=float(piece.kernel.cost.dram_bytes))
        key = self.signature(mask)
        known = self.costs.times.get(key)
        if known is None:
            known = self.costs.times[key] = self._fused_time(mask)
        return known

    def _fused_time(self, mask: int) -> SegmentTime:
        layers, floor = self.layers(mask), self.floor(mask)
        try:
            least = least_time(
                self.graph,
                layers,
                self.costs.machine,
                element_bytes=self.costs.element_bytes,
                stored_bytes=self._stored_bytes(mask, layers),
                at_least=(floor.time_s, floor.dram_bytes),
            )
        except FusionError as error:
            beyond = Beyond(time_s=math.inf) if error.lasting else Beyond()
            return SegmentTime(time_s=math.inf, dram_bytes=math.inf, obstacle=True, beyond=beyond)
        return SegmentTime(time_s=least.time_s, dram_bytes=least.dram_bytes, local_bytes=least.local_bytes, beyond=least.beyond)

    def _stored_bytes(self, mask: int, layers: Sequence[str]) -> dict[str, int]:
        """Bytes of an element in DRAM of what crosses a segment's border, by the names that its programs give these tensors."""
        inside = set(layers)
        stored = {
            source: element_bytes(self.entering(source).dtype)
            for layer in layers
            for source in self.graph.nodes[layer].inputs
            if source not in inside
        }
        for piece in (self.all[index] for index in bits(mask)):
            for access in piece.kernel.reads:
                if access.role == "weight":
                    stored[access.tensor] = element_bytes(access.dtype)
        leaving = element_bytes(self.root(mask).kernel.writes[0].dtype)
        return stored | dict.fromkeys(self.root(mask).kernel.layers, leaving)

    def entering(self, source: str) -> Access:
        """The tensor in DRAM that holds the output of a layer, or the network's input; segments read no parts of tensors."""
        return self._stored[self._tensor_of.get(source, source)]

    # -- kernels -----------------------------------------------------------------------------------------------------

    def kernels(self, mask: int) -> list[Kernel]:
        """The kernels of a segment, each with its best tiling. Raises FusionError, and TilingError where nothing fits."""
        if mask.bit_count() == 1:
            return [self.root(mask).kernel]
        layers = self.layers(mask)
        choices, made_for = self._chosen(mask)
        own_name = dict(zip(made_for, self._names(layers), strict=True))
        weights = {a.tensor: a.dtype for i in bits(mask) for a in self.all[i].kernel.reads if a.role == "weight"}

        def own(other: str) -> str:
            if other in own_name:
                return own_name[other]
            stem, _, ending = other.rpartition(".")
            return f"{own_name[stem]}.{ending}"

        blocks = {self.graph.nodes[layer].block for layer in layers}
        block = blocks.pop() if len(blocks) == 1 else None
        return program_kernels(
            choices,
            Outside(inner=self.costs.inner, weights=weights, entering=self.entering, leaving=self.root(mask).kernel.writes[0]),
            own,
            name=self.label(mask),
            kind="fused" if block is None else self.graph.blocks[block].kind,
            block=block,
            layers=layers,
        )

    def choices(self, mask: int) -> tuple[Choice, ...]:
        """The best tiling of each program of a segment, chosen once for all segments alike; names are those of one of them."""
        return self._chosen(mask)[0]

    def _chosen(self, mask: int) -> tuple[tuple[Choice, ...], tuple[str, ...]]:
        key = self.signature(mask)
        if key not in self.costs.choices:
            layers = self.layers(mask)
            found = choose(
                self.graph,
                layers,
                self.costs.machine,
                element_bytes=self.costs.element_bytes,
                stored_bytes=self._stored_bytes(mask, layers),
                name=self.label(mask),
            )
            self.costs.choices[key] = found, self._names(layers)
        return self.costs.choices[key]

    def _names(self, layers: Sequence[str]) -> tuple[str, ...]:
        """The layers and what they read from outside, in an order that is the same for every segment of one signature."""
        sources = [source for layer in layers for source in self.graph.nodes[layer].inputs]
        return tuple(dict.fromkeys((*layers, *sources)))

    def label(self, mask: int) -> str:
        """What a segment is called: the blocks that it is made of, or its first and last piece."""
        members = list(bits(mask))
        if len(members) == 1:
            return self.all[members[0]].kernel.name
        first, last = (self._end(members[0], mask), self._end(members[-1], mask))
        return first if first == last else f"{first} – {last}"

    def _end(self, index: int, mask: int) -> str:
        """The block that a piece is in, if the segment has all of it; else the piece."""
        kernel = self.all[index].kernel
        if kernel.block is not None:
            whole = [piece.index for piece in self.all if piece.kernel.block == kernel.block]
            if all(mask >> other & 1 for other in whole):
                return kernel.block
        return kernel.name

    def group_width(self, mask: int) -> int:
        """Channels that only go together in any convolution of a segment: which chunks there are depends on it."""
        return math.lcm(*(self.all[index].group_width for index in bits(mask)))

    def obstacle(self, mask: int) -> str:
        """Why a segment has no fused form, in the names of its own layers; empty if it has one."""
        tiling = Tiling(mode="tiles", rows=1, columns=1, chunk=self.group_width(mask), resident_weights=False)
        try:
            fused_programs(self.graph, self.layers(mask), tiling, element_bytes=self.costs.element_bytes, name=self.label(mask))
        except FusionError as error:
            return str(error).removesuffix("; leave it on schedule layer")
        return ""

    def too_large(self, mask: int) -> str:
        """That a segment does not fit, with numbers."""
        return f"needs {si(self.time(mask).local_bytes, 'B')} of {si(self.costs.machine.local_bytes, 'B')} local memory at least"


def _group_width(layer: Layer) -> int:
    return int(layer.group_width) if isinstance(layer, Conv2d) and layer.conv_class in ("grouped_conv", "depthwise_conv") else 1


def bits(mask: int) -> Iterator[int]:
    """The places of the ones in `mask`, from the lowest."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
