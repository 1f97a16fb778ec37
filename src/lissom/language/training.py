"""What a learning step says to the training loop, and what the loop says to those who watch it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..trees import Tree

    Term = Callable[[nn.Module, "Batch"], Tensor]  # of a loss

Freeze = Literal["none", "gamma", "norm", "ranges", "norm+ranges"]


@dataclass(frozen=True)
class Batch:
    """What a term of the loss sees: `images` (n c h w), or other inputs, as the network saw them,
    `labels` (n), which are the targets of any kind of task, and `outputs`.
    """

    images: Tree
    labels: Tree
    outputs: Tree


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast to learn: `epochs` over the data, `lr` the peak learning rate."""

    epochs: int
    lr: float = 0.1
    batch: int = 128
    schedule: Literal["onecycle", "cosine", "step", "constant"] = "onecycle"
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.0
    clip: float | None = None
    cutout: int = 0
    augment: Literal["auto", "none", "crop", "flip", "crop+flip"] = "auto"
    norm_momentum: float | None = None
    freeze: Freeze = "none"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    colour: float = 0.0
    mosaic: float = 0.0

    def rate(self, progress: float) -> float:
        """Return the learning rate at `progress`, the share of all steps already taken (0 to 1).

        onecycle: linear from 0.1 of the peak to the peak over the first quarter, then linear to 0.
        cosine: lr * (1 + cos(pi * progress)) / 2. step: lr, a tenth of it after 1/2, a hundredth
        after 3/4.
        """
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * progress)) / 2
        if self.schedule == "step":
            return self.lr * (1 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
        if progress < 0.25:
            return self.lr * (0.1 + 0.9 * progress / 0.25)
        return self.lr * max(0.0, 1 - progress) / 0.75


@dataclass(frozen=True)
class Progress:
    """Where the loop is, for whoever shows it."""

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    top1: float | None
    images_per_s: float
    seconds_per_step: float


@runtime_checkable
class Remembering(Protocol):
    """What changes from batch to batch beside the network, such as the weights of a sum of losses."""

    def memory(self) -> Any:
        """Return what it has to know to go on, as JSON takes it."""
        ...

    def recall(self, memory: Any) -> None:
        """Go on from what `memory` returned."""
        ...
