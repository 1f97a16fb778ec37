"""A network that ends with softmax or sigmoid learns as one without, or is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lissom
from lissom import LissomError, Store
from lissom.data.data import Data
from lissom.kinds.classify import Classify
from lissom.kinds.multilabel import Multilabel
from lissom.kinds.segment import Segment
from lissom.kinds.tag import Tag
from lissom.language.kind import WithClasses
from lissom.language.recipe import Recipe
from lissom.learning.probabilities import check_logits
from lissom.tasks.task import Task

KINDS = {
    "classify": (Classify, (6, 5)),
    "segment": (Segment, (3, 5, 4, 4)),
    "tag": (Tag, (3, 4, 5)),
    "multilabel": (Multilabel, (6, 5)),
}


def targets_of(name: str, draw: torch.Generator) -> Tensor:
    shapes = {"classify": (6,), "segment": (3, 4, 4), "tag": (3, 4)}
    if name == "multilabel":
        return torch.randint(0, 2, (6, 5), generator=draw)
    return torch.randint(0, 5, shapes[name], generator=draw)


def probabilities(kind: WithClasses, logits: Tensor) -> Tensor:
    return logits.sigmoid() if kind.axis is None else logits.softmax(kind.axis)


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 2), smoothing=st.sampled_from([0.0, 0.1]))
def test_losses_and_answers_are_those_of_the_logits(
    name: str, seed: int, scale: float, smoothing: float
) -> None:
    make, shape = KINDS[name]
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape, generator=draw)
    targets = targets_of(name, draw)
    plain = make()
    kind = make(outputs="probabilities")
    given_out = probabilities(kind, logits)
    assert torch.allclose(
        kind.loss(given_out, targets, smoothing), plain.loss(logits, targets, smoothing), atol=1e-3
    )
    assert torch.equal(kind.answers(given_out), plain.answers(logits))
    ours, theirs = kind.compared(given_out, given_out)[0], plain.compared(logits, logits)[0]
    assert torch.allclose(ours.softmax(1), theirs.softmax(1), atol=1e-4)
    assert plain.are_probabilities(given_out)
    assert not plain.are_probabilities(logits - 0.5)


@pytest.mark.parametrize("name", ["classify", "segment", "tag"])
def test_what_does_not_sum_to_one_is_no_probability(name: str) -> None:
    make, shape = KINDS[name]
    assert not make().are_probabilities(torch.rand(shape))
    assert Multilabel().are_probabilities(torch.rand(6, 5))


class Ends(nn.Module):
    """A small network with a layer after its logits."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        )
        self.head = nn.Linear(288, 10)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.body(x)))


@pytest.fixture(scope="module")
def digits() -> Data:
    return Data.of("digits")


def task(digits: Data, end: nn.Module, **settings: Any) -> Task:
    return Task(lambda: Ends(end), digits, "net", type(end).__name__, **settings)


def test_learning_from_probabilities_is_refused(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(LissomError) as error:
        lissom.run("train(1) | quantize(8)", task(digits, nn.Softmax(1)), tmp_path)
    said = str(error.value)
    assert "it ends with probabilities" in said and "sum to 1 over the classes" in said
    assert "--kind 'classify(outputs=\"probabilities\")'" in said
    assert "--kind 'classify(outputs=\"logits\")'" in said
    assert not [*Store(tmp_path)]


def test_the_cure_learns_what_logits_learn(digits: Data, tmp_path: Path) -> None:
    cured = task(digits, nn.Softmax(1), kind=Classify(outputs="probabilities"))
    plain = task(digits, nn.Identity())
    wrong = task(digits, nn.Softmax(1), kind=Classify(outputs="logits"))
    recipe = "train(1, lr=0.02) | prune(0.3) | distill('kd', 1, lr=0.01)"
    weights = []
    for place, each in enumerate((plain, cured, wrong)):
        store = tmp_path / str(place)
        (record,) = lissom.run(recipe, each, store)
        weights.append(lissom.load(record["key"], each.fresh(), store=store).state_dict())
    head = [each["head.bias"] for each in weights]
    apart = [float((each - head[0]).abs().max()) for each in head]
    assert apart[1] < apart[2] / 3


def test_what_needs_no_logits_is_left_alone(digits: Data) -> None:
    """To round needs none, nor do logits, stated ones, or the user's own loss."""
    learns = [Recipe("train(1)")]
    check_logits(task(digits, nn.Softmax(1)), [Recipe("quantize(8)")])
    check_logits(task(digits, nn.Identity()), learns)
    check_logits(task(digits, nn.Softmax(1), kind=Classify(outputs="logits")), learns)
    check_logits(task(digits, nn.Softmax(1), kind=Classify(outputs="probabilities")), learns)
    own = task(digits, nn.Softmax(1), loss=lambda model, batch: batch.outputs.sum())
    check_logits(own, learns)


def test_several_labels_need_logits_in_any_case(digits: Data) -> None:
    """A class is in the answer if its logit is above 0, which all probabilities are."""
    kind = Multilabel()
    with pytest.raises(LissomError, match="all outputs are between 0 and 1"):
        check_logits(task(digits, nn.Sigmoid(), kind=kind), [Recipe("quantize(8)")])
    check_logits(task(digits, nn.Identity(), kind=kind), [Recipe("train(1)")])


@dataclass(frozen=True)
class Own(Classify):
    """A kind of the user's own."""


def test_a_kind_of_ones_own_is_told_where_to_take_logarithms(digits: Data) -> None:
    own = task(digits, nn.Softmax(1), kind=Own(), kind_text="kinds.py:own")
    with pytest.raises(LissomError, match=r"an `answer` of kinds\.py:own that returns their"):
        check_logits(own, [Recipe("train(1)")])


def test_keys_of_logits_stay_as_they_were(digits: Data) -> None:
    plain = task(digits, nn.Softmax(1))
    stated = task(digits, nn.Softmax(1), kind=Classify(outputs="probabilities"))
    assert plain.root(0) == task(digits, nn.Softmax(1), kind=Classify()).root(0)
    assert plain.root(0) != stated.root(0)
    assert Segment(200).identity() == Segment(ignore=200).identity()
    assert "outputs" not in Segment().identity()
