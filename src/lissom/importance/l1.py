"""Rank channels by the L1 norm of their filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class L1(Importance):
    """Rank channels by the L1 norm of their filters, relative to the mean of the layer.

    importance[u] = mean over layers of ( |w[u]|.sum() / mean over v of |w[v]|.sum() )

    layers: those that produce channel u, several if a residual add ties them together
    w[u]: the filters of channel u, from weight: (out in h w)
    The division makes layers comparable when channels of all layers are ranked together.
    Also known as: L1 norm, magnitude pruning of filters.
    Source: Li et al. 2016, Pruning Filters for Efficient ConvNets,
    https://arxiv.org/abs/1608.08710.
    """

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        from ..surgery.channels.filters import relative

        return relative(group, evidence, lambda rows: rows.abs().sum(1))
