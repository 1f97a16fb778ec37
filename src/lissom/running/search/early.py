"""Stop trainings early that can no longer be of use to a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log

import numpy as np

from ...learning.rung import Rung
from .goal import Goal
from .outcome import Outcome, Point
from .propose import Proposer
from .scale import SHORTFALL_MARGIN

LEAST_KNOWN = 4  # fewer trainings do not tell how far metrics come


class EarlyStopping:
    """Judge each training of a search after a third of its epochs, by the validation metric.

    What matters is the relative shortfall of the metric from the uncompressed network's, plus
    SHORTFALL_MARGIN. A training is stopped if it would be of no use even if the rest of its epochs
    left as little of the shortfall as they left of any earlier one, and a standard deviation less.
    It is of use if it can meet the limits on the metric, and can beat the best metric among the
    recipes that cost no more.
    """

    def __init__(self, goal: Goal, proposer: Proposer, metric: str) -> None:
        self.goal = goal
        self.proposer = proposer
        self.metric = metric

    def shortfall(self, value: float) -> float:
        """Return the relative shortfall of the metric, at least 0, plus SHORTFALL_MARGIN."""
        return max(self.proposer.scale.missing(self.metric, value), 0.0) + SHORTFALL_MARGIN

    def log_remaining_shortfall(self, outcomes: Sequence[Outcome]) -> list[float]:
        """Return the logarithm of the share of the shortfall that each training left, from a third
        of its epochs to the end of its recipe.
        """
        return [
            log(self.shortfall(each.values[self.metric]) / self.shortfall(each.midway))
            for each in outcomes
            if each.finished and each.midway is not None
        ]

    def rung(self, point: Point, outcomes: Sequence[Outcome]) -> Rung:
        """Return what the training of a point must have reached after a third of its epochs."""
        logs = self.log_remaining_shortfall(outcomes)
        if len(logs) < LEAST_KNOWN:
            return Rung()
        needed = self.needed(self.proposer.predicted_outcome(point, outcomes), outcomes)
        if needed is None:
            return Rung()
        least_left = exp(min(logs) - float(np.std(logs)))
        return Rung(self.metric_at(self.shortfall(needed) / least_left))

    def metric_at(self, shortfall: float) -> float:
        """Return the metric with a shortfall."""
        reference = self.proposer.reference[self.metric]
        return reference - (shortfall - SHORTFALL_MARGIN) * abs(reference)

    def needed(self, expected: Outcome, outcomes: Sequence[Outcome]) -> float | None:
        """Return the least metric that is of use at the costs of `expected`; None if any is."""
        goal = self.goal
        least = [each.number for each in goal.bounds if each.least and each.name == self.metric]
        if (self.metric, 1) in goal.aims:
            costs = [name for name, sign in goal.aims if sign < 0]
            least += [
                each.values[self.metric]
                for each in outcomes
                if each.finished
                and goal.meets(each)
                and all(each.values[name] <= expected.values[name] for name in costs)
            ]
        return max(least, default=None)

    def with_predictions(self, stopped: Outcome, outcomes: Sequence[Outcome]) -> Outcome:
        """Return the outcome of a stopped training with the values that are expected of it: from its
        metric so far, and costs like those of other recipes.
        """
        predicted = self.proposer.predicted_outcome(stopped.point, outcomes)
        assert stopped.midway is not None
        left = exp(float(np.mean(self.log_remaining_shortfall(outcomes))))
        metric = self.metric_at(self.shortfall(stopped.midway) * left)
        return replace(stopped, values=predicted.values | {self.metric: metric})
