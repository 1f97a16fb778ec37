"""A crop of the middle of a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..language.method import arg
from ..language.preprocess import PictureOperation, Placement, Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CenterCrop(PictureOperation):
    """Cut out the middle, `height` x `width` pixels; a square if no width is given.

    top  = round((picture's height - height) / 2)
    left = round((picture's width - width) / 2)

    A smaller image is surrounded by `fill`.
    Also known as: CenterCrop in torchvision.
    Source: torchvision.transforms.CenterCrop, https://docs.pytorch.org/vision
    """

    height: int = arg("pixels from top to bottom", low=1, high=8192)
    width: int | None = arg("pixels from left to right; None = the height", None, low=1, high=8192)
    fill: int = arg("value of pixels around a smaller image", 0, low=0, high=255)

    def __call__(self, picture: Image) -> Image:
        high = self.height
        wide = self.width or high
        left = crop_start(picture.width, wide)
        top = crop_start(picture.height, high)
        if self.fill == 0:
            return picture.crop((left, top, left + wide, top + high))  # black beyond the picture
        from PIL import Image as images

        frame = images.new(picture.mode, (wide, high), (self.fill,) * len(picture.getbands()))
        frame.paste(picture, (-left, -top))
        return frame

    def for_labels(self, fill: int) -> PictureOperation:
        return replace(self, fill=fill)

    def placement(self, size: Size) -> Placement:
        high = self.height
        wide = self.width or high
        offset = (-crop_start(size[0], wide), -crop_start(size[1], high))
        return Placement((wide, high), offset=offset)

    def code(self) -> str:
        high = self.height
        wide = self.width or high
        cut = "picture = picture.crop((left, top, left + width, top + height))"
        if self.fill:
            cut = (
                f"fill = ({self.fill},) * len(picture.getbands())\n"
                "frame = Image.new(picture.mode, (width, height), fill)\n"
                "frame.paste(picture, (-left, -top))\n"
                "picture = frame"
            )
        return (
            f"width, height = {wide}, {high}\n"
            "across, down = picture.width - width, picture.height - height\n"
            "left = round(across / 2) if across >= 0 else -(-across // 2)\n"
            f"top = round(down / 2) if down >= 0 else -(-down // 2)\n{cut}"
        )


def crop_start(size: int, crop: int) -> int:
    """Return the start of the middle `crop` pixels of `size`.

    It is below 0 if there are too few; an odd pixel is then added at the end.
    """
    return -((crop - size) // 2) if size < crop else round((size - crop) / 2)
