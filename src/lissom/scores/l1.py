"""Rank channels by the size of their filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.groups import Group


@dataclass(frozen=True)
class L1(Method):
    """Return the mean |w| of each channel's filters, relative to the mean of the layer.

    score[u] = mean over layers that make u of ( |w[u]|.sum() / mean over channels of |w|.sum() )
    The division makes layers comparable when channels of all layers are ranked together.
    Source: Li et al. 2016, Pruning Filters for Efficient ConvNets, https://arxiv.org/abs/1608.08710.
    """

    def __call__(self, group: Group, tensors: dict[str, Tensor]) -> Tensor:
        import torch

        total = torch.zeros(group.size)
        makers = [m for m in group.members if m.role == "out"]
        for member in makers:
            size = tensors[member.tensor].detach().float().flatten(1).abs().sum(1).cpu()
            mine = member.unit >= 0
            found = torch.zeros(group.size).index_add(0, member.unit[mine], size[mine])
            total += found / found.mean().clamp_min(1e-12)
        return total / len(makers)
