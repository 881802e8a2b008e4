"""How fast will a convolutional network run on a machine, what holds it back, and what should change?

>>> import perfmodel
>>> prediction = perfmodel.predict("resnet50", "h200", batch=128)
>>> prediction.bottleneck
'memory'

Names are loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfmodel.errors import PerfmodelError as PerfmodelError
    from perfmodel.formulas import formula as formula
    from perfmodel.hardware.catalog import load as load_hardware  # noqa: F401
    from perfmodel.importers.model import from_onnx as from_onnx
    from perfmodel.importers.model import from_torch as from_torch
    from perfmodel.network import Network as Network
    from perfmodel.networks.catalog import build as build_network  # noqa: F401
    from perfmodel.prediction import Prediction as Prediction
    from perfmodel.prediction import predict as predict
    from perfmodel.sweep import sweep_block as sweep_block

__version__ = "0.1.0"

_HOMES = {
    "PerfmodelError": ("perfmodel.errors", "PerfmodelError"),
    "formula": ("perfmodel.formulas", "formula"),
    "from_onnx": ("perfmodel.importers.model", "from_onnx"),
    "from_torch": ("perfmodel.importers.model", "from_torch"),
    "load_hardware": ("perfmodel.hardware.catalog", "load"),
    "Network": ("perfmodel.network", "Network"),
    "build_network": ("perfmodel.networks.catalog", "build"),
    "Prediction": ("perfmodel.prediction", "Prediction"),
    "predict": ("perfmodel.prediction", "predict"),
    "sweep_block": ("perfmodel.sweep", "sweep_block"),
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'perfmodel' has no attribute {name!r}") from None
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
