"""Another size."""

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
    resize(256, "bicubic") the same, interpolated otherwise
    resize(240, 320)       240 high and 320 wide, whatever the shape was

    With antialias a pixel of the smaller picture is made of all pixels that it covers, as in Pillow
    and torchvision; without it of the nearest ones only, as in OpenCV.
    Also known as: Resize in torchvision, squash (with a width).
    Source: torchvision.transforms.Resize, https://docs.pytorch.org/vision
    """

    size: int = arg(
        "pixels of the shorter side; the height where a width is given", low=1, high=8192
    )
    width: int | Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = arg(
        "width, or the interpolation", None, low=1, high=8192
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = arg(
        "how values between pixels are made", "bilinear"
    )
    antialias: bool = arg("average over all pixels that a new one covers", True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.width, str):
            object.__setattr__(self, "interpolation", self.width)
            object.__setattr__(self, "width", None)
        if self.interpolation == "lanczos" and not self.antialias:
            raise LissomError(
                "resize(antialias=False): expected nearest, bilinear or bicubic, got lanczos"
            )

    def __call__(self, picture: Image) -> Image:
        size = self.placement(picture.size).size
        if size == picture.size:
            return picture
        if self.antialias:
            return picture.resize(size, resampling(self.interpolation))
        return sampled(picture, size, self.interpolation)

    def for_labels(self, _: int) -> PictureOperation:
        return replace(self, interpolation="nearest")

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
    """Return Pillow's number of an interpolation."""
    from PIL.Image import Resampling

    return Resampling[name.upper()]


def sampled(picture: Image, size: tuple[int, int], name: str) -> Image:
    """Return a picture of `size` (width, height) whose pixels are interpolated between the nearest ones."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image

    if name == "nearest":
        return picture.resize(size, Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32))
    planes = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    found = F.interpolate(planes, (size[1], size[0]), mode=name, align_corners=False)
    values = found[0].round().clamp(0, 255).byte().permute(1, 2, 0).squeeze(2).numpy()
    return Image.fromarray(values)
