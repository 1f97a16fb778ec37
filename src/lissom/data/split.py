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
from .picture import preprocess_pixels, read_pixels
from .tars import File

CPU = torch.device("cpu")
MAX_WORKERS = 16
MAX_BYTES_IN_MEMORY = 2 << 30  # bytes; a larger split is read batch by batch


class Split(Protocol):
    """Batches of pixels (n c h w, uint8), or of inputs as the network takes them, with targets."""

    @property
    def labels(self) -> Tree:
        """The target of each sample (n ...)."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tree, Tree]]:
        """Yield (pixels, labels) on `device` for the indices in `order` (None: all in turn)."""
        ...


@dataclass
class Part:
    """The images of another split at the indices `order`."""

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


def evenly_spaced(split: Split, max_count: int) -> Split:
    """Return at most `max_count` samples of a split, evenly spaced: it may be sorted by class."""
    count = min(max_count, len(split))
    return Part(split, torch.arange(count) * len(split) // max(1, count))


@dataclass
class Images:
    """A split in memory: `pixels` (n c h w) uint8, `labels` (n) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def on(self, device: torch.device) -> Images:
        """Return the split with its tensors on a device, so that batches are sliced there."""
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
class PreprocessedImages:
    """A split in memory that is preprocessed batch by batch: all at once would not fit."""

    pictures: Images
    preprocess: Preprocess

    @property
    def labels(self) -> Tensor:
        return self.pictures.labels

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, order: Tensor) -> PreprocessedImages:
        """Return the split of the images at the given indices."""
        return PreprocessedImages(self.pictures.take(order), self.preprocess)

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in self.pictures.batches(size, CPU, order):
            yield preprocess_pixels(pixels, self.preprocess).to(device), labels.to(device)


def worker_count() -> int:
    """Return the number of processes that read files: one for each usable core, 2 to 16."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return min(MAX_WORKERS, max(2, cores))


@dataclass
class Files(Dataset[Tensor | str]):
    """A split too large for memory: `paths`, or members of tars, are decoded by worker processes.

    A file is read with `channels` (1 or 3) and preprocessed to (c h w) uint8 of `size` (height,
    width).
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
        """Return the pixels of a file, or the text of its error.

        An exception from a worker would carry a whole traceback.
        """
        try:
            pixels = read_pixels(self.paths[index], self.channels, self.preprocess, self.size)
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
        # A DataLoader draws a number when it is created, and a resumed run creates one loader more.
        # Its own generator leaves all other random numbers as they are.
        loader = DataLoader(
            part,
            batch_size=size,
            # each worker reads a whole batch: a single batch needs none
            num_workers=min(self.workers, -(-len(part) // size)) if len(part) > size else 0,
            pin_memory=device.type == "cuda",
            collate_fn=collate_images,
            # not the global generator, which dropout draws from
            generator=torch.Generator(),
        )
        start = 0
        for pixels in loader:
            if isinstance(pixels, str):
                raise LissomError(pixels)
            labels = part.labels[start : start + len(pixels)]
            start += len(pixels)
            yield pixels.to(device, non_blocking=True), labels.to(device)


def collate_images(items: list[Tensor | str]) -> Tensor | str:
    """Return images (c h w) as a batch (n c h w), or the first error text among them."""
    error = next((item for item in items if isinstance(item, str)), None)
    return error if error is not None else default_collate(items)


@dataclass
class SourceData:
    """A data set as a source reads it, not yet measured; `train` and `valid` may be None.

    Its splits hold preprocessed images of `channels` and `size` (height, width).
    """

    name: str
    train: Images | PreprocessedImages | Files | None
    valid: Images | PreprocessedImages | Files | None
    test: Images | PreprocessedImages | Files
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    flip: bool
    fingerprint: str
    preprocess: Preprocess
    notes: list[str] = field(default_factory=list)
    labelled: bool = True
