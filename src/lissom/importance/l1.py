"""Rank channels by the size of their filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class L1(Method):
    """Return the sum of |w| of each channel's filters, relative to the mean of the layer.

    score[u] = mean over layers that make u of ( |w[u]|.sum() / mean over channels of |w|.sum() )
    The division makes layers comparable when channels of all layers are ranked together.
    Source: Li et al. 2016, Pruning Filters for Efficient ConvNets, https://arxiv.org/abs/1608.08710.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        from ..surgery.channels.filters import relative

        return relative(group, net, lambda rows: rows.abs().sum(1))
