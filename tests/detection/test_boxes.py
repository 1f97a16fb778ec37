"""Overlaps equal torchvision's; decoded and matched boxes equal those of a plain loop."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from lissom.detection.boxes import (
    Detections,
    as_targets,
    class_scores,
    confident_detections,
    count_shared_boxes,
    giou,
    iou,
    select_detections,
)


def boxes(seed: int, count: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    corners = 50 * torch.rand(count, 2, generator=rng) - 25  # some outside of the image
    return torch.cat([corners, corners + 1 + 30 * torch.rand(count, 2, generator=rng)], 1)


def test_overlaps_are_those_of_torchvision() -> None:
    one = boxes(0, 20)
    other = boxes(1, 30)
    torch.testing.assert_close(iou(one, other), box_iou(one, other))
    torch.testing.assert_close(giou(one, other), generalized_box_iou(one, other))
    together = iou(torch.stack([one, one]), torch.stack([other, other.flip(0)]))
    torch.testing.assert_close(together[1], box_iou(one, other.flip(0)))


def test_boxes_without_area_overlap_with_nothing() -> None:
    flat = torch.tensor([[5.0, 5, 5, 9], [9, 9, 5, 5]])
    assert torch.equal(iou(flat, torch.tensor([[0.0, 0, 20, 20], [5, 5, 5, 9]])), torch.zeros(2, 2))
    assert giou(flat, flat).isfinite().all()


def plainly_decoded(
    boxes: Tensor, scores: Tensor, threshold: float, most_iou: float, most: int
) -> list[tuple[list[float], float, int]]:
    """Find in loops what `select_detections` finds."""
    pairs = [
        (float(scores[place, label]), place, label)
        for place in range(len(boxes))
        for label in range(scores.shape[1])
        if scores[place, label] >= threshold
    ]
    found: list[tuple[list[float], float, int]] = []
    for score, place, label in sorted(pairs, key=lambda pair: -pair[0]):
        rivals = torch.tensor([box for box, _, other in found if other == label]).reshape(-1, 4)
        box = boxes[place] if boxes.ndim == 2 else boxes[place, label]
        if not (box_iou(box[None], rivals) > most_iou).any():
            found.append((box.tolist(), score, label))
    return found[:most]


@given(
    st.integers(0, 1000),
    st.integers(0, 40),
    st.integers(1, 3),
    st.sampled_from([2, 100]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_is_decoded_is_what_a_plain_loop_finds(
    seed: int, count: int, classes: int, most: int, of_each_class: bool
) -> None:
    scores = torch.rand(count, classes, generator=torch.Generator().manual_seed(seed))
    places = boxes(seed, count)
    if of_each_class:
        places = torch.stack([places.roll(k, 0) for k in range(classes)], 1)
    found = select_detections(places, scores, 0.4, 0.5, most)
    wanted = plainly_decoded(places, scores, 0.4, 0.5, most)
    assert [
        (box.tolist(), float(score), int(label)) for box, score, label in zip(*found, strict=True)
    ] == wanted
    assert found[0].shape[1:] == (4,) and found[2].dtype == torch.int64


def test_what_is_not_finite_is_not_found() -> None:
    places = boxes(0, 4)
    scores = torch.tensor([[0.9], [0.8], [float("nan")], [0.7]])
    places[0, 2] = float("nan")
    places[1, 3] = float("inf")
    found = select_detections(places, scores, 0.05, 0.5, 100)
    assert torch.equal(found[0], places[3:])


def test_boxes_of_other_classes_outside_of_the_picture_suppress_none() -> None:
    # shifted apart by the largest coordinate and 1, as batched_nms does it, they would be the same
    places = torch.tensor([[40.0, 40, 60, 60], [-21, -21, -1, -1]])
    assert (
        len(select_detections(places, torch.tensor([[0.9, 0.0], [0.0, 0.8]]), 0.05, 0.5, 100)[0])
        == 2
    )


def test_scores_are_those_of_a_sigmoid_or_of_a_softmax_without_the_background() -> None:
    logits = torch.tensor([[0.0, 0.0, 2.0]])
    assert torch.equal(class_scores(logits, "sigmoid"), logits.sigmoid())
    assert torch.equal(class_scores(logits, "softmax"), logits.softmax(1)[:, 1:])


def found(rows: list[tuple[float, float, float, float, int]]) -> Detections:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return table[:, :4], torch.linspace(0.9, 0.1, len(table)), table[:, 4].long()


def test_shared_boxes_are_matched_one_to_one_the_best_first() -> None:
    one = found([(0, 0, 10, 10, 0), (0, 0, 10, 8, 0), (50, 50, 60, 60, 1)])
    assert count_shared_boxes(one, one) == 3
    # both overlap with the one box; only one of them has it
    assert count_shared_boxes(one, found([(0, 0, 10, 9, 0)])) == 1
    assert count_shared_boxes(one, found([(50, 50, 60, 60, 0)])) == 0, "another class"
    assert count_shared_boxes(one, found([(50, 50, 60, 54, 1)])) == 0, "IoU 0.4"
    # 1-1 is the best pair, IoU 0.95; then 2-2 with 0.2 is none, though 1-2 and 2-1 would be two
    one = found([(0, 0, 10, 10, 0), (0, 4, 10, 10, 0)])
    assert count_shared_boxes(one, found([(0, 0, 10, 9.5, 0), (0, 0, 10, 6, 0)])) == 1
    assert count_shared_boxes(found([]), one) == count_shared_boxes(one, found([])) == 0


@given(st.integers(0, 1000), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_the_order_of_two_sets_does_not_matter(seed: int, count: int, others: int) -> None:
    one = (boxes(seed, count), torch.rand(count), torch.arange(count) % 2)
    other = (boxes(seed + 1, others), torch.rand(others), torch.arange(others) % 2)
    assert (
        count_shared_boxes(one, other, 0.1)
        == count_shared_boxes(other, one, 0.1)
        <= min(count, others)
    )


def test_detections_in_the_form_of_targets() -> None:
    one = found([(0, 0, 10, 10, 2), (1, 2, 3, 4, 0)])
    targets = as_targets([found([]), one])
    assert targets.shape == (2, 2, 5) and (targets[0, :, 4] == -1).all()
    assert targets[1].tolist() == [[0, 0, 10, 10, 2], [1, 2, 3, 4, 0]]
    assert as_targets([found([])]).tolist() == [[[0, 0, 0, 0, -1]]]
    more = as_targets([one], 7)
    assert more.shape == (1, 7, 5) and torch.equal(more[0, :2], targets[1])
    assert len(confident_detections(one, 0.5)[0]) == 1
