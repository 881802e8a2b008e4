"""Running a program on NumPy arrays: its outputs, and counts of everything it did, taken as it does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from perfmodel.layers.activation import ELEMENT_OPS
from perfmodel.machine.check import check
from perfmodel.machine.program import (
    Allocate,
    Buffer,
    Convolve,
    Copy,
    For,
    Free,
    GlobalTensor,
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
from perfmodel.machine.span import Span

Array = npt.NDArray[np.float64]
LAYER_NORM_EPSILON: Final = 1e-6


def _erf(x: Array) -> Array:
    from math import erf

    values: Array = np.vectorize(erf, otypes=[np.float64])(x)
    return values


def _sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


FUNCTIONS: Final[Mapping[str, Callable[[Array], Array]]] = MappingProxyType(
    {
        "relu": lambda x: np.maximum(x, 0),
        "relu6": lambda x: np.clip(x, 0, 6),
        "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
        "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
        "sigmoid": _sigmoid,
        "silu": lambda x: x * _sigmoid(x),
        "gelu": lambda x: 0.5 * x * (1 + _erf(x / np.sqrt(2))),
        "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    }
)


@dataclass(kw_only=True)
class Counters:
    """What was really done."""

    macs: int = 0
    vector_ops: int = 0
    special_ops: int = 0
    loaded: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    peak_local_bytes: int = 0


class _Local:
    """A buffer while the program runs, addressed by the whole tensor's coordinates; remembers what it holds."""

    def __init__(self, buffer: Buffer) -> None:
        extents = [int(span.extent) for span in buffer.holds.spans]
        self.buffer = buffer
        self.capacity = [int(span.capacity()) for span in buffer.holds.spans]
        self.data: Array = np.full(extents, np.nan)
        self.held = np.zeros(extents, dtype=bool)

    def _inside(self, where: tuple[slice, ...], fault: Callable[[str], ProgramError]) -> None:
        shape = self.held.shape
        if len(where) != len(shape):
            raise fault(f"touches {len(where)} axes of {self.buffer.name}, which has {len(shape)}")
        for axis, (part, size) in enumerate(zip(where, shape, strict=True)):
            if part.stop > size:
                raise fault(f"reaches {part.stop} along axis {axis} of {self.buffer.name}, which has {size}")

    def write(self, where: tuple[slice, ...], value: Array | float, fault: Callable[[str], ProgramError]) -> None:
        self._inside(where, fault)
        if self.buffer.ring and where[1].stop > where[1].start:
            self.held[:, : max(0, where[1].stop - self.capacity[1])] = False  # the newest rows lie over the oldest
        self.data[where] = value
        self.held[where] = True
        for axis, most in enumerate(self.capacity):
            others = tuple(other for other in range(self.held.ndim) if other != axis)
            places = np.flatnonzero(self.held.any(axis=others))
            if places.size and places[-1] - places[0] + 1 > most:
                raise fault(f"{self.buffer.name} holds at most {most} along axis {axis}, not {places[-1] - places[0] + 1}")

    def read(self, where: tuple[slice, ...], fault: Callable[[str], ProgramError]) -> Array:
        self._inside(where, fault)
        if not self.held[where].all():
            raise fault(f"reads a part of {self.buffer.name} that was not written, or is no longer held")
        return self.data[where]


