"""Mean and standard deviation of the channels of images."""

from __future__ import annotations

import torch

from .split import CPU, Split

MAX_IMAGES = 10_000  # images that the statistics are measured on


def mean_and_std(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation (c) of pixels in 0..1, of at most MAX_IMAGES images."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(21))[:MAX_IMAGES]
    count = 0
    total = torch.zeros(1, dtype=torch.float64)
    squares = torch.zeros(1, dtype=torch.float64)
    for pixels, _ in split.batches(500, CPU, order):
        values = pixels.double().transpose(0, 1).flatten(1) / 255
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-6).sqrt()
    return tuple(round(v, 5) for v in mean.tolist()), tuple(round(v, 5) for v in std.tolist())
