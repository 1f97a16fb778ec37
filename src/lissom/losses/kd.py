"""Match the teacher's softened answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import LogitLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Kd(LogitLoss):
    """Return the divergence of the student's softened answers from the teacher's.

    T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over classes, mean over the batch.
    student, teacher: (n classes). Source: Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531.
    """

    temperature: float = arg("T, by which logits are divided before the softmax", 4.0, above=0, high=100)

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        import torch.nn.functional as F

        t = self.temperature
        wanted, found = F.log_softmax(teacher / t, 1), F.log_softmax(student / t, 1)
        return t * t * F.kl_div(found, wanted, reduction="batchmean", log_target=True)
