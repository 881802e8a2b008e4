"""Single layers on the GPU at hand: every different convolution, norm, activation and sum of a network, replayed from CUDA graphs."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from perfmodel.layers.activation import Activation
from perfmodel.layers.arithmetic import Add, Multiply
from perfmodel.layers.batch_norm import BatchNorm
from perfmodel.layers.conv2d import Conv2d
from perfmodel.layers.dims import Shape
from perfmodel.layers.graph import Node
from perfmodel.layers.layer_norm import LayerNorm
from perfmodel.layers.linear import Linear
from perfmodel.layers.pooling import GlobalAveragePool, MaxPool
from perfmodel.networks.catalog import build, find
from perfmodel.validation.gpu import driver_version
from perfmodel.validation.network_run import Counts, NetworkCase, NetworkResults, _torch, sentence
from perfmodel.validation.torch_timing import graph_seconds

LAUNCHES: Final = 10
REPEATS: Final = 15
FUNCTIONS: Final = {
    "relu": "relu", "relu6": "relu6", "silu": "silu", "gelu": "gelu", "sigmoid": "sigmoid", "hard_swish": "hardswish",
    "hard_sigmoid": "hardsigmoid",
}  # fmt: skip


def layers_of(model: str, batch: int, resolution: int) -> tuple[tuple[str, Node], ...]:
    """The different layers of a network of the catalogue: (what it is, its first node). Equal layers of equal shapes count once."""
    found: dict[str, Node] = {}
    for node in build(model, batch=batch, resolution=resolution).graph.nodes.values():
        if node.layer.role != "input":
            found.setdefault(f"{node.layer.kind}({node.layer.describe()}) of {' and '.join(map(str, node.input_shapes))}", node)
    return tuple(found.items())


def measure_layers(
    wanted: Iterable[NetworkCase],
    path: Path,
    *,
    revision: str | None = None,
    seconds: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Counts:
    """Measure the layers of each case's network, at its batch and image size, until `seconds` have passed; `revision` of the source.

    Layers that PyTorch has no single call for are said and left out, and so are those that fail. Raises GpuError without torch or GPU,
    UnknownNameError for a network that the catalogue lacks.
    """
    wanted = tuple(wanted)
    for case in wanted:
        find(case.model)
    torch = _torch()
    results = NetworkResults(path, torch.cuda.get_device_name(0), revision)
    torch.backends.cudnn.benchmark = True
    began, count, failed = time.perf_counter(), 0, 0
    for case in wanted:
        for what, node in layers_of(case.model, case.batch, case.resolution):
            own = NetworkCase(**{**asdict(case), "model": what})
            if results.has(own):
                continue
            if seconds is not None and time.perf_counter() - began > seconds:
                say(f"stopped after {seconds:.0f} s")
                return Counts(count, failed)
            try:
                call = _call(torch, node, case.dtype)
                times = None if call is None else _times(torch, call)
            except Exception as error:  # of CUDA, of torch, memory: this layer only
                say(f"{what}: {sentence(error)}")
                failed += 1
                torch.cuda.empty_cache()
                continue
            if times is None:
                say(f"{what}: no single call of PyTorch")
                continue
            results.add(
                own,
                {
                    "kind": "layer",
                    "layer": node.layer.kind,
                    "network": case.model,
                    "node": node.name,
                    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                    "torch": torch.__version__,
                    "driver": driver_version(),
                    "median_s": statistics.median(times),
                    "times_s": [float(f"{value:.5g}") for value in times],
                },
            )
            count += 1
            say(f"{what}: {statistics.median(times) * 1e6:.1f} µs")
    return Counts(count, failed)


def _call(torch: Any, node: Node, dtype: str) -> Callable[[], Any] | None:
    """A call of PyTorch that does the layer's work on random tensors in channels last, or None."""
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    functional = torch.nn.functional

    def tensor(shape: Shape) -> Any:
        return torch.randn(*shape, device="cuda", dtype=kind).to(memory_format=torch.channels_last)

    def placed(module: Any) -> Any:
        return module.cuda().to(kind).eval().to(memory_format=torch.channels_last)

    inputs = [tensor(shape) for shape in node.input_shapes]
    match node.layer:
        case Conv2d() as c:
            top, bottom, left, right = c.padding or (0, 0, 0, 0)
            if (top, left) != (bottom, right):
                return None
            module = placed(
                torch.nn.Conv2d(
                    c.in_channels, c.out_channels, c.kernel, c.stride, (top, left), c.dilation, groups=c.groups, bias=c.bias
                )
            )
        case Linear() as c:
            linear = placed(torch.nn.Linear(c.in_channels, c.out_channels, bias=c.bias))
            rows = inputs[0].permute(0, 2, 3, 1)
            return lambda: linear(rows)
        case BatchNorm() as c:
            module = placed(torch.nn.BatchNorm2d(c.channels))
        case LayerNorm() as c:
            norm = placed(torch.nn.LayerNorm(c.channels))
            rows = inputs[0].permute(0, 2, 3, 1)
            return lambda: norm(rows)
        case Activation(function=name) if name in FUNCTIONS:
            module = getattr(functional, FUNCTIONS[name])
        case Add():
            return lambda: inputs[0] + inputs[1]
        case Multiply():
            return lambda: inputs[0] * inputs[1]
        case MaxPool() as c:
            return lambda: functional.max_pool2d(inputs[0], c.kernel, c.stride, c.padding, ceil_mode=c.ceil_mode)
        case GlobalAveragePool():
            return lambda: inputs[0].mean((2, 3), keepdim=True)
        case _:
            return None
    return lambda: module(inputs[0])


def _times(torch: Any, call: Callable[[], Any]) -> list[float]:
    with torch.inference_mode():
        return list(graph_seconds(torch, call, LAUNCHES, REPEATS))
