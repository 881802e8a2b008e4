"""Networks small enough to look at: each residual block, and random graphs of layers and of blocks."""

from hypothesis import strategies as st

from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.squeeze_excitation import squeeze_excitation
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.concat import Concat
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Graph, GraphBuilder, Tensor
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, MaxPool
from perfmodel.layers.softmax import Softmax
from perfmodel.layers.upsample import Upsample

_BLOCK_FIELDS = {
    "basic": {},
    "bottleneck": {"hidden_channels": 2},
    "resnext": {"hidden_channels": 4, "group_width": 2},
    "regnety": {"hidden_channels": 4, "group_width": 2, "se_channels": 2},
    "mbconv": {"hidden_channels": 16, "se_channels": 2},
    "depthwise_separable": {"hidden_channels": 8},
    "fused_mbconv": {"hidden_channels": 16},
    "conv_residual": {},
    "convfirst": {"hidden_channels": 16, "group_width": 4},
    "convnext": {"hidden_channels": 16},
}


def small_block(kind: str, in_channels: int = 8, out_channels: int = 8, stride: int = 1) -> Block:
    """A block of that kind, a few channels wide."""
    fields = dict(_BLOCK_FIELDS[kind])
    if kind == "depthwise_separable":
        fields["hidden_channels"] = in_channels
    return BLOCKS[kind](in_channels=in_channels, out_channels=out_channels, stride=stride, **fields)


_KINDS = [
    *("conv", "conv_norm", "depthwise", "grouped", "strided", "biased", "linear"),
    *("bn", "relu", "silu", "scale", "add", "square"),
    *("layer_norm", "softmax", "max_pool", "average_pool", "adaptive", "mean", "se", "concat", "upsample"),
]


def _grow(draw: st.DrawFn, builder: GraphBuilder, tensors: list[Tensor], kind: str) -> Tensor:
    """Append a layer of `kind` to any tensor, the latest ones most often; what does not fit becomes an activation."""
    x = tensors[-1 - draw(st.integers(0, min(3, len(tensors) - 1)))]
    channels, size = x.shape.C, min(x.shape.H, x.shape.W)
    match kind:
        case "conv":
            return builder.conv(x, draw(st.sampled_from([4, 8])), kernel=draw(st.sampled_from([1, 3])))
        case "conv_norm":
            return builder.conv_norm(x, 4, kernel=3, activation=draw(st.sampled_from([None, "relu", "silu"])))
        case "depthwise":
            return builder.conv(x, channels, kernel=3, group_width=1)
        case "grouped":
            return builder.conv(x, channels, kernel=3, group_width=2)
        case "strided" if size >= 2:
            return builder.conv(x, 8, kernel=draw(st.sampled_from([1, 2, 3])), stride=2)
        case "biased":
            return builder.conv(x, 4, kernel=3, bias=True)
        case "linear":
            return builder.linear(x, 4, bias=draw(st.booleans()))
        case "bn":
            return builder.add(BatchNorm(channels=channels), x, name="bn")
        case "silu":
            return builder.activation(x, "silu")
        case "scale":
            return builder.scale(x)
        case "add":
            return builder.residual(x, draw(st.sampled_from([y for y in tensors if y.shape == x.shape])))
        case "square":
            return builder.multiply(x, x)
        case "layer_norm":
            return builder.add(LayerNorm(channels=channels), x, name="ln")
        case "softmax":
            return builder.add(Softmax(), x, name="softmax")
        case "max_pool" if size >= 2:
            return builder.add(MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1)), x, name="pool")
        case "average_pool" if size >= 3:
            return builder.add(AveragePool(kernel=(2, 2), stride=(3, 3)), x, name="pool")
        case "adaptive":
            return builder.add(AdaptiveAveragePool(output=(3, 2)), x, name="pool")
        case "mean":
            return builder.add(GlobalAveragePool(), x, name="mean")
        case "se":
            return squeeze_excitation(builder, x, 2, activation="silu")
        case "concat":
            fitting = [y for y in tensors if y.shape._replace(C=channels) == x.shape and y.shape.C <= 16]
            parts = [x, *draw(st.lists(st.sampled_from(fitting or [x]), min_size=1, max_size=9))]
            return builder.add(Concat(inputs=len(parts)), *parts, name="cat")
        case "upsample" if size <= 4:
            return builder.add(Upsample(factor=2), x, name="up")
        case _:
            return builder.activation(x, "relu")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any network: branches, joins, dead ends, several results."""
    builder = GraphBuilder()
    tensors = [builder.input(Shape(draw(st.integers(1, 2)), 4, draw(st.integers(2, 6)), draw(st.integers(2, 6))))]
    for kind in draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=14)):
        tensors.append(_grow(draw, builder, tensors, kind))
    return builder.graph()


@st.composite
def block_networks(draw: st.DrawFn) -> Graph:
    """Stem, residual blocks of any kinds, strides and widths, head."""
    builder = GraphBuilder()
    x = builder.input(Shape(draw(st.integers(1, 2)), 3, 16, 16))
    x = builder.conv_norm(x, 8, kernel=3, stride=2, activation="silu", name="stem", norm_name="stem.bn")
    for number, kind in enumerate(draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4))):
        same = kind in ("convnext", "conv_residual")  # these have neither stride nor another width
        stride = 1 if same or x.shape.H < 4 else draw(st.integers(1, 2))
        out_channels = x.shape.C if same else draw(st.sampled_from([8, 16]))
        block = small_block(kind, x.shape.C, out_channels, stride)
        x = builder.block(block, x, name=f"blocks.{number}")
    builder.linear(builder.add(GlobalAveragePool(), x, name="mean"), 10)
    return builder.graph()
