"""Rank channels by how well others could stand in for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class Fpgm(Method):
    """Return the sum of distances of each channel's filters to those of all others, relative to the mean of the layer.

    score[u] = mean over layers that make u of ( sum over v of ||w[u] - w[v]||, divided by its mean )
    Filters near the geometric median of their layer are the most replaceable, whatever their size.
    Source: He et al. 2019, Filter Pruning via Geometric Median, https://arxiv.org/abs/1811.00250.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        import torch

        from ..surgery.channels.filters import relative

        return relative(group, net, lambda rows: torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1))
