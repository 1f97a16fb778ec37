"""Find out which groups the network's own code lets one cut: sizes written as numbers it does not say."""

from __future__ import annotations

import copy
from contextlib import suppress

import torch
from torch import Tensor, nn

from ..errors import LissomError
from ..trees import tensors_in
from .cast import CastLayer
from .choose import lowest
from .groups import Group, Groups, groups_of
from .slim import Cut, apart, masked, sliced

SMALL = 64  # pixels: channels are coupled alike in small images, where the network takes them


def cuttable(model: nn.Module, example: Tensor) -> Groups:
    """Return the groups of `model` that a trial shows can be cut; the others are left whole, with the reason.

    The trial cuts a few units on a copy with random scales, so that a branch which is multiplied by 0 counts too,
    and compares with the same units zeroed. A forward that names a number of channels or rolls them does not pass;
    one that halves them gets a second trial, in which both halves lose the same. `example` (n ...) gives the shape
    of the input. Raises LissomError for a network of which `cast` has stored weights in 16 bits.
    """
    if any(isinstance(layer, CastLayer) for layer in model.modules()):
        raise LissomError("prune: the weights are stored in 16 bits already, of which no channel is cut; prune before cast")
    trial = _Trial(model, example)
    groups = groups_of(trial.model, trial.images)
    free = trial.passing(groups.free)
    failed = {layer for group in groups.free if group not in free for layer in group.layers("out")}
    if failed & groups.split:
        groups = groups_of(trial.model, trial.images, tied=failed)
        sure = [group for group in groups.free if not failed & set(group.layers("out"))]
        free = trial.passing([*sure, *trial.passing([group for group in groups.free if group not in sure])])
    if trial.trains and not trial.passes(free, training=True):  # a head that only training runs, say
        groups = groups_of(trial.model, trial.images, tied=failed & groups.split, training=True)
        free = trial.passing(trial.passing(groups.free), training=True)
    for group in groups.free:
        if group not in free:
            groups.left.update(dict.fromkeys(group.layers("out"), "the network's code does not follow a cut"))
    return Groups(free, groups.left, groups.split)


class _Trial:
    def __init__(self, model: nn.Module, example: Tensor) -> None:
        draw = torch.Generator().manual_seed(0)
        self.model = copy.deepcopy(model).float().cpu().eval()
        for name, p in self.model.named_parameters():
            if not p.isfinite().all():
                raise LissomError(f"prune: {name} holds numbers that are not finite")
        with torch.no_grad():
            for p in self.model.parameters():
                if p.numel() < 65_536 or p.min() == p.max():  # scales, biases, and what is all zero
                    p.add_(0.3 * p.std(correction=0).clamp_min(0.1) * torch.randn(p.shape, generator=draw))
        shape = example.shape[1:]
        small = (shape[0], *(min(n, SMALL) for n in shape[1:])) if len(shape) == 3 else tuple(shape)
        self.images = torch.randn(2, *shape, generator=draw)
        if not example.is_floating_point():  # numbers that say which, and must be in range
            self.images = example[:1].cpu().expand(2, *shape).clone()
        elif small != tuple(shape):
            with suppress(Exception), torch.no_grad():  # whatever the user's forward raises on a small image
                self.model(smaller := torch.randn(2, *small, generator=draw))
                self.images = smaller
        self.trains = self._runs_in_training(self.model)

    def passing(self, groups: list[Group], training: bool = False) -> list[Group]:
        """Return the groups that pass together: all of them, or those of either half that do."""
        if not groups or self.passes(groups, training):
            return groups
        if len(groups) == 1:
            return []
        half = len(groups) // 2
        one, two = self.passing(groups[:half], training), self.passing(groups[half:], training)
        if not one or not two or self.passes([*one, *two], training):
            return [*one, *two]
        for group in two:  # each half by itself, but not both
            if self.passes([*one, group], training):
                one = [*one, group]
        return one

    def passes(self, groups: list[Group], training: bool = False) -> bool:
        """Cut a few units at either end of each group: pieces that are meant to be equal come apart.

        Every other group loses more, the others in the second turn; by chance as many pieces may still lose the same,
        so that the third turn draws how many. With `training` the cut network must run as in training as well.
        """
        drawn = torch.randint(1, 8, (len(groups),), generator=torch.Generator().manual_seed(0)).tolist()
        for turn in range(3):
            trial = copy.deepcopy(self.model)
            try:
                counts = drawn if turn == 2 else [3 if (k + turn) % 2 else int(g.size > 2 * g.step(1))  # 0 where 3 are 1
                                                  for k, g in enumerate(groups)]
                cut: Cut = [(g, few(g, count, last=turn == 1)) for g, count in zip(groups, counts, strict=True)]
                masked(trial, cut)
                wanted = self._outputs(trial)
                sliced(trial, cut)
                if not apart(wanted, self._outputs(trial)) < 1e-3:
                    return False
            except Exception:  # whatever the user's forward raises on a width it did not expect
                return False
            if training:
                return self._runs_in_training(trial)
        return True

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return [t.clone() for t in tensors_in(model.eval()(self.images[:1]))]

    def _runs_in_training(self, model: nn.Module) -> bool:
        stats = {name: b.clone() for name, b in model.named_buffers()}
        try:
            with torch.no_grad():
                model.train()(self.images)
        except Exception:  # as above
            return False
        finally:
            model.eval()
            with torch.no_grad():
                for name, b in model.named_buffers():
                    b.copy_(stats[name])
        return True


def few(group: Group, count: int, last: bool = False) -> Tensor:
    """Mark `count` units at one end of a group, or in each block as many as in the others."""
    step = group.step(1)
    position = torch.arange(group.size, dtype=torch.float32)
    return lowest(-position if last else position, min(count * step, (group.size - 1) // step * step), group.blocks)
