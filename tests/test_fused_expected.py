"""Expected time of fused kernels: traffic that L2 keeps, forms of our kernels, terms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.expected import columns, warpgroups, warps
from perfmodel.expected.actors import Demand, Phase, turn_clocks
from perfmodel.expected.fused import STORED_BYTES, Figures, FusedKernel, FusedTime, Traffic, fused_time, missed
from perfmodel.expected.fused_terms import FUSED_TERMS
from perfmodel.expected.fused_work import FusedWork
from perfmodel.hardware.catalog import load
from perfmodel.hardware.spec import HardwareError
from perfmodel.validation.fused.catalog import FAMILIES
from perfmodel.validation.fused.forms import expected_kernel, work_of
from perfmodel.validation.fused.mbconv import chain, rows
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from tests.gpus import H200

M16_N8_STEP = 16 * 8 * 16


def figures() -> Figures:
    return Figures.of(load("h200"))


@given(between=st.floats(min_value=0, max_value=1e9), kept=st.floats(min_value=1, max_value=1e9))
def test_what_is_read_again_misses_the_more_the_more_passes_between(between: float, kept: float) -> None:
    assert 0 <= missed(between, kept) <= missed(2 * between, kept) <= 1
    assert missed(kept / 2, kept) == 0


def test_traffic_is_input_and_output_once_and_what_l2_lost() -> None:
    base = Traffic(input_bytes=100, output_bytes=50, weight_bytes=7, weights_between_bytes=0)
    assert base.dram_bytes(60) == 150
    assert (
        replace(base, weights_between_bytes=150).dram_bytes(60) == 157
    )  # more than half of L2 between two launches' first reads
    assert replace(base, again_bytes=10, again_between_bytes=30).dram_bytes(60) == 150 + 10 * missed(30, 30)
    assert replace(base, passed_bytes=12).dram_bytes(60) == 156


def test_a_device_without_the_figures_says_which_and_how_to_get_them() -> None:
    with pytest.raises(HardwareError, match=r"no calibration for schedule block on h100-sxm.*hardware measure"):
        Figures.of(load("h100-sxm"))
    h200 = load("h200")
    lacking = h200.model_copy(update={"measured": tuple(one for one in h200.measured if one.quantity != "meeting_s")})
    with pytest.raises(HardwareError, match=r"where 1 figure was not measured \(meeting_s\)"):
        Figures.of(lacking)


def test_macs_of_the_products_are_the_blocks_own() -> None:
    work = FusedWork(N=2, H=16, W=16, C=64, hidden=256, outputs=64, kernel=3, stride=1, front="input", group_width=8)
    form = warpgroups.WarpgroupForm(
        kind="k", actors=4, chunk=64, convolution="registers", turns=2 * 16 * 16 / 64, processors=132, loaded_bytes=8192
    )
    kernel = warpgroups.kernel_of(work, form, figures())
    assert kernel.matrix_macs == 2 * 16 * 16 * 256 * (64 + 64)
    # of a turn: 64 rows · hidden · (C + outputs) multiply-adds at the unit's width, and the convolution's narrow ones
    wide = 64 * 256 * 128 / figures().matrix_macs_per_clock
    narrow = 64 / 8 * 5 * figures().narrow_product_clocks
    assert sum(phase.demand.matrix * phase.times for phase in kernel.phases) == pytest.approx(wide + narrow)
    # one evaluation for each hidden value
    assert sum(phase.demand.special * phase.times for phase in kernel.phases) == pytest.approx(64 * 256 / 16)


def test_a_tile_that_blocks_share_is_shorter_and_ends_with_an_exchange() -> None:
    work = FusedWork(N=1, H=14, W=14, C=256, hidden=1024, outputs=256, kernel=3, stride=1, front="taps", group_width=256)

    def of(split: int) -> float:
        form = warpgroups.WarpgroupForm(
            kind="k", actors=2, chunk=128, convolution="none", turns=4 * split, processors=132, split=split, loaded_bytes=65536,
            taps_from_shared=True,
        )  # fmt: skip
        kernel = warpgroups.kernel_of(work, form, figures())
        assert kernel.trail_clocks > figures().cluster_latency
        assert kernel.clustered == (split > 1)
        return fused_time(kernel, figures()).turns_s

    assert of(8) < of(1) / 4


def test_warpgroups_that_share_a_tile_multiply_as_often_in_all_and_meet() -> None:
    work = FusedWork(N=1, H=14, W=14, C=256, hidden=1024, outputs=256, kernel=3, stride=1, front="taps", group_width=256)

    def of(sharing: int) -> FusedKernel:
        form = warpgroups.WarpgroupForm(
            kind="k", actors=sharing, sharing=sharing, chunk=64, convolution="none", turns=4 * 16 * sharing, processors=132, split=16,
            loaded_bytes=65536 / sharing, taps_from_shared=True,
        )  # fmt: skip
        return warpgroups.kernel_of(work, form, figures())

    alone, shared = of(1), of(2)
    assert shared.matrix_macs == alone.matrix_macs
    assert shared.exchange_clocks == alone.exchange_clocks
    assert [phase.name for phase in shared.phases if phase not in alone.phases and "sums" in phase.name] == ["sums of warpgroups"]
    assert fused_time(shared, figures()).clocks_alone < fused_time(alone, figures()).clocks_alone
    # both activate everything
    assert sum(phase.demand.special * phase.times for phase in shared.phases) == 64 * 64 / 16


def test_chunks_in_flight_share_what_a_warpgroup_waits_for() -> None:
    """As much work, half the waiting between the phases of a chunk, as much as ever before the first and after the last."""
    work = FusedWork(N=1, H=56, W=56, C=96, hidden=384, outputs=96, kernel=3, stride=1, front="hidden", group_width=8)

    def of(flight: int) -> FusedKernel:
        form = warpgroups.WarpgroupForm(
            kind="k", actors=3, chunk=32, convolution="rows", turns=132, processors=132, loaded_bytes=8192, flight=flight
        )
        return warpgroups.kernel_of(work, form, figures())

    for one, two in zip(of(1).phases, of(2).phases, strict=True):
        assert one.demand == two.demand
        assert two.latency == pytest.approx(one.latency / (2 if one.times > 1 else 1))


def test_planes_read_a_row_of_inputs_for_several_rows_of_outputs() -> None:
    work = FusedWork(
        N=1,
        H=56,
        W=56,
        C=64,
        hidden=256,
        outputs=64,
        kernel=7,
        stride=1,
        front="input",
        group_width=1,
        activation="gelu",
        norm=True,
    )

    def of(rows: int) -> Phase:
        form = warpgroups.WarpgroupForm(
            kind="k", actors=3, chunk=32, convolution="planes", plane_rows=rows, turns=49, processors=132, loaded_bytes=8192
        )
        return next(phase for phase in warpgroups.kernel_of(work, form, figures()).phases if phase.name == "convolution")

    one, two = of(1), of(2)
    assert two.demand.shared < one.demand.shared
    assert (
        two.demand.matrix
        == one.demand.matrix
        == pytest.approx(64 * 64 * warpgroups.BAND_PRODUCTS * 2048 / figures().small_macs_per_clock)
    )
    assert one.exclusive


OWNED = FusedWork(N=1, H=56, W=56, C=64, hidden=256, outputs=64, kernel=3, stride=1, front="hidden", group_width=1)


def a_column_form(**other: Any) -> columns.ColumnForm:
    form = columns.ColumnForm(
        kind="k", actors=4, split=1, width=56, places=56, rows=56, completed=1, blocks=100, processors=132, folded=False,
        rotates=False, first_asked=4, again_bytes=0, again_between_bytes=0,
    )  # fmt: skip
    return replace(form, **other)


def test_depthwise_on_threads_is_a_multiply_add_for_each_tap() -> None:
    work = OWNED

    def of(work: FusedWork) -> FusedKernel:
        return columns.kernel_of(work, a_column_form(), figures())

    def convolution(kernel: FusedKernel) -> Demand:
        return next(phase.demand for phase in kernel.phases if phase.name == "convolution")

    three, five = of(work), of(replace(work, kernel=5))
    assert three.matrix_macs == 100 * 56 * 56 * 256 * 128
    assert three.rounds() == 1
    # 64 channels of 56 pixels, 128 lanes, of which each loads a filter's taps, and four values more of its neighbours
    more = (25 - 9) * (64 * 56 / 128 * figures().issue_full + 1) + 4 * columns.NEIGHBOUR_INSTRUCTIONS
    assert convolution(five).issue - convolution(three).issue == pytest.approx(more)
    assert convolution(five).shared - convolution(three).shared == pytest.approx(4 * (25 - 9 + 4))
    # two evaluations for each hidden value
    assert sum(phase.demand.special for phase in three.phases) == 2 * 64 * 56 / 16
    gated = of(replace(work, squeeze=16))
    assert gated.launches == 2
    assert gated.between_clocks > 0
    assert fused_time(gated, figures()).start_s > 2 * fused_time(three, figures()).start_s


def test_rows_that_nobody_wants_are_activated_only_where_sums_change_places() -> None:
    """Else the compiler leaves them out, with the last row of the filter: of half of the rows a sixth of the multiply-adds."""
    f = figures()

    def of(work: FusedWork = OWNED, **form: Any) -> tuple[float, float]:
        kernel = columns.kernel_of(work, a_column_form(**form), f)
        return named(kernel, "second activation").demand.special, named(kernel, "convolution").demand.issue

    wanted, rotated, left_out = of(), of(completed=0.5, rotates=True), of(completed=0.5)
    assert rotated == pytest.approx(wanted)
    assert left_out[0] == pytest.approx(wanted[0] / 2)
    assert wanted[1] - left_out[1] == pytest.approx(9 / 6 * (64 * 56 / 128 * f.issue_full + 1))
    # every other row of sums at stride 2, and with gates they do not change places
    assert of(replace(OWNED, stride=2), completed=0.5)[0] == pytest.approx(wanted[0] / 4)
    assert of(replace(OWNED, squeeze=16), completed=0.5, rotates=True) == pytest.approx(left_out)


def test_a_bias_that_is_no_step_of_the_expansion_is_added_to_each_value() -> None:
    apart, folded = (columns.kernel_of(OWNED, a_column_form(folded=folded), figures()) for folded in (False, True))
    added = named(apart, "activation").demand.issue - named(folded, "activation").demand.issue
    assert added == pytest.approx(64 * 56 / 128 * columns.BIAS_INSTRUCTIONS)


def test_gates_are_a_product_for_two_values() -> None:
    gated, free = (columns.kernel_of(replace(OWNED, squeeze=squeeze), a_column_form(), figures()) for squeeze in (16, 0))
    more = named(gated, "second activation").demand.issue - named(free, "second activation").demand.issue
    assert more == pytest.approx(64 * 56 / 2 / 128)


def test_the_launch_that_adds_up_projects_nothing() -> None:
    f = figures()
    gated = columns.kernel_of(replace(OWNED, squeeze=16), a_column_form(), f)
    assert gated.sums_phases is not None
    names = [{phase.name for phase in phases} for phases in (gated.phases, gated.sums_phases)]
    assert names[0] - names[1] == {"projection"}
    assert names[1] - names[0] == {"fetching"}
    both, alike = (fused_time(gated, one).turns_s for one in (f, FUSED_TERMS["sums"].without(f)))
    once = fused_time(replace(gated, launches=1), f).turns_s
    assert once < both < alike == pytest.approx(2 * once)
    expanded, projected = (100 * 56 * 56 * 256 * channels for channels in (OWNED.C, OWNED.outputs))
    assert fused_time(gated, f).power_s == pytest.approx(2 * (2 * expanded + projected) / f.burst_ops_per_s)


def test_gates_wait_for_readings_one_after_the_other() -> None:
    """Twenty warps: of 256 channels' sums one round, of 16 rows of the first matrix one, of the second one, and the gates themselves."""
    f = figures()

    def clocks(squeeze: int, blocks: int = 4 * OWNED.N) -> float:
        return columns.kernel_of(replace(OWNED, squeeze=squeeze), a_column_form(blocks=blocks), f).between_clocks

    read = f.cache_latency + f.barrier_latency
    moved = (4 * 256 * 4 + 2 * 2 * 256 * 16) / f.cache_rate(OWNED.N)
    assert clocks(16) == pytest.approx(4 * read + moved)
    assert clocks(32) - clocks(16) > 2 * read  # a second round of rows, and of a thread's readings of the second matrix


