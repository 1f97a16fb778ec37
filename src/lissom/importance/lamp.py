"""Rank channels by squared norm relative to all channels at least as large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Lamp(Importance):
    """Rank channels by squared filter norm, as a share of all channels at least as large.

    importance[u] = mean over layers of ( ||w[u]||^2 / S[u] )
    S[u]          = sum of ||w[v]||^2 over all v of the layer with ||w[v]|| >= ||w[u]||

    layers: those that produce channel u, several if a residual add ties them together
    w[u]: the filters of channel u, from weight: (out in h w)
    The largest channel of every layer gets 1, so a global ranking never empties a layer. No other
    normalization is needed.
    Also known as: layer-adaptive magnitude pruning.
    Source: Lee et al. 2021, Layer-Adaptive Sparsity for the Magnitude-based Pruning,
    https://arxiv.org/abs/2010.07611.
    Differs: it ranks channels; the paper ranks single weights.
    """

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        from ..surgery.channels.filters import averaged

        def share(rows: Tensor) -> Tensor:
            squares = rows.square().sum(1)
            return squares / squares.mul(squares[None] >= squares[:, None]).sum(1).clamp_min(1e-30)

        return averaged(group, evidence, share)
