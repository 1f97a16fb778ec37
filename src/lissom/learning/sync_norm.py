"""Batch-norm over the whole batch when several processes compute a part of it each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .ranks import Ranks

NORMS = nn.modules.batchnorm._BatchNorm


class MeanOverRanks(torch.autograd.Function):
    """The mean of values over all processes, weighted with their `count`; and the total count.

    Each process computes the gradient of the mean loss of its own part, which is later weighted
    with the part's share of the batch. So gradients from other processes have these weights too.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, count: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Return the weighted mean, and the total count of all processes."""
        total = values.new_tensor(float(count))
        sums, total = ranks.all_reduce_sum([values * count, total])
        ctx.ranks = ranks
        ctx.share = count / float(total)
        ctx.mark_non_differentiable(total)
        return sums / total, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """Return the sum of all parts' gradients, each weighted with its share of the batch."""
        return ctx.ranks.all_reduce_sum([ctx.share * gradient])[0], None, None


def synchronise(model: nn.Module, ranks: Ranks) -> Callable[[], None]:
    """Make each batch-norm in training mode normalise with the statistics of all processes.

    Returns a function that undoes it. Source: the statistics are added up as in Chan, Golub and
    LeVeque 1983, Algorithms for Computing the Sample Variance; torch.nn.SyncBatchNorm does the same
    on GPUs only.
    """
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    for norm in norms:
        norm.forward = partial(normalised, norm, ranks, norm.forward)  # type: ignore[method-assign]

    def undo() -> None:
        for norm in norms:
            del norm.forward

    return undo


def normalised(
    norm: Any, ranks: Ranks, alone: Callable[[Tensor], Tensor], inputs: Tensor
) -> Tensor:
    """Return a batch-norm's output for its part (n c ...) of a batch; update running statistics."""
    if not norm.training:
        return alone(inputs)
    x = inputs.float()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    count = x.numel() // x.shape[1]  # numbers of a channel in this part
    own_mean = x.mean(axes)
    own_variance = (x - own_mean.view(shape)).square().mean(axes)
    mean, total = MeanOverRanks.apply(own_mean, count, ranks)
    variance, _ = MeanOverRanks.apply(own_variance + (own_mean - mean).square(), count, ranks)
    if norm.track_running_stats:
        move(norm, mean.detach(), variance.detach() * total / (total - 1).clamp_min(1))
    scale = (variance + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        scale = scale * norm.weight
        shift = shift * norm.weight + norm.bias
    return (x * scale.view(shape) + shift.view(shape)).to(inputs.dtype)


def move(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Update running statistics as a batch-norm does."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    rate = norm.momentum
    if rate is None:  # the mean of all batches
        rate = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), rate)
