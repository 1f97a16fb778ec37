"""Boxes around the objects of each sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..drawing import class_colours, class_name, draw_boxes
from ..language.kind import Kind
from ..language.method import arg
from ..language.tally import Share, Tally

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..detection.boxes import Detections
    from ..trees import Tree

# Least score of a detection that counts as an answer, as drawn in images. Two networks are
# compared by these, not by the hundreds of doubtful ones that mAP ranks, whose scores are noisy.
SURE_SCORE = 0.3
MAX_COMPARED_PLACES = 100  # places of a sample whose logits distillation compares


@dataclass(frozen=True)
class Detect(Kind):
    """Find objects: outputs boxes (n p 4) and logits (n p classes), targets (n k 5).

    Outputs are a tuple, list or dict of the two in this order: at each of p places a box
    [x1, y1, x2, y2] in pixels of the input, or one for each class (n p classes 4), and the logits
    of its classes. Targets are rows [x1, y1, x2, y2, class] in the same pixels, with class -1 for
    rows without a box. For a network with other outputs, derive a kind whose `places` returns them
    in this form, or whose `decode` returns the detections.

    loss      = sum over places of (focal loss of the scores + box * w * (1 - giou)) / sum of w
    mAP       = mean over the classes and the IoUs 0.5, 0.55 ... 0.95 of the average precision
    mAP50     = mean over the classes of the average precision at IoU 0.5
    agreement = 2 * matched / all boxes of two sets of outputs with a score of at least 0.3

    w: how well a place's score and box fit the true box assigned to it (task-aligned assignment)
    matched: pairs of boxes of one class with an IoU of at least 0.5
    Also known as: object detection, mean average precision (COCO), non-maximum suppression.
    Source: Feng et al. 2021, TOOD, https://arxiv.org/abs/2108.07755; Lin et al. 2014, Microsoft
    COCO, https://arxiv.org/abs/1405.0312
    """

    scores: Literal["sigmoid", "softmax"] = arg(
        "function from logits to scores; with softmax the first logit is the background's",
        "sigmoid",
    )
    threshold: float = arg("least score of a detection", 0.05, low=0, below=1)
    iou: float = arg(
        "largest IoU of two detections of a class (non-maximum suppression)", 0.6, above=0, high=1
    )
    most: int = arg("most detections of a sample", 100, low=1)
    box: float = arg("weight of the box loss relative to the score loss", 1.0, low=0)

    def suits(self, targets: Tensor) -> bool:
        if not (targets.is_floating_point() and targets.ndim == 3 and targets.shape[2] == 5):
            return False
        labels = targets[..., 4]
        real = targets[labels >= 0]
        return (
            bool(((labels >= -1) & (labels == labels.floor())).all())
            and bool(real.isfinite().all())
            and bool((real[:, 2:4] > real[:, :2]).all())
        )

    def misfit(self, outputs: Tree, targets: Tensor, classes: int) -> str | None:
        if not self.suits(targets):
            return (
                "targets (n k 5) of floating-point numbers x1, y1, x2, y2 and class, with x1 < x2 "
                "and y1 < y2, and class -1 where there is no box"
            )
        highest = int(targets[..., 4].max()) if targets.numel() else -1
        if highest >= classes:
            return f"targets of classes from 0 to {classes - 1}, got {highest}"
        if detections_in(outputs) is not None:
            return None
        width = classes + (self.scores == "softmax")
        expected = f"outputs boxes (n p 4) and logits (n p {width})"
        try:
            boxes, logits = self.places(outputs)
        except ValueError:  # fewer tensors than two
            return expected
        fits = tuple(logits.shape) == (*boxes.shape[:2], width)
        if fits and tuple(boxes.shape[2:]) in ((4,), (classes, 4)):
            return None
        softmax = tuple(logits.shape) == (*boxes.shape[:2], classes + 1)
        hint = '; detect(scores="softmax") has the background first' if softmax else ""
        return f"{expected}{hint}"

    def places(self, outputs: Tree) -> tuple[Tensor, Tensor]:
        """Return the boxes (n p 4) or (n p classes 4) and the logits (n p classes) of outputs."""
        from ..trees import tensors_in

        boxes, logits, *_ = tensors_in(outputs)
        return boxes, logits

    def decode(self, outputs: Tree) -> list[Detections]:
        """Return the detections in each sample: boxes (k 4), scores (k) and classes (k).

        Outputs are those of a network, or of a file that selects detections by itself.
        """
        from ..detection.boxes import class_scores, select_detections

        if (picked := detections_in(outputs)) is not None:
            return picked
        boxes, logits = self.places(outputs)
        scores = class_scores(logits.detach().float(), self.scores)
        return [
            select_detections(place, score, self.threshold, self.iou, self.most)
            for place, score in zip(boxes, scores, strict=True)
        ]

    def loss(self, outputs: Tree, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        from ..detection.loss import detection_loss

        boxes, logits = self.places(outputs)
        return detection_loss(boxes, logits, targets, self.scores, self.box, smoothing)

    def classes(self, outputs: Tree) -> int:
        return self.places(outputs)[1].shape[2] - (self.scores == "softmax")

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        """Return the logits of both at the places of each sample with the teacher's highest scores.

        Nearly all other places are background.
        """
        from ..detection.boxes import class_scores
        from ..trees import either_or

        _, ours = self.places(outputs)
        _, theirs = self.places(teacher)
        count = min(MAX_COMPARED_PLACES, theirs.shape[1])
        surest = class_scores(theirs, self.scores).amax(2).topk(count, 1).indices[..., None]
        rows = tuple(
            logits.gather(1, surest.expand(-1, -1, logits.shape[2])).flatten(0, 1)
            for logits in (ours, theirs)
        )
        if self.scores == "sigmoid":
            return either_or(rows[0]), either_or(rows[1])
        return rows[0], rows[1]

    def tally(self, _: int) -> Tally:
        from ..detection.average_precision import AveragePrecision

        return AveragePrecision(self.decode)

    def agreement(self) -> Tally:
        return Share("agreement", self.count_matched)

    def count_matched(self, outputs: Tree, reference: Tree) -> tuple[int, int]:
        """Return the number of boxes of both that match a box of the other, and of all boxes."""
        from ..detection.boxes import count_shared_boxes

        matched = 0
        count = 0
        for one, other in zip(
            self.confident_detections(outputs), self.confident_detections(reference), strict=True
        ):
            matched += 2 * count_shared_boxes(one, other)
            count += len(one[0]) + len(other[0])
        return matched, count

    def answers(self, outputs: Tree) -> Tensor:
        from ..detection.boxes import as_targets

        return as_targets(self.confident_detections(outputs), self.most)

    def confident_detections(self, outputs: Tree) -> list[Detections]:
        """Return the detections in each sample with a score of at least SURE_SCORE."""
        from ..detection.boxes import confident_detections

        return [confident_detections(found, SURE_SCORE) for found in self.decode(outputs)]

    def shifted(
        self, targets: Tensor, down: Tensor, right: Tensor, size: tuple[int, int]
    ) -> Tensor:
        import torch

        from ..data.boxes import MIN_AREA_LEFT
        from ..detection.boxes import area

        by = torch.stack([right, down, right, down], 1)[:, None].to(targets)
        corners = targets[..., :4] + by
        height, width = size
        edges = torch.tensor([width, height, width, height], device=targets.device)
        inside = torch.minimum(corners.clamp_min(0), edges.to(targets))
        left = area(inside) >= MIN_AREA_LEFT * area(corners)
        labels = targets[..., 4:].where(left[..., None], -1.0)
        return self.with_corners(torch.cat([targets[..., :4], labels], -1), inside)

    def mirrored(self, targets: Tensor, mirrored: Tensor, width: int) -> Tensor:
        import torch

        x1, y1, x2, y2 = targets[..., :4].unbind(-1)
        flipped = torch.stack([width - x2, y1, width - x1, y2], -1)
        which = mirrored.to(targets.device).view(-1, 1, 1)
        return self.with_corners(targets, torch.where(which, flipped, targets[..., :4]))

    def put_together(self, parts: Sequence[Tensor], _: Sequence[Tensor]) -> Tensor:
        import torch

        rows = torch.cat([*parts], 1)
        empty = rows[..., 4] < 0
        order = empty.to(torch.uint8).argsort(dim=1, stable=True)  # boxes first
        max_count = max(1, int((~empty).sum(1).max()))
        return rows.gather(1, order[:, :max_count, None].expand(-1, -1, rows.shape[2]))

    def with_corners(self, targets: Tensor, corners: Tensor) -> Tensor:
        """Return targets (n k 5) with new corners (n k 4) in the rows that hold a box."""
        import torch

        real = targets[..., 4:] >= 0
        return torch.cat([corners.where(real, targets[..., :4]), targets[..., 4:]], -1)

    def drawn(self, picture: Image, answer: Tensor, classes: Sequence[str], zoom: int) -> Image:
        return draw_boxes(picture, answer, classes, zoom)

    def colours(self, answer: Tensor, classes: Sequence[str]) -> dict[str, str]:
        return class_colours(self.labels(answer), classes)

    def words(self, answer: Tensor, classes: Sequence[str]) -> str:
        counts = Counter(self.labels(answer).long().tolist())
        return ", ".join(f"{count} {class_name(classes, k)}" for k, count in sorted(counts.items()))

    def sureness(self, _: Tree) -> Tensor | None:
        return None

    def labels(self, answer: Tensor) -> Tensor:
        """Return the classes of the boxes of one sample (k 5)."""
        return answer[answer[:, 4] >= 0, 4]


def detections_in(outputs: Tree) -> list[Detections] | None:
    """Return the detections in outputs boxes (n k 4), scores (n k) and classes (n k).

    Rows of class -1 hold none. Returns None for outputs of another form.
    """
    from ..trees import tensors_in

    tensors = list(tensors_in(outputs))
    if len(tensors) != 3:
        return None
    boxes, scores, classes = tensors
    shape = tuple(boxes.shape)
    if classes.is_floating_point() or (*scores.shape, 4) != shape or classes.shape != scores.shape:
        return None
    is_detection = classes >= 0
    return [
        (box[is_box], score[is_box], label[is_box])
        for box, score, label, is_box in zip(boxes, scores, classes, is_detection, strict=True)
    ]
