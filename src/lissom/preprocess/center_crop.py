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
        left = start(picture.width, wide)
        top = start(picture.height, high)
        return picture.crop((left, top, left + wide, top + high))  # black beyond the picture

    def code(self) -> str:
        high = self.height
        wide = self.width or high
        return (
            f"left = round((picture.width - {wide}) / 2)\n"
            f"top = round((picture.height - {high}) / 2)\n"
            f"picture = picture.crop((left, top, left + {wide}, top + {high}))"
        )


def start(there: int, wanted: int) -> int:
    """Return where the middle `wanted` pixels of `there` begin; below 0 where there are too few, of
    which an odd one is missing at the end.
    """
    return -((wanted - there) // 2) if there < wanted else round((there - wanted) / 2)
