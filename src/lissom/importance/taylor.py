"""Rank channels by a first-order estimate of the change of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Taylor(Importance):
    """Rank channels by a first-order estimate of how much the loss changes without them.

    importance[u] = | mean over n of sum over (h w) of a[u] * dL/da[u] |

    a: (n c h w), output of the normalization after the layer, or of the layer if there is none
    L: the task's loss, or cross-entropy if it has none; without labels, cross-entropy with the
       network's own predictions. Cross-entropy needs outputs (n classes ...) and raises LissomError
       for others.
    Before a normalization the estimate would be 0, because normalization undoes any scaling of a
    filter. If several layers hold a channel, their estimates are added before the absolute value.
    Also known as: first-order Taylor expansion, gate gradient.
    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning,
    https://arxiv.org/abs/1906.10771, for gates after batch-norm; Molchanov et al. 2017, Pruning
    Convolutional Neural Networks for Resource Efficient Inference,
    https://arxiv.org/abs/1611.06440, for the absolute value of the mean.
    """

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        return evidence.of(group, evidence.gates, 'prune(by="taylor")').mean(0).abs()
