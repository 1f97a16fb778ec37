"""A random part of an image, resized to the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.augmentation import Augmentation
from ..language.method import arg

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..language.kind import Kind
    from ..trees import Tree


@dataclass(frozen=True)
class ResizedCrop(Augmentation):
    """Cut a random part out of each image and enlarge it to the size of the image.

    share of the area: uniform from `least` to 1
    height / width:    from 3/4 to 4/3, uniform in its logarithm

    The interpolation is bilinear.
    Also known as: RandomResizedCrop, Inception-style crops.
    Source: Szegedy et al. 2014, Going Deeper with Convolutions, https://arxiv.org/abs/1409.4842,
    section 6; torchvision.transforms.v2.RandomResizedCrop.
    Differs: the crop is taken from the preprocessed image, not from the larger file.
    """

    moves = True

    least: float = arg("smallest share of the area", 0.08, above=0, high=1)

    def __call__(
        self,
        pictures: Tensor,
        targets: Tree,
        draw: torch.Generator,
        kind: Kind | None,
        classes: int,
    ) -> tuple[Tensor, Tree]:
        from torchvision.transforms import v2

        from ..data.augment import transform_each

        size = (pictures.shape[2], pictures.shape[3])
        crop = v2.RandomResizedCrop(size, (self.least, 1.0), antialias=True)
        return transform_each(crop, pictures, draw), targets
