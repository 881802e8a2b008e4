"""The search of a space as one CUDA kernel, generated from the same expressions and tables that NumPy evaluates.

Each thread decodes the numbers of its designs, computes what is wanted of them in fp64, counts those that exist and those that meet the
constraints, and writes down the numbers of the few that no known design dominates. Whole numbers below 2⁵³ are exact in fp64,
multiplications and additions are not contracted (`--fmad=false`), and sums run in the order in which NumPy's do, so both judge every
design alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sympy
from sympy.printing.c import C99CodePrinter

from perfmodel.design.blocks import BlockSpace, Kind, ignored
from perfmodel.design.grammar import in_c
from perfmodel.design.networks import NetworkSpace
from perfmodel.design.search import Search
from perfmodel.design.space import Axis, Space, SpaceError
from perfmodel.sweep import block_expressions
from perfmodel.waterline import Limits

KERNEL: Final = "search_designs"
_OPS, _BYTES, _PEAK, _BANDWIDTH = sympy.symbols("ops moved peak bandwidth", positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A generated kernel and the numbers it reads."""

    text: str
    tables: npt.NDArray[np.float64]
    base: int
    """Number of the first design it knows."""
    count: int
    """Number of designs it knows."""


class _Printer(C99CodePrinter):  # type: ignore[misc]  # sympy has no type information
    def _print_Pow(self, expr: Any) -> str:  # noqa: N802 - sympy finds it by this name
        base, exponent = expr.as_base_exp()
        if exponent.is_Integer and 1 < exponent <= 8:
            return "(" + "*".join([self.parenthesize(base, 60)] * int(exponent)) + ")"
        return str(super()._print_Pow(expr))


_PRINTER: Final = _Printer({"precision": 17})


def sources(search: Search) -> list[Source]:
    """The kernels that together cover the space: one, or one for each kind and kernel of a space of blocks."""
    space = search.space
    if isinstance(space, NetworkSpace):
        return [_network_source(search, space)]
    if isinstance(space, BlockSpace):
        return [_block_source(search, space, segment) for segment in range(space.shape[0] * space.shape[1])]
    raise SpaceError(f"no CUDA kernel can be generated for a {type(space).__name__}")


def _decode(axes: Sequence[Axis]) -> list[str]:
    """Where a design lies on each axis, the last axis running fastest."""
    lines = (
        ["unsigned long long rest = i;"] if prod(len(axis.values) for axis in axes) >= 2**32 else ["unsigned rest = (unsigned)i;"]
    )
    for place, axis in reversed(list(enumerate(axes))):
        lines.append(f"const unsigned at{place} = (unsigned)(rest % {len(axis.values)}u); rest /= {len(axis.values)}u;")
    return lines


def _latencies(limits: Sequence[Limits], costs: Sequence[tuple[str, str]]) -> list[str]:
    """Latency on each device as `latency0`, `latency1` … from (ops, bytes) of each kernel, in order."""
    one = Limits(peak_ops_per_s=_PEAK, bandwidth_bytes_per_s=_BANDWIDTH).latency_s(_OPS, _BYTES)
    template = _PRINTER.doprint(one)
    lines = ["double ops, moved;"]
    for device, rates in enumerate(limits):
        said = template.replace("peak", repr(rates.peak_ops_per_s)).replace("bandwidth", repr(rates.bandwidth_bytes_per_s))
        lines.append(f"double latency{device} = 0.0;")
        lines += [f"ops = {ops}; moved = {moved}; latency{device} += {said};" for ops, moved in costs]
    return lines


def _names(space: Space, wanted: frozenset[str], limits: Sequence[Limits]) -> dict[str, str]:
    """How costs are called in the kernel, by the name that conditions use."""
    names = {"ops": "all_ops", "macs": "(all_ops / 2.0)", "bytes": "all_bytes", "params": "all_params"}
    names["intensity"] = "(all_ops / all_bytes)"
    for number, (device, rates) in enumerate(zip(space.devices, limits, strict=True)):
        for suffix in (f"[{device.slug}]", *([""] if len(space.devices) == 1 else [])):
            names[f"latency{suffix}"] = f"latency{number}"
            names[f"efficiency{suffix}"] = f"(all_ops / {rates.peak_ops_per_s!r} / latency{number})"
    return {name: said for name, said in names.items() if name in wanted}


