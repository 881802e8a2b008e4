"""Choosing how a fused program walks the image: the tiling with the least waterline time that fits a device's local memory.

The search space is stated and searched exactly: both modes; weights resident or loaded for each tile; tile rows and columns of SIZES or the
whole image; chunks of channels of CHUNKS or all of them, and where groups are wider than the smallest chunk both chunks of whole groups
that run through grouped convolutions, and any chunks that do not. All tilings of a mode are costed in one go, by
building the program once with arrays for its sizes: rows, columns and chunks along an axis each, so that what depends on one of them
alone is computed once for each of its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.layers.dims import Dim
from perfmodel.layers.graph import Graph
from perfmodel.machine.fused import Mode, Tiling, fused_programs
from perfmodel.machine.program import For, GlobalTensor, Load, Program
from perfmodel.machine.totals import Totals, totals
from perfmodel.units import percent, si

SIZES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
CHUNKS: Final = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
MODES: Final[tuple[Mode, ...]] = ("tiles", "rows")

Array = npt.NDArray[np.float64]


class TilingError(PerfmodelError):
    """No tiling of the search space fits: says how much local memory the smallest needs, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a choice depends on: processors and the local memory of one, a cache in front of DRAM, and the two rates."""

    processors: int
    local_bytes: float
    cache_bytes: float
    """0: weights that are loaded again come from DRAM again."""
    peak_ops_per_s: float
    bandwidth_bytes_per_s: float

    @classmethod
    def of(cls, device: DeviceSpec, dtype: str) -> Machine:
        """A device in a type. Raises HardwareError where it has no figure for its local memory."""
        return cls(
            processors=device.chip.multiprocessors,
            local_bytes=device.require("chip.shared_memory_per_block_bytes"),
            cache_bytes=float(device.memory.largest_cache_bytes or 0),
            peak_ops_per_s=device.matrix_peak(dtype).ops_per_s,
            bandwidth_bytes_per_s=device.memory.dram_bandwidth_bytes_per_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Elements of a tensor that cross between DRAM and the chip."""

    tensor: GlobalTensor
    kind: Literal["input", "halo", "weight", "sums", "output"]
    """input: each element that is read at all, once; halo: what is read again; sums: over tiles, left by one program for the next."""
    elements: Dim

    @property
    def bytes(self) -> Dim:
        """Bytes moved, in the type that the program computes in."""
        return self.elements * self.tensor.element_bytes


def movements(program: Program, total: Totals, cache_bytes: float, *, interior: bool = False) -> tuple[Movement, ...]:
    """What a program's loads and stores move in DRAM.

    Activations are charged for every load. Weights are charged once if they are resident or all of them fit the cache, else for every
    load. Sums over tiles live in the cache and are charged once. `interior` as in `totals`.
    """
    cached = weights_fit(program, cache_bytes)
    touched = _touched(program, interior=interior)
    found: list[Movement] = []
    for tensor in program.tensors:
        if tensor.role == "weight":
            elements = tensor.elements if cached else total.loaded[tensor.name]
            found.append(Movement(tensor=tensor, kind="weight", elements=elements))
        elif tensor.role == "sums":
            found.append(Movement(tensor=tensor, kind="sums", elements=tensor.elements))
        elif tensor.role == "input":
            found.append(Movement(tensor=tensor, kind="input", elements=touched[tensor.name]))
            found.append(Movement(tensor=tensor, kind="halo", elements=total.loaded[tensor.name] - touched[tensor.name]))
        else:
            found.append(Movement(tensor=tensor, kind="output", elements=total.stored[tensor.name]))
    return tuple(found)


def parallel_turns(program: Program) -> Dim:
    """Turns of the parallel loops: what can run at the same time."""
    body = program.body
    turns: Dim = 1
    while loops := [node for node in body if isinstance(node, For) and node.loop.parallel]:
        turns = turns * loops[0].loop.count
        body = loops[0].body
    return turns


