"""The loss of a dense detector: scores predict how well boxes fit, boxes predict the true boxes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import Assignment, assignment, of_classes
from .boxes import class_scores, giou

# background places in the loss for each place with a true box, if scores are a softmax (SSD)
BACKGROUND = 3
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
    found = class_scores(logits.detach(), scores)
    learned = assignment(boxes.detach(), found, targets)
    wanted = wanted_scores(learned, targets, found.shape[-1], smoothing)
    if scores == "sigmoid":
        by_score = quality_focal(logits, wanted)
    else:
        by_score = mined_cross_entropy(logits, wanted, learned.box >= 0)
    total = by_score + box_weight * misplaced(boxes, targets, learned)
    return (total / learned.weight.sum(1).clamp_min(1)).mean()


def wanted_scores(learned: Assignment, targets: Tensor, classes: int, smoothing: float) -> Tensor:
    """Return the target scores (n p classes) of places: the quality, at the class of their box."""
    rows = learned.box.clamp_min(0)
    labels = targets[..., 4].long().gather(1, rows) if targets.shape[1] else rows
    # a place without a box has a quality of 0, whatever its class
    one_hot = F.one_hot(labels.clamp_min(0), classes).to(learned.quality.dtype)
    return learned.quality[..., None] * (one_hot * (1 - smoothing) + smoothing / classes)


def quality_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the sum (n) of |q - s| * binary cross-entropy(s, q) over places and classes (n p classes)."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return ((wanted - logits.sigmoid()).abs() * entropy).sum((1, 2))


def mined_cross_entropy(logits: Tensor, wanted: Tensor, learns: Tensor) -> Tensor:
    """Return the sum (n) of cross-entropies over places with a true box and the hardest background.

    `learns` (n p) marks the places with a true box. BACKGROUND times as many others, with the
    largest cross-entropies, count too.
    """
    background = 1 - wanted.sum(-1, keepdim=True)
    entropy = -(torch.cat([background, wanted], -1) * logits.log_softmax(-1)).sum(-1)
    hardest = entropy.detach().masked_fill(learns, -1).argsort(1, descending=True).argsort(1)
    count = BACKGROUND * learns.sum(1, keepdim=True).clamp_min(1)
    return (entropy * (learns | (hardest < count))).sum(1)


def misplaced(boxes: Tensor, targets: Tensor, learned: Assignment) -> Tensor:
    """Return the sum (n) of weight * (1 - giou) over the places with a true box."""
    picture, place = (learned.box >= 0).nonzero(as_tuple=True)
    true = targets[picture, learned.box[picture, place]]
    own = of_classes(boxes[picture, place][:, None], true[:, None, 4].long())[:, 0]
    overlaps = giou(own, true[:, None, :4])[:, 0, 0]
    errors = learned.weight[picture, place] * (1 - overlaps)
    return errors.new_zeros(len(boxes)).index_add(0, picture, errors)
