"""Match the teacher's softened outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import LogitLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Kd(LogitLoss):
    """Match the teacher's softened outputs by KL divergence.

    p    = softmax(teacher / T),  q = softmax(student / T)
    loss = T^2 * mean over n of sum over classes of p * log(p / q)

    student, teacher: (n classes)
    Also known as: knowledge distillation with soft targets, Hinton loss.
    Source: Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network,
    https://arxiv.org/abs/1503.02531.
    """

    temperature: float = arg(
        "T: logits are divided by it before the softmax", 4.0, above=0, high=100
    )

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        import torch.nn.functional as F

        t = self.temperature
        theirs = F.log_softmax(teacher / t, 1)
        ours = F.log_softmax(student / t, 1)
        return t * t * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
