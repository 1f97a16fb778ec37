"""The whole image in a frame of fixed size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..language.method import arg
from ..language.preprocess import PictureOperation, Placement, Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Letterbox(PictureOperation):
    """Resize until the whole image fits into `height` x `width`, and fill the rest with one value.

    ratio = min(height / image's height, width / image's width)
    size  = round(ratio * image's size)

    The aspect ratio is kept; the image is in the middle.
    Also known as: letterbox in YOLO, resize with padding.
    Source: Ultralytics LetterBox, https://docs.ultralytics.com
    """

    height: int = arg("pixels from top to bottom", low=1, high=8192)
    width: int | None = arg("pixels from left to right; None = the height", None, low=1, high=8192)
    fill: int = arg("value of the pixels around, in every channel", 114, low=0, high=255)
    interpolation: Literal["nearest", "bilinear"] = arg("interpolation between pixels", "bilinear")

    def __call__(self, picture: Image) -> Image:
        from PIL import Image as images

        frame_size, size, corner = self.places(picture.size)
        if size != picture.size:
            picture = picture.resize(size, images.Resampling[self.interpolation.upper()])
        frame = images.new(picture.mode, frame_size, (self.fill,) * len(picture.getbands()))
        frame.paste(picture, corner)
        return frame

    def places(self, size: Size) -> tuple[Size, Size, tuple[int, int]]:
        """Return the size of the frame, and the size and the corner of the image in it."""
        high = self.height
        wide = self.width or high
        ratio = min(high / size[1], wide / size[0])
        inside = (max(1, round(ratio * size[0])), max(1, round(ratio * size[1])))
        return (wide, high), inside, ((wide - inside[0]) // 2, (high - inside[1]) // 2)

    def for_labels(self, fill: int) -> PictureOperation:
        return replace(self, fill=fill, interpolation="nearest")

    def placement(self, size: Size) -> Placement:
        frame_size, inside, corner = self.places(size)
        return Placement(frame_size, (inside[0] / size[0], inside[1] / size[1]), corner)

    def code(self) -> str:
        high = self.height
        wide = self.width or high
        return (
            f"ratio = min({high} / picture.height, {wide} / picture.width)\n"
            "size = [max(1, round(ratio * side)) for side in picture.size]\n"
            f"picture = picture.resize(size, Image.Resampling.{self.interpolation.upper()})\n"
            f"fill = ({self.fill},) * len(picture.getbands())\n"
            f"frame = Image.new(picture.mode, ({wide}, {high}), fill)\n"
            f"frame.paste(picture, (({wide} - size[0]) // 2, ({high} - size[1]) // 2))\n"
            "picture = frame"
        )
