"""The middle of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import arg
from ..language.preprocess import PictureOperation

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CenterCrop(PictureOperation):
    """Cut out the middle, `height` x `width` pixels; a square where no width is given.

    top  = round((picture's height - height) / 2)
    left = round((picture's width - width) / 2)

    Where the picture is smaller, it is padded with 0 first.
    Also known as: CenterCrop in torchvision.
    Source: torchvision.transforms.CenterCrop, https://docs.pytorch.org/vision
    """

    height: int = arg("pixels from top to bottom", low=1)
    width: int | None = arg("pixels from left to right; as the height if none", None, low=1)

    def __call__(self, picture: Image) -> Image:
        high = self.height
        wide = self.width or high
        if picture.width < wide or picture.height < high:
            picture = padded(picture, max(wide, picture.width), max(high, picture.height))
        left = round((picture.width - wide) / 2)
        top = round((picture.height - high) / 2)
        return picture.crop((left, top, left + wide, top + high))


def padded(picture: Image, wide: int, high: int) -> Image:
    """Return a picture in the middle of black pixels; an odd one is on the right and at the bottom."""
    left = (wide - picture.width) // 2
    top = (high - picture.height) // 2
    return picture.crop((-left, -top, wide - left, high - top))
