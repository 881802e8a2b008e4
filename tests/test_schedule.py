"""Schedules: which kernels each one launches, in which types, what they move."""

from collections.abc import Iterable

import pytest

from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.kernel import Kernel
from perfmodel.layers.arithmetic import Multiply
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.concat import Concat
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder, Tensor
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import AveragePool, GlobalAveragePool, MaxPool
from perfmodel.layers.softmax import Softmax
from perfmodel.layers.upsample import Upsample
from perfmodel.lowering import Access
from perfmodel.precision import Precision
from perfmodel.schedule import NAMES, SCHEDULES, ScheduleError, check, kernels
from tests.small_networks import small_block

FP32 = Precision(dtype="fp32")
FP16 = Precision(dtype="fp16")
AUTOCAST = Precision(dtype="fp32", autocast="fp16")

SMALL = Shape(2, 8, 6, 6)
PIXELS = SMALL.N * SMALL.H * SMALL.W


def start(shape: Shape = SMALL) -> tuple[GraphBuilder, Tensor]:
    builder = GraphBuilder()
    return builder, builder.input(shape)


def traffic(run: Iterable[Kernel]) -> int:
    return sum(kernel.cost.dram_bytes for kernel in run)


def listed(run: Iterable[Kernel]) -> list[str]:
    """Each kernel as `kind: layers`, the block's name left out."""
    return [f"{kernel.kind}: {' '.join(kernel.layers)}".replace("block.", "") for kernel in run]


def types(access: Iterable[Access]) -> str:
    return " ".join(a.dtype for a in access)


def typed(run: Iterable[Kernel]) -> list[str]:
    """Each kernel as `name: types read -> types written`."""
    return [f"{kernel.name}: {types(kernel.reads)} -> {types(kernel.writes)}" for kernel in run]


# --- what each block launches ---

EAGER = {
    "basic": [
        "conv: conv1",
        "batch_norm: bn1",
        "relu: bn1.act",
        "conv: conv2",
        "batch_norm: bn2",
        "add: add",
        "relu: act",
    ],
    "bottleneck": [
        "pointwise_conv: conv1",
        "batch_norm: bn1",
        "relu: bn1.act",
        "conv: conv2",
        "batch_norm: bn2",
        "relu: bn2.act",
        "pointwise_conv: conv3",
        "batch_norm: bn3",
        "add: add",
        "relu: act",
    ],
    "resnext": [
        "pointwise_conv: conv1",
        "batch_norm: bn1",
        "relu: bn1.act",
        "grouped_conv: conv2",
        "batch_norm: bn2",
        "relu: bn2.act",
        "pointwise_conv: conv3",
        "batch_norm: bn3",
        "add: add",
        "relu: act",
    ],
    "regnety": [
        "pointwise_conv: conv1",
        "batch_norm: bn1",
        "relu: bn1.act",
        "grouped_conv: conv2",
        "batch_norm: bn2",
        "relu: bn2.act",
        "global_average_pool: se.mean",
        "pointwise_conv: se.reduce",
        "bias_add: se.reduce",
        "relu: se.act",
        "pointwise_conv: se.expand",
        "bias_add: se.expand",
        "sigmoid: se.gate",
        "multiply: se.mul",
        "pointwise_conv: conv3",
        "batch_norm: bn3",
        "add: add",
        "relu: act",
    ],
    "mbconv": [
        "pointwise_conv: expand",
        "batch_norm: expand.bn",
        "silu: expand.bn.act",
        "depthwise_conv: spatial",
        "batch_norm: spatial.bn",
        "silu: spatial.bn.act",
        "global_average_pool: se.mean",
        "pointwise_conv: se.reduce",
        "bias_add: se.reduce",
        "silu: se.act",
        "pointwise_conv: se.expand",
        "bias_add: se.expand",
        "sigmoid: se.gate",
        "multiply: se.mul",
        "pointwise_conv: project",
        "batch_norm: project.bn",
        "add: add",
    ],
    "depthwise_separable": [
        "depthwise_conv: spatial",
        "batch_norm: spatial.bn",
        "silu: spatial.bn.act",
        "pointwise_conv: project",
        "batch_norm: project.bn",
        "add: add",
    ],
    "fused_mbconv": [
        "conv: expand",
        "batch_norm: expand.bn",
        "silu: expand.bn.act",
        "pointwise_conv: project",
        "batch_norm: project.bn",
        "add: add",
    ],
    "conv_residual": ["conv: conv", "batch_norm: bn1", "silu: bn1.act", "add: add"],
    "convfirst": [
        "grouped_conv: spatial",
        "batch_norm: spatial.bn",
        "pointwise_conv: expand",
        "batch_norm: expand.bn",
        "silu: expand.bn.act",
        "pointwise_conv: project",
        "batch_norm: project.bn",
        "add: add",
    ],
    "convnext": [
        "depthwise_conv: conv_dw",
        "bias_add: conv_dw",
        "layer_norm: norm",
        "linear: mlp.fc1",
        "gelu: mlp.act",
        "linear: mlp.fc2",
        "scale: gamma",
        "add: add",
    ],
}

