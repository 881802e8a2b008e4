"""PyTorch's own kernels on data from DRAM: what each kind attains on tensors many times the L2, by the difference of two sizes.

`microbenchmarks.py` takes the same kinds on data in L2. A kernel whose threads keep few loads on their way (batch norm, bias addition,
means) attains a rate from DRAM that is neither its rate from L2 nor the bandwidth: it is measured, kind by kind, and the compiler's
kernels likewise. Shapes are round ones; none is taken from a network.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any, Final

from perfmodel.expected.machine import NARROW_INPUTS, WIDTHS
from perfmodel.expected.terms import CONCAT_ELEMENTS
from perfmodel.validation.samples import Sample
from perfmodel.validation.torch_timing import REPEATS, graph_seconds, replay_seconds, settled, shape_text, slope, tuned

CHANNELS: Final = 256
SIZE: Final = 28
IMAGES: Final = (256, 1024)
"""Of CHANNELS×SIZE×SIZE in fp16: 103 and 411 MB."""
LAUNCHES: Final = 4
CHAIN_SHAPES: Final = ((32, 112), (64, 56), (96, 56), (128, 28), (256, 14), (512, 7))
"""Channels and image of the convolutions between which the compiler's chains are timed."""
CHAINS_EACH: Final = 2
"""Of such a shape, one after the other."""
CHAIN_ELEMENTS: Final = 24 * 64 * 56 * 56
"""That a chain of many images has at most: 10 MB read and 10 MB written."""
CHAIN_IMAGES: Final = (1, 0)
"""Of one image, and of as many as CHAIN_ELEMENTS takes (0)."""
PRODUCTS: Final = ((64, 256), (256, 64), (24, 144), (144, 24), (128, 128), (512, 128))
"""Channels in and out of 1×1 convolutions, the pairs of bottlenecks and inverted bottlenecks."""
CONVOLUTION_PIXELS: Final = 256 * 56 * 56 * 64
"""Elements of the tensor that convolutions of every width are timed on."""
CONVOLUTION_SIZES: Final = {16: 112, 32: 112, 64: 56, 128: 28, 256: 28, 512: 14}
"""Image of each width."""


def samples(torch: Any) -> Iterator[Sample]:
    """Every figure of PyTorch's eager kernels; a few seconds."""
    with tuned(torch), torch.inference_mode():
        yield from _samples(torch)
    torch.cuda.empty_cache()


