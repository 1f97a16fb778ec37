"""Rank channels by the squared gradient of a gate on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Fisher(Importance):
    """Rank channels by a second-order estimate of how much the loss changes without them.

    importance[u] = mean over n of g[u]^2 / 2
    g[u]          = sum over (h w) of a[u] * dL/da[u], the gradient of a gate on channel u

    a: (n c h w), output of the normalization after the layer, or of the layer if there is none
    L: the task's loss, or cross-entropy if it has none; without labels, cross-entropy with the
       network's own predictions. Cross-entropy needs outputs (n classes ...) and raises LissomError
       for others.
    If several layers hold a channel, their gradients g are added before they are squared.
    Also known as: Fisher pruning, empirical Fisher, squared gate gradient.
    Source: Theis et al. 2018, Faster Gaze Prediction with Dense Networks and Fisher Pruning,
    https://arxiv.org/abs/1801.05787; Liu et al. 2021, Group Fisher Pruning for Practical Network
    Compression, https://arxiv.org/abs/2108.00708.
    """

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        return evidence.of(group, evidence.gates, 'prune(by="fisher")').square().mean(0) / 2
