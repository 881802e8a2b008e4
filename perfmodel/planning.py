"""Plans: a network cut into kernels for a device, why each kernel ends where it does, and what was gained over schedule `layer`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Final, Literal

from perfmodel.cut import Cut, best_cut
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.network import Network
from perfmodel.networks.catalog import build
from perfmodel.precision import Precision
from perfmodel.prediction import Prediction, place
from perfmodel.schedule import AUTO, BLOCK, Partition, kernels, pieces
from perfmodel.segments import LONGEST, Costs, Pieces, bits
from perfmodel.tiling import Choice
from perfmodel.units import percent, si, text
from perfmodel.waterline import KernelTime

CutKind = Literal[
    "result",
    "several readers",
    "no fused form",
    "global mean",
    "local memory",
    "recompute",
    "re-read",
    "no gain",
    "length",
    "given",
]
SAME: Final = 1e-9
"""Latencies that differ by less, relatively, count as equal."""


class PlanError(PerfmodelError):
    """A partition that cannot be carried out as fused kernels: names the kernel, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutReason:
    """Why a segment ends where it does."""

    kind: CutKind
    sentence: str
    together_s: float | None = None
    """Latency if it were fused with what reads its result, where that is possible and fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSegment:
    """One or more layers in one fused kernel, or in one more for each global mean; or a kernel of schedule `layer` that stays alone."""

    name: str
    layers: tuple[str, ...]
    pieces: tuple[str, ...]
    """The kernels of schedule `layer` that it stands for."""
    times: tuple[KernelTime, ...]
    alone_s: float
    """Latency of these on schedule `layer`."""
    alone_bytes: int
    """Their DRAM traffic."""
    reason: CutReason

    @property
    def latency_s(self) -> float:
        """Σ over its kernels."""
        return math.fsum(time.latency_s for time in self.times)

    @property
    def dram_bytes(self) -> int:
        """Its DRAM traffic."""
        return sum(int(time.kernel.cost.dram_bytes) for time in self.times)

    @property
    def workspace_bytes(self) -> int:
        """The most local memory that one of its kernels holds; 0 for a kernel of schedule `layer`."""
        return max(int(time.kernel.cost.workspace_bytes) for time in self.times)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cut of a network for a device, and what it is compared with."""

    prediction: Prediction
    segments: tuple[PlannedSegment, ...]
    layer: Prediction
    block: Prediction
    lower_bound_s: float
    """No cut into kernels that stop at global means can be under it, however many results its kernels have."""
    longest: int
    """Kernels of schedule `layer` that one segment may have."""
    complete: bool
    """Whether it is the best of all cuts into segments; if not, the graph has too many branches to visit them all."""
    given: bool
    """Whether the cut is the user's own."""
    visited: int
    considered: int
    costed: int

    @property
    def latency_s(self) -> float:
        """Waterline latency of the plan."""
        return self.prediction.latency_s

    @property
    def gap(self) -> float:
        """By how much at most, relatively, any cut could be faster: 0.05 means that none is under latency / 1.05."""
        return self.latency_s / self.lower_bound_s - 1 if self.lower_bound_s else 0.0

    def to_json(self, *, indent: int | None = 2) -> str:
        """The plan as one JSON object (perfmodel.plan_record.PlanRecord)."""
        from perfmodel.plan_record import PlanRecord

        return PlanRecord.of(self).model_dump_json(indent=indent)


