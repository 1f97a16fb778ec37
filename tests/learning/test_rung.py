"""A step that is judged on its way learns the same; one that is stopped can go on later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bright import net, trained
from torch import Tensor, nn

from lissom.language.training import Progress, TrainSettings
from lissom.learning.checkpoint import Checkpoints
from lissom.learning.rung import Rung, Stopped, midway_in

EPOCHS = 7


def judge(model: nn.Module) -> float:
    """A metric that depends on the weights, and draws random numbers as a user's own may."""
    assert not model.training
    return float(next(model.parameters()).detach().abs().mean()) + 0 * float(torch.rand(()))


def learned(
    rung: Rung | None = None, folder: Path | None = None, **settings: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]], list[Progress]]:
    """The values, the rows and the progress of a network that has learned."""
    model = net()
    seen: list[Progress] = []
    rows = trained(
        model,
        TrainSettings(EPOCHS, batch=16, **settings),
        watch=seen.append,
        checkpoints=None if folder is None else Checkpoints(folder, 1e9),
        validation_metric=judge,
        rung=rung,
    )
    return dict(model.state_dict()), rows, seen


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"freeze": "norm"}, {"until": "plateau"}])
def test_being_judged_changes_nothing(settings: dict[str, Any]) -> None:
    plain, rows, _ = learned(**settings)
    judged, more, _ = learned(Rung(0.0), **settings)
    assert equal(plain, judged)
    assert midway_in(rows) is None
    assert [row["epoch"] for row in more if "midway" in row] == [EPOCHS // 3]
    assert midway_in(more) == more[1]["midway"] > 0


def test_what_was_stopped_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, rows, _ = learned(Rung())
    metric = midway_in(rows)
    assert metric is not None
    with pytest.raises(Stopped, match=r"stopped after epoch 2 of 7, with ") as stopped:
        learned(Rung(metric + 1e-3), tmp_path)
    assert stopped.value.midway == metric
    with pytest.raises(Stopped):  # at once: nothing more is learned
        learned(Rung(metric + 1e-3), tmp_path)
    later, again, seen = learned(Rung(metric - 1e-3), tmp_path)
    assert equal(whole, later)
    assert [row["epoch"] for row in again] == [*range(1, EPOCHS + 1)]
    assert {each.epoch for each in seen} == {*range(3, EPOCHS + 1)}


def test_it_is_stopped_without_checkpoints_too() -> None:
    with pytest.raises(Stopped):
        learned(Rung(1e9))


def test_two_epochs_are_too_few_to_be_judged() -> None:
    assert not any(Rung(1.0).is_at(epoch, 2) for epoch in range(3))
    assert Rung(1.0).is_at(1, 3) and not Rung(1.0).is_at(2, 3)


def test_a_network_without_a_metric_is_not_stopped() -> None:
    settings = TrainSettings(3, batch=16)
    rows = trained(net(), settings, validation_metric=lambda _: None, rung=Rung(1.0))
    assert len(rows) == 3 and midway_in(rows) is None
