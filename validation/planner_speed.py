"""How fast the planner is, what it gains, and the ConvFirstNet family it leads to: `python -m perfmodel.validation.planner_speed`.

Each plan is made anew on one core, with nothing remembered from the one before: lowering, the search, and the kernels with their tilings.
Times are those of the processor, which other work on the machine disturbs less.
Results go to validation/results/library/planner.json with every raw time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, Final

RESULTS = Path(__file__).resolve().parent / "results" / "library" / "planner.json"
MODELS: Final = (
    "mobilenetv2_100",
    "mobileone_s1",
    "resnet101",
    "regnety_032",
    "efficientnet_b3",
    "convnext_base",
    "efficientnet_b4",
    "efficientnetv2_s",
)
DEVICES: Final = ("jetson-agx-orin", "rtx4090", "h200")
BATCH: Final = 128


def _plans(runs: int) -> list[dict[str, Any]]:
    from perfmodel.cut import best_cut
    from perfmodel.hardware.catalog import load
    from perfmodel.networks.catalog import build
    from perfmodel.planning import lower_bound_s
    from perfmodel.precision import Precision
    from perfmodel.prediction import predict
    from perfmodel.schedule import pieces
    from perfmodel.segments import Costs

    rows = []
    for model in MODELS:
        network = build(model, batch=BATCH)
        for name in DEVICES:
            device, seconds = load(name), []
            for _ in range(runs + 1):
                start = time.process_time()
                parts = pieces(network.graph, Costs(device, Precision()), Precision())
                cut = best_cut(parts)
                cut.kernels()
                seconds.append(time.process_time() - start)
            rows.append(
                {
                    "model": model,
                    "device": name,
                    "layers": len(network.graph.nodes) - 1,
                    "layer_kernels": len(parts.all),
                    "considered": cut.considered,
                    "costed": cut.costed,
                    "complete": cut.complete,
                    "seconds": seconds[1:],
                    "latency_s": cut.time_s,
                    "layer_latency_s": predict(network, device).latency_s,
                    "block_latency_s": predict(network, device, schedule="block").latency_s,
                    "lower_bound_s": lower_bound_s(parts),
                }
            )
            print(f"{model} on {name}: {statistics.median(seconds[1:]):.3f} s", flush=True)
    return rows


def _family() -> list[dict[str, Any]]:
    from perfmodel.design import codesign

    rows = []
    for name in codesign.FAMILY:
        start = time.process_time()
        answer = codesign.member(name)
        rows.append(
            {
                "member": name,
                "widths": answer.best.widths,
                "depths": answer.best.depths,
                "deepest": answer.question.deepest,
                "budget_macs": answer.question.macs,
                "macs": answer.best.macs,
                "latency_s": answer.best.latency_s,
                "efficiency": answer.best.efficiency,
                "space": answer.space,
                "within_budget": len(answer.within_budget),
                "at_budget_s": [design.at_budget_s for design in answer.within_budget],
                "shaped_by": [row.shaped_by for row in answer.stages],
                "seconds": time.process_time() - start,
            }
        )
        print(f"{name}: {answer.best.shipped}", flush=True)
    return rows


def measure(runs: int) -> dict[str, Any]:
    """Everything, as the record that is written."""
    import numpy

    from perfmodel.validation.speed import processor

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    return {
        "schema_version": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{processor()}, one core",
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "batch": BATCH,
        "plans": _plans(runs),
        "family": _family(),
    }


# -- as tables for the documentation


def recorded() -> dict[str, Any]:
    """The record."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows)) + "\n"


def plans_table() -> str:
    """Times and gains of the recorded plans."""
    from perfmodel.units import percent, si

    record = recorded()
    rows = []
    for row in record["plans"]:
        ratio = [row[name] / row["latency_s"] for name in ("layer_latency_s", "block_latency_s")]
        rows.append(
            [
                f"`{row['model']}`",
                f"`{row['device']}`",
                str(row["layers"]),
                str(row["costed"]),
                f"{statistics.median(row['seconds']):.2f} s",
                si(row["latency_s"], "s"),
                f"{ratio[0]:.2f}×",
                f"{ratio[1]:.2f}×",
                percent(1 - row["lower_bound_s"] / row["latency_s"]),
            ]
        )
    header = [
        "network",
        "device",
        "layers",
        "segments costed",
        "processor time",
        "latency",
        "faster than `layer`",
        "than `block`",
        "at most to gain",
    ]
    note = f"Batch {record['batch']}, fp16; {record['machine']}, Python {record['python']}, NumPy {record['numpy']}, {record['date']}.\n"
    return _markdown(header, rows) + "\n" + note


def family_table() -> str:
    """The recorded family."""
    from perfmodel.units import percent, si, signed_percent

    rows = []
    for row in recorded()["family"]:
        at_budget = row["at_budget_s"]
        rows.append(
            [
                row["member"],
                ", ".join(map(str, row["deepest"])),
                si(row["budget_macs"], "").rstrip(),
                ", ".join(map(str, row["widths"])),
                ", ".join(map(str, row["depths"])),
                signed_percent(row["macs"] / row["budget_macs"] - 1),
                si(row["latency_s"], "s"),
                percent(row["efficiency"]),
                f"{row['within_budget']} of {row['space']}",
                f"+{100 * (at_budget[1] / at_budget[0] - 1):.2f} %" if len(at_budget) > 1 else "–",
            ]
        )
    header = [
        "member",
        "at most",
        "budget, MACs",
        "widths",
        "depths",
        "MACs",
        "latency",
        "efficiency",
        "in budget",
        "next design",
    ]
    return _markdown(header, rows)


def shapes_table() -> str:
    """What shaped each stage of the recorded family."""
    rows = [
        [row["member"], str(number), f"{row['widths'][number - 1]} × {row['depths'][number - 1]}", reason]
        for row in recorded()["family"]
        for number, reason in enumerate(row["shaped_by"], start=1)
    ]
    return _markdown(["member", "stage", "width × depth", "shaped by"], rows)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    record = measure(given.runs)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