def test_special_functions_take_slots_from_what_could_be_issued_beside_them() -> None:
    f = figures()
    assert f.issue(256, evaluations=128) == pytest.approx((256 + 128 * (f.special_issue - 1)) / 128)
    assert f.issue(0, multiply_adds=128) == pytest.approx(f.issue_full)
    assert 1 <= f.issue_full < 1.3
    assert 1 < f.special_issue < 32 / 4  # no longer than its unit is busy


def test_lanes_without_a_channel_issue_with_the_others() -> None:
    """Of 24 channels as of 64; x has a row of 56 pixels in 448 pieces."""
    f = figures()
    few, many = (
        named(columns.kernel_of(replace(OWNED, C=channels, outputs=channels), a_column_form(), f), "projection").demand.issue
        for channels in (24, 64)
    )
    assert few == many


def test_the_last_row_is_projected_after_the_last_turn() -> None:
    f = figures()
    kernel = columns.kernel_of(OWNED, a_column_form(), f)
    without = columns.kernel_of(OWNED, a_column_form(), FUSED_TERMS["last"].without(f))
    projection = next(phase for phase in kernel.phases if phase.name == "projection")
    last = kernel.trail_clocks - without.trail_clocks
    # all that one row takes of the warpgroup that projects for four others, but for the row of x that it need not fetch
    assert 4 * (projection.latency + f.issue_chained * projection.demand.issue) > last > 4 * projection.latency
    assert last == pytest.approx(columns.kernel_of(OWNED, a_column_form(completed=0.5), f).trail_clocks - without.trail_clocks)
    # the launch for sums projects nothing
    gated = columns.kernel_of(replace(OWNED, squeeze=16), a_column_form(), f)
    assert gated.launches * (gated.trail_clocks - without.trail_clocks) == pytest.approx(last)


