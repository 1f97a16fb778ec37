"""One split of a data set: images held in memory, or files read by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import LissomError
from ..language.preprocess import Preprocess
from ..trees import Tree, at
from .picture import decoded, shown_pixels
from .tars import File

CPU = torch.device("cpu")
MOST_WORKERS = 16
MEMORY = 2 << 30  # bytes of samples above which they are read batch by batch


class Split(Protocol):
    """Pixels (n c h w, uint8), or inputs as a network takes them, with their targets, in batches."""

    @property
    def labels(self) -> Tree:
        """The target of each sample (n ...)."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tree, Tree]]:
        """Yield (pixels, labels) on `device`; `order` holds the indices to visit, all in turn if None."""
        ...


@dataclass
class Part:
    """Those images of another split that lie at the indices `order`."""

    whole: Split
    order: Tensor

    @property
    def labels(self) -> Tree:
        return at(self.whole.labels, self.order)

    def __len__(self) -> int:
        return len(self.order)

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tree, Tree]]:
        return self.whole.batches(size, device, self.order if order is None else self.order[order])


def spread(split: Split, most: int) -> Split:
    """Return at most so many images of a split, evenly spaced: images of one class may lie side by side."""
    count = min(most, len(split))
    return Part(split, torch.arange(count) * len(split) // max(1, count))


@dataclass
class Images:
    """A split in memory: `pixels` (n c h w) uint8, `labels` (n) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def on(self, device: torch.device) -> Images:
        """Return the split with its pixels on a device, so that batches are cut there."""
        return Images(self.pixels.to(device), self.labels.to(device))

    def take(self, order: Tensor) -> Images:
        """Return the split of the images at the given indices."""
        return Images(self.pixels[order], self.labels[order])

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self) if order is None else len(order), size):
            if order is None:
                pixels = self.pixels[start : start + size]
                labels = self.labels[start : start + size]
            else:
                index = order[start : start + size].to(self.pixels.device)
                pixels = self.pixels[index]
                labels = self.labels[index]
            yield pixels.to(device), labels.to(device)


@dataclass
class Shown:
    """A split in memory whose pictures are large as the network sees them: made batch by batch."""

    pictures: Images
    preprocess: Preprocess

    @property
    def labels(self) -> Tensor:
        return self.pictures.labels

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, order: Tensor) -> Shown:
        """Return the split of the images at the given indices."""
        return Shown(self.pictures.take(order), self.preprocess)

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in self.pictures.batches(size, CPU, order):
            yield shown_pixels(pixels, self.preprocess).to(device), labels.to(device)


def worker_count() -> int:
    """Return how many processes read files: one for each core that this one may use, 2 to 16."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not say
        cores = os.cpu_count() or 1
    return min(MOST_WORKERS, max(2, cores))


@dataclass
class Files(Dataset[Tensor | str]):
    """A split too large for memory: `paths`, or members of tars, are decoded by worker processes.

    A file of `channels` (1 or 3) becomes what `preprocess` makes of its picture, (c h w) uint8 of
    `size` (height, width).
    """

    paths: list[File]
    labels: Tensor
    channels: int
    size: tuple[int, int]
    preprocess: Preprocess
    workers: int = worker_count()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        """Return the pixels of a file, or what is wrong with it: raised in a worker, it comes with
        a whole traceback.
        """
        try:
            pixels = decoded(self.paths[index], self.channels, self.preprocess, self.size)
            return torch.from_numpy(pixels)
        except LissomError as error:
            return str(error)

    def take(self, order: Tensor) -> Files:
        """Return the split of the files at the given indices."""
        paths = [self.paths[i] for i in order.tolist()]
        return replace(self, paths=paths, labels=self.labels[order])

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        part = self if order is None else self.take(order)
        if not len(part):
            return
        # A DataLoader draws a number when it is made, and a run that goes on makes one loader more.
        # With a generator of its own it does not change what others draw.
        loader = DataLoader(
            part,
            batch_size=size,
            # one reads a whole batch: for a single one, none has to be started
            num_workers=min(self.workers, -(-len(part) // size)) if len(part) > size else 0,
            pin_memory=device.type == "cuda",
            # not the one that dropout draws from
            collate_fn=stacked,
            generator=torch.Generator(),
        )
        start = 0
        for pixels in loader:
            if isinstance(pixels, str):
                raise LissomError(pixels)
            labels = part.labels[start : start + len(pixels)]
            start += len(pixels)
            yield pixels.to(device, non_blocking=True), labels.to(device)


def stacked(items: list[Tensor | str]) -> Tensor | str:
    """Return images (c h w) as a batch (n c h w), or the first that is told to be wrong."""
    wrong = next((item for item in items if isinstance(item, str)), None)
    return wrong if wrong is not None else default_collate(items)


@dataclass
class Read:
    """A data set as a source reads it, nothing measured yet; `train` and `valid` may be missing.

    Its splits hold pictures as `preprocess` leaves them, of `channels` and `size` (height, width).
    """

    name: str
    train: Images | Shown | Files | None
    valid: Images | Shown | Files | None
    test: Images | Shown | Files
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    flip: bool
    fingerprint: str
    preprocess: Preprocess
    notes: list[str] = field(default_factory=list)
    labelled: bool = True
