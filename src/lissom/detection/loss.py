"""The loss of a dense detector: scores predict how well boxes fit, boxes predict the true boxes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import Assignment, assignment, boxes_of_classes
from .boxes import class_scores, giou

# background places in the loss for each place with a true box, if scores are a softmax (SSD)
BACKGROUND_PER_BOX = 3
MAX_COORDINATE = 1e5  # pixels; coordinates beyond it, as of a diverging network, have no gradient


def detection_loss(
    boxes: Tensor,
    logits: Tensor,
    targets: Tensor,
    scores: Literal["sigmoid", "softmax"],
    box_weight: float = 1.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of predicted boxes and logits (n p classes) for targets (n k 5).

    Predicted boxes are (n p 4), or (n p classes 4) if each class has its own.

    loss = sum over places of (score loss + box_weight * w * (1 - giou)) / sum of w, mean over images

    w, q: weight and quality of a place from `assignment`, 0 without a true box
    score loss = |q - s| * binary cross-entropy(s, q), summed over the classes, s = sigmoid(logits)
               = cross-entropy(softmax(logits), 1 - q for the background and q for the class), if
                 scores are a softmax; of the places without a true box, only those with the largest
                 loss count, 3 for each place with one

    An image without boxes counts as if it had one place with a box, of weight 1. `smoothing`
    spreads that share of q over all classes.

    Source: Feng et al. 2021, TOOD, https://arxiv.org/abs/2108.07755; Li et al. 2020, Generalized
    Focal Loss, https://arxiv.org/abs/2006.04388; Liu et al. 2016, SSD, https://arxiv.org/abs/1512.02325
    Differs: |q - s| instead of its square and a box_weight of 1 instead of 2, so that scores are
    learned in few epochs, also with SGD; a mean over images instead of one over all boxes.
    """
    boxes = boxes.float().clamp(-MAX_COORDINATE, MAX_COORDINATE)
    logits = logits.float()
    targets = targets.float()
    predicted_scores = class_scores(logits.detach(), scores)
    matches = assignment(boxes.detach(), predicted_scores, targets)
    target_scores = target_scores_of(matches, targets, predicted_scores.shape[-1], smoothing)
    if scores == "sigmoid":
        score_loss = quality_focal_loss(logits, target_scores)
    else:
        score_loss = mined_cross_entropy(logits, target_scores, matches.box >= 0)
    total = score_loss + box_weight * box_loss(boxes, targets, matches)
    return (total / matches.weight.sum(1).clamp_min(1)).mean()


def target_scores_of(
    matches: Assignment, targets: Tensor, classes: int, smoothing: float
) -> Tensor:
    """Return the target scores (n p classes) of places: the quality, at the class of their box."""
    rows = matches.box.clamp_min(0)
    labels = targets[..., 4].long().gather(1, rows) if targets.shape[1] else rows
    # a place without a box has a quality of 0, whatever its class
    one_hot = F.one_hot(labels.clamp_min(0), classes).to(matches.quality.dtype)
    return matches.quality[..., None] * (one_hot * (1 - smoothing) + smoothing / classes)


def quality_focal_loss(logits: Tensor, target_scores: Tensor) -> Tensor:
    """Return the sum (n) of |q - s| * binary cross-entropy(s, q) over places and classes (n p classes)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target_scores, reduction="none")
    return ((target_scores - logits.sigmoid()).abs() * entropy).sum((1, 2))


def mined_cross_entropy(logits: Tensor, target_scores: Tensor, has_box: Tensor) -> Tensor:
    """Return the sum (n) of cross-entropies over places with a true box and the hardest background.

    `has_box` (n p) marks the places with a true box. BACKGROUND_PER_BOX times as many others, with
    the largest cross-entropies, count too.
    """
    background = 1 - target_scores.sum(-1, keepdim=True)
    entropy = -(torch.cat([background, target_scores], -1) * logits.log_softmax(-1)).sum(-1)
    hardness_rank = entropy.detach().masked_fill(has_box, -1).argsort(1, descending=True).argsort(1)
    count = BACKGROUND_PER_BOX * has_box.sum(1, keepdim=True).clamp_min(1)
    return (entropy * (has_box | (hardness_rank < count))).sum(1)


def box_loss(boxes: Tensor, targets: Tensor, matches: Assignment) -> Tensor:
    """Return the sum (n) of weight * (1 - giou) over the places with a true box."""
    image, place = (matches.box >= 0).nonzero(as_tuple=True)
    true = targets[image, matches.box[image, place]]
    predicted = boxes_of_classes(boxes[image, place][:, None], true[:, None, 4].long())[:, 0]
    overlaps = giou(predicted, true[:, None, :4])[:, 0, 0]
    errors = matches.weight[image, place] * (1 - overlaps)
    return errors.new_zeros(len(boxes)).index_add(0, image, errors)
