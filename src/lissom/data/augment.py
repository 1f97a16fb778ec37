"""Vary whole batches of pixels on the device they lie on; the random draws come from one CPU generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def crop(pixels: Tensor, pad: int, draw: Generator) -> Tensor:
    """Shift each image of (n c h w) by up to `pad` pixels either way; what comes in is 0."""
    n, _, h, w = pixels.shape
    windows = F.pad(pixels, (pad,) * 4).unfold(2, h, 1).unfold(3, w, 1)
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=draw).to(pixels.device)
    return windows[torch.arange(n, device=pixels.device), :, dy, dx]


def flip(pixels: Tensor, draw: Generator) -> Tensor:
    """Mirror each image of (n c h w) left to right with probability one half."""
    mirrored = torch.rand(len(pixels), generator=draw).lt(0.5).to(pixels.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)


def cutout(images: Tensor, side: int, draw: Generator) -> Tensor:
    """Set a square of `side` pixels at a random place of each image (n c h w) to 0.

    Source: DeVries and Taylor 2017, Improved Regularization of Convolutional Neural Networks with
    Cutout, https://arxiv.org/abs/1708.04552. The square may lie partly outside, as there.
    """
    n, _, h, w = images.shape
    y = torch.randint(0, h, (n,), generator=draw).to(images.device).view(-1, 1, 1, 1)
    x = torch.randint(0, w, (n,), generator=draw).to(images.device).view(-1, 1, 1, 1)
    rows = torch.arange(h, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(w, device=images.device).view(1, 1, 1, -1)
    low = side // 2
    high = side - side // 2
    hidden = (rows >= y - low) & (rows < y + high) & (columns >= x - low) & (columns < x + high)
    return images.masked_fill(hidden, 0)
