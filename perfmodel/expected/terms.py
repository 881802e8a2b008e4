"""The terms of tier `expected`, each with its derivation and a switch; vectorised over kernels."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from perfmodel.expected.constants import Constants
from perfmodel.expected.features import HOST_CONVOLUTION, HOST_MATRIX, RATES, Features, Floats, Integers
from perfmodel.expected.machine import STEP_DEPTH, Machine
from perfmodel.expected.paths import MATRIX_PATHS, Path

TERMS: Final = MappingProxyType(
    {
        "launch": "a gap between kernels, and the host's queue: a kernel starts when the one before has ended and its call was issued",
        "startup": "a library's kernel takes a time of its own to start, and a product of few tiles the latency of its depth",
        "tail": "tiles come in whole waves over the multiprocessors, and a product with few tiles leaves some idle",
        "padding": "products are padded to tiles: K and C·R·S to multiples of 32",
        "paths": "which unit and library path a convolution takes, by its shape",
        "rates": "a pointwise kernel or norm is also limited by elements or rows per multiprocessor and clock",
        "clock": "library products attain a fraction of the datasheet's peak, set by clock and power",
        "l2": "part of what the kernels before touched is still in L2",
        "special": "transcendental functions have a throughput of their own",
        "extra": "kernels that the framework adds: bias additions, casts, changes of layout",
        "classes": "the attained fraction of the bandwidth depends on the kind of kernel",
        "overlap": "part of the shorter of compute and memory time is not hidden behind the longer",
        "across": "reading NCHW in the order of NHWC, or the other way round, attains a quarter of the bandwidth",
        "index": "a depthwise convolution over 2³¹ elements or more needs 64-bit indices, which the library's kernel does not have",
    }
)
"""Every term by name, and what it says."""
ALL: Final = frozenset(TERMS)

PADDED_TO: Final = 32
"""K and C·R·S of a product: the depth of one step of a tensor-core kernel, and its narrowest tile."""
GROUP_PADDED_TO: Final = (16, 64)
"""Input and output channels per group of the library's padded grouped convolution: one step of the matrix unit, and its narrowest tile."""
FULL_WIDTH: Final = 64
"""Columns from which on a library's k×k convolution fills a tile that runs at the full rate."""
TILES: Final = ((256, 128), (128, 128), (128, 64), (64, 64), (128, 32), (64, 32))
"""Rows × columns of the results that one block of a library's product computes."""
FULL_INTENSITY: Final = 32.0
"""Tile rows · columns / (rows + columns) from which on shared memory feeds the matrix unit at its full rate."""
UNALIGNED_SLOWER: Final = 1.4
"""Time of the arithmetic whose operands are not aligned: narrower loads, and more of them."""
DIRECT_RATE: Final = 0.014
"""Of the vector peak, in convolutions without a kernel of their own (depthwise 9×9, multipliers, two channels per group)."""
DIRECT_START: Final = 10.0
"""Taps that fit into the time such a convolution spends per result before its first tap: finding its place in the tensors."""
FULL_RATE_ATTAINED: Final = 0.67
"""Of a full-rate part's datasheet peak, under load: 659 of 989 TFLOP/s on the one such part that was measured, an H200 held by power."""
LARGE_INDEX_FACTOR: Final = 10.0
"""Time of a depthwise convolution whose tensors need 64-bit indices, over that of the library's kernel, which they rule out."""
RESAMPLE_BANDWIDTH: Final = 0.125
"""Of the DRAM bandwidth, in resizing images."""
ACROSS_BANDWIDTH: Final = 0.28
"""Of the DRAM bandwidth, in reading NCHW in the order of NHWC or the other way round: of each line of 32 bytes a thread needs one element,
and the others find it in a cache or not."""
MOST_FROM_L2: Final = 0.9
"""Of a kernel's bytes: something always comes from DRAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each kernel, taken apart; what they sum to in a network is `latency_s`."""

    arithmetic_s: Floats
    """On the matrix unit, or on the vector unit where there is no matrix path."""
    memory_s: Floats
    rate_s: Floats
    """Held by elements, rows or special functions per clock."""
    exposed_s: Floats
    """Of the shorter of arithmetic and memory, what is not hidden."""
    gap_s: Floats
    """Before the kernel: the gap, and waiting for the host."""

    @property
    def kernel_s(self) -> Floats:
        """From a kernel's start to its end."""
        return np.maximum(np.maximum(self.arithmetic_s, self.memory_s), self.rate_s) + self.exposed_s

    @property
    def latency_s(self) -> Floats:
        """Of each kernel with what passes before it."""
        return self.kernel_s + self.gap_s


