"""Recalibrate the running statistics of batch-norm layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...trees import Tree, alike, called, concatenated, length, put_in, tensors_in

LEAST = 32  # with fewer samples the old statistics are better


def recalibrate_batchnorms(model: nn.Module, batches: Sequence[Tree]) -> int:
    """Replace running means and variances in place by those over `batches` (n c h w). Return the
    number of norms changed.

    Samples are split into new batches of nearly equal size, because a batch of one may have no
    variance. Batches are weighted by their size, and all calls of a norm equally. With fewer than
    LEAST samples nothing is changed.
    Source: Li et al. 2020, EagleEye, https://arxiv.org/abs/2007.02491.
    """
    norms = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    count = sum(map(length, batches))
    if not norms or count < LEAST:
        return 0
    parts = evenly(list(batches), -(-count // max(LEAST, *map(length, batches))))
    model.eval()
    momenta = [m.momentum for m in norms]
    sums = [
        [torch.zeros_like(s) for s in (m.running_mean, m.running_var) if s is not None]
        for m in norms
    ]
    for m in norms:
        m.train()
        m.momentum = None  # running statistics become the mean of all calls since the count was 0
    try:
        with torch.no_grad():
            for images in parts:
                for m in norms:
                    m.num_batches_tracked.zero_()  # type: ignore[union-attr]
                called(model, images)
                for k, m in enumerate(norms):
                    assert m.running_mean is not None and m.running_var is not None
                    share = length(images) / count
                    sums[k] = [
                        sums[k][0] + share * m.running_mean,
                        sums[k][1] + share * m.running_var,
                    ]
            for m, (mean, var) in zip(norms, sums, strict=True):
                assert m.running_mean is not None and m.running_var is not None
                m.running_mean.copy_(mean)
                m.running_var.copy_(var)
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
            m.eval()
    return len(norms)


def evenly(batches: Sequence[Tree], count: int) -> list[Tree]:
    """Return all samples in `count` batches of nearly equal size. Batches of different shapes are
    returned unchanged.
    """
    if len(alike(batches)) < len(batches):
        return list(batches)
    together = concatenated(batches)
    columns = [t.tensor_split(count) if t.ndim else [t] * count for t in tensors_in(together)]
    return [put_in(together, parts) for parts in zip(*columns, strict=True)]
