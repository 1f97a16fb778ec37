"""Conversion to gray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.preprocess import PictureOperation, Placement, Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Gray(PictureOperation):
    """Convert colour to one channel of brightness.

    gray = 0.299 * red + 0.587 * green + 0.114 * blue

    Also known as: Grayscale in torchvision, luma.
    Source: ITU-R BT.601, as in Pillow's mode L
    """

    channels = 1

    def __call__(self, picture: Image) -> Image:
        return picture.convert("L")

    def for_labels(self, _: int) -> PictureOperation | None:
        return None

    def placement(self, size: Size) -> Placement:
        return Placement(size)

    def code(self) -> str:
        return 'picture = picture.convert("L")'
