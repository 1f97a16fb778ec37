"""The settings that a learning step passes to the training loop, and the progress it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..trees import Tree

    Term = Callable[[nn.Module, "Batch"], Tensor]  # of a loss
    Tell = Callable[[dict[str, Any]], None]  # of the row of an epoch

NEAR_WHOLE = 1e-6  # less than the smallest share of a batch
Freeze = Literal["none", "gamma", "norm", "ranges", "norm+ranges"]


@dataclass(frozen=True)
class Batch:
    """The input of a term of the loss: `images` (n c h w), or other inputs, as the network saw
    them; `labels` (n ...), the targets of any kind of task; `outputs`. They may be a part of the
    batch of an update, a `share` of its samples.
    """

    images: Tree
    labels: Tree
    outputs: Tree
    share: float = 1.0


def updates_after(updates: float, share: float) -> float:
    """Return the number of updates after a further `share` of a batch.

    It is a whole number after all parts of a batch, whatever the rounding of their shares.

    >>> updates_after(updates_after(updates_after(2, 0.7), 0.2), 0.1)
    3
    """
    total = updates + share
    return round(total) if abs(total - round(total)) < NEAR_WHOLE else total


@dataclass(frozen=True)
class TrainSettings:
    """The settings of training: `epochs` over the data, `lr` the peak learning rate, and more."""

    epochs: int
    lr: float = 0.1
    batch: int = 128
    schedule: Literal["onecycle", "cosine", "step", "milestones", "constant"] = "onecycle"
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.0
    clip: float | None = None
    cutout: int = 0
    augment: str = "auto"
    norm_momentum: float | None = None
    freeze: Freeze = "none"
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    colour: float = 0.0
    mosaic: float = 0.0
    nesterov: bool = True
    milestones: tuple[int, ...] | None = None
    factor: float = 0.1
    warmup: int = 0
    decay_on: str = "weights"
    layer_decay: float = 1.0
    only: str | None = None
    until: Literal["epochs", "plateau"] = "epochs"
    patience: int = 10
    resume: bool = False
    keep_optimizer: bool = False
    ema: float | None = None
    accumulate: int = 1
    drop_path: float | None = None
    recompute: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    sync_norm: bool = False


@dataclass(frozen=True)
class Progress:
    """The progress of the training loop, for display."""

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    top1: float | None
    samples_per_s: float
    seconds_per_step: float


@runtime_checkable
class Stateful(Protocol):
    """State that changes from batch to batch besides the network, such as weights of losses."""

    def memory(self) -> Any:
        """Return the state to save in a checkpoint, as JSON."""
        ...

    def recall(self, memory: Any) -> None:
        """Restore the state that `memory` returned."""
        ...