POINTWISE = {
    "basic": ["conv: conv1", "pointwise: bn1 bn1.act", "conv: conv2", "pointwise: bn2 add act"],
    "bottleneck": [
        "pointwise_conv: conv1",
        "pointwise: bn1 bn1.act",
        "conv: conv2",
        "pointwise: bn2 bn2.act",
        "pointwise_conv: conv3",
        "pointwise: bn3 add act",
    ],
    "resnext": [
        "pointwise_conv: conv1",
        "pointwise: bn1 bn1.act",
        "grouped_conv: conv2",
        "pointwise: bn2 bn2.act",
        "pointwise_conv: conv3",
        "pointwise: bn3 add act",
    ],
    "regnety": [
        "pointwise_conv: conv1",
        "pointwise: bn1 bn1.act",
        "grouped_conv: conv2",
        "reduction: bn2 bn2.act se.mean",
        "pointwise_conv: se.reduce",
        "pointwise: se.reduce se.act",
        "pointwise_conv: se.expand",
        "pointwise: se.expand se.gate se.mul",
        "pointwise_conv: conv3",
        "pointwise: bn3 add act",
    ],
    "mbconv": [
        "pointwise_conv: expand",
        "pointwise: expand.bn expand.bn.act",
        "depthwise_conv: spatial",
        "batch_norm: spatial.bn",  # materialised: SiLU follows, and no convolution reads it
        "reduction: spatial.bn.act se.mean",
        "pointwise_conv: se.reduce",
        "pointwise: se.reduce se.act",
        "pointwise_conv: se.expand",
        "pointwise: spatial.bn.act se.expand se.gate se.mul",  # the activation again, from the norm
        "pointwise_conv: project",
        "pointwise: project.bn add",
    ],
    "depthwise_separable": [
        "depthwise_conv: spatial",
        "pointwise: spatial.bn spatial.bn.act",
        "pointwise_conv: project",
        "pointwise: project.bn add",
    ],
    "fused_mbconv": [
        "conv: expand",
        "pointwise: expand.bn expand.bn.act",
        "pointwise_conv: project",
        "pointwise: project.bn add",
    ],
    "conv_residual": ["conv: conv", "batch_norm: bn1", "pointwise: bn1.act add"],  # materialised
    "convfirst": [
        "grouped_conv: spatial",
        "batch_norm: spatial.bn",
        "pointwise_conv: expand",
        "pointwise: expand.bn expand.bn.act",
        "pointwise_conv: project",
        "pointwise: project.bn add",
    ],
    "convnext": [
        "depthwise_conv: conv_dw",
        "reduction: conv_dw norm",
        "linear: mlp.fc1",
        "gelu: mlp.act",
        "linear: mlp.fc2",
        "pointwise: gamma add",
    ],
}

LAYER = {
    "basic": ["conv: conv1 bn1 bn1.act", "conv: conv2 bn2 add act"],
    "bottleneck": ["pointwise_conv: conv1 bn1 bn1.act", "conv: conv2 bn2 bn2.act", "pointwise_conv: conv3 bn3 add act"],
    "resnext": ["pointwise_conv: conv1 bn1 bn1.act", "grouped_conv: conv2 bn2 bn2.act", "pointwise_conv: conv3 bn3 add act"],
    "regnety": [
        "pointwise_conv: conv1 bn1 bn1.act",
        "grouped_conv: conv2 bn2 bn2.act",
        "global_average_pool: se.mean",
        "pointwise_conv: se.reduce se.act",
        "pointwise_conv: se.expand se.gate",
        "multiply: se.mul",
        "pointwise_conv: conv3 bn3 add act",
    ],
    "mbconv": [
        "pointwise_conv: expand expand.bn expand.bn.act",
        "depthwise_conv: spatial spatial.bn spatial.bn.act",
        "global_average_pool: se.mean",
        "pointwise_conv: se.reduce se.act",
        "pointwise_conv: se.expand se.gate",
        "multiply: se.mul",
        "pointwise_conv: project project.bn add",
    ],
    "depthwise_separable": ["depthwise_conv: spatial spatial.bn spatial.bn.act", "pointwise_conv: project project.bn add"],
    "fused_mbconv": ["conv: expand expand.bn expand.bn.act", "pointwise_conv: project project.bn add"],
    "conv_residual": ["conv: conv bn1 bn1.act add"],
    "convfirst": [
        "grouped_conv: spatial spatial.bn",
        "pointwise_conv: expand expand.bn expand.bn.act",
        "pointwise_conv: project project.bn add",
    ],
    "convnext": ["depthwise_conv: conv_dw", "layer_norm: norm", "linear: mlp.fc1 mlp.act", "linear: mlp.fc2 gamma add"],
}


