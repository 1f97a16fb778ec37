"""Detectors that return final detections: the selection of boxes is part of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from ..detection.boxes import MAX_NMS_CANDIDATES, class_scores

if TYPE_CHECKING:
    from ..kinds.detect import Detect


class Suppression(nn.Module):
    """Non-maximum suppression: of boxes of one class that overlap by over an IoU, keep the best.

    Takes boxes (n k 4) by falling score, scores (n k) and classes (n k). Boxes of score 0 are
    dropped. Returns (n k): 1 for boxes that are kept, 0 for the rest.
    """

    def __init__(self, classes: int, threshold: float, iou: float) -> None:
        super().__init__()
        self.classes = classes
        self.threshold = threshold  # least score of a detection
        self.iou = iou

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        kept = torch.zeros_like(scores)
        for picture in range(len(boxes)):
            for label in range(self.classes):
                candidates = ((classes[picture] == label) & (scores[picture] > 0)).nonzero()[:, 0]
                best = nms(boxes[picture, candidates], scores[picture, candidates], self.iou)
                kept[picture, candidates[best]] = 1
        return kept


class DetectorWithNms(nn.Module):
    """A detector followed by the selection of detections of its `kind` of task.

    Returns `boxes` (n most 4) in pixels of the input, `scores` (n most) by falling score and
    `classes` (n most). If an image has fewer detections, the rest are zeros with class -1.
    """

    def __init__(self, network: nn.Module, kind: Detect, classes: int) -> None:
        super().__init__()
        self.network = network
        self.kind = kind
        self.suppression = Suppression(classes, kind.threshold, kind.iou)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        boxes, logits = self.kind.places(self.network(x))
        scores = class_scores(logits, self.kind.scores)
        class_count = scores.shape[2]
        # one position may have several classes
        values, order = scores.flatten(1).topk(
            min(MAX_NMS_CANDIDATES, scores.shape[1] * class_count), 1
        )
        values = torch.where(values >= self.kind.threshold, values, 0.0)
        classes = order % class_count
        boxes_per_class = boxes.ndim == 4  # each class of a position has a box of its own
        boxes = (
            boxes_at(boxes.flatten(1, 2), order)
            if boxes_per_class
            else boxes_at(boxes, order // class_count)
        )
        values = values * self.suppression(boxes, values, classes)
        values, order = values.topk(min(self.kind.most, values.shape[1]), 1)
        found = values > 0
        return {
            "boxes": torch.where(found[..., None], boxes_at(boxes, order), 0.0),
            "scores": values,
            "classes": torch.where(found, classes.gather(1, order), -1),
        }


def boxes_at(boxes: Tensor, places: Tensor) -> Tensor:
    """Return the boxes (n k 4) at places (n k) of boxes (n p 4)."""
    return boxes.gather(1, places[..., None].expand(-1, -1, 4))
