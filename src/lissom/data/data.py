"""A data set as a task needs it: three splits, classes, and how pixels become numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import LissomError
from ..language.preprocess import Preprocess
from ..preprocess.normalize import Normalize
from .picture import resizing
from .source import load
from .split import CPU, Files, Images, Read, Shown, Split

EMPTY = torch.zeros(0, dtype=torch.int64)  # labels of no images
Part = TypeVar("Part", Images, Shown, Files)


@dataclass
class Data:
    """Splits of images with labels, and the preprocessing that the network sees them through.

    Splits hold pictures as the preprocessing leaves them; of their pixels a network sees
    (pixels / 255 - mean) / std, of shape (n c h w). `train` may be empty. `valid` is what choices
    are made on; `test` is read once for each record. `flip` says whether a mirrored image keeps its
    class. `stated` says whether somebody said how pictures are to be seen, or mean and deviation
    were measured for want of it; `reread` reads the data anew, seen otherwise.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    preprocess: Preprocess | None = None
    stated: bool = True
    reread: Callable[[str], Data] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        name: str,
        *,
        root: Path | None = None,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        skip_bad: bool = False,
        preprocess: str | None = None,
        classes: str | None = None,
    ) -> Data:
        """Load a data set by name: digits, cifar10, cifar100, fashion-mnist or folder:PATH.

        `size` (height, width) and `channels` (1 or 3) default to what the images have; `root` is
        where torchvision keeps its data sets. `preprocess` is how pictures are seen, as in
        `resize(256) | center_crop(224) | normalize("imagenet")`; without it, mean and deviation are
        those of the training images. `classes` are all that the network answers, where the folders
        are some of them: imagenet, a number, or a file. Raises LissomError for what cannot be read,
        unless `skip_bad`.

        >>> Data.of("digits").shape
        (1, 32, 32)
        """

        def reading(preprocess: str | None, size: tuple[int, int] | None = None) -> Data:
            read = load(
                name,
                root=root,
                size=size,
                channels=channels,
                skip_bad=skip_bad,
                preprocess=preprocess,
                classes=classes,
            )
            return completed(read, stated=preprocess is not None)

        return replace(reading(preprocess, size), reread=reading)

    def __post_init__(self) -> None:
        if self.preprocess is None:
            self.preprocess = resizing(
                Preprocess((), (Normalize(mean=self.mean, std=self.std),)), self.size
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: channels, height, width."""
        return (self.channels, *self.size)

    @property
    def shown_to_networks(self) -> Split:
        """What networks are shown before they are judged: training images, else validation images."""
        return self.train if len(self.train) else self.valid

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return what the network sees of `pixels` (n c h w, 0..255): (pixels / 255 - mean) / std."""
        mean, std = (
            torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        return (pixels.float() - 255 * mean) / (255 * std)

    def example(self, count: int = 1) -> Tensor:
        """Return the first images to learn from as the network sees them, (count c h w)."""
        split = self.shown_to_networks
        for pixels, _ in split.batches(count, CPU, torch.arange(min(count, len(split)))):
            return self.normalised(pixels)
        raise LissomError(f"data {self.name}: there are no images for training or validation")

    def calibration(self, count: int, seed: int = 0) -> list[Tensor]:
        """Return `count` images to learn from, drawn at random, as normalised batches of at most 128."""
        return [images for images, _ in self.labelled(count, seed)]

    def labelled(self, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Return the images that `calibration` returns, each batch with its labels."""
        split = self.shown_to_networks
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split), generator=draw)[:count]
        return [
            (self.normalised(pixels), labels) for pixels, labels in split.batches(128, CPU, order)
        ]

    def preprocessing(self) -> dict[str, Any]:
        """Return what whoever runs an exported file has to know."""
        assert self.preprocess is not None
        return {
            "preprocess": str(self.preprocess),
            "channels": self.channels,
            "height": self.size[0],
            "width": self.size[1],
            "mean": list(self.mean),
            "std": list(self.std),
            "order": self.preprocess.order if self.channels == 3 else "gray",
            "classes": list(self.classes),
        }


def completed(read: Read, *, stated: bool = True) -> Data:
    """Complete what a source read: split a validation set off where there is none, and measure mean
    and deviation where they are to be the data's own.
    """
    train, valid, test = read.train, read.valid, read.test
    if train is None:
        train = Images(torch.zeros(0, read.channels, *read.size, dtype=torch.uint8), EMPTY)
    elif valid is None:
        train, valid = parted(train)  # type: ignore[type-var]
    assert valid is not None
    preprocess = read.preprocess
    if preprocess.from_data:
        preprocess = preprocess.measured(*statistics(train if len(train) else valid))
    mean, std = preprocess.line(read.channels)
    facts = f"{read.fingerprint} {len(train)} {len(valid)} {len(test)} {read.channels} {read.size}"
    if stated:
        facts += f" {preprocess}"
    return Data(
        read.name,
        train,
        valid,
        test,
        read.classes,
        read.channels,
        read.size,
        mean,
        std,
        read.flip,
        hashlib.sha256(facts.encode()).hexdigest()[:16],
        read.notes,
        preprocess,
        stated,
    )


def parted(train: Part, share: float = 0.1, most: int = 2500) -> tuple[Part, Part]:
    """Split a tenth of the images (at most 2,500), the same ones every time, off for validation."""
    count = min(most, max(1, round(share * len(train))))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(20))
    return train.take(order[count:].sort().values), train.take(order[:count].sort().values)


def statistics(train: Split, most: int = 10_000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over at most 10,000 images, in 0..1."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(21))[:most]
    count = 0
    total = torch.zeros(1, dtype=torch.float64)
    squares = torch.zeros(1, dtype=torch.float64)
    for pixels, _ in train.batches(500, CPU, order):
        values = pixels.double().transpose(0, 1).flatten(1) / 255
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-6).sqrt()
    return tuple(round(v, 5) for v in mean.tolist()), tuple(round(v, 5) for v in std.tolist())
