"""The generated CUDA kernel: it compiles for real GPUs, and compiled for the host it finds what NumPy finds."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from perfmodel.design.blocks import BlockSpace
from perfmodel.design.cuda_source import KERNEL, sources
from perfmodel.design.front import Front
from perfmodel.design.gpu import OPTIONS
from perfmodel.design.networks import NetworkSpace, StageChoices
from perfmodel.design.search import Search
from perfmodel.hardware.catalog import load
from perfmodel.validation.compile import Unit, compile_unit

DEVICES = (load("h200"), load("rtx4090"))
COMPILER = shutil.which("g++")

SHIM = """
#include <cmath>
using std::fmax; using std::fmin; using std::floor;
#define __global__
#define __restrict__
struct Dim { unsigned x; };
static const Dim gridDim{1}, blockDim{1}, blockIdx{0}, threadIdx{0};
static unsigned long long atomicAdd(unsigned long long* where, unsigned long long amount) {
    const unsigned long long before = *where; *where += amount; return before;
}
"""


def blocks() -> Search:
    space = BlockSpace(
        blocks=("convfirst", "basic", "regnety", "bottleneck"),
        channels=tuple(range(8, 260, 12)),
        expansions=(1, 4, 6),
        group_widths=(1, 8, 12),
        kernels=(3, 5),
        sizes=(7, 14, 56),
        batches=(1, 128),
        devices=DEVICES,
    )
    constraints = [
        "latency[h200] <= 0.1ms and not channels % 16 == 4",
        "efficiency[rtx4090] > 0.01",
        "block != 'basic' or channels // 3 > 9",
    ]
    return Search.of(space, ["min latency[rtx4090]", "max params"], constraints)


def networks() -> Search:
    def stage(widths: tuple[int, ...], depths: tuple[int, ...]) -> StageChoices:
        return StageChoices(blocks=("convfirst", "mbconv"), channels=widths, depths=depths, group_widths=(8, 16))

    space = NetworkSpace(
        stages=(stage((16, 24, 32), (1, 2)), stage((32, 48), (1, 3)), stage((64, 96), (2,))),
        resolutions=(64, 100),
        heads=(128, 256),
        batch=16,
        devices=DEVICES,
    )
    return Search.of(
        space,
        ["min latency[h200]", "max macs", "min bytes"],
        ["channels[2] > channels[1]", "intensity > 10", "block[1] == convfirst"],
    )


def on_host(search: Search, folder: Path, known: Front) -> tuple[list[int], int, int]:
    """What the kernels find, compiled by the host's compiler for one thread."""
    found, valid, feasible = [], 0, 0
    objectives = len(search.objectives)
    probes = np.ascontiguousarray(known.probes(len(known.index)))
    for number, source in enumerate(sources(search)):
        code, library = folder / f"{number}.cpp", folder / f"{number}.so"
        code.write_text(SHIM + source.text)
        subprocess.run([str(COMPILER), "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(library), str(code)], check=True)
        kernel = getattr(ctypes.CDLL(str(library)), KERNEL)
        counts, numbers = np.zeros(3, np.uint64), np.zeros(source.count, np.uint64)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (source.tables, probes, counts, numbers)]
        kernel(
            ctypes.c_ulonglong(0),
            ctypes.c_ulonglong(source.count),
            pointers[0],
            pointers[1],
            ctypes.c_int(len(probes)),
            pointers[2],
            pointers[3],
            ctypes.c_ulonglong(source.count),
        )
        assert probes.shape[1] == objectives
        valid, feasible = valid + int(counts[0]), feasible + int(counts[1])
        found += (numbers[: int(counts[2])].astype(np.int64) + source.base).tolist()
    return found, valid, feasible


@pytest.mark.skipif(COMPILER is None, reason="needs g++, to compile the generated kernel for the host")
@pytest.mark.parametrize("make", [blocks, networks])
def test_the_generated_kernel_judges_as_numpy_does(make: object, tmp_path: Path) -> None:
    search: Search = make()  # type: ignore[operator]
    exists, met, columns = search.costs(np.arange(search.space.size))
    assert 0 < np.count_nonzero(met) < np.count_nonzero(exists) < search.space.size
    nothing = Front.empty(len(search.objectives))
    found, valid, feasible = on_host(search, tmp_path, nothing)
    assert found == np.flatnonzero(met).tolist()
    assert (valid, feasible) == (np.count_nonzero(exists), np.count_nonzero(met))

    front = search.front_of(np.arange(search.space.size))
    found, _, _ = on_host(search, tmp_path, front)
    assert set(front.index.tolist()) <= set(found)  # the front itself is never taken for dominated
    values = np.stack(columns, axis=1)[np.array(found)]
    bumped = front.probes(len(front.index))
    dominated = (bumped[None] <= values[:, None]).all(axis=2).any(axis=1)
    assert not dominated.any()
    assert len(found) < feasible


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_the_generated_kernel_compiles_for_a_gpu(architecture: str, tmp_path: Path) -> None:
    for number, source in enumerate([*sources(blocks()), *sources(networks())]):
        unit = Unit(name=f"search-{number}", source=source.text, headers=(), options=OPTIONS, architecture=architecture)
        done = compile_unit(unit, cache=tmp_path)
        assert done.cubin