class Interpreter:
    """Runs one program on given tensors.

    `local_bytes` is the machine's local memory L (None: unlimited). After `run`, `outputs` has the stored tensors and `counters` what
    was done. Raises ProgramError, naming the statement, for reading what was not written, writing outside of a tensor, holding more than
    a buffer's capacity, or more than L.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Array], *, local_bytes: int | None = None) -> None:
        self.program = program
        self.counters = Counters()
        self.outputs: dict[str, Array] = {}
        self._limit = local_bytes
        self._given = dict(tensors)
        self._locals: dict[str, _Local] = {}
        self._turns: dict[int, int] = {}
        self._now = ""
        self._written: dict[str, npt.NDArray[np.bool_]] = {}

    def run(self) -> dict[str, Array]:
        """Execute the program; returns its output tensors."""
        check(self.program)
        for tensor in self.program.tensors:
            shape = tuple(int(size) for size in tensor.shape)
            if tensor.role in ("output", "sums") and tensor.name not in self._given:
                self.outputs[tensor.name] = np.zeros(shape) if tensor.role == "sums" else np.full(shape, np.nan)
                self._written[tensor.name] = np.zeros(shape, dtype=bool)
            elif tensor.name not in self._given:
                raise ProgramError(f"program {self.program.name} needs the tensor {tensor.name} {shape}")
            elif self._given[tensor.name].shape != shape:
                raise ProgramError(f"{tensor.name} is {self._given[tensor.name].shape}, but the program's is {shape}")
        self._block(self.program.body)
        for name, written in self._written.items():
            if not written.all():
                raise ProgramError(f"program {self.program.name} leaves {int((~written).sum())} elements of {name} unwritten")
        return self.outputs

    def _block(self, body: tuple[Node, ...]) -> None:
        before = set(self._locals)
        for node in body:
            if isinstance(node, For):
                for turn in range(int(node.loop.count)):
                    self._turns[id(node.loop)] = turn
                    self._block(node.body)
                del self._turns[id(node.loop)]
            else:
                self._execute(node)
        for name in set(self._locals) - before:
            del self._locals[name]

    def _range(self, span: Span) -> slice:
        if span.loop is not None and id(span.loop) not in self._turns:
            raise ProgramError(f"program {self.program.name}: '{self._now}' uses the loop over {span.loop.what} outside of it")
        turn = 0 if span.loop is None else self._turns[id(span.loop)]
        lo, hi = int(span.lo(turn)), int(span.hi(turn))
        return slice(lo, max(lo, hi))

    def _where(self, region: Region) -> tuple[slice, ...]:
        return tuple(self._range(span) for span in region.spans)

    def _turn_of_images(self) -> int:
        for loops, _ in self.program.statements():
            for loop in loops:
                if loop.what == "images":
                    return self._turns[id(loop)]
        raise ProgramError(f"program {self.program.name} has no loop over images")

    def _local(self, name: str, fault: Callable[[str], ProgramError]) -> _Local:
        try:
            return self._locals[name]
        except KeyError:
            raise fault(f"uses {name}, which is not allocated") from None

    def _execute(self, statement: Statement) -> None:
        def fault(what: str) -> ProgramError:
            return ProgramError(f"program {self.program.name}: '{statement.text()}' {what}")

        self._now = statement.text()
        match statement:
            case Allocate():
                if statement.buffer.name in self._locals:
                    raise fault("sets aside what is already held")
                self._locals[statement.buffer.name] = _Local(statement.buffer)
                held = sum(int(local.buffer.bytes) for local in self._locals.values())
                self.counters.peak_local_bytes = max(self.counters.peak_local_bytes, held)
                if self._limit is not None and held > self._limit:
                    raise fault(f"needs {held} bytes of local memory in all, but the machine has {self._limit}")
            case Free():
                self._local(statement.buffer, fault)
                del self._locals[statement.buffer]
            case Load():
                self._load(statement, fault)
            case Store():
                self._store(statement, fault)
            case Zero():
                self._local(statement.buffer, fault).write(self._where(statement.region), 0.0, fault)
            case Copy():
                where = self._where(statement.region)
                value = self._local(statement.source, fault).read(where, fault)
                self._local(statement.target, fault).write(where, value, fault)
            case Convolve():
                self._convolve(statement, fault)
            case Map():
                self._map(statement, fault)
            case Normalise():
                self._normalise(statement, fault)
            case Reduce():
                self._reduce(statement, fault)

    def _index(self, tensor: GlobalTensor, region: Region, fault: Callable[[str], ProgramError]) -> tuple[Any, ...]:
        where = self._where(region)
        sizes = tensor.shape if tensor.role == "weight" else tensor.shape[1:]
        if tensor not in self.program.tensors:
            raise fault(f"uses {tensor.name}, which is no tensor of the program")
        if len(where) != len(sizes):
            raise fault(f"touches {len(where)} axes of {tensor.name}, which has {len(sizes)}")
        for part, size in zip(where, sizes, strict=True):
            if part.stop > int(size):
                raise fault(f"reaches {part.stop} on an axis of {tensor.name} that has {size}")
        return where if tensor.role == "weight" else (self._turn_of_images(), *where)

    def _load(self, statement: Load, fault: Callable[[str], ProgramError]) -> None:
        index = self._index(statement.tensor, statement.region, fault)
        if statement.tensor.name in self._written:
            raise fault(f"reads {statement.tensor.name}, which this program writes")
        value = self._given[statement.tensor.name][index]
        self._local(statement.buffer, fault).write(self._where(statement.region), value, fault)
        loaded = self.counters.loaded
        loaded[statement.tensor.name] = loaded.get(statement.tensor.name, 0) + value.size

    def _store(self, statement: Store, fault: Callable[[str], ProgramError]) -> None:
        value = self._local(statement.buffer, fault).read(self._where(statement.region), fault)
        index = self._index(statement.tensor, statement.region, fault)
        if statement.tensor.name not in self.outputs:
            raise fault(f"writes {statement.tensor.name}, which is given")
        target, written = self.outputs[statement.tensor.name], self._written[statement.tensor.name]
        if not statement.add and written[index].any():
            raise fault(f"writes a part of {statement.tensor.name} a second time")
        target[index] = target[index] + value if statement.add else value
        written[index] = True
        stored = self.counters.stored
        stored[statement.tensor.name] = stored.get(statement.tensor.name, 0) + value.size

    def _convolve(self, statement: Convolve, fault: Callable[[str], ProgramError]) -> None:
        layer = statement.layer
        outputs, rows, columns = self._where(statement.region)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        if 0 in size:
            return  # nothing new at this turn
        groups_outputs = layer.out_channels // layer.groups
        result: Array = np.zeros((outputs.stop - outputs.start, *size))
        first = outputs.start
        while first < outputs.stop:  # one group of outputs at a time; they read the same inputs
            group = first // groups_outputs
            last = min(outputs.stop, (group + 1) * groups_outputs)
            inputs = slice(group * layer.group_width, (group + 1) * layer.group_width)
            if statement.inputs is not None:
                inputs = self._range(statement.inputs)
            weights_inputs = slice(inputs.start - group * layer.group_width, inputs.stop - group * layer.group_width)
            source = self._padded(statement, inputs, rows, columns, fault)
            taps = (slice(0, layer.kernel[0]), slice(0, layer.kernel[1]))
            weight = self._local(statement.weight, fault).read((slice(first, last), weights_inputs, *taps), fault)
            for r in range(layer.kernel[0]):
                for s in range(layer.kernel[1]):
                    top, left = r * layer.dilation[0], s * layer.dilation[1]
                    bottom, right = top + (size[0] - 1) * layer.stride[0] + 1, left + (size[1] - 1) * layer.stride[1] + 1
                    window = source[:, top : bottom : layer.stride[0], left : right : layer.stride[1]]
                    result[first - outputs.start : last - outputs.start] += np.einsum("kc,chw->khw", weight[:, :, r, s], window)
                    self.counters.macs += (last - first) * (inputs.stop - inputs.start) * size[0] * size[1]
            first = last
        target = self._local(statement.target, fault)
        where = (outputs, rows, columns)
        if statement.inputs is not None:
            result = result + target.read(where, fault)
        target.write(where, result, fault)

    def _padded(
        self, statement: Convolve, inputs: slice, rows: slice, columns: slice, fault: Callable[[str], ProgramError]
    ) -> Array:
        """The input window of a convolution, zeros outside of the image."""
        layer = statement.layer
        padding = layer.padding or (0, 0, 0, 0)
        ends = []
        for part, kernel, stride, before, dilation, extent in zip(
            (rows, columns),
            layer.kernel,
            layer.stride,
            (padding[0], padding[2]),
            layer.dilation,
            statement.source_extents,
            strict=True,
        ):
            lo = part.start * stride - before
            hi = (part.stop - 1) * stride - before + dilation * (kernel - 1) + 1
            ends.append((lo, hi, max(0, lo), max(0, lo, min(int(extent), hi))))
        (r_lo, r_hi, r_from, r_to), (c_lo, c_hi, c_from, c_to) = ends
        inside = self._local(statement.source, fault).read((inputs, slice(r_from, r_to), slice(c_from, c_to)), fault)
        return np.pad(inside, ((0, 0), (r_from - r_lo, r_hi - r_to), (c_from - c_lo, c_hi - c_to)))

    def _map(self, statement: Map, fault: Callable[[str], ProgramError]) -> None:
        where = self._where(statement.region)
        target = self._local(statement.target, fault)
        value = target.read(where, fault)
        channels = where[0]
        match statement.function:
            case "bias" | "scale":
                vector = self._local(statement.operand, fault).read((channels,), fault)[:, None, None]
                value = value + vector if statement.function == "bias" else value * vector
            case "add":
                value = value + self._local(statement.operand, fault).read(where, fault)
            case "gate":
                value = value * self._local(statement.operand, fault).read((channels, slice(0, 1), slice(0, 1)), fault)
            case "divide":
                value = value / int(statement.divisor)
            case function if function not in FUNCTIONS:
                raise fault(f"has no function {function}")
            case _:
                vector_ops, special_ops = ELEMENT_OPS[statement.function]
                self.counters.vector_ops += vector_ops * value.size
                self.counters.special_ops += special_ops * value.size
                target.write(where, FUNCTIONS[statement.function](value), fault)
                return
        self.counters.vector_ops += value.size
        target.write(where, value, fault)

    def _normalise(self, statement: Normalise, fault: Callable[[str], ProgramError]) -> None:
        where = self._where(statement.region)
        target = self._local(statement.target, fault)
        x = target.read(where, fault)
        weight, bias = (
            self._local(name, fault).read((where[0],), fault)[:, None, None] for name in (statement.weight, statement.bias)
        )
        centred = x - x.mean(axis=0)
        value = centred / np.sqrt((centred**2).mean(axis=0) + LAYER_NORM_EPSILON) * weight + bias
        pixels = x.shape[1] * x.shape[2]
        # mean; centring; squares and their sum; scale by 1/C; + ε; reciprocal root; normalising; scale and shift
        self.counters.vector_ops += pixels * (x.shape[0] + 1) + x.size + 2 * x.size + pixels + pixels + x.size + 2 * x.size
        self.counters.special_ops += pixels
        target.write(where, value, fault)

    def _reduce(self, statement: Reduce, fault: Callable[[str], ProgramError]) -> None:
        where = self._where(statement.region)
        x = self._local(statement.source, fault).read(where, fault)
        self.counters.vector_ops += x.size
        self._local(statement.target, fault).write((where[0], slice(0, 1), slice(0, 1)), x.sum(axis=(1, 2), keepdims=True), fault)
