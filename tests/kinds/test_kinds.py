"""Each kind of task computes the metrics of scikit-learn and plain NumPy."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, r2_score
from torch import Tensor

from lissom import LissomError
from lissom.drawing import class_colour
from lissom.kinds.multilabel import average_precision
from lissom.language.kind import Kind
from lissom.language.parse_methods import method_of
from lissom.language.tally import Tally
from lissom.surgery.loss import cross_entropy
from lissom.tasks.kinds import check_kind, kind_named
from lissom.tasks.task import kind_of
from lissom.trees import Tree, mapped


def kind(text: str) -> Kind:
    found: Kind = method_of("kinds", text)
    return found


def counted(tally: Tally, outputs: Tree, targets: Tree) -> dict[str, float]:
    """What two batches come to."""
    half = len(targets) // 2
    for part in (slice(half), slice(half, None)):
        tally.add(mapped(itemgetter(part), outputs), targets[part])
    values = tally.values()
    assert tuple(values) == tally.names
    return values


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.integers(2, 30), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_multilabel_metrics_are_those_of_scikit_learn(seed: int, count: int, classes: int) -> None:
    outputs = (drawn(seed, count, classes) * 3).round()  # with equal scores among them
    targets = (drawn(seed + 1, count, classes) > 0.3).long()
    metrics = counted(kind("multilabel").tally(classes), outputs, targets)
    some = [k for k in range(classes) if targets[:, k].any()]
    for k in some:
        assert average_precision(outputs[:, k], targets[:, k] > 0) == pytest.approx(
            average_precision_score(targets[:, k], outputs[:, k])
        )
    if some:
        wanted = np.mean([average_precision_score(targets[:, k], outputs[:, k]) for k in some])
        assert metrics["mAP"] == pytest.approx(wanted)
    assert metrics["f1"] == pytest.approx(
        f1_score(targets.flatten(), (outputs > 0).flatten(), zero_division=0.0)
    )


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 4)])
def test_regression_metrics_are_those_of_scikit_learn(shape: tuple[int, ...]) -> None:
    targets = drawn(0, 50, *shape)
    outputs = targets + 0.3 * drawn(1, 50, *shape)
    regress = kind("regress")
    metrics = counted(regress.tally(0), outputs, targets)
    assert metrics["r2"] == pytest.approx(
        r2_score(targets.reshape(50, -1), outputs.reshape(50, -1))
    )
    assert metrics["mae"] == pytest.approx(float((outputs - targets).abs().mean()))
    alike = counted(regress.agreement(), outputs, targets)
    assert alike == {"agreement": pytest.approx(metrics["r2"])}
    assert counted(regress.agreement(), drawn(5, 50, *shape) * 9, targets) == {"agreement": 0}
    assert float(regress.loss(outputs, targets)) == pytest.approx(
        float(F.smooth_l1_loss(outputs, targets))
    )
    if shape == ():  # a layer of one output
        assert counted(regress.tally(0), outputs[:, None], targets) == metrics
        assert regress.misfit(outputs[:, None], targets, 0) is None


def test_segmentation_metrics_are_those_of_a_plain_loop() -> None:
    outputs = drawn(0, 4, 5, 7, 9)
    targets = torch.randint(0, 4, (4, 7, 9), generator=torch.Generator().manual_seed(1))
    targets[0, :3] = 11
    targets[1, :2] = 255
    named = outputs.argmax(1).numpy()
    wanted = targets.numpy()
    known = (wanted != 11) & (wanted != 255)
    ratios = []
    for k in range(5):
        hits = ((named == k) & (wanted == k) & known).sum()
        either = (((named == k) | (wanted == k)) & known).sum()
        if either:
            ratios.append(hits / either)
    segment = kind("segment(ignore=11)")
    metrics = counted(segment.tally(5), outputs, targets)
    assert metrics["mIoU"] == pytest.approx(np.mean(ratios))
    assert metrics["pixels"] == pytest.approx((named == wanted)[known].mean())
    assert counted(segment.tally(5), {"out": outputs, "aux": -outputs}, targets.byte()) == metrics
    spared = targets.clone()
    spared[spared == 255] = 11
    assert torch.equal(
        segment.loss(outputs, targets.byte()), F.cross_entropy(outputs, spared, ignore_index=11)
    )
    assert counted(segment.agreement(), outputs, outputs) == {"agreement": 1}
    assert counted(segment.agreement(), outputs, -outputs)["agreement"] < 0.3


def test_classification_is_cross_entropy_and_the_largest_output() -> None:
    outputs = drawn(0, 40, 8)
    targets = torch.arange(40) % 8
    classify = kind("classify")
    assert classify.tally(8).names == ("top1", "top5") and classify.tally(5).names == ("top1",)
    assert torch.equal(
        classify.loss(outputs, targets, 0.1), F.cross_entropy(outputs, targets, label_smoothing=0.1)
    )
    ranks = (outputs > outputs.gather(1, targets[:, None])).sum(1)
    assert counted(classify.tally(8), {"logits": outputs, "state": outputs}, targets) == {
        "top1": float((ranks == 0).double().mean()),
        "top5": float((ranks < 5).double().mean()),
    }
    assert counted(classify.agreement(), outputs, outputs * 2) == {"agreement": 1}


def test_tags_are_counted_by_position_and_by_sequence() -> None:
    outputs = drawn(0, 10, 6, 4)
    targets = outputs.argmax(2)
    targets[1, 2] = (targets[1, 2] + 1) % 4
    targets[2, :3] = (targets[2, :3] + 1) % 4
    targets[3, 4:] = 9  # padding
    tag = kind("tag(ignore=9)")
    wanted = {"tokens": (60 - 2 - 4) / (60 - 2), "sequences": 8 / 10}
    assert counted(tag.tally(4), outputs, targets) == pytest.approx(wanted)
    assert counted(tag.tally(4), {"logits": outputs, "loss": outputs}, targets) == (
        pytest.approx(wanted)
    )
    rows = targets != 9
    assert float(tag.loss(outputs, targets)) == pytest.approx(
        float(F.cross_entropy(outputs[rows], targets[rows]))
    )
    assert counted(tag.agreement(), outputs, outputs * 2) == {"agreement": 1}
    assert tag.words(targets[3], ("a", "b", "c", "d")) == " ".join(
        "abcd"[k] for k in targets[3, :4]
    )


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (torch.arange(9), "classify"),
        (torch.zeros(9, 4, 4, dtype=torch.uint8), "segment"),
        (torch.zeros(9, 4, 4, dtype=torch.int64), "segment"),
        (torch.eye(9), "multilabel"),
        (torch.eye(9).bool(), "multilabel"),
        (torch.randn(9), "regress"),
        (torch.randn(9, 3), "regress"),
        (torch.full((9, 2), 3), "tag"),
        (torch.full((9, 2), 3, dtype=torch.uint8), None),
        (None, None),
    ],
)
def test_targets_say_what_kind_they_are(targets: Any, wanted: str | None) -> None:
    found = kind_of(targets, own=False)
    assert (None if found is None else found.name()) == wanted
    assert kind_of(torch.randn(9), own=True) is None


@pytest.mark.parametrize(
    ("text", "outputs", "targets", "classes", "said"),
    [
        ("classify", torch.zeros(2, 3), torch.arange(9), 3, "targets from 0 to 2, got 0 to 8"),
        ("classify", torch.zeros(2, 9), torch.arange(3), 3, "outputs (batch, classes) = (2, 3)"),
        ("classify", torch.zeros(2, 9), torch.zeros(3), 3, "targets (n) of whole numbers"),
        ("multilabel", torch.zeros(2, 3), torch.eye(4), 4, "outputs (batch, classes) = (2, 4)"),
        (
            "multilabel",
            torch.zeros(2, 3),
            torch.full((2, 3), 2),
            3,
            "targets (n classes) of 0 and 1",
        ),
        ("regress", torch.zeros(2, 3), torch.zeros(5, 4), 0, "outputs (2, 4), as targets are"),
        ("regress", torch.zeros(2, 3), torch.arange(5), 0, "targets of floating-point numbers"),
        ("tag", torch.zeros(2, 7, 3), torch.arange(5), 3, "targets (n positions) of whole numbers"),
        (
            "tag",
            torch.zeros(2, 7, 3),
            torch.full((5, 7), 3),
            3,
            "targets from 0 to 2 or -100, which is ignored, got 3 to 3",
        ),
        (
            "tag",
            torch.zeros(2, 7, 3),
            torch.zeros(5, 6).long(),
            3,
            "outputs (n positions classes) = (2, 6, 3)",
        ),
        (
            "segment",
            torch.zeros(2, 3, 4, 4),
            torch.arange(5),
            3,
            "targets (n h w) of whole numbers",
        ),
        (
            "segment",
            torch.zeros(2, 3, 4, 4),
            torch.full((5, 4, 4), 7),
            3,
            "targets from 0 to 2 or 255, which is ignored, got 7 to 7; if 7 marks pixels to ignore, "
            "--kind 'segment(ignore=7)'",
        ),
        (  # two values are too large: no single one can be ignored
            "segment",
            torch.zeros(2, 3, 1, 2),
            torch.tensor([[[6, 7]]]),
            3,
            "targets from 0 to 2 or 255, which is ignored, got 6 to 7",
        ),
        (  # classes were counted from the labels
            "segment",
            torch.zeros(2, 3, 1, 2),
            torch.tensor([[[0, 200]]]),
            201,
            "targets from 0 to 2 or 255, which is ignored, since the network has 3 classes, got 0 to "
            "200; if 200 marks pixels to ignore, --kind 'segment(ignore=200)'",
        ),
        (  # one output for two classes is another mistake
            "segment",
            torch.zeros(2, 1, 1, 2),
            torch.tensor([[[0, 1]]]),
            2,
            "outputs (n classes h w) = (2, 2, 1, 2)",
        ),
        (
            "segment",
            torch.zeros(2, 3, 2, 2),
            torch.zeros(5, 4, 4).long(),
            3,
            "outputs (n classes h w) = (2, 3, 4, 4)",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    text: str, outputs: Tensor, targets: Tensor, classes: int, said: str
) -> None:
    assert kind(text).misfit(outputs, targets, classes) == said


OWN = """
from lissom.kinds.segment import Segment