def test_the_first_row_waits_for_dram_where_weights_came_before() -> None:
    f = FUSED_TERMS["asked"].without(figures())
    kernel = columns.kernel_of(OWNED, a_column_form(blocks=10), f)
    assert kernel.overlapped(f) == 1
    assert kernel.lead_clocks > f.dram_latency
    slow = replace(f, dram_latency=1e6)
    # asked for together, the later of the two counts
    assert columns.kernel_of(OWNED, a_column_form(), slow).prologue_clocks == 0
    weights = f.cache_latency + OWNED.weight_bytes / f.cache_bytes_per_clock_same
    assert kernel.prologue_clocks + kernel.lead_clocks == pytest.approx(weights)


def test_rows_are_asked_for_before_the_first_is_waited_for() -> None:
    """Each by 50 instructions and 17.5 for each of the 3.5 pieces of a thread, which follow each other; no more rows than there are."""
    f = figures()
    near = replace(f, dram_latency=0.0, cache_bytes_per_clock=math.inf, cache_bytes_per_clock_alone=math.inf)
    ask = f.issue_chained * (columns.FETCH_INSTRUCTIONS + 3.5 * columns.PIECE_INSTRUCTIONS)
    rows = [columns.kernel_of(OWNED, a_column_form(first_asked=asked), near).lead_clocks for asked in (1, 2, 5)]
    assert rows[1] - rows[0] == pytest.approx(ask)
    assert rows[2] - rows[0] == pytest.approx(4 * ask)
    assert columns.kernel_of(OWNED, a_column_form(first_asked=5, rows=2), near).lead_clocks == pytest.approx(rows[1])
    far = replace(f, dram_latency=1e6)  # the first is asked for first: later ones' instructions pass meanwhile
    assert columns.kernel_of(OWNED, a_column_form(first_asked=5), far).lead_clocks == pytest.approx(
        columns.kernel_of(OWNED, a_column_form(first_asked=1), far).lead_clocks
    )


def test_copies_of_four_bytes_look_up_a_line_for_each_pixel() -> None:
    f = figures()
    form = warpgroups.WarpgroupForm(
        kind="k", actors=3, chunk=32, convolution="none", turns=30, processors=132, loaded_bytes=64 * 2 * 128, blocks=10
    )
    bytes_alone, looked_up = (warpgroups.kernel_of(FIRST, replace(form, lookups=lookups), f) for lookups in (0.0, 8.0 * 128))
    # three warpgroups of four warps, 32 instructions of eight lines each
    assert looked_up.lead_clocks == pytest.approx(f.dram_latency + 3 * 4 * 32 * 8)
    assert bytes_alone.lead_clocks == pytest.approx(f.dram_latency + 3 * form.loaded_bytes / f.cache_rate(10))
    # no slower where the bytes take longer
    assert warpgroups.kernel_of(FIRST, replace(form, lookups=1.0), f).lead_clocks == bytes_alone.lead_clocks


def test_a_norm_in_place_passes_the_tile_four_times() -> None:
    def of(norm: warpgroups.Norm, outside: int = 0) -> FusedKernel:
        form = warpgroups.WarpgroupForm(
            kind="k",
            actors=2,
            chunk=128,
            convolution="bands",
            norm=norm,
            outside=outside,
            turns=264,
            processors=132,
            loaded_bytes=8192,
        )
        work = FusedWork(N=1, H=56, W=56, C=256, hidden=1024, outputs=256, kernel=7, stride=1, front="input", group_width=1)
        return warpgroups.kernel_of(work, form, figures())

    def phase(kernel: FusedKernel, name: str) -> Phase:
        return next(phase for phase in kernel.phases if phase.name == name)

    once, matrix, place = (phase(of(norm), "norm") for norm in ("registers", "matrix", "in place"))
    assert once.demand.shared == matrix.demand.shared == pytest.approx(64 * 256 * 2 / 128)
    assert place.demand.shared == 4 * once.demand.shared
    assert matrix.demand.issue < once.demand.issue < place.demand.issue
    assert place.latency - once.latency == pytest.approx(3 * 4 * figures().shared_latency)
    there, read = phase(of("in place"), "result"), phase(of("in place", outside=4), "result")
    assert read.latency - there.latency == pytest.approx(4 * figures().cache_latency)
    assert read.demand.issue == 2 * there.demand.issue


