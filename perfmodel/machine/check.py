"""Type checking of programs: every statement's tiles must have the rank, extents and channels that it works on."""

from __future__ import annotations

from perfmodel.layers.dims import Dim, is_symbolic
from perfmodel.machine.program import (
    Allocate,
    Buffer,
    Convolve,
    Copy,
    For,
    Free,
    Load,
    Map,
    Node,
    Normalise,
    Program,
    ProgramError,
    Reduce,
    Region,
    Statement,
    Store,
    Zero,
)


def check(program: Program) -> None:
    """Raise ProgramError, naming the statement, where a program is badly typed. Sizes that are symbols are taken on trust."""
    _Checker(program).block(program.body, {})


class _Checker:
    def __init__(self, program: Program) -> None:
        self._program = program

    def block(self, body: tuple[Node, ...], outer: dict[str, Buffer]) -> None:
        held = dict(outer)
        for node in body:
            if isinstance(node, For):
                self.block(node.body, held)
            else:
                self._statement(node, held)

    def _statement(self, statement: Statement, held: dict[str, Buffer]) -> None:
        match statement:
            case Allocate():
                held[statement.buffer.name] = statement.buffer
            case Free():
                held.pop(statement.buffer, None)
            case Load() | Store():
                sizes = statement.tensor.shape if statement.tensor.role == "weight" else statement.tensor.shape[1:]
                self._fits(statement, statement.tensor.name, taken=_extents(statement.region), has=sizes)
                self._covers(statement, held, statement.buffer, statement.region)
            case Zero():
                self._covers(statement, held, statement.buffer, statement.region)
            case Copy():
                self._covers(statement, held, statement.target, statement.region)
                self._covers(statement, held, statement.source, statement.region)
            case Convolve():
                self._convolve(statement, held)
            case Map():
                self._covers(statement, held, statement.target, statement.region)
                if statement.function in ("bias", "scale"):
                    self._has(statement, held, statement.operand, (statement.region.spans[0].extent,))
                elif statement.function == "add":
                    self._covers(statement, held, statement.operand, statement.region)
                elif statement.function == "gate":
                    self._has(statement, held, statement.operand, (statement.region.spans[0].extent, 1, 1))
            case Normalise():
                self._covers(statement, held, statement.target, statement.region)
                for vector in (statement.weight, statement.bias):
                    self._has(statement, held, vector, (statement.region.spans[0].extent,))
            case Reduce():
                self._covers(statement, held, statement.source, statement.region)
                self._has(statement, held, statement.target, (statement.region.spans[0].extent, 1, 1))

    def _convolve(self, statement: Convolve, held: dict[str, Buffer]) -> None:
        layer = statement.layer
        self._covers(statement, held, statement.target, statement.region)
        self._same(statement, f"the outputs of {statement.target}", statement.region.spans[0].extent, layer.out_channels)
        self._has(statement, held, statement.source, (layer.in_channels, *statement.source_extents))
        self._has(statement, held, statement.weight, (layer.out_channels, layer.group_width, *layer.kernel))
        if statement.inputs is not None:
            self._same(statement, "the inputs summed over", statement.inputs.extent, layer.in_channels)
            if not is_symbolic(layer.in_channels, layer.group_width) and layer.in_channels != layer.group_width:
                raise self._error(statement, "sums over part of the inputs of a convolution that has groups")

    def _covers(self, statement: Statement, held: dict[str, Buffer], name: str, region: Region) -> None:
        """The region lies in the coordinates of the buffer's tensor."""
        self._has(statement, held, name, _extents(region))

    def _has(self, statement: Statement, held: dict[str, Buffer], name: str, sizes: tuple[Dim, ...]) -> None:
        """The buffer is a tile of a tensor of these sizes."""
        if name not in held:
            raise self._error(statement, f"uses {name}, which is not allocated")
        self._fits(statement, name, taken=sizes, has=_extents(held[name].holds))

    def _fits(self, statement: Statement, name: str, *, taken: tuple[Dim, ...], has: tuple[Dim, ...]) -> None:
        if len(taken) != len(has):
            raise self._error(statement, f"takes {name} to have {len(taken)} axes, but it has {len(has)}")
        for axis, (wanted, size) in enumerate(zip(taken, has, strict=True)):
            self._same(statement, f"axis {axis} of {name}", size, wanted)

    def _same(self, statement: Statement, what: str, found: Dim, expected: Dim) -> None:
        if not isinstance(found, int) or not isinstance(expected, int):
            return
        if found != expected:
            raise self._error(statement, f"takes {what} to be {expected} long, but it is {found}")

    def _error(self, statement: Statement, what: str) -> ProgramError:
        return ProgramError(f"program {self._program.name}: '{statement.text()}' {what}")


def _extents(region: Region) -> tuple[Dim, ...]:
    return tuple(span.extent for span in region.spans)
