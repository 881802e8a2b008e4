"""What a program costs, derived from the program itself: exact for every size, in numbers, arrays or symbols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perfmodel.layers.dims import Dim, maximum
from perfmodel.machine.program import Allocate, Charge, For, Free, Node, Program, ProgramError, Statement
from perfmodel.machine.span import Loop, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Arithmetic, elements moved per tensor, and local memory, of a whole program."""

    macs: Dim
    vector_ops: Dim
    special_ops: Dim
    loaded: Mapping[str, Dim]
    """Elements loaded of each global tensor, re-reads counted each time."""
    stored: Mapping[str, Dim]
    """Elements stored of each global tensor."""
    peak_local_bytes: Dim
    """The most local memory that is held at any time."""


def totals(program: Program, *, interior: bool = False) -> Totals:
    """Sum every statement's charges over the loops around it.

    A charge is a product of lengths of spans; each span depends on one loop, so the sum over all loops is the product of the sums over
    each. `interior` leaves out what happens at the edges of the image, which gives the short formulas of a large one. Raises
    ProgramError, naming the statement, where a statement uses a loop that is not around it, or two spans of one loop.
    """
    sums: dict[tuple[str, str], Dim] = {}
    lengths: dict[int, Dim] = {}
    for loops, statement in program.statements():
        for charge in statement.charges():
            key = (charge.of, charge.tensor)
            sums[key] = sums.get(key, 0) + _total(program, statement, loops, charge, lengths, interior=interior)
    moved = {of: {tensor: total for (kind, tensor), total in sums.items() if kind == of} for of in ("loaded", "stored")}
    return Totals(
        macs=sums.get(("macs", ""), 0),
        vector_ops=sums.get(("vector_ops", ""), 0),
        special_ops=sums.get(("special_ops", ""), 0),
        loaded=moved["loaded"],
        stored=moved["stored"],
        peak_local_bytes=peak_local_bytes(program),
    )


def peak_local_bytes(program: Program) -> Dim:
    """The most local memory that a program holds at any time. Raises ProgramError where it gives back what it does not hold."""
    return _peak(program.body, {}, 0, 0)


def _total(
    program: Program, statement: Statement, loops: tuple[Loop, ...], charge: Charge, lengths: dict[int, Dim], *, interior: bool
) -> Dim:
    """`lengths` has what the sums over spans came to; statements share spans, and summing one is most of the work."""
    around = {id(loop) for loop in loops}
    for span in charge.spans:
        if span.loop is not None and id(span.loop) not in around:
            raise ProgramError(f"program {program.name}: '{statement.text()}' uses the loop over {span.loop.what} outside of it")
    product = charge.amount
    for span in charge.spans:
        if span.loop is None:
            product = product * span.total()
    for loop in loops:
        spans = [span for span in charge.spans if span.loop is loop]
        product = product * _over(program, statement, loop, spans, lengths, interior=interior)
    return product


def _over(
    program: Program, statement: Statement, loop: Loop, spans: list[Span], lengths: dict[int, Dim], *, interior: bool
) -> Dim:
    if not spans:
        return loop.interior_count if interior else loop.count
    if len(spans) > 1:
        raise ProgramError(
            f"program {program.name}: '{statement.text()}' has two spans of the loop over {loop.what}; its cost is not a product"
        )
    span = spans[0]
    if id(span) not in lengths:  # the program holds its spans, so an id is not used again meanwhile
        lengths[id(span)] = span.interior_total() if interior else span.total()
    return lengths[id(span)]


def _peak(body: tuple[Node, ...], outer: dict[str, Dim], held: Dim, most: Dim) -> Dim:
    """The most that was held, given which buffers are held before `body`, what they come to, and the most before it."""
    live = dict(outer)
    for node in body:
        if isinstance(node, For):
            most = _peak(node.body, live, held, most)
        elif isinstance(node, Allocate):
            size = node.buffer.bytes
            held = held - live.get(node.buffer.name, 0) + size
            live[node.buffer.name] = size
            most = maximum(most, held)
        elif isinstance(node, Free):
            if node.buffer not in live:
                raise ProgramError(f"'{node.text()}' gives back what is not held")
            held = held - live.pop(node.buffer)
    return most
