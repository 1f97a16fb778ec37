"""The default loss of the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ..language.training import Batch
from ..surgery.loss import as_classes

if TYPE_CHECKING:
    from ..language.training import Term


def cross_entropy(smoothing: float = 0.0) -> Term:
    """Return the cross-entropy of outputs (n classes) against labels, with label smoothing."""

    def value(_: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(batch.outputs, as_classes(batch.labels), label_smoothing=smoothing)

    return value
