"""Rank channels by the scale of their batch-norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LissomError
from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Bn(Importance):
    """Rank channels by the absolute scale |gamma| of their batch-norm.

    importance[u] = mean over the batch-norms that u passes of |gamma[u]|

    gamma: (c), the weight of batch-norm or group norm
    `prune` does not prune a layer that no such norm follows, and raises LissomError if no layer has
    one.
    Also known as: batch-norm scale, gamma, network slimming criterion.
    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming,
    https://arxiv.org/abs/1708.06519.
    Differs: channels that residual adds tie together get the mean of their scales; the paper uses a
    channel selection layer.
    """

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        import torch

        scales = [m for m in group.members if m.role == "scale"]
        if not scales:
            raise LissomError(
                'prune(by="bn"): no batch-norm follows '
                f"{', '.join(group.layers('out')[:3])}; "
                'by="l1" needs none'
            )
        total = torch.zeros(group.size)
        for member in scales:
            mine = member.unit >= 0
            scale = evidence.tensors[member.tensor].detach().float().abs().cpu()[mine]
            seen = torch.zeros(2, group.size).index_add(
                1, member.unit[mine], torch.stack([scale, torch.ones_like(scale)])
            )
            total += seen[0] / seen[1].clamp_min(1)
        return total / len(scales)