def plan(
    model: str | Network,
    hardware: str | PathLike[str] | DeviceSpec,
    *,
    batch: int | None = None,
    resolution: int | None = None,
    dtype: str | None = None,
    autocast: str | None = None,
    longest: int = LONGEST,
    partition: Partition | None = None,
) -> Plan:
    """The best cut of `model` into kernels on `hardware`, with the reason for each cut.

    The cut is the best of all into kernels with one result each and at most `longest` kernels of schedule `layer`; with `partition` (the
    layers of each kernel), it is that one, each part costed as a fused kernel. Raises a PerfmodelError whose sentence says what is wrong;
    PlanError for a part that has no fused form or does not fit the local memory, with numbers.

    >>> plan("mobilenetv2_100", "jetson-agx-orin").latency_s < 50e-6
    True
    """
    if longest < 1:
        raise PlanError(f"the longest segment must have at least 1 layer kernel, not {longest!r}")
    precision = Precision.of(dtype, autocast)
    device = hardware if isinstance(hardware, DeviceSpec) else load(hardware)
    if isinstance(model, Network):
        if batch is not None or resolution is not None:
            raise PerfmodelError(
                f"the network {model.name} already has its batch and resolution; build it with others to change them"
            )
        network = model
    else:
        network = build(text("model", model), batch=1 if batch is None else batch, resolution=resolution)
    peak = device.matrix_peak(precision.matrix)
    parts = pieces(network.graph, Costs(device, precision), precision)
    cut = best_cut(parts, longest=longest) if partition is None else given_cut(parts, partition)

    def placed(schedule: str) -> Prediction:
        work = cut.kernels() if schedule == AUTO else kernels(network.graph, precision, schedule, device=device)
        return place(network, device, precision, peak, work, schedule, "nhwc", "waterline")

    prediction, layer, block = (placed(schedule) for schedule in (AUTO, "layer", BLOCK))
    return Plan(
        prediction=prediction,
        segments=_segments(cut, prediction, longest, given=partition is not None),
        layer=layer,
        block=block,
        lower_bound_s=lower_bound_s(parts),
        longest=longest,
        complete=cut.complete,
        given=partition is not None,
        visited=cut.visited,
        considered=cut.considered,
        costed=cut.costed,
    )


def lower_bound_s(parts: Pieces) -> float:
    """A latency that no cut can be under, whatever its kernels: they may have several results, and as many layers as they like.

    Pieces without a fused form take their own time. The others do all of their arithmetic and read or write at least every weight once, and
    every tensor that crosses to the network's outside, to a piece without a fused form, or over a global mean that itself reads it.
    """
    machine = parts.costs.machine
    before: list[int] = []
    for piece in parts.all:  # what each needs, however far back
        needed = 0
        for source in piece.sources:
            needed |= before[source] | 1 << source
        before.append(needed)
    means = [piece.index for piece in parts.all if _is_mean(parts, piece.index)]
    inside = {piece.index for piece in parts.all if not piece.obstacle}
    whole = _computed_whole(parts)
    made = {access.tensor for index in inside for access in parts.all[index].kernel.writes}
    macs = moved = 0
    entering: dict[str, int] = {}
    for index in inside:
        for access in parts.all[index].kernel.reads:
            if access.tensor not in made and (access.role == "weight" or index in whole):
                entering[access.tensor] = max(entering.get(access.tensor, 0), access.bytes)
    for index in inside & whole:
        piece = parts.all[index]
        macs += int(piece.kernel.cost.macs)
        over_mean = any(before[reader] >> mean & 1 for mean in means if mean in piece.readers for reader in piece.readers)
        leaves = over_mean or not piece.readers or not piece.readers <= inside
        written = sum(access.bytes for access in piece.kernel.writes)
        moved += written * (2 if over_mean else 1) if leaves else 0
    moved += sum(entering.values())
    alone_s = math.fsum(piece.time_s for piece in parts.all if piece.obstacle)
    return alone_s + max(OPS_PER_MAC * macs / machine.peak_ops_per_s, moved / machine.bandwidth_bytes_per_s)


def _computed_whole(parts: Pieces) -> set[int]:
    """Pieces whose whole result some other needs: what strides skip, and what leads there alone, a fused kernel need not compute."""
    whole: set[int] = set()
    for piece in reversed(parts.all):
        sizes = {access.tensor: access.bytes for access in piece.kernel.writes}
        reads = [
            (reader, access) for reader in piece.readers for access in parts.all[reader].kernel.reads if access.tensor in sizes
        ]
        if not reads or any(
            access.bytes >= sizes[access.tensor] and (reader in whole or parts.all[reader].obstacle) for reader, access in reads
        ):
            whole.add(piece.index)
    return whole


