"""A killed run resumes within a step, and ends with the same bits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.data.data import Data
from lissom.data.split import Images
from lissom.language.training import TrainSettings
from lissom.learning.checkpoint import Checkpoints, every_s, packed, unpacked
from lissom.learning.fit import fit
from lissom.learning.training_run import TrainingRun
from lissom.store.store import Store
from lissom.tasks.task import Task

CPU = torch.device("cpu")
NOW = 1e-9  # minutes between two checkpoints: one after every step


class Killed(BaseException):
    """Stands for a signal."""


def data(count: int = 70, size: int = 8) -> Data:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=draw)
    pixels = torch.randint(0, 60, (count, 3, size, size), generator=draw) + 90 * labels.view(
        -1, 1, 1, 1
    )
    split = Images(pixels.byte(), labels)
    return Data(
        "bright",
        split,
        split,
        split,
        ("a", "b", "c"),
        3,
        (size, size),
        (0.5,) * 3,
        (0.25,) * 3,
        True,
        "x",
    )


def net(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(width, width, 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    )


class Noisy(nn.Module):
    """A network whose forward draws from every generator there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = (
                x
                + 0.1 * random.random()
                + 0.1 * float(np.random.rand())
                + 0.1 * torch.randn_like(x)
            )
        return self.layers(x)


def task(build: Callable[[], nn.Module] = net) -> Task:
    return Task(build, data(), "net", teacher=lambda: net(24))


def dies(monkeypatch: pytest.MonkeyPatch, at: int, before: bool = False) -> None:
    """Kill learning at a checkpoint: after it was written, or `before` it is renamed."""
    real, count = Checkpoints.write, [0]

    def write(self: Checkpoints, of: dict[str, Any], state: Any) -> None:
        count[0] += 1
        if before and count[0] == at:
            (self.folder / ".checkpoint.12345").write_bytes(b"half of a file")
            raise Killed
        real(self, of, state)
        if count[0] == at:
            raise Killed

    monkeypatch.setattr(Checkpoints, "write", write)


def weights(store: Path, key: str) -> bytes:
    return (store / key / "model.safetensors").read_bytes()


