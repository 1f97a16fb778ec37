"""What may be done to the weight of a layer whenever the layer computes: the contract of the folder
`weights/`, where every file is such a transform.

A transform is a module of the layer, called like its file: `conv.mask`, `conv.cluster`. Saving,
sizes, export as plain weights and what a later step refuses ask the transforms, so for these a new
one is a new file, and a step that adds it. Only a form of its own in a format, as 16 bits have one
in ONNX, is written by that format's export.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from ..errors import LissomError, unknown
from . import weights

FLOAT = 32  # bits of what is not rounded
# what a setting may be: a truth value, any text, a number of a range, or one of some texts
Options = type[bool] | type[str] | range | tuple[str, ...]


class Stored(NamedTuple):
    """How a file holds a weight in the fewest bits, beside tensors that the transforms hold."""

    values: Tensor  # (out in ...): int8, or floats of as many bits as `bits` says
    bits: float = FLOAT  # of each value
    sign_bits: float = FLOAT  # of each value that is known not to be 0
    book_bits: float = FLOAT  # of each number that the transforms hold
    sparse: bool = False  # whether zeros are expected, so that a bit may say where they are


class WeightTransform(nn.Module, ABC):
    """One thing that is done to a weight (out in ...), as torch.nn.utils.parametrize does it.

    The attributes say where it stands among others of the same weight and what rebuilds it.
    """

    place: ClassVar[int]  # transforms of lower places act first
    options: ClassVar[Mapping[str, Options]]  # what each setting may be

    @classmethod
    def name(cls) -> str:
        """Return the name of the file that the class is in."""
        return cls.__module__.rpartition(".")[2]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what a rebuilt transform must be told; its tensors are saved with the others."""

    @classmethod
    def rebuilt(
        cls, settings: dict[str, Any], weight: Tensor, others: Collection[WeightTransform]
    ) -> Self:
        """Return a transform of a weight, without values, which are filled in next.

        `others` are those of this network that have been rebuilt already, with which one that holds
        tensors may share them. This one holds none.
        """
        del weight, others
        return cls(**settings)

    @abstractmethod
    def hold(self, weight: Tensor, learning: bool) -> None:
        """Take note of the weight: when the transform is added, and whenever its layer goes to
        training or to inference.
        """

    @abstractmethod
    def transformed(self, weight: Tensor) -> Tensor:
        """Return the weight to compute with, with the gradient that learning uses.

        Not `forward`: it is no layer, and hooks on layers must not see it.
        """

    @abstractmethod
    def stored(self, before: Stored) -> Stored:
        """Return how a file holds the weight, given how it holds what comes before this transform."""


def transforms() -> list[str]:
    """Return the names of all transforms: the files of the folder."""
    return sorted(module.name for module in iter_modules(weights.__path__))


@cache
def transform_named(name: str) -> type[WeightTransform]:
    """Return the transform in the file of this name."""
    if name not in transforms():
        raise unknown("transform", "weight transform", name, transforms())
    module = import_module(f"{weights.__name__}.{name}")
    for kind in vars(module).values():
        here = isinstance(kind, type) and kind.__module__ == module.__name__
        if here and issubclass(kind, WeightTransform):
            return kind
    raise LissomError(f"{module.__file__}: holds no class that is a WeightTransform")


def holding(model: nn.Module) -> set[str]:
    """Return the names of the transforms that weights of a network have."""
    return {part.name() for part in model.modules() if isinstance(part, WeightTransform)}
