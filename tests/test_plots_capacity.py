"""The capacity plot: what is drawn is the curve, devices stand at their capacity, and nothing is silently left out."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from perfmodel import cli
from perfmodel.capacity import capacity_curve
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware.catalog import load, names
from perfmodel.hardware.spec import DeviceSpec
from perfmodel.layers.blocks.block import Block
from perfmodel.layers.blocks.convfirst import ConvFirst
from perfmodel.layers.catalog import BLOCKS, block_of
from perfmodel.layers.dims import Shape
from perfmodel.layers.layer import ShapeError
from perfmodel.plots import style
from perfmodel.plots.capacity import EXCESS, capacity_figure, plot_capacity
from perfmodel.plots.curves import CAPACITY, DEVICES, BlockCurves, binary, block_curves, capacity_marks, short_name
from perfmodel.plots.save import save

SVG = "{http://www.w3.org/2000/svg}"
Run = Callable[..., tuple[int, str, str]]


def curves(
    kind: str, *, channels: int = 64, size: int = 56, batch: int = 128, label: str | None = None, **options: int
) -> BlockCurves:
    return block_curves(block_of(kind, channels, **options), Shape(batch, channels, size, size), label=label)


@pytest.fixture(scope="module")
def convfirst() -> BlockCurves:
    return curves("convfirst")


@pytest.fixture(scope="module")
def mbconv() -> BlockCurves:
    return curves("mbconv")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["plot", "capacity", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def lines(ax: Axes, name: str) -> list[Line2D]:
    return [line for line in ax.lines if str(line.get_gid()).startswith(name)]


def line(ax: Axes, name: str) -> Line2D:
    (found,) = lines(ax, name)
    return found


def xy(drawn: Line2D) -> tuple[list[float], list[float]]:
    x, y = (np.asarray(data, dtype=float).tolist() for data in drawn.get_data())
    return x, y


def with_capacity(capacity: int | None, slug: str) -> DeviceSpec:
    device = load("h200")
    chip = device.chip.model_copy(update={"shared_memory_per_block_bytes": capacity})
    return device.model_copy(update={"chip": chip, "slug": slug, "aliases": ()})


# -- the drawing is the curve ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_staircase_is_the_curve(kind: str) -> None:
    shown = curves(kind)
    ax = plot_capacity(shown, DEVICES)
    block, shape = shown.cached.block, shown.cached.shape
    for name, cache_bytes in (("cached-0", math.inf), ("uncached-0", 0.0)):
        curve = capacity_curve(block, shape, cache_bytes=cache_bytes)
        drawn = line(ax, name)
        x, y = xy(drawn)
        assert drawn.get_drawstyle() == "steps-post"
        assert x[:-1] == curve.local_bytes.tolist()
        assert y == [*curve.dram_bytes.tolist(), curve.compulsory_bytes]
        assert x[-1] == ax.get_xlim()[1]
    assert line(ax, "cached-0").get_linestyle() == "-"
    assert line(ax, "uncached-0").get_linestyle() == "--"


def test_horizontal_lines_are_the_unfused_and_the_compulsory_traffic(convfirst: BlockCurves) -> None:
    ax = plot_capacity(convfirst)
    assert xy(line(ax, "unfused-0"))[1] == [convfirst.cached.unfused_bytes] * 2
    assert xy(line(ax, "compulsory"))[1] == [convfirst.cached.compulsory_bytes] * 2
    assert [text.get_text() for text in ax.texts if text.get_gid() == "level-name"] == ["unfused\n668 MB", "compulsory\n103 MB"]


def test_several_blocks_are_multiples_of_their_compulsory_traffic(convfirst: BlockCurves, mbconv: BlockCurves) -> None:
    ax = plot_capacity([convfirst, mbconv], DEVICES)
    assert "÷ compulsory" in ax.get_ylabel()
    assert xy(line(ax, "compulsory"))[1] == [1.0, 1.0]
    for index, shown in enumerate((convfirst, mbconv)):
        compulsory = shown.cached.compulsory_bytes
        assert xy(line(ax, f"unfused-{index}"))[1][0] == shown.cached.unfused_bytes / compulsory
        for name, curve in (("cached", shown.cached), ("uncached", shown.uncached)):
            assert xy(line(ax, f"{name}-{index}"))[1][:-1] == (curve.dram_bytes / compulsory).tolist()
    colors = {line(ax, f"{name}-{index}").get_color() for index in range(2) for name in ("cached", "uncached")}
    assert len(colors) == 2


@pytest.mark.parametrize("kind", ["convfirst", "basic", "conv_residual", "fused_mbconv"])
def test_a_ring_stands_where_a_staircase_passes_below_the_unfused_traffic(kind: str) -> None:
    shown = curves(kind)
    ax = plot_capacity(shown, DEVICES)
    for name, curve, below in zip(("cached", "uncached"), (shown.cached, shown.uncached), shown.below_unfused_bytes, strict=True):
        rings = lines(ax, f"crossing-{name}")
        if below is None:
            assert curve.dram_bytes.min() >= curve.unfused_bytes
            assert not rings
            continue
        index = curve.local_bytes.tolist().index(below)
        assert curve.dram_bytes[index] < curve.unfused_bytes
        assert all(curve.dram_bytes[:index] >= curve.unfused_bytes)
        assert [xy(ring) for ring in rings] == ([([below], [curve.unfused_bytes])] if index else [])


def test_where_unfused_is_compulsory_one_name_says_both() -> None:
    ax = plot_capacity(curves("conv_residual"))
    (name,) = [text.get_text() for text in ax.texts if text.get_gid() == "level-name"]
    assert name.startswith("unfused and compulsory")


def test_all_that_devices_move_is_inside_the_plot() -> None:
    for kind in BLOCKS:
        ax = plot_capacity(curves(kind), DEVICES)
        style.settle(ax)
        names_from = min(text.get_window_extent().y0 for text in ax.texts if text.get_gid() == "device-name")
        dots = [dot for dot in lines(ax, style.TIP) if dot.get_marker() != "None"]
        heights = [ax.transData.transform((dot.get_xdata()[0], dot.get_ydata()[0]))[1] for dot in dots]  # type: ignore[index]
        assert heights
        assert max(heights) < names_from


# -- devices -----------------------------------------------------------------------------------------------------------


def test_devices_stand_at_their_capacity(convfirst: BlockCurves) -> None:
    ax = plot_capacity(convfirst, DEVICES)
    capacities = {load(name).require(CAPACITY) for name in DEVICES}
    upright = lines(ax, "device-")
    assert sorted(xy(mark)[0][0] for mark in upright) == sorted(capacities)
    dots = [xy(dot) for dot in lines(ax, style.TIP)]
    expected = [([at], [curve.at(at)]) for at in sorted(capacities) for curve in (convfirst.cached, convfirst.uncached)]
    assert dots == expected


def test_the_default_devices_have_every_capacity_of_the_catalogue() -> None:
    known = {load(name).chip.shared_memory_per_block_bytes for name in names()} - {None}
    assert {load(name).require(CAPACITY) for name in DEVICES} == known


def test_devices_of_one_capacity_share_a_mark() -> None:
    marks, without = capacity_marks(["rtx3090", "T4", "rtx4090", "mi300x", "t4", "m1-ultra"])
    assert [(mark.local_bytes, mark.names) for mark in marks] == [(65536, ("t4", "mi300x")), (101376, ("rtx3090", "rtx4090"))]
    assert without == ("m1-ultra",)


def test_short_names_are_names_of_the_catalogue() -> None:
    assert short_name(load("a100")) == "a100"
    for name in names():
        assert load(short_name(load(name))).slug == name


def test_a_device_without_the_figure_is_named(convfirst: BlockCurves) -> None:
    ax = plot_capacity(convfirst, ["t4", "m1-ultra", "tpu-v4"])
    assert "No figure for their local memory: m1-ultra, tpu-v4." in style.caption_text(ax)
    assert "m1-ultra, tpu-v4" in style.description(ax)
    assert len(lines(ax, "device-")) == 1


def test_a_device_on_which_nothing_fits_is_named() -> None:
    ax = plot_capacity(curves("convfirst", channels=8192, size=7, batch=1), ["t4", "h200"])
    assert "No tile of convfirst fits: t4, h200." in style.caption_text(ax)
    assert "no tile of convfirst fits" in style.description(ax)
    assert ax.get_xlim()[0] < 65536
    assert not lines(ax, style.TIP)


def test_a_long_list_of_names_is_cut_and_the_caption_has_all(convfirst: BlockCurves) -> None:
    alike = [name for name in names() if load(name).chip.shared_memory_per_block_bytes == 101_376]
    ax = plot_capacity(convfirst, alike)
    (name,) = [text.get_text() for text in ax.texts if text.get_gid() == "device-name"]
    assert " more\n99 KiB" in name
    assert all(short_name(load(each)) in style.caption_text(ax) for each in alike)


def _boxes(ax: Axes, *ids: str) -> list[tuple[str, object]]:
    style.settle(ax)
    return [(text.get_text(), text.get_window_extent()) for text in ax.texts if text.get_gid() in ids]


SIZES = [65_536, 66_000, 67_000, 98_304, 99_000, 101_376, 102_400, 166_912, 170_000, 232_448, 240_000]


@pytest.mark.parametrize(
    "devices",
    [
        DEVICES,
        ["h200"],
        ["t4", "v100"],
        names(),
        [with_capacity(size, f"device-{size}") for size in SIZES],
        [with_capacity(size, f"device-with-quite-a-long-name-{size}") for size in SIZES],
        [with_capacity(1024, "tiny"), with_capacity(10**9, "huge")],
    ],
    ids=["default", "one", "two", "all", "close", "long", "far"],
)
@pytest.mark.parametrize("kinds", [("convfirst",), ("basic",), ("convfirst", "mbconv", "convnext", "basic", "bottleneck")])
def test_no_label_covers_another(kinds: Sequence[str], devices: Sequence[DeviceSpec | str]) -> None:
    ax = plot_capacity([curves(kind) for kind in kinds], devices)
    boxes = _boxes(ax, "device-name", "level-name", "note")
    covering = [(a, b) for (a, box), (b, other) in itertools.combinations(boxes, 2) if box.overlaps(other)]  # type: ignore[attr-defined]
    assert not covering
    inside = ax.get_window_extent()
    for _, box in _boxes(ax, "device-name", "note"):
        assert inside.x0 - 2 <= box.x0  # type: ignore[attr-defined]
        assert box.x1 <= inside.x1 + 2  # type: ignore[attr-defined]


def test_the_excess_stands_beside_the_dots(convfirst: BlockCurves) -> None:
    ax = plot_capacity(convfirst, ["t4", "h200"])
    on_t4 = convfirst.uncached.at(65536)
    assert on_t4 is not None
    assert on_t4 > EXCESS * convfirst.cached.compulsory_bytes
    notes = [text.get_text() for text in ax.texts if text.get_gid() == "note"]
    assert f"{style.digits(on_t4 / convfirst.cached.compulsory_bytes)} ×" in notes


# -- words -------------------------------------------------------------------------------------------------------------


def test_the_caption_says_what_the_plot_holds_for(convfirst: BlockCurves, mbconv: BlockCurves) -> None:
    said = style.caption_text(plot_capacity([convfirst, mbconv], DEVICES))
    for part in (
        "batch 128",
        "56 × 56 pixels",
        "fp16",
        "convfirst: 64 channels, hidden 256, groups of 8, kernel 3×3, 15.0 G MACs",
    ):
        assert part in said
    assert "Dashed staircases begin above the plot" in said


def test_blocks_on_different_inputs_each_have_their_own_line(convfirst: BlockCurves) -> None:
    said = style.caption_text(plot_capacity([convfirst, curves("mbconv", size=28)]))
    assert "56 × 56 pixels" in said
    assert "28 × 28 pixels" in said


def test_the_description_has_the_figures(convfirst: BlockCurves) -> None:
    said = style.description(plot_capacity(convfirst, ["t4", "a100"]))
    assert "unfused 668 MB, compulsory 103 MB" in said
    assert f"reached from {binary(convfirst.cached.local_bytes[-1])}" in said
    assert "t4 at 64 KiB: convfirst, weights from a cache: 103 MB, 1 × compulsory" in said


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    plot = plot_capacity([curves("convfirst", label="$x^{2 <script>&\x00"), curves("mbconv", label="_hidden")], ["t4"])
    assert "<script" not in save(plot, tmp_path / "a.html").read_text(encoding="utf-8")
    assert ET.parse(save(plot, tmp_path / "a.svg")).getroot().tag == f"{SVG}svg"
    legend = plot.get_legend()
    assert legend is not None
    assert "_hidden" in [text.get_text().strip() for text in legend.get_texts()]


def test_sizes_are_read_in_binary() -> None:
    assert [binary(size) for size in (512, 1024, 101_376, 2**20 * 1.5, 2**30)] == ["512 B", "1 KiB", "99 KiB", "1.5 MiB", "1 GiB"]


# -- axes and files ----------------------------------------------------------------------------------------------------


def test_axes_that_are_given_are_drawn_on(convfirst: BlockCurves) -> None:
    panels = Figure(figsize=(14, 7), layout="constrained").subplots(1, 2)
    assert plot_capacity(convfirst, DEVICES, panels[0]) is panels[0]
    assert plot_capacity([convfirst], DEVICES, ax=panels[1]) is panels[1]
    assert len(capacity_figure(convfirst).axes) == 1
    ids = [artist.get_gid() for artist in panels[0].figure.findobj(lambda a: str(a.get_gid()).startswith(style.TIP))]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "html"])
def test_the_same_plot_gives_the_same_bytes(convfirst: BlockCurves, tmp_path: Path, ending: str) -> None:
    first, second = (save(plot_capacity(convfirst, DEVICES), tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    assert first == second


def test_every_dot_has_its_figures_under_the_pointer(convfirst: BlockCurves, tmp_path: Path) -> None:
    ax = plot_capacity(convfirst, DEVICES)
    root = ET.parse(save(ax, tmp_path / "plot.svg")).getroot()
    tips = [g.findtext(f"{SVG}title") or "" for g in root.iter(f"{SVG}g") if g.get("id", "").startswith(style.TIP)]
    assert len(tips) == len(lines(ax, style.TIP))
    assert all("convfirst, weights from" in tip for tip in tips)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


# -- blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_has_numbers_for_its_symbols(kind: str) -> None:
    block = block_of(kind, 64, expansion=3, group_width=4)
    assert isinstance(block, BLOCKS[kind])
    assert (block.in_channels, block.out_channels, block.stride) == (64, 64, 1)
    symbolic = BLOCKS[kind].symbolic()
    for field, of_channels in (("hidden_channels", {"bottleneck": 16, "resnext": 32, "regnety": 64, "depthwise_separable": 64}),):
        if hasattr(symbolic, field):
            assert getattr(block, field) == of_channels.get(kind, 3 * 64)
    assert getattr(block, "group_width", None) in (4, None)
    assert getattr(block, "kernel", 3) == (7 if kind == "convnext" else 3)


def test_a_block_takes_a_kernel() -> None:
    assert block_of("ConvFirst", 32, expansion=6, kernel=5) == ConvFirst(
        in_channels=32, out_channels=32, hidden_channels=192, kernel=5, group_width=8
    )
    assert isinstance(block_of("basic", 64, kernel=3), Block)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("convfirst", {"channels": 0}, "channels must be a whole number"),
        ("convfirst", {"channels": 10**9}, "channels must be a whole number"),
        ("mbconv", {"expansion": 0}, "expansion must be a whole number"),
        ("mbconv", {"group_width": -8}, "group width must be a whole number"),
        ("bottleneck", {"channels": 66}, "multiple of 4"),
        ("basic", {"kernel": 5}, "3×3"),
        ("convnext", {"kernel": 4}, "odd number"),
        ("convnext", {"kernel": -1}, "odd number"),
    ],
)
def test_numbers_that_a_block_cannot_have(kind: str, options: dict[str, int], said: str) -> None:
    with pytest.raises(ShapeError, match=said) as caught:
        block_of(kind, options.pop("channels", 64), **options)
    assert str(caught.value).startswith(f"{kind}: ")


def test_inputs_that_no_block_can_have() -> None:
    with pytest.raises(UnknownNameError, match="did you mean convfirst"):
        block_of("convfist", 64)
    with pytest.raises(PerfmodelError, match="nothing to plot"):
        plot_capacity([])
    with pytest.raises(UnknownNameError, match="did you mean h200"):
        plot_capacity(curves("convfirst"), ["h20"])
    with pytest.raises(ShapeError, match="too many"):
        curves("convfirst", batch=10**9)


# -- command line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["svg", "png", "pdf", "html"])
def test_the_command_writes_every_format(command: Run, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"plot.{kind}"
    assert command("convfirst", "--output", str(target)) == (0, "", f"wrote {target}\n")
    assert target.stat().st_size > 1000


def test_options_reach_the_plot(command: Run, tmp_path: Path) -> None:
    target = tmp_path / "plot.svg"
    options = ("--channels", "32", "--size", "28", "--batch", "4", "--expansion", "6", "--group-width", "16", "--kernel", "5")
    code, _, _ = command(
        "convfirst", "MBConv", "mbconv", *options, "--dtype", "int8", "--hardware", "t4,h200", "--output", str(target)
    )
    assert code == 0
    said = ET.parse(target).getroot().findtext(f"{SVG}desc") or ""
    assert "convfirst: 32 channels, hidden 192, groups of 16, kernel 5×5" in said
    assert said.count("mbconv: 32 channels") == 1
    assert "batch 4 · 28 × 28 pixels · int8" in said
    assert "t4 at 64 KiB" in said
    assert "a100" not in said


FAULTS = [
    (("convfist",), "did you mean convfirst"),
    (("convfirst", "--channels", "60"), "convfirst: conv2d: 60 input channels do not divide into groups of 8"),
    (("convfirst", "--channels", "0"), "channels must be a whole number"),
    (("convfirst", "--size", "0"), "the size must be a whole number of 1 or more"),
    (("convfirst", "--batch", "0"), "the batch must be a whole number of 1 or more"),
    (("convfirst", "--batch", "99999999999999"), "too many"),
    (("convfirst", "--kernel", "2"), "odd number"),
    (("convfirst", "--dtype", "fp17"), "did you mean fp16"),
    (("convfirst", "--hardware", "t4,m1-ultra"), "m1-ultra: chip.shared_memory_per_block_bytes is not known"),
    (("convfirst", "--hardware", "h20"), "did you mean h200"),
    (("convfirst", "--hardware", ","), "--hardware names nothing"),
    ((), "BLOCK"),
]


@pytest.mark.parametrize(("arguments", "said"), FAULTS, ids=[" ".join(arguments) or "nothing" for arguments, _ in FAULTS])
def test_a_fault_is_one_sentence_and_exit_code_2(command: Run, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = command(*arguments, "--output", str(tmp_path / "plot.svg"))
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("perfmodel: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["/nowhere/plot.svg", "plot.gif"])
def test_a_place_that_cannot_be_written_is_named(command: Run, target: str) -> None:
    code, _, err = command("convfirst", "--output", target)
    assert code == 2
    assert target in err