class Probs(Segment):
    pass

def made():
    return Segment(ignore=9)
"""


def test_a_kind_of_the_users_own_takes_settings(tmp_path: Path) -> None:
    (tmp_path / "kinds.py").write_text(OWN)
    file = f"{tmp_path}/kinds.py"
    for text, said in (("Probs", ""), ("Probs(ignore=200)", "(200)"), ("Probs(200)", "(200)")):
        check_kind(f"{file}:{text}")
        found, source = kind_named(f"{file}:{text}")
        assert str(found) == f"Probs{said}" and source.startswith(f"{file}:Probs ")
    assert kind_named(f"{file}:made")[0] == kind("segment(ignore=9)")
    with pytest.raises(LissomError, match=r"Probs: there is no setting 'ignor'; did you mean 'ign"):
        kind_named(f"{file}:Probs(ignor=200)")
    with pytest.raises(LissomError, match=r"Probs\(ignore=...\): expected a value <= 255, got 300"):
        kind_named(f"{file}:Probs(ignore=300)")
    with pytest.raises(
        LissomError, match=r"--kind: expected one value of each setting, got 'Probs\(\{1, 2"
    ):
        kind_named(f"{file}:Probs({{1, 2}})")
    with pytest.raises(LissomError, match=r"made takes no settings.* expected a class"):
        kind_named(f"{file}:made(ignore=200)")
    with pytest.raises(LissomError, match=r"cannot be read at column"):
        kind_named(f"{file}:Probs(ignore=)")


def test_the_name_of_a_users_kind_does_not_change_keys(tmp_path: Path) -> None:
    (tmp_path / "kinds.py").write_text(OWN)
    found, _ = kind_named(f"{tmp_path}/kinds.py:Probs")
    assert found.identity() == '["lissom_user_kinds", 1, {"ignore": 255}]'


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(
        LissomError, match="there is no kind of task 'segmnt'; did you mean 'segment'"
    ):
        kind("segmnt")


# shown


def test_a_class_is_said_with_how_sure_the_network_is() -> None:
    classify = kind("classify")
    outputs = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert classify.words(torch.tensor(1), ("cat", "dog")) == "dog"
    assert classify.words(torch.tensor(5), ("cat", "dog")) == "5"
    assert classify.sureness(outputs).tolist() == pytest.approx(  # type: ignore[union-attr]
        [np.e**2 / (np.e**2 + 2), 1 / 3]
    )


def test_labels_and_numbers_are_said() -> None:
    multilabel = kind("multilabel")
    assert multilabel.words(torch.tensor([1, 0, 1]), ("a", "b", "c")) == "a, c"
    assert multilabel.words(torch.tensor([0.0, 0.0]), ("a", "b")) == "no label"
    regress = kind("regress")
    assert regress.words(torch.tensor([1.23456, -0.00098765]), ()) == "1.23, -0.000988"
    assert regress.words(torch.tensor(7.0), ()) == "7"
    assert regress.words(torch.arange(9.0), ()) == "0, 1, 2, 3, 4, 5, …"
    assert multilabel.sureness(drawn(0, 2, 3)) is None and regress.sureness(drawn(0, 2)) is None


@pytest.mark.parametrize("text", ["classify", "multilabel", "regress", "tag"])
def test_a_picture_on_which_nothing_is_drawn_is_the_same_one(text: str) -> None:
    picture = Image.new("L", (4, 4))
    answer = torch.tensor([1])
    assert kind(text).drawn(picture, answer, ("a", "b"), 2) is picture
    assert kind(text).colours(answer, ("a", "b")) == {}


def test_classes_of_pixels_are_drawn_but_for_those_ignored() -> None:
    segment = kind("segment(ignore=3)")
    answer = torch.tensor([[0, 1], [3, 255]])
    picture = Image.new("RGB", (4, 4), (7, 7, 7))
    shown = np.asarray(segment.drawn(picture, answer, ("road", "sky"), 2))
    changed = (shown != 7).any(axis=2)
    assert changed[:2].all() and not changed[2:].any()
    assert (shown[:2, :2] != shown[:2, 2:]).any()
    assert segment.colours(answer, ("road", "sky")) == {
        "road": class_colour(0),
        "sky": class_colour(1),
    }
    assert segment.words(answer, ("road", "sky")) == ""
    assert segment.sureness(drawn(0, 1, 2, 4, 4)) is None


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_whole_numbers_of_any_size_are_learned_from(dtype: torch.dtype) -> None:
    targets = torch.arange(12) % 4
    outputs = drawn(0, 12, 4)
    classify = kind("classify")
    wanted = F.cross_entropy(outputs, targets)
    assert torch.equal(cross_entropy(None, targets.to(dtype), outputs), wanted)  # of scores
    assert torch.equal(classify.loss(outputs, targets.to(dtype)), wanted)
    mixed = classify.mixed(targets.to(dtype), targets.flip(0).to(dtype), 0.25, 4)
    assert torch.equal(mixed, 0.25 * F.one_hot(targets) + 0.75 * F.one_hot(targets.flip(0)))
    assert torch.equal(classify.loss(outputs, mixed), F.cross_entropy(outputs, mixed))
    tags = targets.view(3, 4).to(dtype)
    assert torch.equal(kind("tag").loss(outputs.view(3, 4, 4), tags), wanted)
    for name, labels in (("classify", targets), ("tag", targets.view(3, 4))):
        assert kind(name).suits(labels.to(dtype))
