"""What every kind of task is: a loss, metrics, and when two answers agree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .method import Method

if TYPE_CHECKING:
    from torch import Tensor

# outputs and targets of a whole split -> a number; of the first of several, more is better
Metric = Callable[["Tensor", "Tensor"], float]


@dataclass(frozen=True)
class Kind(Method, ABC):
    """Say what the outputs (n ...) of a network mean beside the targets (n ...) of its samples."""

    # whether a target is a picture, which moves along when its image is shifted or mirrored
    moves: ClassVar[bool] = False

    @abstractmethod
    def suits(self, targets: Tensor) -> bool:
        """Return whether targets look like those of this kind."""

    @abstractmethod
    def misfit(self, outputs: Tensor, targets: Tensor, classes: int) -> str | None:
        """Return what is expected of outputs or targets where they do not fit, None where they do."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss of a batch, the mean over its samples."""

    @abstractmethod
    def metrics(self, classes: int) -> Mapping[str, Metric]:
        """Return the metrics by name; the first one judges."""

    @abstractmethod
    def agreement(self, outputs: Tensor, reference: Tensor) -> float | None:
        """Return the share of answers, from 0 to 1, that two sets of outputs have in common."""
