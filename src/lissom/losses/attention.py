"""Match spatial attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.loss import FeatureLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Attention(FeatureLoss):
    """Match the teacher's spatial attention maps.

    Q(f) = sum over c of |f|^power, as a vector (h*w)
    loss = sum over feature layers of mean over n of || Q(s) / ||Q(s)|| - Q(t) / ||Q(t)|| ||^2

    student, teacher: one s, t: (n c h w) per feature layer; the number of channels may differ
    Also known as: attention transfer (AT), activation-based attention.
    Source: Zagoruyko and Komodakis 2017, Paying More Attention to Attention,
    https://arxiv.org/abs/1612.03928.
    Differs: the distance is squared, as in the authors' code, but summed over positions; their code
    takes the mean.
    """

    any_width: ClassVar[bool] = True

    power: float = arg("exponent of |f|", 2.0, low=1, high=10)

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        import torch

        gaps = [
            attention_map(s, self.power) - attention_map(t, self.power)
            for s, t in zip(student, teacher, strict=True)
        ]
        return torch.stack([gap.square().sum(1).mean() for gap in gaps]).sum()


def attention_map(feature: Tensor, power: float) -> Tensor:
    """Return the sum over channels of |f|^power for features (n c h w), normalised: (n h*w)."""
    import torch.nn.functional as F

    raised = feature.square() if power == 2 else feature.abs().pow(power)
    return F.normalize(raised.sum(1).flatten(1), dim=1)