def graph_of(kind: str) -> Graph:
    builder, x = start()
    builder.block(small_block(kind), x, name="block")
    return builder.graph()


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(("schedule", "expected"), [("eager", EAGER), ("pointwise", POINTWISE), ("layer", LAYER)])
def test_kernels_of_a_block(kind: str, schedule: str, expected: dict[str, list[str]]) -> None:
    run = kernels(graph_of(kind), FP16, schedule)
    # in a half type the norms of eager mode have helpers, which test_expected.py looks at
    assert listed(kernel for kernel in run if kernel.kind != "norm_helper") == expected[kind]
    assert {kernel.block for kernel in run} == {"block"}


# --- eager ---


def test_eager_adds_the_bias_of_a_convolution_in_a_kernel_of_its_own() -> None:
    builder, x = start()
    builder.add(Conv2d(in_channels=8, out_channels=4, kernel=(3, 3), bias=True), x, name="conv")
    conv, bias = kernels(builder.graph(), FP16, "eager")
    out = PIXELS * 4
    assert (conv.name, bias.name) == ("conv", "conv.bias_add")
    assert conv.cost.dram_bytes == 2 * (PIXELS * 8 + 4 * 8 * 9 + out)
    assert bias.cost.dram_bytes == 2 * (out + 4 + out)
    assert (conv.cost.vector_ops, bias.cost.vector_ops) == (0, out)


def test_eager_adds_the_bias_of_a_linear_layer_in_its_epilogue() -> None:
    builder, x = start()
    builder.linear(x, 4)
    (linear,) = kernels(builder.graph(), FP16, "eager")
    assert linear.cost.dram_bytes == 2 * (PIXELS * 8 + 8 * 4 + 4 + PIXELS * 4)
    assert linear.cost.vector_ops == PIXELS * 4


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "tf32"])
def test_eager_in_one_type_moves_what_the_layers_formulas_say(kind: str, dtype: str) -> None:
    """Each layer reads and writes its tensors once; a convolution's bias addition reads and writes its output once more."""
    graph = graph_of(kind)
    size = 4 if dtype in ("fp32", "tf32") else 2
    expected = 0
    for node in graph.nodes.values():
        if node.layer.role != "input":
            expected += node.layer.formula.cost(size).dram_bytes.xreplace(node.layer.binding(*node.input_shapes))
        if isinstance(node.layer, Conv2d) and node.layer.bias:
            expected += 2 * size * node.shape.elements
        if isinstance(node.layer, BatchNorm) and dtype in ("fp16", "bf16"):
            # mean and variance are converted to fp32, and then read as such
            expected += 2 * (2 + 4 + (4 - 2)) * node.layer.channels
    assert traffic(kernels(graph, Precision(dtype=dtype), "eager")) == expected


def convnext_types() -> list[str]:
    return [
        "block.conv_dw.cast: fp32 -> fp16",
        "block.conv_dw.weight.cast: fp32 -> fp16",
        "block.conv_dw: fp16 fp16 -> fp16",
        "block.conv_dw.bias.cast: fp32 -> fp16",
        "block.conv_dw.bias_add: fp16 fp16 -> fp16",
        "block.norm.weight.cast: fp32 -> fp16",
        "block.norm.bias.cast: fp32 -> fp16",
        "block.norm: fp16 fp16 fp16 -> fp16",
        "block.mlp.fc1.weight.cast: fp32 -> fp16",
        "block.mlp.fc1.bias.cast: fp32 -> fp16",
        "block.mlp.fc1: fp16 fp16 fp16 -> fp16",
        "block.mlp.act: fp16 -> fp16",
        "block.mlp.fc2.weight.cast: fp32 -> fp16",
        "block.mlp.fc2.bias.cast: fp32 -> fp16",
        "block.mlp.fc2: fp16 fp16 fp16 -> fp16",
        "block.gamma: fp16 fp32 -> fp32",  # the layer scale is an fp32 parameter, so the residual stream is fp32
        "block.add: fp32 fp32 -> fp32",
    ]


def test_autocast_leaves_these_types_on_the_edges_of_convnext() -> None:
    builder, x = start()
    x = builder.block(small_block("convnext"), x, name="block")
    x = builder.block(small_block("convnext"), x, name="second")
    run = typed(kernels(builder.graph(), AUTOCAST, "eager"))
    assert run[: len(convnext_types())] == convnext_types()
    assert run[len(convnext_types()) :] == [line.replace("block.", "second.") for line in convnext_types()]


