"""Match the correlations of the teacher's outputs instead of the outputs themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import LogitLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dist(LogitLoss):
    """Match how the teacher's outputs correlate within each sample and within each class.

    p    = softmax(teacher / T),  q = softmax(student / T)
    loss = T^2 * ( beta  * mean over samples i of (1 - r(q[i, :], p[i, :]))
                 + gamma * mean over classes c of (1 - r(q[:, c], p[:, c])) )

    student, teacher: (n classes);  r: Pearson correlation
    Scale and shift of the probabilities do not matter, so the student may be less confident than
    the teacher.
    Also known as: DIST, Pearson correlation loss, inter-class and intra-class relations.
    Source: Huang, You, Wang, Qian and Xu 2022, Knowledge Distillation from A Stronger Teacher,
    https://arxiv.org/abs/2205.10536.
    """

    beta: float = arg(
        "weight of the correlation within each sample (inter-class)", 1.0, low=0, high=1000
    )
    gamma: float = arg(
        "weight of the correlation within each class (intra-class)", 1.0, low=0, high=1000
    )
    temperature: float = arg(
        "T: logits are divided by it before the softmax", 1.0, above=0, high=100
    )

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        t = self.temperature
        ours = (student / t).softmax(1)
        theirs = (teacher / t).softmax(1)
        inter = 1 - pearson(ours, theirs).mean()
        intra = 1 - pearson(ours.t(), theirs.t()).mean()
        return t * t * (self.beta * inter + self.gamma * intra)


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation (n) of the rows of two matrices (n k), 0 for constant rows."""
    import torch.nn.functional as F

    return F.cosine_similarity(
        first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True), dim=1, eps=1e-8
    )
