"""Estimate how much of a grid of recipes is left, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from .plan import Node

SURGERY_EPOCHS = 0.2  # weight of a step that does not learn, in epochs


class Eta:
    """The steps that have yet to run, by key, weighted by their epochs."""

    def __init__(self, nodes: Iterable[Node], clock: Callable[[], float] = time.monotonic) -> None:
        self.left = {
            node.key: float(getattr(node.step, "epochs", SURGERY_EPOCHS))
            for node in nodes
            if node.step
        }
        self.total = len(self.left)
        self.begun_keys = set[str]()
        self.done = 0.0
        self.clock = clock
        self.begun = clock()

    def status(self, key: str) -> str:
        """Return the position of a beginning step in the grid, and the time left if any step has
        finished; '' for a grid of one step.
        """
        if self.total < 2 or key not in self.left:
            return ""
        self.begun_keys.add(key)
        said = f"  [{len(self.begun_keys)} of {self.total}"
        if self.done:
            seconds = (self.clock() - self.begun) / self.done * sum(self.left.values())
            said += f", about {spoken(seconds)} left"
        return said + "]"

    def finish(self, key: str) -> None:
        """Count a step that has run."""
        self.done += self.left.pop(key, 0.0)

    def skip(self, key: str) -> None:
        """Leave out a step whose network is in the store."""
        if self.left.pop(key, None) is not None:
            self.begun_keys.add(key)


def spoken(seconds: float) -> str:
    """Return a duration as text with a readable unit.

    >>> spoken(40), spoken(400), spoken(9000)
    ('40 s', '7 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
