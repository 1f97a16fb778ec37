"""A border of constant value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..language.method import arg
from ..language.preprocess import PictureOperation, Placement, Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Pad(PictureOperation):
    """Add a border of `border` pixels on every side.

    Also known as: Pad in torchvision.
    Source: torchvision.transforms.Pad, https://docs.pytorch.org/vision
    """

    border: int = arg("pixels on every side", low=1, high=4096)
    fill: int = arg("their value, in every channel", 0, low=0, high=255)

    def __call__(self, picture: Image) -> Image:
        from PIL import Image as images

        size = self.placement(picture.size).size
        frame = images.new(picture.mode, size, (self.fill,) * len(picture.getbands()))
        frame.paste(picture, (self.border, self.border))
        return frame

    def for_labels(self, fill: int) -> PictureOperation:
        return replace(self, fill=fill)

    def placement(self, size: Size) -> Placement:
        wide, high = size
        border = self.border
        return Placement((wide + 2 * border, high + 2 * border), offset=(border, border))

    def code(self) -> str:
        return (
            f"size = (picture.width + {2 * self.border}, picture.height + {2 * self.border})\n"
            f"frame = Image.new(picture.mode, size, ({self.fill},) * len(picture.getbands()))\n"
            f"frame.paste(picture, ({self.border}, {self.border}))\n"
            "picture = frame"
        )
