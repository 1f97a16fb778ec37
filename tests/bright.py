"""Images whose class is their brightness, small networks that learn it, and training in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lissom.data.data import Data
from lissom.data.split import Images
from lissom.language.training import TrainSettings
from lissom.learning.fit import fit
from lissom.learning.training_run import TrainingRun

CPU = torch.device("cpu")


def data(count: int = 70, size: int = 8) -> Data:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=draw)
    noise = torch.randint(0, 60, (count, 3, size, size), generator=draw)
    split = Images((noise + 90 * labels.view(-1, 1, 1, 1)).byte(), labels)
    half = (0.5,) * 3
    return Data(
        "bright", split, split, split, tuple("abc"), 3, (size, size), half, (0.25,) * 3, True, "x"
    )


def plain(seed: int = 0) -> nn.Sequential:
    """Return a network without batch-norm, whose gradients add up over samples."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def net(seed: int = 0) -> nn.Sequential:
    """Return a network with batch-norm and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def trained(model: nn.Module, settings: TrainSettings, **more: Any) -> list[dict[str, Any]]:
    if settings.precision == "auto":
        settings = replace(settings, precision="fp32")
    given: dict[str, Any] = {"seed": 0, "device": CPU, **more}
    return fit(TrainingRun(model, data(), settings, **given))