def kernel_seconds(
    f: Features, machine: Machine, c: Constants, terms: AbstractSet[str] = ALL, *, graph: bool = False, compiled: bool = False
) -> Times:
    """Every kernel's times on a machine.

    `graph`: launched by replaying a CUDA graph, so that the host is not waited for. `compiled`: what is no library's kernel was written by
    a compiler.
    """
    path = f.path if "paths" in terms else _without_paths(f)
    arithmetic = _arithmetic_s(f, path, machine, c, terms)
    memory = _memory_s(f, path, machine, c, terms)
    rate = _rate_s(f, path, machine, c, terms, compiled=compiled)
    if machine.narrow_inputs and "rates" in terms:  # their measured times have products and memory in them
        arithmetic, memory = (np.where(_is_of_an_image(f, path), 0.0, part) for part in (arithmetic, memory))
    exposed = c.unhidden * np.minimum(arithmetic, memory) if "overlap" in terms else np.zeros_like(memory)
    if "startup" in terms:
        arithmetic = np.maximum(arithmetic, _depth_s(f, path, machine))
        exposed = exposed + _startup_s(f, path, machine, compiled=compiled)
        if (
            "l2" in terms
        ):  # parameters of networks that L2 does not hold come from DRAM, and starts were measured with parameters at hand
            exposed = exposed + np.where(_is_cold(f, machine, c) & (f.weights > 0), machine.cold_s, 0.0)
    exposed = exposed + np.where(path == Path.UNALIGNED, (c.unaligned - 1) * memory, 0.0)
    exposed = exposed + np.where(path == Path.GROUPED_PADDED, (c.grouped_passes - 1) * memory, 0.0)
    parts = [arithmetic, memory, rate, exposed]
    if "index" in terms:
        parts = [part * np.where(f.huge & (path == Path.DEPTHWISE), LARGE_INDEX_FACTOR, 1.0) for part in parts]
    if "extra" not in terms:
        parts = [np.where(f.extra, 0.0, part) for part in parts]
    times = Times(arithmetic_s=parts[0], memory_s=parts[1], rate_s=parts[2], exposed_s=parts[3], gap_s=np.zeros_like(memory))
    if "launch" not in terms:
        return times
    return Times(
        arithmetic_s=parts[0],
        memory_s=parts[1],
        rate_s=parts[2],
        exposed_s=parts[3],
        gap_s=_gap_s(f, times.kernel_s, machine, c, terms, graph=graph, compiled=compiled),
    )


def _without_paths(f: Features) -> Integers:
    """Every convolution as if the library had the best kernel for it."""
    plain = np.array(list(Path))
    plain[[Path.UNALIGNED, Path.GROUPED, Path.GROUPED_PADDED, Path.GROUPED_PAIR]] = Path.MATRIX
    plain[Path.DEPTHWISE_DIRECT] = Path.DEPTHWISE
    return plain[f.path]


