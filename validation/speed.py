"""How fast the library itself is: `python -m perfmodel.validation.speed` measures and records it.

Import and `predict` are timed as whole processes started anew; sweeps on one core, in this process. Results go to
validation/results/library/speed.json with every raw time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "library" / "speed.json"
SWEPT_BLOCKS = ("convfirst", "mbconv", "fused_mbconv", "convnext", "bottleneck", "basic", "regnety")


def _processes(arguments: list[str], runs: int) -> list[float]:
    """Wall time of the command, `runs` times, after one run that warms the disk cache."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


def _repeat(work: Callable[[], Any], runs: int) -> list[float]:
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[1:]


def _import_s(runs: int) -> list[float]:
    """Time that `import perfmodel` adds to a bare interpreter, pair by pair."""
    bare = _processes(["-c", "pass"], runs)
    loaded = _processes(["-c", "import perfmodel"], runs)
    return [max(0.0, b - a) for a, b in zip(bare, loaded, strict=True)]


def _sweeps(designs: int, runs: int, device: str) -> dict[str, list[float]]:
    """Designs per second for each block, on arrays of drawn dimensions."""
    import numpy as np

    from perfmodel.hardware.catalog import load
    from perfmodel.sweep import block_function, sweep_block

    spec = load(device)
    draw = np.random.default_rng(0)
    rates = {}
    for kind in SWEPT_BLOCKS:
        dimensions = {name: draw.integers(1, 512, designs).astype(np.float64) for name in block_function(kind).symbols}
        seconds = _repeat(lambda kind=kind, dims=dimensions: sweep_block(kind, spec, dims), runs)  # type: ignore[misc]
        rates[kind] = [designs / second for second in seconds]
    return rates


def _design_by_design(designs: int, runs: int, device: str) -> list[float]:
    """Designs per second if the generated function is called for each design alone."""
    import random

    from perfmodel.hardware.catalog import load
    from perfmodel.sweep import block_function
    from perfmodel.waterline import Limits, waterline_s

    spec = load(device)
    function, limits = block_function("convfirst"), Limits.waterline(spec, spec.matrix_peak("fp16"))
    draw = random.Random(0)
    drawn = [{name: float(draw.randint(1, 512)) for name in function.symbols} for _ in range(designs)]

    def evaluate() -> None:
        for dimensions in drawn:
            waterline_s(limits, function.costs(**dimensions))

    return [designs / second for second in _repeat(evaluate, runs)]


def _one_by_one(designs: int, runs: int, device: str) -> list[float]:
    """Designs per second if each is a block built, cut into kernels and placed on the machine by itself."""
    import random

    from perfmodel.hardware.catalog import load
    from perfmodel.layers.blocks.convfirst import ConvFirst
    from perfmodel.layers.dims import Shape
    from perfmodel.layers.graph import GraphBuilder
    from perfmodel.network import Network
    from perfmodel.prediction import predict

    spec = load(device)
    draw = random.Random(0)

    def evaluate() -> None:
        for _ in range(designs):
            channels, size = 8 * draw.randint(1, 64), draw.randint(7, 112)
            builder = GraphBuilder()
            x = builder.input(Shape(1, channels, size, size))
            block = ConvFirst(in_channels=channels, out_channels=channels, hidden_channels=channels * draw.randint(1, 8))
            builder.block(block, x, name="block")
            predict(Network(name="block", graph=builder.graph(), batch=1, resolution=size), spec)

    return [designs / second for second in _repeat(evaluate, runs)]


def _tilings(models: Sequence[str], device: str) -> tuple[list[float], list[float]]:
    """For each distinct block of these networks: seconds to choose its tiling, and how many tilings were costed."""
    from perfmodel.hardware.catalog import load
    from perfmodel.networks.catalog import build
    from perfmodel.tiling import Machine, choose

    machine = Machine.of(load(device), "fp16")
    seconds, considered = [], []
    for model in models:
        graph = build(model, batch=128).graph
        distinct: dict[object, list[str]] = {}
        for name, block in graph.blocks.items():
            layers = [layer for layer, node in graph.nodes.items() if node.block == name]
            distinct.setdefault((block, graph.nodes[layers[0]].input_shapes[0]), layers)
        for layers in distinct.values():
            start = time.perf_counter()
            choices = choose(graph, layers, machine, element_bytes=2)
            seconds.append(time.perf_counter() - start)
            considered.append(float(sum(choice.considered for choice in choices)))
    return seconds, considered


def _row(what: str, target: str, values: list[float], unit: str, scale: float = 1.0) -> dict[str, Any]:
    shown = [value * scale for value in values]
    return {
        "what": what,
        "target": target,
        "measured": f"{statistics.median(shown):.3g} {unit}",
        "spread": f"{min(shown):.3g} – {max(shown):.3g} {unit}",
        "raw": values,
    }


def measure(runs: int, designs: int) -> dict[str, Any]:
    """Everything, as the record that is written."""
    import numpy
    import sympy

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for the children too
    rows = [
        _row("`import perfmodel`, beside a bare interpreter", "< 0.3 s", _import_s(runs), "s"),
        _row(
            "`perfmodel predict convnext_tiny --hardware h200`, whole process",
            "< 1 s",
            _processes(["-m", "perfmodel", "predict", "convnext_tiny", "--hardware", "h200"], runs),
            "s",
        ),
    ]
    sweeps = _sweeps(designs, runs, "h200")
    for kind, rates in sweeps.items():
        rows.append(_row(f"sweep of `{kind}`, schedule `layer`, one core", "≥ 5 M designs/s", rates, "M designs/s", 1e-6))
    alone = _design_by_design(20_000, runs, "h200")
    rows.append(_row("the same function of `convfirst`, design by design", "–", alone, "M designs/s", 1e-6))
    built = _one_by_one(300, runs, "h200")
    rows.append(_row("`convfirst` blocks built, cut into kernels and predicted one by one", "–", built, "M designs/s", 1e-6))
    for what, values in (("the same function, design by design", alone), ("building and predicting one by one", built)):
        ratios = [a / b for a, b in zip(sweeps["convfirst"], values, strict=True)]
        rows.append(_row(f"sweep of `convfirst` ÷ {what}", "–", ratios, "×"))
    seconds, considered = _tilings(("convfirstnet_tiny", "efficientnet_b0", "convnext_tiny", "mobilenetv2_100"), "h200")
    rows.append(_row("choosing the tiling of a block (each distinct one of four networks)", "milliseconds", seconds, "ms", 1e3))
    rows.append(_row("tilings costed for it, over all of its programs", "–", considered, "tilings"))
    return {
        "schema_version": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{processor()}, one core",
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "sympy": sympy.__version__,
        "designs_per_sweep": designs,
        "runs": runs,
        "rows": rows,
    }


def processor() -> str:
    """The name of the processor that this runs on."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--designs", type=int, default=4_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    record = measure(given.runs, given.designs)
    for row in record["rows"]:
        print(f"{row['what']}: {row['measured']} ({row['spread']}), target {row['target']}")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
