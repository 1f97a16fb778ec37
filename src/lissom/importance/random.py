"""Rank channels by chance: the control that every ranking has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class Random(Method):
    """Return a number drawn evenly from [0, 1) for each channel; the seed of the run decides.

    Source: Mittal et al. 2018, Recovering from Random Pruning, https://arxiv.org/abs/1801.10447.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        import torch

        return torch.rand(group.size, generator=net.draw)
