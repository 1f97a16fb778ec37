"""Transforms of a layer's weight, applied whenever the layer computes.

This is the contract of the folder `weights/`, in which every file is a transform. A transform is a
module of the layer, named like its file: `conv.mask`, `conv.cluster`. Saving, sizes, export as
plain weights and the refusals of later steps ask the transforms, so a new transform is a new file,
and a step that adds it. Only a special form in a file format, as 16 bits have in ONNX, is written
by that format's export.
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

FLOAT = 32  # bits of values that are not rounded
# what a setting may be: a boolean, any text, a number in a range, or one of several texts
Options = type[bool] | type[str] | range | tuple[str, ...]


class Stored(NamedTuple):
    """How a file holds a weight in the fewest bits, besides the tensors of the transforms."""

    values: Tensor  # (out in ...): int8, or floats of as many bits as `bits` says
    bits: float = FLOAT  # of each value
    sign_bits: float = FLOAT  # of each value that is known not to be 0
    book_bits: float = FLOAT  # of each number in the transforms' tensors
    sparse: bool = False  # whether zeros are expected, so that a bit per value may mark them


class WeightTransform(nn.Module, ABC):
    """One transform of a weight (out in ...), as in torch.nn.utils.parametrize.

    The class attributes are its place among the transforms of a weight, and its settings.
    """

    place: ClassVar[int]  # transforms of lower places act first
    options: ClassVar[Mapping[str, Options]]  # the values that each setting may have

    @classmethod
    def name(cls) -> str:
        """Return the name of the file that the class is in."""
        return cls.__module__.rpartition(".")[2]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings from which it is rebuilt; its tensors are in the state dict."""

    @classmethod
    def rebuilt(
        cls, settings: dict[str, Any], weight: Tensor, others: Collection[WeightTransform]
    ) -> Self:
        """Return a transform of a weight without its values, which are loaded next.

        `others` are the transforms of the network that are rebuilt already; a transform with
        tensors may share theirs. This default has no tensors.
        """
        del weight, others
        return cls(**settings)

    @abstractmethod
    def hold(self, weight: Tensor, learning: bool) -> None:
        """Update the transform from the weight.

        It is called when the transform is added, and whenever the layer switches to training or
        inference.
        """

    @abstractmethod
    def transformed(self, weight: Tensor) -> Tensor:
        """Return the weight to compute with, with the gradient for training.

        It is not called `forward`, because hooks on layers must not see it.
        """

    @abstractmethod
    def stored(self, before: Stored) -> Stored:
        """Return how a file holds the weight, given how it holds what earlier transforms return."""


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
