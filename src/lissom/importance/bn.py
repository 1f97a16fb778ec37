"""Rank channels by the scale that batch-norm gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LissomError
from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class Bn(Method):
    """Return |gamma| of each channel, the mean over the batch-norms that the channel passes.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming,
    https://arxiv.org/abs/1708.06519. Differs: channels that residual adds tie together take the mean of
    their scales, instead of being left to a selection layer.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        import torch

        scales = [m for m in group.members if m.role == "scale"]
        if not scales:
            raise LissomError(f"prune(by=\"bn\"): no batch-norm follows {', '.join(group.layers('out')[:3])}; "
                              'by="l1" needs none')
        total = torch.zeros(group.size)
        for member in scales:
            mine = member.unit >= 0
            scale = net.tensors[member.tensor].detach().float().abs().cpu()[mine]
            seen = torch.zeros(2, group.size).index_add(1, member.unit[mine], torch.stack([scale, torch.ones_like(scale)]))
            total += seen[0] / seen[1].clamp_min(1)
        return total / len(scales)
