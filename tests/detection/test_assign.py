"""Predictions learn the true boxes that a plain loop assigns to them, and every true box is
assigned.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from lissom.detection.assign import MAX_PLACES_PER_BOX, assignment


def boxes_of(rng: torch.Generator, count: int, size: float = 30) -> Tensor:
    corners = 50 * torch.rand(count, 2, generator=rng)
    return torch.cat([corners, corners + 1 + size * torch.rand(count, 2, generator=rng)], 1)


def drawn(seed: int, places: int, true: int, size: float = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Return predicted boxes (p 4), scores (p 3) and targets (true + 2, 5) with two rows of padding."""
    rng = torch.Generator().manual_seed(seed)
    targets = torch.full((true + 2, 5), -1.0)
    rows = torch.randperm(true + 2, generator=rng)[:true]
    targets[rows, :4] = boxes_of(rng, true, size)
    targets[rows, 4] = torch.randint(0, 3, (true,), generator=rng).float()
    return boxes_of(rng, places), torch.rand(places, 3, generator=rng), targets


def compared(call: Any, boxes: Tensor, targets: Tensor) -> Tensor:
    """Return what `call` makes of each true box and the boxes (p 4) of its class."""
    each = boxes if boxes.ndim == 3 else boxes[:, None].expand(-1, 3, -1)
    rows = [call(row[None, :4], each[:, int(row[4])]) for row in targets]
    return torch.cat([torch.zeros(0, len(boxes)), *rows])


def plain(boxes: Tensor, scores: Tensor, targets: Tensor) -> dict[int, int]:
    """Return in loops which place of an image learns which row of its targets."""
    rows = [k for k in range(len(targets)) if targets[k, 4] >= 0]
    claims: dict[int, list[tuple[float, int]]] = {}
    overlaps = compared(box_iou, boxes, targets)
    for row in rows:
        x1, y1, x2, y2, label = targets[row].tolist()
        candidates = []
        for place in range(len(boxes)):
            own = boxes[place] if boxes.ndim == 2 else boxes[place, int(label)]
            a1, b1, a2, b2 = own.tolist()
            overlap = float(overlaps[row, place])
            if x1 < (a1 + a2) / 2 < x2 and y1 < (b1 + b2) / 2 < y2 and overlap > 0:
                candidates.append((float(scores[place, int(label)]) * overlap**6, place))
        for _, place in sorted(candidates, reverse=True)[:MAX_PLACES_PER_BOX]:
            claims.setdefault(place, []).append((float(overlaps[row, place]), row))
    learned = {place: max(wanted)[1] for place, wanted in claims.items()}
    nearness = compared(generalized_box_iou, boxes, targets)
    while True:
        without = [row for row in rows if row not in learned.values()]
        free = [place for place in range(len(boxes)) if place not in learned]
        if not without or not free:
            return learned
        choices: dict[int, list[tuple[float, int]]] = {}
        for row in without:
            near, place = max((float(nearness[row, place]), place) for place in free)
            choices.setdefault(place, []).append((near, row))
        learned |= {place: max(wanted)[1] for place, wanted in choices.items()}


