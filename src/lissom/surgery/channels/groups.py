"""The groups of coupled channels of a network: which can be cut, and what stays whole and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from .blocks import set_blocks
from .collect import collect
from .follow import labels_of
from .group import Group
from .labels import Labels


@dataclass
class Groups:
    """The groups of a network that can be cut.

    `left` maps layers that are left whole to the reason. `split` are the layers whose outputs are
    split into equal parts. `rounds`: the forward itself rounds, for example to 16 bits, so that
    cuts can only be compared in float64. `decides`: the forward may make decisions by its values,
    such as which boxes to keep. `sized`: the code may behave differently for images of another
    size.
    """

    free: list[Group]
    left: dict[str, str]
    split: set[str] = field(default_factory=set)
    rounds: bool = False
    decides: bool = True
    sized: bool = True

    def __iter__(self) -> Iterator[Group]:
        return iter(self.free)


def groups_of(
    model: nn.Module, example: Tensor, tied: Iterable[str] = (), training: bool = False
) -> Groups:
    """Return the groups of `model`, found in a forward pass on the first item of `example` (n c h
    w).

    With `training`, a second pass in training mode is followed too. If the output of a layer in
    `tied` is split into equal parts, each part loses the same channels.
    """
    return grouped(labels_of(model, example, tied, training))


def grouped(labels: Labels) -> Groups:
    """Return the groups: labels that a layer makes and that exactly the same tensors use."""
    while True:
        root = labels.representatives()
        frozen = labels.frozen(root)
        left = dict(labels.left)
        stays = np.zeros(labels.count, bool)
        stays[list(frozen)] = True
        free = collect(labels.uses, labels.widths, root, stays)
        if not set_blocks(labels, free, root):
            break
    for use in labels.uses:
        if use.role == "out" and stays[roots := root[use.labels.numpy()]].any():
            left.setdefault(use.tensor.rpartition(".")[0], frozen[int(roots[stays[roots]].min())])
    whole = [group for group in free if group.step(1) >= group.size]
    for group in whole:
        for layer in group.layers("out"):
            left.setdefault(layer, "its channels all hang together")
    return Groups(
        [group for group in free if group not in whole],
        left,
        labels.split,
        decides=labels.trace.decides(),
        sized=any(trace.sized for trace in labels.traces),
    )
