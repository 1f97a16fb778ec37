"""Samples set apart for validation or for the test."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class Takes(Protocol):
    """A split that can be divided."""

    def __len__(self) -> int: ...

    def take(self, order: Tensor) -> Self:
        """Return the split of the samples at the given indices."""
        ...


Divisible = TypeVar("Divisible", bound=Takes)


def parted(split: Divisible, share: float = 0.1, most: int = 2500) -> tuple[Divisible, Divisible]:
    """Return a split without a `share` of its samples, and that share as a second split.

    The share has at most `most` samples, the same ones every time.
    """
    count = min(most, max(1, round(share * len(split))))
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(20))
    return split.take(order[count:].sort().values), split.take(order[:count].sort().values)
