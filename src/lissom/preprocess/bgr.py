"""BGR channel order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LissomError
from ..language.preprocess import PictureOperation, Placement, Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Bgr(PictureOperation):
    """Put blue first, then green, then red, as networks trained with OpenCV or Caffe expect.

    The numbers of a later `normalize` are in this order too.
    Also known as: channel order BGR.
    Source: OpenCV's imread, https://docs.opencv.org
    """

    swaps = True

    def __call__(self, picture: Image) -> Image:
        from PIL import Image as images

        if len(picture.getbands()) != 3:
            raise LissomError("preprocess: bgr needs images of three channels, got one")
        return images.merge("RGB", picture.split()[::-1])

    def for_labels(self, _: int) -> PictureOperation | None:
        return None

    def placement(self, size: Size) -> Placement:
        return Placement(size)

    def code(self) -> str:
        return 'picture = Image.merge("RGB", picture.split()[::-1])'
