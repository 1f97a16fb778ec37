"""What is counted over the outputs of a whole split, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..trees import Tree

# outputs and targets of a whole split -> a number; of the first of several, more is better
Metric = Callable[[Any, Any], float]


class Tally(ABC):
    """Take outputs batch by batch, and say in the end what they come to.

    Nothing says that outputs are kept for it: those of a segmenter fill the memory.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of what is counted; the first one judges."""

    @abstractmethod
    def add(self, outputs: Tree, targets: Tree) -> None:
        """Count a batch: outputs (n ...) beside targets (n ...), or beside other outputs."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """Return what all batches come to, by name."""


class Collected(Tally):
    """Keep all outputs, or what `answer` takes of them, for metrics of a whole split at once."""

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
    """Count the share of some things that are right; `count` says of a batch (right, all)."""

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


class Itself(Tally):
    """Count the first metric of another tally and call it fidelity: targets are the answers of a
    network, not the truth.
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
