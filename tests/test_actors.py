"""Actors on shared pipes: what several of them take together, between the fullest pipe and one after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.expected.actors import PIPES, Demand, Phase, turn_clocks

CLOCKS = st.floats(min_value=0, max_value=1e4)
DEMANDS = st.builds(Demand, matrix=CLOCKS, special=CLOCKS, shared=CLOCKS, issue=CLOCKS, cache=CLOCKS)
PHASES = st.lists(
    st.builds(Phase, name=st.just("p"), demand=DEMANDS, latency=st.floats(min_value=1, max_value=1e4)), min_size=1, max_size=6
)


@given(phases=PHASES)
def test_one_actor_takes_the_sum_of_its_phases_and_its_latencies(phases: list[Phase]) -> None:
    (alone,) = turn_clocks(phases, 1)
    assert alone == pytest.approx(sum(phase.latency + max(phase.demand.clocks) for phase in phases))


@given(phases=PHASES, actors=st.integers(min_value=1, max_value=12))
def test_actors_side_by_side_lie_between_the_fullest_pipe_and_one_after_the_other(phases: list[Phase], actors: int) -> None:
    clocks = turn_clocks(phases, actors)
    fullest = max(sum(phase.demand.clocks[pipe] for phase in phases) for pipe in range(len(PIPES)))
    for present, taken in enumerate(clocks, 1):
        assert taken >= clocks[0] * (1 - 1e-9)
        assert taken / present >= fullest * (1 - 1e-9)
        assert taken <= present * clocks[0] * (1 + 1e-9)


def test_many_actors_fill_the_fullest_pipe() -> None:
    phases = [Phase(name="a", demand=Demand(matrix=100), latency=500), Phase(name="b", demand=Demand(special=60))]
    assert turn_clocks(phases, 400)[-1] / 400 == pytest.approx(100, rel=1e-3)


def test_waits_add_up_where_instructions_follow_each_other() -> None:
    """Two actors, at each of two pipes for an eleventh of their time."""
    phase = Phase(name="copy", demand=Demand(shared=100, issue=100))
    rest = Phase(name="wait", latency=1000)
    apart, together = (turn_clocks([replace(phase, at_once=at_once), rest], 2)[-1] for at_once in (False, True))
    assert apart == pytest.approx(1100 + 2 * 100 / 11)
    assert together == pytest.approx(1100 + 100 / 11)
    assert turn_clocks([phase, rest], 2, added=False)[-1] == together


def test_what_one_actor_does_for_all_holds_them_all() -> None:
    apart = Phase(name="convolution", demand=Demand(shared=100), latency=300, exclusive=True)
    other = Phase(name="product", demand=Demand(matrix=10))
    assert turn_clocks([apart, other], 100)[-1] / 100 == pytest.approx(400)


def test_a_server_of_all_actors_works_beside_them_and_holds_them_where_it_is_slower() -> None:
    own = Phase(name="convolution", demand=Demand(issue=100))
    server = Phase(name="projection", demand=Demand(cache=20), latency=50, exclusive=True, background=True)
    assert turn_clocks([own, server], 1) == (100.0,)  # nobody waits for it
    slower = Phase(name="projection", demand=Demand(matrix=20), latency=180, exclusive=True, background=True)
    assert turn_clocks([own, slower], 3) == pytest.approx((200.0, 400.0, 600.0))  # every turn of each needs it
    issued, elsewhere = (
        turn_clocks([own, Phase(name="product", demand=Demand(matrix=100)), replace(server, demand=demand)], 2)[-1]
        for demand in (Demand(issue=20), Demand(cache=20))
    )
    assert issued > elsewhere  # it stands in line at the pipe of the others


def test_background_copies_cost_nothing_until_they_are_the_fullest_pipe() -> None:
    work = Phase(name="product", demand=Demand(matrix=100))
    assert turn_clocks([work, Phase(name="copy", demand=Demand(cache=90), background=True)], 1) == (100.0,)
    assert turn_clocks([work, Phase(name="copy", demand=Demand(cache=250), background=True)], 1) == (250.0,)


def test_no_actor_and_no_work_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        turn_clocks([Phase(name="a", demand=Demand(matrix=1))], 0)
    with pytest.raises(ValueError, match="no phase takes any time"):
        turn_clocks([Phase(name="a")], 1)
