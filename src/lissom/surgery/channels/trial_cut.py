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
from ...trees import Tree, first, in_float, mapped, run_on_copied_inputs
from ..compare import difference_from, record_outputs
from ..modes import in_mode
from ..small import smaller
from ..tensors import NetworkSnapshot
from .choose import lowest
from .group import Group, layers_in
from .network_groups import NetworkGroups, groups_of
from .slice import slice_channels, zero_channels_alike

# a network with tensors of these types is copied for the trial
COPIED_DTYPES = (torch.float16, torch.bfloat16, torch.float64)
# elements: larger tensors are random enough for a trial already, unless they are constant
LARGE_TENSOR = 65_536

# Relative differences of outputs. Rounding stays below the first two. A mistake exceeds the third,
# unless many layers attenuate it, as in an untrained network.
FLOAT32_ROUNDING = 1e-5
FLOAT64_ROUNDING = 1e-10
MISTAKE = 1e-3

UNFOLLOWED = "the network's code does not follow a cut"


def cuttable(model: nn.Module, example: Tree) -> NetworkGroups:
    """Return the groups of `model` that pass a trial cut. The others are left whole.

    A forward that hard-codes a number of channels or rolls them fails the trial. One that halves
    them gets a second trial, in which both halves lose the same channels. `example` (n ...) gives
    the shape of the input.
    """
    trial = CutTrial(model, example)
    try:
        return _groups_in_trial(trial)
    finally:
        trial.end()


def _groups_in_trial(trial: CutTrial) -> NetworkGroups:
    groups = trial.groups()
    passing = trial.groups_that_pass(groups.cuttable_groups)
    failed = layers_in((group for group in groups.cuttable_groups if group not in passing), "out")
    if failed & groups.split_layers:
        groups = groups_of(trial.model, trial.images, tied=failed)
        unaffected = [
            group for group in groups.cuttable_groups if not failed & set(group.layers("out"))
        ]
        tied = [group for group in groups.cuttable_groups if group not in unaffected]
        passing = trial.groups_that_pass([*unaffected, *trial.groups_that_pass(tied)])
    # the cut may break code that only runs in training, such as an auxiliary head
    if (
        trial.trained != passing
        and not trial.trains_when_cut(passing)
        and trial.trains_when_cut([])
    ):
        groups = groups_of(
            trial.model, trial.images, tied=failed & groups.split_layers, training=True
        )
        passing = trial.groups_that_pass(groups.cuttable_groups)
        passing = trial.groups_that_pass(passing, training=True)
    for group in groups.cuttable_groups:
        if group not in passing:
            line = trial.raised_at_by_group.get(group.name)
            reason = f"{UNFOLLOWED} ({line})" if line else UNFOLLOWED
            groups.left_whole.update(dict.fromkeys(group.layers("out"), reason))
    return NetworkGroups(
        passing,
        groups.left_whole,
        groups.split_layers,
        trial.uses_16_bits,
        groups.makes_decisions,
        # None: it does not run on small images
        groups.depends_on_size or trial.smaller is None,
    )


