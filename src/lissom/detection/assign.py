"""Assign the predictions of a dense detector to true boxes (task-aligned assignment)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .boxes import giou, iou

MAX_PLACES_PER_BOX = 13  # most places assigned to a true box, as in TOOD


class Assignment(NamedTuple):
    """The true box assigned to each of p places of n images.

    box: row of the targets (n p) that is assigned to the place, -1 for none
    weight: the place's alignment with that box (n p), relative to the box's best place: 0 to 1
    quality: the target score (n p): weight * the largest IoU of a place of that box
    """

    box: Tensor
    weight: Tensor
    quality: Tensor


@torch.no_grad()
def assignment(boxes: Tensor, scores: Tensor, targets: Tensor) -> Assignment:
    """Assign predictions to the true boxes of targets (n k 5).

    Predicted boxes are (n p 4), or (n p classes 4) if each class has its own, with scores
    (n p classes).

    alignment = score of the true class * IoU^6

    A true box gets the MAX_PLACES_PER_BOX places with the largest alignment, among those whose
    predicted box has its centre inside the true box. This centre stands for the location of the
    place, which only the network knows: predicted distances from a place begin near it. If a place
    gets several true boxes, it keeps the one with the largest IoU.

    An untrained network predicts boxes far too small or too large for some true boxes, but every
    true box needs a place. One without a place gets the free place with the nearest box, by
    generalised IoU. Weights are relative to the best place of each true box, so all true boxes
    contribute equally from the first update on.

    Source: Feng et al. 2021, TOOD: Task-aligned One-stage Object Detection, https://arxiv.org/abs/2108.07755
    Differs: the centre of the predicted box instead of an anchor point; the nearest free place.
    """
    columns = (targets[..., 4] >= 0).any(0).nonzero()[:, 0]
    targets = targets[:, columns]
    if not len(columns):
        nothing = scores.new_zeros(scores.shape[:2])
        return Assignment(torch.full_like(nothing, -1).long(), nothing, nothing)
    real = targets[..., 4] >= 0
    true = targets[..., :4]
    labels = targets[..., 4].clamp_min(0).long()
    boxes = boxes_of_classes(boxes, labels)
    overlaps = iou(true[:, :, None], boxes)[:, :, 0]  # (n k p), as all tensors below
    classes = labels[..., None].expand_as(overlaps)
    alignment = scores.transpose(1, 2).gather(1, classes) * overlaps**6
    is_candidate = real[..., None] & centre_inside(boxes, true) & (alignment > 0)
    is_assigned = keep_best_box(largest_mask(alignment, is_candidate, MAX_PLACES_PER_BOX), overlaps)
    is_assigned = add_nearest_places(is_assigned, real, true, boxes)

    alignment = alignment.where(is_assigned, 0)
    best = alignment.amax(-1, keepdim=True)
    # if the only place of a true box does not overlap it, its weight is 1 all the same
    weight = torch.where(best > 0, alignment / best, is_assigned.to(best.dtype))
    quality = weight * overlaps.where(is_assigned, 0).amax(-1, keepdim=True)
    # a place has at most one true box, so the sum over boxes is the value for that one
    return Assignment(
        box=torch.where(is_assigned.any(1), columns[is_assigned.int().argmax(1)], -1),
        weight=weight.sum(1),
        quality=quality.sum(1),
    )


def boxes_of_classes(boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the boxes (n k p 4) for labels (n k), from boxes (n p 4) or (n p classes 4)."""
    if boxes.ndim == 3:
        return boxes[:, None].expand(-1, labels.shape[1], -1, -1)
    rows = labels[..., None, None].expand(-1, -1, boxes.shape[1], 4)
    return boxes.transpose(1, 2).gather(1, rows)


def centre_inside(boxes: Tensor, true: Tensor) -> Tensor:
    """Return a mask (n k p) of the boxes (n k p 4) whose centre is inside the true box (n k 4)."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    true = true[:, :, None]
    return ((centres > true[..., :2]) & (centres < true[..., 2:])).all(-1)


def largest_mask(values: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Return a mask (n k p) of the `count` largest allowed values (n k p) of each row."""
    count = min(count, values.shape[-1])
    places = values.masked_fill(~allowed, -torch.inf).topk(count).indices
    return torch.zeros_like(allowed).scatter_(-1, places, True) & allowed


def keep_best_box(is_assigned: Tensor, overlaps: Tensor) -> Tensor:
    """Return `is_assigned` (n k p) with only the true box of the largest overlap for each place."""
    best = overlaps.masked_fill(~is_assigned, -torch.inf).argmax(1, keepdim=True)
    return torch.zeros_like(is_assigned).scatter_(1, best, True) & is_assigned


def add_nearest_places(is_assigned: Tensor, real: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
    """Return `is_assigned` (n k p) with the nearest free place for every real true box without one.

    `real` (n k) marks rows that hold a box; `boxes` (n k p 4) are the predictions. Free places may
    run out.
    """
    nearness = None
    while True:
        lacks_place = real & ~is_assigned.any(-1)
        is_free = ~is_assigned.any(1)
        possible = lacks_place[:, :, None] & is_free[:, None]
        if not possible.any():
            return is_assigned
        if nearness is None:
            nearness = giou(true[:, :, None], boxes)[:, :, 0]
        # if two want the same place, the nearer one gets it and the other chooses again
        is_assigned = is_assigned | keep_best_box(largest_mask(nearness, possible, 1), nearness)
