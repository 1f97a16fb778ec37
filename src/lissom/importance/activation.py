"""Rank channels by how strongly they respond to images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.channels.evidence import Evidence
    from ..surgery.channels.groups import Group


@dataclass(frozen=True)
class Activation(Method):
    """Return the mean |activation| of each channel over images and positions, relative to the mean of the group.

    The activation is that after the normalisation, if one follows. Needs images, no labels.
    Source: Molchanov et al. 2017, Pruning Convolutional Neural Networks, https://arxiv.org/abs/1611.06440, section 2.2.
    """

    def __call__(self, group: Group, net: Evidence) -> Tensor:
        size = net.of(group, net.activity, 'prune(by="activation")')
        return size / size.mean().clamp_min(1e-12)
