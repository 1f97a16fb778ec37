"""Train a network to answer like a teacher."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LissomError
from ..menu import menu
from ..method import arg
from .train import Learning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..context import Context
    from ..fit import Batch


@dataclass(frozen=True)
class Distill(Learning):
    """Train on the labels and on a teacher's answers to the same augmented batches.

    value = (1 - alpha) * task loss + alpha * loss(student, teacher)
    The teacher is the recipe's own network as it was before anything was taken from it (after its leading
    `train` steps), or the one that `teacher` names. It runs in inference mode, in the precision of the student.
    Source: Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531.
    """

    loss: str = arg("what of the teacher to match", menu="losses")
    epochs: int = arg("how often the training data is seen", low=1, high=100_000)
    _: KW_ONLY
    lr: float = arg("peak learning rate of SGD with Nesterov momentum", 0.1, above=0, high=10)
    alpha: float = arg("share of the teacher's loss, the rest is the labels'", 0.9, low=0, high=1)

    teacher: str | None = arg("a key of the store or a weight file; None for the uncompressed network itself", None)

    def identity(self) -> str:
        """Return the settings, a weight file standing for its content."""
        from ..task import file_mark

        path = (self.teacher or "").rpartition("=")[2]
        return super().identity() + (file_mark(path) if path and Path(path).is_file() else "")

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Raise if the teacher that is named cannot be had or answers another question."""
        if self.teacher is not None and ctx.teacher is not None:
            self._alike(ctx.teacher(self.teacher)(ctx.example), model(ctx.example), ctx)
        return model

    def _alike(self, wanted: Tensor, given: Tensor, ctx: Context) -> None:
        if wanted.shape != given.shape:
            raise LissomError(f"{ctx.where}: the teacher answers with {tuple(wanted.shape[1:])} numbers, "
                              f"the student with {tuple(given.shape[1:])}")

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import torch

        from ..fit import autocast, cross_entropy, fast_precision, layout_of

        if ctx.teacher is None or ctx.task is None:
            raise LissomError(f"{ctx.where}: there is no teacher; use lissom.run, which keeps the uncompressed network")
        teacher = ctx.teacher(self.teacher).to(ctx.device).to(memory_format=layout_of(model, ctx.device)).eval()
        task_loss = ctx.task.loss or cross_entropy()
        match, precision = menu("losses").make(self.loss), fast_precision(ctx.device)

        def value(student: nn.Module, batch: Batch) -> Tensor:
            with torch.inference_mode(), autocast(ctx.device, precision):
                wanted = teacher(batch.images).float()
            self._alike(wanted, batch.outputs, ctx)
            taught: Tensor = match(batch.outputs, wanted.clone())
            return (1 - self.alpha) * task_loss(student, batch) + self.alpha * taught

        ctx.learn(model, self.pace(self.epochs), loss=value)
        return model
