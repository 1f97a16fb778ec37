"""Match the spatial distribution of each channel of the teacher's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.loss import FeatureLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Cwd(FeatureLoss):
    """Match the places at which each channel of the teacher's features is large.

    p    = softmax over the h*w places of (t / T),  q = the same of (s / T)
    loss = T^2 * sum over feature layers of mean over (n c) of sum over places of p * log(p / q)

    student, teacher: one s, t: (n c h w) per feature layer
    A channel of a segmenter or detector often marks one kind of object, and most places are
    background. In a distribution over places, the few with an object have the largest weight.
    Also known as: channel-wise knowledge distillation.
    Source: Shu et al. 2021, Channel-wise Knowledge Distillation for Dense Prediction,
    https://arxiv.org/abs/2011.13256
    """

    temperature: float = arg(
        "T: features are divided by it before the softmax", 4.0, above=0, high=100
    )

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        import torch

        pairs = zip(student, teacher, strict=True)
        return torch.stack([self.divergence(s, t) for s, t in pairs]).sum()

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the term of one feature layer."""
        import torch.nn.functional as F

        ours, theirs = (
            F.log_softmax(features.flatten(2).flatten(0, 1) / self.temperature, 1)
            for features in (student, teacher)
        )
        rows = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return self.temperature**2 * rows