def test_autocast_leaves_these_types_on_the_edges_of_a_residual_block() -> None:
    builder, x = start()
    x = builder.conv_norm(x, 8, kernel=3, activation="relu", name="stem", norm_name="stem.bn")
    builder.block(small_block("basic"), x, name="block")
    assert typed(kernels(builder.graph(), AUTOCAST, "eager")) == [
        "stem.cast: fp32 -> fp16",
        "stem.weight.cast: fp32 -> fp16",
        "stem: fp16 fp16 -> fp16",
        "stem.bn: fp16 fp32 fp32 fp32 fp32 -> fp16",
        "stem.bn.act: fp16 -> fp16",
        "block.conv1.weight.cast: fp32 -> fp16",
        "block.conv1: fp16 fp16 -> fp16",
        "block.bn1: fp16 fp32 fp32 fp32 fp32 -> fp16",
        "block.bn1.act: fp16 -> fp16",
        "block.conv2.weight.cast: fp32 -> fp16",
        "block.conv2: fp16 fp16 -> fp16",
        "block.bn2: fp16 fp32 fp32 fp32 fp32 -> fp16",
        "block.add: fp16 fp16 -> fp16",
        "block.act: fp16 -> fp16",
    ]


def test_autocast_runs_softmax_in_fp32() -> None:
    builder, x = start()
    builder.add(Softmax(), builder.linear(x, 4, bias=False), name="softmax")
    assert typed(kernels(builder.graph(), AUTOCAST, "eager")) == [
        "fc.cast: fp32 -> fp16",
        "fc.weight.cast: fp32 -> fp16",
        "fc: fp16 fp16 -> fp16",
        "softmax.cast: fp16 -> fp32",
        "softmax: fp32 -> fp32",
    ]


def test_autocast_adds_fp16_to_fp32_in_fp32() -> None:
    builder, x = start()
    builder.residual(builder.conv(x, 8), x)
    assert typed(kernels(builder.graph(), AUTOCAST, "eager"))[-1] == "add: fp16 fp32 -> fp32"


@pytest.mark.parametrize("schedule", ["eager", "pointwise"])
def test_a_weight_cast_moves_six_bytes_per_parameter(schedule: str) -> None:
    builder, x = start()
    y = builder.conv(x, 8, kernel=3, name="a")
    builder.linear(y, 5, name="b")
    casts = {
        k.name: k.cost for k in kernels(builder.graph(), AUTOCAST, schedule) if k.name.endswith((".weight.cast", ".bias.cast"))
    }
    parameters = {"a.weight.cast": 8 * 8 * 9, "b.weight.cast": 8 * 5, "b.bias.cast": 5}
    assert set(casts) == set(parameters)
    for name, cost in casts.items():
        assert cost.read_weight_bytes == 4 * parameters[name]
        assert cost.written_weight_bytes == 2 * parameters[name]
        assert cost.dram_bytes == 6 * parameters[name]


def test_the_library_stores_its_weights_cast_and_casts_nothing() -> None:
    run = typed(kernels(graph_of("convnext"), AUTOCAST, "layer"))
    assert run == [
        "block.conv_dw: fp32 fp16 fp16 -> fp16",
        "block.norm: fp16 fp16 fp16 -> fp16",
        "block.mlp.fc1: fp16 fp16 fp16 -> fp16",
        "block.mlp.fc2: fp16 fp16 fp16 fp32 fp32 -> fp32",
    ]


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_8_bit_networks_keep_the_parameters_of_norms_and_biases_in_fp32(dtype: str) -> None:
    run = typed(kernels(graph_of("convnext"), Precision(dtype=dtype), "layer"))
    assert run == [
        f"block.conv_dw: {dtype} {dtype} fp32 -> {dtype}",
        f"block.norm: {dtype} fp32 fp32 -> {dtype}",
        f"block.mlp.fc1: {dtype} {dtype} fp32 -> {dtype}",
        f"block.mlp.fc2: {dtype} {dtype} fp32 fp32 {dtype} -> {dtype}",
    ]


@pytest.mark.parametrize(("schedule", "writes_indices"), [("eager", True), ("pointwise", False), ("layer", False)])
def test_eager_max_pooling_writes_indices(schedule: str, writes_indices: bool) -> None:
    builder, x = start()
    builder.add(MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1)), x, name="pool")
    (pool,) = kernels(builder.graph(), FP16, schedule)
    out = 2 * 8 * 3 * 3
    assert types(pool.writes) == ("fp16 int64" if writes_indices else "fp16")
    assert pool.cost.dram_bytes_written == out * (2 + (8 if writes_indices else 0))
    # the last window of 3 reaches row 5 of 6
    assert pool.cost.dram_bytes_read == 2 * 2 * 8 * 6 * 6


def test_average_pooling_has_no_indices() -> None:
    builder, x = start()
    builder.add(AveragePool(kernel=(2, 2), stride=(2, 2)), x, name="pool")
    (pool,) = kernels(builder.graph(), FP16, "eager")
    assert types(pool.writes) == "fp16"


