"""Rank channels by the share that they have of what is not smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class Lamp(Method):
    """Return each channel's share of the squared norm of those channels of its layer that are not smaller.

    score[u] = mean over layers that make u of ( ||w[u]||^2 / sum of ||w[v]||^2 over v with ||w[v]|| >= ||w[u]|| )
    The largest of every layer scores 1, so that a global ranking empties no layer; nothing has to be normalised.
    Source: Lee et al. 2021, Layer-Adaptive Sparsity for the Magnitude-based Pruning, https://arxiv.org/abs/2010.07611.
    Differs: for channels in place of single weights.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        from ..surgery.channels.filters import averaged

        def share(rows: Tensor) -> Tensor:
            squares = rows.square().sum(1)
            return squares / squares.mul(squares[None] >= squares[:, None]).sum(1).clamp_min(1e-30)
        return averaged(group, net, share)