def _is_mean(parts: Pieces, index: int) -> bool:
    return any(isinstance(parts.graph.nodes[name].layer, GlobalAveragePool) for name in parts.all[index].kernel.layers)


# -- a cut of the user's own -------------------------------------------------------------------------------------------


def given_cut(parts: Pieces, partition: Partition) -> Cut:
    """The cut that a user names, if each part is a segment that has a fused form and fits. Raises PlanError."""
    piece_of = {layer: piece.index for piece in parts.all for layer in piece.kernel.layers}
    masks: list[int] = []
    taken: dict[int, int] = {}
    for number, part in enumerate(partition, start=1):
        for layer in part:
            if layer not in piece_of:
                raise PlanError(str(UnknownNameError("layer in the partition", layer, piece_of)))
            if taken.setdefault(piece_of[layer], number) != number:
                raise PlanError(
                    f"kernel {number} of the partition splits {parts.all[piece_of[layer]].kernel.name} at layer {layer}, which one kernel "
                    f"of schedule layer has as a whole; name {', '.join(parts.all[piece_of[layer]].kernel.layers)} together"
                )
        masks.append(sum(1 << index for index in {piece_of[layer] for layer in part}))
    named = {layer for part in partition for layer in part}
    missing = [layer for layer in piece_of if layer not in named]
    if missing:
        raise PlanError(f"the partition leaves out {len(missing)} layers, the first is {missing[0]}; name every layer once")
    masks.sort(key=int.bit_length)
    for mask in masks:
        _require_segment(parts, mask, partition)
    return Cut(
        pieces=parts,
        segments=tuple(masks),
        times=tuple(parts.time(mask) for mask in masks),
        complete=True,
        visited=0,
        considered=0,
        costed=len(masks),
    )


def _require_segment(parts: Pieces, mask: int, partition: Partition) -> None:
    first = parts.layers(mask)[0]
    number = next(number for number, part in enumerate(partition, start=1) if first in part)
    which = f"kernel {number} of the partition ({first}, …)"
    members = [parts.all[index] for index in bits(mask)]
    if len(members) == 1:
        return
    for piece in members:
        if piece.obstacle:
            raise PlanError(f"{which}: {piece.obstacle}; give it a kernel of its own")
    for piece in members[:-1]:
        outside = [parts.all[reader].kernel.name for reader in piece.readers if not mask >> reader & 1]
        if outside or not piece.readers:
            raise PlanError(
                f"{which} has two results, {piece.kernel.name} ({'read by ' + outside[0] if outside else 'a result of the network'}) and "
                f"{members[-1].kernel.name}; a fused kernel makes one, so split it"
            )
    time = parts.time(mask)
    if time.obstacle:
        raise PlanError(f"{which}: {parts.obstacle(mask)}; split it there")
    if time.time_s == math.inf:
        raise PlanError(f"{which} {parts.too_large(mask)}; split it")


# -- why each cut ------------------------------------------------------------------------------------------------------


def _segments(cut: Cut, prediction: Prediction, longest: int, *, given: bool) -> tuple[PlannedSegment, ...]:
    times = iter(prediction.times)
    found = []
    for mask in cut.segments:
        members = [cut.pieces.all[index] for index in bits(mask)]
        found.append(
            PlannedSegment(
                name=cut.pieces.label(mask),
                layers=tuple(cut.pieces.layers(mask)),
                pieces=tuple(piece.kernel.name for piece in members),
                times=tuple(next(times) for _ in cut.pieces.kernels(mask)),
                alone_s=math.fsum(piece.time_s for piece in members),
                alone_bytes=sum(int(piece.kernel.cost.dram_bytes) for piece in members),
                reason=_reason(cut, mask, longest, given=given),
            )
        )
    return tuple(found)


