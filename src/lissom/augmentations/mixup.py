"""Blends of two samples."""

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
class Mixup(Augmentation):
    """Blend each sample with another one of its batch, and their classes by the same share.

    x = share * x_i + (1 - share) * x_j,  y = share * y_i + (1 - share) * y_j
    share ~ Beta(alpha, alpha), one for each batch

    y: (n classes), 1 for the class of a sample. Together with cutmix, one of the two is drawn for
    each batch.
    Also known as: vicinal risk minimisation.
    Source: Zhang et al. 2017, mixup: Beyond Empirical Risk Minimization,
    https://arxiv.org/abs/1710.09412.
    """

    sees = "numbers"
    mixing = True

    alpha: float = arg("of the Beta distribution: larger = mixes more", 0.2, above=0, high=100)

    def __call__(
        self,
        pictures: Tensor,
        targets: Tree,
        draw: torch.Generator,
        kind: Kind | None,
        classes: int,
    ) -> tuple[Tensor, Tree]:
        from ..data.augment import draw_partners
        from ..trees import at

        share, others = draw_partners(len(pictures), self.alpha, draw)
        others = others.to(pictures.device)
        mixed = share * pictures + (1 - share) * pictures[others]
        if kind is not None:
            targets = kind.mixed(targets, at(targets, others), share, classes)
        return mixed, targets
