"""Rank channels by the length of their filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class L2(Method):
    """Return the Euclidean norm of each channel's filters, relative to the mean of the layer.

    score[u] = mean over layers that make u of ( ||w[u]|| / mean over channels of ||w|| )
    Source: Li et al. 2016, Pruning Filters for Efficient ConvNets, https://arxiv.org/abs/1608.08710 (section 4.4);
    He et al. 2018, Soft Filter Pruning, https://arxiv.org/abs/1808.06866.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        from ..surgery.channels.filters import relative

        return relative(group, net, lambda rows: rows.norm(dim=1))
