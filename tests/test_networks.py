"""The network catalogue against published counts, and what every network in it must be."""

from __future__ import annotations

import math
import pkgutil
from decimal import Decimal
from importlib import import_module
from pathlib import Path

import pytest

from perfmodel import networks
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.layers.blocks.conv_residual import ConvResidual
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.layers.layer import ShapeError
from perfmodel.network import Network
from perfmodel.networks import catalog, convfirstnet
from perfmodel.networks.entry import Published
from perfmodel.networks.inverted_residual import make_divisible
from perfmodel.networks.table import networks_table

NAMES = list(catalog.entries())
PUBLISHED = [name for name, entry in catalog.entries().items() if entry.published]
CONVFIRST_MEMBERS = ["atto", "femto", "pico", "nano", "tiny", "small", "base"]


def published(name: str) -> Published:
    found = catalog.find(name).published
    assert found is not None
    return found


def as_printed(value: int, unit: int, printed: str) -> str:
    digits = -int(Decimal(printed).as_tuple().exponent)
    return str((Decimal(value) / unit).quantize(Decimal(1).scaleb(-digits)))


# What others counted


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones_in_every_printed_digit(name: str) -> None:
    expected = published(name)
    network = catalog.build(name, resolution=expected.resolution)
    assert expected.params is not None or expected.params_millions is not None
    assert expected.params in (None, network.params)
    for printed, value, unit in (
        (expected.params_millions, network.params, 10**6),
        (expected.gmacs, network.macs, 10**9),
        (expected.activations_millions, network.graph.activations, 10**6),
    ):
        if printed is not None:
            assert as_printed(value, unit, printed) == printed


def test_the_exact_parameter_counts_are_torchvisions() -> None:
    exact = {name: published(name).params for name in PUBLISHED}
    assert exact["resnet50"] == 25_557_032
    assert exact["efficientnet_b7"] == 66_347_960
    assert exact["convnext_large"] == 197_767_336
    assert exact["regnety_320"] == 145_046_770


