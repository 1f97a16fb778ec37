"""Momentum that carries over between steps, and steps that end early without improvement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bright import data, net, plain, trained
from safetensors.torch import load_file
from torch import Tensor, nn

import lissom
from lissom import LissomError, Recipe
from lissom.language.training import TrainSettings
from lissom.learning.moments import OptimizerState, load_moments
from lissom.learning.optimizer import optimizer_of
from lissom.store.store import Store
from lissom.tasks.task import Task

# whole batches: the order of samples does not count
WHOLE = TrainSettings(2, lr=0.02, batch=70, schedule="constant", augment="none")


def task(build: Any = net) -> Task:
    return Task(build, data(), "net")


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "lr": 0.01}, {"nesterov": False}])
def test_two_steps_with_momentum_taken_up_are_one_step(settings: Any, tmp_path: Path) -> None:
    given = replace(WHOLE, **settings)
    whole = plain()
    trained(whole, replace(given, epochs=4))
    moved = {}
    for resume in (True, False):
        model = plain()
        first = OptimizerState()
        trained(model, replace(given, keep_optimizer=True), optimizer_state=first)
        first.write(tmp_path)
        trained(model, replace(given, resume=resume), optimizer_state=OptimizerState(tmp_path))
        moved[resume] = float((weights(model) - weights(whole)).abs().max())
    assert moved[True] < 1e-6 < 1e-4 < moved[False]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_run_hands_the_momentum_on_in_its_entries(tmp_path: Path) -> None:
    keys = Recipe("train(1, keep_optimizer=True) | train(1, resume=True)").keys(task().root(0))
    lissom.run("train(1, keep_optimizer=True) | train(1, resume=True)", task(), tmp_path)
    left = load_file(tmp_path / keys[0] / "optimizer.safetensors")
    model = net()
    assert {f"momentum_buffer/{name}" for name, _ in model.named_parameters()} == set(left)
    assert not (tmp_path / keys[1] / "optimizer.safetensors").exists()
    # what was finished in an earlier run is taken up as well
    again = tmp_path / "again"
    lissom.run("train(1, keep_optimizer=True)", task(), again)
    key = lissom.run("train(1, keep_optimizer=True) | train(1, resume=True)", task(), again)[0][
        "key"
    ]
    one, two = (root / key / "model.safetensors" for root in (tmp_path, again))
    assert key == keys[1] and one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train(1, resume=True)", "it is no step at all"),
        ("train(1) | train(1, resume=True)", r"with keep_optimizer=True; it is train\(1\)"),
        (
            "train(1, keep_optimizer=True) | prune(0.5) | train(1, resume=True)",
            r"it is prune\(0.5\)",
        ),
        (
            'train(1, keep_optimizer=True) | train(1, resume=True, optimizer="adam", lr=0.01)',
            "the step before has sgd, this one adam",
        ),
    ],
)
def test_momentum_that_is_not_there_is_refused_as_the_recipe_is_read(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=rf"^recipe: step \d, train.*{said}$"):
        lissom.Space(text)


def test_momentum_of_another_shape_is_refused() -> None:
    optimizer = optimizer_of(plain(), TrainSettings(1))
    with pytest.raises(
        LissomError, match=r"0.bias was \(9,\) in the step before, now it is \(4,\)"
    ):
        load_moments(optimizer, plain(), {"0.bias": {"momentum_buffer": torch.zeros(9)}}, "here")


def judge_of(metrics: list[float], seen: list[Any] | None = None) -> Any:
    left = iter(metrics)

    def judge(model: nn.Module) -> float:
        assert not any(m.training for m in model.modules())
        if seen is not None:
            seen.append([p.detach().clone() for p in model.parameters()])
        return next(left)

    return judge


@pytest.mark.parametrize(
    ("metrics", "patience", "epochs", "best"),
    [
        ([0.5, 0.6, 0.6, 0.55, 0.9], 2, 4, 2),
        ([0.5, 0.6, 0.55, 0.7, 0.1, 0.2, 0.3], 3, 7, 4),
        ([0.9, 0.1], 1, 2, 1),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 2, 8, 8),
    ],
)
@pytest.mark.parametrize("ema", [None, 0.5])
def test_learning_ends_at_the_plateau_and_takes_the_best_epoch(
    metrics: list[float], patience: int, epochs: int, best: int, ema: float | None
) -> None:
    settings = TrainSettings(
        8, lr=0.05, batch=16, schedule="constant", until="plateau", patience=patience, ema=ema
    )
    seen: list[list[Tensor]] = []
    model = net()
    rows = trained(model, settings, validation_metric=judge_of(metrics, seen))
    assert len(rows) == epochs and [row["valid"] for row in rows] == metrics[:epochs]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), seen[best - 1], strict=True))


@pytest.mark.parametrize(("freeze", "ema"), [("none", None), ("norm", None), ("none", 0.5)])
def test_measuring_changes_nothing_of_what_is_learned(freeze: Any, ema: float | None) -> None:
    settings = TrainSettings(3, lr=0.05, batch=16, freeze=freeze, ema=ema)
    one, two = net(), net()
    trained(one, settings)
    trained(two, replace(settings, until="plateau"), validation_metric=judge_of([0.1, 0.2, 0.3]))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    if freeze == "norm":
        assert torch.equal(two[1].running_mean, net()[1].running_mean)


def test_a_quantized_network_ends_with_the_ranges_of_its_best_epoch() -> None:
    shown = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    grids = "grid='uniform(momentum=0.1, weights_momentum=0.1)'"
    made = [
        lissom.apply(f"quantize(4, 4, {grids})", net().eval(), shown[:1], shown) for _ in range(2)
    ]
    settings = TrainSettings(1, lr=0.02, batch=16, schedule="constant")
    trained(made[0], settings)
    trained(
        made[1],
        replace(settings, epochs=3, until="plateau"),
        validation_metric=judge_of([0.9, 0.1, 0.2]),
    )
    with torch.no_grad():
        assert torch.equal(made[0](shown), made[1](shown))


def test_a_run_says_where_it_stopped(tmp_path: Path) -> None:
    notes: list[str] = []
    text = 'train(40, batch=16, until="plateau", patience=2, schedule="constant", lr=0.02)'
    record = lissom.run(text, task(), tmp_path, say=notes.append)[0]
    rows = Store(tmp_path).log(record["key"])
    best = max(row["valid"] for row in rows)
    assert 3 <= len(rows) < 40 and rows[-3]["valid"] == best
    assert record["scores"]["valid"]["top1"] == pytest.approx(best)
    said = f"{len(rows)} epochs of at most 40; the best was {len(rows) - 2}, with {best:.4g}"
    assert any(said in note for note in notes), notes


def test_a_metric_that_is_no_number_is_an_error() -> None:
    with pytest.raises(LissomError, match="until='plateau': expected a metric that is a number"):
        trained(plain(), TrainSettings(2, until="plateau"), validation_metric=lambda _: None)
    with pytest.raises(LissomError, match="until='plateau': expected a task with a metric"):
        trained(plain(), TrainSettings(2, until="plateau"))


def test_few_parameters_recover_a_pruned_network(tmp_path: Path) -> None:
    record = lissom.run(
        'train(3) | prune(0.3, multiple=2) | train(2, only="norm,bias,head")', task(), tmp_path
    )[0]
    assert record["step"] == 'train(2, only="norm,bias,head")'
