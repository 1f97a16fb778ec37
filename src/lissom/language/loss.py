"""The two kinds of losses: what they are called with, and what they are trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from .method import Method

if TYPE_CHECKING:
    from torch import nn


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
class LogitLoss(Loss):
    """Compare answers: called with student (n classes), teacher (n classes) and labels (n)."""

    reads = "logits"


@dataclass(frozen=True)
class FeatureLoss(Loss):
    """Compare features: called with lists of (n c h w), the student's and the teacher's, of equal shapes.

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