def test_a_block_has_whole_turns() -> None:
    kernel = FusedKernel(
        kind="k", phases=(Phase(name="p", latency=1),), actors=2, turns=14, together=1.75, processors=132, lead_clocks=0, trail_clocks=0,
        matrix_macs=0, traffic=Traffic(input_bytes=0, output_bytes=0, weight_bytes=0, weights_between_bytes=0),
    )  # fmt: skip
    assert kernel.most_turns() == 2
    assert fused_time(kernel, figures()).clocks_together == 1


def case_of(C: int, H: int, N: int) -> MBConvProblem:
    (problem,) = [case for case in FAMILIES["mbconv"].cases() if case.name == f"mbconv_e4_fp16_n{N}_c{C}_h{H}_w{H}_k3_g8"]
    assert isinstance(problem, MBConvProblem)
    return problem


@pytest.mark.parametrize(("C", "H", "N"), [(96, 56, 128), (96, 56, 16), (128, 28, 128)])
def test_warpgroups_of_a_chain_take_every_step_of_their_block(C: int, H: int, N: int) -> None:
    """Counted as the source counts a block's steps; 218 rows and the two around, twelve at once: nineteen steps of all three warpgroups."""
    problem = case_of(C, H, N)
    config = FAMILIES["mbconv"].choose(problem, H200)
    kernel = expected_kernel(problem, config, H200, figures())
    actors, total = config.defines["WARPGROUPS"], rows.sequence(problem)
    counted = []
    for first in range(0, total, config.tile_rows):
        last, above = min(first + config.tile_rows, total), first % H != 0
        tail = last % H == 0 and (last - first + above) % (4 * actors) == 0
        counted.append((math.ceil((last - first + above + (not tail)) / (4 * actors)), tail))
    assert max(counted)[0] == kernel.steps
    assert bool(kernel.end_phases) == max(counted)[1]
    assert kernel.most_turns() == actors * kernel.steps
    assert kernel.rounds() == kernel.steps


def test_warpgroups_on_their_own_share_the_steps_of_a_block() -> None:
    """28 rows of outputs and two for each of four warpgroups: nine steps of four rows."""
    problem = case_of(64, 56, 16)
    kernel = expected_kernel(problem, FAMILIES["mbconv"].choose(problem, H200), H200, figures())
    assert kernel.most_turns() == 9
    assert not kernel.end_phases


STRIPS_WORK = FusedWork(N=128, H=56, W=56, C=96, hidden=384, outputs=96, kernel=3, stride=1, front="hidden", group_width=8)
STRIPS_FORM = warpgroups.WarpgroupForm(
    kind="k", actors=3, chunk=32, convolution="rows", turns=396, processors=132, loaded_bytes=12288, flight=2
)


def test_products_that_are_waited_for_at_once_are_not_in_flight() -> None:
    """Only what is handed on is, and the rows of the neighbours."""
    one, ahead, behind = (
        warpgroups.kernel_of(STRIPS_WORK, replace(STRIPS_FORM, **asked), figures())
        for asked in ({"flight": 1}, {}, {"products_ahead": False})
    )
    for whole, halved, found in zip(one.phases, ahead.phases, behind.phases, strict=True):
        assert found == (halved if found.name in ("activation", "rows handed on") else whole)


def test_three_warpgroups_of_a_chain_wait_for_their_products() -> None:
    """As the source has it: with the convolution of all groups in registers the expansion runs under their gathering."""
    source = (Path(chain.__file__).parents[2] / "kernels" / "mbconv_chain.cu").read_text(encoding="utf-8")
    assert f"AT_ONCE = NWG == {chain.TOGETHER} ? GROUPS : 2;" in source
    found = {}
    for C, H in ((96, 56), (128, 28)):
        problem = case_of(C, H, 128)
        kernel = expected_kernel(problem, FAMILIES["mbconv"].choose(problem, H200), H200, figures())
        found[C] = named(kernel, "products").waited, named(kernel, "convolution").waited
    assert found == {96: (1.0, 1.0), 128: (0.5, 0.5)}


def test_the_bias_of_rows_that_are_handed_on_is_a_step_of_the_expansion() -> None:
    f = figures()
    handed = named(warpgroups.kernel_of(STRIPS_WORK, STRIPS_FORM, f), "products")
    alone = named(warpgroups.kernel_of(STRIPS_WORK, replace(STRIPS_FORM, convolution="threads"), f), "products")
    assert handed.demand.matrix - alone.demand.matrix == pytest.approx(
        max(f.narrow_product_clocks, 64 * 16 * 32 / f.matrix_macs_per_clock)
    )
    assert handed.demand.shared - alone.demand.shared == pytest.approx(16 * 32 * 2 / 128)


def test_the_last_row_of_a_strip_is_convolved_and_projected_by_all_warpgroups() -> None:
    """Each has a third of the chunks, two of three rows of the filter, no expansion, one function for each value."""
    f = figures()
    without, kernel = (
        warpgroups.kernel_of(STRIPS_WORK, replace(STRIPS_FORM, last_row=last_row), f) for last_row in (False, True)
    )
    assert kernel.phases == without.phases
    assert {phase.times for phase in kernel.end_phases} == {12 / 3, 1.0}
    assert sum(phase.demand.special * phase.times for phase in kernel.end_phases) == pytest.approx(f.special(64 * 32) * 12 / 3)
    matrix = sum(phase.demand.matrix * phase.times for phase in kernel.end_phases)
    assert matrix == pytest.approx(12 / 3 * (4 * f.narrow_product_clocks + 2 * 64 * 16 * 96 / f.matrix_macs_per_clock))
    added = fused_time(kernel, f).turns_s - fused_time(without, f).turns_s
    assert 0 < added < fused_time(without, f).turns_s / 2
    twice = [replace(one, turns=2 * one.turns) for one in (without, kernel)]
    assert fused_time(twice[1], f).turns_s - fused_time(twice[0], f).turns_s == pytest.approx(2 * added)


