"""Weights that a task loads: by its own setting, from the command line, or in the user's code."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lissom import LissomError, Task
from lissom.data.data import Data
from lissom.tasks.loaded_parameters import loaded_mark
from lissom.tasks.task import own_task

DATA = Data.of("digits", size=(8, 8))


def make(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def saved(path: Path, seed: int = 5) -> Path:
    torch.manual_seed(seed)
    torch.save(make().state_dict(), path)
    return path


def mean_error(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) - targets).abs().float().mean())


def test_a_task_loads_the_weights_that_it_names(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt")
    task = Task(make, DATA, weights=str(path))
    wanted = torch.load(path, weights_only=True)
    for seed in (0, 1):
        assert all(torch.equal(p, wanted[name]) for name, p in task.fresh(seed).named_parameters())
    root = task.root(0)
    assert replace(task, metrics={"off": mean_error}).fresh()[1].weight.equal(wanted["1.weight"])
    assert Task(make, DATA, weights=str(saved(path, seed=6))).root(0) != root
    with pytest.raises(LissomError, match=r"weights: .*nowhere\.pt cannot be read"):
        Task(make, DATA, weights=str(tmp_path / "nowhere.pt"))
    with pytest.raises(LissomError, match="weights"):
        Task(partial(make, 9), DATA, weights=str(path)).fresh()


def test_keys_change_with_the_weights_that_own_code_loads(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt")

    def build() -> nn.Module:
        net = make()
        net.load_state_dict(torch.load(path, weights_only=True))
        return net

    first = Task(build, DATA).root(0)
    assert first == Task(build, DATA).root(0)
    saved(path, seed=6)
    assert first != Task(build, DATA).root(0)


def test_only_weights_that_do_not_follow_the_seed_have_a_mark() -> None:
    def seeded(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = make()
        nn.init.zeros_(net[3].bias)  # of one value
        net.register_buffer("table", torch.arange(64.0))  # computed
        return net

    state = torch.get_rng_state()
    assert loaded_mark(seeded) == ""
    assert torch.equal(torch.get_rng_state(), state)

    def half_loaded(seed: int) -> nn.Module:
        net = seeded(seed)
        with torch.no_grad():
            net[1].weight.copy_(torch.arange(512.0).view(8, 64))
        return net

    def frozen(seed: int) -> nn.Module:
        return half_loaded(seed).requires_grad_(False)

    assert len(loaded_mark(half_loaded)) == 16 and loaded_mark(frozen) == loaded_mark(half_loaded)


def test_weights_of_a_task_in_a_file_are_given_beside_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt")
    (tmp_path / "mine.py").write_text(
        "from lissom import Data, Task\nfrom torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))\n"
        "def task():\n    return Task(make, Data.of('digits', size=(8, 8)))\n"
    )
    spec = f"{tmp_path}/mine.py:task"
    plain, trained = own_task(spec), own_task(spec, str(path))
    wanted = torch.load(path, weights_only=True)["1.weight"]
    assert trained.fresh()[1].weight.equal(wanted) and not plain.fresh()[1].weight.equal(wanted)
    assert plain.root(0) != trained.root(0) == Task.from_origin(trained.origin).root(0)


def test_metrics_that_are_no_functions_by_name_are_refused() -> None:
    with pytest.raises(LissomError, match=r"metrics: expected functions by name.* got a list"):
        Task(make, DATA, metrics=[mean_error])  # type: ignore[arg-type]


def test_a_metric_whose_name_is_an_error_gets_a_note() -> None:
    (note,) = Task(make, DATA, metrics={"mse": mean_error}).notes()
    assert "larger values for better ones" in note
    assert Task(make, DATA, metrics={"negative_mse": mean_error}).notes() == []


def test_a_relative_import_says_how_to_name_the_module(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.py").write_text("from .parts import Block\n")
    with pytest.raises(LissomError, match=r"is named as nets\.net:make"):
        Task.of(f"{tmp_path}/nets/net.py:make", DATA)
