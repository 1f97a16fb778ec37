"""Axes of label tensors: along which axes labels differ, and along which they only repeat."""

from __future__ import annotations

import torch
from torch import Tensor


def same(like: Tensor, label: int) -> Tensor:
    """Return one label everywhere, in the shape of `like`."""
    return torch.tensor(label).expand(like.shape)


def varies(labels: Tensor, dim: int) -> bool:
    """Return whether labels differ along an axis. False if a negative `dim` names no axis."""
    if -dim > labels.ndim or labels.shape[dim] <= 1 or labels.stride(dim) == 0:
        return False
    return not torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels))


def thin(*labels: Tensor) -> tuple[Tensor, ...]:
    """Shorten label tensors of one shape to length 1 along axes where all of them only repeat."""
    for dim in range(labels[0].ndim):
        if all(t.stride(dim) == 0 for t in labels):
            # the axis may be empty, such as that of detected boxes
            labels = tuple(t.narrow(dim, 0, min(1, t.shape[dim])) for t in labels)
    return labels
