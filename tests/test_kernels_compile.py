"""Every kernel source compiles with NVRTC alone, for the architectures it is meant for, without spills where speed is promised."""

from __future__ import annotations

import pytest

from perfmodel.validation.compile import GENERATED, Unit, compile_unit, compiler_version, unit_of
from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.problem import DeviceLimits, GpuError


def limits(capability: tuple[int, int]) -> DeviceLimits:
    shared = {(8, 0): 166912, (8, 9): 101376, (9, 0): 232448}[capability]
    return DeviceLimits(
        name="{}.{}".format(*capability),
        compute_capability=capability,
        multiprocessors=108,
        shared_bytes_per_block=shared,
        shared_bytes_per_multiprocessor=shared + 1024,
        l2_bytes=2**25,
    )


HOPPER = limits((9, 0))


def units_of(problem, device, only=None):
    """(configuration, unit) of each launch."""
    family = family_of(problem)
    config = family.choose(problem, device, only=only)
    launches = family.by_name[config.kernel].launches(problem, config, device)
    return [(config, unit_of(config, device.architecture, launch.constants)) for launch in launches]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


def test_compiler_is_one_that_keeps_wgmma_asynchronous():
    """With NVRTC 13.5 the streamed kernel spills and its matrix instructions are serialised: slower, though right."""
    assert compiler_version() in ("13.0", "13.1")


def hopper_cases():
    """Every timed case that a Hopper kernel serves; ConvFirst's other expansions and widths, MBConv's with two chunks in flight."""
    others = [(64, 56, e) for e in (1, 6, 8)] + [(128, 28, 1), (128, 31, 4), (96, 56, 6)]
    asked = [ConvFirstProblem(N=8, H=size, W=size, C=C, expansion=e) for C, size, e in others]
    asked += [MBConvProblem(N=128, H=28, W=28, C=C, expansion=e) for C, e in ((96, 2), (128, 2), (128, 3))]
    asked += [MBConvProblem(N=105, H=56, W=56, C=64, expansion=e) for e in (2, 4)]  # a strip to a warpgroup
    asked += [problem for family in FAMILIES.values() for problem in family.cases()]
    asked += [problem for family in FAMILIES.values() for more in family.selections.values() for problem in more()]
    found = {}
    for problem in asked:
        family = family_of(problem)
        config = family.choose(problem, HOPPER)
        if not config.kernel.endswith("_generic"):
            found.setdefault(config.name, problem)
    return list(found.values())


@pytest.mark.parametrize("problem", hopper_cases(), ids=lambda problem: problem.name)
def test_hopper_kernels(cache, problem):
    assert HOPPER.architecture == "sm_90a"
    for config, unit in units_of(problem, HOPPER):
        done = compile_unit(unit, cache=cache)
        assert unit.name.encode() in done.cubin
        assert done.spilled_bytes == 0
        assert not done.serialised
        assert done.registers <= 65536 // config.threads


def test_compiled_once(cache, monkeypatch):
    ((_, unit),) = units_of(ConvFirstProblem(N=1, H=3, W=3, C=8, expansion=1), limits((8, 0)))
    first = compile_unit(unit, cache=cache)
    monkeypatch.setattr("perfmodel.validation.compile._Nvrtc.compile", lambda *_: pytest.fail("compiled again"))
    second = compile_unit(unit, cache=cache)
    assert (second.cubin, second.log) == (first.cubin, first.log)


def test_key_is_what_reaches_the_compiler():
    ((_, unit),) = units_of(ConvFirstProblem(N=1, H=8, W=8, C=64, expansion=4), HOPPER)
    assert [name for name, _ in unit.headers] == [GENERATED, "hopper.cuh", "instructions.cuh", "wgmma.cuh"]
    changed = {
        "source": unit.source + " ",
        "headers": (*unit.headers[:-1], (unit.headers[-1][0], unit.headers[-1][1] + " ")),
        "options": (*unit.options, "-G"),
        "architecture": "sm_90",
    }
    keys = {unit.key("13.0"), unit.key("13.1")}
    for field, value in changed.items():
        fields = {name: getattr(unit, name) for name in ("name", "source", "headers", "options", "architecture")}
        keys.add(Unit(**{**fields, field: value}).key("13.0"))
    assert len(keys) == 2 + len(changed)
    assert unit.key("13.0") == unit.key("13.0")


def test_refused_source_says_why(cache):
    unit = Unit(name="broken", source="int f( {", headers=(), options=(), architecture="sm_80")
    with pytest.raises(GpuError, match="refuses broken for sm_80"):
        compile_unit(unit, cache=cache)
    assert not list(cache.glob("broken*"))
