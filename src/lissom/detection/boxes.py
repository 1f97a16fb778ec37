"""Boxes [x1, y1, x2, y2] in pixels: overlap, decoding of outputs, matching of two sets."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

# of one image: boxes (k 4), scores (k) and classes (k), by falling score
Detections: TypeAlias = tuple[Tensor, Tensor, Tensor]

# most pairs of place and class that NMS compares in an image, as in torchvision's RetinaNet
MAX_NMS_CANDIDATES = 1_000


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union (... n m) of boxes (... n 4) and others (... m 4).

    It is 0 for a box without area.

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1], [5, 5, 6, 6]]))
    tensor([[0.5000, 0.0000]])
    """
    shared, union, _ = areas(boxes, others)
    return shared / union.clamp_min(1e-9)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised IoU (... n m) of boxes (... n 4) and others (... m 4), from -1 to 1.

    giou = iou - (hull - union) / hull,  where the hull is the smallest box around both

    It also ranks boxes that do not overlap: the nearer, the larger.

    >>> giou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 0, 2, 1], [3, 0, 4, 1]]))
    tensor([[ 0.0000, -0.5000]])

    Source: Rezatofighi et al. 2019, Generalized Intersection over Union, https://arxiv.org/abs/1902.09630
    """
    shared, union, hull = areas(boxes, others)
    return shared / union.clamp_min(1e-9) - (hull - union) / hull.clamp_min(1e-9)


def areas(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the areas (... n m) of the intersections, the unions and the hulls of pairs of boxes."""
    one = boxes.unsqueeze(-2)
    other = others.unsqueeze(-3)
    inner = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(
        one[..., :2], other[..., :2]
    )
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(
        one[..., :2], other[..., :2]
    )
    shared = inner.clamp_min(0).prod(-1)
    both = area(boxes).unsqueeze(-1) + area(others).unsqueeze(-2)
    return shared, both - shared, outer.prod(-1)


def area(boxes: Tensor) -> Tensor:
    """Return the area (...) of boxes (... 4), 0 for a box with its corners in the wrong order."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def class_scores(logits: Tensor, scores: Literal["sigmoid", "softmax"]) -> Tensor:
    """Return the scores (... classes) of logits (... classes).

    For a softmax, logits are (... 1+classes) with the background first.
    """
    return logits.sigmoid() if scores == "sigmoid" else logits.softmax(-1)[..., 1:]


def select_detections(
    boxes: Tensor, scores: Tensor, threshold: float, max_iou: float, max_count: int
) -> Detections:
    """Return the detections in one image, from boxes and scores (p classes) of p places.

    Boxes are (p 4), or (p classes 4) if each class has its own. A place may have several classes.
    If two boxes of a class overlap by more than `max_iou`, the one with the larger score is kept
    (non-maximum suppression); then the `max_count` largest scores are kept. Boxes that are not
    finite are dropped.
    """
    from torchvision.ops import nms

    boxes = boxes.detach().float()
    scores = scores.detach().float()
    boxes = boxes if boxes.ndim == 3 else boxes[:, None].expand(-1, scores.shape[1], -1)
    is_finite = boxes.isfinite().all(2)
    places, classes = (is_finite & (scores >= threshold)).nonzero(as_tuple=True)
    values, order = scores[places, classes].sort(descending=True, stable=True)
    order = order[:MAX_NMS_CANDIDATES]
    boxes = boxes[places[order], classes[order]]
    classes = classes[order]
    values = values[:MAX_NMS_CANDIDATES]
    keep = torch.zeros_like(classes, dtype=torch.bool)
    # class by class: torchvision's batched_nms offsets the boxes of each class, which fails for
    # boxes that leave the image
    for label in classes.unique():
        of_label = (classes == label).nonzero()[:, 0]
        keep[of_label[nms(boxes[of_label], values[of_label], max_iou)]] = True
    keep = keep.nonzero()[:max_count, 0]
    return boxes[keep], values[keep], classes[keep]


def count_shared_boxes(one: Detections, other: Detections, min_iou: float = 0.5) -> int:
    """Return the number of boxes that two sets share.

    They are matched one to one within a class, with an IoU of at least `min_iou`, best pairs
    first.
    """
    overlaps = iou(one[0], other[0]) * (one[2][:, None] == other[2][None, :])
    rows, columns = (overlaps >= min_iou).nonzero(as_tuple=True)
    order = overlaps[rows, columns].argsort(descending=True, stable=True)
    matched_rows = set[int]()
    matched_columns = set[int]()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in matched_rows and column not in matched_columns:
            matched_rows.add(row)
            matched_columns.add(column)
    return len(matched_rows)


def confident_detections(detections: Detections, threshold: float) -> Detections:
    """Return the detections with a score of at least `threshold`."""
    is_confident = detections[1] >= threshold
    return detections[0][is_confident], detections[1][is_confident], detections[2][is_confident]


def as_targets(detections: list[Detections], rows: int = 1) -> Tensor:
    """Return detections of images as targets (n k 5): rows [x1, y1, x2, y2, class].

    Rows without a box have class -1. k is at least `rows`, so that targets of several batches can
    be joined.
    """
    rows = max([rows, *(len(boxes) for boxes, _, _ in detections)])
    device = detections[0][0].device if detections else None
    targets = torch.zeros(len(detections), rows, 5, device=device)
    targets[..., 4] = -1
    for row, (boxes, _, classes) in zip(targets, detections, strict=True):
        row[: len(boxes), :4] = boxes
        row[: len(boxes), 4] = classes.to(row.dtype)
    return targets
