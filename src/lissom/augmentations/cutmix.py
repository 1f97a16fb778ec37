"""A box of one sample in another."""

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
class Cutmix(Augmentation):
    """Paste a box of another sample of the batch into each, and mix their classes by area.

    sides of the box = sqrt(1 - share) of the picture's, share ~ Beta(alpha, alpha)
    y = area outside * y_i + area of the box * y_j, as shares of the image

    y: (n classes), 1 for the class of a sample. The box has a random centre, is the same in all
    images of a batch, and is clipped to them. Together with mixup, one of the two is drawn for
    each batch.
    Source: Yun et al. 2019, CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features, https://arxiv.org/abs/1905.04899.
    """

    sees = "numbers"
    mixing = True

    alpha: float = arg(
        "of the Beta distribution: larger = more equal areas", 1.0, above=0, high=100
    )

    def __call__(
        self,
        pictures: Tensor,
        targets: Tree,
        draw: torch.Generator,
        kind: Kind | None,
        classes: int,
    ) -> tuple[Tensor, Tree]:
        from ..data.augment import draw_box, draw_partners
        from ..trees import at

        share, others = draw_partners(len(pictures), self.alpha, draw)
        others = others.to(pictures.device)
        height, width = pictures.shape[2:]
        rows, columns = draw_box(height, width, 1 - share, draw)
        mixed = pictures.clone()
        mixed[:, :, rows, columns] = pictures[others][:, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        if kind is not None:
            targets = kind.mixed(targets, at(targets, others), 1 - area, classes)
        return mixed, targets