LAYOUT_CASES = {
    "conv": Conv2d(in_channels=8, out_channels=4, kernel=(3, 3), bias=True),
    "grouped": Conv2d(in_channels=8, out_channels=8, kernel=(3, 3), group_width=4),
    "grouped_pointwise": Conv2d(in_channels=8, out_channels=8, group_width=4),
    "pointwise": Conv2d(in_channels=8, out_channels=4),
    "depthwise": Conv2d(in_channels=8, out_channels=8, kernel=(3, 3), group_width=1),
}


@pytest.mark.parametrize(("case", "copied"), [(case, case in ("conv", "grouped", "grouped_pointwise")) for case in LAYOUT_CASES])
def test_eager_nchw_copies_around_convolutions_that_run_in_nhwc(case: str, copied: bool) -> None:
    builder, x = start()
    y = builder.activation(x, "relu")
    builder.add(LAYOUT_CASES[case], y, name="conv")
    graph = builder.graph()
    plain = kernels(graph, FP16, "eager")
    run = kernels(graph, FP16, "eager", layout="nchw")
    if not copied:
        assert run == plain
        return
    bias = ["conv.bias_add"] if LAYOUT_CASES[case].bias else []
    assert [kernel.name for kernel in run] == ["act", "conv.to_nhwc", "conv", "conv.to_nchw", *bias]
    read, written = 2 * PIXELS * 8, 2 * PIXELS * LAYOUT_CASES[case].out_channels
    assert [kernel.cost.dram_bytes for kernel in run if kernel.kind == "layout"] == [2 * read, 2 * written]
    assert traffic(run) == traffic(plain) + 2 * read + 2 * written


@pytest.mark.parametrize(
    ("precision", "schedule", "copied"),
    [
        (FP16, "eager", True),
        (Precision(dtype="tf32"), "eager", True),
        (AUTOCAST, "eager", True),
        (FP32, "eager", False),
        (FP16, "pointwise", False),
        (FP16, "layer", False),
    ],
)
def test_layout_copies_are_of_eager_on_the_matrix_unit(precision: Precision, schedule: str, copied: bool) -> None:
    run = kernels(graph_of("basic"), precision, schedule, layout="nchw")
    assert sum(kernel.kind == "layout" for kernel in run) == (4 if copied else 0)


def test_each_convolution_casts_its_input_for_itself() -> None:
    builder, x = start()
    builder.conv(x, 4, name="a")
    builder.conv(x, 4, name="b")
    run = kernels(builder.graph(), AUTOCAST, "eager")
    assert [k.name for k in run if k.kind == "cast" and k.cost.read_activation_bytes] == ["a.cast", "b.cast"]


# --- pointwise ---


def test_pointwise_chains_are_one_kernel_and_intermediates_stay_inside() -> None:
    builder, x = start()
    y = builder.conv(x, 8, name="conv")
    y = builder.add(BatchNorm(channels=8), y, name="bn")
    for function in ("relu", "sigmoid", "gelu"):
        y = builder.activation(y, function, name=function)
    builder.residual(y, x)
    conv, chain = kernels(builder.graph(), FP16, "pointwise")
    assert chain.layers == ("bn", "relu", "sigmoid", "gelu", "add")
    assert [a.tensor for a in chain.writes] == ["add"]
    assert [a.tensor for a in chain.reads if a.role == "activation"] == ["conv", "input"]
    assert chain.cost.dram_bytes == 2 * (3 * PIXELS * 8 + 4 * 8)
    assert conv.cost.dram_bytes == 2 * (2 * PIXELS * 8 + 8 * 8)


def test_pointwise_convolution_has_no_bias() -> None:
    builder, x = start()
    y = builder.add(Conv2d(in_channels=8, out_channels=4, bias=True), x, name="conv")
    builder.activation(y, "relu")
    assert listed(kernels(builder.graph(), FP16, "pointwise")) == ["pointwise_conv: conv", "pointwise: conv act"]


def test_pointwise_mean_joins_its_producer_but_not_a_convolution() -> None:
    builder, x = start()
    y = builder.conv(x, 8, name="conv")
    builder.add(GlobalAveragePool(), y, name="bare")
    z = builder.activation(y, "relu")
    builder.add(GlobalAveragePool(), z, name="mean")
    assert listed(kernels(builder.graph(), FP16, "pointwise")) == [
        "pointwise_conv: conv",
        "global_average_pool: bare",
        "reduction: act mean",
    ]


def test_a_value_with_two_readers_is_written_once() -> None:
    builder, x = start()
    y = builder.conv(x, 8, name="conv")
    y = builder.activation(y, "relu", name="shared")
    builder.residual(builder.conv(y, 8, name="next"), y)
    run = kernels(builder.graph(), FP16, "pointwise")
    assert [a.tensor for kernel in run for a in kernel.writes] == ["conv", "shared", "next", "add"]
    assert [kernel.name for kernel in run if any(a.tensor == "shared" for a in kernel.reads)] == ["next", "add"]


