"""How fast spaces of designs are searched: `python -m perfmodel.validation.design_speed` measures and records it.

Every figure includes the exact Pareto front: blocks and networks with NumPy on one core, with CuPy on a GPU (`--gpu`), on one and two local
Dask workers (`--dask`). The results of the GPU and of the workers are compared with NumPy's, bit for bit. Each kind of run has its record
under validation/results/library/, with every raw time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perfmodel.design.blocks import BlockSpace
from perfmodel.design.networks import NetworkSpace, StageChoices
from perfmodel.design.search import Backend, HostBackend, Search, SearchResult, run
from perfmodel.hardware.catalog import load
from perfmodel.units import si
from perfmodel.validation.speed import processor

RESULTS = Path(__file__).resolve().parent / "results" / "library"


def blocks(batches: int, sizes: int) -> Search:
    """Blocks of four kinds; 114,688 designs for each batch and size."""
    space = BlockSpace(
        blocks=("convfirst", "mbconv", "fused_mbconv", "convnext"),
        channels=tuple(range(8, 1025, 8)),
        expansions=tuple(range(1, 9)),
        group_widths=(1, 2, 4, 8, 16, 32, 64),
        kernels=(3, 5, 7, 9),
        sizes=tuple(range(4, 4 + sizes)),
        batches=tuple(range(1, batches + 1)),
        devices=(load("h200"),),
    )
    return Search.of(space, ["min latency", "max params"], ["latency <= 1ms", "channels >= 4 * group_width"])


def networks(*, resolutions: tuple[int, ...] = (224,), steps: int = 5) -> Search:
    """Networks of four stages of ConvFirst or MBConv blocks; `steps` widths for each stage."""

    def stage(first: int, step: int, depths: tuple[int, ...]) -> StageChoices:
        return StageChoices(
            blocks=("convfirst", "mbconv"),
            channels=tuple(first + step * k for k in range(steps)),
            depths=depths,
            expansions=(2, 3, 4, 6),
            group_widths=(8,),
        )

    space = NetworkSpace(
        stages=(
            stage(32, 32, (1, 2)),
            stage(64, 64, (2, 3, 4)),
            stage(128, 128, (3, 6, 9)),
            stage(256, 256, (1, 2, 3)),
        ),
        resolutions=resolutions,
        batch=128,
        devices=(load("h200"),),
    )
    return Search.of(space, ["min latency", "max params"], ["macs <= 600G"])


def _row(what: str, target: str, results: list[SearchResult], seconds: list[float] | None = None) -> dict[str, Any]:
    """`seconds` of each run, the wall clock's if not given."""
    taken = [result.seconds for result in results] if seconds is None else seconds
    rates = [result.evaluated / second for result, second in zip(results, taken, strict=True)]
    first = results[0]
    return {
        "what": what,
        "target": target,
        "designs": first.evaluated,
        "valid": first.valid,
        "feasible": first.feasible,
        "front": len(first.front.index),
        "backend": first.backend,
        "measured": f"{si(statistics.median(rates), '')} designs/s",
        "spread": f"{si(min(rates), '')} – {si(max(rates), '')} designs/s",
        "raw": taken,
        "wall_s": [result.seconds for result in results],
    }


def _same(left: SearchResult, right: SearchResult) -> bool:
    equal = (
        left.front.index.tolist() == right.front.index.tolist() and left.front.values.tobytes() == right.front.values.tobytes()
    )
    return equal and (left.valid, left.feasible) == (right.valid, right.feasible)


def _repeated(
    search: Callable[[], Search], backend: Callable[[Search], Backend], runs: int
) -> tuple[list[SearchResult], list[float]]:
    """Results, and the processor time that each took."""
    results, processor_s = [], []
    for _ in range(runs):
        fresh = search()  # with nothing kept from the run before
        used = backend(fresh)
        began = time.process_time()
        results.append(run(fresh, backend=used))
        processor_s.append(time.process_time() - began)
        print(
            f"  {results[-1].evaluated} designs in {results[-1].seconds:.3f} s, {processor_s[-1]:.3f} s of processor", flush=True
        )
    return results, processor_s


