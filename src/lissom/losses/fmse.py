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
    """Return the mean squared difference of features, summed over the places compared.

    sum over places of mean of max(0, (student - teacher)^2 - clip)
    student, teacher: a list of (n c h w). Source: Romero et al. 2014, FitNets, https://arxiv.org/abs/1412.6550;
    with clip=0.1 the feature loss of https://github.com/ckdghk77/Network-Compression-Gram. Differs: a pruned student
    needs no adapter, since it is compared on the channels that it kept.
    """

    clip: float = arg("what of each squared difference does not count", 0.0, low=0, high=1e6)

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        import torch

        gaps = [(s - t).square() for s, t in zip(student, teacher, strict=True)]
        return torch.stack([(gap - self.clip).relu().mean() if self.clip else gap.mean() for gap in gaps]).sum()
