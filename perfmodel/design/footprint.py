"""How much device memory a network takes: its weights, and the activations that must exist at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.kernel import Kernel


def footprint_bytes(kernels: Sequence[Kernel]) -> int:
    """Weights of all kernels, and the most bytes of activations that are alive while one of them runs.

    A tensor lives from the kernel that writes it (what no kernel writes: from the start) to the last one that reads it (what none reads: to
    the end); memory is reused at once and nothing is fragmented. A framework's allocator and workspaces come on top.
    """
    weights: dict[str, int] = {}
    born: dict[str, int] = {}
    dies: dict[str, int] = {}
    size: dict[str, int] = {}
    for place, kernel in enumerate(kernels):
        for access in kernel.writes:
            born[access.tensor] = place
            size[access.tensor] = max(size.get(access.tensor, 0), int(access.bytes))
            dies[access.tensor] = len(kernels)
        for access in kernel.reads:
            tensor = access.tensor
            if access.role == "weight" and tensor not in born:
                weights[tensor] = max(weights.get(tensor, 0), int(access.bytes))
            elif access.role != "halo":
                if tensor not in born:
                    born[tensor] = 0
                    size[tensor] = int(access.bytes)
                dies[tensor] = place
    alive = [0] * (len(kernels) + 1)
    for tensor, start in born.items():
        for place in range(start, min(dies[tensor], len(kernels) - 1) + 1):
            alive[place] += size[tensor]
    return sum(weights.values()) + max(alive)