def _block_source(search: Search, space: BlockSpace, segment: int) -> Source:
    name, kernel = space.segment_kind(segment)
    kind, axes = Kind.of(name), space.axes[2:]
    variables = {"block": repr(float(space.blocks.index(name))), "kernel": repr(float(kernel or 0))}
    lines = _decode(axes)
    table: list[float] = []
    valid = ["true"] if kernel is None or kind.has_kernel or kernel == 3 else ["false"]
    for place, axis in enumerate(axes):
        lines.append(f"const double {axis.name} = tables[{len(table)} + at{place}];")
        table += [float(value) for value in axis.values]
        variables[axis.name] = axis.name
        if len(axis.values) > 1 and ignored(kind, axis.name):
            valid.append(f"at{place} == 0")
    lines += [
        "const double N = batch, H = size, W = size, C = channels, e = expansion, g = group_width;",
        f"const double K = C / {kind.narrowing}.0, C_se = fmax(1.0, floor(C / 4.0));",
    ]
    if kind.groups is not None:
        grouped = _PRINTER.doprint(kind.groups)
        valid.append(f"({grouped}) - g * floor(({grouped}) / g) == 0.0")
    if kind.narrowing > 1:
        valid.append("K == floor(K)")
    made = block_expressions(name, space.schedule, space.dtype, kernel)
    shared, reduced = sympy.cse([*made.work, made.params], symbols=sympy.numbered_symbols("x"))
    lines += [f"const double {symbol} = {_PRINTER.doprint(value)};" for symbol, value in shared]
    outputs = [_PRINTER.doprint(value) for value in reduced]
    kernels = range(len(made.kernels))
    lines += [f"const double ops{k} = {outputs[2 * k]}, bytes{k} = {outputs[2 * k + 1]};" for k in kernels]
    lines.append("const double all_ops = " + " + ".join(f"ops{k}" for k in kernels) + ";")
    lines.append("const double all_bytes = " + " + ".join(f"bytes{k}" for k in kernels) + ";")
    lines.append(f"const double all_params = {outputs[-1]};")
    lines += _latencies(space.limits, [(f"ops{k}", f"bytes{k}") for k in kernels])
    variables |= _names(space, search.wanted, space.limits)
    return Source(
        text=_kernel(search, lines, " && ".join(valid), variables),
        tables=np.array(table, dtype=np.float64),
        base=segment * space.inner,
        count=space.inner,
    )


