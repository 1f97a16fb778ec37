"""What a training loop is given: the network, the data, the settings, and the optional parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..data.data import Data
from ..language.kind import Kind
from ..language.training import Progress, Stateful, TrainSettings
from .checkpoint import Checkpoints
from .loss import cross_entropy
from .moments import OptimizerState
from .plateau import ValidationMetric
from .precision import precision_named
from .rung import Rung

if TYPE_CHECKING:
    from ..language.training import Tell, Term


def ignore_row(_: object) -> None:
    """Do nothing with the row of an epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One learning step: `model` is trained in place on `data.train`."""

    model: nn.Module = field(kw_only=False)
    data: Data = field(kw_only=False)
    settings: TrainSettings = field(kw_only=False)
    seed: int
    device: torch.device
    where: str = "fit"  # names the step in errors
    loss: Term | None = None  # a scalar of the model and a batch; cross-entropy if None
    terms: Sequence[Term] = ()  # added to the loss
    extra: Sequence[nn.Module] = ()  # used by the loss, and trained with the model
    stateful: Sequence[Stateful] = ()  # further state that changes from batch to batch
    kind: Kind | None = None  # transforms targets with their images
    optimizer_state: OptimizerState = field(default_factory=OptimizerState)
    # metric of a network on the validation split, for until="plateau" and for the rung
    validation_metric: ValidationMetric | None = None
    rung: Rung | None = None  # the metric to reach after a third of the epochs
    checkpoints: Checkpoints | None = None  # to resume from after a kill
    tell: Tell = ignore_row  # gets the row of each epoch; after resuming, all rows again
    watch: Callable[[Progress], None] | None = None  # gets the progress of every tenth batch

    @property
    def losses(self) -> tuple[Term, ...]:
        """The loss and its further terms, which are added up."""
        return (self.loss or cross_entropy(self.settings.smoothing), *self.terms)

    @property
    def precision(self) -> torch.dtype:
        """The precision of autocast."""
        return precision_named(self.settings.precision, self.device)
