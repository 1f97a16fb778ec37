"""Match the teacher's outputs, ignoring small differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import LogitLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Clipped(LogitLoss):
    """Match the teacher's softened outputs by cross-entropy and ignore small terms.

    p    = softmax(teacher / T),  q = softmax(student)
    loss = mean over n of sum over classes of max(0, -p * log(q + 1e-6) - clip)

    student, teacher: (n classes)
    The temperature applies to the teacher only. The loss is not 0 for a student that equals its
    teacher.
    Source: the logit loss of https://github.com/ckdghk77/Network-Compression-Gram.
    """

    clip: float = arg(
        "subtracted from the term of each class; below 0 counts as 0", 0.1, low=0, high=100
    )
    temperature: float = arg(
        "T: the teacher's logits are divided by it before the softmax", 2.0, above=0, high=100
    )

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        each = -(teacher / self.temperature).softmax(1) * (student.softmax(1) + 1e-6).log()
        return (each - self.clip).relu().sum(1).mean()