def test_kernels_of_their_own_kind_have_forms_of_their_own() -> None:
    kinds: dict[str, set[str]] = {}
    for family in FAMILIES.values():
        for problem in family.cases():
            config = family.choose(problem, H200)  # type: ignore[arg-type]
            kinds.setdefault(config.kernel, set()).add(expected_kernel(problem, config, H200, figures()).kind)
    assert kinds["mbconv_depthwise"] == {"mbconv, threads"}
    assert kinds["convnext_planes"] == {"convnext, warpgroups"}
    assert kinds["fused_mbconv_few"] == {"fused_mbconv, warpgroups"}
    assert kinds["mbconv_tiles"] == {"mbconv, warpgroups"}


def test_every_case_of_every_family_has_a_form() -> None:
    for family in FAMILIES.values():
        for problem in family.cases():
            config = family.choose(problem, H200)  # type: ignore[arg-type]
            kernel = expected_kernel(problem, config, H200, figures())
            time = fused_time(kernel, figures())
            assert math.isfinite(time.latency_s)
            assert time.latency_s > time.memory_s
            # nothing is computed less than the block asks; halos and idle rows add
            work = work_of(problem)
            assert kernel.matrix_macs >= 0.999 * work.hidden * work.pixels * (work.depth + work.outputs)
            assert kernel.traffic.input_bytes >= problem.input_bytes


def test_a_second_pass_reads_the_input_again_and_hands_sums_on() -> None:
    problem = next(p for p in FAMILIES["mbconv"].cases() if getattr(p, "squeeze", None))
    config = FAMILIES["mbconv"].choose(problem, H200)  # type: ignore[arg-type]
    kernel = expected_kernel(problem, config, H200, figures())
    assert kernel.launches == 2
    assert kernel.traffic.input_bytes == 2 * problem.input_bytes
    assert kernel.traffic.passed_bytes > 0


def test_chained_instructions_wait_for_each_other_and_others_only_for_their_warp() -> None:
    """One actor: `issue_chained` clocks an instruction, or `issue_alone`; several fill each other's waits."""
    chained, plain = (Phase(name="p", demand=Demand(issue=100), chained=chained) for chained in (True, False))
    assert turn_clocks([chained], 1, issue_alone=2, issue_chained=3) == (300.0,)
    assert turn_clocks([plain], 1, issue_alone=2, issue_chained=3) == (200.0,)
    assert turn_clocks([chained], 50, issue_alone=2, issue_chained=3)[-1] == pytest.approx(5000)


def a_warp_form(**changes: Any) -> warps.WarpForm:
    given: dict[str, Any] = {
        "kind": "k", "tiles": 256, "tile_rows": 8, "tile_columns": 8, "warps_m": 4, "warps_n": 1, "m16_per_warp": 1, "chunk": 64,
        "chunks": 4, "split": 1, "parts": 1, "groups": 1, "input_buffers": 1, "slabs": 1, "slab_groups": 8, "ring": True, "steps": (4, 4),
        "processors": 132,
    }  # fmt: skip
    return warps.WarpForm(**{**given, **changes})


FIRST = FusedWork(N=4, H=64, W=64, C=64, hidden=256, outputs=64, kernel=3, stride=1, front="input", group_width=8)


def named(kernel: FusedKernel, name: str) -> Phase:
    return next(phase for phase in kernel.phases if phase.name == name)


def test_operands_of_four_steps_are_read_ahead() -> None:
    """A warp waits for shared memory once for every four steps, and at the start of every item."""
    in_step = FUSED_TERMS["apart"].without(figures())
    one, cut = (warps.kernel_of(FIRST, a_warp_form(steps=(steps, 4)), in_step) for steps in (4, 1))
    assert named(one, "expansion, operands").latency == figures().shared_latency
    assert named(cut, "expansion, operands").latency == 4 * figures().shared_latency
    deep = warps.kernel_of(replace(FIRST, C=128), a_warp_form(steps=(8, 4)), in_step)
    assert named(deep, "expansion, operands").latency == 2 * figures().shared_latency


