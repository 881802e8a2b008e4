"""Badly typed programs are refused before they run, naming the statement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import GraphBuilder
from perfmodel.machine.check import check
from perfmodel.machine.fused import Tiling, fused_programs
from perfmodel.machine.interpreter import Interpreter
from perfmodel.machine.program import Convolve, For, Load, Map, Node, Program, ProgramError, Region, Store
from perfmodel.machine.span import Span
from tests.small_networks import small_block


def program(kind: str = "convfirst") -> Program:
    builder = GraphBuilder()
    builder.block(small_block(kind), builder.input(Shape(1, 8, 6, 6)), name="b")
    graph = builder.graph()
    layers = [name for name, node in graph.nodes.items() if node.block is not None]
    tiling = Tiling(mode="tiles", rows=3, columns=3, chunk=8, resident_weights=False)
    return fused_programs(graph, layers, tiling, element_bytes=2)[0]


def changed(body: tuple[Node, ...], kind: type, change: Any) -> tuple[Node, ...]:
    """The same body with every statement of that kind changed."""
    return tuple(
        replace(node, body=changed(node.body, kind, change))
        if isinstance(node, For)
        else change(node)
        if isinstance(node, kind)
        else node
        for node in body
    )


def broken(kind: type, change: Any) -> Program:
    good = program()
    return replace(good, body=changed(good.body, kind, change))


def longer(region: Region, axis: int) -> Region:
    spans = list(region.spans)
    spans[axis] = replace(spans[axis], extent=spans[axis].extent + 1)
    return Region(spans=tuple(spans))


def test_what_the_compiler_makes_is_well_typed() -> None:
    for kind in ("convfirst", "mbconv", "basic", "convnext", "regnety"):
        check(program(kind))


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (Load, lambda s: replace(s, region=Region(spans=s.region.spans[:-1])), "axes"),
        (Load, lambda s: replace(s, region=longer(s.region, 0)), "long, but it is"),
        (Load, lambda s: replace(s, buffer="nowhere"), "uses nowhere, which is not allocated"),
        (Store, lambda s: replace(s, region=longer(s.region, 1)), "long, but it is"),
        (Convolve, lambda s: replace(s, layer=Conv2d(in_channels=24, out_channels=s.layer.out_channels)), "long, but it is"),
        (Convolve, lambda s: replace(s, layer=Conv2d(in_channels=s.layer.in_channels, out_channels=40)), "long, but it is"),
        (Convolve, lambda s: replace(s, inputs=Span(extent=3)), "long, but it is"),
        (Map, lambda s: replace(s, operand="nowhere") if s.operand else s, "uses nowhere, which is not allocated"),
        (Map, lambda s: replace(s, region=longer(s.region, 2)), "long, but it is"),
    ],
)
def test_a_type_error_is_refused_with_the_statement(kind: type, change: Any, said: str) -> None:
    bad = broken(kind, change)
    with pytest.raises(ProgramError, match="program block: '") as caught:
        check(bad)
    assert said in str(caught.value)
    with pytest.raises(ProgramError):
        Interpreter(bad, {}).run()