def test_windows_start_a_pointwise_kernel_but_do_not_join_one() -> None:
    builder, x = start()
    y = builder.activation(x, "relu", name="a")
    y = builder.add(MaxPool(kernel=(2, 2), stride=(2, 2)), y, name="pool")
    y = builder.activation(y, "relu", name="b")
    builder.add(Upsample(factor=2), y, name="up")
    assert [k.layers for k in kernels(builder.graph(), FP16, "pointwise")] == [("a",), ("pool", "b"), ("up",)]


def gated(function: str, reader: str) -> Graph:
    """conv → norm → `function` → `reader`."""
    builder, x = start()
    y = builder.conv(x, 8, name="conv")
    y = builder.add(BatchNorm(channels=8), y, name="bn")
    y = builder.activation(y, function)
    match reader:
        case "mean":
            builder.add(GlobalAveragePool(), y, name="reader")
        case "add":
            builder.residual(y, x, name="reader")
        case "se":
            squeeze_excitation(builder, y, 2, activation="relu", name="reader")
        case "conv":
            builder.conv(y, 8, name="reader")
        case "both":
            builder.conv(y, 8, name="reader")
            builder.residual(y, x, name="other")
        case "linear":
            builder.linear(y, 8, name="reader")
    return builder.graph()


@pytest.mark.parametrize("function", ["silu", "hard_swish"])
@pytest.mark.parametrize("reader", ["mean", "add", "se"])
@pytest.mark.parametrize("precision", [FP16, AUTOCAST, Precision(dtype="bf16")], ids=str)
def test_the_norm_before_a_gated_activation_is_materialised_in_fp32(function: str, reader: str, precision: Precision) -> None:
    run = kernels(gated(function, reader), precision, "pointwise")
    fused = kernels(gated("relu", reader), precision, "pointwise")
    assert traffic(run) - traffic(fused) == 8 * PIXELS * 8  # written and read again, 4 bytes each
    (norm,) = (kernel for kernel in run if kernel.layers == ("bn",))
    assert types(norm.writes) == "fp32"
    activations = [kernel for kernel in run if "act" in kernel.layers]
    assert len(activations) == (2 if reader == "se" else 1)  # computed by each of its readers
    assert all(norm.writes[0] in activation.reads for activation in activations)
    assert types(run[-1].writes) == types(fused[-1].writes)


def gated_by_itself(*, norm: bool) -> Graph:
    """A pointwise value, with a norm in it or not, that is averaged and multiplied by a gate made of the average."""
    builder, x = start()
    y = builder.add(Conv2d(in_channels=8, out_channels=8, bias=True), x, name="conv")
    y = builder.add(BatchNorm(channels=8), y, name="bn") if norm else y
    y = builder.activation(y, "relu", name="act")
    gate = builder.conv(builder.add(GlobalAveragePool(), y, name="mean"), 8, name="reduce")
    builder.add(Multiply(), y, gate, name="multiply")
    return builder.graph()


def test_what_is_quickly_computed_is_computed_by_each_reader() -> None:
    """A value of two tensors is not written but computed again; a norm alone reads five, and what it makes is written."""
    quick, slow = (kernels(gated_by_itself(norm=norm), FP16, "pointwise") for norm in (False, True))
    assert [kernel.layers for kernel in quick] == [("conv",), ("conv", "act", "mean"), ("reduce",), ("conv", "act", "multiply")]
    assert [kernel.layers for kernel in slow] == [("conv",), ("conv", "bn", "act", "mean"), ("reduce",), ("multiply",)]
    means = [len(run[1].writes) for run in (quick, slow)]
    assert means == [1, 2], "the mean alone, or the value beside it"


def test_what_one_step_reads_is_computed_there() -> None:
    """A norm of an earlier tensor, which a residual addition reads, is no kernel and leaves nothing in memory."""
    builder, x = start()
    y = builder.conv(x, 8, name="conv1")
    norm = builder.add(BatchNorm(channels=8), y, name="bn")
    z = builder.conv(y, 8, name="conv2")
    builder.residual(z, norm, name="add")
    assert [kernel.layers for kernel in kernels(builder.graph(), FP16, "pointwise")] == [("conv1",), ("conv2",), ("bn", "add")]


@pytest.mark.parametrize(
    ("function", "reader", "precision"),
    [
        ("silu", "conv", FP16),
        ("silu", "linear", FP16),
        ("silu", "both", FP16),
        ("gelu", "mean", FP16),
        ("relu", "mean", FP16),
        ("silu", "mean", FP32),
        ("silu", "none", FP16),
    ],
)
def test_other_norms_are_not_materialised(function: str, reader: str, precision: Precision) -> None:
    run = kernels(gated(function, reader), precision, "pointwise")
    assert any(kernel.layers[:2] == ("bn", "act") for kernel in run)