def _reason(cut: Cut, mask: int, longest: int, *, given: bool) -> CutReason:
    """Why `mask` was not fused with what reads its result."""
    parts = cut.pieces
    root = parts.root(mask)
    if not root.readers:
        return CutReason(kind="result", sentence="it makes the network's result")
    if root.obstacle:
        return CutReason(kind="no fused form", sentence=root.obstacle)
    readers = [other for other in cut.segments if any(other >> reader & 1 for reader in root.readers)]
    if len(readers) > 1:
        names = ", ".join(parts.label(other) for other in readers)
        return CutReason(kind="several readers", sentence=f"{len(readers)} kernels read its result: {names}")
    (reader,) = readers
    if parts.root(reader).obstacle:
        return CutReason(kind="no fused form", sentence=parts.root(reader).obstacle)
    both = mask | reader
    time = parts.time(both)
    if time.obstacle:
        detail = parts.obstacle(both)
        if not _has_mean(parts, both):
            return CutReason(kind="no fused form", sentence=detail)
        if "needs" not in detail:
            detail = f"with {parts.label(reader)} it would have to wait for a global mean that gates nothing"
        return CutReason(kind="global mean", sentence=detail)
    if time.time_s == math.inf:
        return CutReason(kind="local memory", sentence=f"with {parts.label(reader)} it {parts.too_large(both)}")
    apart_s = parts.time(mask).time_s + parts.time(reader).time_s
    if both.bit_count() > longest and time.time_s < apart_s * (1 - SAME):
        count = f"have {both.bit_count()} layer kernels, more than the {longest} allowed"
        sentence = f"with {parts.label(reader)} it would take {si(time.time_s, 's')} instead of {si(apart_s, 's')}, but {count}"
        return CutReason(kind="length", sentence=sentence, together_s=time.time_s)
    return _no_gain(parts, both, reader, time.time_s, apart_s, given=given)


def _has_mean(parts: Pieces, mask: int) -> bool:
    return any(_is_mean(parts, index) for index in bits(mask))


def _no_gain(parts: Pieces, both: int, reader: int, together_s: float, apart_s: float, *, given: bool) -> CutReason:
    label = parts.label(reader)
    if together_s < apart_s * (1 - SAME):
        sentence = f"the partition ends it here; with {label} it would take {si(together_s, 's')} instead of {si(apart_s, 's')}"
        kind: CutKind = "given" if given else "no gain"
        return CutReason(kind=kind, sentence=sentence, together_s=together_s)
    if together_s <= apart_s * (1 + SAME):
        sentence = f"with {label} it would be no faster: both take {si(apart_s, 's')} apart and together"
        return CutReason(kind="no gain", sentence=sentence, together_s=together_s)
    choices = parts.choices(both)
    macs = sum(int(parts.all[index].kernel.cost.macs) for index in bits(both))
    again = sum(int(choice.totals.macs) for choice in choices) / macs - 1 if macs else 0.0
    halo = sum(float(m.bytes) for choice in choices for m in choice.movements if m.kind == "halo")
    machine = parts.costs.machine
    local = f"in {si(machine.local_bytes, 'B')} of local memory, fused with {label}"
    slower = f"{si(together_s, 's')} instead of {si(apart_s, 's')}"
    if again > SAME and any(
        _held_by_arithmetic(choice, machine.peak_ops_per_s, machine.bandwidth_bytes_per_s) for choice in choices
    ):
        sentence = (
            f"{local}, it would compute {percent(again)} of its MACs again, which costs more than the traffic it saves: {slower}"
        )
        return CutReason(kind="recompute", sentence=sentence, together_s=together_s)
    if halo:
        sentence = f"{local}, it would read {si(halo, 'B')} of halo again, which costs more than the traffic it saves: {slower}"
        return CutReason(kind="re-read", sentence=sentence, together_s=together_s)
    return CutReason(kind="no gain", sentence=f"{local}, it would be slower: {slower}", together_s=together_s)


def _held_by_arithmetic(choice: Choice, peak_ops_per_s: float, bandwidth_bytes_per_s: float) -> bool:
    moved: Sequence[float] = [float(movement.bytes) for movement in choice.movements]
    return bool(OPS_PER_MAC * choice.totals.macs / peak_ops_per_s >= sum(moved) / bandwidth_bytes_per_s)
