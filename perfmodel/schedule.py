"""Schedules: how the operations of a network are cut into kernels, and what each kernel therefore reads and writes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import sympy

from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.kernel import Kernel
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import Shape, expression
from perfmodel.layers.graph import Graph
from perfmodel.lowering import COMPILED, EAGER, LIBRARY, Access, Operation, Stack, lower
from perfmodel.precision import Precision

if TYPE_CHECKING:
    from perfmodel.segments import Costs, Pieces

Partition = Sequence[Sequence[str]]
"""A user's own schedule: the layers of each kernel, by name."""

LAYOUTS: Final = ("nhwc", "nchw")
BLOCK: Final = "block"
"""The schedule whose kernels depend on the device: each residual block is one fused program, or two around a global mean."""
AUTO: Final = "auto"
"""The schedule whose kernels are the best cut of the network for the device, within blocks and across them."""

MAX_FUSED_CONCAT: Final = 8
"""torch.compile copies the inputs of a longer concatenation in a kernel of its own."""
MAX_INLINED_READS: Final = 4
"""Tensors up to which torch.compile computes a pointwise value anew for each of several readers (`realize_reads_threshold`)."""


class ScheduleError(PerfmodelError):
    """A schedule that does not exist, or a partition that does not fit its network."""


Grouping = Callable[[Sequence[Operation]], list[list[Operation]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A rule that cuts any network into kernels."""

    name: str
    stack: Stack
    group: Grouping
    summary: str


def _readers(operations: Sequence[Operation]) -> dict[str, int]:
    """How many operations read each tensor."""
    readers: dict[str, int] = {}
    for operation in operations:
        for tensor in {access.tensor for access in operation.reads}:
            readers[tensor] = readers.get(tensor, 0) + 1
    return readers


def _one_each(operations: Sequence[Operation]) -> list[list[Operation]]:
    return [[operation] for operation in operations]


def _fuse(units: Iterable[Sequence[Operation]], may_join: Callable[[Operation, Operation], bool]) -> list[list[Operation]]:
    """Greedy fusion in execution order, of operations or of chains that stay together.

    A chain joins the latest kernel that it depends on, if `may_join(its last operation, producer)` allows it (`producer` is the operation
    of that kernel whose result it reads); otherwise it starts a kernel. All of its other inputs then come from that kernel or from earlier
    ones, so the kernels can run in order.
    """
    groups: list[list[Operation]] = []
    origin: dict[str, tuple[int, Operation]] = {}
    for unit in units:
        producers = [origin[access.tensor] for operation in unit for access in operation.reads if access.tensor in origin]
        latest = max((index for index, _ in producers), default=-1)
        if latest >= 0 and all(may_join(unit[-1], producer) for index, producer in producers if index == latest):
            groups[latest] += [operation for operation in unit if operation not in groups[latest]]
        else:
            latest = len(groups)
            groups.append(list(unit))
        for operation in unit:
            for access in operation.writes:
                origin[access.tensor] = (latest, operation)
    return groups


def _is_long_concat(operation: Operation) -> bool:
    return operation.kind == "concat" and len(operation.reads) > MAX_FUSED_CONCAT


_POINTWISE: Final = ("elementwise", "norm", "copy")
_OF_THE_LIBRARY: Final = ("layout", "slice")
"""Copies that a library's call makes before its own kernel."""


def _pointwise(operations: Sequence[Operation]) -> list[list[Operation]]:
    """torch.compile: everything pointwise between two library calls is one kernel, and a mean or norm joins its producer.

    What one other step reads is computed there. A kernel runs over the elements of one tensor: what spreads a smaller one over more (a gate
    over an image) starts another.
    """

    def may_join(operation: Operation, producer: Operation) -> bool:
        if producer.materialised or producer.role in ("matrix", "opaque"):
            return False
        if operation.kind in _OF_THE_LIBRARY or producer.kind in _OF_THE_LIBRARY:
            return False
        if _more(operation.shape.elements, producer.shape.elements):
            return False
        if _is_long_concat(operation) or _is_long_concat(producer):
            return False
        return operation.role in ("elementwise", "norm", "reduction", "copy")

    return _fuse(_inlined(operations), may_join)


def _inlined(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Chains: each operation behind those whose results it computes itself, since nothing else reads them or they are quickly computed."""
    readers: dict[str, list[Operation]] = {}
    for operation in operations:
        for tensor in dict.fromkeys(access.tensor for access in operation.reads):
            readers.setdefault(tensor, []).append(operation)
    inlined: dict[str, list[Operation]] = {}
    for operation in operations:
        tensors = dict.fromkeys(access.tensor for access in operation.reads)
        chain = list({part.name: part for tensor in tensors for part in inlined.get(tensor, [])}.values())
        chain.append(operation)
        (*_, result) = operation.writes
        read_by = readers.get(result.tensor, [])
        few = len(read_by) == 1 or _tensors_read(chain) <= MAX_INLINED_READS
        if read_by and few and _can_be_inlined(operation) and all(map(_takes_in, read_by)):
            inlined[result.tensor] = chain
        else:
            yield chain


def _tensors_read(chain: Sequence[Operation]) -> int:
    made = {access.tensor for operation in chain for access in operation.writes}
    return len({access.tensor for operation in chain for access in operation.reads} - made)


def _can_be_inlined(operation: Operation) -> bool:
    if operation.materialised or operation.kind in ("concat", *_OF_THE_LIBRARY):
        return False
    return operation.role in _POINTWISE and operation.writes[0].role != "weight"


def _takes_in(operation: Operation) -> bool:
    pointwise = operation.role in (*_POINTWISE, "reduction") and operation.kind not in _OF_THE_LIBRARY
    return pointwise and not _is_long_concat(operation)


def _layer(operations: Sequence[Operation]) -> list[list[Operation]]:
    """An ideal per-layer library: what follows a convolution elementwise, at its own size and for it alone, is its epilogue."""
    readers = _readers(operations)

    def may_join(operation: Operation, producer: Operation) -> bool:
        return (
            operation.role in ("elementwise", "norm")
            and _same_size(operation.shape, producer.shape)
            and readers[producer.writes[0].tensor] == 1
            and producer.role in ("matrix", "elementwise", "norm", "reduction")
        )

    return _fuse(_one_each(operations), may_join)


def _same_size(left: Shape, right: Shape) -> bool:
    """Whether two shapes are the same channels of the same pixels, however the pixels are arranged."""
    return bool(left == right or (left.C == right.C and left.elements == right.elements))


SCHEDULES: Final = {
    schedule.name: schedule
    for schedule in (
        Schedule(
            name="eager", stack=EAGER, group=_one_each, summary="every operation of the framework is a kernel (PyTorch eager)"
        ),
        Schedule(
            name="pointwise",
            stack=COMPILED,
            group=_pointwise,
            summary="convolutions are library calls; chains of elementwise operations, norms and means are fused (torch.compile)",
        ),
        Schedule(
            name="layer",
            stack=LIBRARY,
            group=_layer,
            summary="a convolution with its norm folded, and bias, activation and residual in its epilogue (an ideal per-layer library)",
        ),
    )
}


FUSED: Final = (BLOCK, AUTO)
"""Schedules that need a device: its local memory decides what can be fused."""
NAMES: Final = (*SCHEDULES, *FUSED)
"""Every schedule by name, from the most kernels to the fewest."""


def check(name: str) -> str:
    """The name of a schedule as it is spelled here; raises UnknownNameError."""
    key = name.lower()
    if key not in NAMES:
        raise UnknownNameError("schedule", name, NAMES)
    return key


def kernels(
    graph: Graph,
    precision: Precision,
    schedule: str | Partition = "layer",
    *,
    layout: str = "nhwc",
    device: DeviceSpec | None = None,
) -> tuple[Kernel, ...]:
    """The kernels of `graph` in the order they run, each with the tensors it moves.

    `schedule` is a name, or a partition: the layers of each kernel (then folding and types are those of schedule `layer`). Schedules
    `block` and `auto` need the `device` for which their programs are tiled. Raises ScheduleError, UnknownNameError, or HardwareError
    where the device has no figure for its local memory.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    if not isinstance(schedule, str):
        operations = lower(graph, precision, LIBRARY, layout=layout)
        return _of_groups(_by_partition(graph, operations, schedule))
    key = check(schedule)
    rule = SCHEDULES["layer" if key in FUSED else key]
    by_layer = _of_groups(rule.group(lower(graph, precision, rule.stack, layout=layout)))
    if key not in FUSED:
        return by_layer
    if device is None:
        raise ScheduleError(f"schedule {key!r} is tiled for a device; name one")
    if key == BLOCK:
        from perfmodel.fusion import fuse_blocks  # brings NumPy, which the other schedules do without

        return fuse_blocks(graph, by_layer, precision, device)
    from perfmodel.cut import best_cut
    from perfmodel.segments import Costs

    return best_cut(pieces(graph, Costs(device, precision), precision)).kernels()


def _of_groups(groups: Sequence[Sequence[Operation]]) -> tuple[Kernel, ...]:
    needed = _read_by_others(groups)
    return tuple(_kernel(group, needed[index]) for index, group in enumerate(groups))


def pieces(graph: Graph, costs: Costs, precision: Precision) -> Pieces:
    """The kernels of schedule `layer`, as what segments are made of."""
    from perfmodel.segments import Pieces

    operations = lower(graph, precision, LIBRARY)
    return Pieces(graph, operations, _of_groups(_layer(operations)), costs)


def _by_partition(graph: Graph, operations: Sequence[Operation], partition: Partition) -> list[list[Operation]]:
    """The operations of each part, parts in an order in which they can run."""
    part_of: dict[str, int] = {}
    for index, part in enumerate(partition):
        for layer in part:
            if layer not in graph.nodes:
                raise ScheduleError(str(UnknownNameError("layer in the partition", layer, graph.nodes)))
            if layer in part_of:
                raise ScheduleError(f"the partition names layer {layer} twice; each layer belongs to one kernel")
            part_of[layer] = index
    missing = [name for name, node in graph.nodes.items() if node.layer.role != "input" and name not in part_of]
    if missing:
        raise ScheduleError(f"the partition leaves out {len(missing)} layers, the first is {missing[0]}; name every layer once")
    groups: list[list[Operation]] = [[] for _ in partition]
    made_by: dict[str, int] = {}
    for operation in operations:
        homes = {part_of[layer] for layer in operation.layers}
        if len(homes) > 1:
            raise ScheduleError(f"layers {' and '.join(operation.layers)} are folded into one, so they must share a kernel")
        (home,) = homes
        groups[home].append(operation)
        made_by.update((access.tensor, home) for access in operation.writes)
    before = [
        {made_by[a.tensor] for op in group for a in op.reads if a.tensor in made_by} - {i} for i, group in enumerate(groups)
    ]
    ready = [index for index, needed in enumerate(before) if not needed]
    order: list[int] = []
    while ready:  # the earliest part that can run, next
        index = heapq.heappop(ready)
        order.append(index)
        for other, needed in enumerate(before):
            if index in needed:
                needed.discard(index)
                if not needed:
                    heapq.heappush(ready, other)
    if len(order) < len(groups):
        stuck = next(index for index in range(len(groups)) if index not in order)
        seen: list[int] = []
        while stuck not in seen:  # the first that is stuck may wait behind the cycle; what it waits for leads into it
            seen.append(stuck)
            stuck = min(before[stuck])
        raise ScheduleError(
            f"kernel {stuck + 1} of the partition ({partition[stuck][0]}, …) waits for a kernel that waits for it; split it"
        )
    return [groups[index] for index in order if groups[index]]


def _read_by_others(groups: Sequence[Sequence[Operation]]) -> list[set[str]]:
    """For each group, the tensors it must leave in memory: what others read and do not make, and what nobody reads (results)."""
    made = [{access.tensor for operation in group for access in operation.writes} for group in groups]
    read = [{access.tensor for operation in group for access in operation.reads} for group in groups]
    elsewhere = set().union(*(reads - own for reads, own in zip(read, made, strict=True)))
    anywhere = set().union(*read)
    return [{tensor for tensor in own if tensor in elsewhere or tensor not in anywhere} for own in made]


def _merged(accesses: Iterable[Access]) -> tuple[Access, ...]:
    """One access per tensor: a kernel that needs a tensor twice reads it once, as much of it as its most demanding operation."""
    merged: dict[str, Access] = {}
    parts: dict[str, dict[str, Access]] = {}
    for access in accesses:
        if access.part is not None:
            parts.setdefault(access.tensor, {})[access.part] = access
            access = _joined(parts[access.tensor].values())  # noqa: PLW2901 - all parts seen so far
        seen = merged.get(access.tensor)
        if seen is None or _more(access.elements, seen.elements):
            merged[access.tensor] = access
    return tuple(merged.values())


def _joined(parts: Iterable[Access]) -> Access:
    """Different parts of one tensor as one access, of no more than the whole."""
    read = list(parts)
    elements = min(sum(access.elements for access in read), read[0].of)
    return replace(read[0], elements=elements)


def _more(left: object, right: object) -> bool:
    if isinstance(left, sympy.Basic) or isinstance(right, sympy.Basic):
        return (expression(left) - expression(right)).is_positive is True
    return left > right  # type: ignore[operator,no-any-return]


def _kernel(group: Sequence[Operation], needed: set[str]) -> Kernel:
    made = {access.tensor for operation in group for access in operation.writes}
    reads = _merged(a for operation in group for a in operation.reads if a.tensor not in made)
    writes = tuple(a for operation in group for a in operation.writes if a.tensor in needed)
    lead = next((operation for operation in group if operation.role == "matrix"), group[0])
    return Kernel(
        name=lead.name,
        kind=_kind(group, lead),
        layers=tuple(dict.fromkeys(layer for operation in group for layer in operation.layers)),
        block=lead.block,
        reads=reads,
        writes=writes,
        cost=Cost(
            macs=sum(operation.macs for operation in group),
            vector_ops=sum(operation.vector_ops for operation in group),
            special_ops=sum(operation.special_ops for operation in group),
            read_activation_bytes=sum(a.bytes for a in reads if a.role == "activation"),
            read_weight_bytes=sum(a.bytes for a in reads if a.role == "weight"),
            written_activation_bytes=sum(a.bytes for a in writes if a.role == "activation"),
            written_weight_bytes=sum(a.bytes for a in writes if a.role == "weight"),
        ),
        operations=tuple(group),
    )


def _kind(group: Sequence[Operation], lead: Operation) -> str:
    if len(group) == 1 or lead.role == "matrix":
        return lead.kind
    if any(operation.role == "reduction" for operation in group):
        return "reduction"
    return "pointwise"
