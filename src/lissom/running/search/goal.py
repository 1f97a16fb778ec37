"""What is wanted, held against what recipes come to."""

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
    """A value of an outcome, by name, and the number that it must not pass.

    That of a `metric` is known of trained networks only, a cost of probes, too.
    """

    name: str
    least: bool
    number: float
    metric: bool

    def excess(self, value: float) -> float:
        """Return how far a value is on the wrong side; at most 0 where it is on the right one."""
        return self.number - value if self.least else value - self.number

    def wanted(self) -> str:
        """Return the bound in words, without the name."""
        return f"at {'least' if self.least else 'most'} {amount_text(self.name, self.number)}"

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.least else '<='} {self.number:.5g}"


@dataclass(frozen=True)
class Goal:
    """What is wanted in numbers: bounds, and what is to be small or, where the sign is 1, large.

    Several aims stand for the front of all that no other outcome beats in each of them.
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
        """Return the goal for a task with these metrics and runtimes; `reference` has the values of
        the uncompressed network. Raises LissomError for what nobody measures.
        """
        bounds = list[Bound]()
        for limit in want.limits:
            names = measured_names(limit.quantity, limit.at, metrics, targets)
            if unknown_here := [name for name in names if name not in reference]:
                raise LissomError(f"--want: {unknown_here[0]} has no number here, of any network")
            bounds += [
                Bound(name, limit.least, limit.of(reference[name]), name in metrics)
                for name in names
            ]
        for bound in bounds:
            if bound.least and bound.metric and bound.number > 1 >= reference[bound.name]:
                raise LissomError(
                    f"--want: {bound}: no network reaches more than 1; the uncompressed one has "
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
        return cls(tuple(aims), tuple(bounds))

    def meets(self, outcome: Outcome) -> bool:
        """Return whether an outcome keeps all bounds."""
        return not self.misses(outcome)

    def misses(self, outcome: Outcome) -> list[str]:
        """Return which bounds an outcome does not keep, in words; of a probe, those of costs."""
        return [
            f"{bound.name} {amount_text(bound.name, outcome.values[bound.name])}, wanted {bound.wanted()}"
            for bound in self.bounds
            if bound.excess(outcome.values[bound.name]) > 0 and not (outcome.probe and bound.metric)
        ]

    def losses(self, outcome: Outcome) -> list[float]:
        """Return what is to be small, for each aim: minus the metric, or the logarithm of a cost."""
        return [loss(outcome.values[name], sign) for name, sign in self.aims]

    def best(self, outcomes: Sequence[Outcome]) -> Outcome | None:
        """Return the best of those that keep all bounds, the cheapest of equals; None where none does, or
        for a front.
        """
        fitting = [each for each in outcomes if not each.probe and self.meets(each)]
        if len(self.aims) > 1 or not fitting:
            return None
        return min(fitting, key=lambda each: (self.losses(each), burden(each)))

    def front(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return those that keep all bounds and that none of the others beats in every aim."""
        fitting = [each for each in outcomes if not each.probe and self.meets(each)]
        losses = [self.losses(each) for each in fitting]

        def is_beaten(own: Sequence[float]) -> bool:
            return any(beats(other, own) for other in losses)

        return [each for each, own in zip(fitting, losses, strict=True) if not is_beaten(own)]


def burden(outcome: Outcome) -> float:
    """Return what is small where all costs are: the sum of their logarithms."""
    return sum(
        loss(value, -1) for name, value in outcome.values.items() if name.partition("@")[0] in COSTS
    )


def loss(value: float, sign: int) -> float:
    """Return what is to be small of a value: minus what is to be large, or the logarithm of a cost."""
    return -value if sign > 0 else math.log(max(value, 1e-12))


def beats(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether the first are at most as large as the others everywhere, and smaller once.

    >>> beats([1, 2], [1, 3]), beats([1, 2], [1, 2])
    (True, False)
    """
    pairs = list(zip(losses, others, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def measured_names(
    quantity: str, at: str | None, metrics: Sequence[str], targets: Sequence[str]
) -> list[str]:
    """Return the names under which outcomes have a quantity; of files, one for each runtime."""
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
