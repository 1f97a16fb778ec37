"""The loss of a detector equals its equations, has finite gradients, and trains a detector."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import box_iou

from lissom.detection.assign import assignment
from lissom.detection.average_precision import AveragePrecision
from lissom.detection.boxes import (
    Detections,
    as_targets,
    class_scores,
    count_shared_boxes,
    select_detections,
)
from lissom.detection.loss import detection_loss

Scores = Literal["sigmoid", "softmax"]
MODES: tuple[Scores, Scores] = ("sigmoid", "softmax")
each = pytest.mark.parametrize("scores", MODES)


def drawn(seed: int, pictures: int, places: int, true: int, scores: Scores) -> tuple[Tensor, ...]:
    """Return boxes, logits of 3 classes and targets of some images."""
    rng = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> Tensor:
        corners = 50 * torch.rand(pictures, count, 2, generator=rng)
        sizes = 2 + 30 * torch.rand(pictures, count, 2, generator=rng)
        return torch.cat([corners, corners + sizes], -1)

    classes = torch.randint(-1, 3, (pictures, true, 1), generator=rng).float()
    targets = torch.cat([boxes(true), classes], -1)
    logits = torch.randn(pictures, places, 3 + (scores == "softmax"), generator=rng)
    return boxes(places), logits, targets


def test_it_is_what_its_equation_says_where_scores_are_sigmoids() -> None:
    boxes, logits, targets = drawn(0, 2, 30, 4, "sigmoid")
    learned = assignment(boxes, logits.sigmoid(), targets)
    wanted = 0.0
    for k in range(2):
        total = 0.0
        for place in range(30):
            row = int(learned.box[k, place])
            for label in range(3):
                s = float(logits[k, place, label].double().sigmoid())
                q = float(learned.quality[k, place]) if int(targets[k, row, 4]) == label else 0.0
                total += abs(q - s) * -(q * math.log(s) + (1 - q) * math.log(1 - s))
            if row >= 0:
                a = boxes[k, place]
                b = targets[k, row, :4]
                hull = (torch.maximum(a, b)[2:] - torch.minimum(a, b)[:2]).prod()
                iou = box_iou(a[None], b[None])[0, 0]
                areas = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()
                union = areas / (1 + iou)
                giou = float(iou - (hull - union) / hull)
                total += 1.5 * float(learned.weight[k, place]) * (1 - giou)
        wanted += total / max(1.0, float(learned.weight[k].sum())) / 2
    assert float(detection_loss(boxes, logits, targets, "sigmoid", 1.5)) == pytest.approx(
        wanted, rel=1e-4
    )


def test_it_is_what_its_equation_says_where_scores_are_a_softmax() -> None:
    boxes, logits, targets = drawn(1, 1, 200, 2, "softmax")
    targets[..., 4] = torch.tensor([0.0, 2.0])
    learned = assignment(boxes, logits.softmax(-1)[..., 1:], targets)
    entropies = []
    background = []
    for place in range(200):
        row = int(learned.box[0, place])
        aim = torch.zeros(4)
        q = float(learned.quality[0, place])
        aim[0] = 1 - q
        if row >= 0:
            aim[1 + int(targets[0, row, 4])] += q
        entropy = float(F.cross_entropy(logits[0, place], aim))
        (entropies if row >= 0 else background).append(entropy)
    hardest = sorted(background, reverse=True)[: 3 * len(entropies)]
    wanted = (sum(entropies) + sum(hardest)) / max(1.0, float(learned.weight.sum()))
    assert 0 < len(hardest) < len(background)
    assert float(detection_loss(boxes, logits, targets, "softmax", 0.0)) == pytest.approx(
        wanted, rel=1e-4
    )


@each
@given(st.integers(0, 1000), st.integers(0, 4), st.sampled_from([0.0, 1e-6, 1.0, 1e4, 1e30]))
@settings(max_examples=60, deadline=None)
def test_gradients_are_finite_for_whatever_boxes(
    scores: Scores, seed: int, true: int, size: float
) -> None:
    boxes, logits, targets = drawn(seed, 2, 20, true, scores)
    boxes = size * (boxes - 40)
    boxes[0, ::2] = boxes[0, ::2].flip(-1)  # corners in the wrong order
    boxes[1, 0] = targets[1, 0, :4] if true else 0
    boxes[1, 1] = torch.tensor([-torch.inf, 0, torch.inf, 9])
    outputs = boxes.requires_grad_(), (logits * min(size, 1e4)).requires_grad_()
    loss = detection_loss(*outputs, targets, scores)
    loss.backward()
    assert loss.ndim == 0 and loss.isfinite() and loss >= 0
    assert all(part.grad is not None and part.grad.isfinite().all() for part in outputs)


@each
def test_it_is_the_mean_over_pictures_whatever_padding_they_have(scores: Scores) -> None:
    boxes, logits, targets = drawn(3, 5, 25, 4, scores)
    alone = [
        detection_loss(boxes[k : k + 1], logits[k : k + 1], targets[k : k + 1], scores)
        for k in range(5)
    ]
    padded = torch.cat([targets, torch.full((5, 3, 5), -1.0)], 1)
    torch.testing.assert_close(
        detection_loss(boxes, logits, padded, scores), torch.stack(alone).mean()
    )


@each
def test_pictures_without_a_box_teach_that_there_is_none(scores: Scores) -> None:
    boxes, logits, targets = drawn(4, 2, 25, 0, scores)
    boxes.requires_grad_()
    logits.requires_grad_()
    loss = detection_loss(boxes, logits, targets, scores)
    loss.backward()
    assert boxes.grad is not None and not boxes.grad.any()
    assert logits.grad is not None
    if scores == "sigmoid":
        assert (logits.grad > 0).all()
        focal = logits.sigmoid() * F.softplus(logits)
        torch.testing.assert_close(loss, focal.sum() / 2)  # as if each of two images had a box
    else:  # 3 places of each image, whose background is to grow
        assert ((logits.grad[..., 0] < 0).sum(1) == 3).all()
        assert (logits.grad[..., 1:] >= 0).all()


def test_what_is_right_costs_nothing() -> None:
    targets = torch.tensor([[[10.0, 10, 30, 30, 1], [40, 40, 60, 50, 0]]])
    logits = torch.tensor([[[-20.0, 20], [20, -20], [-20, -20]]])
    boxes = torch.cat([targets[..., :4], torch.tensor([[[0.0, 0, 5, 5]]])], 1)
    assert float(detection_loss(boxes, logits, targets, "sigmoid")) < 1e-6
    with_background = torch.cat([torch.tensor([[[-20.0], [-20], [20]]]), logits], -1)
    assert float(detection_loss(boxes, with_background, targets, "softmax")) < 1e-6


@each
def test_smoothing_spreads_the_score_of_a_place_over_the_classes(scores: Scores) -> None:
    boxes, logits, targets = drawn(5, 2, 25, 4, scores)
    plain = detection_loss(boxes, logits, targets, scores)
    assert float(detection_loss(boxes, logits, targets, scores, smoothing=0.1)) != float(plain)
    sure = (
        torch.tensor([[[0.0, 9, -9, -9]]])
        if scores == "softmax"
        else torch.tensor([[[9.0, -9, -9]]])
    )
    right = torch.tensor([[[1.0, 1, 9, 9, 0]]])
    unsmoothed = detection_loss(right[..., :4], sure, right, scores)
    assert detection_loss(right[..., :4], sure, right, scores, smoothing=0.1) > unsmoothed


@each
def test_only_the_box_of_the_class_that_a_place_learns_is_moved(scores: Scores) -> None:
    boxes, logits, targets = drawn(8, 2, 25, 4, scores)
    own = boxes[:, :, None].repeat(1, 1, 3, 1).requires_grad_()
    loss = detection_loss(own, logits, targets, scores)
    torch.testing.assert_close(loss, detection_loss(boxes, logits, targets, scores))
    loss.backward()
    learned = assignment(own.detach(), class_scores(logits, scores), targets)
    labels = targets[..., 4].long().gather(1, learned.box.clamp_min(0))
    wanted = torch.zeros(2, 25, 3).bool().scatter_(2, labels.clamp_min(0)[..., None], True)
    wanted &= (learned.box >= 0)[..., None]
    assert own.grad is not None
    assert torch.equal(own.grad.abs().sum(-1) > 0, wanted)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_is_computed_in_float32(scores: Scores, dtype: torch.dtype) -> None:
    boxes, logits, targets = (part.to(dtype) for part in drawn(6, 2, 25, 4, scores))
    loss = detection_loss(boxes, logits, targets, scores)
    wanted = detection_loss(boxes.float(), logits.float(), targets.float(), scores)
    assert loss.dtype == torch.float32 and torch.equal(loss, wanted)


@each
def test_nothing_is_made_on_another_device_than_the_outputs(scores: Scores) -> None:
    boxes, logits, targets = drawn(7, 2, 25, 4, scores)
    with torch.device("meta"):  # where every tensor goes that is told no device
        loss = detection_loss(boxes, logits, targets, scores)
        found = select_detections(boxes[0], class_scores(logits[0], scores), 0.05, 0.5, 100)
        assert as_targets([found]).device == boxes.device
        assert count_shared_boxes(found, found) == len(found[0])
    assert loss.device == boxes.device
    assert torch.equal(loss, detection_loss(boxes, logits, targets, scores))


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images (n 3 64 64) of one to three squares and discs, and their boxes (n 3 5)."""
    rng = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=rng))

    images = 0.1 * torch.randn(count, 3, 64, 64, generator=rng)
    targets = torch.full((count, 3, 5), -1.0)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for image, rows in zip(images, targets, strict=True):
        for k in range(draw(1, 4)):
            size = draw(10, 33)
            left = draw(0, 65 - size)
            top = draw(0, 65 - size)
            box = torch.tensor([left, top, left + size, top + size], dtype=torch.float32)
            if k and box_iou(rows[:k, :4], box[None]).max() > 0.1:
                continue
            disc = draw(0, 2)
            across = (x - left - size / 2).abs()
            down = (y - top - size / 2).abs()
            far = (across**2 + down**2).sqrt() if disc else torch.maximum(across, down)
            image[:, far < size / 2] = 0.5 + torch.rand(3, 1, generator=rng)
            rows[k, :4] = box
            rows[k, 4] = disc
    return images, targets


