"""Find out which groups the network's own code lets one cut: sizes written as numbers it does not say."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .groups import Group, Groups, groups_of
from .slim import Cut, difference, masked, sliced


def cuttable(model: nn.Module, example: Tensor) -> Groups:
    """Return the groups of `model` that a trial shows can be cut; the others are left whole, with the reason.

    The trial cuts a few units on a copy with random weights, so that a branch which is multiplied by 0 counts too,
    and compares with the same units zeroed. A forward that names a number of channels, halves them or rolls them
    does not pass. `example` (n ...) gives the shape of the input.
    """
    groups = groups_of(model, example)
    trial = _Trial(model, example)
    free = groups.free
    if not trial.passes(free):
        free = []
        for group in groups.free:
            if trial.passes([group]) and trial.passes([*free, group]):
                free.append(group)
            else:
                groups.left.update(dict.fromkeys(group.layers("out"), "the network's code does not follow a cut"))
    return Groups(free, groups.left)


class _Trial:
    def __init__(self, model: nn.Module, example: Tensor) -> None:
        draw = torch.Generator().manual_seed(0)
        self.model = copy.deepcopy(model).float().cpu().eval()
        with torch.no_grad():
            for p in self.model.parameters():
                p.add_(0.3 * p.std(correction=0).clamp_min(0.1) * torch.randn(p.shape, generator=draw))
        self.images = torch.randn(2, *example.shape[1:], generator=draw)
        self.trains = self._runs_in_training(copy.deepcopy(self.model))

    def passes(self, groups: list[Group]) -> bool:
        """Cut one or three units at either end of each group: pieces that are meant to be equal come apart."""
        for last, odd in ((False, 0), (True, 1), (True, 0), (False, 1)):
            cut: Cut = []
            for k, group in enumerate(groups):
                count = 1 + 2 * ((k + odd) % 2)
                units = torch.zeros(group.size, dtype=torch.bool)
                units[slice(-count, None) if last else slice(count)] = True
                units[group.size // 2] = False
                cut.append((group, units))
            zeroed, smaller = copy.deepcopy(self.model), copy.deepcopy(self.model)
            masked(zeroed, cut)
            sliced(smaller, cut)
            try:
                if not difference(zeroed, smaller, self.images) < 1e-3:
                    return False
            except Exception:  # whatever the user's forward raises on a width it did not expect
                return False
            if self.trains and not self._runs_in_training(smaller):
                return False
        return True

    def _runs_in_training(self, model: nn.Module) -> bool:
        try:
            with torch.no_grad():
                model.train()(self.images)
        except Exception:  # as above
            return False
        return True
