"""One class for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.kind import Kind, Metric

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Classify(Kind):
    """Name the class of each sample: outputs (n classes), targets (n) of whole numbers.

    loss      = cross-entropy(outputs, targets)
    top1      = share of samples whose largest output is that of their class
    top5      = share whose class is among the five largest, where there are more than five
    agreement = share of samples whose largest outputs are of the same class

    Also known as: image classification, single-label classification.
    Source: torch.nn.functional.cross_entropy, https://docs.pytorch.org
    """

    def suits(self, targets: Tensor) -> bool:
        return targets.ndim == 1 and not targets.is_floating_point() and targets.dtype.itemsize > 1

    def misfit(self, outputs: Tensor, targets: Tensor, classes: int) -> str | None:
        if not self.suits(targets):
            return "targets (n) of whole numbers"
        low = int(targets.min())
        high = int(targets.max())
        if not 0 <= low <= high < classes:
            return f"targets from 0 to {classes - 1}, got {low} to {high}"
        return (
            None
            if tuple(outputs.shape) == (len(outputs), classes)
            else (f"outputs (batch, classes) = ({len(outputs)}, {classes})")
        )

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def metrics(self, classes: int) -> Mapping[str, Metric]:
        return {"top1": top1, **({"top5": top5} if classes > 5 else {})}

    def agreement(self, outputs: Tensor, reference: Tensor) -> float | None:
        return float((outputs.argmax(1) == reference.argmax(1)).double().mean())


def top1(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of samples (n classes) whose largest output is that of their class (n)."""
    return float((outputs.argmax(1) == targets).double().mean())


def top5(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of samples (n classes) whose class (n) is among their five largest outputs."""
    return float((outputs.topk(5, 1).indices == targets[:, None]).any(1).double().mean())
