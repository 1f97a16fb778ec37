"""Several classes for each sample, or none."""

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
class Multilabel(WithClasses, WithoutPlaces):
    """Predict whether a sample has each class: outputs (n classes), targets (n classes) of 0 and 1.

    loss      = binary cross-entropy(sigmoid(outputs), targets)
    mAP       = mean over the classes of the average precision
    f1        = 2 tp / (2 tp + fp + fn) over all classes together; outputs above 0 are positive
    agreement = share of outputs with the same sign in two sets of outputs

    average precision = sum over positives, by falling output, of their precision / their number
    Also known as: multi-label classification.
    Source: torchmetrics MultilabelAveragePrecision, https://lightning.ai/docs/torchmetrics
    """

    axis: ClassVar[int | None] = None

    def suits(self, targets: Tensor) -> bool:
        return targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all())

    def misfit(self, outputs: Tree, targets: Tensor, _: int) -> str | None:
        if not self.suits(targets):
            return "targets (n classes) of 0 and 1"
        answer = self.answer(outputs)
        expected_shape = (len(answer), targets.shape[1])
        if tuple(answer.shape) == expected_shape:
            return None
        return f"outputs (batch, classes) = {expected_shape}"

    def loss(self, outputs: Tree, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        logits = self.answer(outputs)
        smoothed = targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smoothed)

    def classes(self, outputs: Tree) -> int:
        return self.answer(outputs).shape[1]

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        from ..trees import either_or

        return either_or(self.answer(outputs)), either_or(self.answer(teacher))

    def tally(self, _: int) -> Tally:
        return Collected({"mAP": mean_average_precision, "f1": f1}, self.answer)

    def agreement(self) -> Tally:
        return Agreement(self.answers)

    def answers(self, outputs: Tree) -> Tensor:
        return (self.answer(outputs) > 0).long()

    def mixed(self, targets: Tensor, others: Tensor, share: float, _: int) -> Tensor:
        return share * targets.float() + (1 - share) * others.float()

    def words(self, answer: Tensor, classes: Sequence[str]) -> str:
        numbers = answer.flatten().nonzero().flatten().tolist()
        return ", ".join(class_name(classes, number) for number in numbers) or "no label"

    def sureness(self, _: Tree) -> Tensor | None:
        return None


def mean_average_precision(outputs: Tree, targets: Tensor) -> float:
    """Return the mean average precision over the classes that occur in the targets."""
    import torch

    from ..trees import answer_of

    scores = answer_of(outputs)
    precisions = [
        average_precision(scores[:, k], targets[:, k] > 0) for k in range(targets.shape[1])
    ]
    known = torch.tensor([value for value in precisions if value is not None])
    return float(known.mean()) if len(known) else float("nan")


def average_precision(scores: Tensor, positive: Tensor) -> float | None:
    """Return the average precision of scores (n), given which samples are `positive` (n).

    Samples with equal scores count together, because their order is arbitrary. None if no sample is
    positive.
    """
    import torch

    total = int(positive.sum())
    if total == 0:
        return None
    values, inverse = torch.unique(scores, return_inverse=True)
    hits = torch.zeros(len(values), dtype=torch.float64).index_add_(0, inverse, positive.double())
    counts = torch.zeros(len(values), dtype=torch.float64).index_add_(
        0, inverse, torch.ones_like(positive, dtype=torch.float64)
    )
    hits = hits.flip(0)  # by falling score
    precision = hits.cumsum(0) / counts.flip(0).cumsum(0)
    return float((precision * hits).sum() / total)


def f1(outputs: Tree, targets: Tensor) -> float:
    """Return the F1 score over all classes together; outputs above 0 are positive."""
    from ..trees import answer_of

    predicted = answer_of(outputs) > 0
    actual = targets > 0
    hits = float((predicted & actual).sum())
    return 2 * hits / max(float(predicted.sum() + actual.sum()), 1.0)