@pytest.mark.parametrize("warps_m", [4, 8])
def test_warps_of_a_tile_go_on_by_themselves_between_barriers(warps_m: int) -> None:
    """While one multiplies another reads: neither all of a tile at once, nor as if nobody were in the way."""
    form = a_warp_form(warps_m=warps_m, tile_rows=2 * warps_m, tiles=1024 // warps_m)
    kernel, in_step = (warps.kernel_of(FIRST, form, f) for f in (figures(), FUSED_TERMS["apart"].without(figures())))
    assert (kernel.warps, kernel.actors) == (warps_m / 4, 1)
    both, read, multiplied = named(kernel, "expansion"), named(in_step, "expansion, operands"), named(in_step, "expansion")
    assert both.demand.shared == pytest.approx(read.demand.shared)
    assert both.demand.matrix == pytest.approx(multiplied.demand.matrix)
    taken = both.latency + max(both.demand.clocks)
    assert both.paced
    one_warp = (read.demand.shared + 4 * multiplied.demand.matrix) / warps_m
    assert max(both.demand.shared, both.demand.matrix, one_warp) < taken
    assert taken < sum(phase.latency + max(phase.demand.clocks) for phase in (read, multiplied))


@given(
    rows=st.integers(min_value=1, max_value=16),
    columns_=st.integers(min_value=1, max_value=28),
    kernel=st.sampled_from((3, 5, 7)),
    stride=st.sampled_from((1, 2)),
    pitch=st.integers(min_value=0, max_value=20),
    tap=st.integers(min_value=0, max_value=6),
)
def test_bank_conflicts_are_those_of_the_addresses(
    rows: int, columns_: int, kernel: int, stride: int, pitch: int, tap: int
) -> None:
    """Counted byte by byte, for any odd pitch and any tap: 128 bytes of different banks in a wavefront."""
    across = (columns_ - 1) * stride + kernel
    pixels = [divmod(m, columns_) if m < rows * columns_ else (0, 0) for m in range(-(-rows * columns_ // 8) * 8)]
    fronts = []
    for first in range(0, len(pixels), 8):
        starts = {((y * stride + tap) * across + x * stride + tap) * (2 * pitch + 1) * 16 for y, x in pixels[first : first + 8]}
        banks = [start // 16 % 8 for start in starts]
        fronts.append(max(banks.count(bank) for bank in banks))
    assert warps.bank_conflicts(rows, columns_, kernel, stride) == pytest.approx(sum(fronts) / len(fronts))


def test_conflicts_are_read_where_operands_are_a_tile_with_its_halo() -> None:
    f = FUSED_TERMS["apart"].without(figures())
    both = (f, FUSED_TERMS["conflicts"].without(f))
    narrow = a_warp_form(tile_rows=7, tile_columns=7)
    for front, name in (("input", "convolution"), ("hidden", "convolution"), ("taps", "expansion")):
        work = replace(FIRST, front=front, group_width=64 if front == "taps" else 8)
        with_, without = (named(warps.kernel_of(work, narrow, one), f"{name}, operands").demand.shared for one in both)
        assert 1.1 * without < with_ < 2 * without
    assert len({named(warps.kernel_of(FIRST, narrow, one), "expansion, operands") for one in both}) == 1


def test_places_of_tiles_slabs_and_chunks_are_issued() -> None:
    kernel = warps.kernel_of(FIRST, a_warp_form(slabs=2, chunks=3), figures())
    instructions = warps.TILE_INSTRUCTIONS + 2 * warps.SLAB_INSTRUCTIONS + 3 * warps.CHUNK_INSTRUCTIONS
    assert named(kernel, "places").demand.issue == instructions  # of four warps, a scheduler each
    assert named(kernel, "places").chained


def test_a_norm_of_warps_takes_four_pixels_at_a_time() -> None:
    """Eight lanes to a pixel: of 64 channels each has eight, of 72 some have sixteen, and all wait for these."""
    f = figures()
    few, more = (named(warps.kernel_of(replace(FIRST, C=c, norm=True), a_warp_form(), f), "norm") for c in (64, 72))
    rounds = 64 / 4 / 4
    assert more.demand.issue - few.demand.issue == pytest.approx(rounds * warps.NORM_INSTRUCTIONS)
    assert few.latency == pytest.approx(rounds * (9 * f.shared_latency + f.special_latency) + f.barrier_latency)


def test_the_first_of_four_steps_over_taps_waits_until_it_is_found() -> None:
    """Four steps of the 9 · 4 are unrolled, two of eight in an item; each step issues what finds its tap."""
    f = FUSED_TERMS["apart"].without(figures())
    work = replace(FIRST, front="taps", group_width=64)
    form = a_warp_form(warps_m=1, warps_n=4, m16_per_warp=4, steps=(8, 4))
    steps, products = 9 * 4, 4 * 2
    chain = steps * max(f.small_product_latency, products * 4 * M16_N8_STEP / f.small_macs_per_clock)
    kernel = warps.kernel_of(work, form, f)
    found, operands = named(kernel, "expansion"), named(kernel, "expansion, operands")
    assert found.latency == pytest.approx(max(0.0, chain - found.demand.matrix) + f.barrier_latency)
    assert found.demand.issue == pytest.approx(steps * (products + 1 + warps.TAP_INSTRUCTIONS))
    assert operands.latency == pytest.approx(
        math.ceil(36 / 8) * 2 * (f.shared_latency + f.issue_chained * warps.FIRST_TAP_INSTRUCTIONS)
    )
    # the projection, whose operands come from shared memory, too, has no taps to find
    slow = replace(f, issue_chained=100 * f.issue_chained)
    assert named(warps.kernel_of(work, form, slow), "projection") == named(kernel, "projection")


def test_a_set_of_pixels_alone_has_two_sums() -> None:
    """Sets that a warp takes at once wait less for each other's products; one alone has two sums that do not wait for each other."""
    f, of_step = figures(), M16_N8_STEP / figures().small_macs_per_clock

    def waits(**form: Any) -> float:
        kernel = warps.kernel_of(FIRST, a_warp_form(**form), FUSED_TERMS["apart"].without(f))
        return named(kernel, "convolution").latency

    pairs = 9 // 2 + 1
    alone, jobs = waits(warps_m=1, tile_rows=2), 8  # sixteen pixels, and eight channels at a time
    assert alone == pytest.approx(jobs * pairs * (max(f.small_product_latency / 2, 4 * of_step) - of_step))
    four, sets = waits(warps_m=4, slab_groups=16), 2  # sixty-four pixels of a warp at a time
    assert four == pytest.approx(max(0.0, sets * pairs * max(f.small_product_latency, 16 * of_step) - 32 * pairs * of_step))


def test_sums_wait_for_their_biases_one_by_one_where_a_warp_has_many() -> None:
    f = figures()

    def of(outputs: int, warps_n: int = 1) -> FusedKernel:
        return warps.kernel_of(replace(FIRST, C=outputs, outputs=outputs), a_warp_form(warps_n=warps_n, warps_m=4 // warps_n), f)

    few, many = of(40), of(64)  # five and eight blocks of eight channels to each of four warps in a row
    assert named(few, "result").latency == f.barrier_latency + f.shared_latency
    assert named(many, "result").latency == f.barrier_latency + 2 * 8 * f.shared_latency
    assert named(many, "result").demand.issue == pytest.approx(4 * 2 * 8 * warps.SUM_INSTRUCTIONS / 4)
    # the first tile finds them in L2, one after the other; the input comes in its own phase
    assert many.lead_clocks == pytest.approx(f.dram_latency + 8 * f.cache_latency)
    # a residual in place is read for each sum
    in_place, none = (
        named(warps.kernel_of(replace(FIRST, front="hidden", C=40, outputs=40, residual=residual), a_warp_form(), f), "result")
        for residual in (True, False)
    )
    assert in_place.latency - none.latency == pytest.approx((2 * 5 - 1) * f.shared_latency)
    # warps that share the channels read six ahead
    shared = of(128, warps_n=2)
    assert named(shared, "result").latency == f.barrier_latency + f.shared_latency
    assert shared.lead_clocks == pytest.approx(f.dram_latency + 2 * f.cache_latency)


def test_a_residual_from_outside_is_waited_for_in_every_pass() -> None:
    """64 pixels of 64 channels are four pieces for each of 128 threads."""
    f = figures()
    again, none = (
        named(warps.kernel_of(replace(FIRST, residual=residual), a_warp_form(), f), "result stored") for residual in (True, False)
    )
    assert again.latency - none.latency == pytest.approx(4 * f.cache_latency)


def test_the_class_of_warps_says_whether_they_share_their_multiprocessor() -> None:
    """Of warpgroups, whether blocks come once or in rounds."""

    def label(**form: Any) -> str:
        return warps.kernel_of(FIRST, a_warp_form(**form), figures()).label

    assert label() == "k, alone"
    assert label(groups=2) == "k, several"
    assert label(blocks=2) == "k, several"
    assert label(blocks=2, tiles=132) == "k, alone"  # no multiprocessor has two
    form = warpgroups.WarpgroupForm(
        kind="k", actors=4, chunk=64, convolution="registers", turns=4096, processors=132, loaded_bytes=8192
    )
    assert warpgroups.kernel_of(FIRST, form, figures()).label == "k, rounds"


def test_the_first_tile_waits_for_the_later_of_its_pixels_and_its_weights() -> None:
    """The first item of a ring, or all that stay; with one buffer each tile that follows waits for its pixels in its turn."""
    f = figures()
    first = replace(FIRST, C=48, outputs=40)
    item, all_ = 2 * 48 * 64, 4 * 2 * (48 + 40) * 64
    hidden = replace(first, front="hidden")

    def lead(work: FusedWork, **form: Any) -> float:
        return warps.kernel_of(work, a_warp_form(**form), f).lead_clocks - f.cache_latency

    assert lead(first) == pytest.approx(max(f.dram_latency, f.cache_latency + item / f.cache_bytes_per_clock_same))
    assert lead(first, ring=False) == pytest.approx(f.cache_latency + all_ / f.cache_bytes_per_clock_same)
    assert lead(hidden, input_buffers=2) == pytest.approx(lead(first))
    assert lead(hidden) == pytest.approx(lead(first))

    def waits(rounds: int, **form: Any) -> float:
        kernel = warps.kernel_of(hidden, a_warp_form(tiles=132 * rounds, **form), f)
        return named(kernel, "input").latency - f.barrier_latency

    assert waits(1) == pytest.approx(0)
    assert waits(3) == pytest.approx(f.dram_latency * 2 / 3)
    assert waits(3, input_buffers=2) == pytest.approx(0)


def test_pixels_that_are_asked_for_ahead_arrive_meanwhile() -> None:
    """All but a group's first tile where there are two buffers; of slabs the first, and half of each that has a buffer of its own."""
    f = figures()

    def ahead(front: str, **form: Any) -> float:
        work = replace(FIRST, front=front, C=128)
        kernel = warps.kernel_of(work, a_warp_form(tiles=132 * 4, **form), f)
        waited, meanwhile = (named(kernel, f"input {how}") for how in ("from cache", "asked for ahead"))
        assert meanwhile.background
        assert not waited.background
        return meanwhile.demand.cache / (waited.demand.cache + meanwhile.demand.cache)

    assert ahead("hidden") == 0
    assert ahead("hidden", input_buffers=2) == pytest.approx(3 / 4)
    assert ahead("input", slabs=2) == pytest.approx(3 / 4 / 2)
    assert ahead("input", slabs=2, input_buffers=2) == pytest.approx(3 / 4 / 2 + 1 / 4)


def test_weights_of_a_ring_are_asked_for_piece_by_piece_and_item_by_item() -> None:
    kernel = warps.kernel_of(FIRST, a_warp_form(items=(2, 1)), figures())
    pieces = 2 * 64 * (64 + 64) / warps.PIECE
    asked = pieces * warps.STREAM_INSTRUCTIONS + 3 * 128 * warps.ITEM_INSTRUCTIONS
    assert named(kernel, "weights asked for").demand.issue == pytest.approx(asked / 128)


def test_the_last_block_reads_the_sums_of_all_one_after_the_other() -> None:
    """Each of its warps asks for one block's when it has the one before's; many warps keep the way from L2 full, of one block to a tile."""
    f = figures()

    def more(warps_m: int) -> float:
        form = a_warp_form(warps_m=warps_m, tile_rows=2 * warps_m)
        many, few = (warps.kernel_of(FIRST, replace(form, split=split, chunks=4 / split), f).exchange_clocks for split in (4, 2))
        return many - few

    assert warps.kernel_of(FIRST, a_warp_form(), f).exchange_clocks == 0

    def moved(warps_m: int) -> float:
        return warps_m * 16 * 64 * 4 / f.cache_rate(256)

    assert more(1) == pytest.approx(2 * (f.cache_latency + moved(1)))
    assert more(16) == pytest.approx(2 * moved(16))
    # with few tiles the blocks that read have L2 to themselves, and all that share them store
    few = warps.kernel_of(FIRST, a_warp_form(tiles=8, warps_m=16, tile_rows=32, split=16, chunks=0.25), f)
    sums = 16 * 16 * 64 * 4
    read = f.cache_latency + 16 * sums / f.cache_bytes_per_clock_alone
    assert few.exchange_clocks == pytest.approx(f.stored(sums, 128) + f.meeting_latency + read)


def test_a_kernel_that_ends_with_stores_takes_what_was_measured_of_one() -> None:
    """By all multiprocessors; fewer store faster, each up to what one alone does; a part of a tile has less to store."""
    f, h200 = figures(), load("h200")
    measured = {entry.quantity: entry.value for entry in h200.measured}
    ended_s = f.launch_s + f.drained(STORED_BYTES, f.multiprocessors) / f.clock_hz
    assert ended_s == pytest.approx(measured["stored_launch_s"])
    assert f.drained(0, 1) == f.cache_latency
    few, fewer = (f.drained(STORED_BYTES, blocks) for blocks in (100, 1))
    assert fewer < few < f.drained(STORED_BYTES, f.multiprocessors)
    assert fewer - f.cache_latency == pytest.approx(STORED_BYTES / f.store_bytes_per_clock_alone)
    whole, half = (warps.kernel_of(FIRST, a_warp_form(parts=parts), f).trail_clocks for parts in (1, 2))
    assert whole - f.cache_latency == pytest.approx(2 * (half - f.cache_latency))


def test_turns_that_do_not_share_a_block_begin_side_by_side_only_where_there_are_many() -> None:
    """Patches that go one to each multiprocessor first: the first loads its own tile alone, and so it ends."""
    work = FusedWork(N=1, H=56, W=56, C=64, hidden=256, outputs=64, kernel=3, stride=1, front="input", group_width=8)

    def of(turns: float, together: float | None) -> FusedKernel:
        form = warpgroups.WarpgroupForm(
            kind="k", actors=4, chunk=64, convolution="shared", turns=turns, processors=132, together=together, loaded_bytes=8192,
        )  # fmt: skip
        return warpgroups.kernel_of(work, form, figures())

    assert of(49, 1).most_turns() == 1
    assert of(49, None).most_turns() == 4
    assert of(49, 1).lead_clocks < of(49, None).lead_clocks
    assert of(49, 1).trail_clocks < of(49, None).trail_clocks
    assert of(4 * 132, 1).lead_clocks == of(4 * 132, None).lead_clocks


def test_blocks_that_do_not_stay_start_anew() -> None:
    f = figures()
    form = warpgroups.WarpgroupForm(
        kind="k", actors=2, chunk=64, convolution="none", turns=2 * 2 * 116, processors=116, split=4, loaded_bytes=8192, waves=2
    )
    twice, once = (warpgroups.kernel_of(FIRST, replace(form, waves=waves), f) for waves in (2, 1))
    again = fused_time(twice, f).start_s - fused_time(once, f).start_s
    assert again * f.clock(once.busy(), "burst") == pytest.approx(once.prologue_clocks + once.lead_clocks + once.trail_clocks)


def test_what_power_allows_is_an_average_with_exchanges() -> None:
    """Products at the rate that power allows take longer than their turns: exchanges, in which nobody multiplies, cost nothing more."""
    time = FusedTime(start_s=1, exchange_s=2, turns_s=3, memory_s=0, power_s=6, clocks_alone=0, clocks_together=0)
    assert time.latency_s == 1 + 6
    assert replace(time, power_s=4).latency_s == 1 + 2 + 3
    assert replace(time, memory_s=7).latency_s == 1 + 2 + 7


def test_two_chunks_in_flight_share_the_waits_for_products() -> None:
    f = figures()
    form = warpgroups.WarpgroupForm(
        kind="k", actors=1, chunk=64, convolution="none", turns=132, processors=132, loaded_bytes=8192, resident=True
    )
    one, two = (warpgroups.kernel_of(FIRST, replace(form, flight=flight), f) for flight in (1, 2))
    product, activation = named(one, "products"), named(one, "activation")
    saved = 4 * (product.latency + max(product.demand.clocks) + activation.latency) / 2
    assert fused_time(one, f).clocks_alone - fused_time(two, f).clocks_alone == pytest.approx(saved)


LONGER_WITHOUT = {"ahead", "dependence", "same", "apart", "sums"}
"""Terms that say what is faster than it would be."""


def test_every_term_of_fused_kernels_has_a_switch() -> None:
    """Each changes what some kernel is expected to take, all in the same direction."""
    by_depth = FusedWork(N=1, H=14, W=14, C=256, hidden=1024, outputs=256, kernel=3, stride=1, front="taps", group_width=256)

    def expected(f: Figures) -> list[float]:
        split = warpgroups.WarpgroupForm(
            kind="k", actors=2, chunk=128, convolution="none", turns=16, processors=132, split=4, loaded_bytes=65536,
            taps_from_shared=True,
        )  # fmt: skip
        narrow = warpgroups.WarpgroupForm(
            kind="k", actors=4, chunk=64, convolution="registers", turns=4096, processors=132, loaded_bytes=8192, resident=True
        )
        kernels = [
            warpgroups.kernel_of(by_depth, split, f),
            warpgroups.kernel_of(FIRST, narrow, f),
            warps.kernel_of(FIRST, a_warp_form(split=2, chunks=2, groups=2, tile_rows=7, tile_columns=7), f),
            columns.kernel_of(OWNED, a_column_form(), f),
            warpgroups.kernel_of(FIRST, replace(narrow, lookups=8e3), f),
            columns.kernel_of(replace(OWNED, squeeze=16), a_column_form(), f),
            warpgroups.kernel_of(by_depth, replace(split, turns=512, waves=2), f),
        ]
        return [fused_time(kernel, f).latency_s for kernel in kernels]

    whole = expected(figures())
    for name, term in FUSED_TERMS.items():
        changes = [without / with_it - 1 for without, with_it in zip(expected(term.without(figures())), whole, strict=True)]
        sign = 1 if name in LONGER_WITHOUT else -1
        assert max(sign * change for change in changes) > 1e-3, name
        assert min(sign * change for change in changes) > -1e-9, name
        assert term.says
