"""A few operations drawn from a list, all of one magnitude."""

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
class RandAugment(Augmentation):
    """Apply randomly drawn operations to each image, all of one magnitude.

    The list is torchvision's: shear, translate, rotate, brightness, colour, contrast, sharpness,
    posterize, solarize, autocontrast, equalize, or none.
    Also known as: RA, rand-m9-n2.
    Source: Cubuk et al. 2019, RandAugment: Practical automated data augmentation with a reduced
    search space, https://arxiv.org/abs/1909.13719; torchvision.transforms.v2.RandAugment.
    """

    sees = "8 bits"
    channels = (1, 3)
    moves = True

    operations: int = arg("operations for each image", 2, low=1, high=16)
    magnitude: int = arg("their strength, from 0 to 30", 9, low=0, high=30)

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

        vary = v2.RandAugment(self.operations, self.magnitude)
        return transform_each(vary, pictures, draw), targets
