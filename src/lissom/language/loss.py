"""The contracts of distillation losses: on logits and on features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from .method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Loss(Method):
    """Measure the distance between a student and its teacher as one number."""

    reads: ClassVar[Literal["logits", "features"]]

    def at_temperature(self, temperature: float) -> Self | None:
        """Return this loss with another temperature; None if it has none."""
        settings = self.settings()
        return (
            type(self)(**{**settings, "temperature": temperature})
            if "temperature" in settings
            else None
        )


@dataclass(frozen=True)
class LogitLoss(Loss, ABC):
    """Compare logits; `needs_labels` says that the true classes are used.

    Only rows that have a class, from 0 to classes - 1, are then passed.
    """

    reads = "logits"
    needs_labels: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of student (n classes), teacher (n classes) and labels (n)."""


@dataclass(frozen=True)
class FeatureLoss(Loss, ABC):
    """Compare features of the student with features of the teacher.

    `any_width` says that their numbers of channels may differ, so that no adapter is needed.
    """

    reads = "features"
    any_width: ClassVar[bool] = False

    def modules(self, widths: Sequence[int]) -> nn.ModuleList:
        """Return modules to train with the student, for features with `widths` channels; if there
        are any, the call receives them.
        """
        from torch import nn

        return nn.ModuleList()

    @abstractmethod
    def __call__(self, *features: Any) -> Tensor:
        """Return the loss of two lists of features (n c h w) of equal shapes: student, teacher.

        The result of `modules` is the third argument, unless it is empty.
        """
