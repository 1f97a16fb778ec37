"""The goal of a search in numbers, to compare outcomes with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import LissomError, unknown
from ...language.amounts import amount_text
from ...language.want import COSTS, OF_FILES, Want
from .outcome import Outcome


@dataclass(frozen=True)
class Bound:
    """A bound on a named value of an outcome: at least `number` if `least`, else at most.

    A metric is known only of trained networks; a cost is known of probes as well.
    """

    name: str
    least: bool
    number: float
    metric: bool

    def excess(self, value: float) -> float:
        """Return by how much a value violates the bound; at most 0 if it does not."""
        return self.number - value if self.least else value - self.number

    def wanted(self) -> str:
        """Return the bound as text, without the name."""
        return f"at {'least' if self.least else 'most'} {amount_text(self.name, self.number)}"

    def said(self) -> str:
        """Return the bound as text with five digits."""
        return f"{self.name} {'>=' if self.least else '<='} {self.number:.5g}"

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.least else '<='} {self.number!r}"

    @classmethod
    def of(cls, text: str) -> Bound:
        """Return the bound that `str` wrote.

        >>> Bound.of("top1 >= 0.9")
        Bound(name='top1', least=True, number=0.9, metric=True)
        """
        name, sign, number = text.rsplit(maxsplit=2)  # the settings of a runtime may have spaces
        return cls(name, sign == ">=", float(number), name.partition("@")[0] not in COSTS)


@dataclass(frozen=True)
class Goal:
    """The goal of a search: bounds, and aims, values to maximise (sign 1) or minimise (-1).

    Several aims mean the Pareto front of the outcomes.
    """

    aims: tuple[tuple[str, int], ...]
    bounds: tuple[Bound, ...]

    @classmethod
    def of(
        cls,
        want: Want,
        metrics: Sequence[str],
        targets: Sequence[str],
        reference: Mapping[str, float],
    ) -> Goal:
        """Return the goal for a task with these metrics and runtimes. `reference` has the values of
        the uncompressed network. Raises LissomError for values that are not measured.
        """
        bounds = list[Bound]()
        for limit in want.limits:
            names = measured_names(limit.quantity, limit.at, metrics, targets)
            if unknown_here := [name for name in names if name not in reference]:
                raise no_number(unknown_here[0])
            bounds += [
                Bound(name, limit.least, limit.of(reference[name]), name in metrics)
                for name in names
            ]
        for bound in bounds:
            if bound.least and bound.metric and bound.number > 1 >= reference[bound.name]:
                raise LissomError(
                    f"--want: {bound.said()}: no network reaches more than 1; the uncompressed one has "
                    f"{reference[bound.name]:.4g} on the validation data"
                )
        first = metrics[0]
        sizes = measured_names("bytes", want.at, metrics, targets) if targets else ["params"]
        times = measured_names("ms", want.at, metrics, targets) if targets else ["macs"]
        aims = {
            "fastest": [(times[0], -1)],
            "smallest": [(sizes[0], -1)],
            "accurate": [(first, 1)],
            "front": [(first, 1), (times[0], -1), (sizes[0], -1)],
        }[want.objective]
        for name in (first, *(name for name, _ in aims)):
            if name not in reference:
                raise no_number(name)
        return cls(tuple(aims), tuple(bounds))

    def names(self) -> list[str]:
        """Return the names of the values that aims and bounds need."""
        return list(dict.fromkeys([*(n for n, _ in self.aims), *(b.name for b in self.bounds)]))

    def meets(self, outcome: Outcome) -> bool:
        """Return whether an outcome meets all bounds."""
        return not self.misses(outcome)

    def misses(self, outcome: Outcome) -> list[str]:
        """Return as text which bounds an outcome violates; for a probe, only bounds on costs."""
        return [
            f"{bound.name} {amount_text(bound.name, outcome.values[bound.name])}, wanted {bound.wanted()}"
            for bound in self.bounds
            if bound.excess(outcome.values[bound.name]) > 0 and not (outcome.probe and bound.metric)
        ]

    def losses(self, outcome: Outcome) -> list[float]:
        """Return the loss of each aim: the negative metric, or the logarithm of the cost."""
        return [loss(outcome.values[name], sign) for name, sign in self.aims]

    def best(self, outcomes: Sequence[Outcome]) -> Outcome | None:
        """Return the best trained outcome that meets all bounds, of equal ones the cheapest; None
        if there is none, or for a front.
        """
        fitting = [each for each in outcomes if each.finished and self.meets(each)]
        if len(self.aims) > 1 or not fitting:
            return None
        return min(fitting, key=lambda each: (self.losses(each), burden(each)))

    def front(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the Pareto front of the trained outcomes that meet all bounds."""
        fitting = [each for each in outcomes if each.finished and self.meets(each)]
        losses = [self.losses(each) for each in fitting]

        def is_beaten(own: Sequence[float]) -> bool:
            return any(beats(other, own) for other in losses)

        return [each for each, own in zip(fitting, losses, strict=True) if not is_beaten(own)]


def no_number(name: str) -> LissomError:
    """Build the error for a value that the uncompressed network does not have."""
    return LissomError(f"--want: {name} has no number here, of any network")


def burden(outcome: Outcome) -> float:
    """Return the total cost of an outcome: the sum of the logarithms of all its costs."""
    return sum(
        loss(value, -1) for name, value in outcome.values.items() if name.partition("@")[0] in COSTS
    )


def loss(value: float, sign: int) -> float:
    """Return a value as a loss to minimise: negated if sign is 1, else its logarithm."""
    return -value if sign > 0 else math.log(max(value, 1e-12))


def beats(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether `losses` dominates `others`: nowhere larger, and smaller at least once.

    >>> beats([1, 2], [1, 3]), beats([1, 2], [1, 2])
    (True, False)
    """
    pairs = list(zip(losses, others, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def measured_names(
    quantity: str, at: str | None, metrics: Sequence[str], targets: Sequence[str]
) -> list[str]:
    """Return the names of a quantity in outcomes: one for each runtime if it is measured of files.

    Raises LissomError if the quantity or the runtime is unknown.
    """
    if quantity in metrics:
        return [quantity]
    if quantity not in COSTS:
        raise unknown("--want", "metric or cost", quantity, [*metrics, *COSTS])
    if quantity not in OF_FILES:
        return [quantity]
    if not targets:
        raise LissomError(f"--want: {quantity} is that of a file; --to names its runtime")
    if at is None:
        return [f"{quantity}@{target}" for target in targets]
    own = [target for target in targets if target == at or target.partition("(")[0] == at]
    if not own:
        raise unknown("--want", "runtime of --to", at, targets)
    return [f"{quantity}@{target}" for target in own]
