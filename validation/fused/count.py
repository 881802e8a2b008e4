"""What the model says about a fused block: the records a measurement is placed beside."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from perfmodel.hardware.spec import DeviceSpec, HardwareError
from perfmodel.layers.cost import OPS_PER_MAC
from perfmodel.tiling import Machine, choose
from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.choice import block_layers, graph_of
from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.problem import ELEMENT_BYTES, Problem

REACHED_ON: Final = "h200"
REACHED_OPS_PER_S: Final = 790e12
"""Largest matrix product rate seen on an H200, fp16 and bf16: with the bandwidth beside it the floor that measurements are held to."""
REACHED_BYTES_PER_S: Final = 4.3e12
"""Copy rate seen on an H200, read and written bytes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """MACs and DRAM bytes of one block, by the model, and the times that follow."""

    macs: int
    compulsory_bytes: int
    """Input and output once, weights once."""
    model_bytes: float | None
    """DRAM bytes of the model's own tiling: halos are charged for every tile that reads them. None where the device is not known."""
    kernel_bytes: float
    """The same rule for the kernel's tile: what DRAM would see if no halo were found in the L2 cache."""
    waterline_s: float | None
    """The model's time at the data sheet's peaks, likewise."""
    floor_s: float | None
    """max(2·MACs / 790 TFLOP/s, (input + output + weights) / 4.3 TB/s), rates that were reached on an H200; None on any other device."""


def count(problem: Problem, config: Config, device: DeviceSpec | None) -> Count:
    """By `perfmodel.tiling`, on the device that the kernel runs on; None for one that the catalogue does not have."""
    family = family_of(problem)
    weight_bytes = family.weight_bytes(problem)
    macs, compulsory_bytes = int(graph_of(problem).macs), problem.input_bytes + problem.output_bytes + weight_bytes
    try:
        model_bytes, waterline_s = (None, None) if device is None else _model(problem, device)
    except HardwareError:  # a figure of the device is in no document
        model_bytes = waterline_s = None
    floor_s = max(OPS_PER_MAC * macs / REACHED_OPS_PER_S, compulsory_bytes / REACHED_BYTES_PER_S)
    return Count(
        macs=macs,
        compulsory_bytes=compulsory_bytes,
        model_bytes=model_bytes,
        kernel_bytes=family.by_name[config.kernel].moved_bytes(problem, config) + weight_bytes,
        waterline_s=waterline_s,
        floor_s=floor_s if device is not None and device.slug == REACHED_ON else None,
    )


@functools.cache
def _model(problem: Problem, device: DeviceSpec) -> tuple[float, float]:
    """(bytes, waterline seconds) of the block's fused programs, one after the other."""
    graph, machine = graph_of(problem), Machine.of(device, problem.dtype)
    moved_bytes = waterline_s = 0.0
    for choice in choose(graph, block_layers(graph), machine, element_bytes=ELEMENT_BYTES):
        moved = float(sum(float(movement.bytes) for movement in choice.movements))
        ops = OPS_PER_MAC * float(choice.totals.macs)
        moved_bytes += moved
        waterline_s += max(ops / machine.peak_ops_per_s, moved / machine.bandwidth_bytes_per_s)
    return moved_bytes, waterline_s
