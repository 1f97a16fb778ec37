"""One class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..language.kind import Kind, Metric
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor

OUTSIDE = 255  # target of what an image is shifted away from; never counted


@dataclass(frozen=True)
class Segment(Kind):
    """Name the class of each pixel: outputs (n classes h w), targets (n h w) of whole numbers.

    loss      = cross-entropy(outputs, targets), mean over the pixels that are not ignored
    mIoU      = mean over the classes of  tp / (tp + fp + fn),  counted over all images
    pixels    = share of pixels that are named right
    agreement = share of pixels that two outputs name alike

    Also known as: semantic segmentation, Jaccard index, mean intersection over union.
    Source: Everingham et al. 2010, The Pascal Visual Object Classes (VOC) Challenge
    """

    moves = True

    ignore: int = arg("target of pixels that do not count", 255, low=0, high=255)

    def suits(self, targets: Tensor) -> bool:
        return targets.ndim == 3 and not targets.is_floating_point()

    def misfit(self, outputs: Tensor, targets: Tensor, classes: int) -> str | None:
        if not self.suits(targets):
            return "targets (n h w) of whole numbers"
        counted = targets[(targets != self.ignore) & (targets != OUTSIDE)]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
            return (
                f"targets from 0 to {classes - 1} or {self.ignore}, which is ignored, got "
                f"{int(counted.min())} to {int(counted.max())}"
            )
        wanted = (len(outputs), classes, *targets.shape[1:])
        return None if tuple(outputs.shape) == wanted else f"outputs (n classes h w) = {wanted}"

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        wanted = targets.long().masked_fill(targets == OUTSIDE, self.ignore)
        return F.cross_entropy(outputs, wanted, ignore_index=self.ignore, label_smoothing=smoothing)

    def metrics(self, _: int) -> Mapping[str, Metric]:
        return {
            "mIoU": partial(mean_iou, ignore=self.ignore),
            "pixels": partial(right_pixels, ignore=self.ignore),
        }

    def agreement(self, outputs: Tensor, reference: Tensor) -> float | None:
        return float((outputs.argmax(1) == reference.argmax(1)).double().mean())


def confusion(outputs: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """Return how many pixels of each class (rows) were named each class (columns)."""
    import torch

    classes = outputs.shape[1]
    counts = torch.zeros(classes * classes, dtype=torch.int64)
    for scores, wanted in zip(outputs, targets, strict=True):
        counted = (wanted != ignore) & (wanted != OUTSIDE)
        pairs = classes * wanted[counted].long() + scores.argmax(0)[counted]
        counts += torch.bincount(pairs, minlength=classes * classes)
    return counts.view(classes, classes)


def mean_iou(outputs: Tensor, targets: Tensor, *, ignore: int) -> float:
    """Return the mean intersection over union of the classes that occur or were named."""
    counts = confusion(outputs, targets, ignore).double()
    hits = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - hits
    return float((hits[either > 0] / either[either > 0]).mean())


def right_pixels(outputs: Tensor, targets: Tensor, *, ignore: int) -> float:
    """Return the share of pixels that are named right."""
    counts = confusion(outputs, targets, ignore).double()
    return float(counts.diagonal().sum() / counts.sum().clamp_min(1))