def test_a_norm_with_a_second_reader_is_not_materialised() -> None:
    builder, x = start()
    y = builder.add(BatchNorm(channels=8), builder.conv(x, 8), name="bn")
    builder.residual(builder.activation(y, "silu"), y)
    assert listed(kernels(builder.graph(), FP16, "pointwise")) == ["pointwise_conv: conv", "pointwise: bn act add"]


def concatenated(count: int) -> Graph:
    """`count` activations of one convolution, concatenated; norm and activation follow."""
    builder, x = start()
    y = builder.conv(x, 8, name="conv")
    parts = [builder.activation(y, "relu", name=f"part{i}") for i in range(count)]
    z = builder.add(Concat(inputs=count), *parts, name="cat")
    z = builder.add(BatchNorm(channels=8 * count), z, name="bn")
    builder.activation(z, "relu", name="end")
    return builder.graph()


def test_a_concatenation_of_up_to_8_inputs_fuses() -> None:
    graph = concatenated(8)
    *_, last = kernels(graph, FP16, "pointwise")
    assert last.layers[-3:] == ("cat", "bn", "end")
    assert last.kind == "pointwise"


def test_a_concatenation_of_more_than_8_inputs_is_a_copy_of_its_own() -> None:
    run = kernels(concatenated(9), FP16, "pointwise")
    copy, after = run[-2:]
    assert (copy.kind, copy.layers) == ("concat", ("cat",))
    assert copy.cost.dram_bytes == 2 * 2 * 9 * PIXELS * 8
    assert after.layers == ("bn", "end")


def test_the_input_cast_is_no_part_of_a_convolution() -> None:
    builder, x = start()
    builder.conv(builder.activation(x, "relu"), 8)
    assert typed(kernels(builder.graph(), AUTOCAST, "pointwise")) == [
        "act: fp32 -> fp16",  # the cast joins its producer
        "conv.weight.cast: fp32 -> fp16",
        "conv: fp16 fp16 -> fp16",
    ]


# --- layer ---


def test_the_library_folds_a_norm_into_the_bias() -> None:
    builder, x = start()
    builder.conv_norm(x, 4, kernel=3)
    (kernel,) = kernels(builder.graph(), FP16, "layer")
    assert kernel.layers == ("conv", "bn")
    assert {a.tensor: a.elements for a in kernel.reads if a.role == "weight"} == {"conv.weight": 4 * 8 * 9, "conv.bias": 4}
    assert kernel.cost.vector_ops == PIXELS * 4
    assert kernel.cost.special_ops == 0


def test_a_norm_folds_into_a_bias_that_is_there_already() -> None:
    builder, x = start()
    y = builder.add(Conv2d(in_channels=8, out_channels=4, bias=True), x, name="conv")
    builder.add(BatchNorm(channels=4), y, name="bn")
    (kernel,) = kernels(builder.graph(), FP16, "layer")
    assert [a.elements for a in kernel.reads] == [PIXELS * 8, 4 * 8, 4]


def test_a_norm_folds_into_a_linear_layer_too() -> None:
    builder, x = start()
    builder.add(BatchNorm(channels=4), builder.linear(x, 4, bias=False), name="bn")
    assert listed(kernels(builder.graph(), FP16, "layer")) == ["linear: fc bn"]


def test_a_norm_does_not_fold_where_the_convolution_has_another_reader() -> None:
    builder, x = start()
    y = builder.conv(x, 8)
    z = builder.add(BatchNorm(channels=8), y, name="bn")
    builder.residual(z, y)
    run = kernels(builder.graph(), FP16, "layer")
    assert listed(run) == ["pointwise_conv: conv", "pointwise: bn add"]
    assert [a.tensor for a in run[0].writes] == ["conv"]
    assert "conv.bias" not in [a.tensor for a in run[0].reads]


def test_an_epilogue_takes_what_follows_for_it_alone() -> None:
    builder, x = start()
    y = builder.conv(x, 8, name="conv")
    y = builder.activation(y, "relu", name="shared")
    builder.activation(y, "sigmoid", name="left")
    builder.activation(y, "gelu", name="right")
    assert listed(kernels(builder.graph(), FP16, "layer")) == ["pointwise_conv: conv shared", "sigmoid: left", "gelu: right"]


def test_an_epilogue_is_of_the_convolutions_own_size() -> None:
    builder, x = start()
    mean = builder.add(GlobalAveragePool(), x, name="mean")
    gate = builder.conv(mean, 8, name="gate")
    builder.multiply(x, gate)
    assert listed(kernels(builder.graph(), FP16, "layer")) == [
        "global_average_pool: mean",
        "pointwise_conv: gate",
        "multiply: mul",
    ]


def test_a_residual_joins_the_later_of_two_convolutions() -> None:
    builder, x = start()
    first = builder.conv(x, 8, name="first")
    second = builder.conv(x, 8, name="second")
    builder.activation(builder.residual(first, second), "relu")
    run = kernels(builder.graph(), FP16, "layer")
    assert listed(run) == ["pointwise_conv: first", "pointwise_conv: second add act"]
    assert [a.tensor for a in run[1].reads if a.role == "activation"] == ["input", "first"]


