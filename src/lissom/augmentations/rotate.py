"""A random rotation."""

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
class Rotate(Augmentation):
    """Rotate each image about its centre by up to `degrees` either way.

    The interpolation is bilinear; gaps are black.
    Also known as: RandomRotation.
    Source: torchvision.transforms.v2.RandomRotation, https://docs.pytorch.org/vision
    """

    moves = True

    degrees: float = arg("largest angle in degrees, either way", above=0, high=180)

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

        turn = v2.RandomRotation(self.degrees, v2.InterpolationMode.BILINEAR)
        return transform_each(turn, pictures, draw), targets
