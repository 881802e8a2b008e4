"""Programs of the tensor machine: loops over tiles, and statements that move, multiply and map tiles.

The machine has a large global memory, and processors that each have a local memory of L bytes. A program runs once per image and tile;
its parallel loops say what may run at the same time. Sizes are integers, arrays of integers (many tilings at once) or sympy expressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from perfmodel.errors import PerfmodelError
from perfmodel.layers.activation import activation_formula
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import C as CHANNELS
from perfmodel.layers.dims import Dim
from perfmodel.layers.dims import H as HEIGHT
from perfmodel.layers.dims import N as IMAGES
from perfmodel.layers.dims import W as WIDTH
from perfmodel.layers.layer_norm import LAYER_NORM
from perfmodel.machine.span import Loop, Span

ACCUMULATOR_BYTES = 4
"""Sums are kept in fp32."""


class ProgramError(PerfmodelError):
    """A program that is not well formed, or breaks a rule of the machine while it runs; names the statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalTensor:
    """A tensor in global memory."""

    name: str
    role: Literal["input", "output", "weight", "sums"]
    shape: tuple[Dim, ...]
    """(images, channels, rows, columns); (outputs, inputs per group, kernel rows, kernel columns) of a weight; (channels,) of a vector."""
    element_bytes: int

    @property
    def elements(self) -> Dim:
        """Its size in elements."""
        product: Dim = 1
        for size in self.shape:
            product = product * size
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The part of a tensor's channels, rows and columns that a statement touches. Weights have outputs, inputs per group, taps."""

    spans: tuple[Span, ...]

    def elements(self) -> Dim:
        """Capacity, in elements."""
        product: Dim = 1
        for span in self.spans:
            product = product * span.capacity()
        return product

    def text(self) -> str:
        """As in pseudo-code."""
        return ", ".join(span.text() for span in self.spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A tile in local memory."""

    name: str
    holds: Region
    """What it can hold at once."""
    element_bytes: int
    ring: bool = False
    """Rows are kept from turn to turn, the newest over the oldest."""

    @property
    def bytes(self) -> Dim:
        """Local memory that it takes."""
        return self.holds.elements() * self.element_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one execution of a statement costs: `amount` times the lengths of `spans`."""

    of: Literal["macs", "vector_ops", "special_ops", "loaded", "stored"]
    amount: Dim
    spans: tuple[Span, ...]
    tensor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocate:
    """Set aside local memory, holding nothing yet."""

    buffer: Buffer

    def charges(self) -> tuple[Charge, ...]:
        return ()

    def text(self) -> str:
        sizes = "×".join(str(span.capacity()) for span in self.buffer.holds.spans)
        kind = "ring buffer" if self.buffer.ring else "buffer"
        return f"{self.buffer.name} = {kind} [{sizes}] of {self.buffer.element_bytes} bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Give local memory back."""

    buffer: str

    def charges(self) -> tuple[Charge, ...]:
        return ()

    def text(self) -> str:
        return f"free {self.buffer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Read a region of a global tensor into a buffer. An activation's image is that of the loop over images."""

    buffer: str
    tensor: GlobalTensor
    region: Region

    def charges(self) -> tuple[Charge, ...]:
        return (Charge(of="loaded", amount=1, spans=self.region.spans, tensor=self.tensor.name),)

    def text(self) -> str:
        image = "n, " if self.tensor.role in ("input", "output", "sums") else ""
        return f"{self.buffer} = load {self.tensor.name}[{image}{self.region.text()}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Write a region of a buffer to a global tensor; `add` adds to what is there (sums over tiles)."""

    buffer: str
    tensor: GlobalTensor
    region: Region
    add: bool = False

    def charges(self) -> tuple[Charge, ...]:
        return (Charge(of="stored", amount=1, spans=self.region.spans, tensor=self.tensor.name),)

    def text(self) -> str:
        sign = "+=" if self.add else "="
        return f"store {self.tensor.name}[n, {self.region.text()}] {sign} {self.buffer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """Clear a region of a buffer, to accumulate into."""

    buffer: str
    region: Region

    def charges(self) -> tuple[Charge, ...]:
        return ()

    def text(self) -> str:
        return f"{self.buffer}[{self.region.text()}] = 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolve:
    """Multiply-accumulate: outputs in `region` of `target`, from `source` and weights; padding is what lies outside the image.

    With `inputs` the sum runs over that part of the input channels only and adds to the target; otherwise over all of a group's.
    """

    target: str
    source: str
    weight: str
    layer: Conv2d
    region: Region
    source_extents: tuple[Dim, Dim]
    """Rows and columns of the source's whole image."""
    inputs: Span | None = None

    def charges(self) -> tuple[Charge, ...]:
        taps = self.layer.kernel[0] * self.layer.kernel[1]
        if self.inputs is None:
            return (Charge(of="macs", amount=taps * self.layer.group_width, spans=self.region.spans),)
        return (Charge(of="macs", amount=taps, spans=(*self.region.spans, self.inputs)),)

    def text(self) -> str:
        layer = self.layer
        kernel = f"{layer.kernel[0]}×{layer.kernel[1]}"
        stride = f", stride {layer.stride[0]}" if layer.stride != (1, 1) else ""
        groups = "" if layer.conv_class in ("conv", "pointwise_conv") else f", groups of {layer.group_width}"
        product = "matmul" if layer.conv_class == "pointwise_conv" and not stride else f"conv{kernel}"
        part = "" if self.inputs is None else f"[{self.inputs.text()}]"
        sign = "=" if self.inputs is None else "+="
        return f"{self.target}[{self.region.text()}] {sign} {product}({self.source}{part}, {self.weight}{stride}{groups})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A function of each element in `region`, in place: an activation; `bias` and `scale` by a vector; `add` or `gate` by a tile."""

    function: str
    target: str
    region: Region
    operand: str = ""
    divisor: Dim = 1
    """For `divide`: every element is divided by it (a mean from a sum)."""

    def charges(self) -> tuple[Charge, ...]:
        if self.function in ("bias", "scale", "add", "gate", "divide"):
            return (Charge(of="vector_ops", amount=1, spans=self.region.spans),)
        one = {IMAGES: 1, CHANNELS: 1, HEIGHT: 1, WIDTH: 1}
        count = activation_formula(self.function).bind(one)
        return (
            Charge(of="vector_ops", amount=count.vector_ops, spans=self.region.spans),
            Charge(of="special_ops", amount=count.special_ops, spans=self.region.spans),
        )

    def text(self) -> str:
        where = f"{self.target}[{self.region.text()}]"
        match self.function:
            case "bias" | "add":
                return f"{where} += {self.operand}"
            case "scale" | "gate":
                return f"{where} *= {self.operand}"
            case "divide":
                return f"{where} /= {self.divisor}"
            case _:
                return f"{where} = {self.function}({self.target})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Copy a region between buffers, adding nothing (an accumulator becomes a tile of narrower type)."""

    target: str
    source: str
    region: Region

    def charges(self) -> tuple[Charge, ...]:
        return ()

    def text(self) -> str:
        return f"{self.target}[{self.region.text()}] = {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise:
    """Layer norm over the channels of each pixel in `region`, in place, scaled and shifted by two vectors."""

    target: str
    region: Region
    weight: str
    bias: str

    def charges(self) -> tuple[Charge, ...]:
        channels, rows, columns = self.region.spans
        count = LAYER_NORM.bind({IMAGES: 1, CHANNELS: channels.extent, HEIGHT: 1, WIDTH: 1})
        return (
            Charge(of="vector_ops", amount=count.vector_ops, spans=(rows, columns)),
            Charge(of="special_ops", amount=count.special_ops, spans=(rows, columns)),
        )

    def text(self) -> str:
        return f"{self.target}[{self.region.text()}] = layer_norm({self.target}, {self.weight}, {self.bias})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce:
    """Sum each channel of `source` over the rows and columns in `region`."""

    target: str
    source: str
    region: Region

    def charges(self) -> tuple[Charge, ...]:
        return (Charge(of="vector_ops", amount=1, spans=self.region.spans),)

    def text(self) -> str:
        return f"{self.target} = sum over pixels of {self.source}[{self.region.text()}]"


Statement = Allocate | Free | Load | Store | Zero | Convolve | Map | Copy | Normalise | Reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class For:
    """A loop and what it repeats. Buffers allocated in the body are freed at the end of each turn."""

    loop: Loop
    body: tuple[Node, ...]


Node = For | Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One kernel: its tensors, and what it does."""

    name: str
    tensors: tuple[GlobalTensor, ...]
    body: tuple[Node, ...]
    remarks: tuple[str, ...] = field(default=())
    layers: frozenset[str] = field(default=frozenset())
    """The network's layers that it carries out."""
    opening: bool = True
    """Whether a step before its first could share that one's loop over chunks of channels: then what they exchange is never held whole."""

    def tensor(self, name: str) -> GlobalTensor:
        """A global tensor by name; raises ProgramError."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise ProgramError(f"program {self.name} has no tensor {name}")

    def statements(self) -> Iterator[tuple[tuple[Loop, ...], Statement]]:
        """Every statement with the loops around it, in order."""
        yield from _walk((), self.body)

    def __str__(self) -> str:
        heads = [f"{t.name}[{', '.join(map(str, t.shape))}]" for t in self.tensors if t.role != "weight"]
        lines = [f"program {self.name}({', '.join(heads)})", *(f"  # {remark}" for remark in self.remarks)]
        lines += _lines(self.body, 1)
        return "\n".join(lines) + "\n"


def _walk(loops: tuple[Loop, ...], body: tuple[Node, ...]) -> Iterator[tuple[tuple[Loop, ...], Statement]]:
    for node in body:
        if isinstance(node, For):
            yield from _walk((*loops, node.loop), node.body)
        else:
            yield loops, node


def _lines(body: tuple[Node, ...], depth: int) -> list[str]:
    lines = []
    for node in body:
        if isinstance(node, For):
            kind = "parallel for" if node.loop.parallel else "for"
            lines.append(f"{'  ' * depth}{kind} {node.loop.counter} in 0 … {node.loop.count}−1:  # {node.loop.what}")
            lines += _lines(node.body, depth + 1)
        else:
            lines.append("  " * depth + node.text())
    return lines
