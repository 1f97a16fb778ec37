"""Rank channels by what the loss is said to change without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class Taylor(Method):
    """Return the first-order estimate of how much the loss changes when a channel is zeroed.

    score[u] = | mean over images of sum over positions of a[u] * dL/da[u] |
    a is the activation after the normalisation, if one follows: of the filters before it the estimate would be 0,
    since a normalisation undoes their size. What holds a channel in several layers is summed first.
    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, https://arxiv.org/abs/1906.10771.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        return net.of(group, net.gates, 'prune(by="taylor")').mean(0).abs()
