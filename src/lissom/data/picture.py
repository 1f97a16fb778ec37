"""From a file to an image, and from an image to pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import LissomError
from ..language.preprocess import Preprocess, Size
from ..preprocess.resize import Resize
from .tars import File

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# formats that Pillow can decode by itself: for others, such as EPS, it starts a program
FORMATS = tuple(
    """
    PNG JPEG MPO WEBP TIFF GIF BMP DIB PPM JPEG2000 AVIF TGA ICO PCX SGI QOI DDS
    """.split()
)
MAX_PIXELS = 1 << 24  # pixels that any file may declare: 128 MiB during decoding
MAX_PIXELS_PER_BYTE = 1_000  # pixels per byte of a file: a PNG of a single colour


class WrongPreprocess(LissomError):
    """A preprocessing that does not suit the images; the files themselves are intact."""


@cache
def readable_formats() -> list[str]:
    """Return the formats that the installed Pillow opens by itself."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def open_image(path: File) -> Iterator[Picture]:
    """Open the image in a file; only the header is read at first.

    Raises LissomError, naming the file, if it is no image, is cut short or declares more pixels
    than it can hold; also if reading its pixels later finds damage.
    """
    from PIL import Image

    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            with warnings.catch_warnings():
                # the check below replaces Pillow's: it knows the size of the file
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(file, formats=readable_formats())
            if image.width * image.height > max(MAX_PIXELS, MAX_PIXELS_PER_BYTE * length):
                raise ValueError(
                    f"it declares {image.width} x {image.height} pixels in {length} bytes"
                )
            yield image
    except Exception as error:  # a damaged file makes its decoder raise errors of many kinds
        reason = str(error) or type(error).__name__
        raise LissomError(
            f"data: {path}: cannot be read as an image ({reason}); --skip-bad leaves such files out"
        ) from None


def picture_in(path: File, channels: int, preprocess: Preprocess | None = None) -> Picture:
    """Return the image in a file, gray for 1 channel and RGB for 3.

    It is decoded at a smaller size if that is enough for `preprocess`. Raises LissomError as
    `open_image` does.
    """
    with open_image(path) as image:
        smaller = None if preprocess is None else preprocess.least(image.size)
        if smaller is not None:
            image.draft(image.mode, smaller)  # does nothing in most formats
        picture = in_eight_bits(image)
        mode = "L" if channels == 1 else "RGB"
        if picture.mode != mode:
            return picture.convert(mode)
        picture.load()  # before its file is closed
        return picture


def size_of(path: File) -> Size:
    """Return (width, height) of the image in a file, read from its header."""
    with open_image(path) as image:
        return image.size


def in_eight_bits(picture: Picture) -> Picture:
    """Return an image in a mode that Pillow converts correctly to 8 bits of gray or colour.

    Raises ValueError for 32 bits, since their range is unknown, and Pillow would clip it at 255.
    """
    from PIL import Image

    is_16_bit = picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PPM")
    if is_16_bit:  # of gray, which Pillow would clip at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("F", "I"):
        raise ValueError(
            f"it has 32 bits for each pixel (mode {picture.mode}), whose range is unknown; expected "
            "8 or 16; scale the values to 0..255 and save them in 8 bits"
        )
    return picture.convert("RGBA") if "transparency" in picture.info else picture


def read_pixels(
    path: File,
    channels: int,
    preprocess: Preprocess | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Read an image file and preprocess it; return its pixels (c h w), uint8.

    Raises LissomError for a file that cannot be read, and if the result is not of `size` (height,
    width).
    """
    picture = picture_in(path, channels, preprocess)
    if preprocess is not None:
        try:
            picture = preprocess.shown(picture)
        except LissomError as error:
            raise WrongPreprocess(str(error)) from None
    if size is not None and picture.size != (size[1], size[0]):
        raise WrongPreprocess(
            f"preprocess: images come out in different sizes, {path} {picture.height}x"
            f"{picture.width} and others {size[0]}x{size[1]}; end with center_crop({size[0]}), or "
            "give resize a width"
        )
    return pixels_of(picture)


def pixels_of(picture: Picture) -> np.ndarray:
    """Return the pixels (c h w) of an image, uint8."""
    array = np.asarray(picture)
    if array.ndim == 2:
        return array[None].copy()  # Pillow's memory is read-only
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def with_only_resize(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """Return a preprocessing whose only image operation is a resize to `size` (height, width)."""
    return replace(preprocess, pictures=(Resize(*size),))


def preprocess_pixels(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Return images (n c h w), uint8, after the image operations of `preprocess`."""
    from PIL import Image

    if not preprocess.pictures:
        return pixels
    processed = list[np.ndarray]()
    for planes in pixels.numpy():
        array = planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)
        processed.append(pixels_of(preprocess.shown(Image.fromarray(np.ascontiguousarray(array)))))
    return torch.from_numpy(np.stack(processed))
