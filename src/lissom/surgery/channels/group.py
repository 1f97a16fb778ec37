"""A group of coupled channels, which loses whole units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass
class Member:
    """An axis of a tensor that takes part in a group.

    `unit`, of the shape of the use's labels, holds the unit of each index, -1 for none.
    """

    tensor: str
    axis: int
    role: str
    unit: Tensor

    @property
    def layer(self) -> str:
        """Return the name of the layer that the tensor belongs to."""
        return self.tensor.rpartition(".")[0]

    @cached_property
    def count(self) -> int:
        """The number of indices that belong to a unit."""
        return int((self.unit >= 0).sum())

    def slices(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slices of `weight` along the axis (k numbers) and the unit of each (k).

        Slices that belong to no unit are left out.
        """
        if self.unit.ndim == 1:
            flat = weight.movedim(self.axis, 0).reshape(len(self.unit), -1)
        else:  # each block of the first axis holds its own units
            blocks, each = self.unit.shape
            flat = (
                weight.reshape(blocks, -1, each, math.prod(weight.shape[2:]))
                .transpose(1, 2)
                .reshape(blocks * each, -1)
            )
        unit = self.unit.flatten().to(weight.device)
        if self.count == len(unit):
            return flat, unit
        return flat[unit >= 0], unit[unit >= 0]


@dataclass(eq=False)
class Group:
    """Channels that the same layers make and read. Each of its `size` units can be cut by itself.

    Each tensor in `blocks` holds the block of every unit. All blocks must keep the same number.
    `widths` are layers that have a number of channels but no tensor to cut. Their `tensor` is the
    name of the layer.
    """

    name: str
    size: int
    members: list[Member] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    widths: list[Member] = field(default_factory=list)

    def layers(self, role: str) -> list[str]:
        """Return the layers whose tensors have a role: out, in, scale or vector."""
        return list(dict.fromkeys(m.layer for m in self.members if m.role == role))

    def step(self, multiple: int) -> int:
        """Return the step in units: each layer keeps a multiple of `multiple` channels if the
        units kept are a multiple of the step.
        """
        steps = [int(blocks.max()) + 1 for blocks in self.blocks]
        for member in self.members:
            if member.role == "out":
                each = member.count // self.size  # channels of one unit
                steps.append(multiple // math.gcd(multiple, max(each, 1)))
        return math.lcm(*steps) if self.members else multiple

    def sums(self, tensors: Mapping[str, Tensor], roles: Iterable[str], power: int) -> Tensor:
        """Return the sum of |w| ** power over the tensors of these roles, per unit, in float32.

        Running statistics, and tensors that `tensors` lacks, are left out.
        """
        total = None
        for member in self.members:
            statistics = member.tensor.rpartition(".")[2].startswith("running_")
            if member.role in roles and member.tensor in tensors and not statistics:
                numbers, unit = member.slices(tensors[member.tensor].float())
                by_unit = numbers.new_zeros(self.size).index_add(
                    0, unit, numbers.abs().pow(power).sum(1)
                )
                total = by_unit if total is None else total + by_unit
        return torch.zeros(self.size) if total is None else total


def layers_in(groups: Iterable[Group], *roles: str) -> set[str]:
    """Return the layers whose tensors have one of these roles in some group."""
    layers = set[str]()
    for group in groups:
        for role in roles:
            layers.update(group.layers(role))
    return layers
