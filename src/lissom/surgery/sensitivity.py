"""How sensitive the loss is to a small change of each weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import LissomError
from ..trees import Tree, length, run_on_copied_inputs, sample
from .loss import loss_of

if TYPE_CHECKING:
    from ..language.context import Context

# the least value, relative to the mean of a layer: weights with gradient 0 count, too
MIN_SHARE_OF_MEAN = 1e-6


@contextmanager
def gradients_by(weights: Iterable[Tensor]) -> Iterator[None]:
    """Compute gradients within this context, also by weights that are frozen."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def squared_gradients(
    model: nn.Module,
    layers: Sequence[str],
    batches: Sequence[tuple[Tree, Tree]],
    ctx: Context,
) -> dict[str, Tensor]:
    """Return for each layer the mean over samples of the squared gradient of the loss by each
    weight (out in ...): the diagonal of the empirical Fisher information.

    The loss is the task's, or cross-entropy; without labels, the network's own predictions are the
    labels. Raises LissomError if there are no samples, or if outputs are not numbers for classes.
    """
    weights = {name: model.get_parameter(f"{name}.weight") for name in layers}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    loss = loss_of(model, ctx)
    count = 0
    model.eval()
    with gradients_by(weights.values()):
        for samples, labels in batches:
            for k in range(length(samples)):
                single = sample(samples, k)
                slopes = torch.autograd.grad(
                    loss(single, sample(labels, k), run_on_copied_inputs(model, single)),
                    list(weights.values()),
                    allow_unused=True,
                )
                for name, slope in zip(weights, slopes, strict=True):
                    if slope is not None:
                        squares[name] += slope.square()
                count += 1
    if not count:
        raise LissomError(f"{ctx.where}: sensitivity needs samples, and there are none")
    return {
        name: (total / count).clamp_min(max(float(total.mean()) / count * MIN_SHARE_OF_MEAN, 1e-30))
        for name, total in squares.items()
    }