def _network_source(search: Search, space: NetworkSpace) -> Source:
    table: list[npt.NDArray[np.float64]] = []
    length = 0

    def stored(values: npt.ArrayLike) -> int:
        nonlocal length
        array = np.asarray(values, dtype=np.float64)
        table.append(array)
        length += len(array)
        return length - len(array)

    lines, variables = _decode(space.axes), {}
    place = {axis.name: f"at{number}" for number, axis in enumerate(space.axes)}
    for axis in space.axes:
        if axis.name in search.wanted:
            offset = stored(np.arange(len(axis.values)) if axis.is_category else axis.values)
            variables[axis.name] = f"tables[{offset} + {place[axis.name]}]"
    stem, stages, head = space.tables
    codes = space.codes(place, _ravel)
    parts: list[tuple[Any, str, str]] = [(stem, "code_stem", "1u")]
    lines.append(f"const unsigned code_stem = {codes[0]};")
    valid = [f"tables[{stored(stem.exists)} + code_stem] != 0.0"]
    for number, ((first, others), (code, other)) in enumerate(zip(stages, codes[1:-1], strict=True), 1):
        depth = stored(space.stages[number - 1].depths)
        lines.append(f"const unsigned first{number} = {code}, other{number} = {other};")
        lines.append(f"const unsigned depth{number} = (unsigned)tables[{depth} + {place[f'depth[{number}]']}];")
        valid.append(f"tables[{stored(first.exists)} + first{number}] != 0.0")
        valid.append(f"(depth{number} == 1u || tables[{stored(others.exists)} + other{number}] != 0.0)")
        parts += [(first, f"first{number}", "1u"), (others, f"other{number}", f"(depth{number} - 1u)")]
    lines.append(f"const unsigned code_head = {codes[-1]};")
    valid.append(f"tables[{stored(head.exists)} + code_head] != 0.0")
    parts.append((head, "code_head", "1u"))
    wanted = search.wanted
    efficient = any(name.startswith("efficiency") for name in wanted)
    sums: tuple[tuple[str, bool, Callable[[Any], Any]], ...] = (
        ("all_ops", bool(wanted & {"ops", "macs", "intensity"}) or efficient, lambda part: part.ops),
        ("all_bytes", bool(wanted & {"bytes", "intensity"}), lambda part: part.dram_bytes[0]),
        ("all_params", bool(wanted & {"params"}), lambda part: part.params),
    )
    for said, needed, column in sums:
        if needed:
            terms = [f"{times} * tables[{stored(column(part))} + {code}]" for part, code, times in parts]
            lines.append(f"const double {said} = " + " + ".join(terms) + ";")
    for device in range(len(space.devices)):
        lines.append(f"double latency{device} = 0.0;")
        for part, code, times in parts:
            added = [f"latency{device} += tables[{stored(column)} + {code}];" for column in part.times_s[device]]
            lines.append(" ".join(added) if times == "1u" else f"for (unsigned d = 0; d < {times}; ++d) {{ {' '.join(added)} }}")
    variables |= _names(space, wanted, space.limits)
    return Source(
        text=_kernel(search, lines, " && ".join(valid), variables), tables=np.concatenate(table), base=0, count=space.size
    )


def _ravel(places: Sequence[str], shape: Sequence[int]) -> str:
    """The number of a combination, as text of C."""
    said = places[0]
    for place, size in zip(places[1:], shape[1:], strict=True):
        said = f"({said} * {size}u + {place})"
    return said


def _kernel(search: Search, lines: Sequence[str], valid: str, variables: Mapping[str, str]) -> str:
    met = " && ".join(["true", *(in_c(constraint.node, variables) for constraint in search.constraints)])
    objectives = [
        f"const double objective{k} = {'-' if item.maximise else ''}({in_c(item.node, variables)});"
        for k, item in enumerate(search.objectives)
    ]
    numbers = " && ".join(f"objective{k} - objective{k} == 0.0" for k in range(len(search.objectives)))
    body = "\n            ".join(lines)
    return f"""
extern "C" __global__ void {KERNEL}(
    const unsigned long long start, const unsigned long long stop, const double* __restrict__ tables,
    const double* __restrict__ probes, const int probe_count,
    unsigned long long* counts, unsigned long long* found, const unsigned long long capacity)
{{
    unsigned long long existing = 0, feasible = 0;
    const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = start + (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < stop; i += stride) {{
            {body}
            if (!({valid})) continue;
            ++existing;
            if (!({met})) continue;
            {" ".join(objectives)}
            if (!({numbers})) continue;
            ++feasible;
            bool dominated = false;
            {_dominance(len(search.objectives))}
            if (dominated) continue;
            const unsigned long long slot = atomicAdd(&counts[2], 1ULL);
            if (slot < capacity) found[slot] = i;
    }}
    if (existing) atomicAdd(&counts[0], existing);
    if (feasible) atomicAdd(&counts[1], feasible);
}}
"""


def _dominance(objectives: int) -> str:
    """Whether a known point is better: of two objectives by bisection of their staircase, else point by point."""
    if objectives == 2:
        return """int low = 0, high = probe_count;
            while (low < high) {
                const int middle = (low + high) / 2;
                if (probes[2 * middle] <= objective0) low = middle + 1; else high = middle;
            }
            dominated = low > 0 && probes[2 * low - 1] <= objective1;"""
    worse = " && ".join(f"probes[{objectives} * p + {k}] <= objective{k}" for k in range(objectives))
    return f"for (int p = 0; p < probe_count && !dominated; ++p) dominated = {worse};"