def test_a_value_used_twice_by_one_operation_has_one_reader() -> None:
    builder, x = start()
    y = builder.conv(x, 8)
    builder.add(Multiply(), y, y, name="square")
    (kernel,) = kernels(builder.graph(), FP16, "layer")
    assert kernel.layers == ("conv", "square")
    assert kernel.cost.dram_bytes == 2 * (2 * PIXELS * 8 + 64)


def test_reductions_windows_and_copies_take_no_part_in_an_epilogue() -> None:
    builder, x = start()
    y = builder.conv(x, 8, name="conv")
    y = builder.add(LayerNorm(channels=8), y, name="ln")
    y = builder.activation(y, "relu", name="a")
    y = builder.add(MaxPool(kernel=(3, 3), stride=(1, 1), padding=(1, 1)), y, name="pool")
    y = builder.activation(y, "relu", name="b")
    y = builder.add(Concat(inputs=2), y, y, name="cat")
    builder.activation(y, "relu", name="c")
    assert listed(kernels(builder.graph(), FP16, "layer")) == [
        "pointwise_conv: conv",
        "reduction: ln a",
        "max_pool: pool",
        "relu: b",
        "concat: cat",
        "relu: c",
    ]


# --- partitions ---


def chain(names: str = "abcd") -> Graph:
    builder, x = start()
    for name in names:
        x = builder.conv(x, 8, kernel=3, name=name)
    return builder.graph()


def test_a_partition_runs_its_kernels_in_the_order_they_can() -> None:
    run = kernels(chain(), FP16, [["c", "d"], ["b"], ["a"]])
    assert [kernel.layers for kernel in run] == [("a",), ("b",), ("c", "d")]
    tensor = 2 * PIXELS * 8
    assert [kernel.cost.dram_bytes - kernel.cost.read_weight_bytes for kernel in run] == [2 * tensor] * 3


def test_a_partition_may_be_of_tuples_and_name_the_input() -> None:
    (kernel,) = kernels(chain("ab"), FP16, (("input", "a", "b"),))
    assert kernel.layers == ("a", "b")
    assert [a.tensor for a in kernel.writes] == ["b"]


@pytest.mark.parametrize(
    ("partition", "sentence"),
    [
        ([["a", "b"], ["b", "c", "d"]], "names layer b twice"),
        ([["a", "a"], ["b", "c", "d"]], "names layer a twice"),
        ([["a"], ["d"]], "leaves out 2 layers, the first is b"),
        ([], "leaves out 4 layers, the first is a"),
        ([["a", "b", "c", "e"]], "unknown layer in the partition 'e'"),
        ([["a", "c"], ["b", "d"]], "kernel 1 of the partition (a, …) waits for a kernel that waits for it; split it"),
        # the kernel of d waits too, but splitting it would not help
        ([["d"], ["a", "c"], ["b"]], "kernel 2 of the partition (a, …) waits for a kernel that waits for it; split it"),
    ],
)
def test_impossible_partitions_are_refused(partition: list[list[str]], sentence: str) -> None:
    with pytest.raises(ScheduleError) as error:
        kernels(chain(), FP16, partition)
    assert sentence in str(error.value)
    assert isinstance(error.value, PerfmodelError)


def test_a_partition_may_not_part_a_convolution_from_its_norm() -> None:
    builder, x = start()
    builder.conv_norm(x, 8, activation="relu")
    with pytest.raises(ScheduleError, match="layers conv and bn are folded into one, so they must share a kernel"):
        kernels(builder.graph(), FP16, [["conv"], ["bn", "bn.act"]])


# --- names ---


def test_schedules_are_found_whatever_their_case() -> None:
    assert check("Layer") == "layer"
    assert all(check(name) == name for name in NAMES)
    assert all(rule.name == name for name, rule in SCHEDULES.items())


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean pointwise"):
        check("pointwize")
    with pytest.raises(UnknownNameError, match="unknown layout 'nwhc'; did you mean nhwc"):
        kernels(chain(), FP16, "layer", layout="nwhc")


def test_a_kernel_is_named_after_its_convolution() -> None:
    builder, x = start()
    y = builder.conv_norm(x, 8, activation="relu", name="conv", norm_name="conv.bn")
    builder.add(GlobalAveragePool(), builder.activation(y, "silu"), name="mean")
    graph = builder.graph()
    names = {schedule: [(k.name, k.kind) for k in kernels(graph, FP32, schedule)] for schedule in ("layer", "pointwise")}
    assert names["layer"] == [("conv", "pointwise_conv"), ("mean", "global_average_pool")]
    assert names["pointwise"] == [("conv", "pointwise_conv"), ("conv.bn", "reduction")]
