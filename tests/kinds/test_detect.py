"""Detection finds, evaluates and compares boxes; training is tested with its loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lissom.data.augment import shift_images
from lissom.detection.loss import detection_loss
from lissom.kinds.detect import Detect

BOXES = [[10.0, 10, 30, 30], [50, 40, 70, 90], [11, 10, 30, 30], [5, 5, 9, 9]]


def outputs(*scores: list[float]) -> tuple[Tensor, Tensor]:
    """Return one picture's boxes (1 p 4) and logits (1 p 2) with these scores."""
    return torch.tensor([BOXES[: len(scores)]]), torch.tensor([scores]).logit()


def test_answers_are_what_is_found_with_a_good_score() -> None:
    kind = Detect()
    # the third box is that of the first once more, the fourth is doubtful
    found = outputs([0.9, 0.01], [0.01, 0.5], [0.8, 0.01], [0.2, 0.01])
    answers = kind.answers(found)
    assert answers[:, :2].tolist() == [[[10, 10, 30, 30, 0], [50, 40, 70, 90, 1]]]
    # as many rows whatever is found, so that answers of several batches fit together
    assert answers.shape == (1, 100, 5) and (answers[:, 2:, 4] == -1).all()
    boxes, scores, classes = kind.decode(found)[0]
    assert scores.tolist() == pytest.approx([0.9, 0.5, 0.2]) and classes.tolist() == [0, 1, 0]
    assert boxes.tolist() == [BOXES[0], BOXES[1], BOXES[3]]
    assert len(Detect(most=1).decode(found)[0][0]) == 1
    assert len(Detect(threshold=0.3).decode(found)[0][0]) == 2
    assert len(Detect(iou=0.99).decode(found)[0][0]) == 4
    assert kind.suits(answers)


def test_scores_of_a_softmax_leave_out_the_background() -> None:
    logits = torch.tensor([[[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]]])
    found = Detect(scores="softmax").answers((torch.tensor([BOXES[:2]]), logits))
    assert found[found[..., 4] >= 0].tolist() == [[10, 10, 30, 30, 0]]


def test_metrics_are_counted_over_all_batches_and_mean_average_precision_judges() -> None:
    tally = Detect().tally(2)
    targets = torch.tensor([[[10.0, 10, 30, 30, 0], [50, 40, 70, 90, 1], [0, 0, 0, 0, -1]]])
    tally.add(outputs([0.9, 0.01], [0.01, 0.5]), targets)
    assert tally.names == ("mAP", "mAP50") and tally.values() == {"mAP": 1, "mAP50": 1}
    tally.add(outputs([0.01, 0.01]), targets)
    assert 0.4 < tally.values()["mAP"] < 0.6


def test_agreement_counts_the_boxes_that_two_outputs_share() -> None:
    one = outputs([0.9, 0.01], [0.01, 0.5])
    agreement = Detect().agreement()
    assert agreement.values() == {"agreement": 1}, "nothing is found in nothing"
    agreement.add(outputs([0.1, 0.1]), outputs([0.2, 0.01]))
    assert agreement.values() == {"agreement": 1}, "doubtful boxes do not count"
    agreement.add(one, outputs([0.6, 0.01], [0.01, 0.9]))
    assert agreement.values() == {"agreement": 1}, "scores may differ"
    agreement.add(one, outputs([0.9, 0.01], [0.5, 0.01]))
    assert agreement.values() == {"agreement": 6 / 8}, "one of two has another class"
    agreement.add(one, outputs([0.9, 0.01]))
    assert agreement.values() == {"agreement": 8 / 11}, "one of two is not found"


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_the_loss_has_the_settings_of_the_kind(scores: Any) -> None:
    boxes, logits = outputs([0.9, 0.1], [0.3, 0.5], [0.8, 0.2])
    if scores == "softmax":
        logits = torch.cat([torch.zeros(1, 3, 1), logits], -1)
    targets = torch.tensor([[[12.0, 10, 30, 30, 0]]])
    loss = Detect(scores, box=5).loss({"boxes": boxes, "logits": logits}, targets, 0.1)
    assert torch.equal(loss, detection_loss(boxes, logits, targets, scores, 5, 0.1))
    assert not torch.equal(loss, Detect(scores).loss((boxes, logits), targets))


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (torch.tensor([[[1.0, 2, 3, 4, 0]]]), True),
        (torch.tensor([[[1.0, 2, 3, 4, 7], [0, 0, 0, 0, -1]]]), True),
        (torch.zeros(3, 0, 5), True),
        (torch.full((3, 2, 5), -1.0), True),
        (torch.tensor([[[1, 2, 3, 4, 0]]]), False),
        (torch.tensor([[1.0, 2, 3, 4, 0]]), False),
        (torch.zeros(2, 3, 5), False),
        (torch.tensor([[[3.0, 2, 1, 4, 0]]]), False),
        (torch.tensor([[[1.0, 4, 3, 4, 0]]]), False),
        (torch.tensor([[[1.0, 2, 3, 4, 0.5]]]), False),
        (torch.tensor([[[1.0, 2, 3, 4, -2]]]), False),
        (torch.tensor([[[1.0, 2, torch.inf, 4, 0]]]), False),
        (torch.tensor([[[1.0, 2, 3, 4, torch.nan]]]), False),
        (torch.randn(9, 4, 5), False),
        (torch.randn(9, 5), False),
    ],
)
def test_targets_of_boxes_are_told_from_other_numbers(targets: Tensor, wanted: bool) -> None:
    assert Detect().suits(targets) == wanted


