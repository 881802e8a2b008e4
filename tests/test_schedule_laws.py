"""What holds for the kernels of any network under any schedule or partition."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.kernel import Kernel
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.concat import Concat
from perfmodel.layers.dims import Shape
from perfmodel.layers.element import ELEMENT_BYTES
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.layers.pooling import GlobalAveragePool
from perfmodel.precision import Precision
from perfmodel.schedule import SCHEDULES, ScheduleError, kernels
from tests.brute_force import examples
from tests.small_networks import block_networks, graphs

FP32 = Precision(dtype="fp32")
FP16 = Precision(dtype="fp16")
AUTOCAST = Precision(dtype="fp32", autocast="fp16")


def traffic(run: tuple[Kernel, ...]) -> int:
    return sum(kernel.cost.dram_bytes for kernel in run)


precisions = st.sampled_from([FP32, FP16, AUTOCAST, Precision(dtype="int8"), Precision(dtype="fp32", autocast="bf16")])
PURE = {4: FP32, 2: FP16}


def folded_norms(graph: Graph) -> dict[str, str]:
    """Each norm that is the only reader of a convolution or product, and that layer."""
    found = {}
    for name, readers in graph.consumers.items():
        if graph.nodes[name].layer.role == "matrix" and len(readers) == 1 and isinstance(readers[0].layer, BatchNorm):
            found[readers[0].name] = name
    return found


def compulsory_elements(graph: Graph) -> int:
    """Elements of the input (as far as any layer reads it), of all weights with norms folded, and of all results: each once."""
    norms = folded_norms(graph)
    total = 0
    for name, node in graph.nodes.items():
        if node.layer.role == "input":
            total += max(
                elements
                for reader in graph.consumers[name]
                for source, elements in zip(reader.inputs, graph.counts[reader.name].reads, strict=True)
                if source == name
            )
        elif name not in norms:
            total += sum(graph.counts[name].weights)
            if name in norms.values() and not getattr(node.layer, "bias", False):
                total += node.shape.C
        if name in graph.outputs:
            total += node.shape.elements
    return total


def check_run(graph: Graph, run: tuple[Kernel, ...]) -> None:
    """What holds for the kernels of any schedule."""
    assert sum(kernel.cost.macs for kernel in run) == graph.macs
    for kernel in run:
        for role, read, written in (
            ("activation", kernel.cost.read_activation_bytes, kernel.cost.written_activation_bytes),
            ("weight", kernel.cost.read_weight_bytes, kernel.cost.written_weight_bytes),
        ):
            assert read == sum(a.elements * ELEMENT_BYTES[a.dtype] for a in kernel.reads if a.role == role)
            assert written == sum(a.elements * ELEMENT_BYTES[a.dtype] for a in kernel.writes if a.role == role)
        assert kernel.cost.read_halo_bytes == 0
        assert len({a.tensor for a in kernel.reads}) == len(kernel.reads)
        assert kernel.writes, "a kernel whose results nobody can see"

    every_layer = {name for name, node in graph.nodes.items() if node.layer.role != "input"}
    assert {layer for kernel in run for layer in kernel.layers} == every_layer

    parameters = {name for name, _, _ in graph.weights()} | {f"{layer}.bias" for layer in folded_norms(graph).values()}
    there = parameters | {name for name, node in graph.nodes.items() if node.layer.role == "input"}
    types_in_memory: dict[str, str] = {}
    for kernel in run:
        assert {a.tensor for a in kernel.reads} <= there
        for access in kernel.reads:
            assert types_in_memory.get(access.tensor, access.dtype) == access.dtype
        for access in kernel.writes:
            assert access.tensor not in there, f"{access.tensor} is written twice"
            there.add(access.tensor)
            types_in_memory[access.tensor] = access.dtype

    read = {a.tensor for kernel in run for a in kernel.reads}
    results = {a.tensor for kernel in run for a in kernel.writes if not a.tensor.endswith(".indices")} - read
    assert len(results) == len(graph.outputs)


@examples(300)
@given(graphs(), precisions, st.sampled_from(sorted(SCHEDULES)), st.sampled_from(["nhwc", "nchw"]))
def test_kernels_do_all_the_work_in_an_order_that_can_run(graph: Graph, precision: Precision, schedule: str, layout: str) -> None:
    check_run(graph, kernels(graph, precision, schedule, layout=layout))


@examples(200)
@given(graphs(), st.sampled_from(sorted(SCHEDULES)), st.sampled_from(sorted(PURE)))
def test_no_schedule_moves_less_than_the_compulsory_traffic(graph: Graph, schedule: str, size: int) -> None:
    assert traffic(kernels(graph, PURE[size], schedule)) >= size * compulsory_elements(graph)


@examples(200)
@given(graphs())
def test_fusion_never_adds_traffic_to_eager(graph: Graph) -> None:
    """In one type that needs no casts: fp32, where no norm is materialised."""
    eager, pointwise, layer = (traffic(kernels(graph, FP32, schedule)) for schedule in ("eager", "pointwise", "layer"))
    assert pointwise <= eager
    assert layer <= eager


@examples(120)
@given(graphs())
def test_fusion_keeps_the_arithmetic_and_folding_lowers_it(graph: Graph) -> None:
    def arithmetic(schedule: str) -> tuple[int, int]:
        run = kernels(graph, FP16, schedule)
        return sum(k.cost.vector_ops for k in run), sum(k.cost.special_ops for k in run)

    counts = graph.counts.values()
    as_counted = (sum(count.vector_ops for count in counts), sum(count.special_ops for count in counts))
    assert arithmetic("eager") == as_counted
    # what is quickly computed is computed by each kernel that reads it, and an elementwise layer counts in each of them
    often = Counter(operation.name for kernel in kernels(graph, FP16, "pointwise") for operation in kernel.operations)
    again = [(count, often[name] - 1) for name, count in graph.counts.items() if often[name] > 1]
    assert all(graph.nodes[name].layer.role in ("elementwise", "norm") for name, times in often.items() if times > 1)
    more = (sum(count.vector_ops * times for count, times in again), sum(count.special_ops * times for count, times in again))
    assert arithmetic("pointwise") == (as_counted[0] + more[0], as_counted[1] + more[1])
    folded = folded_norms(graph)
    # a folded norm is gone, and its convolution has a bias to add
    biases = [graph.counts[layer].writes for layer in folded.values() if not graph.nodes[layer].layer.bias]
    vector_ops = as_counted[0] - sum(graph.counts[norm].vector_ops for norm in folded) + sum(biases)
    special_ops = as_counted[1] - sum(graph.counts[norm].special_ops for norm in folded)
    assert arithmetic("layer") == (vector_ops, special_ops)
    assert vector_ops <= as_counted[0]


@examples(120)
@given(block_networks(), st.sampled_from(sorted(PURE)))
def test_networks_of_residual_blocks_move_least_with_the_ideal_library(graph: Graph, size: int) -> None:
    run = {schedule: kernels(graph, PURE[size], schedule) for schedule in SCHEDULES}
    for each in run.values():
        check_run(graph, each)
    assert traffic(run["layer"]) < traffic(run["pointwise"])
    if size == 4:  # in fp16 a materialised norm can cost what fusion saves
        assert traffic(run["pointwise"]) < traffic(run["eager"])
    assert len(run["layer"]) <= len(run["pointwise"]) <= len(run["eager"])


@pytest.mark.parametrize(
    ("case", "layer", "pointwise"),
    [  # tensors of the input's size that each kernel moves
        ("diamond", [2, 2], [2]),
        ("mean", [2, 1], [1]),
        ("concat", [2, 2, 4], [3]),
    ],
)
def test_the_ideal_library_can_move_more_than_pointwise_fusion(case: str, layer: list[int], pointwise: list[int]) -> None:
    """Epilogues follow one reader at one size; pointwise fusion also takes what forks and joins again, means, concatenations."""
    builder = GraphBuilder()
    x = builder.input(Shape(2, 8, 6, 6))
    tensor, mean = 4 * x.shape.elements, 0
    y = builder.activation(x, "relu", name="a")
    if case == "diamond":
        builder.residual(builder.activation(y, "sigmoid"), y)
    elif case == "mean":
        builder.add(GlobalAveragePool(), y, name="mean")
        mean = 4 * 2 * 8
    else:
        builder.add(Concat(inputs=2), y, builder.activation(x, "silu"), name="cat")
    graph = builder.graph()
    for schedule, tensors in (("layer", layer), ("pointwise", pointwise)):
        moved = [kernel.cost.dram_bytes for kernel in kernels(graph, FP32, schedule)]
        moved[-1] -= mean
        assert moved == [tensor * count for count in tensors]
    assert sum(layer) > sum(pointwise)


def units(graph: Graph) -> list[list[str]]:
    """The layers in order, each convolution with the norm that folds into it."""
    norms = folded_norms(graph)
    norm_of = {layer: norm for norm, layer in norms.items()}
    names = [name for name, node in graph.nodes.items() if node.layer.role != "input" and name not in norms]
    return [[name, norm_of[name]] if name in norm_of else [name] for name in names]


@st.composite
def partitioned_graphs(draw: st.DrawFn) -> tuple[Graph, list[list[str]], list[list[str]]]:
    """A graph, its layers cut into consecutive kernels, and the same with some neighbours joined."""
    graph = draw(graphs())
    parts: list[list[str]] = []
    for unit in units(graph):
        if parts and draw(st.booleans()):
            parts[-1].extend(unit)
        else:
            parts.append(list(unit))
    joined: list[list[str]] = []
    for part in parts:
        if joined and draw(st.booleans()):
            joined[-1] = joined[-1] + part
        else:
            joined.append(part)
    return graph, parts, joined


@examples(200)
@given(partitioned_graphs(), precisions, st.randoms(use_true_random=False))
def test_any_partition_into_consecutive_layers_runs(
    case: tuple[Graph, list[list[str]], list[list[str]]], precision: Precision, shuffler: random.Random
) -> None:
    graph, parts, joined = case
    run = kernels(graph, precision, parts)
    check_run(graph, run)
    assert len(run) == len(parts)
    shuffled = [list(part) for part in parts]
    for part in [shuffled, *shuffled]:
        shuffler.shuffle(part)
    again = kernels(graph, precision, shuffled)
    check_run(graph, again)
    assert traffic(again) == traffic(run)
    assert traffic(kernels(graph, precision, joined)) <= traffic(run)


@examples(120)
@given(graphs(), st.sampled_from(sorted(PURE)))
def test_one_kernel_for_everything_moves_the_compulsory_traffic(graph: Graph, size: int) -> None:
    (kernel,) = kernels(graph, PURE[size], [[layer for unit in units(graph) for layer in unit]])
    assert kernel.cost.dram_bytes == size * compulsory_elements(graph)
    assert kernel.cost.macs == graph.macs


@examples(120)
@given(graphs(), precisions)
def test_the_layers_of_the_library_schedule_are_a_partition_that_gives_it_back(graph: Graph, precision: Precision) -> None:
    run = kernels(graph, precision, "layer")
    assert sorted(kernels(graph, precision, [kernel.layers for kernel in run]), key=str) == sorted(run, key=str)


@examples(120)
@given(graphs(), st.data())
def test_any_partition_runs_or_is_refused_as_cyclic(graph: Graph, data: st.DataObject) -> None:
    pieces = units(graph)
    homes = [data.draw(st.integers(0, 2)) for _ in pieces]
    parts = [[layer for unit, home in zip(pieces, homes, strict=True) if home == i for layer in unit] for i in range(3)]
    try:
        run = kernels(graph, FP16, parts)
    except ScheduleError as error:
        assert "waits for a kernel that waits for it" in str(error)
        number = int(str(error).split("kernel ")[1].split(" ")[0])
        assert number in cycles(graph, parts)
    else:
        check_run(graph, run)
        assert not cycles(graph, parts)


def cycles(graph: Graph, parts: list[list[str]]) -> set[int]:
    """Numbers of the parts that wait, directly or not, for themselves."""
    part_of = {layer: number for number, part in enumerate(parts, 1) for layer in part}
    waits: dict[int, set[int]] = {number: set() for number in part_of.values()}
    for name, node in graph.nodes.items():
        if name in part_of:
            waits[part_of[name]] |= {part_of[source] for source in node.inputs if source in part_of} - {part_of[name]}
    for _ in waits:
        for needed in waits.values():
            needed.update(*(waits[other] for other in set(needed)))
    return {number for number, needed in waits.items() if number in needed}
