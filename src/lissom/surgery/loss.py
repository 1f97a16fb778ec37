"""The loss by which a step judges weights or channels: the task's own, or cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LissomError
from ..language.training import Batch

if TYPE_CHECKING:
    from ..language.context import Context

Loss = Callable[[Any, Tensor | None, Any], Tensor]  # (inputs, labels, outputs) -> loss


def cross_entropy(inputs: Any, labels: Tensor | None, outputs: Any) -> Tensor:
    """Return the cross-entropy of outputs (n classes ...) and labels (n ...).

    Without labels, the network's own predictions are the labels. Raises LissomError if outputs are
    not one tensor with a number for each class.
    """
    del inputs
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        raise LissomError(
            "cross-entropy needs a network that returns one tensor with a number for each class; "
            "give the task a loss of its own, or choose a method that needs weights alone, as l1"
        )
    return F.cross_entropy(
        outputs, outputs.detach().argmax(1) if labels is None else as_classes(labels)
    )


def as_classes(labels: Tensor) -> Tensor:
    """Return labels as cross-entropy takes them: whole numbers in int64, shares of classes as they are."""
    return labels if labels.is_floating_point() else labels.long()


def loss_of(model: nn.Module, ctx: Context) -> Loss:
    """Return the loss of a network on samples: its task's if there are labels, or cross-entropy."""
    task_loss = ctx.task.term() if ctx.task is not None else None

    def loss(inputs: Any, labels: Tensor | None, outputs: Any) -> Tensor:
        if task_loss is None or labels is None:
            return cross_entropy(inputs, labels, outputs)
        return task_loss(model, Batch(inputs, labels, outputs))

    return loss
