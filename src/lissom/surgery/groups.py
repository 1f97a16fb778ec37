"""Channels that are cut together: the groups of a network, each of which loses whole units."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .labels import Labels, Use


@dataclass
class Member:
    """A use within a group: `unit` (one entry for each index of the axis) holds the unit, or -1 for none."""

    tensor: str
    axis: int
    role: str
    unit: Tensor


@dataclass(eq=False)
class Group:
    """Channels that the same layers make and read. `size` units can each be cut without the others."""

    name: str
    size: int
    members: list[Member] = field(default_factory=list)

    def layers(self, role: str) -> list[str]:
        """Return the layers whose tensors take part in a role: out, in, scale or vector."""
        return list(dict.fromkeys(m.tensor.rpartition(".")[0] for m in self.members if m.role == role))


@dataclass
class Groups:
    """The groups of a network that can be cut, and the layers left whole, with the reason."""

    free: list[Group]
    left: dict[str, str]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.free)


def groups_of(model: nn.Module, example: Tensor) -> Groups:
    """Find the groups of `model` from one forward pass of the first item of `example` (n c h w)."""
    labels = Labels(model, example)
    roots = [labels.roots(use.labels) for use in labels.uses]
    frozen = {int(labels.roots(torch.tensor(label))): reason for label, reason in labels.frozen.items()}
    where: dict[int, list[int]] = {}
    for k, found in enumerate(roots):
        for root in found.unique().tolist():
            where.setdefault(root, []).append(k)
    units: dict[tuple[int, ...], list[int]] = {}
    left = dict(labels.left)
    for root, uses in where.items():
        made = [labels.uses[k] for k in uses if labels.uses[k].role == "out"]
        if root in frozen:
            for use in made:
                left.setdefault(use.tensor.rpartition(".")[0], frozen[root])
        elif made:
            units.setdefault(tuple(uses), []).append(root)
    free = [_group(labels.uses, roots, uses, found, len(labels.parent)) for uses, found in units.items()]
    return Groups(free, left)


def _group(uses: list[Use], roots: list[Tensor], members: tuple[int, ...], units: list[int], count: int) -> Group:
    index = torch.full((count,), -1)
    index[torch.tensor(units)] = torch.arange(len(units))
    made = [uses[k].tensor.rpartition(".")[0] for k in members if uses[k].role == "out"]
    group = Group(made[0], len(units))
    for k in members:
        group.members.append(Member(uses[k].tensor, uses[k].axis, uses[k].role, index[roots[k]]))
    return group
