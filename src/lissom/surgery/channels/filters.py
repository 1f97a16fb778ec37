"""Scores of filters: one number for each filter, averaged over the layers that make a channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .evidence import Evidence
from .group import Group


def averaged(group: Group, evidence: Evidence, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean over layers of `value`, which maps filters (units numbers) to a score per
    unit.
    """
    total = torch.zeros(group.size)
    makers = [m for m in group.members if m.role == "out"]
    for member in makers:
        rows, unit = member.slices(evidence.tensors[member.tensor].detach().float())
        total += value(stacked(rows, unit, group.size)).cpu()
    return total / len(makers)


def relative(group: Group, evidence: Evidence, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `averaged` with `value` divided by its mean over the units, to make layers comparable."""

    def over_mean(rows: Tensor) -> Tensor:
        values = value(rows)
        return values / values.mean().clamp_min(1e-12)

    return averaged(group, evidence, over_mean)


def stacked(rows: Tensor, unit: Tensor, size: int) -> Tensor:
    """Return the filters of each unit (size numbers). Filters of the same unit are concatenated."""
    if len(unit) == size and bool((unit == torch.arange(size, device=unit.device)).all()):
        return rows
    counts = unit.bincount(minlength=size)
    order = unit.argsort(stable=True)
    if bool((counts == counts[0]).all()):
        return rows[order].reshape(size, -1)
    # units with different numbers of filters are compared by their first filter
    return rows[order[counts.cumsum(0) - counts]]
