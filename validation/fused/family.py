"""A family of blocks, as the harness walks over it: what it computes, what serves it, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from perfmodel.validation.fused.configuration import Config, Launch, Scratch
from perfmodel.validation.fused.packing import Parameters
from perfmodel.validation.fused.problem import DeviceLimits, GpuError, Problem

P = TypeVar("P", bound=Problem)
Q = TypeVar("Q", bound=Parameters)
Buffers = tuple[npt.NDArray[np.uint8], ...]


_chosen: dict[tuple[Problem, DeviceLimits, str | None], Config] = {}
"""What was chosen before; choosing among thousands of tiles takes a tenth of a second."""


def remember(problem: Problem, device: DeviceLimits, only: str | None, config: Config) -> None:
    """A choice that another process made."""
    _chosen[problem, device, only] = config


def no_scratch(problem: Problem, config: Config) -> tuple[Scratch, ...]:
    """Of a block that runs in one launch."""
    del problem, config
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel(Generic[P, Q]):
    """One CUDA source that serves some problems of a family; all of it pure functions of the sizes."""

    name: str
    """Of the source, `kernels/<name>.cu`."""
    configure: Callable[[P, DeviceLimits], Config | str]
    """The tile for a problem on a device, or why this kernel does not serve it there (the end of a sentence, with the numbers)."""
    launches: Callable[[P, Config, DeviceLimits], tuple[Launch, ...]]
    """One; three where a global mean must be known before the rest can start: up to it, the gates that it gives, the rest."""
    pack: Callable[[P, Config, Q], Buffers]
    """The bytes of each weight buffer."""
    moved_bytes: Callable[[P, Config], int]
    """Activations that the tiles read inside of the image and write, halos for every tile: what DRAM would see if no halo were found in
    the L2 cache. Weights are counted by the harness."""
    scratch: Callable[[P, Config], tuple[Scratch, ...]] = no_scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(Generic[P, Q]):
    """One kind of block."""

    name: str
    problem: type[P]
    parameters: type[Q]
    kernels: tuple[Kernel[P, Q], ...]
    """In the order of preference."""
    draw: Callable[[P, int], Q]
    """Random parameters from a seed."""
    reference: Callable[[Any, Any, Q, P], Any]
    """(NumPy or CuPy, input N×H×W×C, parameters, problem) → the result in float64."""
    roundings: Callable[[P], int]
    """To the half type on the way from input to output, those of weights that the host folds included."""
    depth: Callable[[P], int]
    """Terms of all the fp32 sums on the way."""
    torch_block: Callable[[P, Q, str], Callable[[Any], Any]]
    """(problem, parameters, torch device) → the block as a user of PyTorch writes it, of an N×C×H×W tensor in channels_last."""
    cases: Callable[[], tuple[P, ...]]
    """What is timed and counted."""
    odd_cases: Callable[[], tuple[tuple[P, str | None], ...]]
    """What is checked beside them, by the kernel named or the one chosen."""
    selections: Mapping[str, Callable[[], tuple[P, ...]]] = field(default_factory=dict)
    """More cases, by a name under which they can be asked for: not in the tables of kernels, but in what tier expected answers to."""

    def choose(self, problem: P, device: DeviceLimits, *, only: str | None = None) -> Config:
        """The first kernel that serves. `only` names one. Raises GpuError, with every kernel's reason, where none does."""
        if known := _chosen.get((problem, device, only)):
            return known
        offered = self.by_name
        if only is not None and only not in offered:
            raise GpuError(f"{only} is no kernel of {self.name}; there are {', '.join(offered) or 'none'}")
        reasons = []
        for kernel in [offered[only]] if only is not None else self.kernels:
            made = kernel.configure(problem, device)
            if isinstance(made, Config):
                remember(problem, device, only, made)
                return made
            reasons.append(f"{kernel.name}: {made}")
        raise GpuError(f"no kernel serves {problem.name} on {device.name}: {'; '.join(reasons) or 'none is written yet'}")

    @property
    def by_name(self) -> Mapping[str, Kernel[P, Q]]:
        """The kernels."""
        return {kernel.name: kernel for kernel in self.kernels}

    def weight_bytes(self, problem: P) -> int:
        """Footprint of the parameters as the user has them: matrices and filters in the half type, vectors in fp32."""
        shapes = self.parameters.shapes(problem).values()
        return sum((4 if len(shape) == 1 else 2) * int(np.prod(shape)) for shape in shapes)
