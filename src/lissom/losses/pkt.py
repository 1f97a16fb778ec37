"""Match the similarities of the samples in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.loss import FeatureLoss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pkt(FeatureLoss):
    """Match which samples of a batch are similar in the teacher's features.

    x    = mean over (h w) of the feature: (n c)
    k_ij = (cos(x_i, x_j) + 1) / 2
    p_ij = k_ij / sum over j of k_ij
    loss = sum over feature layers of mean over i of KL(p_i of the teacher || p_i of the student)

    student, teacher: one (n c h w) per feature layer; the number of channels may differ
    Also known as: probabilistic knowledge transfer (PKT).
    Source: Passalis and Tefas 2018, Learning Deep Representations with Probabilistic Knowledge
    Transfer, https://arxiv.org/abs/1803.10837.
    Differs: sums over j, where the authors' code takes the mean, so the loss does not depend on the
    batch size; several feature layers may be compared.
    """

    any_width: ClassVar[bool] = True

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        import torch
        import torch.nn.functional as F

        return torch.stack(
            [
                F.kl_div(neighbours(s), neighbours(t), reduction="batchmean", log_target=True)
                for s, t in zip(student, teacher, strict=True)
            ]
        ).sum()


def neighbours(feature: Tensor) -> Tensor:
    """Return the logarithms (n n) of the similarities p_ij of samples, from features (n c h w).

    The similarities of each row sum to 1.
    """
    import torch.nn.functional as F

    x = F.normalize(feature.mean((2, 3)), dim=1)
    # opposite features have the similarity 0, which has no logarithm
    near = ((x @ x.t() + 1) / 2).clamp_min(1e-7)
    return near.log() - near.sum(1, keepdim=True).log()
