"""The two kinds of losses: what they are called with, and what they are trained with."""

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
    """Say how far a student is from its teacher, as one number, the smaller the nearer."""

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
    """Compare answers; `needs_labels` says that the true class of each is looked at."""

    reads = "logits"
    needs_labels: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of student (n classes), teacher (n classes) and labels (n)."""


@dataclass(frozen=True)
class FeatureLoss(Loss, ABC):
    """Compare features, places of the student with places of the teacher.

    `any_width` says that numbers of channels may differ, so that no adapter is needed.
    """

    reads = "features"
    any_width: ClassVar[bool] = False

    def modules(self, widths: Sequence[int]) -> nn.ModuleList:
        """Return what is trained beside the student, for places with `widths` channels; the call is
        given it then.
        """
        from torch import nn

        return nn.ModuleList()

    @abstractmethod
    def __call__(self, *features: Any) -> Tensor:
        """Return the loss of two lists of (n c h w), the student's and the teacher's, of equal shapes.

        What `modules` returns comes third, unless it is empty.
        """
