"""What every residual block is: hyper-parameters, and how it adds its layers to a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import sympy

from perfmodel.layers.dims import Dim

if TYPE_CHECKING:
    from perfmodel.layers.graph import GraphBuilder, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(ABC):
    """A block of layers around a shortcut, from `in_channels` to `out_channels`."""

    kind: ClassVar[str]

    in_channels: Dim
    out_channels: Dim
    stride: int = 1

    @abstractmethod
    def build(self, builder: GraphBuilder, x: Tensor) -> Tensor:
        """Append the block's layers, reading `x`, and return its output."""

    @classmethod
    @abstractmethod
    def symbolic(cls) -> Self:
        """The block with symbols for its dimensions, as `formula` prints it: stride 1, as many channels out as in, its usual kernel."""

    @property
    def has_identity(self) -> bool:
        """Whether the input itself can be the shortcut: stride 1 and as many channels out as in."""
        return self.stride == 1 and bool(sympy.Eq(self.in_channels, self.out_channels) == sympy.true)
