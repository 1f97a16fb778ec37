"""The training function of all learning steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data.data import Data
from ..errors import LissomError
from ..language.kind import Kind
from ..language.training import Progress, Remembering, TrainSettings
from .checkpoint import Checkpoints
from .loop import Loop
from .loss import cross_entropy
from .moments import Carried
from .plateau import Judge
from .precision import precision_named
from .ranks import Ranks
from .rung import Rung
from .together import LoopTogether

if TYPE_CHECKING:
    from ..language.training import Tell, Term


def fit(
    model: nn.Module,
    data: Data,
    pace: TrainSettings,
    *,
    seed: int,
    device: torch.device,
    loss: Term | None = None,
    terms: Sequence[Term] = (),
    where: str = "fit",
    watch: Callable[[Progress], None] | None = None,
    precision: torch.dtype | None = None,
    extra: Sequence[nn.Module] = (),
    remembers: Sequence[Remembering] = (),
    checkpoints: Checkpoints | None = None,
    kind: Kind | None = None,
    judge: Judge | None = None,
    carried: Carried | None = None,
    tell: Tell | None = None,
    ranks: Ranks | None = None,
    rung: Rung | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place on `data.train` and return one row for each epoch.

    `loss` takes the model and a `Batch` and returns a scalar; cross-entropy if None. `terms` are
    added to it. The rows hold epoch, lr, loss, top1 (of the augmented training batches; None if
    labels are not classes) and seconds. Weight decay applies to the parameters that `pace.decay_on`
    names. `precision` is that of autocast; `pace.precision` if None. `extra` are modules that
    `loss` uses and that are trained with the model. `kind` transforms targets with their images.
    `remembers` are objects with further state that changes by batch. With `checkpoints`, training
    resumes from the last one, and ends bit-equal to a run that was never killed. `judge` gives the
    metric for until="plateau"; a row then holds it as `valid`. `carried` holds the optimizer state
    of the previous step, and takes that of this one. `tell` is called with each row, and again with
    those of a resumed run. `ranks` are the processes that train together, all of which call this
    with the same arguments. `rung` is what must be reached after a third of the epochs, by the metric
    of `judge`; that row then holds it as `midway`.
    Raises LissomError, naming epoch and step, if the loss is not finite, and Stopped at the `rung`.
    """
    if not len(data.train):
        raise LissomError(f"{where}: the training split is empty")
    make = Loop if ranks is None else partial(LoopTogether, ranks)
    loop = make(
        model,
        data,
        pace,
        seed=seed,
        device=device,
        loss=loss or cross_entropy(pace.smoothing),
        terms=terms,
        where=where,
        watch=watch,
        precision=precision or precision_named(pace.precision, device),
        extra=extra,
        remembers=remembers,
        kind=kind,
        judge=judge,
        carried=carried or Carried(),
        rung=rung,
    )
    return loop.run(checkpoints, tell or (lambda _: None))
