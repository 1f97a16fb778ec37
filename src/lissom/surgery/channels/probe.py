"""Find out which groups the network's own code lets one cut: sizes written as numbers it does not say.

Labels say what is coupled, but a forward that names a number of channels, halves or rolls them runs
on labels all the same. So before the first cut a trial cuts all groups at once and compares with
the same units zeroed. It costs one pass of the whole network with everything zeroed that will go,
and two of what is left after two cuts: half of the units of each group, then some more at the other
end. Only where that fails are halves of the groups tried. Groups that fail are left whole, with the
reason in the record.

The trial runs on the user's network itself (on a copy, if that is not float32 on the CPU), whose
tensors are exchanged and put back. Its scales and biases are made random, because a branch that is
multiplied by 0, as residual branches often begin, would pass any check. What a layer still reads is
scaled up for what it lost, and what differs by more than rounding in float32 is compared again in
float64: so a mistake that many layers have made small is seen.
"""

from __future__ import annotations

import copy
import traceback

import torch
from torch import Tensor, nn

from ...errors import LissomError, place_of
from ...trees import Tree, called, first, in_float, mapped
from ..compare import answers, gap
from ..modes import in_mode
from ..small import smaller
from ..tensors import Held
from .choose import lowest
from .groups import Group, Groups, groups_of, layers_in
from .slice import slice_channels, zero_channels_alike

OTHER = (torch.float16, torch.bfloat16, torch.float64)
# numbers: of a larger tensor, chance has made what a trial needs, unless all of it is one number
FEW = 65_536

# Differences of outputs over their size: in float32 rounding makes less than the first, a mistake
# more than the second, unless many layers have made it small, as those of an untrained network do;
# in float64 rounding makes less than the third.
SURE = 1e-5
WRONG = 1e-3
EXACT = 1e-10

UNFOLLOWED = "the network's code does not follow a cut"


def cuttable(model: nn.Module, example: Tree) -> Groups:
    """Return the groups of `model` that a trial shows can be cut; the others are left whole, with the reason.

    A forward that names a number of channels or rolls them does not pass the trial; one that halves
    them gets a second trial, in which both halves lose the same. `example` (n ...) gives the shape
    of the input.
    """
    trial = CutTrial(model, example)
    try:
        return _tried(trial)
    finally:
        trial.end()


def _tried(trial: CutTrial) -> Groups:
    groups = trial.groups()
    free = trial.passing(groups.free)
    failed = layers_in((group for group in groups.free if group not in free), "out")
    if failed & groups.split:
        groups = groups_of(trial.model, trial.images, tied=failed)
        sure = [group for group in groups.free if not failed & set(group.layers("out"))]
        free = trial.passing(
            [*sure, *trial.passing([group for group in groups.free if group not in sure])]
        )
    # a head that only training runs, say
    if trial.trained != free and not trial.trains(free) and trial.trains([]):
        groups = groups_of(trial.model, trial.images, tied=failed & groups.split, training=True)
        free = trial.passing(trial.passing(groups.free), training=True)
    for group in groups.free:
        if group not in free:
            place = trial.places.get(group.name)
            groups.left.update(
                dict.fromkeys(
                    group.layers("out"), f"{UNFOLLOWED} ({place})" if place else UNFOLLOWED
                )
            )
    sized = groups.sized or trial.smaller is None  # or it takes no small image
    return Groups(free, groups.left, groups.split, trial.rounds, groups.decides, sized)