def _arithmetic_s(f: Features, path: Integers, machine: Machine, c: Constants, terms: AbstractSet[str]) -> Floats:
    """Products: padded ops ÷ (peak · attained), times the waves' waste; direct convolutions: ops ÷ (vector peak / 100).

    GROUPED needs no padding: its kernel exists for the width. GROUPED_PADDED computes on copies whose groups are as wide as tiles; making
    the copies and taking the result apart are kernels of their own, whose passes over the data nothing hides. Derivation of the tail: B
    blocks on S multiprocessors take ⌈B/S⌉ waves where B/S would do; of the tiles that a library has, the best is taken, a tile of less than
    full intensity at its rate.
    """
    on_matrix = np.isin(path, MATRIX_PATHS) | ((path == Path.FUSED) & (f.ops > 0))
    shaped = on_matrix & (f.m > 0)
    k, n = f.k, f.n
    if "padding" in terms:
        k, n = _up(f.k, PADDED_TO), _up(f.n, PADDED_TO)
        deep, wide = GROUP_PADDED_TO
        k = np.where(path == Path.GROUPED_PADDED, _up(f.k / np.maximum(f.taps, 1), deep) * f.taps, k)
        n = np.where(path == Path.GROUPED_PADDED, _up(f.n, wide), n)
        if machine.convolution_widths:
            # a measured width's rate has its padding in it; the narrowest's is that of its tile, which narrower ones leave empty in part
            narrowest = machine.convolution_widths[0][0]
            narrow = (path == Path.MATRIX) & (f.taps > 1) & (_width(f) < FULL_WIDTH)
            k, n = np.where(narrow, f.k, k), np.where(narrow, np.maximum(f.n, narrowest), n)
        k, n = np.where(path == Path.GROUPED, f.k, k), np.where(path == Path.GROUPED, f.n, n)
    ops = np.where(shaped, 2 * f.m * n * k * f.groups, f.ops)
    seconds = ops / matrix_ops_per_s(machine, c, terms)
    if "clock" in terms and machine.convolution_ops_per_s is not None:
        seconds = np.where(f.taps > 1, ops / _convolution_ops_per_s(f, machine, machine.convolution_ops_per_s), seconds)
    if "tail" in terms:
        columns = n
        if "padding" in terms and machine.convolution_widths:  # of a narrow one the rate has what its tile wastes
            columns = np.where(narrow, np.maximum(n, FULL_WIDTH), n)
        seconds = np.where(shaped & (path != Path.GROUPED), seconds * _waste(f, columns, machine.multiprocessors), seconds)
    seconds = np.where(path == Path.UNALIGNED, UNALIGNED_SLOWER * seconds, seconds)
    seconds = np.where(on_matrix, seconds, 0.0)
    if "rates" in terms:
        for taps, ops_per_s in machine.depthwise_ops_per_s:
            # the nearest kernel size that was measured, by taps: 3×3 up to 15 taps, 5×5 up to 36, 7×7 beyond
            least, most = {3: (0, 16), 5: (16, 37), 7: (37, np.inf)}[taps]
            seconds = np.where((path == Path.DEPTHWISE) & (f.taps >= least) & (f.taps < most), f.ops / ops_per_s, seconds)
    direct = (path == Path.DEPTHWISE_DIRECT) | (path == Path.GROUPED_PAIR)
    direct_ops = f.ops * (1 + DIRECT_START / np.maximum(f.taps, 1))
    return np.where(direct, direct_ops / (DIRECT_RATE * machine.vector_ops_per_s), seconds)


def _convolution_ops_per_s(f: Features, machine: Machine, otherwise: float) -> Floats:
    """What the library's k×k convolutions sustain by their width: linear in its logarithm between the widths that were measured."""
    if not machine.convolution_widths:
        return np.full_like(f.ops, otherwise)
    widths, rates = zip(*machine.convolution_widths, strict=True)
    return np.asarray(np.interp(np.log(np.maximum(_width(f), 1.0)), np.log(widths), rates), dtype=np.float64)


def _width(f: Features) -> Floats:
    """Of a convolution: its output channels, or its input channels where these are too few to fill a step of a tile and fewer."""
    outputs, inputs = f.n * f.groups, f.k * f.groups / np.maximum(f.taps, 1)
    return np.where((f.path == Path.MATRIX) & (inputs < FULL_WIDTH), np.minimum(outputs, inputs), outputs)


def matrix_ops_per_s(machine: Machine, c: Constants, terms: AbstractSet[str] = ALL) -> float:
    """What library products attain: measured where the machine was; else the stack's fraction of the datasheet's peak."""
    if "clock" not in terms:
        return machine.peak_ops_per_s
    if machine.sustained_ops_per_s is not None:
        return machine.sustained_ops_per_s
    # the fitted fraction is of parts whose unit is narrow enough to run at full clock; a wide one is held by power
    return machine.peak_ops_per_s * (min(c.matrix_rate, FULL_RATE_ATTAINED) if machine.full_rate else c.matrix_rate)


