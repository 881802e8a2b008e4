"""timm's networks, imported, against what timm published of them: parameters, multiply-accumulates, output elements.

    python -m perfmodel.validation.library FILE.csv… --output results.jsonl

The files are timm's benchmark tables (huggingface/pytorch-image-models, folder results/), read from where their user has them. Each
network and image size is one line of the output, written as soon as it is known; a second run goes on where the first one stopped. Needs
the extra `torch`; nothing is downloaded and nothing is computed.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from perfmodel.errors import PerfmodelError
from perfmodel.importers.program import Program
from perfmodel.layers.attention import Attention
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.graph import Graph
from perfmodel.layers.group_norm import GroupNorm
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.matmul import MatMul
from perfmodel.validation.recorder import PLAIN, append, read_lines

BATCH_NORM_OPS: Final = 2
LAYER_NORM_OPS: Final = 5
"""What timm's `infer_gmacs` adds per element of a norm; its counter treats group norm and layer norm alike."""
TOLERANCE: Final = 0.005
PRINTED: Final = 0.005
"""The files print two decimals, so that a figure of theirs may be half of the last one away from what was counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryRow:
    """One network at one image size: what the import counted, and what timm published. Everything is for one image."""

    model: str
    resolution: int
    convolutional: bool
    """Its windows overlap somewhere, and no two activations are multiplied as matrices."""
    params: int
    """Of the module's parameter tensors."""
    params_of_layers: int
    """Of the layers that were recognised, by their formulas."""
    published_params_millions: str
    macs: int
    batch_norm_elements: int
    layer_norm_elements: int
    weight_norm_ops: int
    """What timm's counter adds for weights that are standardised on every pass: 4 per element, 5 with a gain."""
    published_gmacs: str
    flop_counter_macs: int | None
    """Half of what torch.utils.flop_counter counts for the module itself."""
    activations: int
    published_activations_millions: str
    operations: int
    blocks: int
    unsupported: dict[str, int]
    import_s: float
    """Export, recognition and layers; not the loading of libraries."""

    @property
    def timm_gmacs(self) -> float:
        """The MACs with timm's documented additions, for norms of activations."""
        return (self.macs + BATCH_NORM_OPS * self.batch_norm_elements + LAYER_NORM_OPS * self.layer_norm_elements) / 1e9

    @property
    def is_explained_by_weight_norms(self) -> bool:
        """Whether the MACs agree once the norms of weights are counted, too."""
        return near(self.timm_gmacs + self.weight_norm_ops / 1e9, self.published_gmacs)

    @property
    def params_agree(self) -> bool:
        """In every digit that is printed."""
        return round(self.params / 1e6, 2) == float(self.published_params_millions)

    @property
    def macs_agree(self) -> bool:
        """Within the tolerance, or within what the printing hides."""
        return near(self.timm_gmacs, self.published_gmacs)

    @property
    def activations_agree(self) -> bool:
        """As `macs_agree`."""
        return near(self.activations / 1e6, self.published_activations_millions)


def near(value: float, printed: str) -> bool:
    """Whether a count agrees with a printed one to half a per cent, rounding of the print aside.

    >>> near(0.4049, "0.40"), near(4.1, "4.09"), near(4.2, "4.09")
    (True, True, False)
    """
    published = float(printed)
    return abs(value - published) <= TOLERANCE * published + PRINTED


def is_convolutional(graph: Graph) -> bool:
    """Whether a network mixes pixels by convolutions: some of its windows overlap, and it multiplies no activations as matrices."""
    layers = [node.layer for node in graph.nodes.values()]
    overlaps = any(isinstance(layer, Conv2d) and max(layer.kernel) > max(layer.stride) for layer in layers)
    return overlaps and not any(isinstance(layer, Attention | MatMul) for layer in layers)


def published(paths: Iterable[Path]) -> Iterator[dict[str, str]]:
    """The rows of the files, one for each network and image size; each network's first size comes before any second one."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault((row["model"], row["infer_img_size"]), row)
    seen: set[str] = set()
    later = []
    for (model, _), row in rows.items():
        if model in seen:
            later.append(row)
        else:
            seen.add(model)
            yield row
    yield from later


def measured(row: dict[str, str]) -> LibraryRow:
    """One row: builds the network without weights, imports it, and counts."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from perfmodel.importers import pytorch_export, pytorch_module
    from perfmodel.importers.model import network_of

    model, resolution = row["model"], int(row["infer_img_size"])
    module, _ = pytorch_module.timm_module(model, None, resolution)
    started = time.perf_counter()
    image = pytorch_module.image_like(module, 1, resolution)
    program = pytorch_export.export(module, [image], name=model).program()
    weight_norm_ops = _weight_norm_ops(program)
    network = network_of(program, 1, resolution, None)
    import_s = time.perf_counter() - started
    graph = network.graph
    convolutional = is_convolutional(graph)
    counted = None
    if convolutional:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(image)
        counted = counter.get_total_flops() // 2

    def elements(*kinds: type) -> int:
        return sum(node.shape.elements for node in graph.nodes.values() if isinstance(node.layer, kinds))

    unsupported: dict[str, int] = {}
    for node in network.unsupported:
        operation = getattr(node.layer, "operation", node.layer.kind)
        unsupported[operation] = unsupported.get(operation, 0) + 1
    return LibraryRow(
        model=model,
        resolution=resolution,
        convolutional=convolutional,
        params=network.params,
        params_of_layers=graph.params,
        published_params_millions=row["param_count"],
        macs=graph.macs,
        batch_norm_elements=elements(BatchNorm),
        layer_norm_elements=elements(LayerNorm, GroupNorm),
        weight_norm_ops=weight_norm_ops,
        published_gmacs=row["infer_gmacs"],
        flop_counter_macs=counted,
        activations=graph.activations,
        published_activations_millions=row["infer_macts"],
        operations=len(graph.nodes),
        blocks=len(graph.blocks),
        unsupported=unsupported,
        import_s=round(import_s, 3),
    )


def _weight_norm_ops(program: Program) -> int:
    """What timm's counter makes of norms whose input is a weight; to be asked before the program is rewritten."""
    total = 0
    fixed = _derived(program)
    for op in program.ops:
        if op.kind == "group_norm" and set(op.tensors) <= fixed:
            total += program.values[op.output].elements * (LAYER_NORM_OPS if len(op.inputs) > 1 else LAYER_NORM_OPS - 1)
    return total


def _derived(program: Program) -> set[str]:
    """The values that depend on no input."""
    fixed = {name for name, value in program.values.items() if value.source != "activation"}
    for op in program.ops:
        if set(op.tensors) <= fixed:
            fixed.update(op.outputs)
    return fixed


def read(path: Path) -> list[LibraryRow]:
    """The rows of a recorded run."""
    return [LibraryRow(**line) for line in read_lines(path, PLAIN)]


def main(arguments: list[str] | None = None) -> None:
    """Measure what the output does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    done = {(row.model, row.resolution) for row in read(given.output)} if given.output.exists() else set()
    for row in published(given.files):
        if (row["model"], int(row["infer_img_size"])) in done:
            continue
        try:
            append(given.output, asdict(measured(row)))
        except PerfmodelError as error:
            print(f"{row['model']}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