@given(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.integers(0, 6),
    st.sampled_from([1.0, 5.0, 30.0]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_it_is_that_of_a_plain_loop(
    seed: int, places: int, true: int, size: float, of_each_class: bool
) -> None:
    boxes, scores, targets = drawn(seed, places, true, size)
    if of_each_class:
        boxes = torch.stack([boxes, boxes.roll(1, 0), boxes.flip(0)], 1)
    learned = assignment(boxes[None], scores[None], targets[None])
    wanted = plain(boxes, scores, targets)
    assert {k: int(row) for k, row in enumerate(learned.box[0]) if row >= 0} == wanted
    labels = targets[:, 4].long()
    overlaps = compared(box_iou, boxes, targets)
    for row in set(wanted.values()):
        own = [place for place in wanted if wanted[place] == row]
        raw = [float(scores[place, labels[row]] * overlaps[row, place] ** 6) for place in own]
        share = [value / max(raw) if max(raw) > 0 else 1.0 for value in raw]
        assert learned.weight[0, own].tolist() == pytest.approx(share, rel=1e-4, abs=1e-6)
        best = max(float(overlaps[row, place]) for place in own)
        assert learned.quality[0, own].tolist() == pytest.approx(
            [best * value for value in share], rel=1e-4, abs=1e-6
        )
    others = [place for place in range(places) if place not in wanted]
    assert not learned.weight[0, others].any() and not learned.quality[0, others].any()


@given(st.integers(0, 10_000), st.integers(6, 40), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_no_true_box_goes_without_a_place(seed: int, places: int, true: int) -> None:
    boxes, scores, targets = drawn(
        seed, places, true, size=1
    )  # so small that hardly a centre is inside
    learned = assignment(boxes[None], scores[None], targets[None])
    assert set(learned.box[0].tolist()) >= set((targets[:, 4] >= 0).nonzero()[:, 0].tolist())
    assert float(learned.weight.max()) == 1


def test_true_boxes_that_are_the_same_have_a_place_each() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50], [20, 20, 30, 30]])
    targets = torch.tensor([[1.0, 1, 9, 9, 0]]).repeat(3, 1)
    learned = assignment(boxes[None], torch.full((1, 3, 1), 0.01), targets[None])
    assert sorted(learned.box[0].tolist()) == [0, 1, 2]
    assert learned.weight.tolist() == [[1, 1, 1]]
    assert sorted(learned.quality[0].tolist()) == pytest.approx([0, 0, 0.64])


def test_of_two_true_boxes_a_place_learns_that_with_the_larger_overlap() -> None:
    targets = torch.tensor([[0.0, 0, 10, 10, 0], [0, 0, 10, 12, 1]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12]])
    # the scores of both places speak for the other box
    learned = assignment(boxes[None], torch.tensor([[[0.1, 0.9], [0.9, 0.1]]]), targets[None])
    assert learned.box.tolist() == [[0, 1]]


def test_more_true_boxes_than_places_leave_some_without() -> None:
    targets = torch.tensor([[1.0, 1, 9, 9, 0]]).repeat(5, 1)
    learned = assignment(torch.zeros(1, 2, 4), torch.ones(1, 2, 1), targets[None])
    assert len(set(learned.box[0].tolist()) - {-1}) == 2


def test_boxes_far_too_small_are_learned_by_those_inside_with_the_largest_overlap() -> None:
    sizes = torch.tensor([1.0, 2, 3, 4]) / 100
    boxes = torch.tensor([[50.0, 50, 50, 50]]) + sizes[:, None] * torch.tensor([-1.0, -1, 1, 1])
    targets = torch.tensor([[0.0, 0, 100, 100, 0]])
    learned = assignment(boxes[None], torch.full((1, 4, 1), 0.01), targets[None])
    assert float(learned.weight.max()) == 1 and int(learned.weight.argmax()) == 3
    assert 0 < float(learned.quality.max()) < 1e-6


def test_each_picture_of_a_batch_is_assigned_as_it_is_alone() -> None:
    pictures = [drawn(seed, 30, seed % 4) for seed in range(8)]
    targets = torch.full((8, 9, 5), -1.0)
    for row, (_, _, own) in zip(targets, pictures, strict=True):
        row[: len(own)] = own
    together = assignment(
        torch.stack([boxes for boxes, _, _ in pictures]),
        torch.stack([scores for _, scores, _ in pictures]),
        targets,
    )
    for k, (boxes, scores, own) in enumerate(pictures):
        alone = assignment(boxes[None], scores[None], own[None])
        assert all(torch.equal(a[k], b[0]) for a, b in zip(together, alone, strict=True))


def test_pictures_without_boxes_learn_nothing() -> None:
    boxes, scores, _ = drawn(0, 20, 0)
    for targets in (torch.zeros(1, 0, 5), torch.full((1, 3, 5), -1.0)):
        learned = assignment(boxes[None], scores[None], targets)
        assert (learned.box == -1).all() and not learned.weight.any() and not learned.quality.any()
