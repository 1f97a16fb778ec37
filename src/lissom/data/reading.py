"""Read files of images into a split: preprocessing, size, and whether they fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import LissomError
from ..language.preprocess import Preprocess
from .picture import WrongPreprocess, read_pixels, with_only_resize
from .split import MAX_BYTES_IN_MEMORY, Files, Images
from .tars import File

# most pixels of an image that sets the size of all, if no size is given
MAX_PIXELS_BY_DEFAULT = 1 << 20


@dataclass(frozen=True)
class Reading:
    """How the files of one data set are read: with `channels` (1 or 3), to images of `size`.

    `lazy`: they do not fit into memory and are read batch by batch.
    """

    channels: int
    preprocess: Preprocess
    size: tuple[int, int]
    skip_bad: bool
    lazy: bool

    @classmethod
    def of(
        cls,
        paths: Sequence[File],
        size: tuple[int, int] | None,
        channels: int,
        preprocess: Preprocess,
        *,
        skip_bad: bool = False,
    ) -> Reading:
        """Return how files are read.

        A preprocessing without image operations gets a resize to `size` (height, width), or to
        the size of the first image. Raises LissomError if `size` and `preprocess` both set a
        size, and if no file can be read.
        """
        if preprocess.pictures and size is not None:
            raise two_sizes_error(preprocess)
        if not preprocess.pictures:
            size = size or first_size(paths, channels, preprocess, asked=False)
            preprocess = with_only_resize(preprocess, size)
        size = first_size(paths, channels, preprocess, asked=True)
        lazy = len(paths) * preprocess.channels(channels) * size[0] * size[1] > MAX_BYTES_IN_MEMORY
        return cls(channels, preprocess, size, skip_bad, lazy)

    @property
    def channels_out(self) -> int:
        """The number of channels of a preprocessed image."""
        return self.preprocess.channels(self.channels)

    def split(self, paths: Sequence[File], labels: Tensor) -> tuple[Images | Files, int]:
        """Return images with their labels, in memory or as files, and the number left out."""
        if self.lazy and not self.skip_bad:
            return self.files(paths, labels), 0
        # threads are slower: small images are decoded under Python's lock
        pixels = [self.pixels(path) for path in paths]
        good = [place for place, array in enumerate(pixels) if array is not None]
        left_out = len(paths) - len(good)
        if not good:
            raise LissomError(f"data: not one image of {paths[0].parent} can be read")
        if self.lazy:
            return self.files([paths[place] for place in good], labels[good]), left_out
        arrays = [array for array in pixels if array is not None]
        return Images(torch.from_numpy(np.stack(arrays)), labels[good]), left_out

    def files(self, paths: Sequence[File], labels: Tensor) -> Files:
        """Return a split that is read batch by batch."""
        return Files(list(paths), labels, self.channels, self.size, self.preprocess)

    def pixels(self, path: File) -> np.ndarray | None:
        """Return the pixels of a file, None if it is left out."""
        try:
            pixels = read_pixels(path, self.channels, self.preprocess, self.size)
        except WrongPreprocess:
            raise
        except LissomError:
            if not self.skip_bad:
                raise
            return None
        # a lazy split is decoded here only to find bad files
        return pixels[:0] if self.lazy else pixels


def two_sizes_error(preprocess: Preprocess) -> LissomError:
    """Return the error for a size that is set twice."""
    return LissomError(
        f"data: --size and a preprocess that changes images, {preprocess}, were given; leave one "
        "of them out"
    )


def first_size(
    paths: Sequence[File], channels: int, preprocess: Preprocess, *, asked: bool
) -> tuple[int, int]:
    """Return height and width of the first readable image after `preprocess`.

    Raises LissomError if no image can be read, or if the size is not `asked` for and is large: a
    header may declare any size.
    """
    reason = ""
    for path in paths:
        try:
            height, width = read_pixels(path, channels, preprocess).shape[1:]
        except WrongPreprocess:
            raise
        except LissomError as error:
            reason = (
                reason or f"; the first: {str(error).removeprefix('data: ').partition('; ')[0]}"
            )
            continue
        if not asked and height * width > MAX_PIXELS_BY_DEFAULT:
            raise LissomError(
                f"data: {path} has {width} x {height} pixels, and all images would be resized to "
                "that; say what the network is to read: --size HEIGHTxWIDTH, or --preprocess"
            )
        return height, width
    raise LissomError(f"data: not one image can be read{reason}")
