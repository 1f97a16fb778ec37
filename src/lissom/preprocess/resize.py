"""Resizing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.preprocess import PictureOperation, Placement, Size

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Resize(PictureOperation):
    """Resize so that the shorter side is `size`, or to exactly `size` x `width`.

    resize(256)            the shorter side becomes 256, the longer one int(256 * long / short)
    resize(256, "bicubic") the same with another interpolation
    resize(240, 320)       240 high and 320 wide, for any aspect ratio

    resize(256, fast=True)   by PyTorch, two to three times as fast; in photos one number in a
                             thousand differs by 1 of 255 from Pillow's
    resize(256, draft=True)  JPEG files are decoded at 1/2, 1/4 or 1/8 of their size, if at least
                             twice the wanted size remains; several times as fast for photos of many
                             megapixels; pixels differ by 1 to 2 of 255 on average, as with another
                             interpolation

    With antialias, a pixel of the smaller image averages all pixels that it covers, as in Pillow
    and torchvision; without it only the nearest ones, as in OpenCV.
    Also known as: Resize in torchvision, squash (with a width).
    Source: torchvision.transforms.Resize, https://docs.pytorch.org/vision
    """

    size: int = arg("pixels of the shorter side; the height if a width is given", low=1, high=8192)
    width: int | Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = arg(
        "width, or the interpolation", None, low=1, high=8192
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = arg(
        "interpolation between pixels", "bilinear"
    )
    antialias: bool = arg("average over all pixels that a new one covers", True)
    fast: bool = arg("resize by PyTorch, with pixels that differ a little from Pillow's", False)
    draft: bool = arg("decode JPEG files smaller if twice the wanted size remains", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.width, str):
            object.__setattr__(self, "interpolation", self.width)
            object.__setattr__(self, "width", None)
        if self.interpolation == "lanczos" and not self.antialias:
            raise LissomError(
                "resize(antialias=False): expected nearest, bilinear or bicubic, got lanczos"
            )
        if self.fast and (self.interpolation not in ("bilinear", "bicubic") or not self.antialias):
            raise LissomError(
                "resize(fast=True): expected bilinear or bicubic with antialias, got "
                f"{self.interpolation}{'' if self.antialias else ' without it'}"
            )

    def least(self, size: Size) -> Size | None:
        wide, high = self.placement(size).size
        return (2 * wide, 2 * high) if self.draft else None

    def __call__(self, picture: Image) -> Image:
        size = self.placement(picture.size).size
        if size == picture.size:
            return picture
        if self.antialias and not self.fast:
            return picture.resize(size, resampling(self.interpolation))
        return sampled(picture, size, self.interpolation, antialias=self.antialias)

    def for_labels(self, _: int) -> PictureOperation:
        return replace(self, interpolation="nearest", fast=False, draft=False)

    def placement(self, size: Size) -> Placement:
        wide, high = size
        if isinstance(self.width, int):
            after = (self.width, self.size)
        elif wide <= high:
            after = (self.size, int(self.size * high / wide))
        else:
            after = (int(self.size * wide / high), self.size)
        return Placement(after, (after[0] / wide, after[1] / high))

    def code(self) -> str:
        if not self.antialias and self.interpolation != "nearest":
            raise LissomError(
                f"preprocess: Pillow always averages as it resizes; no code for {self} without PyTorch"
            )
        if self.draft:
            raise LissomError(
                f"preprocess: no code for {self}, which changes how a file is decoded"
            )
        by = f"Image.Resampling.{self.interpolation.upper()}"
        if isinstance(self.width, int):
            return f"picture = picture.resize(({self.width}, {self.size}), {by})"
        return (
            "short = min(picture.size)\n"
            f"size = [{self.size} if side == short else int({self.size} * side / short) "
            "for side in picture.size]\n"
            f"picture = picture.resize(size, {by})"
        )


def resampling(name: str) -> int:
    """Return Pillow's constant for an interpolation."""
    from PIL.Image import Resampling

    return Resampling[name.upper()]


def sampled(picture: Image, size: tuple[int, int], name: str, *, antialias: bool) -> Image:
    """Return an image resized by PyTorch to `size` (width, height).

    With `antialias` in 8 bits; without, in floats between the nearest pixels, then rounded.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image

    if name == "nearest":
        return picture.resize(size, Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8 if antialias else np.float32))
    planes = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    wide, high = size
    steps = [(high, wide)]
    # as Pillow 13: along columns first if that is less work
    columns_first = high < picture.height and picture.width * high < wide * picture.height
    if antialias and columns_first:
        steps = [(high, picture.width), (high, wide)]
    resized = planes
    for step in steps:
        resized = F.interpolate(resized, step, mode=name, align_corners=False, antialias=antialias)
    if not antialias:
        resized = resized.round().clamp(0, 255).byte()
    values = resized[0].permute(1, 2, 0).contiguous().squeeze(2).numpy()
    return Image.fromarray(values)
