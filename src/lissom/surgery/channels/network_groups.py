"""The groups of coupled channels of a network: which can be cut, and what stays whole and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from .blocks import assign_blocks_or_tie_channels
from .collect import collect
from .follow import labels_of
from .group import Group
from .labels import Labels


@dataclass
class NetworkGroups:
    """The groups of a network that can be cut, and what a cut must know of the network."""

    cuttable_groups: list[Group]
    left_whole: dict[str, str]  # layer -> why it is not cut
    # layers whose outputs are split into equal parts
    split_layers: set[str] = field(default_factory=set)
    # the forward itself rounds, for example to 16 bits, so cuts can only be compared in float64
    uses_16_bits: bool = False
    # the forward may make decisions by its values, such as which boxes to keep
    makes_decisions: bool = True
    # the code may behave differently for images of another size
    depends_on_size: bool = True

    def __iter__(self) -> Iterator[Group]:
        return iter(self.cuttable_groups)


def groups_of(
    model: nn.Module, example: Tensor, tied: Iterable[str] = (), training: bool = False
) -> NetworkGroups:
    """Return the groups of `model`, found in a forward pass on the first item of `example` (n c h
    w).

    With `training`, a second pass in training mode is followed too. If the output of a layer in
    `tied` is split into equal parts, each part loses the same channels.
    """
    return groups_from_labels(labels_of(model, example, tied, training))


def groups_from_labels(labels: Labels) -> NetworkGroups:
    """Return the groups: labels that a layer makes and that exactly the same tensors use."""
    while True:
        root = labels.representatives()
        frozen = labels.frozen(root)
        left_whole = dict(labels.left_whole)
        stays = np.zeros(labels.count, bool)
        stays[list(frozen)] = True
        groups = collect(labels.uses, labels.widths, root, stays)
        tied_any = assign_blocks_or_tie_channels(labels, groups, root)
        if not tied_any:
            break
    for use in labels.uses:
        if use.role == "out" and stays[roots := root[use.labels.numpy()]].any():
            layer = use.tensor.rpartition(".")[0]
            left_whole.setdefault(layer, frozen[int(roots[stays[roots]].min())])
    undivided = [group for group in groups if group.step(1) >= group.size]
    for group in undivided:
        for layer in group.layers("out"):
            left_whole.setdefault(layer, "its channels all hang together")
    return NetworkGroups(
        [group for group in groups if group not in undivided],
        left_whole,
        labels.split_layers,
        makes_decisions=labels.trace.makes_decisions(),
        depends_on_size=any(trace.depends_on_size for trace in labels.traces),
    )
