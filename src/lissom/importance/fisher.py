"""Rank channels by how much single images would miss them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class Fisher(Method):
    """Return the Fisher information of a gate on each channel: the second-order estimate of what it is worth.

    score[u] = mean over images of ( sum over positions of a[u] * dL/da[u] )^2 / 2
    What holds a channel in several layers is summed before it is squared.
    Source: Theis et al. 2018, https://arxiv.org/abs/1801.05787; Liu et al. 2021, Group Fisher Pruning,
    https://arxiv.org/abs/2108.00708.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        return net.of(group, net.gates, 'prune(by="fisher")').square().mean(0) / 2