class Dense(nn.Module):
    """Predict at each of 8 x 8 places the distances to the four sides of a box, and its class."""

    def __init__(self, logits: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (3, 16, 32, 64, 64, 64)
        for k, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, 2 if k < 3 else 1, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.sides = nn.Conv2d(64, 4, 1)
        self.classes = nn.Conv2d(64, logits, 1)
        nn.init.constant_(self.classes.bias, -math.log(99))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        places = 8 * torch.arange(8) + 4.0
        centres = torch.cartesian_prod(places, places).flip(1)
        sides = 8 * F.softplus(self.sides(x)).flatten(2).transpose(1, 2)
        boxes = torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], -1)
        return boxes, self.classes(x).flatten(2).transpose(1, 2)


@each
def test_a_detector_learns_from_scratch(scores: Scores) -> None:
    torch.manual_seed(0)
    net = Dense(2 + (scores == "softmax"))
    images, targets = pictures(512, 0)
    epochs = 12
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=16 * epochs)
    for _ in range(epochs):
        for batch in torch.randperm(512).split(32):
            loss = detection_loss(*net(images[batch]), targets[batch], scores)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def decode(outputs: tuple[Tensor, Tensor]) -> list[Detections]:
        found = zip(outputs[0], class_scores(outputs[1], scores), strict=True)
        return [select_detections(boxes, values, 0.05, 0.5, 100) for boxes, values in found]

    tally = AveragePrecision(decode)
    images, targets = pictures(128, 1)
    with torch.no_grad():
        tally.add(net.eval()(images), targets)
    assert tally.values()["mAP50"] > 0.85
