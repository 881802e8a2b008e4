"""The published closed forms of layers and blocks, out of the library's own formulas."""

import pytest
import sympy

from perfmodel.layers import dims
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.catalog import BLOCKS, CONV2D_CASES
from perfmodel.layers.conv2d import conv2d_formula
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import C, H, K, N, R, S, Shape, W, e, g
from perfmodel.layers.graph import Graph, GraphBuilder
from perfmodel.precision import Precision
from perfmodel.schedule import kernels

FP16_BYTES = 2
STRIDE_1 = {dims.P: H, dims.Q: W, dims.H_r: H, dims.W_r: W}
RS = 9  # blocks have 3×3 kernels


def same(left: sympy.Expr, right: sympy.Expr) -> bool:
    return sympy.simplify(left - right) == 0


@pytest.mark.parametrize(
    ("case", "bound", "ops_per_byte"),
    [
        ("full_conv", {K: C}, R * S * C / 2),
        ("pointwise_conv", {}, C * K / (C + K)),
        ("grouped_conv", {K: C}, R * S * g / 2),
        ("grouped_conv", {K: C, R: 3, S: 3, g: 8}, sympy.Integer(36)),
        ("depthwise_conv", {}, R * S / 2),
        ("depthwise_conv", {R: 3, S: 3}, sympy.Rational(9, 2)),
        ("depthwise_conv", {R: 7, S: 7}, sympy.Rational(49, 2)),
    ],
)
def test_operational_intensity_of_a_convolution_of_many_pixels(
    case: str, bound: dict[sympy.Symbol, object], ops_per_byte: sympy.Expr
) -> None:
    cost = conv2d_formula(bias=False).cost(FP16_BYTES)
    intensity = cost.operational_intensity.subs(CONV2D_CASES[case]).subs(STRIDE_1).subs(bound)
    assert same(sympy.limit(intensity, N, sympy.oo), ops_per_byte)


def test_compulsory_traffic_of_one_convolution() -> None:
    """Input + weights + bias read, output written: each once."""
    cost = conv2d_formula(bias=True).cost()
    expected = dims.b * (N * C * dims.H_r * dims.W_r + K * R * S * g + K + N * K * dims.P * dims.Q)
    assert same(cost.dram_bytes, expected)
    assert cost.ops == 2 * cost.macs


def graph_of(block: Block) -> Graph:
    builder = GraphBuilder()
    builder.block(block, builder.input(Shape(N, block.in_channels, H, W)), name="block")
    return builder.graph()


def unfused(graph: Graph) -> Cost:
    return sum((kernel.cost for kernel in kernels(graph, Precision(), "layer")), Cost())


def per_pixel_of_many(quantity: sympy.Expr) -> sympy.Expr:
    """What remains per output pixel as the pixels grow: weights vanish."""
    return sympy.limit(quantity / (N * H * W), N, sympy.oo)


BLOCK_FORMS = [
    ("fused_mbconv", e * C**2 * (RS + 1), 2 * C * (3 + 2 * e), e * C * (RS + 1) / 2),
    ("mbconv", 2 * e * C**2 + RS * g * e * C, 2 * C * (3 + 4 * e), e * C + e * RS * g / 2),
    ("convfirst", 2 * e * C**2 + RS * g * C, 2 * C * (5 + 2 * e), e * C + RS * g / 2),
]
BLOCK_FORM = pytest.mark.parametrize(("kind", "macs", "unfused_bytes", "fused_intensity"), BLOCK_FORMS)


@BLOCK_FORM
def test_block_per_output_pixel(kind: str, macs: sympy.Expr, unfused_bytes: sympy.Expr, fused_intensity: sympy.Expr) -> None:
    graph = graph_of(BLOCKS[kind].symbolic())
    cost = unfused(graph)
    assert same(graph.macs, N * H * W * macs)
    assert same(cost.macs, graph.macs)
    assert same(per_pixel_of_many(cost.dram_bytes), unfused_bytes)
    assert same(sympy.limit(cost.operational_intensity, N, sympy.oo), 2 * macs / unfused_bytes)