def _waste(f: Features, n: Floats, processors: float) -> Floats:
    """Time over that of products whose tiles fill every wave: the best of the tiles."""
    best = np.full(len(n), np.inf)
    m = np.maximum(f.m, 1.0)
    columns = np.maximum(n, 1.0)
    for rows, width in TILES:
        blocks = np.ceil(m / rows) * np.ceil(columns / width) * np.maximum(f.groups, 1.0)
        computed = np.ceil(m / rows) * rows * np.ceil(columns / width) * width / (m * columns)
        idle = np.ceil(blocks / processors) * processors / blocks
        slower = max(1.0, FULL_INTENSITY * (rows + width) / (rows * width))
        best = np.minimum(best, computed * idle * slower)
    return best


def _memory_s(f: Features, path: Integers, machine: Machine, c: Constants, terms: AbstractSet[str]) -> Floats:
    """Bytes ÷ (bandwidth · attained fraction of the class), less what is found in L2, which comes at the L2's rate where that is known."""
    fraction = np.full(len(Path), c.pointwise_bandwidth)
    if "classes" in terms:
        fraction[[Path.MATRIX, Path.GROUPED, Path.GROUPED_PADDED, Path.GROUPED_PAIR]] = c.matrix_bandwidth
        fraction[[Path.DEPTHWISE, Path.DEPTHWISE_DIRECT]] = c.depthwise_bandwidth
        fraction[Path.BROADCAST] = c.broadcast_bandwidth
        fraction[Path.MOVE] = c.move_bandwidth
        fraction[Path.RESAMPLE] = RESAMPLE_BANDWIDTH
    fraction[Path.UNALIGNED] = fraction[Path.MATRIX]
    fraction[Path.FUSED] = fraction[Path.MATRIX]
    bandwidth = machine.bandwidth_bytes_per_s * fraction[path]
    if machine.copy_bytes_per_s is not None:  # a fraction above it was fitted where much of the data stayed in a large cache
        bandwidth = np.minimum(bandwidth, machine.copy_bytes_per_s)
    if machine.product_bytes_per_s is not None and "classes" in terms:
        bandwidth = np.where(path == Path.MATRIX, machine.product_bytes_per_s, bandwidth)
    if "across" in terms:
        # Σ bytes of a kind ÷ its bandwidth, as one bandwidth for all of the kernel's bytes
        across = np.divide(f.across_bytes, f.dram_bytes, out=np.zeros_like(f.dram_bytes), where=f.dram_bytes > 0)
        bandwidth = bandwidth / (1 - across + across * fraction[path] / ACROSS_BANDWIDTH)
    if "l2" not in terms:
        return f.dram_bytes / bandwidth
    cached = _cached_share(f, machine, c, terms) * f.dram_bytes
    from_cache = cached / machine.l2_bytes_per_s if machine.l2_bytes_per_s else 0.0
    return (f.dram_bytes - cached) / bandwidth + from_cache


def _cached_share(f: Features, machine: Machine, c: Constants, terms: AbstractSet[str]) -> Floats:
    """Of a kernel's bytes, the share that is found in L2."""
    if "l2" not in terms:
        return np.zeros_like(f.dram_bytes)
    return np.minimum(c.l2_share * machine.l2_bytes / np.maximum(f.dram_bytes, 1.0), MOST_FROM_L2)


def _is_cold(f: Features, machine: Machine, c: Constants) -> npt.NDArray[np.bool_]:
    """Whether a kernel's parameters and code have left L2 since the network ran before.

    In between, all weights passed through L2, and the largest kernel's tensors.
    """
    weights = np.bincount(f.network, f.dram_bytes - f.activation_bytes - f.written_bytes, minlength=f.networks)
    largest = np.zeros(f.networks)
    np.maximum.at(largest, f.network, f.dram_bytes)
    return np.asarray(weights + largest > c.l2_share * machine.l2_bytes, dtype=np.bool_)[f.network]


