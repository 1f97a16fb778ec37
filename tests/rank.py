"""One of several processes that train together: `python rank.py CASES RANK COUNT FOLDER`.

It learns the cases (separated by commas) one after another and writes its results to FOLDER.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from lissom import LissomError
from lissom.data.data import Data
from lissom.data.split import Images
from lissom.language.training import TrainSettings
from lissom.learning.checkpoint import Checkpoints
from lissom.learning.fit import fit
from lissom.learning.ranks import Ranks, join_group
from lissom.learning.training_run import TrainingRun

CPU = torch.device("cpu")


def data(count: int = 57, size: int = 8) -> Data:
    """Return images of three classes, which differ in brightness."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=draw)
    noise = torch.randint(0, 60, (count, 3, size, size), generator=draw)
    split = Images((noise + 90 * labels.view(-1, 1, 1, 1)).byte(), labels)
    shape = (size, size)
    grey = (0.5,) * 3
    return Data("bright", split, split, split, ("a", "b", "c"), 3, shape, grey, grey, True, "x")


def plain() -> nn.Module:
    """Return a network whose outputs for a sample depend on that sample only."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def normed() -> nn.Module:
    """Return a network with batch-norm and dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def normed_alone() -> nn.Module:
    """Return a network with batch-norm that draws nothing: one learns, the other has no scales and
    averages all batches.
    """
    layers = list(normed())
    layers[3] = nn.BatchNorm2d(8, affine=False, momentum=None)
    return nn.Sequential(*layers)


class Moving(nn.Module):
    """A layer with a buffer of its own, which moves with what it sees."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take note of the mean."""
        if self.training:
            self.seen.lerp_(x.detach().mean(), 0.1)
        return x


def quantized() -> nn.Module:
    """Return a network whose ranges of activations move on in training."""
    import lissom

    model = nn.Sequential(normed(), Moving())
    torch.manual_seed(2)
    recipe = 'quantize(8, grid="uniform(momentum=0.1)")'
    return lissom.apply(recipe, model.eval(), torch.randn(16, 3, 8, 8))


class Sum:
    """What is remembered beside a network."""

    def __init__(self) -> None:
        self.value = 0.0

    def memory(self) -> float:
        """Return it."""
        return self.value

    def recall(self, memory: float) -> None:
        """Go on from it."""
        self.value = memory


ALIKE: dict[str, Any] = {"batch": 24, "lr": 0.05, "augment": "none", "precision": "fp32"}
CASES: dict[str, tuple[Any, TrainSettings]] = {
    "one batch": (plain, TrainSettings(1, **{**ALIKE, "batch": 57})),
    "plain": (plain, TrainSettings(3, **ALIKE)),
    "few": (plain, TrainSettings(1, **{**ALIKE, "batch": 5})),
    "normed": (normed, TrainSettings(6, **{**ALIKE, "augment": "auto"})),
    "synchronised": (normed_alone, TrainSettings(3, **ALIKE, sync_norm=True)),
    "quantized": (quantized, TrainSettings(2, **ALIKE)),
    "statistics": (normed, TrainSettings(1, **{**ALIKE, "batch": 57, "lr": 1e-9})),
    "ranges": (quantized, TrainSettings(1, **{**ALIKE, "batch": 57, "lr": 1e-9})),
    "everything": (
        normed,
        TrainSettings(3, **ALIKE, ema=0.9, accumulate=2, until="plateau", clip=1.0),
    ),
    "killed": (normed, TrainSettings(3, **{**ALIKE, "augment": "auto"})),
}


def learn(case: str, folder: Path, ranks: Ranks | None = None) -> None:
    """Learn, and write weights and rows."""
    make, settings = CASES[case]
    model = make()
    remembered = Sum()
    rank = ranks.rank if ranks else 0
    batches = 0

    def noted(_: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal batches
        batches += 1
        remembered.value += float(batch.outputs.detach().sum())
        if (folder / "kill").exists() and batches == 5 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(())

    place = folder / f"checkpoint of {case}"
    place.mkdir(exist_ok=True)
    run = TrainingRun(
        model,
        data(),
        settings,
        seed=3,
        device=CPU,
        terms=(noted,),
        stateful=(remembered,),
        checkpoints=Checkpoints(place, 0) if rank == 0 else None,
        validation_metric=lambda _: 0.1 * rank,
    )
    rows = fit(run, ranks)
    name = f"{case}-{ranks.count if ranks else 1}-{rank}"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.st")
    (folder / f"{name}.json").write_text(json.dumps([rows, remembered.value]))


if __name__ == "__main__":
    _, LEARNED, RANK, COUNT, FOLDER = sys.argv
    torch.set_num_threads(1)
    PLACE = Path(FOLDER)
    try:
        MET = join_group(int(RANK), int(COUNT), PLACE / "meeting", lambda: "another process ended")
        for CASE in LEARNED.split(","):
            learn(CASE, PLACE, MET)
    except LissomError as error:
        sys.exit(f"lissom: {error}")
