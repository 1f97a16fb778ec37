"""Recalibrate the running statistics of batch-norm layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...trees import Tree, alike, concatenated, length, put_in, run_on_copied_inputs, tensors_in

if TYPE_CHECKING:
    from ...language.context import Context

MIN_SAMPLES = 32  # with fewer samples the old statistics are better


def recalibrate_batchnorms(model: nn.Module, batches: Sequence[Tree]) -> int:
    """Replace running means and variances in place by those over `batches` (n c h w). Return the
    number of norms changed.

    Samples are split into new batches of nearly equal size, because a batch of one may have no
    variance. Batches are weighted by their size, and all calls of a norm equally. Calls with a
    single value for each channel use the old statistics and do not count. With too few samples
    nothing is changed.
    Source: Li et al. 2020, EagleEye, https://arxiv.org/abs/2007.02491.
    """
    norms = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    count = sum(map(length, batches))
    if not norms or count < MIN_SAMPLES:
        return 0
    parts = evenly(list(batches), -(-count // max(MIN_SAMPLES, *map(length, batches))))
    model.eval()
    sought = [Statistics(m) for m in norms]
    try:
        with torch.no_grad():
            for images in parts:
                for each in sought:
                    each.begin()
                run_on_copied_inputs(model, images)
                for each in sought:
                    each.add(length(images))
            return sum([each.take_means() for each in sought])
    finally:
        for each in sought:
            each.close()


def recalibrate_and_record(model: nn.Module, ctx: Context, samples: int, tell: bool = True) -> None:
    """Recalibrate a network on training samples. With `tell`, record the accuracy before and after."""
    before = ctx.accuracy(model) if tell else None
    norms = recalibrate_batchnorms(model, ctx.images(samples))
    if tell and norms:
        ctx.facts["recalibrated"] = {
            "norms": norms,
            "before": before,
            "after": ctx.accuracy(model),
        }


class Statistics:
    """The statistics of a batch-norm, measured anew; until `take_means` it keeps the old ones."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        self.norm = norm
        self.held = (norm.running_mean, norm.running_var)
        self.old = [value.clone() for value in self.held]
        self.sums = [torch.zeros_like(value, dtype=torch.float64) for value in self.held]
        self.count = 0
        self.momentum = norm.momentum
        # running statistics become the mean of all calls since the count was 0
        norm.momentum = None
        norm.train()
        self.aside: list[Tensor] | None = None  # what is measured, while the norm uses the old
        self.hooks = ExitStack()
        before = norm.register_forward_pre_hook(self._begins, with_kwargs=True)
        self.hooks.callback(before.remove)
        self.hooks.callback(norm.register_forward_hook(self._ends).remove)

    def begin(self) -> None:
        """Begin a batch of samples."""
        self.norm.num_batches_tracked.zero_()  # type: ignore[union-attr]

    def _begins(
        self, norm: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> None:
        """Measure in this call if each channel has several values; else use the old statistics."""
        x = next(iter((*inputs, *named.values())))
        norm.train(x.numel() > x.shape[1])
        if not norm.training:
            self.aside = [value.clone() for value in self.held]
            self._hold(self.old)

    def _ends(self, *_: object) -> None:
        """Go on with what is measured."""
        if self.aside is not None:
            self._hold(self.aside)
            self.aside = None

    def _hold(self, values: Sequence[Tensor]) -> None:
        for mine, value in zip(self.held, values, strict=True):
            mine.copy_(value)

    def add(self, samples: int) -> None:
        """Add the statistics of a batch of so many samples, if there are any."""
        if int(self.norm.num_batches_tracked or 0):
            self.count += samples
            for total, value in zip(self.sums, self.held, strict=True):
                total += samples * value

    def take_means(self) -> bool:
        """Give the norm the mean of all batches; return whether there were any."""
        self.old = [total / self.count for total in self.sums] if self.count else self.old
        return self.count > 0

    def close(self) -> None:
        """Let the norm be as before, with the new statistics if it has taken them."""
        self.hooks.close()
        self.norm.momentum = self.momentum
        self.norm.eval()
        with torch.no_grad():
            self._hold(self.old)


def evenly(batches: Sequence[Tree], count: int) -> list[Tree]:
    """Return all samples in `count` batches of nearly equal size. Batches of different shapes are
    returned unchanged.
    """
    if len(alike(batches)) < len(batches):
        return list(batches)
    together = concatenated(batches)
    columns = [t.tensor_split(count) if t.ndim else [t] * count for t in tensors_in(together)]
    return [put_in(together, parts) for parts in zip(*columns, strict=True)]