def _samples(torch: Any) -> Iterator[Sample]:
    """What `samples` yields, with the library's choices and without gradients."""
    functional, nn = torch.nn.functional, torch.nn
    make = {"device": "cuda", "dtype": torch.float16}

    def pair(channels: int, size: int, counts: tuple[int, int] = IMAGES) -> list[Any]:
        return [torch.randn(count, channels, size, size, **make).to(memory_format=torch.channels_last) for count in counts]

    def rate(quantity: str, kernel: str, work: Callable[[Any], Any], sizes: list[Any], each: float = 1.0) -> Sample:
        return slope(torch, quantity, kernel, work, sizes, each, launches=LAUNCHES)

    sizes = pair(CHANNELS, SIZE)
    half, mixed = nn.BatchNorm2d(CHANNELS).cuda().half().eval(), nn.BatchNorm2d(CHANNELS).cuda().eval()
    factor, bias = torch.randn(IMAGES[1], CHANNELS, 1, 1, **make), torch.randn(1, CHANNELS, 1, 1, **make)
    weight, other = torch.ones(CHANNELS, **make), torch.randn_like(sizes[1])
    kinds: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
        ("pointwise", "torch relu", functional.relu),
        ("add", "torch add of two tensors", lambda x: x + other[: len(x)]),
        ("silu", "torch silu", functional.silu),
        ("gelu", "torch gelu", functional.gelu),
        ("norm", "torch batch_norm, parameters fp16", half),
        ("norm_autocast", "torch batch_norm, parameters fp32", mixed),
        ("broadcast", "torch multiply by N×C×1×1", lambda x: x * factor[: len(x)]),
        ("bias", "torch add of 1×C×1×1", lambda x: x + bias),
        ("reduce", "torch mean over pixels", lambda x: x.mean((2, 3))),
        ("concat", "torch cat of two tensors, elements written", lambda x: torch.cat((x[:, :128], x[:, 128:]), 1)),
    )
    for kind, said, work in kinds:
        yield rate(f"{kind}_dram_elements_per_s", f"{said}, from DRAM", work, sizes)
    yield rate(
        "layer_norm_dram_rows_per_s",
        f"torch layer_norm of {CHANNELS}, from DRAM",
        lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (CHANNELS,), weight, weight),
        sizes,
        1 / CHANNELS,
    )
    del sizes
    stems = pair(64, 112, (64, 256))
    pools: tuple[tuple[int, Callable[[Any], Any]], ...] = (
        (2, lambda x: functional.max_pool2d(x, 2, 2)),
        (3, lambda x: functional.max_pool2d(x, 3, 2, 1)),
    )
    for kernel, work in pools:
        said = f"torch max_pool2d {kernel}×{kernel}, stride 2, from DRAM"
        yield rate(f"pool_{kernel}x{kernel}_outputs_per_s", said, work, stems, 1 / 4)
    del stems
    yield from _products(torch, pair)
    images = pair(3, 224, (64, 256))
    named = [(f"narrow_input_{width}_{size}x{size}_outputs_per_s", width, size, stride) for width, size, stride in NARROW_INPUTS]
    for quantity, width, size, stride in (("narrow_input_outputs_per_s", 32, 3, 2), *named):
        stem = nn.Conv2d(3, width, size, stride, size // 2, bias=False).cuda().half().to(memory_format=torch.channels_last)
        said = f"torch conv2d {size}×{size} of 3 channels to {width}, stride {stride}"
        yield rate(quantity, said, stem, images, width / stride**2 / 3)  # results to an element of the image
    del images
    yield from _convolutions(torch)
    yield _stream_gap(torch)
    yield _concat_block(torch)


def _products(torch: Any, pair: Callable[[int, int, tuple[int, int]], list[Any]]) -> Iterator[Sample]:
    rates = []
    for inputs, outputs in PRODUCTS:
        layer = torch.nn.Conv2d(inputs, outputs, 1, bias=False).cuda().half().to(memory_format=torch.channels_last)
        few = max(16, 2**25 // (inputs + outputs) // 56**2)  # both tensors together: 64 MB
        sizes = pair(inputs, 56, (2 * few, 6 * few))
        moved = 2 * (inputs + outputs) / inputs  # bytes to an element of the input
        rates.append(slope(torch, "product_dram_bytes_per_s", "", layer, sizes, moved, launches=LAUNCHES).median)
    said = ", ".join(f"{inputs} → {outputs}" for inputs, outputs in PRODUCTS)
    yield Sample(
        quantity="product_dram_bytes_per_s",
        kernel="torch conv2d 1×1, fp16, from DRAM",
        values=tuple(rates),
        detail=f"the median of {said} at 56×56",
    )


def _convolutions(torch: Any) -> Iterator[Sample]:
    for width in WIDTHS:
        size = CONVOLUTION_SIZES[width]
        count = CONVOLUTION_PIXELS // (width * size**2)
        x = torch.randn(count, width, size, size, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
        layer = torch.nn.Conv2d(width, width, 3, padding=1, bias=False).cuda().half().to(memory_format=torch.channels_last)
        ops = 2 * 9 * width * x.numel()
        yield Sample(
            quantity=f"convolution_{width}_fp16_ops_per_s",
            kernel="torch conv2d 3×3, fp16",
            values=tuple(ops / took for took in graph_seconds(torch, lambda layer=layer, x=x: layer(x), LAUNCHES)),  # type: ignore[misc]
            detail=f"{count}×{width}×{size}×{size}",
        )


AHEAD: Final = 400
"""Kernels in a stream, issued while the GPU is busy with products that take it longer than the host needs to issue them."""


def _stream_gap(torch: Any) -> Sample:
    """What a kernel adds to a stream whose host is ahead, less what the same kernel adds to a replayed graph."""
    x = torch.randn(2**20, device="cuda", dtype=torch.float16)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

    def gaps() -> list[float]:
        in_graph = statistics.median(graph_seconds(torch, x.relu_, 200))
        found = []
        for _ in range(REPEATS):
            for _ in range(16):  # 1.1e12 operations each
                a @ a
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(AHEAD):
                x.relu_()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end) / 1e3 / AHEAD - in_graph)
        return found

    return Sample(
        quantity="stream_gap_s",
        kernel="torch relu, in a stream behind products, less in a replayed graph",
        values=settled("stream_gap_s", gaps),
        detail=f"of {2**20} elements",
    )


def _concat_block(torch: Any) -> Sample:
    """What one more block of threads costs a concatenation with channels last: small tensors get as many as the largest has."""
    widths = (512, *(32,) * 15)
    parts = [
        torch.randn(64, width, 7, 7, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last) for width in widths
    ]

    def more() -> list[float]:
        few, many = (graph_seconds(torch, lambda count=count: torch.cat(parts[:count], 1)) for count in (4, 16))  # type: ignore[misc]
        return [(long - short) / 12 / (parts[0].numel() / CONCAT_ELEMENTS) for short, long in zip(few, many, strict=True)]

    return Sample(
        quantity="concat_block_s",
        kernel="torch cat of 16 tensors less of 4, fp16",
        values=settled("concat_block_s", more),
        detail=f"{shape_text(parts[0])} and {shape_text(parts[1])}",
    )


def compiled_samples(torch: Any, compiler: Callable[[Any], Any]) -> Iterator[Sample]:
    """What torch.compile's own kernels attain from DRAM: a norm with relu, with relu6, with SiLU, with a mean; the first in L2, too."""
    functional, nn = torch.nn.functional, torch.nn
    x = torch.randn(IMAGES[1], CHANNELS, SIZE, SIZE, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)

    class Chain(nn.Module):  # type: ignore[misc,name-defined]
        """A norm, and what the compiler fuses with it."""

        def __init__(self, after: Callable[[Any], Any]) -> None:
            super().__init__()
            self.norm, self.after = nn.BatchNorm2d(CHANNELS), after

        def forward(self, x: Any) -> Any:
            return self.after(self.norm(x))

    def seconds(after: Callable[[Any], Any], given: Any, launches: int) -> tuple[float, ...]:
        torch.compiler.reset()  # each shape compiled by itself, as a network's are
        chain = compiler(Chain(after).cuda().half().eval())
        return graph_seconds(torch, lambda: chain(given), launches)

    chains: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
        ("chain_dram_elements_per_s", "batch_norm and relu", functional.relu),
        ("chain_clamp_dram_elements_per_s", "batch_norm and relu6", functional.relu6),
        ("chain_special_dram_elements_per_s", "batch_norm and silu", functional.silu),
        ("chain_reduce_dram_elements_per_s", "batch_norm and mean over pixels", lambda x: x.mean((2, 3), keepdim=True)),
    )
    with torch.inference_mode():
        for quantity, said, after in chains:
            rates = tuple(x.numel() / took for took in seconds(after, x, LAUNCHES))
            yield Sample(
                quantity=quantity,
                kernel=f"torch.compile: {said}, fp16, from DRAM",
                values=rates,
                detail=shape_text(x),
            )
    del x
    with tuned(torch), torch.inference_mode():
        yield from _chains_between(torch, compiler)
    torch.cuda.empty_cache()


