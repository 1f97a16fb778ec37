"""Rank channels by their mean activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Activation(Importance):
    """Rank channels by their mean absolute activation on calibration samples.

    importance[u] = A[u] / mean over v of A[v]
    A[u]          = sum over the layers that hold u of mean over (n h w) of |a[u]|

    a: (n c h w), output of the normalization after the layer, or of the layer if there is none
    Needs calibration samples, but no labels.
    Also known as: mean activation, activation magnitude.
    Source: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient
    Inference, https://arxiv.org/abs/1611.06440, section 2.2.
    """

    version: ClassVar[int] = 2

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        size = evidence.of(group, evidence.activity, 'prune(by="activation")')
        return size / size.mean().clamp_min(1e-12)
