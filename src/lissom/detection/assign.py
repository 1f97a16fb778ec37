"""Which predictions of a dense detector learn which true boxes, by what they predict already."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .boxes import giou, iou

MOST_PLACES = 13  # that may learn a true box, as TOOD has it


class Assignment(NamedTuple):
    """What each of p places of n pictures learns.

    box: row (n p) of the targets that the place learns, -1 for none
    weight: its alignment with that box (n p), beside that of the best place of the box: 0 to 1
    quality: the score it should have (n p): weight * the largest IoU of a place of that box
    """

    box: Tensor
    weight: Tensor
    quality: Tensor


@torch.no_grad()
def assignment(boxes: Tensor, scores: Tensor, targets: Tensor) -> Assignment:
    """Assign predicted boxes (n p 4), or (n p classes 4) where each class has its own, with scores
    (n p classes) to the true boxes of targets (n k 5).

    alignment = score of the true class * IoU^6

    The MOST_PLACES places with the largest alignment learn a true box, of those whose predicted box
    has its centre inside the true box. The centre stands for the place, which only the network
    knows: one that predicts distances from a place begins near it. Of several true boxes a place
    learns that with the largest IoU.

    An untrained network predicts boxes far too small or too large for some true boxes; none may go
    without a place for that. A true box that has none left takes, of the places that learn nothing,
    the one whose box is nearest by generalised IoU. Weights are relative to the best place of each
    true box, so that all true boxes pull alike from the first update on.

    Source: Feng et al. 2021, TOOD: Task-aligned One-stage Object Detection, https://arxiv.org/abs/2108.07755
    Differs: the centre of the predicted box in place of an anchor point; the nearest free place.
    """
    columns = (targets[..., 4] >= 0).any(0).nonzero()[:, 0]
    targets = targets[:, columns]
    if not len(columns):
        nothing = scores.new_zeros(scores.shape[:2])
        return Assignment(torch.full_like(nothing, -1).long(), nothing, nothing)
    real = targets[..., 4] >= 0
    true = targets[..., :4]
    labels = targets[..., 4].clamp_min(0).long()
    boxes = of_classes(boxes, labels)
    overlaps = iou(true[:, :, None], boxes)[:, :, 0]  # (n k p), as all that follows
    classes = labels[..., None].expand_as(overlaps)
    alignment = scores.transpose(1, 2).gather(1, classes) * overlaps**6
    fits = real[..., None] & centre_inside(boxes, true) & (alignment > 0)
    learns = one_box_each(largest(alignment, fits, MOST_PLACES), overlaps)
    learns = with_nearest(learns, real, true, boxes)

    alignment = alignment.where(learns, 0)
    best = alignment.amax(-1, keepdim=True)
    # a true box whose only place does not overlap with it is learned there all the same
    weight = torch.where(best > 0, alignment / best, learns.to(best.dtype))
    quality = weight * overlaps.where(learns, 0).amax(-1, keepdim=True)
    # a place learns one true box at most, so that a sum over them is that one
    return Assignment(
        box=torch.where(learns.any(1), columns[learns.int().argmax(1)], -1),
        weight=weight.sum(1),
        quality=quality.sum(1),
    )


def of_classes(boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the boxes (n k p 4) that places predict for each of k classes (n k), of boxes (n p 4) or
    of those of all classes (n p classes 4).
    """
    if boxes.ndim == 3:
        return boxes[:, None].expand(-1, labels.shape[1], -1, -1)
    rows = labels[..., None, None].expand(-1, -1, boxes.shape[1], 4)
    return boxes.transpose(1, 2).gather(1, rows)


def centre_inside(boxes: Tensor, true: Tensor) -> Tensor:
    """Return whether the centre of each box (n k p 4) lies inside the true box (n k 4): (n k p)."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    true = true[:, :, None]
    return ((centres > true[..., :2]) & (centres < true[..., 2:])).all(-1)


def largest(values: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Return where the `count` largest values (n k p) of each row are, of those that are allowed."""
    count = min(count, values.shape[-1])
    places = values.masked_fill(~allowed, -torch.inf).topk(count).indices
    return torch.zeros_like(allowed).scatter_(-1, places, True) & allowed


def one_box_each(learns: Tensor, overlaps: Tensor) -> Tensor:
    """Return of `learns` (n k p) for each place only the true box with the largest overlap."""
    best = overlaps.masked_fill(~learns, -torch.inf).argmax(1, keepdim=True)
    return torch.zeros_like(learns).scatter_(1, best, True) & learns


def with_nearest(learns: Tensor, real: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
    """Return `learns` (n k p) in which every real true box (n k) without a place has the nearest of
    the boxes (n k p 4) that is free, as long as there are any.
    """
    nearness = None
    while True:
        without = real & ~learns.any(-1)
        free = ~learns.any(1)
        possible = without[:, :, None] & free[:, None]
        if not possible.any():
            return learns
        if nearness is None:
            nearness = giou(true[:, :, None], boxes)[:, :, 0]
        # where two want the same place, the nearer takes it, and the other chooses again
        learns = learns | one_box_each(largest(nearness, possible, 1), nearness)