def test_every_network_but_our_own_has_check_values() -> None:
    assert set(NAMES) - set(PUBLISHED) == {f"convfirstnet_{member}" for member in CONVFIRST_MEMBERS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_default_resolution_is_that_of_the_check_value(name: str) -> None:
    assert catalog.find(name).resolution == published(name).resolution
    assert catalog.build(name).resolution == published(name).resolution


# timm's benchmark files add 2 operations per batch-norm element and 5 per layer-norm element to the multiply-accumulates
# (results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv, column infer_gmacs).
@pytest.mark.parametrize(
    ("name", "resolution", "infer_gmacs"),
    [
        ("vgg16", 224, "15.47"),
        ("resnet18", 224, "1.82"),
        ("resnet50", 224, "4.11"),
        ("resnet152", 224, "11.56"),
        ("resnet152", 288, "19.11"),
        ("resnext50_32x4d", 160, "2.17"),
        ("mobilenetv2_100", 224, "0.31"),
        ("mobilenetv3_large_100", 224, "0.23"),
        ("efficientnet_b0", 224, "0.40"),
        ("efficientnet_b4", 380, "4.49"),
        ("efficientnetv2_s", 384, "8.44"),
        ("convnext_atto", 224, "0.55"),
        ("convnext_femto", 224, "0.79"),
        ("convnext_pico", 288, "2.27"),
        ("convnext_nano", 224, "2.46"),
        ("convnext_tiny", 384, "13.14"),
        ("convnext_base", 320, "31.39"),
        ("regnety_008", 224, "0.81"),
        ("regnety_008_tv", 224, "0.84"),
        ("regnety_080", 288, "13.22"),
        ("regnety_080_tv", 224, "8.51"),
    ],
)
def test_timms_way_of_counting_is_reproduced(name: str, resolution: int, infer_gmacs: str) -> None:
    graph = catalog.build(name, resolution=resolution).graph
    per_element = {"batch_norm": 2, "layer_norm": 5}
    norms = sum(graph.counts[node.name].writes * per_element.get(node.layer.kind, 0) for node in graph.nodes.values())
    assert as_printed(graph.macs + norms, 10**9, infer_gmacs) == infer_gmacs


def test_resnet50_counted_by_hand() -> None:
    macs = 112 * 112 * 64 * 3 * 7 * 7
    channels, size = 64, 56
    for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(depth):
            before = size
            if stage > 0 and block == 0:
                size //= 2
            macs += before * before * channels * width  # 1×1
            macs += size * size * width * width * 9  # 3×3, which carries the stride
            macs += size * size * width * 4 * width  # 1×1
            if block == 0:
                macs += size * size * channels * 4 * width  # projection shortcut
            channels = 4 * width
    assert size == 7
    assert catalog.build("resnet50").macs == macs + 2048 * 1000


# The generator of the RegNet paper, with the parameters of facebookresearch/pycls, configs/dds_baselines/regnety.
REGNET_PARAMETERS = {
    "regnety_004": (48, 27.89, 2.09, 16, 8),
    "regnety_008": (56, 38.84, 2.4, 14, 16),
    "regnety_008_tv": (56, 38.84, 2.4, 14, 16),
    "regnety_016": (48, 20.71, 2.65, 27, 24),
    "regnety_032": (80, 42.63, 2.66, 21, 24),
    "regnety_080": (192, 76.82, 2.19, 17, 56),
    "regnety_080_tv": (192, 76.82, 2.19, 17, 56),
    "regnety_160": (200, 106.23, 2.48, 18, 112),
    "regnety_320": (232, 115.89, 2.53, 20, 232),
}


@pytest.mark.parametrize("name", REGNET_PARAMETERS)
def test_regnet_widths_come_from_its_generator(name: str) -> None:
    w_0, w_a, w_m, depth, group = REGNET_PARAMETERS[name]
    widths = []
    for i in range(depth):
        exponent = round(math.log((w_0 + w_a * i) / w_0) / math.log(w_m))
        width = round(w_0 * w_m**exponent / 8) * 8
        group_width = min(group, width)
        widths.append(make_divisible(width, group_width) if name.endswith("_tv") else round(width / group_width) * group_width)
    blocks = catalog.build(name).graph.blocks.values()
    assert [block.out_channels for block in blocks] == widths
    assert {block.group_width for block in blocks} == {group}  # type: ignore[attr-defined]


def test_make_divisible_never_loses_more_than_a_tenth() -> None:
    assert [make_divisible(value) for value in (1, 8, 11.9, 12, 88.08, 18, 19)] == [8, 8, 16, 16, 88, 24, 24]
    assert all(make_divisible(value) >= 0.9 * value for value in range(1, 500))
    assert all(make_divisible(value) % 8 == 0 for value in range(1, 500))


@pytest.mark.parametrize(
    ("name", "block", "width"),
    [
        ("efficientnet_b0", "blocks.0.0", 8),  # 32 in
        ("efficientnet_b0", "blocks.1.0", 4),  # 16 in, 96 hidden
        ("mobilenetv3_large_100", "blocks.2.0", 24),  # 24 in, 72 hidden
        ("mobilenetv3_small_100", "blocks.0.0", 8),  # 16 in and hidden
        ("regnety_032", "s1.b1", 8),  # 32 in
        ("mobileone_s4", "stages.2.10", 56),  # 896
        ("mobileone_s4", "stages.3.1", 128),  # 2048
    ],
)
def test_squeeze_excitation_widths(name: str, block: str, width: int) -> None:
    nodes = catalog.build(name).graph.nodes
    (reduce,) = (node for node in nodes.values() if node.name.startswith(f"{block}.") and node.name.endswith(".reduce"))
    assert reduce.shape[1] == width


def test_mobileone_squeezes_both_convolutions_of_its_last_six_blocks_before_the_relu() -> None:
    nodes = catalog.build("mobileone_s4").graph.nodes
    squeezed = [name.removesuffix(".attn.mul") for name in nodes if name.endswith(".attn.mul")]
    assert squeezed == [f"stages.2.{i}" for i in range(10, 20)] + ["stages.3.0", "stages.3.1"]
    assert all(nodes[f"{name}.act"].inputs == (f"{name}.attn.mul",) for name in squeezed)
    assert not any(name.endswith(".attn.mul") for name in catalog.build("mobileone_s3").graph.nodes)


def test_mobileone_is_a_chain_of_biased_convolutions() -> None:
    graph = catalog.build("mobileone_s0").graph
    assert not any(node.layer.kind == "batch_norm" for node in graph.nodes.values())
    assert all(len(readers) <= 1 for readers in graph.consumers.values())
    convolutions = [node for node in graph.nodes.values() if node.layer.kind == "conv2d"]
    assert len(convolutions) == 1 + 2 * (2 + 8 + 10 + 1)
    assert all(node.layer.bias for node in convolutions)  # type: ignore[attr-defined]


def test_resnet_bottlenecks_stride_in_the_3x3() -> None:
    nodes = catalog.build("resnet50").graph.nodes
    assert nodes["layer2.0.conv1"].layer.stride == (1, 1)  # type: ignore[attr-defined]
    assert nodes["layer2.0.conv2"].layer.stride == (2, 2)  # type: ignore[attr-defined]


def test_torchvisions_regnets_are_not_hidden_behind_timms() -> None:
    assert catalog.find("regnet_y_800mf").name == "regnety_008_tv"
    assert catalog.find("regnet_y_8gf").name == "regnety_080_tv"
    assert catalog.find("regnet_y_3_2gf").name == "regnety_032"
    assert catalog.build("regnety_008").params != catalog.build("regnety_008_tv").params


# What every network must be


@pytest.mark.parametrize("name", NAMES)
def test_structure(name: str) -> None:
    network = catalog.build(name, batch=3, classes=10)
    graph = network.graph
    seen: set[str] = set()
    for key, node in graph.nodes.items():
        assert key == node.name
        assert set(node.inputs) <= seen, f"{name}: {key} reads a node that comes later"
        elements = [graph.nodes[source].shape.elements for source in node.inputs]
        assert [shape.elements for shape in node.input_shapes] == elements  # a flattened image is the same tensor
        seen.add(key)
    (output,) = graph.outputs
    assert graph.nodes[output].shape == (3, 10, 1, 1)
    assert graph.nodes[output].layer.kind == "linear"
    assert next(iter(graph.nodes.values())).shape == (3, 3, network.resolution, network.resolution)


@pytest.mark.parametrize("name", NAMES)
def test_residual_blocks_are_recorded_and_add_their_input(name: str) -> None:
    graph = catalog.build(name).graph
    members: dict[str, list[str]] = {block: [] for block in graph.blocks}
    for node in graph.nodes.values():
        if node.block is not None:
            members[node.block].append(node.name)
        if node.layer.kind == "add":
            assert node.block is not None, f"{name}: {node.name} adds outside a recorded block"
    for block_name, block in graph.blocks.items():
        assert all(member.startswith(f"{block_name}.") for member in members[block_name])
        adds = [graph.nodes[member] for member in members[block_name] if graph.nodes[member].layer.kind == "add"]
        first = graph.nodes[members[block_name][0]]
        if block.has_identity:
            (add,) = adds
            assert set(first.inputs) & set(add.inputs), f"{name}: {block_name} adds something else than its input"
        last = graph.nodes[members[block_name][-1]]
        assert block.in_channels == first.input_shapes[0].C
        assert block.out_channels == last.shape.C


def test_how_many_residual_blocks() -> None:
    counts = {name: len(catalog.build(name).graph.blocks) for name in NAMES}
    assert counts["alexnet"] == counts["vgg16"] == counts["mobileone_s4"] == 0
    assert counts["resnet152"] == 3 + 8 + 36 + 3
    assert counts["mobilenetv2_100"] == 17
    assert counts["mobilenetv3_large_100"] == 15
    assert counts["efficientnet_b0"] == 16
    assert counts["efficientnetv2_s"] == 2 + 4 + 4 + 6 + 9 + 15
    assert counts["convnext_small"] == 36
    assert counts["regnety_016"] == 27


@pytest.mark.parametrize(
    ("name", "resolution"),
    [(name, resolution) for name in NAMES for resolution in (224, 256, 65, 33) if (name, resolution) != ("alexnet", 33)],
)
def test_builds_at_other_sizes_and_scales_with_the_batch(name: str, resolution: int) -> None:
    one = catalog.build(name, batch=1, resolution=resolution)
    many = catalog.build(name, batch=7, resolution=resolution)
    assert many.macs == 7 * one.macs
    assert many.params == one.params
    assert many.graph.activations == 7 * one.graph.activations


@pytest.mark.parametrize("name", NAMES)
def test_classes_change_only_the_last_layer(name: str) -> None:
    thousand, ten = catalog.build(name), catalog.build(name, classes=10)
    *_, last = thousand.graph.nodes.values()
    features = last.input_shapes[0].C
    assert thousand.params - ten.params == 990 * (features + 1)
    assert thousand.macs - ten.macs == 990 * features


# torchvision documents min_size 63 for AlexNet and 32 for VGG; ConvNeXt's 4×4 and three 2×2 strides need 32; the others halve
# five times, rounding up, and must have two rows left before the last stride.
@pytest.mark.parametrize("name", NAMES)
def test_images_too_small_are_refused_by_the_layer_that_finds_out(name: str) -> None:
    family = catalog.find(name).family
    smallest = {"alexnet": 63, "vgg": 32, "convnext": 32}.get(family, 17)
    assert isinstance(catalog.build(name, resolution=smallest), Network)
    for resolution in (smallest - 1, 8, 1):
        with pytest.raises(ShapeError, match=r"^layer \S+: .* too small for the strides and kernels of this network$"):
            catalog.build(name, resolution=resolution)


def test_a_convolution_residual_has_a_formula_and_strides_without_an_add() -> None:
    block = ConvResidual.symbolic()
    assert block.has_identity
    builder = GraphBuilder()
    x = builder.input(Shape(1, 8, 16, 16))
    x = builder.block(ConvResidual(in_channels=8, out_channels=8, stride=2), x, name="block")
    assert x.shape == (1, 8, 8, 8)
    assert not any(node.layer.kind == "add" for node in builder.graph().nodes.values())


# The catalogue


def test_nothing_is_lost_to_equal_names() -> None:
    modules = [import_module(f"{networks.__name__}.{found.name}") for found in pkgutil.iter_modules(networks.__path__)]
    entries = [entry for module in modules for entry in getattr(module, "ENTRIES", ())]
    assert sorted(entry.name for entry in entries) == sorted(NAMES), "a family that entries() lacks, or a name taken twice"
    assert len(NAMES) == len(set(NAMES))
    owner: dict[str, str] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            assert owner.setdefault(name, entry.name) == entry.name, f"{name} names two networks"
            assert catalog.find(name) is entry, f"{name} finds {catalog.find(name).name}"
            assert catalog.find(name.upper().replace("_", "-")) is entry
            assert catalog.find(name.replace("_", " ")) is entry
    assert all(entry.description and entry.family for entry in entries)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("ResNet-50", "resnet50"),
        ("convnext tiny", "convnext_tiny"),
        ("EFFICIENTNET_B0", "efficientnet_b0"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("efficientnet_v2_s", "efficientnetv2_s"),
        ("tf_efficientnetv2_l", "efficientnetv2_l"),
        ("regnet_y_16gf", "regnety_160"),
        ("RegNet Y-1.6GF", "regnety_016"),
        ("regnet_y_1_6gf", "regnety_016"),
        ("regnet_y_3_2gf", "regnety_032"),
        ("regnet_y_32gf", "regnety_320"),
        ("ConvFirstNet Base", "convfirstnet_base"),
    ],
)
def test_lookup_ignores_case_spaces_and_dashes(given: str, found: str) -> None:
    assert catalog.find(given).name == found
    assert catalog.build(given).name == found


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet5'; did you mean .*resnet50") as caught:
        catalog.build("resnet5")
    assert "resnet50" in caught.value.near
    with pytest.raises(UnknownNameError, match="perfmodel networks"):
        catalog.find("")