def test_what_does_not_fit_is_said() -> None:
    kind = Detect()
    targets = torch.tensor([[[1.0, 2, 3, 4, 1], [0, 0, 0, 0, -1]]])
    fits = outputs([0.9, 0.1])
    assert kind.misfit(fits, targets, 2) is None
    assert kind.misfit(list(fits), torch.zeros(1, 0, 5), 2) is None
    of_each_class = (fits[0][:, :, None].expand(-1, -1, 2, -1), fits[1])
    assert kind.misfit(of_each_class, targets, 2) is None
    assert kind.misfit(fits, targets, 1) == "targets of classes from 0 to 0, got 1"
    assert (kind.misfit(fits, torch.zeros(1), 2) or "").startswith("targets (n k 5)")
    expected = "outputs boxes (n p 4) and logits (n p 3)"
    assert kind.misfit(fits, targets, 3) == expected
    more = (fits[0], torch.zeros(*fits[1].shape[:2], 3))
    assert 'detect(scores="softmax")' in (kind.misfit(more, targets, 2) or "")
    assert Detect("softmax").misfit(fits, targets, 2) == expected
    expected = "outputs boxes (n p 4) and logits (n p 2)"
    others = (fits[0][:, :, None].expand(-1, -1, 3, -1), fits[1])
    for wrong in (
        fits[0],
        fits[::-1],
        (fits[0][0], fits[1][0]),
        (fits[0][:, :, :3], fits[1]),
        others,
    ):
        assert kind.misfit(wrong, targets, 2) == expected


def test_boxes_move_and_are_mirrored_along_with_their_pictures() -> None:
    picture = torch.zeros(2, 1, 20, 30)
    picture[:, :, 6:14, 4:9] = 1
    none = [0.0, 0, 0, 0, -1]
    targets = torch.tensor([[[4.0, 6, 9, 14, 3], none], [none, [4.0, 6, 9, 14, 3]]])
    down = torch.tensor([2, 0])
    right = torch.tensor([-1, 5])
    moved = Detect().shifted(targets, down, right, (picture.shape[2], picture.shape[3]))
    assert moved.tolist() == [[[3, 8, 8, 16, 3], none], [none, [9, 6, 14, 14, 3]]]
    mirrored = Detect().mirrored(targets, torch.tensor([True, False]), 30)
    assert mirrored.tolist() == [[[21, 6, 26, 14, 3], none], [none, [4, 6, 9, 14, 3]]]
    for pixels, boxes in ((shift_images(picture, down, right), moved), (picture.flip(3), mirrored)):
        x1, y1, x2, y2, _ = boxes[0, 0].int().tolist()
        assert pixels[0, 0, y1:y2, x1:x2].all() and pixels[0].sum() == 5 * 8


def test_boxes_are_cut_off_where_their_picture_is_and_those_that_leave_it_are_gone() -> None:
    targets = torch.tensor([[[0.0, 4, 8, 12, 1], [20, 4, 28, 12, 2]]]).repeat(2, 1, 1)
    moved = Detect().shifted(targets, torch.tensor([0, 0]), torch.tensor([-5, -7]), (20, 30))
    assert moved[0].tolist() == [[0, 4, 3, 12, 1], [15, 4, 23, 12, 2]]
    assert moved[1, 0, 4] == -1 and moved[1, 1].tolist() == [13, 4, 21, 12, 2]


def test_a_student_is_compared_where_its_teacher_is_surest() -> None:
    """All others show nothing: their many small differences would hide the few that count."""
    boxes = torch.zeros(2, 500, 4)
    theirs = torch.full((2, 500, 3), -6.0)
    theirs[0, 7, 1] = theirs[1, 400, 2] = 5.0
    ours = theirs.clone()
    ours[0, 7, 1] = 1.0
    student, teacher = Detect().compared((boxes, ours), (boxes, theirs))
    assert student.shape == teacher.shape == (2 * 100 * 3, 2)
    torch.testing.assert_close(teacher.softmax(1)[:, 1].amax(), torch.tensor(5.0).sigmoid())
    differs = (student != teacher).any(1)
    assert int(differs.sum()) == 1 and student[differs].tolist() == [[0, 1]]
    student, teacher = Detect("softmax").compared((boxes, ours), (boxes, theirs))
    assert student.shape == (2 * 100, 3) and bool((student != teacher).any())
    few = (boxes[:, :20], ours[:, :20])
    assert Detect("softmax").compared(few, few)[0].shape == (2 * 20, 3)


class Corners(Detect):
    """Take centres and sizes in one tensor (n p 4+classes), as some networks give them."""

    def places(self, outputs: Any) -> tuple[Tensor, Tensor]:
        centres, sizes, logits = outputs.split([2, 2, outputs.shape[2] - 4], -1)
        return torch.cat([centres - sizes / 2, centres + sizes / 2], -1), logits


class Whole(Detect):
    """Find the same box in every sample."""

    def decode(self, outputs: Tensor) -> list[Any]:
        found = torch.tensor([BOXES[0]]), torch.ones(1), torch.tensor([1])
        return [found] * len(outputs)


def test_a_network_with_other_outputs_has_a_kind_of_its_own() -> None:
    raw = torch.tensor([[[20.0, 20, 20, 20, 5, -5]]])
    assert Corners().answers(raw)[0, 0].tolist() == [10, 10, 30, 30, 0]
    assert float(Corners().loss(raw, torch.tensor([[[10.0, 10, 30, 30, 0]]]))) < 1e-3
    targets = torch.tensor([[[10.0, 10, 30, 30, 1]]])
    assert Corners().misfit(raw, targets, 2) is None
    tally = Whole().tally(2)
    tally.add(torch.zeros(1), targets)
    assert tally.values()["mAP"] == 1
    assert torch.equal(Whole().answers(torch.zeros(1))[:, :1], targets)
