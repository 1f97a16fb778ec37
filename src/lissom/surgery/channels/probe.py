"""Trial cuts: find the groups that can be cut without breaking the network's own code.

Labels show which channels are coupled. They do not show a forward that hard-codes a number of
channels, halves them or rolls them. So before the first cut, a trial cuts all groups at once and
compares the result with the same units zeroed. This takes one pass of the whole network with the
units zeroed, and two passes of the pruned network: with half of the units of each group removed,
then with some more from the other end. Only if that fails are halves of the groups tried. Groups
that fail are left whole, with the reason in the record.

The trial runs on the user's network itself (on a copy, if that is not float32 on the CPU). Its
tensors are replaced and then restored. Its scales and biases are made random, because a branch
multiplied by 0, as residual branches often are initially, would pass any check. The remaining
inputs of a layer are scaled up to make up for those it lost, and a difference beyond float32
rounding is measured again in float64. So mistakes that many layers have attenuated are found.
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
from .group import Group, layers_in
from .groups import Groups, groups_of
from .slice import slice_channels, zero_channels_alike

OTHER = (torch.float16, torch.bfloat16, torch.float64)
# elements: larger tensors are random enough for a trial already, unless they are constant
FEW = 65_536

# Relative differences of outputs. Rounding in float32 stays below SURE, and in float64 below EXACT.
# A mistake exceeds WRONG, unless many layers attenuate it, as in an untrained network.
SURE = 1e-5
WRONG = 1e-3
EXACT = 1e-10

UNFOLLOWED = "the network's code does not follow a cut"


def cuttable(model: nn.Module, example: Tree) -> Groups:
    """Return the groups of `model` that pass a trial cut. The others are left whole.

    A forward that hard-codes a number of channels or rolls them fails the trial. One that halves
    them gets a second trial, in which both halves lose the same channels. `example` (n ...) gives
    the shape of the input.
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
    # the cut may break code that only runs in training, such as an auxiliary head
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
    sized = groups.sized or trial.smaller is None  # None: it does not run on small images
    return Groups(free, groups.left, groups.split, trial.rounds, groups.decides, sized)


class CutTrial:
    """A network with random scales that is cut and restored repeatedly. `end` undoes everything.

    A network that is not float32 on the CPU is copied. Raises LissomError if a parameter is not
    finite.
    """

    def __init__(self, model: nn.Module, example: Tree) -> None:
        draw = torch.Generator().manual_seed(0)
        held = dict(model.named_parameters())
        # sums find the candidates faster than a look at every element
        sums = torch.tensor([float(p.detach().sum()) for p in held.values()])
        for name in [
            name for name, total in zip(held, sums.isfinite().tolist(), strict=True) if not total
        ]:
            if not held[name].isfinite().all():
                raise LissomError(f"prune: {name}: expected finite weights, got NaN or infinity")
        tensors = [*held.values(), *model.buffers()]
        plain = all(
            t.device.type == "cpu" and t.dtype not in OTHER and not t.is_inference()
            for t in tensors
        )
        self.model = model if plain else copy.deepcopy(model).float().cpu()
        self.before = Held(self.model)
        noise = Noise(draw)
        for p in self.model.parameters():
            p.data = _lively(p.data, noise)  # large ones still share memory with the network
        for b in self.model.buffers():
            b.data = b.data.clone()
        self.held = self.before.with_numbers()
        self.decides = True
        self.rounds = False  # whether a difference in float32 vanished in float64
        self.runs = False  # whether the network ran in training mode after the last cut
        self.place = ""  # where the user's code raised after the last cut
        # the same for each group that fails by itself, by its name
        self.places = dict[str, str]()
        # the groups that were cut when the network last ran in training mode
        self.trained: list[Group] | None = None
        self.draw = draw
        self.example = example
        self.smaller = smaller(example)
        self.images = self.shown(example if self.smaller is None else self.smaller)

    def end(self) -> None:
        """Restore the network."""
        self.before.restore()

    def groups(self) -> Groups:
        """Return the groups traced on a small image, or on `example` if the small one fails."""
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
        """Return two random samples in the shape of an example."""
        return mapped(lambda t: _two_of(t, self.draw), example)

    def passing(self, groups: list[Group], training: bool = False) -> list[Group]:
        """Return groups that pass the trial together: all, or those found by trying both halves."""
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
        for group in right:  # the halves pass separately, but not together
            if self.passes([*left, group], training):
                left = [*left, group]
        return left

    def passes(self, groups: list[Group], training: bool = False) -> bool:
        """Return whether the network, cut to two widths, equals itself with the same units zeroed.

        With `training`, the narrowest must also run in training mode. If a group has few units, a
        second trial starts at the other end.
        """
        few = any((group.size - 1) // group.step(1) < 4 for group in groups)
        return (
            (not few or self._passes(groups, last=True))
            and self._passes(groups)
            and (not training or self.trained == groups)
        )

    def _passes(self, groups: list[Group], last: bool = False) -> bool:
        """Compare in float32. Compare a difference beyond rounding again in float64, if that runs."""
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
        """Return the largest difference from the network with the same units zeroed, infinity if
        the cut network does not run.
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
        """Return whether the network with `groups` cut runs in training mode."""
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
            b.data = numbers.clone()  # so that running statistics change in the clone only
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
    """Return two random samples in the shape of `example`. Integers stay, as indices must be in
    range.
    """
    if example.is_floating_point():
        return torch.randn(2, *example.shape[1:], generator=draw)
    return example[:1].cpu().expand(2, *example.shape[1:]).clone()


class Noise:
    """Random numbers between -1 and 1. Small tensors take consecutive parts of one buffer, drawn
    once.

    The start wraps around at a prime, so that it rarely repeats.
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
    """Return a small or constant tensor with noise added, other tensors unchanged."""
    if p.numel() < FEW or (p.flatten()[0] == p.flatten()[-1] and p.min() == p.max()):
        size = float(p.norm()) / max(1, p.numel()) ** 0.5  # the root of the mean square
        return p.add(noise.like(p), alpha=0.5 * max(size, 0.1))
    return p


def widths(groups: list[Group], last: bool = False) -> list[tuple[Group, list[Tensor]]]:
    """Return for each group the units to cut in two stages: half, then some from the other end too.

    The counts are random and every other group loses two more in the second stage, so that groups
    which the code assumes to be equally wide differ. The first stage removes the first units, or
    the last with `last`.
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
        gone = (-place).masked_fill_(
            half, -2.0 * group.size
        )  # includes the units of the first stage
        stages.append((group, [half, lowest(gone, min(then, most) * step, group.blocks)]))
    return stages