@pytest.mark.parametrize("bad", [0, -1, True, 2**40, 1.5, "224", math.nan])
@pytest.mark.parametrize("what", ["batch", "resolution", "classes"])
def test_sizes_out_of_range_are_refused(what: str, bad: object) -> None:
    with pytest.raises(PerfmodelError, match=rf"^{what} must be a whole number from 1 to \d+, not "):
        catalog.build("resnet18", **{what: bad})  # type: ignore[arg-type]


# Accuracy


@pytest.mark.parametrize("name", PUBLISHED)
def test_accuracies_say_what_was_trained_and_how(name: str) -> None:
    entry = catalog.find(name)
    assert entry.accuracy
    for accuracy in entry.accuracy:
        assert 50 < accuracy.top1_percent < 90
        assert accuracy.recipe
        assert accuracy.source
        model, _, tag = accuracy.weights.partition(".")
        assert catalog.find(model.removeprefix("tf_")) is entry
        assert tag
        assert not any(pretrained in tag for pretrained in ("in21k", "in22k", "in12k", "ns_jft", "swsl", "swag"))
        catalog.build(name, resolution=accuracy.resolution)
    rows = [(accuracy.weights, accuracy.resolution) for accuracy in entry.accuracy]
    assert len(rows) == len(set(rows))


