"""Match how answers are ordered and spread rather than the answers themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import LogitLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dist(LogitLoss):
    """Return how far student and teacher are from being correlated, within each image and within each class.

    p = softmax(teacher / T), q = softmax(student / T), both (n classes), r Pearson's correlation:
    T^2 * (beta * mean over images of (1 - r(q_i, p_i)) + gamma * mean over classes of (1 - r(q_c, p_c)))
    The student may be less sure than the teacher throughout: probabilities that differ by scale and shift agree.
    Source: Huang, You, Wang, Qian and Xu 2022, Knowledge Distillation from A Stronger Teacher,
    https://arxiv.org/abs/2205.10536.
    """

    beta: float = arg("weight of the relation between the classes of an image", 1.0, low=0, high=1000)
    gamma: float = arg("weight of the relation between the images for a class", 1.0, low=0, high=1000)
    temperature: float = arg("T, by which logits are divided before the softmax", 1.0, above=0, high=100)

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        t = self.temperature
        found, wanted = (student / t).softmax(1), (teacher / t).softmax(1)
        inter = 1 - pearson(found, wanted).mean()
        intra = 1 - pearson(found.t(), wanted.t()).mean()
        return t * t * (self.beta * inter + self.gamma * intra)


def pearson(one: Tensor, two: Tensor) -> Tensor:
    """Return the correlation of each row of `one` (n k) with that of `two` (n k), 0 for a row that is constant."""
    import torch.nn.functional as F

    return F.cosine_similarity(one - one.mean(1, keepdim=True), two - two.mean(1, keepdim=True), dim=1, eps=1e-8)
