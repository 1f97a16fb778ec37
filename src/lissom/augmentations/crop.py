"""A random shift."""

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
class Crop(Augmentation):
    """Shift each image by up to an eighth of its smaller side, in both directions.

    Gaps are black. Boxes and label images are shifted too.
    Also known as: random crop with padding, RandomCrop(32, padding=4) for images of 32 pixels.
    Source: He et al. 2015, Deep Residual Learning for Image Recognition,
    https://arxiv.org/abs/1512.03385, section 4.2.
    """

    def __call__(
        self,
        pictures: Tensor,
        targets: Tree,
        draw: torch.Generator,
        kind: Kind | None,
        classes: int,
    ) -> tuple[Tensor, Tree]:
        from ..data.augment import draw_shifts, shift_images

        size = (pictures.shape[2], pictures.shape[3])
        down, right = draw_shifts(len(pictures), max(1, min(size) // 8), draw)
        pictures = shift_images(pictures, down, right)
        if kind is not None:
            targets = kind.shifted(
                targets, down.to(pictures.device), right.to(pictures.device), size
            )
        return pictures, targets
