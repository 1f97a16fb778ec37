"""Rank channels by the distance of their filters to all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Fpgm(Importance):
    """Rank channels by the distance of their filters to all other filters of the layer.

    importance[u] = mean over layers of ( D[u] / mean over v of D[v] )
    D[u]          = sum over v of || w[u] - w[v] ||

    layers: those that produce channel u, several if a residual add ties them together
    w[u]: the filters of channel u, from weight: (out in h w)
    Filters near the geometric median of their layer are the easiest to replace, whatever their
    norm.
    Also known as: geometric median, filter pruning via geometric median (FPGM).
    Source: He et al. 2019, Filter Pruning via Geometric Median for Deep Convolutional Neural
    Networks Acceleration, https://arxiv.org/abs/1811.00250.
    """

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        import torch

        from ..surgery.channels.filters import relative

        return relative(
            group,
            evidence,
            lambda rows: torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(
                1
            ),
        )