THREADS = 2048
"""That a multiprocessor of the measured parts holds."""
NORM_START_ROWS: Final = 12.25
"""Rows of each thread in the norm whose start is measured: of 1×256×14×14, as the library shares them out."""
NARROW = 8
"""Input channels below which a convolution has no operand of 16 bytes: that of an image's three."""
CONCAT_ELEMENTS: Final = 512
"""Elements of a block of PyTorch's CatArrayBatchedCopy; and its blocks per multiprocessor and tensor at most."""
CONCAT_BLOCKS: Final = 32
COMPILED_PATHS: Final = (Path.POINTWISE, Path.BROADCAST, Path.MOVE, Path.ROW_NORM, Path.RESAMPLE, Path.REORDER)
"""Of kernels that a compiler writes itself."""
_FRAMEWORK_KINDS: Final = ("pointwise", "add", "silu", "gelu", "norm", "norm_autocast", "broadcast", "bias", "reduce", "concat")
"""Of RATES: kernels that a compiler writes itself."""
_ARITHMETIC_KINDS: Final = ("gelu",)
"""Of these, those that their arithmetic holds, whoever wrote them."""


def _rate_s(
    f: Features, path: Integers, machine: Machine, c: Constants, terms: AbstractSet[str], *, compiled: bool = False
) -> Floats:
    """Layer norm: rows · clocks per row ÷ (multiprocessors · clock). Pointwise: elements ÷ measured rate. Special: evaluations ÷ peak.

    Elements that come from L2 go at the rate from L2, the others at that from DRAM: with a share s in L2, e·(s/r_L2 + (1 − s)/r_DRAM).
    """
    seconds = np.zeros_like(f.dram_bytes)
    kinds = np.array(RATES)[f.rate]
    if "rates" in terms:
        share = _cached_share(f, machine, c, terms)
        seconds = _row_s(f, kinds, share, machine, c, compiled=compiled)
        near, far = (np.array(rates)[f.rate] for rates in (machine.element_rates, machine.dram_rates))
        framework = np.maximum(_norm_s(f, near, share, machine), f.elements * (share / near + (1 - share) / far))
        # the framework's concatenation gives every tensor as many blocks of threads as the largest: a small one's have nothing to do
        blocks = f.groups * np.minimum(np.ceil(f.n / CONCAT_ELEMENTS), CONCAT_BLOCKS * machine.multiprocessors)
        framework = np.where(kinds == "concat", np.maximum(framework, blocks * machine.concat_block_s), framework)
        if compiled:
            theirs = np.isin(kinds, _FRAMEWORK_KINDS) & ~np.isin(kinds, _ARITHMETIC_KINDS)
            framework = np.where(theirs | (kinds == "window"), 0.0, framework)
            seconds = np.maximum(seconds, _chain_s(f, path, share, machine))
        seconds = np.maximum(seconds, framework)
        if not compiled and machine.pool_outputs_per_s:
            seconds = np.where((kinds == "window") & (f.taps > 0), _pool_s(f, machine), seconds)
        narrow = _is_of_an_image(f, path)
        seconds = np.where(narrow, np.maximum(seconds, _narrow_input_s(f, machine)), seconds)
        for grouped, elements_per_s in zip((Path.GROUPED, Path.GROUPED_PADDED), machine.grouped_elements_per_s, strict=True):
            seconds = np.where(path == grouped, np.maximum(seconds, f.elements / elements_per_s), seconds)
    if "special" in terms:
        seconds = np.maximum(seconds, f.special_ops / machine.special_per_s)
    return seconds


def _norm_s(f: Features, near: Floats, share: Floats, machine: Machine) -> Floats:
    """Elements ÷ the rate from L2, but for batch norms with few channels, which start fewer threads than the multiprocessors hold.

    The rate of those is that of the threads there are. Where little else is under way a thread's rows come faster, each in a latency of
    its own, which was measured where L2 has the data; from DRAM they come at the rate of the threads.
    """
    idle = machine.multiprocessors * THREADS / np.where(f.norm_threads > 0, f.norm_threads, np.inf)
    at_rate = f.elements / near * np.maximum(idle, 1.0)
    if machine.norm_row_s is None:
        return at_rate
    rows = f.elements / np.maximum(f.norm_threads, 1.0)
    alone = np.minimum(rows * machine.norm_row_s, at_rate)
    return np.where(idle > 1, share * alone + (1 - share) * at_rate, at_rate)