class CutTrial:
    """A network with random scales that is cut and restored repeatedly. `end` undoes everything.

    A network that is not float32 on the CPU is copied. Raises LissomError if a parameter is not
    finite.
    """

    def __init__(self, model: nn.Module, example: Tree) -> None:
        draw = torch.Generator().manual_seed(0)
        parameters = dict(model.named_parameters())
        # sums find the candidates faster than a look at every element
        sums = torch.tensor([float(p.detach().sum()) for p in parameters.values()])
        for name, finite in zip(parameters, sums.isfinite().tolist(), strict=True):
            if not finite and not parameters[name].isfinite().all():
                raise LissomError(f"prune: {name}: expected finite weights, got NaN or infinity")
        tensors = [*parameters.values(), *model.buffers()]
        plain = all(
            t.device.type == "cpu" and t.dtype not in COPIED_DTYPES and not t.is_inference()
            for t in tensors
        )
        self.model = model if plain else copy.deepcopy(model).float().cpu()
        self.original = NetworkSnapshot(self.model)
        noise = Noise(draw)
        for p in self.model.parameters():
            p.data = with_noise(p.data, noise)  # large ones still share memory with the network
        for b in self.model.buffers():
            b.data = b.data.clone()
        self.uncut = self.original.with_current_data()
        self.makes_decisions = True
        self.uses_16_bits = False  # whether a difference in float32 vanished in float64
        self.ran_in_training = False  # whether it ran in training mode after the last cut
        self.raised_at = ""  # the line where the user's code raised after the last cut
        # the same for each group that fails by itself, by its name
        self.raised_at_by_group = dict[str, str]()
        # the groups that were cut when the network last ran in training mode
        self.trained: list[Group] | None = None
        self.draw = draw
        self.example = example
        self.smaller = smaller(example)
        self.images = self.random_samples(example if self.smaller is None else self.smaller)

    def end(self) -> None:
        """Restore the network."""
        self.original.restore()

    def groups(self) -> NetworkGroups:
        """Return the groups traced on a small image, or on `example` if the small one fails."""
        try:
            groups = groups_of(self.model, self.images)
        except Exception:  # whatever the user's forward raises on a small image
            if self.smaller is None:
                raise
            self.smaller = None
            self.images = self.random_samples(self.example)
            groups = groups_of(self.model, self.images)
        self.makes_decisions = groups.makes_decisions
        return groups

    def random_samples(self, example: Tree) -> Tree:
        """Return two random samples in the shape of an example."""
        return mapped(lambda t: _two_of(t, self.draw), example)

    def groups_that_pass(self, groups: list[Group], training: bool = False) -> list[Group]:
        """Return groups that pass the trial together: all, or those found by trying both halves."""
        if not groups or self.passes_both_ends(groups, training):
            return groups
        if len(groups) == 1:
            self.raised_at_by_group[groups[0].name] = self.raised_at
            return []
        half = len(groups) // 2
        left = self.groups_that_pass(groups[:half], training)
        right = self.groups_that_pass(groups[half:], training)
        if not left or not right or self.passes_both_ends([*left, *right], training):
            return [*left, *right]
        for group in right:  # the halves pass separately, but not together
            if self.passes_both_ends([*left, group], training):
                left = [*left, group]
        return left

    def passes_both_ends(self, groups: list[Group], training: bool = False) -> bool:
        """Return whether the network, cut to two widths, equals itself with the same units zeroed.

        With `training`, the narrowest must also run in training mode. If a group has few units, a
        second trial starts at the other end.
        """
        few = any((group.size - 1) // group.step(1) < 4 for group in groups)
        return (
            (not few or self._passes_once(groups, from_end=True))
            and self._passes_once(groups)
            and (not training or self.trained == groups)
        )

    def _passes_once(self, groups: list[Group], from_end: bool = False) -> bool:
        """Compare in float32. Compare a difference beyond rounding again in float64, if that runs."""
        stages = trial_stages(groups, from_end)
        difference = self._largest_difference(stages, self.images)
        if FLOAT32_ROUNDING < difference < float("inf"):
            self.model.double()
            exact = self._largest_difference(stages, in_float(self.images, torch.float64))
            self.uses_16_bits |= exact < FLOAT64_ROUNDING and difference >= MISTAKE
            difference = difference if exact == float("inf") else exact * MISTAKE / FLOAT64_ROUNDING
        if difference < MISTAKE and self.ran_in_training:
            self.trained = groups
        return difference < MISTAKE

    def _largest_difference(self, stages: list[tuple[Group, list[Tensor]]], images: Tree) -> float:
        """Return the largest difference from the network with the same units zeroed, infinity if
        the cut network does not run.
        """
        largest = 0.0
        self.ran_in_training = False
        self.raised_at = ""
        try:
            zero_channels_alike(
                self.model, [(group, units[0] | units[1]) for group, units in stages]
            )
            sample = first(images, 1)
            wanted = record_outputs(self.model, sample, record_decisions=self.makes_decisions)
            zeroed = self.uncut.with_current_data()
            for stage in range(2):
                if stage:
                    zeroed.restore()
                slice_channels(
                    self.model, [(group, units[stage]) for group, units in stages], trial=True
                )
                difference = difference_from(wanted, self.model, sample)
                if not difference < float("inf"):
                    return float("inf")
                largest = max(largest, difference)
            self.ran_in_training = self._runs_in_training(images)
            return largest
        except Exception as error:
            # whatever the user's forward raises on a width it did not expect
            self.raised_at = place_of(traceback.extract_tb(error.__traceback__))
            return float("inf")
        finally:
            self.uncut.restore()

    def trains_when_cut(self, groups: list[Group]) -> bool:
        """Return whether the network with `groups` cut runs in training mode."""
        slice_channels(
            self.model, [(group, units[1]) for group, units in trial_stages(groups)], trial=True
        )
        try:
            return self._runs_in_training(self.images)
        finally:
            self.uncut.restore()

    def _runs_in_training(self, images: Tree) -> bool:
        buffers = [(b, b.data) for b in self.model.buffers()]
        for b, numbers in buffers:
            b.data = numbers.clone()  # so that running statistics change in the clone only
        try:
            with torch.no_grad():
                run_on_copied_inputs(in_mode(self.model, training=True), images)
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
        self.drawn = torch.empty(2 * LARGE_TENSOR).uniform_(-1, 1, generator=draw)
        self.position = 0

    def like(self, tensor: Tensor) -> Tensor:
        """Return noise of the shape of a tensor."""
        count = tensor.numel()
        if count >= LARGE_TENSOR:
            return torch.empty(tensor.shape).uniform_(-1, 1, generator=self.draw)
        self.position = (self.position + count) % (LARGE_TENSOR - 15)  # a prime
        return self.drawn[self.position : self.position + count].view(tensor.shape)


def with_noise(p: Tensor, noise: Noise) -> Tensor:
    """Return a small or constant tensor with noise added, other tensors unchanged."""
    if p.numel() < LARGE_TENSOR or (p.flatten()[0] == p.flatten()[-1] and p.min() == p.max()):
        size = float(p.norm()) / max(1, p.numel()) ** 0.5  # the root of the mean square
        return p.add(noise.like(p), alpha=0.5 * max(size, 0.1))
    return p


def trial_stages(groups: list[Group], from_end: bool = False) -> list[tuple[Group, list[Tensor]]]:
    """Return for each group the units to cut in two stages: half, then some from the other end too.

    The counts are random and every other group loses two more in the second stage, so that groups
    which the code assumes to be equally wide differ. The first stage removes the first units, or
    the last with `from_end`.
    """
    draw = torch.Generator().manual_seed(int(from_end))
    drawn = torch.randint(0, 7, (len(groups), 2), generator=draw).tolist()
    stages = []
    for k, group in enumerate(groups):
        step = group.step(1)
        loses_more = (k + from_end) % 2
        most = (group.size - 1) // step  # steps that a cut may remove
        first_count = loses_more if most == 1 else max(1, (most + 1) // 2 - drawn[k][0])
        second_count = first_count + drawn[k][1] + (3 if loses_more else int(most > 3))
        order = torch.arange(group.size, dtype=torch.float32) * (-1 if from_end else 1)
        first_units = lowest(order, first_count * step, group.blocks)
        # the second stage includes the units of the first
        second_order = (-order).masked_fill_(first_units, -2.0 * group.size)
        second_units = lowest(second_order, min(second_count, most) * step, group.blocks)
        stages.append((group, [first_units, second_units]))
    return stages
