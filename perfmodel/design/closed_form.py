"""Where an inverse query has a closed form: the cost as a polynomial in the unknown, and its root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sympy

from perfmodel.design.blocks import Kind
from perfmodel.design.subject import BlockSubject, NetworkSubject, Subject, precision_of
from perfmodel.layers import dims
from perfmodel.schedule import SCHEDULES
from perfmodel.sweep import block_expressions

BUDGET, PEAK, BANDWIDTH = sympy.symbols("t peak bandwidth", positive=True)
"""The budget, peak ops per second, and DRAM bytes per second."""
_SYMBOLS: Final = {
    "channels": dims.C,
    "size": dims.H,
    "batch": dims.N,
    "expansion": dims.e,
    "group_width": dims.g,
    "depth": sympy.Symbol("d", integer=True, positive=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedForm:
    """cost(x) = budget solved for the unknown x."""

    unknown: sympy.Symbol
    cost: sympy.Expr
    """As a polynomial in the unknown, with the regime of each kernel at the solution."""
    root: sympy.Expr
    """In the symbols of the formulas; t is the budget."""
    value: float
    """The root with all numbers in."""
    regimes: tuple[str, ...]
    """Which kernels arithmetic holds, and which memory."""

    def text(self, *, latex: bool = False) -> str:
        """The equation and its root."""
        show = sympy.latex if latex else sympy.sstr
        lines = [f"{show(BUDGET)} = {show(self.cost)}", f"{show(self.unknown)} = {show(self.root)} = {self.value:.6g}"]
        if latex:
            equations = [rf"  {line.replace(' = ', ' &= ', 1)} \\" for line in lines]
            return "\n".join([r"\begin{align*}", *equations, r"\end{align*}"])
        return "\n".join(lines)


def closed_form(subject: Subject, unknown: str, value: int, budget: str, amount: float) -> ClosedForm | None:
    """The closed form near `value`, or None where the cost is no polynomial of degree 1 or 2 in the unknown.

    Blocks on the schedules whose costs are formulas, and the batch of a network on them; latency, traffic, MACs and parameters. Each
    kernel's max(ops / peak, bytes / bandwidth) is the side that holds at the root itself. Squeezed channels, ⌊C / 4⌋, are taken as C / 4
    where the channels are unknown.
    """
    if isinstance(subject, NetworkSubject) and unknown == "batch":
        return _of_batch(subject, value, budget, amount)
    if not isinstance(subject, BlockSubject) or unknown not in _SYMBOLS or subject.schedule.lower() not in SCHEDULES:
        return None
    if budget == "memory":
        return None
    precision = precision_of(subject)
    made = block_expressions(subject.kind, subject.schedule.lower(), precision.dtype, subject.kernel)
    x = _SYMBOLS[unknown]
    kind = Kind.of(subject.kind)
    square = {dims.W: dims.H}
    fixed = _numbers(subject, unknown, kind)
    rates = {
        PEAK: subject.device.matrix_peak(precision.matrix).ops_per_s,
        BANDWIDTH: subject.device.memory.dram_bandwidth_bytes_per_s,
        BUDGET: amount,
    }
    guess = float(value)
    found: ClosedForm | None = None
    for _ in range(8):  # the regimes at the guess give a root, whose regimes may differ
        cost, regimes = _cost(made, budget, {**fixed, x: guess}, rates, square)
        cost = cost * _SYMBOLS["depth"] if unknown == "depth" else cost * subject.depth
        if kind.narrowing > 1:
            cost = cost.subs(dims.K, dims.C / kind.narrowing)
        root = _root(cost.subs(dims.C_se, dims.C / 4) if unknown == "channels" else cost, x)
        if root is None:
            return found
        at = float(root.subs(fixed).subs(rates))
        found = ClosedForm(unknown=x, cost=sympy.collect(sympy.expand(cost), x), root=root, value=at, regimes=regimes)
        if abs(at - guess) <= 1e-9 * abs(at):
            return found
        guess = at
    return found


def _of_batch(subject: NetworkSubject, value: int, budget: str, amount: float) -> ClosedForm | None:
    """The batch of a network: every kernel's ops and bytes are of degree 1 in it."""
    if subject.schedule.lower() not in SCHEDULES or budget not in ("latency", "traffic", "macs"):
        return None
    rates = {
        PEAK: subject.prediction.peak.ops_per_s,
        BANDWIDTH: subject.device.memory.dram_bandwidth_bytes_per_s,
        BUDGET: amount,
    }
    pairs = [(dims.expression(kernel.cost.ops), dims.expression(kernel.cost.dram_bytes)) for kernel in subject.symbolic_kernels()]
    guess, found = float(value), None
    for _ in range(8):
        sides = {
            "macs": [ops / 2 for ops, _ in pairs],
            "traffic": [moved for _, moved in pairs],
            "latency": [
                ops / PEAK
                if float(ops.subs(dims.N, guess)) / rates[PEAK] >= float(moved.subs(dims.N, guess)) / rates[BANDWIDTH]
                else moved / BANDWIDTH
                for ops, moved in pairs
            ],
        }[budget]
        cost = sympy.collect(sympy.expand(sympy.Add(*sides)), dims.N)
        root = _root(cost, dims.N)
        if root is None:
            return found
        at = float(root.subs(rates))
        held = sum(side.has(PEAK) for side in sides)
        regimes = (f"{held} kernels: arithmetic", f"{len(pairs) - held} kernels: memory") if budget == "latency" else ()
        found = ClosedForm(unknown=dims.N, cost=cost, root=root, value=at, regimes=regimes)
        if abs(at - guess) <= 1e-9 * abs(at):
            return found
        guess = at
    return found