def _row_s(f: Features, kinds: npt.NDArray[np.str_], share: Floats, machine: Machine, c: Constants, *, compiled: bool) -> Floats:
    """Rows of a layer norm: the framework's own kernel as measured, one that a compiler wrote by the stack's clocks per row."""
    seconds = f.rows * c.row_clocks / (machine.multiprocessors * machine.clock_hz)
    if machine.rows_per_s is None or compiled:
        return seconds
    far = machine.dram_rows_per_s or machine.rows_per_s
    measured = f.rows * np.maximum(1 / machine.rows_per_s, share / machine.rows_per_s + (1 - share) / far)
    return np.where(kinds == "row_norm", measured, seconds)


def _is_of_an_image(f: Features, path: Integers) -> npt.NDArray[np.bool_]:
    """Convolutions of so few channels that a pixel is no whole operand."""
    return np.asarray((path == Path.UNALIGNED) & (f.taps > 1) & (f.k < NARROW * f.taps), dtype=np.bool_)


def _narrow_input_s(f: Features, machine: Machine) -> Floats:
    """Convolutions of an image's three channels: tiles of 16 or 32 results, each pixel of which takes a time that is a line in its taps.

    Through the kernel sizes that were measured at both widths. What the library has a kernel of its own for takes its own rate; where only
    one kernel and width were measured, all take that rate.
    """
    results = f.n * f.groups
    if not machine.narrow_inputs:
        return f.m * results / machine.narrow_outputs_per_s
    (few, small, fast), (_, large, slow), (many, _, wide_fast), (_, _, wide_slow), (own, its_size, its_rate) = (
        machine.narrow_inputs
    )

    def tile_s(width: int, of_small: float, of_large: float) -> Floats:
        more = (width / of_large - width / of_small) / (large**2 - small**2)
        return width / of_small + more * (f.taps - small**2)

    each = np.where(results <= few, tile_s(few, fast, slow), np.ceil(results / many) * tile_s(many, wide_fast, wide_slow))
    each = np.where((results == own) & (f.taps == its_size**2), own / its_rate, each)
    return f.m * np.maximum(each, 0.0)


def _pool_s(f: Features, machine: Machine) -> Floats:
    """Results of a pooling window, each with a time that is a straight line in its taps: through those that were measured."""
    (few, fast), (many, slow) = machine.pool_outputs_per_s
    more = (1 / slow - 1 / fast) / (many - few)
    return f.m * f.n * np.maximum(1 / fast + more * (f.taps - few), 0.0)


def _chain_s(f: Features, path: Integers, share: Floats, machine: Machine) -> Floats:
    """Kernels that a compiler wrote: for each norm, elements ÷ the rates measured with one norm; for each special function what it added.

    The compiler computes a norm's factor, a root and a division, anew for each element: a chain with two norms takes twice as long as one
    with one, and one without any is held by memory alone. Elements from L2 go at the rate from L2, the others at that from DRAM.
    """
    rates = dict(machine.chains)
    far = rates.get("chain", np.inf)
    ours = np.isin(path, (Path.POINTWISE, Path.BROADCAST, Path.MOVE))
    norms = f.norms * f.elements * (share / machine.near_chain + (1 - share) / far)
    # measured with a norm and SiLU; a norm itself evaluates one root for each channel, a chain of special functions one or more per element
    each = max(0.0, 1 / rates.get("chain_special", np.inf) - 1 / far)
    special = np.where(2 * f.special_ops > f.elements, f.special_ops * each, 0.0)
    return np.where(ours, norms + special, 0.0)


def _depth_s(f: Features, path: Integers, machine: Machine) -> Floats:
    """A product of one tile is as long as its depth: C/g·R·S in steps of 64, each with its latency, however few rows there are."""
    pointwise, convolution = machine.step_s
    steps = np.ceil(f.k / STEP_DEPTH)
    seconds = steps * np.where(f.taps > 1, convolution, pointwise)
    return np.where(np.isin(path, (Path.MATRIX, Path.UNALIGNED)) & (f.m > 0), seconds, 0.0)


