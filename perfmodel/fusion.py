"""Schedule `block`: each residual block of a network as a fused program of the tensor machine, tiled for a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from perfmodel.hardware.spec import DeviceSpec
from perfmodel.kernel import NOT_FUSED, Kernel
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import Shape
from perfmodel.layers.element import element_bytes
from perfmodel.layers.graph import Graph
from perfmodel.lowering import Access, TensorRole
from perfmodel.machine.steps import FusionError
from perfmodel.precision import Precision
from perfmodel.tiling import Choice, Machine, Movement, TilingError, choose
from perfmodel.units import si

SUMS_DTYPE: Final = "fp32"


def fuse_blocks(graph: Graph, by_layer: Sequence[Kernel], precision: Precision, device: DeviceSpec) -> tuple[Kernel, ...]:
    """Replace the kernels of schedule `layer` that belong to a block by those of its fused programs.

    A block that has no fused form, of which no tiling fits the local memory, or whose best tiling recomputes so much that it would be
    slower, keeps its kernels, and their `tiling` says why. Raises HardwareError where the device has no figure for its local memory.
    """
    machine = Machine.of(device, precision.matrix)
    members: dict[str, list[Kernel]] = {}
    for kernel in by_layer:
        if kernel.block is not None:
            members.setdefault(kernel.block, []).append(kernel)
    chosen: dict[tuple[Block, Shape], tuple[str, tuple[Choice, ...] | str]] = {}
    fused: list[Kernel] = []
    for kernel in by_layer:
        name = kernel.block
        if name is None:
            fused.append(kernel)
            continue
        if kernel is not members[name][0]:
            continue  # done with the first of its block
        layers = [layer for layer, node in graph.nodes.items() if node.block == name]
        if {layer for member in members[name] for layer in member.layers} != set(layers):
            fused += _unfused(members[name], "shares a kernel with layers outside of the block")
            continue
        key = (graph.blocks[name], graph.nodes[layers[0]].input_shapes[0])
        if key not in chosen:
            chosen[key] = (name, _choose(graph, layers, machine, precision, name))
        first, choices = chosen[key]
        if isinstance(choices, str):
            fused += _unfused(members[name], choices)
            continue
        candidate = _kernels(name, first, graph.blocks[name], choices, members[name], layers)
        alone_s, fused_s = (sum(_time_s(k, machine) for k in work) for work in (members[name], candidate))
        if fused_s > alone_s * (1 + 1e-9):
            fused += _unfused(members[name], f"fused in {si(machine.local_bytes, 'B')} of local memory it would be slower")
        else:
            fused += candidate
    return tuple(fused)


def _time_s(kernel: Kernel, machine: Machine) -> float:
    """Waterline time."""
    arithmetic_s = kernel.cost.ops / machine.peak_ops_per_s
    return float(max(arithmetic_s, kernel.cost.dram_bytes / machine.bandwidth_bytes_per_s))


def _choose(graph: Graph, layers: Sequence[str], machine: Machine, precision: Precision, name: str) -> tuple[Choice, ...] | str:
    try:
        return choose(graph, layers, machine, element_bytes=element_bytes(precision.matrix_storage), name=name)
    except (FusionError, TilingError) as error:
        return str(error).removeprefix(f"{name}: ")


def _unfused(kernels: Sequence[Kernel], why: str) -> list[Kernel]:
    return [replace(kernel, tiling=f"{NOT_FUSED}{why}") for kernel in kernels]


def _kernels(
    name: str, first: str, block: Block, choices: Sequence[Choice], members: Sequence[Kernel], layers: Sequence[str]
) -> list[Kernel]:
    """The kernels of a block's programs, which were made for `first`, a block before it that is the same.

    What enters and leaves it has the names and types that its layers' kernels give it.
    """

    def own(other: str) -> str:
        return name + other.removeprefix(first) if other.startswith(f"{first}.") else other

    made = {access.tensor for kernel in members for access in kernel.writes}
    entering = next(a for kernel in members for a in kernel.reads if a.role == "activation" and a.tensor not in made)
    outside = Outside(
        inner=next(a.dtype for kernel in members for a in kernel.reads if a.role == "weight"),
        weights={a.tensor: a.dtype for kernel in members for a in kernel.reads if a.role == "weight"},
        entering=lambda _: entering,
        leaving=members[-1].writes[0],
    )
    return program_kernels(choices, outside, own, name=name, kind=block.kind, block=name, layers=layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What the layers' own kernels say of the tensors that cross the border of fused programs: their names and types in DRAM."""

    inner: str
    """Type of what stays between programs, and of weights not named."""
    weights: Mapping[str, str]
    """Types of weights."""
    entering: Callable[[str], Access]
    """By the name that a program gives an input: the tensor that it is."""
    leaving: Access