def _touched(program: Program, *, interior: bool) -> dict[str, Dim]:
    """Elements of each input that are loaded at all, each counted once."""
    found: dict[str, Dim] = {}
    for _, statement in program.statements():
        if isinstance(statement, Load) and statement.tensor.role == "input":
            elements = statement.tensor.shape[0]
            for span in statement.region.spans:
                elements = elements * (span.extent if interior else span.touched())
            found[statement.tensor.name] = elements
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Every tiling of one program, costed: arrays of one length."""

    rows: Array
    columns: Array
    chunk: Array
    by_rows: Array
    """Whether the mode is rows."""
    resident: Array
    """Whether weights are resident."""
    through: Array
    """Whether chunks run through grouped convolutions."""
    macs: Array
    dram_bytes: Array
    loaded_bytes: Array
    """Including what comes from the cache."""
    local_bytes: Array
    turns: Array
    """How many turns of the parallel loops there are to share among processors."""

    def tiling(self, index: int) -> Tiling:
        """One of them."""
        return Tiling(
            mode="rows" if self.by_rows[index] else "tiles",
            rows=int(self.rows[index]),
            columns=int(self.columns[index]),
            chunk=int(self.chunk[index]),
            resident_weights=bool(self.resident[index]),
            chunk_through=bool(self.through[index]),
        )

    def time_s(self, machine: Machine) -> Array:
        """Waterline time of each: the longer of its arithmetic and its DRAM traffic."""
        return np.maximum(OPS_PER_MAC * self.macs / machine.peak_ops_per_s, self.dram_bytes / machine.bandwidth_bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The best tiling of one program, and why."""

    tiling: Tiling
    program: Program
    totals: Totals
    movements: tuple[Movement, ...]
    considered: int
    fitting: int
    reason: str


def candidates(
    graph: Graph,
    layers: Sequence[str],
    machine: Machine,
    *,
    element_bytes: int,
    name: str,
    stored_bytes: Mapping[str, int] | None = None,
) -> tuple[Candidates, ...]:
    """For each program that carries out `layers`, every tiling of the search space, costed."""
    costed: list[list[Array]] = []
    for through in (True, False) if group_width(graph, layers) > CHUNKS[0] else (True,):
        rows, columns, chunk = grid(graph, layers, through=through)
        sizes = (len(rows), columns.shape[1], chunk.shape[2])
        for mode, resident in product(MODES, (False, True)):
            tiling = Tiling(mode=mode, rows=rows, columns=columns, chunk=chunk, resident_weights=resident, chunk_through=through)
            programs = fused_programs(graph, layers, tiling, element_bytes=element_bytes, name=name, stored_bytes=stored_bytes)
            costed = costed or [[] for _ in programs]
            for variants, program in zip(costed, programs, strict=True):
                values = (rows, columns, chunk, mode == "rows", resident, through, *_costs(program, machine))
                variants.append(
                    np.array([np.broadcast_to(np.asarray(value, dtype=np.float64), sizes).ravel() for value in values])
                )
    return tuple(Candidates(**dict(zip(_FIELDS, np.concatenate(variants, axis=1), strict=True))) for variants in costed)


_FIELDS: Final = tuple(field.name for field in fields(Candidates))


def _costs(program: Program, machine: Machine) -> tuple[Dim, ...]:
    total = totals(program)
    loaded = sum(total.loaded[t.name] * t.element_bytes for t in program.tensors if t.name in total.loaded)
    dram = sum(movement.bytes for movement in movements(program, total, machine.cache_bytes))
    return (total.macs, dram, loaded, total.peak_local_bytes, parallel_turns(program))


def weights_fit(program: Program, cache_bytes: float) -> bool:
    """Whether all weights of a program fit the cache, so that loading them again costs no DRAM traffic."""
    weights = sum(tensor.elements * tensor.element_bytes for tensor in program.tensors if tensor.role == "weight")
    return bool(cache_bytes == math.inf or weights <= cache_bytes)


def group_width(graph: Graph, layers: Sequence[str]) -> int:
    """Channels that only go together: the least common multiple of the widths of all groups."""
    convolutions = [layer for name in layers if isinstance(layer := graph.nodes[name].layer, Conv2d)]
    return math.lcm(*(c.group_width for c in convolutions if c.conv_class in ("grouped_conv", "depthwise_conv")))


