"""Activation functions: one table of what each element costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import ClassVar, Final

import sympy

from perfmodel.errors import UnknownNameError
from perfmodel.layers.dims import C, Dim, H, N, Shape, W
from perfmodel.layers.layer import Formula, Layer, Role, image

ELEMENT_OPS: Final = MappingProxyType(
    {
        "relu": (1, 0),  # max(x, 0)
        "relu6": (2, 0),  # min(max(x, 0), 6)
        "hard_sigmoid": (4, 0),  # min(max(x + 3, 0), 6) · ⅙
        "hard_swish": (5, 0),  # x · hard_sigmoid(x)
        "sigmoid": (3, 1),  # ½ + ½·tanh(½·x)
        "silu": (3, 1),  # h + h·tanh(h), h = ½·x
        "gelu": (4, 1),  # h + h·erf(x·2^-½), h = ½·x
        "gelu_tanh": (7, 1),  # h + h·tanh(x·(a·x² + c)), h = ½·x
        "clamp": (2, 0),  # min(max(x, a), c)
        "leaky_relu": (2, 0),  # max(x, a·x)
        "elu": (4, 1),  # max(x, 0) + min(exp(x) − 1, 0)
        "mish": (5, 2),  # x·n/(n + 2), n = t·(t + 2), t = exp(x)
        "softplus": (1, 2),  # log(1 + exp(x))
        "tanh": (0, 1),
        "exp": (0, 1),
        "log": (0, 1),
        "erf": (0, 1),
        "sqrt": (0, 1),
        "rsqrt": (0, 1),
        "reciprocal": (0, 1),
        "sin": (0, 1),
        "cos": (0, 1),
        "square": (1, 0),
        "abs": (1, 0),
        "negate": (1, 0),
        "round": (1, 0),
    }
)
"""(vector operations, special-function operations) per element, in the form with the fewest special functions; a fused multiply-add is
two vector operations."""


@cache
def activation_formula(function: str) -> Formula:
    """Elementwise: each element read once and written once."""
    try:
        vector, special = ELEMENT_OPS[function]
    except KeyError:
        raise UnknownNameError("activation", function, ELEMENT_OPS) from None
    elements = N * C * H * W
    return Formula(
        vector_ops=vector * elements,
        special_ops=special * elements,
        inputs=(elements,),
        reads=(elements,),
        writes=elements,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Layer):
    """An activation function by name (the keys of ELEMENT_OPS)."""

    kind: ClassVar[str] = "activation"
    role: ClassVar[Role] = "elementwise"

    function: str

    def __post_init__(self) -> None:
        activation_formula(self.function)

    @property
    def formula(self) -> Formula:
        return activation_formula(self.function)

    def output_shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        return x

    def binding(self, *inputs: Shape) -> dict[sympy.Symbol, Dim]:
        (x,) = inputs
        return image(x)
