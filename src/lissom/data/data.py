"""A data set as a task needs it: three splits, classes, and how pixels become numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import LissomError
from .source import load
from .split import Files, Images, Read, Split

CPU = torch.device("cpu")


@dataclass
class Data:
    """Splits of images with labels, and the normalisation that the network sees them through.

    A network sees (pixels / 255 - mean) / std, of shape (n c h w). `valid` is what choices are made
    on; `test` is read once for each record. `flip` says whether a mirrored image keeps its class.
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

    @classmethod
    def of(
        cls,
        name: str,
        *,
        root: Path | None = None,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        skip_bad: bool = False,
    ) -> Data:
        """Load a data set by name: digits, cifar10, cifar100, fashion-mnist or folder:PATH.

        `size` (height, width) and `channels` (1 or 3) default to what the images have; `root` is
        where torchvision keeps its data sets. Raises LissomError for what cannot be read, unless
        `skip_bad`.

        >>> Data.of("digits").shape
        (1, 32, 32)
        """
        return completed(load(name, root=root, size=size, channels=channels, skip_bad=skip_bad))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image: channels, height, width."""
        return (self.channels, *self.size)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return what the network sees of `pixels` (n c h w, 0..255): (pixels / 255 - mean) / std."""
        mean, std = (
            torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        return (pixels.float() - 255 * mean) / (255 * std)

    def example(self, count: int = 1) -> Tensor:
        """Return the first training images as the network sees them, (count c h w)."""
        for pixels, _ in self.train.batches(count, CPU, torch.arange(min(count, len(self.train)))):
            return self.normalised(pixels)
        raise LissomError(f"data {self.name}: the training split is empty")

    def calibration(self, count: int, seed: int = 0) -> list[Tensor]:
        """Return `count` training images, drawn at random, as normalised batches of at most 128."""
        return [images for images, _ in self.labelled(count, seed)]

    def labelled(self, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Return the images that `calibration` returns, each batch with its labels."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[
            :count
        ]
        return [
            (self.normalised(pixels), labels)
            for pixels, labels in self.train.batches(128, CPU, order)
        ]

    def preprocessing(self) -> dict[str, Any]:
        """Return what whoever runs an exported file has to know."""
        return {
            "channels": self.channels,
            "height": self.size[0],
            "width": self.size[1],
            "mean": list(self.mean),
            "std": list(self.std),
            "order": "RGB" if self.channels == 3 else "gray",
            "classes": list(self.classes),
        }


def completed(read: Read) -> Data:
    """Complete what a source read: measure mean and std, and split a validation set off where there
    is none.
    """
    train, valid = (read.train, read.valid) if read.valid is not None else parted(read.train)
    mean, std = statistics(train)
    facts = (
        f"{read.fingerprint} {len(train)} {len(valid)} {len(read.test)} {read.channels} {read.size}"
    )
    fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return Data(
        read.name,
        train,
        valid,
        read.test,
        read.classes,
        read.channels,
        read.size,
        mean,
        std,
        read.flip,
        fingerprint,
        read.notes,
    )


def parted(
    train: Images | Files, share: float = 0.1, most: int = 2500
) -> tuple[Images | Files, Images | Files]:
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