def grid(graph: Graph, layers: Sequence[str], *, through: bool) -> tuple[Array, Array, Array]:
    """Rows, columns and chunks of the search space, each along an axis of its own; floats, exact to 2⁵³ and never overflowing."""
    shapes = [graph.nodes[layer].shape for layer in layers]
    height, width = max(shape.H for shape in shapes), max(shape.W for shape in shapes)
    rows = sorted({*(size for size in SIZES if size < height), height})
    columns = sorted({*(size for size in SIZES if size < width), width})
    group = group_width(graph, layers) if through else 1
    widest = -(-max(shape.C for shape in shapes) // group) * group
    sizes = {size for size in CHUNKS if size % group == 0} or {group * -(-CHUNKS[0] // group)}
    chunks = sorted({min(size, widest) for size in (*sizes, widest)})
    along = [np.array(values, dtype=np.float64) for values in (rows, columns, chunks)]
    return along[0][:, None, None], along[1][None, :, None], along[2][None, None, :]


def choose(
    graph: Graph,
    layers: Sequence[str],
    machine: Machine,
    *,
    element_bytes: int,
    name: str = "block",
    tile: tuple[int, int] | None = None,
    stored_bytes: Mapping[str, int] | None = None,
) -> tuple[Choice, ...]:
    """For each program that carries out `layers`, the tiling with the least waterline time that fits the local memory.

    Among equals the one that keeps most processors busy, then the one with the least DRAM traffic, the fewest MACs, the fewest bytes
    loaded in all, the largest tile, the widest chunk. With `tile`, only tiles of that many rows and columns are considered. Raises
    FusionError for layers without a fused form and TilingError where nothing fits.
    """
    found = candidates(graph, layers, machine, element_bytes=element_bytes, name=name, stored_bytes=stored_bytes)
    choices = []
    for index, costed in enumerate(found):
        fits = costed.local_bytes <= machine.local_bytes
        if tile is not None:
            fits &= (costed.by_rows == 0) & (costed.rows == tile[0]) & (costed.columns == tile[1])
        if not fits.any():
            raise TilingError(
                f"{name}: no tiling fits {si(machine.local_bytes, 'B')} of local memory; the smallest needs "
                f"{si(float(costed.local_bytes.min()), 'B')}; a device with more could fuse it"
            )
        time_s = costed.time_s(machine)
        idle = -np.minimum(costed.turns, machine.processors)
        keys = (-costed.chunk, -costed.rows * costed.columns, costed.loaded_bytes, costed.macs, costed.dram_bytes, idle)
        best = int(np.lexsort((*keys, np.where(fits, time_s, np.inf)))[0])
        tiling = costed.tiling(best)
        program = fused_programs(graph, layers, tiling, element_bytes=element_bytes, name=name, stored_bytes=stored_bytes)[index]
        total = totals(program)
        moved = movements(program, total, machine.cache_bytes)
        choices.append(
            Choice(
                tiling=tiling,
                program=program,
                totals=total,
                movements=moved,
                considered=len(time_s),
                fitting=int(fits.sum()),
                reason=_reason(machine, total, moved, float(time_s.min()), float(time_s[best])),
            )
        )
    return tuple(choices)


def _reason(machine: Machine, total: Totals, moved: Sequence[Movement], unlimited_s: float, chosen_s: float) -> str:
    """What limited the choice."""
    arithmetic_s = OPS_PER_MAC * total.macs / machine.peak_ops_per_s
    dram_bytes = sum(movement.bytes for movement in moved)
    halo_bytes = sum(movement.bytes for movement in moved if movement.kind == "halo")
    memory_s = dram_bytes / machine.bandwidth_bytes_per_s
    held = f"local memory {si(total.peak_local_bytes, 'B')} of {si(machine.local_bytes, 'B')}"
    bound = "memory-bound" if memory_s > arithmetic_s else "compute-bound"
    extra = f", halo {percent(halo_bytes / dram_bytes)} of the traffic" if halo_bytes else ", nothing read twice"
    if chosen_s > unlimited_s * (1 + 1e-9):
        return f"{bound}{extra}; {held} limits it: with more, {percent(1 - unlimited_s / chosen_s)} less time"
    return f"{bound}{extra}; {held}, and more would not help"