def measure_host(runs: int) -> list[dict[str, Any]]:
    """One core, by its processor time: the wall clock would count what other programs do on it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return [
        _row("blocks, one core (processor time)", "≥ 5 M designs/s", *_repeated(lambda: blocks(16, 8), HostBackend, runs)),
        _row(
            "networks, one core (processor time), with the making of their tables",
            "≥ 50 k designs/s",
            *_repeated(lambda: networks(steps=2), HostBackend, runs),
        ),
    ]


def measure_gpu(runs: int) -> list[dict[str, Any]]:
    """The current GPU; compiling and the making of tables are not counted, as they do not grow with the space."""
    import cupy

    from perfmodel.design.gpu import CupyBackend

    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    rows = []
    cases: tuple[tuple[str, str, Callable[[], Search], Callable[[], Search]], ...] = (
        ("blocks", "≥ 1 G designs/s", lambda: blocks(4, 4), lambda: blocks(512, 256)),
        ("networks", "–", lambda: networks(steps=2), lambda: networks(steps=10, resolutions=(192, 224))),
    )
    for what, target, small, large in cases:
        compared = small()
        on_gpu, on_host = run(compared, backend=CupyBackend(compared)), run(compared)
        print(f"{what}: {on_gpu.evaluated} designs, the same as NumPy's: {_same(on_gpu, on_host)}", flush=True)
        results, _ = _repeated(large, CupyBackend, runs)
        row = _row(f"{what}, {device}", target, results)
        row |= {"compared_designs": on_gpu.evaluated, "same_as_numpy": _same(on_gpu, on_host), "device": device}
        row["cupy"] = cupy.__version__
        rows.append(row)
        print(json.dumps(row, ensure_ascii=False), flush=True)
    return rows


def measure_dask(runs: int) -> list[dict[str, Any]]:
    """One and two local workers in turn, after each has made its tables; and the ratio, pair by pair."""
    from perfmodel.design.cluster import DaskBackend

    search = blocks(32, 16)
    alone = run(search)
    times: dict[int, list[SearchResult]] = {1: [], 2: []}
    processor: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(runs):
        for workers in (1, 2):
            with DaskBackend(search, workers=workers) as backend:
                backend.client.run(_warm)  # imports and generated functions
                before = sum(backend.client.run(time.process_time).values())
                times[workers].append(run(search, backend=backend))
                processor[workers].append(sum(backend.client.run(time.process_time).values()) - before)
            print(
                f"  {workers} workers: {times[workers][-1].seconds:.2f} s, {processor[workers][-1]:.2f} s of processor",
                flush=True,
            )
    rows = [_row(f"blocks, {workers} local Dask worker{'s' if workers > 1 else ''}", "–", times[workers]) for workers in (1, 2)]
    ratios = [one.seconds / two.seconds for one, two in zip(times[1], times[2], strict=True)]
    same = all(_same(alone, result) for results in times.values() for result in results)
    rows.append(
        {
            "what": "two local Dask workers ÷ one",
            "target": "≥ 1.7 ×",
            "measured": f"{statistics.median(ratios):.2f} ×",
            "spread": f"{min(ratios):.2f} – {max(ratios):.2f} ×",
            "raw": ratios,
            "same_as_numpy": same,
            "load_average": os.getloadavg(),
        }
    )
    extra = [two / one - 1 for one, two in zip(processor[1], processor[2], strict=True)]
    rows.append(
        {
            "what": "processor time of two workers beyond that of one, which is what sharing costs",
            "target": "–",
            "measured": f"{100 * statistics.median(extra):.1f} %",
            "spread": f"{100 * min(extra):.1f} – {100 * max(extra):.1f} %",
            "raw": [processor[1], processor[2]],
        }
    )
    return rows


def record_front() -> None:
    """The space of docs/spaces/stages.toml searched whole on one core: how, and its front, and the picture of it."""
    from perfmodel.design.results import write_rows
    from perfmodel.design.space_file import load_search
    from perfmodel.plots.front import front_figure
    from perfmodel.plots.save import save
    from perfmodel.report.search import search_data

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    docs = Path(__file__).resolve().parent.parent / "docs"
    began = time.process_time()
    result = run(load_search(docs / "spaces" / "stages.toml"))
    data = {name: value for name, value in search_data(result).items() if name != "front"}
    data["processor_s"] = time.process_time() - began
    data |= {"machine": f"{processor()}, one core", "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    write_rows(result.rows(["macs", "bytes"]), RESULTS / "design-front.csv")
    (RESULTS / "design-front.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    save(front_figure(result), docs / "images" / "front-stages.png")
    print(f"{result.evaluated} designs in {result.seconds:.1f} s, front {len(result.front.index)}")


def _warm() -> None:
    """On a worker: what a search needs once, in a process of its own."""
    run(blocks(1, 1))


def main() -> None:
    """Measure, print and record."""
    import numpy
    import sympy

    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gpu", action="store_true")
    which.add_argument("--dask", action="store_true")
    which.add_argument("--front", action="store_true", help="search docs/spaces/stages.toml, record its front, and plot it")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.front:
        record_front()
        return
    kind = "gpu" if given.gpu else "dask" if given.dask else "host"
    rows = {"gpu": measure_gpu, "dask": measure_dask, "host": measure_host}[kind](given.runs)
    record = {
        "schema_version": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": processor(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "sympy": sympy.__version__,
        "rows": rows,
    }
    for row in rows:
        sys.stdout.write(f"{row['what']}: {row['measured']} ({row['spread']}), target {row['target']}\n")
    output = given.output or RESULTS / f"design-search-{kind}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
