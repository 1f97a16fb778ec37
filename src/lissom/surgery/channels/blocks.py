"""Blocks of channels that must stay equally many, such as the parts of a split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .group import Group
from .labels import Labels


def assign_blocks_or_tie_channels(
    labels: Labels, groups: Sequence[Group], root: np.ndarray
) -> bool:
    """Tell each group in which blocks it must keep equally many units (`Group.blocks`).

    Where blocks are not those of a single group, the channels at the same position of every block
    are declared equal instead. Return whether any were: the groups must then be collected again.
    """
    if not labels.blocks:
        return False
    place_of = _places(labels, groups, root)
    tied_any = False
    for channels, count in labels.blocks:
        roots = root[channels.numpy()].reshape(count, -1)
        if all((np.sort(row) == np.sort(roots[0])).all() for row in roots):
            continue  # the blocks hold the same units
        places = [place_of.get(int(r), (-1, -1)) for r in roots.flat]
        owners = {group for group, _ in places}
        if owners == {-1}:
            continue  # none of these channels can be cut
        units = np.array([unit for _, unit in places]).reshape(roots.shape)
        block = _block_of(units) if len(owners) == 1 else None
        if block is None:
            labels.equal(channels.view(count, -1)[:1], channels.view(count, -1))
            tied_any = True
            continue
        group = groups[owners.pop()]
        if not any(torch.equal(block, known) for known in group.blocks):
            group.blocks.append(block)
    return tied_any


def _places(
    labels: Labels, groups: Sequence[Group], root: np.ndarray
) -> dict[int, tuple[int, int]]:
    """Return the index of the group and the unit of each channel that a layer makes."""
    use_of = {(use.tensor, use.axis): use for use in reversed(labels.uses)}
    places: dict[int, tuple[int, int]] = {}
    for k, group in enumerate(groups):
        for member in group.members:
            if member.role != "out":
                continue
            channels = root[use_of[member.tensor, member.axis].labels.numpy().ravel()]
            for channel, unit in zip(
                channels.tolist(), member.unit.flatten().tolist(), strict=True
            ):
                if unit >= 0:
                    places[channel] = k, unit
    return places


def _block_of(units: np.ndarray) -> Tensor | None:
    """Return the block of each unit, given the units of each block (blocks n).

    None unless each unit lies in one block only and all blocks hold equally many, at least two.
    """
    unique = [np.unique(row, return_counts=True) for row in units]
    units_of_block = [members for members, _ in unique]
    size = len(units_of_block[0])
    all_units = np.concatenate(units_of_block)
    same_size = all(len(members) == size for members in units_of_block)
    # how many channels of a block belong to a unit
    same_counts = len(np.unique(np.concatenate([counts for _, counts in unique]))) == 1
    disjoint = len(np.unique(all_units)) == len(all_units)
    if not (same_size and same_counts and disjoint) or size < 2:
        return None
    block = torch.empty(len(all_units), dtype=torch.long)
    block[torch.from_numpy(all_units)] = torch.arange(len(units)).repeat_interleave(size)
    return block
