"""Record what the model says of a timm benchmark file: `python -m perfmodel.validation.timm_table FILE --hardware DEV …`.

Writes validation/results/<device>/timm-<name>.json, from which docs/validation.md is generated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perfmodel.errors import PerfmodelError
from perfmodel.hardware.catalog import load
from perfmodel.validation.comparison import Comparison, Provenance, compare
from perfmodel.validation.dataset import schedule_of
from perfmodel.validation.statistics import rank_text
from perfmodel.validation.timm import read

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Compare one file and record the result; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a benchmark-infer-*.csv of timm")
    parser.add_argument("--hardware", required=True, help="the GPU that the file was measured on")
    parser.add_argument("--schedule", help="eager, or pointwise for torch.compile; default: as the file's name says")
    parser.add_argument("--autocast", default="fp16", help="fp16 or bf16")
    parser.add_argument("--layout", default="nhwc", choices=("nhwc", "nchw"))
    parser.add_argument("--source", required=True, help="where the file comes from, with its revision")
    parser.add_argument("--output", type=Path, help="default: the recorded results of the project")
    given = parser.parse_args()
    try:
        device = load(given.hardware)
        provenance = Provenance(
            file=given.file.name,
            source=given.source,
            hardware=device.slug,
            schedule=schedule_of(given.file, given.schedule),
            autocast=given.autocast,
            layout=given.layout,
        )
        comparison = compare(read(given.file), device, provenance)
        output = given.output or RESULTS / device.slug / f"timm-{given.file.stem}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(comparison.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except (PerfmodelError, OSError) as error:
        print(f"timm_table: {error}", file=sys.stderr)
        return 2
    print(
        f"{comparison.n} rows compared, {sum(len(s.rows) for s in comparison.skipped)} skipped; {comparison.below_bound} below the bound, "
        f"{comparison.below_waterline} below the waterline; rank correlation {rank_text(comparison.spearman)} (MACs alone "
        f"{rank_text(comparison.spearman_macs)}); wrote {output}"
    )
    return 0


def recorded() -> tuple[Comparison, ...]:
    """Every recorded comparison, in the order of its device and file."""
    return tuple(
        Comparison.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*/timm-*.json"))
    )


if __name__ == "__main__":
    sys.exit(main())
