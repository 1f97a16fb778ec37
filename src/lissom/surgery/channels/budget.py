"""The cost of a network at given widths, in parameters or multiply-adds, and the widths that meet a
budget.

Each group has a list of allowed widths. The steps from one width to the next are sorted and taken
in order until the cost is nearest to the budget. The cost is computed from shapes, without cutting
anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from torch import Tensor, nn

from ..count import layer_macs, weight_macs
from ..trace import traced
from .choose import lowest
from .group import Group
from .slice import Cut

Cost = Callable[[Sequence[int]], float]  # units kept of each group -> cost of the network


@dataclass(frozen=True)
class WidthStep:
    """A step that narrows group `group` to `width` units. Steps of the lowest `score` come first."""

    score: float
    group: int
    width: int


class Shapes:
    """The shapes of a network's parameters as a function of the units kept of each group."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self.full = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.sizes = [group.size for group in groups]
        # tensor -> axis, group, indices of one unit
        self.lost: dict[str, list[tuple[int, int, float]]] = {}
        for k, group in enumerate(groups):
            for member in group.members:
                blocks = len(member.unit) if member.unit.ndim == 2 else 1
                each = int((member.unit >= 0).sum()) / group.size / blocks
                self.lost.setdefault(member.tensor, []).append((member.axis, k, each))

    def shape(self, name: str, widths: Sequence[int]) -> tuple[float, ...]:
        """Return the shape of a parameter."""
        shape = [float(n) for n in self.full[name]]
        for axis, k, each in self.lost.get(name, ()):
            shape[axis] -= each * (self.sizes[k] - widths[k])
        return tuple(shape)

    def share(self, name: str, widths: Sequence[int]) -> float:
        """Return the fraction of a parameter's elements that remains, in 0..1."""
        return math.prod(self.shape(name, widths)) / max(1, math.prod(self.full[name]))


def cost_of(of: str, model: nn.Module, groups: Sequence[Group], example: Tensor) -> Cost:
    """Return a function from the units kept of each group to the cost: channels, params or macs."""
    if of == "channels":
        return lambda widths: float(sum(widths))
    shapes = Shapes(model, groups)
    if of == "params":
        weights = {name: float(p.numel()) for name, p in model.named_parameters()}
    else:
        weights = {
            name: float(n)
            for name, n in weight_macs(traced(model, example)).items()
            if name in shapes.full
        }
        # matrix products of activations, which no parameter takes part in
        weights[""] = layer_macs(model, example)[""] - sum(weights.values())
    fixed = sum(cost for name, cost in weights.items() if name not in shapes.lost)
    cut = [(name, cost) for name, cost in weights.items() if name in shapes.lost]
    return lambda widths: fixed + sum(cost * shapes.share(name, widths) for name, cost in cut)


