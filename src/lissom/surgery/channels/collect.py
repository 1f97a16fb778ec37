"""Collect channels into groups: those that a layer makes and that exactly the same tensors use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .group import Group, Member
from .labels import Use

Key = tuple[bytes, tuple[int, ...]]  # the bytes and the shape of an array


def collect(
    uses: Sequence[Use], widths: Sequence[Use], root: np.ndarray, stays: np.ndarray
) -> list[Group]:
    """Return the groups of all channels that can be cut.

    A channel is given by the representative of its label: `root` maps each label to it. `stays`
    marks the representatives that must not be cut.
    """
    arrays: dict[Key, np.ndarray] = {}  # many uses have the same channels
    keys: list[Key] = []
    for use in [*uses, *widths]:
        channels = root[use.labels.numpy()]
        keys.append((channels.tobytes(), channels.shape))
        arrays[keys[-1]] = channels
    group_of, unit_of, sizes = _assign(uses, keys, arrays, stays)
    groups = [Group("", size) for size in sizes]
    shared: dict[Key, Tensor] = {}
    parts = {
        key: _parts(group_of[channels], unit_of[channels], shared)
        for key, channels in arrays.items()
    }
    for use, key in zip([*uses, *widths], keys, strict=True):
        for k, unit in parts[key]:
            member = Member(use.tensor, use.axis, use.role, unit)
            (groups[k].widths if use.role == "width" else groups[k].members).append(member)
    _name(groups)
    return groups


def _assign(
    uses: Sequence[Use], keys: Sequence[Key], arrays: dict[Key, np.ndarray], stays: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return the group of each channel (-1 for none), its unit in the group, and the groups' sizes.

    Channels that occur in the same uses form a group. Groups come in the order in which their
    layers run.

    Each use gets a random number. A channel's signature is the sum of the numbers of its uses, so
    equal signatures mean equal sets of uses, up to a chance of about 2^-63.
    """
    signature = np.zeros(len(stays), np.uint64)
    made_by_layer = np.zeros(len(stays), bool)
    distinct = {key: _distinct(channels) for key, channels in arrays.items()}
    numbers = np.random.default_rng(0).integers(1, 2**63, len(uses), dtype=np.uint64)
    # the keys of widths come last, and are left out
    for use, key, number in zip(uses, keys[: len(uses)], numbers, strict=True):
        signature[distinct[key]] += number
        if use.role == "out":
            made_by_layer[distinct[key]] = True
    units = np.flatnonzero(made_by_layer & ~stays)
    _, first_channel, place = np.unique(signature[units], return_index=True, return_inverse=True)
    rank_by_first_channel = np.argsort(np.argsort(first_channel))
    group_of = np.full(len(stays), -1)
    group_of[units] = rank_by_first_channel[place]
    unit_of = np.full(len(stays), -1)
    sizes = []
    for k in range(len(first_channel)):
        mine = units[group_of[units] == k]
        unit_of[mine] = np.arange(len(mine))
        sizes.append(len(mine))
    return group_of, unit_of, sizes


def _distinct(values: np.ndarray) -> np.ndarray:
    """Return np.unique(values), faster if the values already ascend or are all equal."""
    flat = values.ravel()
    if (flat[1:] > flat[:-1]).all():
        return flat
    return flat[:1] if (flat == flat[0]).all() else np.unique(flat)


def _parts(
    owners: np.ndarray, units: np.ndarray, shared: dict[Key, Tensor]
) -> list[tuple[int, Tensor]]:
    """Return each group found in `owners`, with its unit at each index (-1 if another group's).

    Equal unit tensors are shared.
    """
    parts = []
    for k in _distinct(owners).tolist():
        if k >= 0:
            unit = np.where(owners == k, units, -1)
            key = unit.tobytes(), unit.shape
            parts.append((k, shared.setdefault(key, torch.from_numpy(unit))))
    return parts


def _name(groups: list[Group]) -> None:
    """Name each group after its first layer. A layer may make several groups: they are numbered."""
    names: Counter[str] = Counter()
    for group in groups:
        maker = group.layers("out")[0]
        names[maker] += 1
        group.name = maker if names[maker] == 1 else f"{maker} ({names[maker]})"
