"""Mean average precision equals a plain implementation of COCO's, and cases computed by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom import LissomError
from lissom.detection.average_precision import AveragePrecision
from lissom.detection.boxes import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
Picture = tuple[Detections, Tensor]


def judged(pictures: list[Picture]) -> dict[str, float]:
    tally = AveragePrecision(list)
    for found, targets in pictures:
        tally.add([found], targets[None])
    assert tuple(tally.values()) == tally.names
    return tally.values()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def plain_average_precision(pictures: list[Picture], label: int, threshold: float) -> float | None:
    """Compute one average precision in loops; None where no image shows the class."""
    events = []  # score, and whether the detection is right
    total = 0
    for found, targets in pictures:
        rows = targets.double().numpy()
        true = rows[rows[:, 4] == label, :4]
        total += len(true)
        taken: set[int] = set()
        boxes, scores, classes = (part.double().numpy() for part in found)
        of_class = [k for k in range(len(boxes)) if classes[k] == label]
        for k in sorted(of_class, key=lambda k: -scores[k])[:100]:
            # of boxes with the same IoU, the last one, as COCO has it
            best = threshold - 1e-10
            place = None
            for j in range(len(true)):
                if j not in taken and overlap(boxes[k], true[j]) >= best:
                    best = overlap(boxes[k], true[j])
                    place = j
            if place is not None:
                taken.add(place)
            events.append((scores[k], place is not None))
    if not total:
        return None
    events.sort(key=lambda event: -event[0])
    hits = np.cumsum([right for _, right in events]) if events else np.zeros(0)
    recall = hits / total
    precision = hits / np.arange(1, len(hits) + 1)
    points = []
    for wanted in RECALLS:
        later = precision[recall >= wanted]
        points.append(later.max() if len(later) else 0.0)
    return float(np.mean(points))


def plain(pictures: list[Picture], classes: int) -> dict[str, float]:
    table = np.array(
        [
            [plain_average_precision(pictures, label, t) for t in THRESHOLDS]
            for label in range(classes)
        ],
        dtype=float,
    )
    return {"mAP": float(np.nanmean(table)), "mAP50": float(np.nanmean(table[:, 0]))}


def drawn(rng: np.random.Generator, classes: int) -> Picture:
    """Draw an image: true boxes, detections near them, detections anywhere."""
    count = rng.integers(0, 5)
    corners = rng.uniform(0, 80, (count, 2))
    true = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], 1)
    labels = rng.integers(0, classes, count)
    repeats = rng.integers(0, 4, count)
    near = np.repeat(true, repeats, 0)
    near = near + rng.normal(0, 2, near.shape)
    extra = rng.integers(0, 4)
    corners = rng.uniform(0, 80, (extra, 2))
    far = np.concatenate([corners, corners + rng.uniform(5, 40, (extra, 2))], 1)
    boxes = torch.tensor(np.concatenate([near, far]), dtype=torch.float32)
    named = np.concatenate([np.repeat(labels, repeats), rng.integers(0, classes, extra)])
    targets = torch.full((6, 5), -1.0)
    targets[:count, :4] = torch.tensor(true)
    targets[:count, 4] = torch.tensor(labels)
    scores = torch.tensor(rng.uniform(size=len(boxes)), dtype=torch.float32)
    return (boxes, scores, torch.tensor(named)), targets


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_it_is_that_of_a_plain_implementation(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = [drawn(rng, classes) for _ in range(count)]
    if all((targets[:, 4] < 0).all() for _, targets in pictures):
        assert np.isnan(judged(pictures)["mAP"])
    else:
        assert judged(pictures) == pytest.approx(plain(pictures, classes), abs=1e-9)


def test_no_more_than_a_hundred_detections_of_a_class_count_in_a_picture() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(101, 1)
    boxes[:100] += 50
    scores = torch.linspace(0.9, 0.1, 101)
    targets = torch.tensor([[0.0, 0, 10, 10, 0]])
    picture = (boxes, scores, torch.zeros(101).long()), targets
    assert judged([picture])["mAP50"] == plain([picture], 1)["mAP50"] == 0
    fewer = (boxes[1:], scores[1:], torch.zeros(100).long()), targets
    assert judged([fewer])["mAP50"] == pytest.approx(plain([fewer], 1)["mAP50"]) == 0.01


def two_boxes() -> Tensor:
    return torch.tensor([[10.0, 10, 30, 30, 0], [50, 50, 60, 90, 1], [0, 0, 0, 0, -1]])


def test_perfect_detections_have_1_and_none_0() -> None:
    targets = two_boxes()
    perfect = (targets[:2, :4], torch.tensor([0.9, 0.4]), targets[:2, 4].long())
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert judged([(perfect, targets)]) == {"mAP": 1, "mAP50": 1}
    assert judged([(nothing, targets)]) == {"mAP": 0, "mAP50": 0}
    swapped = (perfect[0], perfect[1], 1 - perfect[2])
    assert judged([(swapped, targets)]) == {"mAP": 0, "mAP50": 0}


def test_a_second_detection_of_a_box_is_wrong() -> None:
    targets = torch.tensor([[10.0, 10, 30, 30, 0], [60, 60, 80, 80, 0]])
    boxes = targets[[0, 0, 1], :4]
    twice = (boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3).long())
    # precision 1 up to a recall of 0.5, of which there are 51 in 101, then 2 / 3
    assert judged([(twice, targets)])["mAP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_a_little_off_is_right_at_low_thresholds_only() -> None:
    targets = torch.tensor([[0.0, 0, 100, 100, 3]])
    off = (torch.tensor([[0.0, 0, 100, 72]]), torch.tensor([0.9]), torch.tensor([3]))
    # IoU 0.72 is enough for 0.5, 0.55, 0.6, 0.65 and 0.7, five of ten
    assert judged([(off, targets)]) == pytest.approx({"mAP": 0.5, "mAP50": 1})


def test_pictures_without_boxes_count_what_is_found_in_them_as_wrong() -> None:
    targets = two_boxes()[:1]
    right = (targets[:, :4], torch.tensor([0.5]), torch.tensor([0]))
    wrong = (targets[:, :4], torch.tensor([0.9]), torch.tensor([0]))
    assert judged([(right, targets), (wrong, torch.zeros(0, 5))])["mAP"] == pytest.approx(0.5)
    assert np.isnan(judged([(wrong, torch.zeros(0, 5))])["mAP"])


def test_the_library_that_is_missing_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(LissomError, match=r"pip install 'lissom\[detection\]'"):
        AveragePrecision(list)
