"""One class for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..drawing import class_name
from ..language.kind import WithClasses, WithoutPlaces
from ..language.tally import Agreement, Collected, Tally

if TYPE_CHECKING:
    from torch import Tensor

    from ..trees import Tree


@dataclass(frozen=True)
class Classify(WithClasses, WithoutPlaces):
    """Name the class of each sample: outputs (n classes), targets (n) of whole numbers.

    loss      = cross-entropy(outputs, targets)
    top1      = share of samples whose largest output is that of their class
    top5      = share of samples whose class is among the five largest; only above five classes
    agreement = share of samples for which two outputs have the same largest class

    Also known as: image classification, single-label classification.
    Source: torch.nn.functional.cross_entropy, https://docs.pytorch.org
    """

    shares: ClassVar[tuple[str, ...]] = ("top1", "top5")

    def suits(self, targets: Tensor) -> bool:
        return targets.ndim == 1 and not targets.is_floating_point() and targets.dtype.itemsize > 1

    def misfit(self, outputs: Tree, targets: Tensor, classes: int) -> str | None:
        if not self.suits(targets):
            return "targets (n) of whole numbers"
        low = int(targets.min())
        high = int(targets.max())
        if not 0 <= low <= high < classes:
            return f"targets from 0 to {classes - 1}, got {low} to {high}"
        answer = self.answer(outputs)
        expected_shape = (len(answer), classes)
        if tuple(answer.shape) == expected_shape:
            return None
        return f"outputs (batch, classes) = {expected_shape}"

    def loss(self, outputs: Tree, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        if not targets.is_floating_point():  # mixed targets are shares of classes
            targets = targets.long()
        return F.cross_entropy(self.answer(outputs), targets, label_smoothing=smoothing)

    def classes(self, outputs: Tree) -> int:
        return self.answer(outputs).shape[1]

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        from ..trees import rows_of_both

        return rows_of_both(self.answer(outputs), self.answer(teacher))

    def tally(self, classes: int) -> Tally:
        return Collected({"top1": top1, **({"top5": top5} if classes > 5 else {})}, self.answer)

    def agreement(self) -> Tally:
        return Agreement(self.answers)

    def answers(self, outputs: Tree) -> Tensor:
        return self.answer(outputs).argmax(1)

    def mixed(self, targets: Tensor, others: Tensor, share: float, classes: int) -> Tensor:
        import torch.nn.functional as F

        return (
            share * F.one_hot(targets.long(), classes).float()
            + (1 - share) * F.one_hot(others.long(), classes).float()
        )

    def words(self, answer: Tensor, classes: Sequence[str]) -> str:
        return class_name(classes, int(answer))

    def sureness(self, outputs: Tree) -> Tensor | None:
        return self.answer(outputs).softmax(1).amax(1)


def top1(outputs: Tree, targets: Tensor) -> float:
    """Return the share of outputs (n classes) that are largest at the sample's class (n)."""
    from ..trees import answer_of

    return float((answer_of(outputs).argmax(1) == targets).double().mean())


def top5(outputs: Tree, targets: Tensor) -> float:
    """Return the share of outputs (n classes) with the class (n) among the five largest."""
    from ..trees import answer_of

    best = answer_of(outputs).topk(5, 1).indices
    return float((best == targets[:, None]).any(1).double().mean())