def widths_of(group: Group, multiple: int, floor: float) -> list[int]:
    """Return the numbers of units that a group may keep, in descending order from all of them.

    Each is a multiple of the group's step, so that every layer keeps a multiple of `multiple`
    channels. The smallest is at least one step and at least the fraction `floor` of the units. A
    group that is no wider than one step may only keep all its units.

    >>> widths_of(Group("", 20), 8, 0.1), widths_of(Group("", 6), 8, 0.1)
    ([20, 16, 8], [6])
    """
    step = group.step(multiple)
    least = max(step, -(-math.ceil(floor * group.size - 1e-9) // step) * step)
    return [group.size, *range((group.size - 1) // step * step, least - 1, -step)]


def width_steps_of(
    scores: Sequence[Tensor],
    widths: Sequence[list[int]],
    groups: Sequence[Group],
    scope: str,
    cost: Cost | None = None,
) -> list[WidthStep]:
    """Return the steps of all groups in the order in which they are taken, least important first.

    With scope="global", steps are ranked by the mean score of the units they remove or, if `cost`
    is set, by the sum of these scores over the cost saved. With "local", they are ranked by the
    share that the group has lost by then, so all groups shrink alike. With "isomorphic", they are
    ranked among the groups of the same kind.
    """
    steps = []
    for k, allowed in enumerate(widths):
        least = float("-inf")
        ranks = scores[k] if scope == "local" else scores[k].sort(descending=True).values
        for before, after in pairwise(allowed):
            if scope == "local":
                score = 1 - (before + after) / 2 / allowed[0]
            else:
                score = float(ranks[after:before].mean())
                if cost is not None:
                    whole = [w[0] for w in widths]
                    score *= (before - after) / _saved(cost, whole, k, before, after)
            least = max(least, score)  # keeps the steps of a group in order
            steps.append(WidthStep(least, k, after))
    steps.sort(key=lambda c: (c.score, c.group, -c.width))
    if scope == "isomorphic":
        steps = _by_kind(steps, widths, groups)
    return steps


def _saved(cost: Cost, start: list[int], k: int, before: int, after: int) -> float:
    """Return the cost saved by narrowing group `k` from one width to another, other groups whole."""
    high, low = (cost([*start[:k], width, *start[k + 1 :]]) for width in (before, after))
    return max(high - low, 1e-12)


def _by_kind(
    steps: list[WidthStep], widths: Sequence[list[int]], groups: Sequence[Group]
) -> list[WidthStep]:
    """Replace the score of a step by the share of all units of its kind that are removed by then."""
    kinds = [kind_of(group) for group in groups]
    total = {
        kind: sum(w[0] for w, other in zip(widths, kinds, strict=True) if other == kind)
        for kind in kinds
    }
    lost = dict.fromkeys(kinds, 0)
    now = [w[0] for w in widths]
    ranked = []
    for step in steps:
        kind = kinds[step.group]
        size = now[step.group] - step.width
        ranked.append(WidthStep((lost[kind] + size / 2) / total[kind], step.group, step.width))
        lost[kind] += size
        now[step.group] = step.width
    return sorted(ranked, key=lambda c: (c.score, c.group, -c.width))


def kind_of(group: Group) -> tuple[tuple[str, int, int, int], ...]:
    """Return the kind of a group: the role, axis, rank and indices per unit of each of its tensors."""
    marks = [(m.role, m.axis, m.unit.ndim, len(m.unit) // group.size) for m in group.members]
    return tuple(sorted(marks))


@dataclass
class WidthSearch:
    """The widths that a network can be pruned to. `steps` are taken in order until `cost` fits."""

    groups: list[Group]
    scores: list[Tensor]
    widths: list[list[int]]
    steps: list[WidthStep]
    cost: Cost
    uses_16_bits: bool = False  # this and the next two are those of `NetworkGroups`
    makes_decisions: bool = True
    depends_on_size: bool = True

    @property
    def full(self) -> list[int]:
        """Return the widths of the uncut network."""
        return [group.size for group in self.groups]

    @property
    def max_removed(self) -> float:
        """Return the largest fraction of the cost that can be removed."""
        return self.removed([allowed[-1] for allowed in self.widths])

    @property
    def min_removed(self) -> float:
        """Return the smallest fraction of the cost that a cut removes, 0 if nothing can be cut."""
        full = self.full
        return min(
            (
                self.removed([*full[:k], allowed[1], *full[k + 1 :]])
                for k, allowed in enumerate(self.widths)
                if len(allowed) > 1
            ),
            default=0.0,
        )

    def removed(self, widths: Sequence[int]) -> float:
        """Return the fraction of the cost that is removed at these widths."""
        return 1 - self.cost(widths) / self.cost(self.full)

    def widths_for(self, amount: float) -> list[int]:
        """Return the widths at which the fraction of the cost removed is nearest to `amount`.

        Steps are taken in order. If the last one is too coarse, groups that rank near it are
        narrowed or widened by one allowed width as long as this brings the fraction nearer.
        """
        low = 0
        high = len(self.steps)
        while high - low > 1:  # the fraction removed grows with every step
            middle = (low + high) // 2
            low, high = (
                (middle, high) if self.removed(self._after(middle)) <= amount else (low, middle)
            )
        widths = min(
            (self._after(low), self._after(high)),
            key=lambda widths: abs(self.removed(widths) - amount),
        )
        near = {step.group for step in self.steps[max(0, low - 8) : low + 8]}
        for _ in range(8):
            best = min(
                chain.from_iterable(self._beside(widths, k) for k in near),
                default=widths,
                key=lambda other: abs(self.removed(other) - amount),
            )
            if abs(self.removed(best) - amount) >= abs(self.removed(widths) - amount):
                break
            widths = best
        return widths

    def _beside(self, widths: Sequence[int], k: int) -> list[list[int]]:
        """Return the widths with group `k` one allowed width wider or narrower."""
        place = self.widths[k].index(widths[k])
        return [
            [*widths[:k], self.widths[k][p], *widths[k + 1 :]]
            for p in (place - 1, place + 1)
            if 0 <= p < len(self.widths[k])
        ]

    def uniform_widths(self, amount: float) -> list[int]:
        """Return for each group the allowed width nearest to the fraction 1 - amount of its units.

        If two widths are equally near, the larger one is taken.
        """
        return [
            min(allowed, key=lambda w: (abs(w - (1 - amount) * allowed[0]), -w))
            for allowed in self.widths
        ]

    def resolution(self, widths: Sequence[int]) -> float:
        """Return the largest change of the fraction removed when one group moves by one width."""
        here = self.removed(widths)
        neighbours = chain.from_iterable(self._beside(widths, k) for k in range(len(widths)))
        return max((abs(self.removed(other) - here) for other in neighbours), default=0.0)

    def cut(self, widths: Sequence[int]) -> Cut:
        """Return the units to remove to reach these widths: those of the lowest scores."""
        return [
            (group, lowest(score, group.size - width, group.blocks))
            for group, score, width in zip(self.groups, self.scores, widths, strict=True)
        ]

    def _after(self, count: int) -> list[int]:
        widths = self.full
        for step in self.steps[:count]:
            widths[step.group] = step.width
        return widths
