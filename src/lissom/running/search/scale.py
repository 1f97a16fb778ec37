"""What a search's model predicts of a value: a loss in which differences that matter are large."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .goal import Goal, loss

FAR_SHORTFALL = 0.3  # relative shortfall of a metric beyond which differences do not matter
SHORTFALL_MARGIN = 0.03  # relative shortfall of a metric below which differences matter most


class Scale:
    """The losses of the values that a goal weighs, by the values of the uncompressed network."""

    def __init__(self, goal: Goal, reference: Mapping[str, float]) -> None:
        self.goal = goal
        self.reference = reference

    def is_metric(self, name: str) -> bool:
        """Return whether a value is a metric; all others are costs."""
        return (name, 1) in self.goal.aims or any(
            bound.name == name and bound.metric for bound in self.goal.bounds
        )

    def more_is_better(self, name: str) -> bool:
        """Return whether larger values are better; for costs and errors, smaller ones are."""
        return (name, 1) in self.goal.aims or any(
            bound.name == name and bound.least for bound in self.goal.bounds
        )

    def loss(self, name: str, value: float) -> float:
        """Return the loss that a Gaussian process models. If smaller values are better, it is the
        logarithm. Otherwise it is the logarithm of SHORTFALL_MARGIN plus the relative shortfall from the
        uncompressed network, which stretches small shortfalls; those beyond `far` are clipped.
        """
        if not self.more_is_better(name):
            return loss(value, -1)
        missing = min(self.missing(name, value), self.far(name))
        if missing < 0:  # better than the uncompressed network: continue linearly
            return float(np.log(SHORTFALL_MARGIN) + missing / SHORTFALL_MARGIN)
        return float(np.log(missing + SHORTFALL_MARGIN))

    def value(self, name: str, lost: float) -> float:
        """Return the value that has this loss, the inverse of `loss`."""
        if not self.more_is_better(name):
            return float(np.exp(lost))
        over = lost - np.log(SHORTFALL_MARGIN)
        missing = over * SHORTFALL_MARGIN if over < 0 else np.exp(lost) - SHORTFALL_MARGIN
        reference = self.reference.get(name, 1.0)
        return float(reference - missing * max(abs(reference), 1e-9))

    def missing(self, name: str, value: float) -> float:
        """Return the relative shortfall of a metric from the uncompressed network's."""
        reference = self.reference.get(name, 1.0)
        return (reference - value) / max(abs(reference), 1e-9)

    def far(self, name: str) -> float:
        """Return the relative shortfall of a metric beyond which differences do not matter: at
        least twice what its bounds allow.
        """
        bounds = [self.missing(name, b.number) for b in self.goal.bounds if b.name == name]
        return max(FAR_SHORTFALL, *(2 * missing for missing in bounds), 0.0)
