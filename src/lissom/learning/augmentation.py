"""Vary the batches that a network learns from, and their targets with them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.augment import Mosaic, cutout, mirrored, mirrors, recoloured, shifted, shifts
from ..data.data import Data
from ..data.split import CPU
from ..errors import LissomError
from ..language.kind import Kind
from ..language.training import TrainSettings
from ..trees import Tree, at, shapes


def augmented(
    pixels: Tree,
    targets: Tree,
    data: Data,
    pace: TrainSettings,
    draw: torch.Generator,
    kind: Kind | None = None,
) -> tuple[Tree, Tree]:
    """Return a batch of pixels put together, shifted by up to an eighth, mirrored, recoloured,
    normalised and cut out, as `pace` says, with its targets, which move along as the kind of task
    wants it.
    """
    wanted = pace.augment
    if wanted == "auto":
        wanted = "none" if data.as_given else "crop+flip" if data.flip else "crop"
    asked = {f"augment={wanted!r}": wanted != "none", "mosaic": pace.mosaic, "colour": pace.colour}
    for name in [name for name, is_asked in asked.items() if is_asked]:
        if not (isinstance(pixels, Tensor) and pixels.ndim == 4):
            raise LissomError(f"{name}: expected images (n c h w), got {shapes(pixels)}")
    if pace.colour and data.as_given:
        raise LissomError(
            "colour: expected pixels in 0..255, got numbers that are taken as the data set gives them"
        )
    if pace.mosaic:
        pixels, targets = in_mosaic(pixels, targets, pace.mosaic, draw, kind)
    if "crop" in wanted:
        down, right = shifts(len(pixels), max(1, min(data.size) // 8), draw)
        pixels = shifted(pixels, down, right)
        if kind is not None:
            size = (pixels.shape[2], pixels.shape[3])
            targets = kind.shifted(targets, down.to(pixels.device), right.to(pixels.device), size)
    if "flip" in wanted:
        which = mirrors(len(pixels), draw)
        pixels = mirrored(pixels, which)
        if kind is not None:
            targets = kind.mirrored(targets, which.to(pixels.device), pixels.shape[3])
    if pace.colour:
        pixels = recoloured(pixels, pace.colour, draw)
    images = data.normalised(pixels)
    if pace.cutout:
        images = cutout(images, pace.cutout, draw)
    return images, targets


def check_augmentation(pace: TrainSettings, data: Data, kind: Kind | None) -> None:
    """Raise where two samples cannot be augmented as `pace` says; looked at before the first epoch."""
    two = torch.arange(min(2, len(data.train)))
    for pixels, targets in data.train.batches(len(two), CPU, two):
        augmented(pixels, targets, data, pace, torch.Generator(), kind)


def in_mosaic(
    pixels: Tensor, targets: Tree, share: float, draw: torch.Generator, kind: Kind | None
) -> tuple[Tensor, Tree]:
    """Return a batch of which a `share` of the images is put together of four, with its targets."""
    if kind is None:
        raise LissomError("mosaic: expected a kind of task that says how targets move; see --kind")
    size = (pixels.shape[2], pixels.shape[3])
    mosaic = Mosaic.drawn(len(pixels), size, share, draw)
    parts = [
        kind.shifted(
            at(targets, source.to(pixels.device)),
            down.to(pixels.device),
            right.to(pixels.device),
            size,
        )
        for source, down, right in zip(mosaic.sources, mosaic.down, mosaic.right, strict=True)
    ]
    return mosaic.images(pixels), kind.put_together(parts, mosaic.quarters(pixels.device))
