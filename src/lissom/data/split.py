"""One split of a data set: images held in memory, or files read by worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import LissomError

# what Pillow decodes by itself, where it was built with it: for others, as EPS, it starts a program
FORMATS = tuple(
    """
    PNG JPEG MPO WEBP TIFF GIF BMP DIB PPM JPEG2000 AVIF TGA ICO PCX SGI QOI DDS
    """.split()
)
LARGE = 1 << 24  # pixels that any file may declare: 128 MiB while they are decoded
DENSEST = 1_000  # pixels in a byte of a file: what PNG makes of one colour


class Split(Protocol):
    """Pixels (n c h w, uint8) with labels (n, int64), delivered in batches."""

    @property
    def labels(self) -> Tensor:
        """The label of each image (n ...)."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (pixels, labels) on `device`; `order` holds the indices to visit, all in turn if None."""
        ...


@dataclass
class Part:
    """Those images of another split that lie at the indices `order`."""

    whole: Split
    order: Tensor

    @property
    def labels(self) -> Tensor:
        return self.whole.labels[self.order]

    def __len__(self) -> int:
        return len(self.order)

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
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
class Files(Dataset[Tensor | str]):
    """A split too large for memory: `paths` are decoded to (c h w) uint8 by worker processes."""

    paths: list[Path]
    labels: Tensor
    channels: int
    size: tuple[int, int]
    workers: int = 2

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        """Return the pixels of a file, or what is wrong with it: raised in a worker, it comes with
        a whole traceback.
        """
        try:
            return torch.from_numpy(decoded(self.paths[index], self.channels, self.size))
        except LissomError as error:
            return str(error)

    def take(self, order: Tensor) -> Files:
        """Return the split of the files at the given indices."""
        paths = [self.paths[i] for i in order.tolist()]
        return Files(paths, self.labels[order], self.channels, self.size, self.workers)

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
            num_workers=self.workers,
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


@cache
def opened() -> list[str]:
    """Return the formats that this Pillow opens by itself."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def decoded(path: Path, channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """Read an image file to (c h w) uint8, resized to `size` (height, width) if it differs.

    Raises LissomError, naming the file, for one that is no image, is cut short or declares more
    than it can hold.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # judged here, by the size of the file
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=opened())
        with image:
            pixels = image.width * image.height
            if pixels > max(LARGE, DENSEST * path.stat().st_size):
                raise ValueError(
                    f"it declares {image.width} x {image.height} pixels in "
                    f"{path.stat().st_size} bytes"
                )
            if image.mode.startswith("I;16"):  # 16 bits of gray, which Pillow would cut off at 255
                picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            else:
                picture = image.convert("RGBA") if "transparency" in image.info else image
            picture = picture.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # a damaged file makes its decoder raise errors of many kinds
        said = str(error) or type(error).__name__
        raise LissomError(
            f"data: {path}: cannot be read as an image ({said}); --skip-bad leaves such files out"
        ) from None
    if size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


@dataclass
class Read:
    """A data set as a source reads it: `valid` may be missing, nothing is measured of the pixels yet."""

    name: str
    train: Images | Files
    valid: Images | Files | None
    test: Images | Files
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    flip: bool
    fingerprint: str
    notes: list[str] = field(default_factory=list)
