"""Samples set apart for validation or for the test."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class Divisible(Protocol):
    """A split that can be divided."""

    def __len__(self) -> int: ...

    def take(self, order: Tensor) -> Self:
        """Return the split of the samples at the given indices."""
        ...


SplitT = TypeVar("SplitT", bound=Divisible)


def set_apart(split: SplitT, share: float = 0.1, max_count: int = 2500) -> tuple[SplitT, SplitT]:
    """Return a split without a `share` of its samples, and that share as a second split.

    The share has at most `max_count` samples, the same ones every time.
    """
    count = min(max_count, max(1, round(share * len(split))))
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(20))
    return split.take(order[count:].sort().values), split.take(order[:count].sort().values)
