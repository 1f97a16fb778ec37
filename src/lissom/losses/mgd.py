"""Reconstruct the teacher's features from masked student features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LissomError
from ..language.loss import FeatureLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Mgd(FeatureLoss):
    """Reconstruct the teacher's features from randomly masked student features.

    loss = sum over feature layers of mean over (n c h w) of (g(m * s) - t)^2
    g    = 3x3 convolution, ReLU, 3x3 convolution
    m    = 0 at a fraction `hidden` of the positions, else 1; drawn anew for each sample, the same
           for all channels

    student, teacher: one s, t: (n c h w) per feature layer
    Each feature layer has its own g. It is trained with the student and dropped afterwards.
    Also known as: masked generative distillation (MGD).
    Source: Yang, Li, Shao, Shi, Yuan and Yuan 2022, Masked Generative Distillation,
    https://arxiv.org/abs/2205.01529.
    Differs: takes the mean of the squares; the paper sums them and multiplies by 7e-5. Compares all
    chosen feature layers; for classification, the paper takes the last one.
    """

    hidden: float = arg("fraction of the positions that is masked", 0.5, low=0, below=1)

    def modules(self, widths: Sequence[int]) -> nn.ModuleList:
        """Return the two convolutions of each feature layer."""
        from torch import nn

        return nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))
            for c in widths
        )

    def __call__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        modules: nn.ModuleList | None = None,
    ) -> Tensor:
        import torch
        import torch.nn.functional as F

        if modules is None or len(modules) != len(student):
            raise LissomError(
                "mgd: it is called with the modules that mgd.modules(widths) makes, "
                "one for each place"
            )
        gaps = []
        for s, t, generator in zip(student, teacher, modules, strict=True):
            mask = (torch.rand_like(s[:, :1]) >= self.hidden).to(s.dtype)
            gaps.append(F.mse_loss(generator(s * mask), t))
        return torch.stack(gaps).sum()