def _chains_between(torch: Any, compiler: Callable[[Any], Any]) -> Iterator[Sample]:
    """What a chain adds to a graph of convolutions: its start, and its rate on data in L2.

    A chain by itself, replayed again and again, is no measure of either: its code and constants stay where they are, its input is what
    the same kernel has read before, and the compiler, which times two variants of each kernel once, may have taken either. Between
    convolutions of several shapes all of that is as it is in a network; and like a network's graph this one is replayed and waited for
    each time, as kernels follow each other more slowly there than in one long graph. With t(e) = s + e / r for a chain of e elements, of
    one image and of many: r = (e₂ − e₁) / (t₂ − t₁), s = t₁ − e₁ / r.
    """
    nn = torch.nn

    class Between(nn.Module):  # type: ignore[misc,name-defined]
        """Convolutions of each shape in a row, and after each a norm with relu, or nothing."""

        def __init__(self, *, chained: bool) -> None:
            super().__init__()
            self.rows = nn.ModuleList(
                nn.Sequential(
                    *(
                        layer
                        for _ in range(CHAINS_EACH)
                        for layer in (
                            nn.Conv2d(width, width, 1, bias=False),
                            *((nn.BatchNorm2d(width), nn.ReLU()) if chained else ()),
                        )
                    )
                )
                for width, _ in CHAIN_SHAPES
            )

        def forward(self, images: list[Any]) -> list[Any]:
            return [row(x) for row, x in zip(self.rows, images, strict=True)]

    def counts(few: int) -> list[int]:
        return [few or CHAIN_ELEMENTS // (width * size**2) for width, size in CHAIN_SHAPES]

    def added(few: int) -> list[float]:
        """Seconds of one chain, of every repeat."""
        images = [
            torch.randn(count, width, size, size, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
            for count, (width, size) in zip(counts(few), CHAIN_SHAPES, strict=True)
        ]
        times = []
        for chained in (False, True):
            torch.compiler.reset()
            work = compiler(Between(chained=chained).cuda().half().eval().to(memory_format=torch.channels_last))
            times.append(replay_seconds(torch, lambda work=work, x=images: work(x)))  # type: ignore[misc]
        return [(long - short) / (CHAINS_EACH * len(CHAIN_SHAPES)) for short, long in zip(*times, strict=True)]

    elements = [
        statistics.fmean(count * width * size**2 for count, (width, size) in zip(counts(few), CHAIN_SHAPES, strict=True))
        for few in CHAIN_IMAGES
    ]
    short = settled("chain_startup_s", lambda: added(CHAIN_IMAGES[0]))
    long = settled("chain_elements_per_s", lambda: [took - statistics.median(short) for took in added(CHAIN_IMAGES[1])])
    rates = tuple((elements[1] - elements[0]) / more for more in long)
    starts = settled("chain_startup_s", lambda: [took - elements[0] / statistics.median(rates) for took in short], tries=1)
    kernel = f"torch.compile: batch_norm and relu, fp16, after each of {CHAINS_EACH * len(CHAIN_SHAPES)} convolutions of 1×1, less without"
    shapes = ", ".join(f"{width} at {size}×{size}" for width, size in CHAIN_SHAPES)
    yield Sample(quantity="chain_startup_s", kernel=kernel, values=starts, detail=f"at no elements, {shapes}")
    yield Sample(quantity="chain_elements_per_s", kernel=kernel, values=rates, detail=f"in L2, {shapes}")
