"""Rank channels by all weights that are removed with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group as Channels


@dataclass(frozen=True)
class Group(Importance):
    """Rank channels by the L2 norm of all weights that are removed with them.

    importance[u] = N[u] / mean over v of N[v]
    N[u]          = sqrt( sum of w^2 over everything that is removed with channel u )

    w: filters, biases and normalization scales of u, and the weights of later layers that read u
    Also known as: DepGraph, group L2 norm, structural importance.
    Source: Fang et al. 2023, DepGraph: Towards Any Structural Pruning,
    https://arxiv.org/abs/2301.12900, equation 4.
    Differs: divided by the mean of the group, not by its maximum.
    """

    def __call__(self, group: Channels, evidence: Evidence) -> Tensor:
        size = (
            group.sums(evidence.tensors, ("out", "in", "scale", "vector"), 2).detach().sqrt().cpu()
        )
        return size / size.mean().clamp_min(1e-12)
