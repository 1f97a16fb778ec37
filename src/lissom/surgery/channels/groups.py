"""Groups of coupled channels. Each group loses whole units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from .follow import labels_of
from .labels import Labels, Use


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
        """Return the sum of |w| ** power over the tensors of these roles, per unit, in float32."""
        total = None
        for member in self.members:
            if member.role in roles and "running_" not in member.tensor:
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
        free = _collected(labels.uses, labels.widths, root, stays)
        if not _blocked(labels, free, root):
            break
    for use in labels.uses:
        if use.role == "out" and stays[roots := root[use.labels.numpy()]].any():
            left.setdefault(use.tensor.rpartition(".")[0], frozen[int(roots[stays[roots]].min())])
    whole = [group for group in free if group.step(1) >= group.size]
    for group in whole:
        left.update(
            {
                layer: "its channels all hang together"
                for layer in group.layers("out")
                if layer not in left
            }
        )
    return Groups(
        [group for group in free if group not in whole],
        left,
        labels.split,
        decides=labels.trace.decides(),
        sized=any(trace.sized for trace in labels.traces),
    )


def _distinct(values: np.ndarray) -> np.ndarray:
    """Return np.unique(values), faster if the values already ascend or are all equal."""
    flat = values.ravel()
    if (flat[1:] > flat[:-1]).all():
        return flat
    return flat[:1] if (flat == flat[0]).all() else np.unique(flat)


def _collected(
    uses: list[Use], widths: list[Use], root: np.ndarray, stays: np.ndarray
) -> list[Group]:
    """Group the representatives by the set of uses that they occur in."""
    mark = np.zeros(len(root), np.uint64)
    has_maker = np.zeros_like(mark, bool)
    rows: dict[tuple[bytes, tuple[int, ...]], np.ndarray] = {}  # many uses have the same channels
    keys = []
    for use in [*uses, *widths]:
        roots = root[use.labels.numpy()]
        keys.append((roots.tobytes(), roots.shape))
        rows[keys[-1]] = roots
    distinct = {key: _distinct(roots) for key, roots in rows.items()}
    drawn = np.random.default_rng(0).integers(1, 2**63, len(uses), dtype=np.uint64)
    for use, key, number in zip(uses, keys, drawn, strict=False):
        mark[distinct[key]] += number  # equal sums mean equal sets of uses
        if use.role == "out":
            has_maker[distinct[key]] = True
    units = np.flatnonzero(has_maker & ~stays)
    _, first, place = np.unique(mark[units], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # groups in the order in which their layers run
    group_of = np.full(len(root), -1)
    unit_of = group_of.copy()
    group_of[units] = order[place]
    groups: list[Group] = []
    for k in range(len(first)):
        mine = units[group_of[units] == k]
        unit_of[mine] = np.arange(len(mine))
        groups.append(Group("", len(mine)))
    shared: dict[tuple[bytes, tuple[int, ...]], Tensor] = {}
    parts = {key: _parts(group_of[roots], unit_of[roots], shared) for key, roots in rows.items()}
    for use, key in zip([*uses, *widths], keys, strict=True):
        for k, unit in parts[key]:
            member = Member(use.tensor, use.axis, use.role, unit)
            (groups[k].widths if use.role == "width" else groups[k].members).append(member)
    _name(groups)
    return groups


def _parts(
    owners: np.ndarray, units: np.ndarray, shared: dict[tuple[bytes, tuple[int, ...]], Tensor]
) -> list[tuple[int, Tensor]]:
    """Return each group found in `owners`, with its unit at each index (-1 if another group's).

    Equal unit tensors are shared.
    """
    parts = []
    for k in _distinct(owners).tolist():
        if k >= 0:
            unit = np.where(owners == k, units, -1)
            parts.append(
                (k, shared.setdefault((unit.tobytes(), unit.shape), torch.from_numpy(unit)))
            )
    return parts


def _name(groups: list[Group]) -> None:
    """Name each group after its first layer. A layer may make several groups: they are numbered."""
    names: Counter[str] = Counter()
    for group in groups:
        maker = group.layers("out")[0]
        names[maker] += 1
        group.name = maker if names[maker] == 1 else f"{maker} ({names[maker]})"


def _blocked(labels: Labels, free: list[Group], root: np.ndarray) -> bool:
    """Set the blocks in which each group must keep equal counts.

    If the blocks are not those of a single group, tie the channels at the same position of every
    block. Return whether any were tied: the groups must then be collected again.
    """
    place: dict[int, tuple[int, int]] = {}
    for k, group in enumerate(free if labels.blocks else ()):
        for member in group.members:
            if member.role == "out":
                use = next(
                    u for u in labels.uses if (u.tensor, u.axis) == (member.tensor, member.axis)
                )
                for label, unit in zip(
                    root[use.labels.numpy().ravel()], member.unit.flatten().tolist(), strict=True
                ):
                    if unit >= 0:
                        place[int(label)] = (k, unit)
    tied = False
    for channels, blocks in labels.blocks:
        roots = root[channels.numpy()].reshape(blocks, -1)
        if all((np.sort(row) == np.sort(roots[0])).all() for row in roots):
            continue  # the blocks hold the same units
        places = [place.get(int(r), (-1, -1)) for r in roots.flat]
        owners = {p[0] for p in places}
        units = np.array([p[1] for p in places]).reshape(roots.shape)
        where = _block_of(units) if len(owners) == 1 and -1 not in owners else None
        if where is not None:
            group = free[owners.pop()]
            if not any(torch.equal(where, known) for known in group.blocks):
                group.blocks.append(where)
            continue
        if owners == {-1}:
            continue  # none of these channels can be cut
        labels.equal(channels.view(blocks, -1)[:1], channels.view(blocks, -1))
        tied = True
    return tied


def _block_of(units: np.ndarray) -> Tensor | None:
    """Return the block of each unit, given the units of each block (blocks n).

    None unless each unit lies in one block only and all blocks hold equally many, at least two.
    """
    each = [np.unique(row, return_counts=True) for row in units]
    alike = {(len(members), tuple(np.unique(counts))) for members, counts in each}
    every = np.concatenate([members for members, _ in each])
    if (
        len(alike) != 1
        or len(next(iter(alike))[1]) != 1
        or len(np.unique(every)) != len(every)
        or len(each[0][0]) < 2
    ):
        return None
    block = torch.empty(len(every), dtype=torch.long)
    block[torch.from_numpy(every)] = torch.arange(len(units)).repeat_interleave(len(each[0][0]))
    return block
