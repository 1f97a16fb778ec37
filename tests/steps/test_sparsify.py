"""The effect of a penalty on channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lissom import LissomError
from lissom.data.data import Data
from lissom.language.context import Context, SurgeryContext
from lissom.language.training import Batch
from lissom.models import factory
from lissom.running.context import TaskContext
from lissom.steps.sparsify import PenaltySchedule, Sparsify, histogram, relative_gap
from lissom.surgery.channels.group import Group, Member
from lissom.surgery.channels.trial_cut import cuttable
from lissom.tasks.task import Task


def context(monkeypatch: pytest.MonkeyPatch, model: nn.Module, seen: list[Any]) -> Context:
    task = Task.of("resnet8", Data.of("digits"))
    ctx = TaskContext(
        task.data.example(), lambda count: [task.data.example(count)], task=task, where="sparsify"
    )
    monkeypatch.setattr(
        TaskContext, "learn", lambda self, model, settings, terms, stateful: seen.append(terms[0])
    )
    return ctx


def penalty_of(step: Sparsify, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Any:
    seen: list[Any] = []
    step(model, context(monkeypatch, model, seen))
    empty = torch.empty(0)
    return lambda: seen[0](model, Batch(empty, empty, empty))


def lively() -> nn.Module:
    torch.manual_seed(0)
    model = factory("resnet8")(num_classes=10, in_channels=1)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.copy_(torch.randn_like(m.weight))
    return model


def test_network_slimming_prices_the_absolute_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively()
    wanted = 0.3 * sum(
        float(m.weight.detach().abs().sum())
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
    )
    value = penalty_of(Sparsify(0.3, 1), model, monkeypatch)()
    assert float(value.detach()) == pytest.approx(wanted, rel=1e-5)
    value.backward()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(norm.weight.grad, 0.3 * norm.weight.sign())


def test_the_group_lasso_prices_the_norm_of_all_that_hangs_on_a_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = lively()
    groups, tensors = cuttable(model, torch.zeros(1, 1, 32, 32)), dict(model.named_parameters())
    wanted = 0.0
    for group in groups:
        squares = [0.0] * group.size
        for m in group.members:
            if m.tensor in tensors:
                for k, unit in enumerate(m.unit.tolist()):
                    numbers = tensors[m.tensor].detach().select(m.axis, k).double()
                    squares[unit] += float(numbers.square().sum()) * (unit >= 0)
        wanted += sum(s**0.5 for s in squares)
    penalty = penalty_of(Sparsify(0.1, 1, on="group"), model, monkeypatch)
    assert float(penalty().detach()) == pytest.approx(0.1 * wanted, rel=1e-4)


def test_the_growing_price_begins_at_nothing_and_falls_on_small_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = lively()
    penalty = penalty_of(Sparsify(1.0, 1, on="grow", batch=400), model, monkeypatch)  # four steps
    values = [float(penalty().detach()) for _ in range(5)]
    assert values[1] == pytest.approx(2 * values[0], rel=1e-4) and values[3] == pytest.approx(
        4 * values[0], rel=1e-4
    )
    assert values[4] == pytest.approx(values[3])
    assert relative_gap(torch.tensor([4.0, 1.0, 9.0])).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("on", ["bn", "group", "grow"])
def test_what_is_priced_gets_smaller(on: Any) -> None:
    data = Data.of("digits", size=(8, 8))
    few = Data(**{**vars(data), "train": data.train.take(torch.arange(256))})
    task = Task.of("resnet8", few)
    model = task.fresh()
    ctx = TaskContext(
        few.example(), lambda count: [few.example(count)], task=task, where="sparsify"
    )
    Sparsify(1e-2 if on == "bn" else 1e-3 if on == "group" else 1.0, 2, on=on, batch=32)(model, ctx)
    found = ctx.facts["sparsified"]
    centre = [
        sum(k * n for k, n in enumerate(found[w])) / sum(found[w]) for w in ("before", "after")
    ]
    assert centre[1] < centre[0] and len(ctx.log) == 2


def test_nothing_to_price_is_an_error() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    ctx = SurgeryContext(torch.zeros(1, 3, 8, 8), lambda count: [], where="sparsify")
    for on in ("bn", "group"):
        with pytest.raises(
            LissomError,
            match=r"expected batch-norm scales|no channels of this network can be pruned",
        ):
            Sparsify(0.1, 1, on=on).rehearse(model, ctx)


def test_a_histogram_counts_both_over_the_same_bins() -> None:
    found = histogram(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.01, 2.0]), bins=4)
    assert found == {
        "top": 4.0,
        "before": [0, 1, 1, 1],
        "after": [2, 0, 1, 0],
        "below_a_hundredth": [0.0, 0.6667],
    }


def test_the_progress_reaches_one_whatever_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 33 images in batches of 8, the last is left out, since it has no batch statistics."""
    shares: list[list[float]] = []
    whole = PenaltySchedule.progress

    def seen(self: PenaltySchedule, *part: float) -> float:
        shares[-1].append(whole(self, *part))
        return shares[-1][-1]

    monkeypatch.setattr(PenaltySchedule, "progress", seen)
    data = Data.of("digits")
    few = Data(**{**vars(data), "train": data.train.take(torch.arange(33))})
    task = Task.of("resnet8", few)
    for parts in (1, 3, 8):
        shares.append([])
        ctx = TaskContext(
            few.example(), lambda count: [few.example(count)], task=task, where="sparsify"
        )
        Sparsify(0.1, 2, on="grow", batch=8, accumulate=parts)(task.fresh(), ctx)
        assert list(dict.fromkeys(shares[-1])) == [k / 8 for k in range(1, 9)]
    assert [len(each) for each in shares] == [8, 24, 32]


@pytest.mark.parametrize("on", ["group", "grow"])
def test_frozen_batchnorm_is_no_part_of_the_price(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    def net(norm: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 16, 3), norm, nn.ReLU(), nn.Conv2d(16, 4, 3)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()

    step = Sparsify(0.1, 1, on=on)
    found = penalty_of(step, net(FrozenBatchNorm2d(16)), monkeypatch)()
    wanted = penalty_of(step, net(nn.Identity()), monkeypatch)()
    torch.testing.assert_close(found, wanted)


def test_statistics_are_told_by_the_last_part_of_a_name() -> None:
    members = [
        Member("running_net.0.weight", 0, "out", torch.arange(2)),
        Member("running_net.1.running_mean", 0, "vector", torch.arange(2)),
    ]
    tensors = {m.tensor: torch.tensor([[3.0], [4.0]]) for m in members}
    sums = Group("c", 2, members).sums(tensors, ("out", "vector"), 2)
    assert sums.tolist() == [9, 16]