def test_nobody_has_trained_convfirstnet() -> None:
    entries = [catalog.find(f"convfirstnet_{member}") for member in CONVFIRST_MEMBERS]
    assert all(entry.accuracy == () and entry.published is None for entry in entries)


# ConvFirstNet


@pytest.mark.parametrize("member", CONVFIRST_MEMBERS)
@pytest.mark.parametrize("resolution", [224, 256])
def test_convfirstnet_does_the_work_of_convnext(member: str, resolution: int) -> None:
    ours = catalog.build(f"convfirstnet_{member}", resolution=resolution).macs
    theirs = catalog.build(f"convnext_{member}", resolution=resolution).macs
    assert abs(ours / theirs - 1) < 0.02


@pytest.mark.parametrize("member", CONVFIRST_MEMBERS)
def test_convfirstnet_uses_convfirst_at_strides_4_and_8_and_mbconv_behind(member: str) -> None:
    graph = catalog.build(f"convfirstnet_{member}").graph
    assert graph.nodes["input"].shape[2:] == (256, 256)
    expected = {64: "convfirst", 32: "convfirst", 16: "mbconv", 8: "mbconv"}
    for name, block in graph.blocks.items():
        spatial = graph.nodes[f"{name}.spatial"]
        assert block.kind == expected[spatial.shape.H]
        assert spatial.layer.group_width == 8  # type: ignore[attr-defined]
    channels = [node.shape.C for node in graph.nodes.values() if node.layer.kind == "conv2d"]
    assert all(count % 8 == 0 for count in channels)
    assert all(block.out_channels % 16 == 0 for block in graph.blocks.values())


def test_convfirstnet_grows() -> None:
    macs = [catalog.build(f"convfirstnet_{member}").macs for member in CONVFIRST_MEMBERS]
    assert macs == sorted(macs)


# Documentation


def test_the_documentation_holds_the_generated_table() -> None:
    text = (Path(__file__).parent.parent / "docs" / "networks.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("<!-- generated:networks -->\n")
    held, _, _ = rest.partition("<!-- end -->")
    assert held == networks_table(), "docs/networks.md is out of date: regenerate the documentation"


def test_the_documentation_holds_convfirstnets_stage_table() -> None:
    text = (Path(__file__).parent.parent / "docs" / "networks.md").read_text(encoding="utf-8")
    for member, spec in convfirstnet.SPECS.items():
        widths = ", ".join(str(spec.width << stage) for stage in range(4))
        depths = ", ".join(map(str, spec.depths))
        ours, theirs = (catalog.build(f"{family}_{member}", resolution=224).macs for family in ("convfirstnet", "convnext"))
        row = (
            f"| {member} | {spec.width // 2} | {widths} | {depths} | {16 * spec.width} | {ours / 1e9:.3f} | {theirs / 1e9:.3f} |"
        )
        assert row in text
