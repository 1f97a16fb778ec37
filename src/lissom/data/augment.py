"""Augment whole batches of pixels on their device; random numbers come from one CPU generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LUMA = torch.tensor([0.299, 0.587, 0.114])  # weights of red, green and blue, ITU-R BT.601


def draw_shifts(count: int, max_shift: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Draw shifts down and right, within -most..most pixels, for each of `count` images."""
    offsets = torch.randint(0, 2 * max_shift + 1, (2, count), generator=draw)
    down, right = max_shift - offsets
    return down, right


def shift_images(pixels: Tensor, down: Tensor, right: Tensor, fill: float = 0) -> Tensor:
    """Return images (n c h w), each shifted `down` and `right` (n) pixels; gaps are `fill`."""
    _, _, h, w = pixels.shape
    pad = max(1, int(torch.cat([down, right]).abs().max()))
    windows = F.pad(pixels, (pad,) * 4, value=fill).unfold(2, h, 1).unfold(3, w, 1)
    every = torch.arange(len(pixels), device=pixels.device)
    top = (pad - down).to(pixels.device)
    left = (pad - right).to(pixels.device)
    return windows[every, :, top, left]


def draw_mirrors(count: int, draw: Generator) -> Tensor:
    """Draw which of `count` images are mirrored, each with probability one half."""
    return torch.rand(count, generator=draw).lt(0.5)


def mirror_images(pixels: Tensor, which: Tensor) -> Tensor:
    """Return images (n c h w) with those in `which` (n, booleans) mirrored left to right."""
    which = which.to(pixels.device).view(-1, 1, 1, 1)
    return torch.where(which, pixels.flip(3), pixels)


def cutout(images: Tensor, side: int, draw: Generator) -> Tensor:
    """Set a square of `side` pixels at a random place of each image (n c h w) to 0.

    Source: DeVries and Taylor 2017, Improved Regularization of Convolutional Neural Networks with
    Cutout, https://arxiv.org/abs/1708.04552. As there, the square may lie partly outside.
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


def jitter_colours(pixels: Tensor, max_change: float, draw: Generator) -> Tensor:
    """Return images (n c h w, 0..255) with random brightness, contrast and saturation.

    Each is multiplied by a factor in 1 - most..1 + most, drawn for each image. Gray images have no
    saturation.

    Source: Howard 2013, Some Improvements on Deep Convolutional Neural Network Based Image
    Classification, https://arxiv.org/abs/1312.5402
    """
    factors = 1 + max_change * (2 * torch.rand(3, len(pixels), generator=draw) - 1)
    brightness, contrast, saturation = factors.to(pixels.device).view(3, -1, 1, 1, 1)
    values = pixels.to(torch.float32) * brightness
    middle = values.mean((1, 2, 3), keepdim=True)
    values = middle + (values - middle) * contrast
    if pixels.shape[1] == 3:
        gray = (values * LUMA.to(pixels.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        values = gray + (values - gray) * saturation
    values = values.clamp_(0, 255)
    return values if pixels.is_floating_point() else values.round_().to(pixels.dtype)


def transform_each(
    transform: Callable[[Tensor], Tensor], pixels: Tensor, draw: Generator
) -> Tensor:
    """Return images (n c h w) after a transform of torchvision, applied to each.

    The transform draws from PyTorch's global generator, which is seeded from `draw` and restored
    afterwards.
    """
    seed = int(torch.randint(2**31, (1,), generator=draw))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([transform(image) for image in pixels])


def draw_partners(count: int, alpha: float, draw: Generator) -> tuple[float, Tensor]:
    """Draw a share from Beta(alpha, alpha), and a partner (n) for each of `count` samples."""
    seed = int(torch.randint(2**31, (1,), generator=draw))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return share, torch.randperm(count, generator=draw)


def draw_box(height: int, width: int, area: float, draw: Generator) -> tuple[slice, slice]:
    """Draw rows and columns of a box with a share `area` of the image, clipped to the image."""
    slices = []
    for side in (height, width):
        half = int(side * math.sqrt(area)) // 2
        middle = int(torch.randint(side, (1,), generator=draw))
        slices.append(slice(max(0, middle - half), min(side, middle + half)))
    rows, columns = slices
    return rows, columns


@dataclass(frozen=True)
class Mosaic:
    """How each image is composed of four, which meet at a point.

    For each of the four quarters (4 n), `sources` are the source images, shifted by `down` and
    `right`. `place` (2 n) is the point where they meet, from the top and from the left, in images
    of `size`.
    Source: Bochkovskiy et al. 2020, YOLOv4, https://arxiv.org/abs/2004.10934
    """

    sources: Tensor
    down: Tensor
    right: Tensor
    place: Tensor
    size: tuple[int, int]

    @classmethod
    def random(cls, count: int, size: tuple[int, int], share: float, draw: Generator) -> Mosaic:
        """Draw a mosaic for a `share` of `count` images; the rest keep one image in all quarters."""
        is_mosaic = torch.rand(count, generator=draw) < share
        others = torch.randint(0, count, (3, count), generator=draw)
        height, width = size
        fractions = 0.25 + 0.5 * torch.rand(2, count, generator=draw)
        y = torch.where(is_mosaic, (fractions[0] * height).long(), height)
        x = torch.where(is_mosaic, (fractions[1] * width).long(), width)
        sources = torch.cat([torch.arange(count)[None], others])
        down = torch.stack([y - height, y - height, y, y])
        right = torch.stack([x - width, x, x - width, x])
        return cls(sources, down, right, torch.stack([y, x]), size)

    def quarters(self, device: torch.device) -> list[Tensor]:
        """Return a mask (n h w, booleans) of the pixels of each quarter."""
        height, width = self.size
        y, x = self.place.to(device).view(2, -1, 1, 1)
        above = torch.arange(height, device=device).view(1, -1, 1) < y
        before = torch.arange(width, device=device).view(1, 1, -1) < x
        return [above & before, above & ~before, ~above & before, ~above & ~before]

    def images(self, pixels: Tensor) -> Tensor:
        """Return the composed images (n c h w)."""
        composed = pixels
        for part, quarter in enumerate(self.quarters(pixels.device)):
            source = pixels[self.sources[part].to(pixels.device)]
            moved = shift_images(source, self.down[part], self.right[part])
            composed = torch.where(quarter[:, None], moved, composed)
        return composed
