"""timm's networks exported to ONNX, against the same networks imported from PyTorch: every kernel of every schedule.

    python -m perfmodel.validation.library_onnx NAME… --output results.jsonl

Each network is exported with its norms as they are, by PyTorch's exporter, read back, and compared. The time of reading is recorded beside
the result. Needs the extras `torch` and `onnx`, and onnxscript, which the exporter uses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perfmodel.hardware.catalog import load
from perfmodel.network import Network
from perfmodel.precision import Precision
from perfmodel.schedule import NAMES, kernels
from perfmodel.validation.recorder import PLAIN, append, read_lines

DEVICE = "h200"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRow:
    """One network: which schedules agree, and how long the file took to read."""

    model: str
    resolution: int
    exporter: str
    params: int
    macs: int
    same_params: bool
    same_schedules: tuple[str, ...]
    """Schedules under which all kernels have the same kind and the same cost."""
    blocks: int
    file_bytes: int
    read_s: float


def costs(network: Network, schedule: str) -> list[tuple[Any, ...]]:
    """Kind and cost of every kernel."""
    return [(kernel.kind, kernel.cost) for kernel in kernels(network.graph, Precision(), schedule, device=load(DEVICE))]


def measured(name: str, *, dynamo: bool, folder: Path) -> OnnxRow:
    """Export, read and compare one network."""
    import timm
    import torch

    from perfmodel.importers.model import from_onnx, from_torch
    from perfmodel.importers.pytorch_module import quiet, timm_module

    _, resolution = timm_module(name, None, None)
    module = timm.create_model(name, pretrained=False).eval()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.data.normal_(1.0, 0.1)  # untrained ones are 0 and 1, which an exporter simplifies away
    image = torch.randn(1, 3, resolution, resolution)
    path = folder / f"{name}.onnx"
    with quiet():
        if dynamo:
            torch.onnx.export(module, (image,), path, dynamo=True, optimize=False, verbose=False)
        else:
            mode = torch.onnx.TrainingMode.PRESERVE
            torch.onnx.export(module, (image,), str(path), dynamo=False, training=mode, do_constant_folding=False)
    expected = from_torch(module, image, name=name)
    started = time.perf_counter()
    network = from_onnx(path)
    read_s = time.perf_counter() - started
    size = sum(file.stat().st_size for file in folder.glob(f"{name}.onnx*"))
    for file in folder.glob(f"{name}.onnx*"):
        file.unlink()
    return OnnxRow(
        model=name,
        resolution=resolution,
        exporter="torch.export" if dynamo else "TorchScript",
        params=network.params,
        macs=network.macs,
        same_params=network.params == expected.params,
        same_schedules=tuple(schedule for schedule in NAMES if costs(network, schedule) == costs(expected, schedule)),
        blocks=len(network.graph.blocks),
        file_bytes=size,
        read_s=round(read_s, 3),
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure what the output does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dynamo", action="store_true", help="use the exporter that is built on torch.export")
    given = parser.parse_args(arguments)
    known = read_lines(given.output, PLAIN) if given.output.exists() else ()
    done = {(row["model"], row["exporter"]) for row in known}
    exporter = "torch.export" if given.dynamo else "TorchScript"
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names:
            if (name, exporter) in done:
                continue
            append(given.output, asdict(measured(name, dynamo=given.dynamo, folder=Path(folder))))


if __name__ == "__main__":
    main()
