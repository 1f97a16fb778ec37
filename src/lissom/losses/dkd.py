"""Match the target class and the other classes separately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import LogitLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dkd(LogitLoss):
    """Match the target class and the other classes of the teacher's outputs separately.

    p    = softmax(teacher / T),  q = softmax(student / T),  y = label
    loss = T^2 * mean over n of ( alpha * KL((p_y, 1 - p_y) || (q_y, 1 - q_y))
                                + beta  * KL(p_k / (1 - p_y) || q_k / (1 - q_y), over k != y) )

    student, teacher: (n classes), labels: (n)
    `kd` is the same with alpha = 1 and beta = 1 - p_y, so it neglects the other classes where the
    teacher is confident.
    Also known as: decoupled knowledge distillation, TCKD + NCKD.
    Source: Zhao, Cui, Song, Qiu and Liang 2022, Decoupled Knowledge Distillation,
    https://arxiv.org/abs/2203.08679.
    Differs: computed in log space, so nothing is added to a probability to keep it above 0. The
    weight does not warm up over the first epochs.
    """

    needs_labels = True

    alpha: float = arg("weight of the target class (TCKD)", 1.0, low=0, high=1000)
    beta: float = arg("weight of the other classes (NCKD)", 8.0, low=0, high=1000)
    temperature: float = arg(
        "T: logits are divided by it before the softmax", 4.0, above=0, high=100
    )

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        import torch.nn.functional as F

        t = self.temperature
        p_right, p_others = target_and_others(F.log_softmax(teacher / t, 1), labels)
        q_right, q_others = target_and_others(F.log_softmax(student / t, 1), labels)
        sure = F.kl_div(q_right, p_right, reduction="batchmean", log_target=True)
        rest = F.kl_div(q_others, p_others, reduction="batchmean", log_target=True)
        return t * t * (self.alpha * sure + self.beta * rest)


def target_and_others(logs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split log-probabilities (n classes) into those of target or not, and of the other classes.

    Returns (n 2), and (n classes-1) normalised among the other classes.
    """
    import torch

    indices = torch.arange(logs.shape[1] - 1, device=logs.device).expand(len(logs), -1)
    others = logs.gather(1, indices + (indices >= labels[:, None]).long())
    wrong = others.logsumexp(1, keepdim=True)
    return torch.cat([logs.gather(1, labels[:, None]), wrong], 1), others - wrong
