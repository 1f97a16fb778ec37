"""Judge a learning step after a third of its epochs, and stop it if it learns too little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import LissomError

PARTS_OF_EPOCHS = 3  # a step is judged after one of so many parts of its epochs
MIDWAY = "midway"  # name of the validation metric in the row of that epoch


class Stopped(LissomError):
    """Say that a learning step was stopped because its validation metric, `midway`, was too low."""

    def __init__(self, text: str, midway: float) -> None:
        super().__init__(text)
        self.midway = midway


@dataclass(frozen=True)
class Rung:
    """The metric that a learning step must have reached after a third of its epochs.

    If `least` is None, the metric is measured but nothing is stopped.
    Source: Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter
    Optimization (successive halving)
    """

    least: float | None = None

    def height(self) -> float:
        """Return the metric below which a step is stopped; minus infinity if none is."""
        return -math.inf if self.least is None else self.least

    def is_at(self, epoch: int, epochs: int) -> bool:
        """Return whether a step of `epochs` epochs is judged after this one.

        >>> [epoch for epoch in range(9) if Rung().is_at(epoch, 8)]
        [2]
        >>> any(Rung().is_at(epoch, 2) for epoch in range(3))
        False
        """
        return 0 < epoch == epochs // PARTS_OF_EPOCHS

    def fails(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Return whether the metric in the last of these rows is too low."""
        midway = rows[-1].get(MIDWAY) if rows else None
        return midway is not None and midway < self.height()


def midway_in(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the metric after a third of the epochs from the rows of a step; None if not measured."""
    return next((row[MIDWAY] for row in rows if row.get(MIDWAY) is not None), None)
