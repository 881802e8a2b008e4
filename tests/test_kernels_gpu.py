"""The kernels where there is a GPU: right on small problems, and clear about what they refuse."""

from __future__ import annotations

import pytest

from perfmodel.validation.baselines import baseline
from perfmodel.validation.checks import check, random_input
from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.fused.reference import deviation, tolerance
from perfmodel.validation.gpu import cupy_with_gpu, this_device
from perfmodel.validation.launch import FusedBlock

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy():
    try:
        module = cupy_with_gpu()
        this_device()
    except GpuError as error:
        pytest.skip(f"needs a GPU: {error}")
    return module


def a_problem(**sizes) -> ConvFirstProblem:
    return ConvFirstProblem(**{"N": 2, "H": 13, "W": 9, "C": 64, "expansion": 4, **sizes})


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "sizes", [{}, {"C": 128}, {"C": 24, "expansion": 3}, {"C": 264, "N": 1}, {"H": 1, "W": 1, "N": 1}], ids=str
)
def test_right(cupy, sizes, dtype):
    assert check(a_problem(dtype=dtype, **sizes), seeds=(0, 1))["passed"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(cupy, name):
    for problem, only in FAMILIES[name].odd_cases()[::23]:
        assert check(problem, only, seeds=(0,))["passed"], problem.name


@pytest.mark.parametrize("name", FAMILIES)
def test_the_baseline_is_the_same_block(cupy, name):
    """PyTorch's eager block against float64, so that what is compared in time computes the same."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    family = FAMILIES[name]
    forms = ({}, {"group_width": 1, "kernel": 5, "stride": 2, "squeeze": 6}) if name == "mbconv" else ({},)
    for form in forms:
        problem = family.problem(N=2, H=13, W=9, C=64, expansion=4, **form)
        p = family.draw(problem, 0)
        x, wide = random_input(problem, 1)
        nchw = torch.from_dlpack(x).permute(0, 3, 1, 2)
        y = cupy.from_dlpack(baseline("eager", problem, p)(nchw).permute(0, 2, 3, 1).contiguous())
        allowed = tolerance(problem.dtype, family.roundings(problem), family.depth(problem))
        assert deviation(cupy, y, family.reference(cupy, wide, p, problem), None, allowed).passed


def test_torch_tensors(cupy):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        problem = a_problem(dtype=name)
        x = torch.randn(2, 13, 9, 64, device="cuda").to(dtype)
        y = FusedBlock(problem, family_of(problem).draw(problem, 0))(x)
        torch.cuda.synchronize()
        assert (y.dtype, y.shape) == (x.dtype, x.shape)
        assert torch.isfinite(y.float()).all()


def test_refusals(cupy):
    problem = a_problem()
    block = FusedBlock(problem, family_of(problem).draw(problem, 0))
    x = cupy.zeros((2, 13, 9, 64), cupy.float16)
    for wrong, words in (
        (x.astype(cupy.float32), "type float32"),
        (x[:1], "shape"),
        (x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), "not contiguous"),
        ([1.0], "list"),
    ):
        with pytest.raises(GpuError, match=words):
            block(wrong)
    with pytest.raises(GpuError, match="overlaps"):
        block(x, x)
