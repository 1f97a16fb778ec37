"""Match which images of a batch lie near each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.loss import FeatureLoss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pkt(FeatureLoss):
    """Return the divergence of the student's neighbourhoods of images from the teacher's.

    x: the mean of each channel, (n c);  k_ij = (cos(x_i, x_j) + 1) / 2;  p_ij = k_ij / sum over j of k_ij
    sum over places of mean over i of KL(p_i of the teacher || p_i of the student)
    student, teacher: a list of (n c h w); the numbers of channels may differ. Source: Passalis and Tefas 2018,
    Learning Deep Representations with Probabilistic Knowledge Transfer, https://arxiv.org/abs/1803.10837.
    Differs: summed over the images that an image is compared with, where the authors' code takes the mean, so that the
    size of the loss does not depend on that of the batch; several places may be compared.
    """

    any_width: ClassVar[bool] = True

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        import torch
        import torch.nn.functional as F

        return torch.stack([F.kl_div(neighbours(s), neighbours(t), reduction="batchmean", log_target=True)
                            for s, t in zip(student, teacher, strict=True)]).sum()


def neighbours(feature: Tensor) -> Tensor:
    """Return for features (n c h w) the logarithm (n n) of how near each image is to each, every row adding up to 1."""
    import torch.nn.functional as F

    x = F.normalize(feature.mean((2, 3)), dim=1)
    near = ((x @ x.t() + 1) / 2).clamp_min(1e-7)  # opposite images are no neighbours, but a logarithm is taken
    return near.log() - near.sum(1, keepdim=True).log()
