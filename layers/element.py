"""Element types: how many bytes one element of a tensor takes."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from perfmodel.errors import UnknownNameError

ELEMENT_BYTES: Final = MappingProxyType(
    {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1, "int64": 8},
)
"""Bytes per stored element. TF32 is a way to multiply, not to store: tf32 networks store fp32."""

_WIDTH_ORDER = ("int8", "fp8", "fp16", "bf16", "fp32", "int64")


def element_bytes(dtype: str) -> int:
    """Bytes per element of `dtype`; raises UnknownNameError for a type that is not stored."""
    try:
        return ELEMENT_BYTES[dtype]
    except KeyError:
        raise UnknownNameError("element type", dtype, ELEMENT_BYTES) from None


def promote(*dtypes: str) -> str:
    """The type of an elementwise result: the widest of its operands' (fp16 with bf16 gives fp32, as frameworks do)."""
    kinds = set(dtypes)
    if {"fp16", "bf16"} <= kinds:
        return "fp32"
    return max(kinds, key=_WIDTH_ORDER.index)
