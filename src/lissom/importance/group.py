"""Rank channels by everything that hangs on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group as Channels


@dataclass(frozen=True)
class Group(Method):
    """Return the Euclidean norm of all the weights that a channel's removal takes along, relative to the mean.

    score[u] = sqrt( sum of w^2 over filters, biases, scales and the weights that read u ), divided by its mean over u
    Source: Fang et al. 2023, DepGraph, https://arxiv.org/abs/2301.12900, equation 4.
    Differs: divided by the mean of the group, not by its largest.
    """

    def __call__(self, group: Channels, net: Evidence) -> Tensor:
        size = group.sums(net.tensors, ("out", "in", "scale", "vector"), 2).detach().sqrt().cpu()
        return size / size.mean().clamp_min(1e-12)
