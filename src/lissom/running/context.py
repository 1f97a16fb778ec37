"""The context of a step of a recipe if there is a task: its data, its loss, its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.split import evenly_spaced
from ..errors import counted
from ..language.context import Context
from ..language.step import Step
from ..learning.evaluate import network_answers, scored
from ..learning.fit import fit
from ..learning.moments import OptimizerState
from ..learning.precision import precision_named
from ..learning.ranks import Ranks
from ..learning.rung import Rung
from ..learning.step import Learning
from ..learning.training_run import TrainingRun, ignore_row

if TYPE_CHECKING:
    from ..language.training import Progress, Stateful, Tell, Term, TrainSettings
    from ..learning.checkpoint import Checkpoints
    from ..tasks.task import Task
    from ..trees import Tree

# at batch-norm's default momentum, 1.5 % of the old statistics remain after this many updates
MIN_UPDATES = 40
MAX_LOSS_RATIO = 1.2  # note a final loss above this many times the loss of the first epoch


@dataclass
class TaskContext(Context):
    """A context with a task. `watch` receives the progress of learning; `checkpoints` let it resume
    after a kill.
    """

    task: Task | None = None
    watch: Callable[[Progress], None] | None = None
    checkpoints: Checkpoints | None = None
    tell: Tell = ignore_row  # gets each epoch's row
    optimizer_state: OptimizerState = field(default_factory=OptimizerState)
    ranks: Ranks | None = None  # the processes that learn together
    rung: Rung | None = None  # what learning must have reached on its way

    @property
    def known(self) -> Task:
        """The task, which must be set."""
        assert self.task is not None
        return self.task

    def labelled(self, count: int) -> list[tuple[Tree, Tensor | None]]:
        return list(self.known.data.labelled(count, self.seed))

    def accuracy(self, model: nn.Module, most: int = 1000) -> float | None:
        data = self.known.data
        answers = network_answers(model, data, evenly_spaced(data.valid, most), self.device)
        metrics = scored(self.known, answers)
        return next(iter(metrics.values()), None)

    def validation_count(self) -> int:
        return len(self.known.data.valid)

    def updates(self, epochs: int, batch: int) -> int:
        whole, rest = divmod(len(self.known.data.train), batch)
        # the loops leave out a last batch without batch statistics in each process
        least = 2 * (1 if self.ranks is None else self.ranks.count)
        return epochs * (whole + (rest >= least or (rest > 0 and not whole)))

    def learn(
        self,
        model: nn.Module,
        settings: TrainSettings,
        loss: Term | None = None,
        terms: tuple[Term, ...] = (),
        extra: Iterable[nn.Module] = (),
        stateful: Sequence[Stateful] = (),
    ) -> None:
        run = TrainingRun(
            model,
            self.known.data,
            settings,
            seed=self.seed,
            device=self.device,
            where=self.where,
            loss=loss or self.known.term(settings.smoothing),
            terms=terms,
            extra=tuple(extra),
            stateful=stateful,
            kind=self.known.kind,
            optimizer_state=self.optimizer_state,
            validation_metric=lambda network: self.accuracy(network, self.validation_count()),
            rung=self.rung,
            checkpoints=self.checkpoints,
            tell=self.tell,
            watch=self.watch,
        )
        rows = fit(run, self.ranks)
        self.log += rows
        model.to("cpu")
        if rows and rows[-1]["loss"] > MAX_LOSS_RATIO * rows[0]["loss"]:
            self.notes.append(
                f"{self.where}: the loss rose from {rows[0]['loss']:.3g} to {rows[-1]['loss']:.3g}; "
                f"lr={settings.lr:g} is too high for a network that is trained already, a tenth of "
                "it may be right"
            )
        if settings.until == "plateau":
            best = max(rows, key=lambda row: (row["valid"], -row["epoch"]))
            self.notes.append(
                f"{self.where}: {counted(len(rows), 'epoch')} of at most {settings.epochs}; the best "
                f"was {best['epoch']}, with {best['valid']:.4g} on the validation split"
            )
        updates = self.updates(settings.epochs, settings.batch)
        if updates < MIN_UPDATES and any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()
        ):
            self.notes.append(
                f"{self.where}: {counted(updates, 'step')}, too few for the running "
                "statistics of batch-norm "
                "to follow; more epochs or a smaller batch give more"
            )


def learned_on(step: Step | None, device: torch.device, ranks: Ranks | None) -> str:
    """Return device, precision and number of processes of a learning step, as in records."""
    name = step.precision if isinstance(step, Learning) else "auto"
    precision = str(precision_named(name, device)).removeprefix("torch.")
    processes = "" if ranks is None else f", {ranks.count} processes"
    return f"{device}, {precision}{processes}"


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a log with None instead of infinities and NaN, which JSON cannot express."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
