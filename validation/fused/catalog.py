"""Every family of fused blocks by its name."""

from __future__ import annotations

import re
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final

from perfmodel.errors import shown
from perfmodel.validation.fused.convfirst.family import FAMILY as CONVFIRST
from perfmodel.validation.fused.convnext.family import FAMILY as CONVNEXT
from perfmodel.validation.fused.family import Family
from perfmodel.validation.fused.fused_mbconv.family import FAMILY as FUSED_MBCONV
from perfmodel.validation.fused.mbconv.family import FAMILY as MBCONV
from perfmodel.validation.fused.problem import GpuError, Problem

FAMILIES: Final = MappingProxyType({family.name: family for family in (CONVFIRST, MBCONV, FUSED_MBCONV, CONVNEXT)})

CASE: Final = re.compile(
    r"(?P<block>[a-z_]+)_e(?P<e>\d{1,9})_(?P<dtype>[a-z0-9]+)_n(?P<N>\d{1,9})_c(?P<C>\d{1,9})_h(?P<H>\d{1,9})_w(?P<W>\d{1,9})"
    r"(?P<form>(_[a-z]+\d{1,9})*)"
)
"""The name of a case: a problem in one word."""


def family_of(problem: Problem) -> Family[Any, Any]:
    """The family that a problem belongs to."""
    return FAMILIES[problem.family]


def problem_named(name: str) -> Problem:
    """The problem that a case's name tells.

    >>> problem_named("mbconv_e6_fp16_n16_c24_h56_w56_k5_g1_s2_o40")
    MBConvProblem(N=16, H=56, W=56, C=24, expansion=6, dtype='fp16', kernel=5, group_width=1, stride=2, squeeze=None, out_channels=40)

    Raises GpuError for a name that is none, and for a problem that no kernel serves.
    """
    found = CASE.fullmatch(name)
    if found is None or found["block"] not in FAMILIES:
        raise GpuError(
            f"'{shown(name)}' is no name of a case, such as {' or '.join(family.cases()[0].name for family in FAMILIES.values())}"
        )
    words = {word[1]: int(word[2]) for word in re.finditer(r"_([a-z]+)(\d+)", found["form"])}
    kind: Any = FAMILIES[found["block"]].problem
    sizes = {size: int(found[size]) for size in ("N", "H", "W", "C")}
    made: Problem = kind(**sizes, expansion=int(found["e"]), dtype=found["dtype"], **kind.fields_of_suffix(words))
    if made.name != name:
        raise GpuError(f"'{shown(name)}' is written {made.name}")
    return made


def record_of(problem: Problem) -> dict[str, Any]:
    """A problem as an object of JSON: its family and its sizes."""
    return {"family": problem.family, **asdict(problem)}


def problem_of(record: dict[str, Any]) -> Problem:
    """Back from its record. Raises KeyError, TypeError or GpuError for what is none."""
    fields = dict(record)
    family = FAMILIES[fields.pop("family")]
    made: Problem = family.problem(**fields)
    return made
