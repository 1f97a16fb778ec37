"""The training function of all learning steps."""

from __future__ import annotations

from typing import Any

from ..errors import LissomError
from .distributed_loop import DistributedLoop
from .loop import Loop
from .ranks import Ranks
from .training_run import TrainingRun


def fit(run: TrainingRun, ranks: Ranks | None = None) -> list[dict[str, Any]]:
    """Train `run.model` in place and return one row for each epoch.

    The rows hold epoch, lr, loss, top1 (of the augmented training batches; None if labels are not
    classes) and seconds; `valid`, the validation metric, if until="plateau"; and `midway`, the
    metric that the rung judges. With `run.checkpoints`, training resumes from the last one, and
    ends bit-equal to a run that was never killed. `ranks` are the processes that train together,
    all of which call this with the same arguments. Raises LissomError, naming epoch and step, if
    the loss is not finite, and Stopped at the rung.
    """
    if not len(run.data.train):
        raise LissomError(f"{run.where}: the training split is empty")
    loop = Loop(run) if ranks is None else DistributedLoop(run, ranks)
    return loop.train()