def program_kernels(
    choices: Sequence[Choice],
    outside: Outside,
    own: Callable[[str], str],
    *,
    name: str,
    kind: str,
    block: str | None,
    layers: Sequence[str],
) -> list[Kernel]:
    """A kernel for each program; `own` turns the programs' names, which may be those of the same layers elsewhere, into these `layers`'."""
    between = {
        own(tensor.name) for choice in choices[:-1] for tensor in choice.program.tensors if tensor.role in ("output", "sums")
    }
    kernels = []
    for index, choice in enumerate(choices):
        last = index == len(choices) - 1
        reads: list[Access] = []
        writes: list[Access] = []
        for movement in choice.movements:
            tensor, elements = own(movement.tensor.name), movement.elements
            dtype = SUMS_DTYPE if tensor.endswith(".sums") else outside.inner
            match movement.kind:
                case "weight":
                    stored = outside.weights.get(tensor, outside.inner)
                    reads.append(Access(tensor=tensor, elements=elements, dtype=stored, role="weight"))
                case "input" | "halo" if tensor in between:
                    reads.append(Access(tensor=tensor, elements=elements, dtype=dtype, role=_role(movement)))
                case "input" | "halo":
                    source = outside.entering(tensor)
                    reads.append(Access(tensor=source.tensor, elements=elements, dtype=source.dtype, role=_role(movement)))
                case "output" if last:
                    writes.append(Access(tensor=outside.leaving.tensor, elements=elements, dtype=outside.leaving.dtype))
                case _:
                    writes.append(Access(tensor=tensor, elements=elements, dtype=dtype))
        carried_out = {own(layer) for layer in choice.program.layers}
        done = tuple(layer for layer in layers if layer in carried_out)
        suffix = _suffix(index, len(choices))
        kernels.append(_kernel(f"{name}{suffix}", kind, block, choice, [a for a in reads if a.elements], writes, done))
    return kernels


def _suffix(index: int, count: int) -> str:
    """What tells the programs of one fused segment apart: what lies before its first global mean, between two, and after the last."""
    if count == 1:
        return ""
    if index == 0:
        return ".to_mean"
    return ".from_mean" if index == count - 1 else f".between_means_{index}"


def _role(movement: Movement) -> TensorRole:
    return "halo" if movement.kind == "halo" else "activation"


def _kernel(
    name: str,
    kind: str,
    block: str | None,
    choice: Choice,
    reads: Sequence[Access],
    writes: Sequence[Access],
    layers: Sequence[str],
) -> Kernel:
    def read(role: TensorRole) -> int:
        return sum(access.bytes for access in reads if access.role == role)

    return Kernel(
        name=name,
        kind=kind,
        layers=tuple(layers),
        block=block,
        reads=tuple(reads),
        writes=tuple(writes),
        cost=Cost(
            macs=choice.totals.macs,
            vector_ops=choice.totals.vector_ops,
            special_ops=choice.totals.special_ops,
            read_activation_bytes=read("activation"),
            read_weight_bytes=read("weight"),
            read_halo_bytes=read("halo"),
            written_activation_bytes=sum(access.bytes for access in writes),
            workspace_bytes=choice.totals.peak_local_bytes,
        ),
        tiling=f"{choice.program.remarks[0]}: {choice.reason}",
    )
