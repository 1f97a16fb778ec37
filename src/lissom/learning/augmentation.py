"""Augment training batches together with their targets."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..data.augment import Mosaic, cutout, jitter_colours
from ..data.data import Data
from ..data.split import CPU
from ..errors import LissomError
from ..language.augmentation import Augmentation, Augmentations
from ..language.kind import Kind, WithoutPlaces
from ..language.training import TrainSettings
from ..trees import Tree, at, shapes


def augmented(
    pixels: Tree,
    targets: Tree,
    data: Data,
    settings: TrainSettings,
    draw: torch.Generator,
    kind: Kind | None = None,
) -> tuple[Tree, Tree]:
    """Return an augmented, normalised batch with its targets, which `kind` transforms along.

    The order is mosaic, `augment`, colour, normalization, cutout, mixing of samples. Raises
    LissomError if a setting does not fit the pixels, the data or the kind of task.
    """
    parts = parts_for(settings.augment, data)
    asked = {
        f"augment={settings.augment!r}": parts,
        "mosaic": settings.mosaic,
        "colour": settings.colour,
    }
    for name in [name for name, is_asked in asked.items() if is_asked]:
        if not (isinstance(pixels, Tensor) and pixels.ndim == 4):
            raise LissomError(f"{name}: expected images (n c h w), got {shapes(pixels)}")
    if settings.colour and data.as_given:
        raise LissomError(
            "colour: expected pixels in 0..255, got numbers that are taken as the data set gives them"
        )
    if settings.mosaic:
        pixels, targets = in_mosaic(pixels, targets, settings.mosaic, draw, kind)
    classes = len(data.classes)
    for part in parts:
        check_part(part, pixels, kind)
    for part in (each for each in parts if each.sees != "numbers"):
        pixels, targets = part(pixels, targets, draw, kind, classes)
    if settings.colour:
        pixels = jitter_colours(pixels, settings.colour, draw)
    images = data.normalised(pixels)
    if settings.cutout:
        images = cutout(images, settings.cutout, draw)
    for part in one_mixing([each for each in parts if each.sees == "numbers"], draw):
        try:
            images, targets = part(images, targets, draw, kind, classes)
        except LissomError as error:
            raise LissomError(f"{part.name()}: {error}") from None
    return images, targets


@lru_cache
def stood_for(text: str, as_given: bool, flip: bool) -> tuple[Augmentation, ...]:
    """Return the augmentations of a text, with `auto` replaced by its meaning for the data."""
    auto = "none" if as_given else "crop+flip" if flip else "crop"
    parts = list[Augmentation]()
    for part in Augmentations.of(text).parts:
        parts += stood_for(auto, as_given, flip) if part == "auto" else (part,)
    return tuple(parts)


def parts_for(text: str, data: Data) -> tuple[Augmentation, ...]:
    """Return the augmentations that a text stands for with these data."""
    return stood_for(text, data.as_given, data.flip)


def check_part(part: Augmentation, pixels: Tensor, kind: Kind | None) -> None:
    """Raise LissomError if an augmentation does not fit the pixels or cannot transform the targets.

    It cannot mix targets without a kind of task, nor move images whose targets have places.
    """
    if part.sees == "8 bits" and pixels.dtype != torch.uint8:
        raise LissomError(
            f"{part.name()}: expected pixels of 8 bits, got {str(pixels.dtype).removeprefix('torch.')}"
        )
    if part.channels and pixels.shape[1] not in part.channels:
        raise LissomError(
            f"{part.name()}: expected images of {' or '.join(map(str, part.channels))} channels, got "
            f"{pixels.shape[1]}"
        )
    if part.mixing and kind is None:
        raise LissomError(
            f"{part.name()}: expected a kind of task that says how targets are mixed; see --kind"
        )
    if part.moves and kind is not None and not isinstance(kind, WithoutPlaces):
        raise LissomError(
            f"{part.name()}: expected targets without places in an image, such as classes; those of "
            f"{kind.name()} would have to move along, as they do with crop and flip"
        )


def one_mixing(parts: list[Augmentation], draw: torch.Generator) -> list[Augmentation]:
    """Return the augmentations with a single one that mixes samples, drawn at random."""
    mixing = [part for part in parts if part.mixing]
    if len(mixing) < 2:
        return parts
    drawn = mixing[int(torch.randint(len(mixing), (1,), generator=draw))]
    return [part for part in parts if part is drawn or not part.mixing]


def check_augmentation(settings: TrainSettings, data: Data, kind: Kind | None) -> None:
    """Raise LissomError if two samples cannot be augmented; called before the first epoch."""
    two = torch.arange(min(2, len(data.train)))
    for pixels, targets in data.train.batches(len(two), CPU, two):
        augmented(pixels, targets, data, settings, torch.Generator(), kind)


def in_mosaic(
    pixels: Tensor, targets: Tree, share: float, draw: torch.Generator, kind: Kind | None
) -> tuple[Tensor, Tree]:
    """Return a batch with a `share` of the images composed of four each, with its targets."""
    if kind is None:
        raise LissomError("mosaic: expected a kind of task that says how targets move; see --kind")
    size = (pixels.shape[2], pixels.shape[3])
    mosaic = Mosaic.random(len(pixels), size, share, draw)
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
