"""Match the teacher's features value by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import FeatureLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fmse(FeatureLoss):
    """Match the teacher's features by mean squared error.

    loss = sum over feature layers of mean over (n c h w) of max(0, (s - t)^2 - clip)

    student, teacher: one s, t: (n c h w) per feature layer
    Also known as: FitNets, hint loss, feature MSE.
    Source: Romero et al. 2014, FitNets: Hints for Thin Deep Nets, https://arxiv.org/abs/1412.6550;
    with clip=0.1, the feature loss of https://github.com/ckdghk77/Network-Compression-Gram.
    Differs: a pruned student needs no adapter, because it is compared on the channels that it kept.
    """

    clip: float = arg(
        "subtracted from each squared difference; below 0 counts as 0", 0.0, low=0, high=1e6
    )

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        import torch

        gaps = [(s - t).square() for s, t in zip(student, teacher, strict=True)]
        return torch.stack(
            [(gap - self.clip).relu().mean() if self.clip else gap.mean() for gap in gaps]
        ).sum()
