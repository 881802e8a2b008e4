"""The front plot shows the designs of the front, and says what of how many they are."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from perfmodel.design.blocks import BlockSpace
from perfmodel.design.search import Search, SearchResult, run
from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.plots import style
from perfmodel.plots.front import plot_front


def found(*objectives: str, constraints: tuple[str, ...] = ("latency <= 0.1ms",)) -> SearchResult:
    space = BlockSpace(
        blocks=("convfirst", "fused_mbconv"),
        channels=tuple(range(8, 136, 8)),
        expansions=(1, 2, 4),
        kernels=(3, 7),
        sizes=(28,),
        batches=(8,),
        devices=(load("h200"),),
    )
    return run(Search.of(space, objectives, constraints))


def test_every_design_of_the_front_is_drawn_once() -> None:
    result = found("min latency", "max macs")
    ax = plot_front(result)
    drawn = [line for line in ax.get_lines() if (line.get_gid() or "").startswith("designs-")]
    points = {(float(x), float(y)) for line in drawn for x, y in zip(*line.get_data(), strict=True)}
    assert points == {(float(a), float(-b)) for a, b in result.front.values}
    assert sum(len(line.get_xdata()) for line in drawn) == len(result.front.index)
    (stairs,) = [line for line in ax.get_lines() if line.get_gid() == "front"]
    assert (np.diff(stairs.get_xdata()) >= 0).all()
    assert "more is better" in ax.get_ylabel()
    assert f"{len(result.front.index)} designs that no other one dominates" in style.caption_text(ax)
    assert "latency <= 0.1ms" in style.caption_text(ax)
    assert "Pareto front" in style.description(ax)
    plt.close("all")


def test_a_front_of_one_design_and_no_constraint() -> None:
    result = found("min latency", "min params", constraints=())
    assert len(result.front.index) == 1
    assert "every constraint" in style.caption_text(plot_front(result))


@pytest.mark.parametrize("objectives", [("min latency",), ("min latency", "max macs", "min params")])
def test_other_numbers_of_objectives_are_refused(objectives: tuple[str, ...]) -> None:
    with pytest.raises(PerfmodelError, match="shows two objectives"):
        plot_front(found(*objectives))
