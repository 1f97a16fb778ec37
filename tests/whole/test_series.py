"""Time series through a whole run: one-dimensional convolutions, trained, pruned, quantized and
measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lissom
from lissom import Data, LissomError, Store, Task


def waves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return series (n 2 64) of slow and fast waves in noise, and which they are."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    time = torch.arange(64) * (0.2 + 0.4 * labels[:, None])
    wave = torch.sin(time + 6 * torch.rand(count, 1, generator=draw))
    return wave[:, None] + 0.3 * torch.randn(count, 2, 64, generator=draw), labels


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 16, 5, 2, 2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 5, 2, 2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


@pytest.fixture
def task() -> Task:
    return Task(network, Data.of_dataset(waves(60, 1), train=waves(200, 0)), "waves")


def test_a_series_goes_the_whole_way(task: Task, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = (
        'train(6, batch=16) | prune(0.5, multiple=1) | distill("kd", 3, batch=16, lr=0.02) | '
        "quantize(8, samples=32)"
    )
    (record,) = lissom.run(recipe, task, Store(tmp_path), targets="onnxruntime", say=said.append)
    measured = record["targets"]["onnxruntime"]
    assert record["float"]["scores"]["test"]["top1"] > 0.95 and measured["top1"] > 0.9
    assert measured["agreement"] > 0.95 and not [line for line in said if "chance" in line]


def test_nothing_of_a_series_can_be_baked(task: Task, tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=r"--bake: inputs are taken .* leave it out.*forward"):
        lissom.run("quantize(8)", task, Store(tmp_path), targets="onnxruntime", bake=True)
    assert not list(Store(tmp_path))


def test_a_network_that_guesses_and_a_loss_that_rises_are_told(task: Task, tmp_path: Path) -> None:
    def blind() -> nn.Module:
        whole: Any = network()
        with torch.no_grad():
            whole[-1].weight.zero_()
        return whole  # type: ignore[no-any-return]

    said: list[str] = []
    lissom.run("fold", Task(blind, task.data, "blind"), Store(tmp_path), say=said.append)
    assert [line for line in said if "which is chance among 2 classes" in line]
    store = Store(tmp_path / "other")
    (record,) = lissom.run('train(4, batch=16) | distill("kd", 3, batch=16, lr=10.0)', task, store)
    (note,) = [note for note in record["notes"] if "the loss rose" in note]
    assert "lr=10 is too high for a network that is trained already" in note
