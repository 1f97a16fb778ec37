"""A mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.augmentation import Augmentation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..language.kind import Kind
    from ..trees import Tree


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirror each image left to right with probability one half.

    Boxes and label images are mirrored too.
    Also known as: RandomHorizontalFlip.
    Source: Krizhevsky, Sutskever and Hinton 2012, ImageNet Classification with Deep Convolutional
    Neural Networks, section 4.1.
    """

    def __call__(
        self,
        pictures: Tensor,
        targets: Tree,
        draw: torch.Generator,
        kind: Kind | None,
        classes: int,
    ) -> tuple[Tensor, Tree]:
        from ..data.augment import draw_mirrors, mirror_images

        which = draw_mirrors(len(pictures), draw)
        pictures = mirror_images(pictures, which)
        if kind is not None:
            targets = kind.mirrored(targets, which.to(pictures.device), pictures.shape[3])
        return pictures, targets
