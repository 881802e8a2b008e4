"""Expected time and DRAM bytes of a fused kernel, from figures of the machine alone.

What its actors do in a turn, how many turns a multiprocessor does, what passes before and after: nothing is fitted to a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from perfmodel.expected.actors import Phase, turn_clocks
from perfmodel.expected.carried import sustained_quantity
from perfmodel.hardware.spec import DeviceSpec, HardwareError

SHARED_BYTES_PER_CLOCK: Final = 128.0
"""Of a multiprocessor: 32 banks of 4 bytes (CUDA C++ Programming Guide, shared memory)."""
SCHEDULERS: Final = 4
"""Warp instructions that a multiprocessor issues in a clock, since Volta."""
WARP: Final = 32
L2_PARTITIONS: Final = 2
"""Halves of the L2 cache of GA100, GH100 and their kin: each keeps a copy of what its own multiprocessors read, so that data read by all of
them fills both (NVIDIA A100 whitepaper, 2020; the Hopper tuning guide says no less of H100)."""

MEASURED: Final = (
    "clock_fused_alone_hz", "clock_fused_burst_hz", "clock_fused_sustained_hz", "narrow_product_s", "phase_latency_s", "issue_alone_s",
    "issue_unrolled_s", "issue_full_s", "special_issue_s",
    "small_product_ops_per_s", "small_product_latency_s", "special_latency_s", "shared_latency_s", "barrier_latency_s",
    "l2_read_bytes_per_s", "l2_read_alone_bytes_per_s", "l2_read_same_bytes_per_s", "l2_latency_s", "dram_latency_s",
    "dram_copy_bytes_per_s", "meeting_s", "cluster_barrier_s", "cluster_read_bytes_per_s", "block_launch_s", "cluster_launch_s",
    "stored_launch_s",
)  # fmt: skip
"""What `perfmodel hardware measure` must have found; rates of one multiprocessor where the name has no other meaning."""
CAPABILITY: Final = "9.0"
"""Of the devices on which `perfmodel hardware measure` takes them all."""
STORED_BYTES: Final = 32_768
"""Of a block in `stored_launch_s`."""
STORED_ALONE: Final = 28.0
"""Bytes per clock to L2 of a multiprocessor that few others store beside: 32 blocks of 32 to 128 KiB each."""
SUSTAINED_TYPE: Final = "fp16"
"""In which the rate under load was measured; bf16 draws the same power."""

Regime = Literal["burst", "sustained"]

QUEUE: Final = "queue"
DEPENDENCE: Final = "dependence"
LAST: Final = "last"
LOOKUPS: Final = "lookups"
CONFLICTS: Final = "conflicts"
WAITS: Final = "waits"
APART: Final = "apart"
PLACES: Final = "places"
WAVES: Final = "waves"
SUMS: Final = "sums"
ASKED: Final = "asked"
AHEAD: Final = "ahead"
"""Terms that are no figure, as Figures.switched_off names them (`fused_terms.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What limits fused kernels on a machine, in clocks of a multiprocessor at `clock_hz`."""

    name: str
    multiprocessors: int
    clock_hz: float
    """That the latencies and rates below are given at."""
    alone_clock_hz: float
    """While one multiprocessor multiplies and evaluates functions."""
    burst_clock_hz: float
    """While all of them do, in short bursts, and for long: power holds it."""
    sustained_clock_hz: float
    matrix_macs_per_clock: float
    """Of one multiprocessor by instructions of a warpgroup, in the type of the product: the datasheet's."""
    burst_ops_per_s: float
    """That the whole chip does in a short burst of products, and the rate under load: power holds it, not the width of its unit."""
    sustained_ops_per_s: float
    narrow_product_clocks: float
    """Of one m64nNk16 at least, however few its columns: its A operand is the same size."""
    phase_latency: float
    """Between two phases of a warpgroup: from the last product to its sums, fences, the first operands of what comes next."""
    issue_chained: float
    """Clocks from one instruction of a warp to its next where that waits for what the first leaves: addresses by division, bounds."""
    issue_alone: float
    """The same where it does not, in code on many values side by side."""
    issue_full: float
    """Clocks of a scheduler for a multiply-add of three registers, where several warps fill its slots."""
    special_issue: float
    """Clocks that a special function takes from them: multiply-adds of other warps beside it lose so many."""
    small_macs_per_clock: float
    """By products of one warp (m16n8k16)."""
    small_product_latency: float
    special_per_clock: float
    special_latency: float
    shared_latency: float
    barrier_latency: float
    cache_bytes_per_clock: float
    """From L2, of one multiprocessor when all of them read."""
    cache_bytes_per_clock_alone: float
    """From L2, of one multiprocessor that reads alone."""
    cache_bytes_per_clock_same: float
    """From L2, of each multiprocessor when all of them read the same bytes at the same time: weights."""
    cache_latency: float
    dram_latency: float
    dram_bytes_per_s: float
    meeting_latency: float
    """From a block's last store to L2 until another block, which saw by a count that it was there, may read it."""
    cluster_latency: float
    """Of the barrier of a cluster's blocks."""
    exchange_bytes_per_clock: float
    """From the shared memory of another block of a cluster."""
    launch_s: float
    """From the end of one kernel to the start of the next in a graph, with blocks that reserve all of shared memory."""
    cluster_launch_s: float
    """The same of blocks in clusters."""
    drain_latency: float
    """Of the last store of a kernel to L2: the next kernel begins when it has arrived."""
    store_bytes_per_clock: float
    """To L2, of one multiprocessor when all of them store."""
    store_bytes_per_clock_alone: float
    """The same with few beside it."""
    l2_bytes: float
    switched_off: frozenset[str] = frozenset()
    """Terms that are not counted, of those that are no figure: to see what each is worth."""

    @classmethod
    def of(cls, device: DeviceSpec, dtype: str = "fp16") -> Self:
        """The figures of a device of compute capability 9.0 that `perfmodel hardware measure` ran on.

        Raises HardwareError naming the figures that are not there.
        """
        peak = device.matrix_peak(dtype)
        measured = {entry.quantity: entry.value for entry in device.measured}
        wanted = (*MEASURED, f"matrix_{dtype}_ops_per_s", sustained_quantity(SUSTAINED_TYPE))
        unknown = f"tier expected has no calibration for schedule block on {device.slug}"
        if device.compute_capability != CAPABILITY:
            raise HardwareError(
                f"{unknown}: its kernels were measured on compute capability {CAPABILITY} alone, "
                f"{f'and this is {device.compute_capability}' if device.compute_capability else 'which this is not'}; "
                "use tier waterline, or schedule eager or pointwise"
            )
        if missing := [name for name in wanted if name not in measured]:
            count = f"{len(missing)} figures were" if len(missing) > 1 else "1 figure was"
            raise HardwareError(
                f"{unknown}, where {count} not measured ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}); "
                "run `perfmodel hardware measure` there, and pass the path of the file that it writes"
            )
        clock, processors = device.chip.boost_clock_hz, device.chip.multiprocessors
        macs = peak.ops_per_clock_per_multiprocessor / 2
        sustained = measured[sustained_quantity(SUSTAINED_TYPE)]
        l2 = device.memory.largest_cache_bytes or device.require("memory.l2_bytes")

        def clocks(name: str, *less: str) -> float:
            return (measured[name] - sum(measured[other] for other in less)) * clock

        def per_clock(name: str) -> float:
            return measured[name] / clock

        return cls(
            name=device.slug,
            multiprocessors=processors,
            clock_hz=clock,
            alone_clock_hz=measured["clock_fused_alone_hz"],
            burst_clock_hz=measured["clock_fused_burst_hz"],
            sustained_clock_hz=measured["clock_fused_sustained_hz"],
            matrix_macs_per_clock=macs,
            burst_ops_per_s=measured[f"matrix_{dtype}_ops_per_s"],
            sustained_ops_per_s=sustained,
            narrow_product_clocks=clocks("narrow_product_s"),
            phase_latency=clocks("phase_latency_s"),
            issue_chained=clocks("issue_alone_s"),
            issue_alone=clocks("issue_unrolled_s"),
            issue_full=clocks("issue_full_s"),
            special_issue=clocks("special_issue_s"),
            small_macs_per_clock=per_clock("small_product_ops_per_s") / 2,
            small_product_latency=clocks("small_product_latency_s"),
            special_per_clock=device.special_peak("fp32").ops_per_clock_per_multiprocessor,
            special_latency=clocks("special_latency_s"),
            shared_latency=clocks("shared_latency_s"),
            barrier_latency=clocks("barrier_latency_s"),
            cache_bytes_per_clock=per_clock("l2_read_bytes_per_s") / processors,
            cache_bytes_per_clock_alone=per_clock("l2_read_alone_bytes_per_s"),
            cache_bytes_per_clock_same=per_clock("l2_read_same_bytes_per_s"),
            cache_latency=clocks("l2_latency_s"),
            dram_latency=clocks("dram_latency_s"),
            dram_bytes_per_s=measured["dram_copy_bytes_per_s"],
            meeting_latency=clocks("meeting_s"),
            cluster_latency=clocks("cluster_barrier_s"),
            exchange_bytes_per_clock=per_clock("cluster_read_bytes_per_s"),
            launch_s=measured["block_launch_s"],
            cluster_launch_s=measured["cluster_launch_s"],
            drain_latency=clocks("l2_latency_s"),
            store_bytes_per_clock=STORED_BYTES / clocks("stored_launch_s", "block_launch_s", "l2_latency_s"),
            store_bytes_per_clock_alone=STORED_ALONE,
            l2_bytes=float(l2),
        )

    def shared(self, moved_bytes: float) -> float:
        """Clocks of shared memory's data path."""
        return moved_bytes / SHARED_BYTES_PER_CLOCK

    def issue(self, instructions: float, *, multiply_adds: float = 0.0, evaluations: float = 0.0) -> float:
        """Clocks to issue so many instructions of threads, whole warps of them; those of other kinds come beside them.

        A multiply-add of three registers takes a little more than a slot; of special functions that are among the instructions, each takes
        slots from what could be issued beside it.
        """
        slots = instructions + multiply_adds * self.issue_full + evaluations * (self.special_issue - 1)
        return slots / WARP / SCHEDULERS

    def special(self, evaluations: float) -> float:
        """Clocks of the special-function unit."""
        return evaluations / self.special_per_clock

    def clock(self, busy: float, regime: Regime) -> float:
        """With a share of the multiprocessors at work: between that of one and that of all."""
        together = self.burst_clock_hz if regime == "burst" else self.sustained_clock_hz
        return self.alone_clock_hz + (together - self.alone_clock_hz) * busy

    def cache_rate(self, blocks: float) -> float:
        """Bytes per clock that one multiprocessor gets from L2 while `blocks` of them read."""
        share = min(1.0, blocks / self.multiprocessors)
        return min(self.cache_bytes_per_clock_alone, self.cache_bytes_per_clock / share)

    def stored(self, stored_bytes: float, blocks: float) -> float:
        """Clocks in which a block's bytes go to L2, with `blocks` of them storing."""
        share = min(1.0, blocks / self.multiprocessors)
        return stored_bytes / min(self.store_bytes_per_clock_alone, self.store_bytes_per_clock / share)

    def drained(self, stored_bytes: float, blocks: float) -> float:
        """Clocks until the last `stored_bytes` of a block are in L2, with `blocks` of them storing: the next kernel waits for that."""
        return self.drain_latency + self.stored(stored_bytes, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """DRAM bytes of one launch among like ones on other data: what must move, and what is read again, with how much between."""

    input_bytes: float
    output_bytes: float
    weight_bytes: float
    weights_between_bytes: float
    """Moved from the last use of a weight in one launch to its first in the next: next to nothing where every tile streams the weights
    through, all that a launch moves where each block keeps them."""
    again_bytes: float = 0.0
    """Of the input, read again: halos of neighbouring tiles."""
    again_between_bytes: float = 0.0
    """Moved by all multiprocessors from the one reading to the other."""
    passed_bytes: float = 0.0
    """Written and read back within the block of layers, such as sums over tiles: half of it each way."""

    def dram_bytes(self, l2_bytes: float) -> float:
        """What L2 does not keep: each reading that comes after more than half of L2 (L2_PARTITIONS) has passed by is a miss.

        Written lines leave the cache within a few launches, so that each launch pays for as many as it writes.
        """
        kept = l2_bytes / L2_PARTITIONS
        moved = self.input_bytes + self.output_bytes + self.passed_bytes / 2
        if self.weights_between_bytes > kept:
            moved += self.weight_bytes
        return moved + self.again_bytes * missed(self.again_between_bytes, kept)


def missed(between_bytes: float, kept_bytes: float) -> float:
    """Share of second readings that miss a cache of `kept_bytes`, where `between_bytes` on the average pass between them.

    Readers drift apart: distances from nothing to twice the average are taken as equally likely, and those beyond the cache miss.

    >>> missed(10, 30), missed(30, 30), missed(60, 30)
    (0.0, 0.5, 0.75)
    """
    if between_bytes <= 0:
        return 0.0
    return min(1.0, max(0.0, 1 - kept_bytes / (2 * between_bytes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedKernel:
    """A fused kernel as it runs on a machine: actors, their phases, and how the turns fall on multiprocessors."""

    kind: str
    """Which class of kernels it belongs to, for a factor of that class."""
    phases: tuple[Phase, ...]
    sums_phases: tuple[Phase, ...] | None = None
    """The same in the launches before the last, which only add up; None: they do what the last does."""
    end_phases: tuple[Phase, ...] = ()
    """What all actors of a block do once, side by side, after their last turns."""
    actors: int
    """That a multiprocessor can hold at the same time."""
    classed_by: Literal["rounds", "sharing"] = "rounds"
    """What says whether latency holds it or throughput: one round of blocks or several, or whether an actor has a multiprocessor to itself
    or shares it with others."""
    warps: float = 1.0
    """Of an actor, on each scheduler: they meet at every barrier, so that they are in the same phase, and issue in each other's waits."""
    turns: float
    """Of all actors, over the whole launch."""
    together: float
    """Turns that a block takes at once, one for each of its actors: they fall on the same multiprocessor."""
    processors: int
    """Multiprocessors that can take part."""
    lead_clocks: float
    """Of a multiprocessor before its first turn: what its first tile waits for."""
    prologue_clocks: float = 0.0
    """Before that, of what does not depend on the kernel before: weights."""
    dependent: bool = False
    """Whether a block may start while the kernel before runs, where a multiprocessor is free, and waits for its results itself."""
    trail_clocks: float
    """After its last turn: the last bytes leave."""
    exchange_clocks: float = 0.0
    """After each round of turns: blocks that share a tile add up."""
    matrix_macs: float
    """On the matrix unit, of the last launch."""
    sums_matrix_macs: float | None = None
    """The same of a launch before it, which only adds up; None: it does what the last does."""
    traffic: Traffic
    steps: float = 1.0
    """Turns of an actor that follow each other in `together`; the last may be a part of one."""
    waves: int = 1
    """Blocks that a multiprocessor takes one after the other, each of which starts anew."""
    launches: int = 1
    between_clocks: float = 0.0
    """Of a small launch before the last, as of gates: it does little but wait for what it loads; 0: there is none."""
    clustered: bool = False
    """Whether its blocks run in clusters."""

    @property
    def label(self) -> str:
        """Its class: the kind, and whether latency holds it or throughput."""
        if self.classed_by == "sharing":
            return f"{self.kind}, {'alone' if self.present() == 1 else 'several'}"
        return f"{self.kind}, {'one round' if self.rounds() == 1 else 'rounds'}"

    def present(self) -> int:
        """Actors that a multiprocessor has at the same time."""
        return int(min(self.actors, self.most_turns()))

    def most_turns(self) -> float:
        """Of one multiprocessor: whole blocks, as evenly as they divide, each with all of its turns."""
        return min(math.ceil(self.blocks_of_one() * self.together - 1e-9), math.ceil(self.turns))

    def blocks_of_one(self) -> int:
        """Blocks that the multiprocessor with the most of them has, one after the other."""
        return math.ceil(math.ceil(self.turns / self.together - 1e-9) / self.processors)

    def busy(self) -> float:
        """Share of the multiprocessors that have a block."""
        return min(1.0, math.ceil(self.turns / self.together - 1e-9) / self.processors)

    def overlapped(self, figures: Figures) -> float:
        """Share of the prologue that passes while the kernel before runs: of blocks that find a multiprocessor free."""
        if not self.dependent or DEPENDENCE in figures.switched_off:
            return 0.0
        blocks = min(math.ceil(self.turns / self.together - 1e-9), self.processors)
        return min(1.0, (self.processors - blocks) / blocks)

    def rounds(self) -> int:
        """Tiles that a block takes one after the other."""
        return self.blocks_of_one() * math.ceil(self.steps - 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTime:
    """Seconds of a fused kernel, and what they are made of."""

    start_s: float
    """Launch, first tile, way out."""
    exchange_s: float
    """Of blocks that share tiles."""
    turns_s: float
    memory_s: float
    power_s: float
    """What the matrix unit's share takes at the rate that power allows the whole chip."""
    clocks_alone: float
    """Of one actor's turn with nobody beside it, and as it is."""
    clocks_together: float

    @property
    def latency_s(self) -> float:
        """Of a launch (or of all launches of the block). What power allows is an average, in which nobody multiplies during exchanges."""
        return self.start_s + max(self.exchange_s + max(self.turns_s, self.memory_s), self.power_s)


def fused_time(kernel: FusedKernel, figures: Figures, regime: Regime = "burst") -> FusedTime:
    """How long a fused kernel takes among like ones in a graph.

    A multiprocessor does its turns in rounds of as many actors as it holds, and the last round with those that are left. The whole chip is
    also held by memory (what `Traffic` says, at the copy rate) and by power: its products take at least their share of the rate that
    library products reach in the `regime`.
    """
    turns = kernel.most_turns()
    present = kernel.present()
    rounds, left = divmod(turns, present)

    def clocks_of(phases: Sequence[Phase]) -> tuple[float, ...]:
        return turn_clocks(
            phases,
            present,
            issue_alone=figures.issue_alone / kernel.warps,
            issue_chained=figures.issue_chained / kernel.warps,
            queued=QUEUE not in figures.switched_off,
            added=WAITS not in figures.switched_off,
        )

    def whole(clocks: Sequence[float]) -> float:
        return rounds * clocks[present - 1] + (clocks[int(left) - 1] if left else 0.0)

    clocks = clocks_of(kernel.phases)
    before = clocks if kernel.sums_phases is None or SUMS in figures.switched_off else clocks_of(kernel.sums_phases)
    together = whole(clocks) + (kernel.launches - 1) * whole(before)
    if kernel.end_phases:
        together += kernel.launches * kernel.blocks_of_one() * clocks_of(kernel.end_phases)[present - 1]
    sums_macs = kernel.matrix_macs if kernel.sums_matrix_macs is None else kernel.sums_matrix_macs
    burst = regime == "burst"
    allowed = figures.burst_ops_per_s if burst else figures.sustained_ops_per_s
    clock_hz = figures.clock(kernel.busy(), regime)
    launch_s = figures.cluster_launch_s if kernel.clustered else figures.launch_s
    ahead_s = launch_s + (1 - kernel.overlapped(figures)) * kernel.prologue_clocks / clock_hz
    again = (kernel.waves - 1) * (kernel.prologue_clocks + kernel.lead_clocks + kernel.trail_clocks)
    if WAVES in figures.switched_off:
        again = 0.0
    between_s = launch_s + kernel.between_clocks / clock_hz if kernel.between_clocks else 0.0
    return FusedTime(
        start_s=kernel.launches * (ahead_s + (kernel.lead_clocks + kernel.trail_clocks + again) / clock_hz) + between_s,
        exchange_s=kernel.launches * kernel.rounds() * kernel.exchange_clocks / clock_hz,
        turns_s=together / clock_hz,
        memory_s=kernel.traffic.dram_bytes(figures.l2_bytes) / figures.dram_bytes_per_s,
        power_s=2 * (kernel.matrix_macs + (kernel.launches - 1) * sums_macs) / allowed,
        clocks_alone=clocks[0],
        clocks_together=clocks[present - 1],
    )
