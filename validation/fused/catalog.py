"""Every family of fused blocks by its name."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

from perfmodel.validation.fused.convfirst.family import FAMILY as CONVFIRST
from perfmodel.validation.fused.convnext.family import FAMILY as CONVNEXT
from perfmodel.validation.fused.family import Family
from perfmodel.validation.fused.fused_mbconv.family import FAMILY as FUSED_MBCONV
from perfmodel.validation.fused.mbconv.family import FAMILY as MBCONV
from perfmodel.validation.fused.problem import Problem

FAMILIES: Final = MappingProxyType({family.name: family for family in (CONVFIRST, MBCONV, FUSED_MBCONV, CONVNEXT)})


def family_of(problem: Problem) -> Family[Any, Any]:
    """The family that a problem belongs to."""
    return FAMILIES[problem.family]