RECIPES = {
    "dropout and augmentation": "train(2, batch=16, cutout=2, clip=1.0)",
    "adamw": 'train(2, batch=16, optimizer="adamw", lr=0.01, norm_momentum=0.2)',
    "milestones and plain momentum": 'train(2, batch=16, schedule="milestones", milestones=(1,), '
    "nesterov=False)",
    "adam, warm-up, layer decay": 'train(2, batch=16, optimizer="adam", lr=0.01, schedule="cosine", '
    'warmup=1, layer_decay=0.8, decay_on="all")',
    "turned, varied and mixed": 'train(2, batch=16, augment="auto+rotate(9)+randaugment+mixup+cutmix")',
    "an average, parts, and few that learn": 'train(2, batch=16, ema=0.9, accumulate=3, only="norm,head")',
    "scaled losses": 'train(2, batch=16, precision="fp16", decay_on="norm")',
    "until it gets no better": 'train(2, batch=16, until="plateau", patience=1, lr=1e-6)',
    "an average until it gets no better": 'train(2, batch=16, until="plateau", ema=0.9)',
    "momentum taken up": "train(1, batch=64, keep_optimizer=True) | train(2, batch=16, resume=True)",
    "a price that grows": 'sparsify(1e-3, 2, batch=16, on="grow")',
    "a price on groups": 'sparsify(1e-3, 2, batch=16, on="group", freeze="gamma")',
    "a teacher, connectors, weights measured": 'distill("kd + fmse + mgd", 2, batch=16, share=0.3)',
    "zeros that stay": "train(1, batch=64) | mask(0.5) | train(2, batch=16)",
    "learned scales": 'train(1, batch=64) | quantize(4, grid="lsq") | train(2, batch=16, lr=0.01)',
    "ranges that move": 'train(1, batch=64) | quantize(8, 4, inputs_grid="uniform(momentum=0.1)") | train(2, '
    "batch=16, lr=0.01)",
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_killed_run_goes_on_within_the_step_and_ends_bit_equal(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lissom.run(recipe, task(), tmp_path / "whole", checkpoint=0)[0]["key"]
    # of 2 epochs of 5 steps: within, at the end of one, writing
    for at, before in ((4, False), (5, False), (8, True)):
        store, said = tmp_path / f"killed at {at}", list[str]()
        with monkeypatch.context() as patch:
            dies(patch, at + recipe.count("batch=64") * 3, before)
            with pytest.raises(Killed):
                lissom.run(recipe, task(), store, checkpoint=NOW)
        assert list(store.glob(".part-*/checkpoint.safetensors"))
        key = lissom.run(recipe, task(), store, checkpoint=NOW, say=said.append)[0]["key"]
        assert sum("goes on from the checkpoint" in text for text in said) == 1, said
        assert key == whole and weights(store, key) == weights(tmp_path / "whole", key)
        one, two = (Store(root).log(key) for root in (store, tmp_path / "whole"))
        assert [{**row, "seconds": 0} for row in one] == [{**row, "seconds": 0} for row in two]
        assert not list(store.glob(".part-*")) and not list(store.rglob("*checkpoint*"))


def test_every_generator_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(checkpoints: Checkpoints | None) -> list[Tensor]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        model = Noisy()
        settings = TrainSettings(2, batch=16)
        fit(TrainingRun(model, data(), settings, seed=3, device=CPU, checkpoints=checkpoints))
        return [p.detach() for p in model.parameters()]

    wanted = learned(None)
    with monkeypatch.context() as patch:
        dies(patch, 7)
        with pytest.raises(Killed):
            learned(Checkpoints(tmp_path, 0.0))
    random.seed(99)
    found = learned(Checkpoints(tmp_path, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


class Fading(nn.Module):
    """A loss of one's own that changes from batch to batch: by a buffer, and by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.batches = 0

    def forward(self, _: nn.Module, batch: Any) -> Tensor:
        self.batches += 1
        self.mean = 0.9 * self.mean + 0.1 * batch.outputs.detach().mean(0)
        return nn.functional.cross_entropy(batch.outputs - self.mean, batch.labels) / self.batches

    def memory(self) -> int:
        return self.batches

    def recall(self, memory: int) -> None:
        self.batches = memory


def test_a_loss_of_ones_own_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learned(checkpoints: Checkpoints | None) -> Tensor:
        torch.manual_seed(1)
        model = net()
        run = TrainingRun(
            model,
            data(),
            TrainSettings(2, batch=16),
            seed=3,
            device=CPU,
            loss=Fading(),
            checkpoints=checkpoints,
        )
        fit(run)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    with monkeypatch.context() as patch:
        dies(patch, 7)
        with pytest.raises(Killed):
            learned(Checkpoints(tmp_path, 0.0))
    assert torch.equal(learned(Checkpoints(tmp_path, 0.0)), learned(None))


def begun(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Leave the checkpoint of a run that was killed."""
    with monkeypatch.context() as patch:
        dies(patch, 7)
        with pytest.raises(Killed):
            learn(folder, **settings)


def learn(
    folder: Path | None, *, width: int = 16, seed: int = 3, lr: float = 0.1, say: Any = print
) -> Tensor:
    torch.manual_seed(1)
    model = net(width)
    run = TrainingRun(
        model,
        data(),
        TrainSettings(2, batch=16, lr=lr),
        seed=seed,
        device=CPU,
        checkpoints=Checkpoints(folder, 0.0, say) if folder else None,
    )
    fit(run)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def flipped(path: Path) -> None:
    found = bytearray(path.read_bytes())
    found[-40] ^= 1
    path.write_bytes(found)


def of_another_torch(path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["lissom"])
    facts["of"]["torch"] = "1.0"
    save_file(load_file(path), path, {"lissom": json.dumps(facts)})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "cannot be read"),
        (flipped, "changed, or damaged"),
        (of_another_torch, "its torch was 1.0, now it is"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("no" * 99), "cannot be read"),
    ],
)
def test_a_checkpoint_that_is_broken_or_of_another_torch_is_set_aside(
    harm: Callable[[Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path, monkeypatch)
    harm(tmp_path / "checkpoint.safetensors")
    notes: list[str] = []
    assert torch.equal(learn(tmp_path, say=notes.append), learn(None))
    assert len(notes) == 1 and "set aside, the step starts anew" in notes[0] and said in notes[0]
    assert (tmp_path / "checkpoint-aside.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"seed": 4}, "its seed was 3"), ({"lr": 0.2}, "its pace was"), ({"width": 24}, "was ((16")],
)
def test_a_checkpoint_of_another_recipe_or_network_is_set_aside(
    settings: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path, monkeypatch)
    notes: list[str] = []
    assert torch.equal(learn(tmp_path, say=notes.append, **settings), learn(None, **settings))
    assert len(notes) == 1 and "set aside, the step starts anew" in notes[0] and said in notes[0]


def test_a_disk_that_is_full_does_not_end_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lissom.learning.checkpoint.os.replace", full)
    notes: list[str] = []
    assert torch.equal(learn(tmp_path, say=notes.append), learn(None))
    assert notes and all("no checkpoint could be written" in note for note in notes)
    assert not list(tmp_path.iterdir())


def test_one_checkpoint_is_kept_as_often_as_was_asked(tmp_path: Path) -> None:
    settings = TrainSettings(1, batch=16)
    checkpoints = Checkpoints(tmp_path, 3600.0)
    fit(TrainingRun(net(), data(), settings, seed=0, device=CPU, checkpoints=checkpoints))
    assert checkpoints.written == 0 and not list(tmp_path.iterdir())
    checkpoints = Checkpoints(tmp_path, 0.0)
    fit(TrainingRun(net(), data(), settings, seed=0, device=CPU, checkpoints=checkpoints))
    assert checkpoints.written == 6 and [path.name for path in tmp_path.iterdir()] == [
        "checkpoint.safetensors"
    ]


def test_measuring_that_is_killed_does_not_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("lissom.running.execute.sizes", killed)
        with pytest.raises(Killed):
            lissom.run("train(2, batch=16)", task(), tmp_path / "store", checkpoint=NOW)
    taken: list[int] = []
    lissom.run(
        "train(2, batch=16)",
        task(),
        tmp_path / "store",
        checkpoint=NOW,
        watch=lambda p: taken.append(p.done),
    )
    assert not taken


def test_the_seconds_of_a_step_are_those_of_all_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started_ago(self: Checkpoints, of: dict[str, Any]) -> Any:
        self.begun -= 1000
        return Checkpoints.__dict__["_read"](self, of)

    monkeypatch.setattr(Checkpoints, "_read", Checkpoints.read, raising=False)
    for at in (3, 2):  # killed twice
        with monkeypatch.context() as patch:
            dies(patch, at)
            patch.setattr(Checkpoints, "read", started_ago)
            with pytest.raises(Killed):
                lissom.run("train(2, batch=16)", task(), tmp_path / "store", checkpoint=NOW)
    record = lissom.run("train(2, batch=16)", task(), tmp_path / "store", checkpoint=NOW)[0]
    assert 2000 < record["seconds"] < 2100


def test_what_is_packed_comes_back_as_it_lay_in_memory() -> None:
    held: dict[str, Tensor] = {}
    last = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    given = {
        "a": last,
        2: (1, [True, None, "x", float("inf")]),
        "b": torch.tensor(3),
        "c": torch.randn(4, 4)[:, 1],
    }
    found = unpacked(json.loads(json.dumps(packed(given, held))), held)
    assert list(found) == list(given) and found[2] == given[2] and isinstance(found[2], tuple)
    for name in ("a", "b", "c"):
        assert torch.equal(found[name], given[name]) and found[name].dtype == given[name].dtype
    assert found["a"].stride() == last.stride()
    with pytest.raises(TypeError, match="a set cannot be kept"):
        packed({1: {2}}, held)


@pytest.mark.parametrize("minutes", [-1, float("nan"), float("inf")])
def test_minutes_that_are_none_are_refused(minutes: float) -> None:
    with pytest.raises(LissomError, match="checkpoint: expected minutes, 0 for none, got"):
        every_s(minutes)
