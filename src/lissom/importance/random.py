"""Rank channels at random, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.importance import Importance

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Random(Importance):
    """Rank channels at random, as a baseline that every other importance should beat.

    importance[u] ~ uniform on [0, 1), drawn with the seed of the run

    Also known as: random pruning.
    Source: Mittal et al. 2018, Recovering from Random Pruning: On the Plasticity of Deep
    Convolutional Neural Networks, https://arxiv.org/abs/1801.10447.
    """

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        import torch

        return torch.rand(group.size, generator=evidence.draw)
