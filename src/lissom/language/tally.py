"""Metrics over the outputs of a whole split, computed batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..trees import Tree

# outputs and targets of a whole split -> a number; for the first of several, larger is better
Metric = Callable[[Any, Any], float]


class Tally(ABC):
    """Accumulate outputs batch by batch, and return metrics at the end.

    Outputs need not be stored: those of a segmenter would fill the memory.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the metrics; the first is the main one."""

    @abstractmethod
    def add(self, outputs: Tree, targets: Tree) -> None:
        """Add a batch: outputs (n ...) with targets (n ...), or with other outputs."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """Return the metrics of all batches, by name."""


class Collected(Tally):
    """Store all outputs, or the part that `answer` returns, for metrics of a whole split."""

    def __init__(
        self, metrics: Mapping[str, Metric], answer: Callable[[Tree], Tree] | None = None
    ) -> None:
        self.metrics = metrics
        self.answer = answer
        self.outputs: list[Tree] = []
        self.targets: list[Tree] = []

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.metrics)

    def add(self, outputs: Tree, targets: Tree) -> None:
        self.outputs.append(outputs if self.answer is None else self.answer(outputs))
        self.targets.append(targets)

    def values(self) -> dict[str, float]:
        from ..trees import concatenated

        outputs = concatenated(self.outputs)
        targets = concatenated(self.targets)
        return {name: float(metric(outputs, targets)) for name, metric in self.metrics.items()}


class Share(Tally):
    """Compute the share of items that are right; `count` returns (right, all) of a batch."""

    def __init__(self, name: str, count: Callable[[Tree, Tree], tuple[int, int]]) -> None:
        self.name = name
        self.count = count
        self.right = 0
        self.all = 0

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def add(self, outputs: Tree, targets: Tree) -> None:
        right, count = self.count(outputs, targets)
        self.right += right
        self.all += count

    def values(self) -> dict[str, float]:
        return {self.name: self.right / self.all if self.all else 1.0}


class Agreement(Share):
    """Count the share of equal answers in two sets of outputs; `answers` reads them from outputs."""

    def __init__(self, answers: Callable[[Tree], Any]) -> None:
        super().__init__("agreement", self.equal)
        self.answers = answers

    def equal(self, outputs: Tree, reference: Tree) -> tuple[int, int]:
        """Return the number of equal answers of a batch, and the number of all answers."""
        same = self.answers(outputs) == self.answers(reference)
        return int(same.sum()), same.numel()


class Itself(Tally):
    """Compute the first metric of another tally and call it fidelity, since the targets are the
    answers of a network instead of the ground truth.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    @property
    def names(self) -> tuple[str, ...]:
        return ("fidelity",)

    def add(self, outputs: Tree, targets: Tree) -> None:
        self.tally.add(outputs, targets)

    def values(self) -> dict[str, float]:
        return {"fidelity": self.tally.values()[self.tally.names[0]]}