def _startup_s(f: Features, path: Integers, machine: Machine, *, compiled: bool = False) -> Floats:
    """Beyond the gap: what the kernel of each kind takes with next to nothing to do; nothing where it was not measured.

    Kernels that a compiler wrote all take the same.
    """
    found = np.zeros_like(f.dram_bytes)
    kinds = np.array(RATES)[f.rate]
    deep = f.taps > 1
    where = {
        "product": np.isin(path, (Path.MATRIX, Path.UNALIGNED)) & ~deep,
        "convolution": np.isin(path, (Path.MATRIX, Path.UNALIGNED)) & deep,
        "depthwise_3x3": (path == Path.DEPTHWISE) & (f.taps < 16),
        "depthwise_5x5": (path == Path.DEPTHWISE) & (f.taps >= 16) & (f.taps < 37),
        "depthwise_7x7": (path == Path.DEPTHWISE) & (f.taps >= 37),
        "grouped": path == Path.GROUPED,
        "grouped_padded": path == Path.GROUPED_PADDED,
        "norm": kinds == "norm",
        "norm_autocast": kinds == "norm_autocast",
        "row_norm": path == Path.ROW_NORM,
        "broadcast": np.isin(kinds, ("broadcast", "bias")),
        "reduce": kinds == "reduce",
        "concat": kinds == "concat",
        "window": kinds == "window",
    }
    rows_s = NORM_START_ROWS * machine.norm_row_s if machine.norm_row_s is not None else 0.0
    for kind, seconds in machine.startup_s:
        if compiled and kind in (*_FRAMEWORK_KINDS, "window", "row_norm"):
            continue
        counted = rows_s if kind == "norm" else 0.0  # a norm's start was measured on rows that are counted beside it
        found = np.where(where[kind], max(seconds - counted, 0.0), found)
    if compiled:
        return np.where(np.isin(path, COMPILED_PATHS), machine.chain_startup_s, found)
    return found


def _gap_s(
    f: Features,
    kernel_s: Floats,
    machine: Machine,
    c: Constants,
    terms: AbstractSet[str],
    *,
    graph: bool,
    compiled: bool = False,
) -> Floats:
    """What passes before each kernel: the gap g, and where the host is slower than the GPU, waiting for the call.

    With issue times Iᵢ (sums of the host's seconds per call) a kernel starts at sᵢ = max(Iᵢ, eᵢ₋₁ + g) and ends at eᵢ = sᵢ + tᵢ. Its
    share of the network's latency is eᵢ − eᵢ₋₁, of which tᵢ is its own and the rest passed before it.
    """
    gap = np.full_like(kernel_s, machine.gap_s + (0.0 if graph else machine.stream_gap_s) if machine.gap_s else c.gap_s)
    if graph and "l2" in terms:  # a stream's longer gap has the time for a kernel's code to arrive
        gap = gap + np.where(_is_cold(f, machine, c), machine.cold_s, 0.0)
    if "extra" not in terms:
        gap = np.where(f.extra, 0.0, gap)
    host = None if graph else _host_s(f, machine, compiled=compiled)
    if host is None:
        return gap
    found = np.empty_like(gap)
    for network in range(f.networks):
        here = f.network == network
        issued = np.cumsum(host[here]) + (machine.host_compiled_s[0] if compiled and machine.host_compiled_s else 0.0)
        busy = np.cumsum(kernel_s[here] + gap[here])
        # eᵢ = busyᵢ + max over j ≤ i of (Iⱼ − busyⱼ₋₁ − gⱼ), or busyᵢ where the host is never late
        late = np.maximum.accumulate(np.maximum(issued - (busy - kernel_s[here]), 0.0))
        found[here] = np.diff(busy + late, prepend=0.0) - kernel_s[here]
    return found


def _host_s(f: Features, machine: Machine, *, compiled: bool) -> Floats | None:
    """Host seconds of each kernel's call; None where they were not measured."""
    if compiled and machine.host_compiled_s is not None:
        _, library, own, weight = machine.host_compiled_s
        return np.where(np.isin(f.host, (HOST_CONVOLUTION, HOST_MATRIX)), library, own) + f.weights * weight
    return None if machine.host_s is None else np.array(machine.host_s)[f.host]


def _up(values: Floats, multiple: int) -> Floats:
    return np.ceil(values / multiple) * multiple