class CutTrial:
    """A network that gets random scales, is cut and put together again; `end` brings back what it was.

    One that is not float32 on the CPU is copied.
    """

    def __init__(self, model: nn.Module, example: Tree) -> None:
        draw = torch.Generator().manual_seed(0)
        held = dict(model.named_parameters())
        # sooner looked at than all numbers
        sums = torch.tensor([float(p.detach().sum()) for p in held.values()])
        for name in [
            name for name, total in zip(held, sums.isfinite().tolist(), strict=True) if not total
        ]:
            if not held[name].isfinite().all():
                raise LissomError(f"prune: {name} holds numbers that are not finite")
        tensors = [*held.values(), *model.buffers()]
        plain = all(
            t.device.type == "cpu" and t.dtype not in OTHER and not t.is_inference()
            for t in tensors
        )
        self.model = model if plain else copy.deepcopy(model).float().cpu()
        self.before = Held(self.model)
        noise = Noise(draw)
        for p in self.model.parameters():
            p.data = _lively(p.data, noise)  # large ones share their numbers with the network
        for b in self.model.buffers():
            b.data = b.data.clone()
        self.held = self.before.with_numbers()
        self.decides = True
        self.rounds = False  # whether float32 showed a difference that float64 does not
        self.runs = False  # whether the network ran in training when it was cut last
        self.place = ""  # where the user's code raised when a cut network ran last
        # the same for each group that does not pass by itself, by its name
        self.places = dict[str, str]()
        # the groups that were cut when the network last ran in training
        self.trained: list[Group] | None = None
        self.draw = draw
        self.example = example
        self.smaller = smaller(example)
        self.images = self.shown(example if self.smaller is None else self.smaller)

    def end(self) -> None:
        """Bring the network back to what it was."""
        self.before.restore()

    def groups(self) -> Groups:
        """Return the groups as a forward pass on a small image shows them, where the network takes one."""
        try:
            grouped = groups_of(self.model, self.images)
        except Exception:  # whatever the user's forward raises on a small image
            if self.smaller is None:
                raise
            self.smaller = None
            self.images = self.shown(self.example)
            grouped = groups_of(self.model, self.images)
        self.decides = grouped.decides
        return grouped

    def shown(self, example: Tree) -> Tree:
        """Return two samples like an example."""
        return mapped(lambda t: _two_of(t, self.draw), example)

    def passing(self, groups: list[Group], training: bool = False) -> list[Group]:
        """Return the groups that pass together: all of them, or those of either half that do."""
        if not groups or self.passes(groups, training):
            return groups
        if len(groups) == 1:
            self.places[groups[0].name] = self.place
            return []
        half = len(groups) // 2
        left = self.passing(groups[:half], training)
        right = self.passing(groups[half:], training)
        if not left or not right or self.passes([*left, *right], training):
            return [*left, *right]
        for group in right:  # each half by itself, but not both
            if self.passes([*left, group], training):
                left = [*left, group]
        return left

    def passes(self, groups: list[Group], training: bool = False) -> bool:
        """Cut the groups to two widths, each of which must do what the network does with all that
        goes zeroed.

        With `training` the narrowest must run as in training as well. A group of few units is cut
        at either end by a trial of its own.
        """
        few = any((group.size - 1) // group.step(1) < 4 for group in groups)
        return (
            (not few or self._passes(groups, last=True))
            and self._passes(groups)
            and (not training or self.trained == groups)
        )

    def _passes(self, groups: list[Group], last: bool = False) -> bool:
        """Compare in float32, and what is more than its rounding in float64, where the forward can
        do with it.
        """
        stages = widths(groups, last)
        difference = self._apart(stages, self.images)
        if SURE < difference < float("inf"):
            self.model.double()
            exact = self._apart(stages, in_float(self.images, torch.float64))
            self.rounds |= exact < EXACT and difference >= WRONG
            difference = difference if exact == float("inf") else exact * WRONG / EXACT
        if difference < WRONG and self.runs:
            self.trained = groups
        return difference < WRONG

    def _apart(self, stages: list[tuple[Group, list[Tensor]]], images: Tree) -> float:
        """Return the largest difference from the network with all zeroed that goes, infinity if it
        does not run.
        """
        largest = 0.0
        self.runs = False
        self.place = ""
        try:
            zero_channels_alike(
                self.model, [(group, units[0] | units[1]) for group, units in stages]
            )
            shown = first(images, 1)
            wanted = answers(self.model, shown, decides=self.decides)
            zeroed = self.held.with_numbers()
            for stage in range(2):
                if stage:
                    zeroed.restore()
                slice_channels(
                    self.model, [(group, units[stage]) for group, units in stages], trial=True
                )
                difference = gap(wanted, self.model, shown)
                if not difference < float("inf"):
                    return float("inf")
                largest = max(largest, difference)
            self.runs = self._runs_in_training(images)
            return largest
        except Exception as error:
            # whatever the user's forward raises on a width it did not expect
            self.place = place_of(traceback.extract_tb(error.__traceback__))
            return float("inf")
        finally:
            self.held.restore()

    def trains(self, groups: list[Group]) -> bool:
        """Return whether the network with `groups` cut runs as in training."""
        slice_channels(
            self.model, [(group, units[1]) for group, units in widths(groups)], trial=True
        )
        try:
            return self._runs_in_training(self.images)
        finally:
            self.held.restore()

    def _runs_in_training(self, images: Tree) -> bool:
        buffers = [(b, b.data) for b in self.model.buffers()]
        for b, numbers in buffers:
            b.data = numbers.clone()  # for statistics to move in
        try:
            with torch.no_grad():
                called(in_mode(self.model, training=True), images)
        except Exception:  # as above
            return False
        finally:
            in_mode(self.model)
            for b, numbers in buffers:
                b.data = numbers
        return True


def _two_of(example: Tensor, draw: torch.Generator) -> Tensor:
    """Return two samples of the same shape, of random numbers; those that say which must be in
    range and stay.
    """
    if example.is_floating_point():
        return torch.randn(2, *example.shape[1:], generator=draw)
    return example[:1].cpu().expand(2, *example.shape[1:]).clone()


class Noise:
    """Numbers between -1 and 1 at random. For small tensors they are drawn once: each goes on where
    the last one ended, and no two begin at the same place before long.
    """

    def __init__(self, draw: torch.Generator) -> None:
        self.draw = draw
        self.drawn = torch.empty(2 * FEW).uniform_(-1, 1, generator=draw)
        self.place = 0

    def like(self, tensor: Tensor) -> Tensor:
        """Return noise of the shape of a tensor."""
        count = tensor.numel()
        if count >= FEW:
            return torch.empty(tensor.shape).uniform_(-1, 1, generator=self.draw)
        self.place = (self.place + count) % (FEW - 15)  # a prime
        return self.drawn[self.place : self.place + count].view(tensor.shape)


def _lively(p: Tensor, noise: Noise) -> Tensor:
    """Return scales, biases and what is all one number with something added, others as they are."""
    if p.numel() < FEW or (p.flatten()[0] == p.flatten()[-1] and p.min() == p.max()):
        size = float(p.norm()) / max(1, p.numel()) ** 0.5  # the root of the mean square
        return p.add(noise.like(p), alpha=0.5 * max(size, 0.1))
    return p


def widths(groups: list[Group], last: bool = False) -> list[tuple[Group, list[Tensor]]]:
    """Return for each group what goes at two widths: half of its units, then some at its other end as well.

    Pieces that are meant to be equal come apart: how many go is drawn for each group, and every
    other one loses two more at the second width. The first to go are the first units, or with
    `last` the last.
    """
    draw = torch.Generator().manual_seed(int(last))
    drawn = torch.randint(0, 7, (len(groups), 2), generator=draw).tolist()
    stages = []
    for k, group in enumerate(groups):
        step = group.step(1)
        odd = (k + last) % 2
        most = (group.size - 1) // step
        first = odd if most == 1 else max(1, (most + 1) // 2 - drawn[k][0])
        then = first + drawn[k][1] + (3 if odd else int(most > 3))
        place = torch.arange(group.size, dtype=torch.float32) * (-1 if last else 1)
        half = lowest(place, first * step, group.blocks)
        gone = (-place).masked_fill_(half, -2.0 * group.size)  # what went goes again
        stages.append((group, [half, lowest(gone, min(then, most) * step, group.blocks)]))
    return stages
