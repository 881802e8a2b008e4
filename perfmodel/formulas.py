"""The symbolic reading: cost of a layer, or of a block under a schedule, as formulas."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import sympy

from perfmodel.errors import UnknownNameError
from perfmodel.kernel import Kernel
from perfmodel.layers import dims
from perfmodel.layers.catalog import COMPOSITIONS, CONV2D_CASES, FORMULAS
from perfmodel.layers.cost import Cost
from perfmodel.layers.dims import Dim, Shape
from perfmodel.layers.element import element_bytes
from perfmodel.layers.graph import GraphBuilder
from perfmodel.precision import Precision
from perfmodel.schedule import AUTO, BLOCK, SCHEDULES, ScheduleError, kernels

_STRIDE_1: Final = {dims.P: dims.H, dims.Q: dims.W, dims.H_r: dims.H, dims.W_r: dims.W, dims.H_f: dims.H, dims.W_f: dims.W}
_LARGE: Final = sympy.Symbol("large", positive=True)


@dataclass(frozen=True, kw_only=True)
class WorkFormula:
    """What a layer or block costs, in symbols."""

    name: str
    schedule: str | None
    """None for a layer alone."""
    precision: Precision
    params: Dim
    """Trained parameters."""
    kernels: tuple[tuple[str, Cost], ...]
    """(name, cost) of each kernel, in execution order."""
    compulsory_bytes: Dim
    """DRAM traffic if each input, weight and output moved once: what no schedule undercuts."""

    @cached_property
    def cost(self) -> Cost:
        """Σ over the kernels."""
        return sum((cost for _, cost in self.kernels), Cost())

    @cached_property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """The symbols that occur, in alphabetical order."""
        expressions = [self.cost.macs, self.cost.vector_ops, self.cost.special_ops, self.cost.dram_bytes, self.params]
        free: set[sympy.Symbol] = set().union(*(dims.expression(x).free_symbols for x in expressions))
        return tuple(sorted(free, key=str))

    @property
    def operational_intensity(self) -> Dim:
        """Ops per DRAM byte, simplified."""
        return sympy.factor(sympy.cancel(self.cost.ops / self.cost.dram_bytes))

    @property
    def limit(self) -> Dim:
        """Operational intensity of large activations at stride 1: weights and per-image work vanish beside H·W pixels."""
        return large_activation_limit(self.cost.ops, self.cost.dram_bytes)

    @property
    def compulsory_limit(self) -> Dim:
        """The same if each input, weight and output moved once: what perfect fusion approaches."""
        return large_activation_limit(self.cost.ops, self.compulsory_bytes)


def large_activation_limit(ops: Dim, dram_bytes: Dim) -> Dim:
    """ops / bytes as N·H·W grows, at stride 1: the ratio of the coefficients of the highest power of the pixels."""
    pixels = {dims.H: dims.H * _LARGE, dims.W: dims.W * _LARGE}
    numerator, denominator = (
        sympy.expand(dims.expression(x).subs(_STRIDE_1).subs(pixels, simultaneous=True)) for x in (ops, dram_bytes)
    )
    degree = sympy.degree(denominator, _LARGE)
    return sympy.factor(sympy.cancel(numerator.coeff(_LARGE, degree) / denominator.coeff(_LARGE, degree)))


def names() -> tuple[str, ...]:
    """Every layer and block that has a formula."""
    return (*(name for name in FORMULAS if name != "conv2d"), "conv2d", *CONV2D_CASES, *COMPOSITIONS)


def formula(name: str, *, schedule: str = "layer", dtype: str = "fp16") -> WorkFormula:
    """The formulas of a layer (alone, as one kernel) or of a block under `schedule`, with `dtype` tensors.

    Raises UnknownNameError with the nearest names, or ScheduleError.

    >>> formula("pointwise_conv").limit
    C*K/(C + K)
    """
    precision = Precision(dtype=dtype)
    key = name.lower().replace("-", "_")
    if schedule.lower() == AUTO:
        raise ScheduleError(
            f"schedule {AUTO!r} cuts whole networks; formulas of a block are those of {', '.join((*SCHEDULES, BLOCK))}"
        )
    if key in COMPOSITIONS:
        return _of_block(key, schedule, precision)
    if key in FORMULAS or key in CONV2D_CASES:
        return _of_layer(key, precision)
    raise UnknownNameError("layer or block", name, names())


def _of_layer(name: str, precision: Precision) -> WorkFormula:
    case = dict(CONV2D_CASES.get(name, {}))
    layer = FORMULAS["conv2d" if name in CONV2D_CASES else name]
    size = element_bytes(precision.storage)

    def bind(expression: Dim) -> Dim:
        return dims.expression(expression).subs(case)

    general = layer.cost(size)
    cost = Cost(
        macs=bind(general.macs),
        vector_ops=bind(general.vector_ops),
        special_ops=bind(general.special_ops),
        read_activation_bytes=bind(general.read_activation_bytes),
        read_weight_bytes=bind(general.read_weight_bytes),
        written_activation_bytes=bind(general.written_activation_bytes),
    )
    return WorkFormula(
        name=name,
        schedule=None,
        precision=precision,
        params=bind(sum(weight.elements for weight in layer.weights if weight.trained)),
        kernels=((name, cost),),
        compulsory_bytes=cost.dram_bytes,
    )


def block_kernels(name: str, schedule: str, precision: Precision, kernel: int | None = None) -> tuple[tuple[Kernel, ...], Dim]:
    """The kernels of a block in symbols, and its trained parameters; `kernel` None is the size that the block usually has."""
    block = COMPOSITIONS[name].symbolic()
    if kernel is not None and hasattr(block, "kernel"):
        chosen: dict[str, Any] = {"kernel": kernel}
        block = replace(block, **chosen)
    builder = GraphBuilder()
    x = builder.input(Shape(dims.N, block.in_channels, dims.H, dims.W))
    builder.block(block, x, name=name)
    graph = builder.graph()
    return kernels(graph, precision, schedule), graph.params


def _of_block(name: str, schedule: str, precision: Precision) -> WorkFormula:
    work, params = block_kernels(name, schedule, precision)
    ideal, _ = block_kernels(name, "layer", precision)
    weights = sum(kernel.cost.read_weight_bytes for kernel in ideal)
    # the block's input is read once and its output, of the same shape, written once
    block = COMPOSITIONS[name].symbolic()
    activations = 2 * Shape(dims.N, block.in_channels, dims.H, dims.W).elements * element_bytes(precision.storage)
    return WorkFormula(
        name=name,
        schedule=schedule,
        precision=precision,
        params=params,
        kernels=tuple((kernel.name, kernel.cost) for kernel in work),
        compulsory_bytes=activations + weights,
    )


def formula_text(work: WorkFormula, *, latex: bool = False) -> str:
    """The formulas as text, or as LaTeX equations: one line each, then what the symbols mean."""
    cost = work.cost
    show = sympy.latex if latex else sympy.sstr
    lines: list[tuple[str, str, Dim]] = [
        ("MACs", r"\mathrm{MACs}", sympy.factor(cost.macs)),
        ("vector ops", r"\mathrm{vector\ ops}", sympy.factor(cost.vector_ops)),
        ("special-function ops", r"\mathrm{special\ ops}", sympy.factor(cost.special_ops)),
        ("trained parameters", r"\mathrm{params}", sympy.factor(work.params)),
        ("bytes read, activations", r"B_{\mathrm{read,\ activations}}", sympy.factor(cost.read_activation_bytes)),
        ("bytes read, weights", r"B_{\mathrm{read,\ weights}}", sympy.factor(cost.read_weight_bytes)),
        ("bytes written", r"B_{\mathrm{written}}", sympy.factor(cost.dram_bytes_written)),
        ("ops per byte", "I", work.operational_intensity),
        ("ops per byte, large activations, stride 1", r"I_{\infty}", work.limit),
    ]
    if work.schedule is not None:
        lines.append(("each input, weight, output once", r"I_{\infty}^{\mathrm{once}}", work.compulsory_limit))
    kernels_said = "1 kernel" if len(work.kernels) == 1 else f"{len(work.kernels)} kernels"
    under = kernels_said if work.schedule is None else f"schedule {work.schedule}, {kernels_said}"
    meanings = [(str(symbol), dims.meaning(symbol)) for symbol in work.symbols]
    if latex:
        out = [f"% {work.name}: {under}, {work.precision}; ops = 2 · MACs", r"\begin{align*}"]
        out += [rf"  {symbol} &= {show(value)} \\" for _, symbol, value in lines]
        out += [r"\end{align*}", *(f"% {name}: {text}" for name, text in meanings)]
        return "\n".join(out) + "\n"
    out = [f"{work.name}: {under}, {work.precision}; ops = 2 · MACs"]
    width = max(len(label) for label, _, _ in lines)
    out += [f"  {label:<{width}}  {show(value)}" for label, _, value in lines]
    out += ["where", *(f"  {name:<5} {text}" for name, text in meanings)]
    return "\n".join(out) + "\n"
