"""Parameters as PyTorch's convolutions take them. torch is imported only inside functions."""

from __future__ import annotations

import importlib
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from perfmodel.validation.fused.packing import Parameters
from perfmodel.validation.fused.problem import DType


def tensors(parameters: Parameters, dtype: DType, device: str) -> SimpleNamespace:
    """By name: filters [K, C/groups, k, k] and matrices [outputs, inputs, 1, 1] in channels_last, vectors as they are."""
    torch: Any = importlib.import_module("torch")
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    found = {}
    for field in fields(parameters):
        array = getattr(parameters, field.name)
        if array is None:
            continue
        if array.ndim == 2:
            array = array.T[:, :, None, None]
        elif array.ndim == 4:
            array = array.transpose(0, 3, 1, 2)
        tensor = torch.from_numpy(array.copy()).to(device, kind)
        found[field.name] = tensor.to(memory_format=torch.channels_last) if array.ndim == 4 else tensor
    return SimpleNamespace(**found)