@BLOCK_FORM
def test_block_fused_moves_its_input_and_output_only(
    kind: str, macs: sympy.Expr, unfused_bytes: sympy.Expr, fused_intensity: sympy.Expr
) -> None:
    """All layers in one kernel: each input, weight and output crosses the border of the chip once."""
    graph = graph_of(BLOCKS[kind].symbolic())
    layers = [name for name in graph.nodes if name != "input"]
    (kernel,) = kernels(graph, Precision(), [layers])
    (output,) = graph.outputs
    assert [access.tensor for access in kernel.reads if access.role == "activation"] == ["input"]
    assert len(kernel.writes) == 1
    assert same(kernel.writes[0].elements, graph.nodes[output].shape.elements)
    # the norms' four vectors per channel became one bias
    convolutions = [node for node in graph.nodes.values() if node.layer.role == "matrix"]
    folded = sum(node.layer.formula.weights[0].elements.subs(node.layer.binding(*node.input_shapes)) for node in convolutions)
    biases = sum(node.shape.C for node in convolutions)
    assert same(kernel.cost.read_weight_bytes, FP16_BYTES * (folded + biases))
    assert same(kernel.cost.dram_bytes - kernel.cost.read_weight_bytes, FP16_BYTES * 2 * N * C * H * W)
    assert same(sympy.limit(kernel.cost.operational_intensity, N, sympy.oo), fused_intensity)


@pytest.mark.parametrize(
    ("kind", "sizes", "unfused_intensity", "fused_intensity"),
    [
        ("convfirst", {C: 64, e: 6, g: 8}, "49.4", "420"),
        ("mbconv", {C: 256, e: 4, g: 8}, "123", "1168"),
    ],
)
def test_published_numbers(kind: str, sizes: dict[sympy.Symbol, int], unfused_intensity: str, fused_intensity: str) -> None:
    graph = graph_of(BLOCKS[kind].symbolic())
    apart = sympy.limit(unfused(graph).operational_intensity, N, sympy.oo).subs(sizes)
    (kernel,) = kernels(graph, Precision(), [[name for name in graph.nodes if name != "input"]])
    together = sympy.limit(kernel.cost.operational_intensity, N, sympy.oo).subs(sizes)
    digits = len(unfused_intensity.partition(".")[2])
    assert f"{float(apart):.{digits}f}" == unfused_intensity
    assert f"{float(together):.0f}" == fused_intensity
    assert together.is_integer


@pytest.mark.parametrize(
    ("kind", "macs_per_pixel"),
    [
        ("basic", 2 * RS * C**2),
        ("bottleneck", 2 * 4 * K * K + RS * K**2),
        ("resnext", 2 * 2 * K * K + RS * K * g),
        ("depthwise_separable", RS * C + C**2),
        ("convnext", 49 * C + 2 * e * C**2),
    ],
)
def test_macs_of_the_other_blocks_per_output_pixel(kind: str, macs_per_pixel: sympy.Expr) -> None:
    assert same(graph_of(BLOCKS[kind].symbolic()).macs, N * H * W * macs_per_pixel)


def test_squeeze_and_excitation_adds_one_product_each_way_per_image() -> None:
    graph = graph_of(BLOCKS["regnety"].symbolic())
    assert same(graph.macs, N * H * W * (2 * C**2 + RS * g * C) + 2 * N * C * dims.C_se)


def test_residual_edge_is_what_the_unfused_block_reads_again() -> None:
    """Without it (more channels out than in) the block reads its input once."""
    block = BLOCKS["convfirst"].symbolic()
    wider = type(block)(in_channels=C, out_channels=2 * C, hidden_channels=e * C, group_width=g)
    # input, spatial out and in, hidden out and in, output of 2C: 4 + 2e + … of C
    assert same(per_pixel_of_many(unfused(graph_of(wider)).dram_bytes), 2 * C * (3 + 2 * e + 2))


def test_names_of_the_blocks_are_their_kinds() -> None:
    assert {kind: block.kind for kind, block in BLOCKS.items()} == {kind: kind for kind in BLOCKS}
