"""The symbolic reading of a fused block: its program, and what it costs as tiles get large or small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy

from perfmodel.errors import UnknownNameError
from perfmodel.formulas import large_activation_limit
from perfmodel.layers import dims
from perfmodel.layers.catalog import BLOCKS
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.layers.dims import Dim, Shape
from perfmodel.layers.element import element_bytes
from perfmodel.layers.graph import GraphBuilder
from perfmodel.machine.fused import Mode, Tiling, fused_programs
from perfmodel.machine.program import Program
from perfmodel.machine.totals import Totals, totals
from perfmodel.precision import Precision
from perfmodel.tiling import movements


@dataclass(frozen=True, kw_only=True)
class FusedFormula:
    """What a block costs as one fused program, or two around a global mean, in symbols; weights are read from DRAM once."""

    name: str
    mode: Mode
    precision: Precision
    programs: tuple[Program, ...]

    @cached_property
    def totals(self) -> tuple[Totals, ...]:
        """Of each program, edges of the image left out (whole rows have none)."""
        return tuple(totals(program, interior=True) for program in self.programs)

    @property
    def macs(self) -> Dim:
        """Multiply-accumulates, what is computed twice counted twice."""
        return sympy.factor(sum(total.macs for total in self.totals))

    @property
    def ops(self) -> Dim:
        """2 · MACs."""
        return OPS_PER_MAC * self.macs

    def moved(self, *kinds: str) -> Dim:
        """DRAM bytes of these kinds of movement (input, halo, weight, sums, output)."""
        total = sum(
            movement.bytes
            for program, counted in zip(self.programs, self.totals, strict=True)
            for movement in movements(program, counted, float("inf"), interior=True)
            if movement.kind in kinds
        )
        return sympy.factor(sympy.expand(total))

    @property
    def dram_bytes(self) -> Dim:
        """All DRAM traffic."""
        return self.moved("input", "halo", "weight", "sums", "output")

    @property
    def limit(self) -> Dim:
        """Ops per byte of large activations, with the halo: weights and per-image work vanish beside H·W pixels."""
        return large_activation_limit(self.ops, self.dram_bytes)

    @property
    def local_bytes(self) -> Dim:
        """The most local memory that is held at any time, over all programs."""
        peaks = [total.peak_local_bytes for total in self.totals]
        return sympy.simplify(sympy.Max(*peaks))


def fused_formula(name: str, *, mode: Mode = "tiles", dtype: str = "fp16") -> FusedFormula:
    """The fused programs of a block in symbols: tiles of p×q outputs, or p whole rows at a time; k channels in a chunk.

    Raises UnknownNameError.
    """
    key = name.lower().replace("-", "_")
    if key not in BLOCKS:
        raise UnknownNameError("block", name, BLOCKS)
    precision = Precision(dtype=dtype)
    block = BLOCKS[key].symbolic()
    builder = GraphBuilder()
    builder.block(block, builder.input(Shape(dims.N, block.in_channels, dims.H, dims.W), name="x"), name=key)
    graph = builder.graph()
    layers = [layer for layer, node in graph.nodes.items() if node.block is not None]
    columns = dims.q if mode == "tiles" else dims.W
    tiling = Tiling(mode=mode, rows=dims.p, columns=columns, chunk=dims.k, resident_weights=False)
    programs = fused_programs(graph, layers, tiling, element_bytes=element_bytes(precision.storage), name=key)
    return FusedFormula(name=key, mode=mode, precision=precision, programs=programs)


def fused_text(name: str, *, dtype: str = "fp16", latex: bool = False) -> str:
    """Both ways to walk the image, as text or LaTeX: formulas, what the symbols mean, and (as text) the program of the first."""
    by_tiles, by_rows = (fused_formula(name, mode=mode, dtype=dtype) for mode in ("tiles", "rows"))
    show = sympy.latex if latex else sympy.sstr
    out: list[str] = []
    for fused, how in ((by_tiles, "tiles of p×q outputs, edges left out"), (by_rows, "depth first, p whole rows at a time")):
        kernels = "1 kernel" if len(fused.programs) == 1 else f"{len(fused.programs)} kernels"
        lines = [
            ("MACs", r"\mathrm{MACs}", fused.macs),
            ("bytes read, activations", r"B_{\mathrm{read,\ activations}}", fused.moved("input", "halo")),
            ("bytes read, weights", r"B_{\mathrm{read,\ weights}}", fused.moved("weight")),
            ("bytes written", r"B_{\mathrm{written}}", fused.moved("output", "sums")),
            ("ops per byte, large activations", r"I_{\infty}", fused.limit),
        ]
        heading = f"{fused.name}: schedule block, {kernels}, {how}, {fused.precision}; ops = 2 · MACs"
        if latex:
            out += [
                f"% {heading}",
                r"\begin{align*}",
                *(rf"  {symbol} &= {show(value)} \\" for _, symbol, value in lines),
                r"\end{align*}",
            ]
        else:
            width = max(len(label) for label, _, _ in lines)
            out += [heading, *(f"  {label:<{width}}  {show(value)}" for label, _, value in lines)]
    symbols = sorted(
        set().union(*(fused.dram_bytes.free_symbols | fused.macs.free_symbols for fused in (by_tiles, by_rows))), key=str
    )
    meanings = [(str(symbol), dims.meaning(symbol)) for symbol in symbols]
    if latex:
        return "\n".join([*out, *(f"% {symbol}: {text}" for symbol, text in meanings)]) + "\n"
    out += ["where", *(f"  {symbol:<5} {text}" for symbol, text in meanings), "", "the program that they are derived from:", ""]
    return "\n".join(out) + "\n" + "\n".join(str(program) for program in by_tiles.programs)