def _numbers(subject: Any, unknown: str, kind: Kind) -> dict[sympy.Symbol, float]:
    """Every symbol but the unknown's."""
    channels = subject.channels
    numbers = {
        dims.N: subject.batch,
        dims.H: subject.size,
        dims.C: channels,
        dims.e: subject.expansion,
        dims.g: subject.group_width,
        dims.C_se: max(1, channels // 4),
        dims.K: channels / kind.narrowing,
    }
    hidden = {_SYMBOLS[unknown]} | ({dims.K, dims.C_se} if unknown == "channels" else set())
    return {symbol: value for symbol, value in numbers.items() if symbol not in hidden}


def _cost(
    made: Any, budget: str, at: dict[Any, float], rates: dict[Any, float], square: dict[Any, Any]
) -> tuple[Any, tuple[str, ...]]:
    """The cost with every maximum decided at a point."""
    work = [expression.subs(square) for expression in made.work]
    pairs = list(zip(made.kernels, work[::2], work[1::2], strict=True))
    if budget == "macs":
        return sum(ops for _, ops, _ in pairs) / 2, ()
    if budget == "traffic":
        return sum(moved for _, _, moved in pairs), ()
    if budget == "params":
        return made.params.subs(square), ()
    total, regimes = sympy.Integer(0), []
    full = {**at, dims.K: at.get(dims.K, 0), dims.C_se: at.get(dims.C_se, 0)}
    if dims.C in at:
        full |= {dims.C_se: max(1, at[dims.C] // 4)}
    for name, ops, moved in pairs:
        narrowing = {dims.K: at[dims.C] / _narrowing(name)} if dims.C in at else {}
        here = {**full, **narrowing}
        arithmetic, memory = (float(side.subs(here)) for side in (ops, moved))
        held = "arithmetic" if arithmetic / rates[PEAK] >= memory / rates[BANDWIDTH] else "memory"
        regimes.append(f"{name}: {held}")
        total += ops / PEAK if held == "arithmetic" else moved / BANDWIDTH
    return total, tuple(regimes)


def _narrowing(kernel: str) -> int:
    return Kind.of(kernel.partition(".")[0]).narrowing


def _root(cost: sympy.Expr, x: sympy.Symbol) -> sympy.Expr | None:
    """The positive root of cost(x) = t of a polynomial of degree 1 or 2 in x (or in x², for sizes)."""
    polynomial = sympy.Poly(sympy.expand(cost - BUDGET), x)
    coefficients = [sympy.factor(polynomial.coeff_monomial(x**power)) for power in range(polynomial.degree() + 1)]
    if len(coefficients) == 2:
        return -coefficients[0] / coefficients[1]
    if len(coefficients) == 3:
        c, b, a = coefficients
        if b == 0:
            return sympy.sqrt(sympy.factor(-c / a))
        return (-b + sympy.sqrt(b**2 - 4 * a * c)) / (2 * a)
    return None
