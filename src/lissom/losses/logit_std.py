"""Match outputs after standardizing the logits of every image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ..errors import LissomError
from ..language.loss import LogitLoss
from ..language.method import arg
from ..language.parse_methods import method_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogitStd(LogitLoss):
    """Standardize the logits of both networks, then compare them with another loss.

    z(x) = (x - mean(x)) / std(x), over the classes of each sample
    loss = inner loss of z(student), z(teacher)

    student, teacher: (n classes)
    A small student cannot reach the magnitude of a large teacher's logits, and does not need to.
    Raises LissomError if the inner loss compares features.
    Also known as: logit standardization, z-score of logits.
    Source: Sun, Ren, Li, Wang and Cao 2024, Logit Standardization in Knowledge Distillation,
    https://arxiv.org/abs/2403.01427.
    """

    loss: str = arg("loss on the standardized logits; it must compare logits", "kd", menu="losses")

    @property
    def inner(self) -> LogitLoss:
        """The loss on the standardized logits. Raises LissomError if it does not compare logits."""
        loss = method_of("losses", self.loss)
        if not isinstance(loss, LogitLoss):
            raise LissomError(
                "logit_std(loss=...): expected a loss that compares logits, such as kd, got "
                f"{self.loss!r}, which compares features"
            )
        return loss

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Whether the inner loss uses the true classes."""
        return self.inner.needs_labels

    def at_temperature(self, temperature: float) -> Self | None:
        """Return this loss with another temperature of the inner loss, None if that has none."""
        inner = self.inner.at_temperature(temperature)
        return None if inner is None else replace(self, loss=str(inner))

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return self.inner(standardized(student), standardized(teacher), labels)


def standardized(logits: Tensor) -> Tensor:
    """Return logits (n classes) with mean 0 and deviation 1 in each row, 0 for constant rows."""
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-14).sqrt()
