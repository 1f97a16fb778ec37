"""Match the teacher's answers but for what is matched well enough already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import LogitLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Clipped(LogitLoss):
    """Return the cross-entropy with the teacher's softened answers, each class counting from a threshold on.

    sum over classes of max(0, -softmax(teacher / T) * log(softmax(student) + 1e-6) - clip), mean over the batch
    The temperature is the teacher's alone. A student that answers like its teacher does not have loss 0.
    student, teacher: (n classes). Source: the logit loss of https://github.com/ckdghk77/Network-Compression-Gram.
    """

    clip: float = arg("what of each class does not count", 0.1, low=0, high=100)
    temperature: float = arg("T, by which the teacher's logits are divided", 2.0, above=0, high=100)

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        each = -(teacher / self.temperature).softmax(1) * (student.softmax(1) + 1e-6).log()
        return (each - self.clip).relu().sum(1).mean()
