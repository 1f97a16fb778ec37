"""Vary whole batches of pixels on the device they lie on; the random draws come from one CPU generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def shifts(count: int, most: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Draw by how many pixels, up to `most` either way, each of `count` images moves down and right."""
    offsets = torch.randint(0, 2 * most + 1, (2, count), generator=draw)
    down, right = most - offsets
    return down, right


def shifted(pixels: Tensor, down: Tensor, right: Tensor, fill: float = 0) -> Tensor:
    """Return images (n c h w) of which each (n) is moved by so many pixels; what comes in is `fill`."""
    _, _, h, w = pixels.shape
    pad = max(1, int(torch.cat([down, right]).abs().max()))
    windows = F.pad(pixels, (pad,) * 4, value=fill).unfold(2, h, 1).unfold(3, w, 1)
    every = torch.arange(len(pixels), device=pixels.device)
    top = (pad - down).to(pixels.device)
    left = (pad - right).to(pixels.device)
    return windows[every, :, top, left]


def mirrors(count: int, draw: Generator) -> Tensor:
    """Draw which of `count` images are mirrored, each with probability one half."""
    return torch.rand(count, generator=draw).lt(0.5)


def mirrored(pixels: Tensor, which: Tensor) -> Tensor:
    """Return images (n c h w) of which some (n, booleans) are mirrored left to right."""
    which = which.to(pixels.device).view(-1, 1, 1, 1)
    return torch.where(which, pixels.flip(3), pixels)


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
